"""Figures of a report's section Why: weight against ratio, cosines, effective sample size, who is clipped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from gmpo_mm.reports.compare_lines import TENTHS
from gmpo_mm.reports.curves import band_over_seeds, thin
from gmpo_mm.reports.drawing import BAND_ALPHA, draw_band, panel_rows, panel_title, panels, short_label
from gmpo_mm.reports.figure_style import FULL_PAGE, HALF_PAGE, Theme, dashes, marker
from gmpo_mm.reports.ratio_axis import SymmetricAxis, log10_of
from gmpo_mm.reports.report_figure import ReportFigure
from gmpo_mm.reports.why_numbers import LossFacts, Number, Tenths, VariantWhy

LINEAR_UP_TO = 2.0
"""Relative weights beyond are drawn on a logarithmic scale, where there are far larger ones."""
LOG_FROM = 6.0
OUTSIDE = 0.01
"""Share of the tokens at each end that the axis of the ratios may leave out."""


@dataclass(frozen=True)
class Looks:
    """How losses are drawn and called; names are free text from a file."""

    series: Mapping[str, int]
    labels: Mapping[str, str]


def why_figures(found: Sequence[VariantWhy], looks: Looks) -> list[ReportFigure]:
    """All of them, in the page's order."""
    return [_weight(found, looks), _ess(found, looks), _cosine(found, looks), _clipped(found, looks)]


def _weight(found: Sequence[VariantWhy], looks: Looks) -> ReportFigure:
    low, high = _central(found)
    middle = [place for one in found for place in log10_of(one.ratio[1:-1]) if math.isfinite(place)]
    axis = SymmetricAxis.around(middle, (low, high))
    beyond = [not low <= place <= high for one in found for place in log10_of(one.point_ratios)]
    about = (
        "-dL/dlog p of a token over what it is at ratio 1, on the runs' own tokens. Small: single tokens of "
        "all steps. Large: the mean in each decile of the ratio, at the decile's median, with one standard "
        "deviation of its tokens to each side. 0: clipped. Grey: weight = ratio, and weight = 1. In the "
        "paper: equations 5 (the ratio) and 6 (the geometric mean). The axis of the ratio is "
        f"{axis.describe_scale()}."
    )
    if any(beyond):
        about += f" {100 * np.mean(beyond):.2g} % of the tokens lie beyond it."
    most = min(3, len(found))

    def draw(canvas: Canvas, theme: Theme) -> None:
        axes = panels(canvas, len(found), most)
        line = np.linspace(low, high, 2000)
        top = max((_largest(one, facts, high) for one in found for facts in one.losses), default=1.0)
        for ax, one in zip(axes, found):
            ax.plot(line, 10**line, color=theme.soft, lw=0.8)
            ax.axhline(1, color=theme.soft, lw=0.8)
            for facts in one.losses:
                _points(ax, one, facts, theme, looks.series[facts.loss])
            for facts in one.losses:
                _decile_means(ax, one, facts, theme, looks.series[facts.loss])
            ax.set_title(
                panel_title(f"tokens of {one.variant.label}", canvas.get_figwidth() / most), loc="left"
            )
            axis.apply_x(ax, low, high)
            ax.tick_params(labelbottom=True)
            ax.set_xlabel("token ratio (symmetric log scale)")
            if ax.get_subplotspec().is_first_col():
                ax.set_ylabel("weight, relative")
        if top > LOG_FROM:
            axes[0].set_yscale("symlog", linthresh=LINEAR_UP_TO, linscale=1.5)
            axes[0].yaxis.set_major_formatter("{x:g}")
        axes[0].set_ylim(-0.08 * min(top, LINEAR_UP_TO), 1.06 * top if top <= LOG_FROM else 1.5 * top)
        _legend(canvas, theme, _losses(found), looks, markers=True)

    rows = len(panel_rows(len(found), most))
    size = (FULL_PAGE, 0.3 + 3.1 * rows + _legend_height(found, looks, FULL_PAGE))
    return ReportFigure("why_weight", "Weight of a token against its ratio", about, (), draw, size)


def _central(found: Sequence[VariantWhy]) -> tuple[float, float]:
    """log10 of the ratios between which nearly all tokens lie, and every decile's median."""
    places = log10_of(np.concatenate([one.point_ratios for one in found]))
    ends = [*(np.quantile(places, (OUTSIDE, 1 - OUTSIDE)) if len(places) else ()), -0.01, 0.01]
    ends += [place for one in found for place in log10_of(one.ratio) if math.isfinite(place)]
    margin = 0.04 * (max(ends) - min(ends))
    return float(min(ends) - margin), float(max(ends) + margin)


def _points(ax: Any, one: VariantWhy, facts: LossFacts, theme: Theme, series: int) -> None:
    ax.plot(
        log10_of(one.point_ratios),
        facts.points,
        marker(series),
        color=theme.colour(series),
        ms=2,
        mew=0,
        alpha=0.45,
    )


def _decile_means(ax: Any, one: VariantWhy, facts: LossFacts, theme: Theme, series: int) -> None:
    ax.errorbar(
        log10_of(one.ratio), facts.weight, facts.spread,
        color=theme.colour(series), ls=dashes(series), marker=marker(series), ms=5.5, mec=theme.card, mew=0.6,
        elinewidth=1.0, lw=1.2,
    )  # fmt: skip


def _largest(one: VariantWhy, facts: LossFacts, high: float) -> float:
    """What the axis has to reach: the weights of the tokens up to the largest ratio that it shows."""
    shown = facts.points[log10_of(one.point_ratios) <= high]
    return max(
        (value for value in (*shown, *(facts.weight + facts.spread)) if math.isfinite(value)), default=1.0
    )


def _ess(found: Sequence[VariantWhy], looks: Looks) -> ReportFigure:
    about = (
        "(sum |w|)² / (n sum w²) over a step's tokens with an advantage: 100 % where all weigh the same, "
        "less where few tokens carry the update."
    )
    numbers = [("ess", lambda line: 100 * line.ess, False)]
    return _over_steps(
        "why_ess", "Effective sample size", about, "share of the tokens (%)", found, looks, numbers
    )


def _cosine(found: Sequence[VariantWhy], looks: Looks) -> ReportFigure:
    about = (
        "Between another loss's weights of a step's tokens and those of the trained loss (whose own is 1)."
    )
    has_gradients = any(facts.gradient_cosine is not None for one in found for facts in one.others)
    if has_gradients:
        about += (
            " Hollow markers: between the whole gradients of a step's last update, where they were measured."
        )
    numbers: list[tuple[str, Number, bool]] = [
        ("cosine", lambda line: line.cosine, False), ("gradient", lambda line: line.gradient_cosine, True),
    ]  # fmt: skip
    return _over_steps(
        "why_cosine", "Cosine with the trained loss's update", about, "cosine", found, looks, numbers, True
    )


def _over_steps(
    name: str, title: str, about: str, axis: str, found: Sequence[VariantWhy], looks: Looks,
    numbers: Sequence[tuple[str, Number, bool]], others_only: bool = False,
) -> ReportFigure:  # fmt: skip
    """Curves of each loss, a panel for each variant. A number: key, how it is read, whether as markers."""
    most = min(2, len(found))
    curves = [
        (place, facts.loss, as_markers, one.series(facts.loss, number))
        for place, one in enumerate(found)
        for facts in (one.others if others_only else one.losses)
        for _, number, as_markers in numbers
    ]
    curves = [curve for curve in curves if curve[3]]
    if not curves:
        return ReportFigure(name, title, about, ("No step has a value of it for another loss.",))

    def draw(canvas: Canvas, theme: Theme) -> None:
        axes = panels(canvas, len(found), most)
        for place, loss, as_markers, series in curves:
            band, look = thin(band_over_seeds(series)), looks.series[loss]
            if as_markers:
                style = {"color": theme.colour(look), "mfc": theme.card, "ms": 4.5, "ls": "none"}
                axes[place].plot(band.steps, band.mean, marker(look), **style)
            else:
                draw_band(axes[place], band, theme, look)
        for ax, one in zip(axes, found):
            ax.set_title(
                panel_title(f"tokens of {one.variant.label}", canvas.get_figwidth() / most), loc="left"
            )
            ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
            if ax.get_subplotspec().is_first_col():
                ax.set_ylabel(axis)
        drawn = [loss for loss in _losses(found) if any(curve[1] == loss for curve in curves)]
        _legend(canvas, theme, drawn, looks, markers=any(as_markers for _, _, as_markers, _ in curves))

    size = (
        HALF_PAGE,
        0.3 + 2.5 * len(panel_rows(len(found), most)) + _legend_height(found, looks, HALF_PAGE),
    )
    return ReportFigure(name, title, about, (), draw, size)


def _clipped(found: Sequence[VariantWhy], looks: Looks) -> ReportFigure:
    about = (
        "Share of the tokens with an advantage whose weight is 0: by tenth of the response (1: its "
        "beginning), by decile of the token's entropy (1: the surest), and by the sign of the advantage "
        "(shares of all tokens; they add up to the whole). Means over steps; bands and bars go from the "
        "lowest to the highest run."
    )
    notes = [
        f"{one.variant.label}: no entropies of tokens are logged there." for one in found
        if all(facts.by_entropy is None for facts in one.losses)
    ]  # fmt: skip

    def draw(canvas: Canvas, theme: Theme) -> None:
        losses = _losses(found)
        grid = canvas.subplots(len(found), 3, sharey=True, squeeze=False, width_ratios=(1, 1, 0.8))
        for row, one in zip(grid, found):
            for facts in one.losses:
                look = looks.series[facts.loss]
                _tenths(row[0], facts.by_position, theme, look)
                if facts.by_entropy is not None:
                    _tenths(row[1], facts.by_entropy, theme, look)
                _by_sign(row[2], facts, theme, look, (losses.index(facts.loss) + 0.5) / len(losses) - 0.5)
            row[0].set_title(
                panel_title(f"tokens of {one.variant.label}", canvas.get_figwidth() / 3), loc="left"
            )
            row[0].set_ylabel("tokens clipped (%)")
            for ax, words in zip(row, ("tenth of the response", "entropy decile", "sign of the advantage")):
                ax.set_xlabel(words)
            for ax in row[:2]:
                ax.set_xticks(range(1, TENTHS + 1, 3))
                ax.set_xlim(0.5, TENTHS + 0.5)
            row[2].set_xticks([0, 1], ["positive", "negative"])
            row[2].set_xlim(-0.6, 1.6)
            row[2].grid(visible=False, axis="x")
        grid[0][0].set_ylim(bottom=0)
        _legend(canvas, theme, losses, looks, markers=True)

    size = (FULL_PAGE, 0.2 + 2.6 * len(found) + _legend_height(found, looks, FULL_PAGE))
    return ReportFigure("why_clipped", "Which tokens are clipped", about, tuple(notes), draw, size)


def _tenths(ax: Any, tenths: Tenths, theme: Theme, series: int) -> None:
    places = np.arange(1, TENTHS + 1)
    colour = theme.colour(series)
    ax.fill_between(places, 100 * tenths.low, 100 * tenths.high, color=colour, alpha=BAND_ALPHA, lw=0)
    ax.plot(places, 100 * tenths.mean, color=colour, ls=dashes(series), marker=marker(series))


def _by_sign(ax: Any, facts: LossFacts, theme: Theme, series: int, shift: float) -> None:
    """Two bars, moved by `shift` of a bar's group (-0.5 to 0.5)."""
    for place, share in ((0, facts.clipped_positive), (1, facts.clipped_negative)):
        if share is None:
            continue
        x = place + 0.8 * shift
        ax.plot(
            [x, x], [0, 100 * share.mean], color=theme.colour(series), lw=5, alpha=0.5, solid_capstyle="butt"
        )
        ax.plot(
            [x, x], [100 * min(share.values), 100 * max(share.values)], color=theme.colour(series), lw=1.4
        )
        ax.plot([x], [100 * share.mean], marker(series), color=theme.colour(series), ms=5)


def _losses(found: Sequence[VariantWhy]) -> list[str]:
    return list(dict.fromkeys(facts.loss for one in found for facts in one.losses))


def _legend(canvas: Canvas, theme: Theme, losses: Sequence[str], looks: Looks, *, markers: bool) -> None:
    """Losses are not the variants that the page has its legend for, so each of these figures has one."""
    handles = [
        Line2D([], [], color=theme.colour(k), ls=dashes(k), marker=marker(k) if markers else None)
        for k in map(looks.series.__getitem__, losses)
    ]
    labels = [short_label(looks.labels[loss]) for loss in losses]
    columns = _columns(losses, looks, canvas.get_figwidth())
    canvas.legend(
        handles, labels, loc="outside upper left", ncols=columns, borderaxespad=0.2, columnspacing=1.4
    )


def _columns(losses: Sequence[str], looks: Looks, width: float) -> int:
    longest = max(len(short_label(looks.labels[loss])) for loss in losses)
    return max(1, min(len(losses), int(width / (0.62 + 0.078 * longest))))


def _legend_height(found: Sequence[VariantWhy], looks: Looks, width: float) -> float:
    losses = _losses(found)
    return 0.1 + 0.2 * -(-len(losses) // _columns(losses, looks, width))
