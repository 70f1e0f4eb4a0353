"""The figures of a report, each with what it shows, what it can't show, and how it is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from gmpo_mm.reports.algorithm import series_of
from gmpo_mm.reports.curves import Band, Transform, choose_metric, missing_notes, variant_band
from gmpo_mm.reports.drawing import add_legend, draw_band, legend_height, short_label
from gmpo_mm.reports.expert_figures import experts
from gmpo_mm.reports.figure_style import HALF_PAGE, Theme, marker
from gmpo_mm.reports.ratio_figures import ratio_range, sequence_ratio
from gmpo_mm.reports.report_figure import ReportFigure
from gmpo_mm.reports.scores import ScoreTable, study_score
from gmpo_mm.reports.seed_statistics import LEVEL
from gmpo_mm.reports.study import CLIP_SHARE, Study

AXES_HEIGHT = 2.65
"""Inches, without the legend."""
LOG_SCALE_FROM = 30.0
"""A curve whose largest value is so many times its smallest is drawn on a logarithmic axis."""


@dataclass(frozen=True)
class _Curve:
    """One metric over steps; of several names the first that a variant has."""

    name: str
    title: str
    metrics: tuple[str, ...]
    axis: str
    about: str
    paper: str = ""
    stand_in: str = ""
    """What a name after the first is."""
    reason: str = ""
    """Why a run may lack it."""
    may_be_log: bool = False
    percent: bool = False


CURVES = (
    _Curve("training_reward", "Training reward", ("reward/overall", "critic/score/mean", "critic/rewards/mean"),
           "mean reward of a step", "Mean over all responses of a step, at the temperature of training.",
           stand_in="the mean reward of the step, under the name that this tool gives it"),
    _Curve("response_length", "Response length", ("response_length/mean",), "tokens",
           "Mean over all responses of a step."),
    _Curve("clip_share", "Clip share", (CLIP_SHARE, "actor/pg_clipfrac_higher", "actor/pg_clipfrac"), "share clipped (%)",
           "Where the clip stops the gradient: a share of the responses' tokens, and of the responses for a loss that clips "
           "whole sequences. Both bounds together.",
           stand_in="the share of tokens at which the clipped term is the smaller one",
           reason="A loss without a clip has no such share (worker.actor.gmpo.clip=none, sapo).", percent=True),
    _Curve("entropy", "Token entropy", ("actor/entropy", "actor/entropy_loss"),
           "token entropy (nats)", "Mean entropy of the next-token distribution over the responses' tokens.",
           "Figures 4 (a, b) and 5 (b)", "minus the mean log-probability of the sampled tokens, which estimates it"),
    _Curve("kl_ref", "KL to the reference", ("actor/kl_ref", "actor/kl_loss"),
           "KL to the reference (nats)", "Per token, from the model before training; estimated on the responses' tokens.",
           "Figures 4 (c) and 5 (a)", "the KL term of the loss, by the estimator that its configuration names",
           "A run with algorithm.disable_kl=true keeps no reference model.", may_be_log=True),
    _Curve("grad_norm", "Gradient norm", ("actor/grad_norm",),
           "gradient norm", "L2 norm before clipping, mean over a step's updates.", "Figures 4 (d) and 5 (c, d)",
           may_be_log=True),
)  # fmt: skip


def report_figures(study: Study, tables: Sequence[ScoreTable]) -> list[ReportFigure]:
    """All figures in the page's order; one that no run has data for comes without a drawing, with the reason."""
    figures = [_final(study, tables[0])] if tables and any(row.mean for row in tables[0].rows) else []
    reward, length, *others = (_curve(study, curve) for curve in CURVES)
    figures += [_validation(study), reward, length, ratio_range(study), sequence_ratio(study), *others]
    return [*figures, *experts(study)]


def _final(study: Study, table: ScoreTable) -> ReportFigure:
    series = series_of(study)
    rows = [(i, row) for i, row in enumerate(table.rows) if row.mean is not None]
    scale = 100.0 if table.percent else 1.0

    def draw(canvas: Canvas, theme: Theme) -> None:
        ax = canvas.subplots()
        for y, (i, row) in enumerate(rows):
            assert row.mean is not None
            colour = theme.colour(series[i])
            if row.mean.low is not None and row.mean.high is not None:
                ends = [scale * row.mean.low, scale * row.mean.high]
                ax.plot(ends, [y, y], color=colour, lw=7, alpha=0.3, solid_capstyle="butt")
            seeds = [scale * value for value in row.mean.values]
            ax.plot(seeds, [y] * len(seeds), marker(series[i]), color=colour, mfc=theme.card, ms=5, ls="none")
            if len(seeds) > 1:
                ax.plot([scale * row.mean.mean], [y], "|", color=colour, ms=24, mew=2.4)
        ax.set_yticks(range(len(rows)), [short_label(row.variant.label) for _, row in rows])
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.tick_params(axis="y", length=0)
        ax.grid(visible=False, axis="y")
        ax.set_xlabel(f"{table.title.split(',')[0]} (%)" if table.percent else table.title)

    about = f"Each marker is one seed, the bar their mean, the block its {100 * LEVEL:g} % interval (Student's t over seeds)."
    return ReportFigure("final_score", table.title, about, (), draw, (HALF_PAGE, max(AXES_HEIGHT, 0.75 + 0.36 * len(rows))))


def _validation(study: Study) -> ReportFigure:
    score = study_score(study)
    title, about = "Validation score", "At each validation. In the paper: Figures 4 (e-h) and 5 (e, f)."
    if score is None:
        return ReportFigure("validation", title, about, ("No run has a validation score (val/accuracy_reward).",))
    metric, percent = score.metric, score.percent
    factor = 100.0 if percent else 1.0
    bands, series = _bands(study, (metric,), lambda values: factor * values), series_of(study)

    def draw(canvas: Canvas, theme: Theme) -> None:
        ax = canvas.subplots()
        for i, band in bands:
            draw_band(ax, band, theme, series[i], markers=len(band.steps) <= 40)
        if study.target_score is not None:
            ax.axhline(factor * study.target_score, color=theme.soft, lw=1, ls=(0, (2, 2)))
        ax.set_ylabel("validation Pass@1 (%)" if percent else f"validation {score.words}")
        _steps(ax)
        add_legend(canvas, [(series[i], study.variants[i]) for i, _ in bands], theme, markers=True)

    if study.target_score is not None:
        about += f" Dotted: the target score, {study.target_score:g}."
    return ReportFigure("validation", title, about, tuple(missing_notes(study, (metric,))), draw, *_size(study))


def _curve(study: Study, curve: _Curve) -> ReportFigure:
    factor = 100.0 if curve.percent else 1.0
    bands, series = _bands(study, curve.metrics, lambda values: factor * values), series_of(study)
    notes = missing_notes(study, curve.metrics, curve.reason)
    for variant in study.variants:
        name = choose_metric(variant, curve.metrics)
        if name is not None and name != curve.metrics[0]:
            notes.append(f"{variant.label}: {name}, {curve.stand_in}.")
    about = f"{curve.about} In the paper: {curve.paper}." if curve.paper else curve.about
    if not bands:
        return ReportFigure(curve.name, curve.title, about, tuple(notes))

    def draw(canvas: Canvas, theme: Theme) -> None:
        ax = canvas.subplots()
        for i, band in bands:
            draw_band(ax, band, theme, series[i])
        if curve.may_be_log and _spans_decades([band for _, band in bands]):
            ax.set_yscale("log")
            ax.yaxis.set_major_formatter("{x:g}")
        ax.set_ylabel(curve.axis)
        _steps(ax)
        add_legend(canvas, [(series[i], study.variants[i]) for i, _ in bands], theme)

    return ReportFigure(curve.name, curve.title, about, tuple(notes), draw, *_size(study))


def _bands(study: Study, names: Sequence[str], transform: Transform = np.asarray) -> list[tuple[int, Band]]:
    """(place of the variant, its band) where there is one."""
    found = []
    for i, variant in enumerate(study.variants):
        name = choose_metric(variant, names)
        band = variant_band(variant, name, transform) if name is not None else None
        if band is not None:
            found.append((i, band))
    return found


def _size(study: Study) -> tuple[tuple[float, float], float]:
    """Width and height, and what of the height is the legend's."""
    legend = legend_height(study.variants, HALF_PAGE)
    return (HALF_PAGE, AXES_HEIGHT + legend), legend


def _spans_decades(bands: Sequence[Band]) -> bool:
    low, high = min(float(b.low.min()) for b in bands), max(float(b.high.max()) for b in bands)
    return low > 0 and high / low >= LOG_SCALE_FROM


def _steps(ax: Any) -> None:
    ax.set_xlabel("step")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    ax.margins(x=0.02)
