"""The figures of a report, each with what it shows, what it can't show, and how it is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from gmpo_mm.reports.curves import Band, Transform, choose_metric, missing_notes, variant_band
from gmpo_mm.reports.drawing import add_legend, draw_band, legend_height, panels, short_label
from gmpo_mm.reports.figure_style import HALF_PAGE, Theme, marker
from gmpo_mm.reports.ratio_figures import ratio_range, sequence_ratio
from gmpo_mm.reports.report_figure import ReportFigure
from gmpo_mm.reports.scores import ScoreTable, study_score
from gmpo_mm.reports.seed_statistics import LEVEL
from gmpo_mm.reports.study import Study

AXES_HEIGHT = 2.65
"""Inches, without the legend."""
LOG_SCALE_FROM = 30.0
"""A curve whose largest value is so many times its smallest is drawn on a logarithmic axis."""


@dataclass(frozen=True)
class _Curve:
    """One metric over steps; of several names the first that a variant has."""

    name: str
    title: str
    paper: str
    metrics: tuple[str, ...]
    axis: str
    about: str
    stand_in: str = ""
    """What the second name is."""
    reason: str = ""
    """Why a run may lack it."""
    may_be_log: bool = False


CURVES = (
    _Curve("entropy", "Token entropy", "Figures 4 (a, b) and 5 (b)", ("actor/entropy", "actor/entropy_loss"),
           "token entropy (nats)", "Mean entropy of the next-token distribution over the responses' tokens.",
           "minus the mean log-probability of the sampled tokens, which estimates it"),
    _Curve("kl_ref", "KL to the reference", "Figures 4 (c) and 5 (a)", ("actor/kl_ref", "actor/kl_loss"),
           "KL to the reference (nats)", "Per token, from the model before training; estimated on the responses' tokens.",
           "the KL term of the loss, by the estimator that its configuration names",
           "A run with algorithm.disable_kl=true keeps no reference model.", may_be_log=True),
    _Curve("grad_norm", "Gradient norm", "Figures 4 (d) and 5 (c, d)", ("actor/grad_norm",),
           "gradient norm", "L2 norm before clipping, mean over a step's updates.", may_be_log=True),
)  # fmt: skip


def report_figures(study: Study, tables: Sequence[ScoreTable]) -> list[ReportFigure]:
    """All figures in the page's order; one that no run has data for comes without a drawing, with the reason."""
    figures = [_final(tables[0])] if tables and any(row.mean for row in tables[0].rows) else []
    figures += [_validation(study), ratio_range(study), sequence_ratio(study)]
    figures += [_curve(study, curve) for curve in CURVES]
    return [*figures, *_experts(study)]


def _final(table: ScoreTable) -> ReportFigure:
    rows = [(i, row) for i, row in enumerate(table.rows) if row.mean is not None]
    scale = 100.0 if table.percent else 1.0

    def draw(canvas: Canvas, theme: Theme) -> None:
        ax = canvas.subplots()
        for y, (i, row) in enumerate(rows):
            assert row.mean is not None
            colour = theme.colour(i)
            if row.mean.low is not None and row.mean.high is not None:
                ends = [scale * row.mean.low, scale * row.mean.high]
                ax.plot(ends, [y, y], color=colour, lw=7, alpha=0.3, solid_capstyle="butt")
            seeds = [scale * value for value in row.mean.values]
            ax.plot(seeds, [y] * len(seeds), marker(i), color=colour, mfc=theme.card, ms=5, ls="none")
            if len(seeds) > 1:
                ax.plot([scale * row.mean.mean] * 2, [y - 0.28, y + 0.28], color=colour, lw=2.4)
        ax.set_yticks(range(len(rows)), [short_label(row.variant.label) for _, row in rows])
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.tick_params(axis="y", length=0)
        ax.grid(visible=False, axis="y")
        ax.set_xlabel(f"{table.title.split(',')[0]} (%)" if table.percent else table.title)

    about = f"Each marker is one seed, the bar their mean, the block its {100 * LEVEL:g} % interval (Student's t over seeds)."
    return ReportFigure("final_score", table.title, about, (), draw, (HALF_PAGE, 0.75 + 0.36 * len(rows)))


def _validation(study: Study) -> ReportFigure:
    score = study_score(study)
    title, about = "Validation score", "At each validation. In the paper: Figures 4 (e-h) and 5 (e, f)."
    if score is None:
        return ReportFigure("validation", title, about, ("No run has a validation score (val/accuracy_reward).",))
    metric, percent = score.metric, score.percent
    factor = 100.0 if percent else 1.0
    bands = _bands(study, (metric,), lambda values: factor * values)

    def draw(canvas: Canvas, theme: Theme) -> None:
        ax = canvas.subplots()
        for i, band in bands:
            draw_band(ax, band, theme, i, markers=len(band.steps) <= 40)
        if study.target_score is not None:
            ax.axhline(factor * study.target_score, color=theme.soft, lw=1, ls=(0, (2, 2)))
        ax.set_ylabel("validation Pass@1 (%)" if percent else f"validation {score.words}")
        _steps(ax)
        add_legend(canvas, [(i, study.variants[i]) for i, _ in bands], theme, markers=True)

    if study.target_score is not None:
        about += f" Dotted: the target score, {study.target_score:g}."
    return ReportFigure("validation", title, about, tuple(missing_notes(study, (metric,))), draw, _size(study))


def _curve(study: Study, curve: _Curve) -> ReportFigure:
    bands = _bands(study, curve.metrics)
    notes = missing_notes(study, curve.metrics, curve.reason)
    for variant in study.variants:
        name = choose_metric(variant, curve.metrics)
        if name is not None and name != curve.metrics[0]:
            notes.append(f"{variant.label}: {name}, {curve.stand_in}.")
    about = f"{curve.about} In the paper: {curve.paper}."
    if not bands:
        return ReportFigure(curve.name, curve.title, about, tuple(notes))

    def draw(canvas: Canvas, theme: Theme) -> None:
        ax = canvas.subplots()
        for i, band in bands:
            draw_band(ax, band, theme, i)
        if curve.may_be_log and _spans_decades([band for _, band in bands]):
            ax.set_yscale("log")
            ax.yaxis.set_major_formatter("{x:g}")
        ax.set_ylabel(curve.axis)
        _steps(ax)
        add_legend(canvas, [(i, study.variants[i]) for i, _ in bands], theme)

    return ReportFigure(curve.name, curve.title, about, tuple(notes), draw, _size(study))


def _experts(study: Study) -> list[ReportFigure]:
    """Mixture-of-experts runs: whatever they log of their experts' load, a panel each."""
    runs = [run for variant in study.variants for run in variant.runs]
    names = sorted({name for run in runs for name in run.series if name.startswith("moe/")})
    if not names:
        return []

    def draw(canvas: Canvas, theme: Theme) -> None:
        for ax, name in zip(panels(canvas, len(names), min(3, len(names)), sharey=False), names):
            for i, band in _bands(study, (name,)):
                draw_band(ax, band, theme, i)
            ax.set_title(name, loc="left")
        add_legend(canvas, list(enumerate(study.variants)), theme)

    notes = [note for name in names for note in missing_notes(study, (name,))]
    size = (HALF_PAGE * min(3, len(names)) / 1.5, 0.6 + 2.1 * -(-len(names) // 3))
    return [ReportFigure("experts", "Experts", "What the runs log of their experts' load.", tuple(notes), draw, size)]


def _bands(study: Study, names: Sequence[str], transform: Transform = np.asarray) -> list[tuple[int, Band]]:
    """(place of the variant, its band) where there is one."""
    found = []
    for i, variant in enumerate(study.variants):
        name = choose_metric(variant, names)
        band = variant_band(variant, name, transform) if name is not None else None
        if band is not None:
            found.append((i, band))
    return found


def _size(study: Study) -> tuple[float, float]:
    return HALF_PAGE, AXES_HEIGHT + legend_height(study.variants, HALF_PAGE)


def _spans_decades(bands: Sequence[Band]) -> bool:
    low, high = min(float(b.low.min()) for b in bands), max(float(b.high.max()) for b in bands)
    return low > 0 and high / low >= LOG_SCALE_FROM


def _steps(ax: Any) -> None:
    ax.set_xlabel("step")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    ax.margins(x=0.02)
