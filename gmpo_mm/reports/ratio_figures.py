"""Importance ratios: their range over tokens (Figures 1 and 3 of the paper) and over sequences (Figure 6)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from gmpo_mm.reports.algorithm import series_of
from gmpo_mm.reports.curves import Band, Transform, missing_notes, variant_band
from gmpo_mm.reports.drawing import BAND_ALPHA, add_legend, draw_band, legend_height, panel_rows, panel_title, panels
from gmpo_mm.reports.figure_style import FULL_PAGE, HALF_PAGE, Theme, dashes
from gmpo_mm.reports.ratio_axis import SymmetricAxis, as_ratio_axis, log10_of
from gmpo_mm.reports.report_figure import ReportFigure
from gmpo_mm.reports.study import Study, Variant

TOKEN = ("ratio/token_min", "ratio/token_max")
GEOMETRIC = ("ratio/seq_geo_mean_min", "ratio/seq_geo_mean_max")
PRODUCT = ("ratio/seq_product_log_min", "ratio/seq_product_log_max")
_OTHER_TOOLS = "EasyR1 itself logs no ratios; engine=easyr1 of gmpo-mm does."

_Pair = tuple[Band, Band]


def ratio_range(study: Study) -> ReportFigure:
    """The smallest and the largest token ratio of each step, a panel for every variant."""
    title = "Importance ratio, range over tokens"
    about = (
        "The smallest and the largest of a step's token ratios: lines are means over seeds of the logarithm, light bands go to "
        "the outermost seed. Dashed: the bounds of a clip by tokens. Grey: the first variant's range again. In the paper: "
        "Figures 1 and 3."
    )
    notes = tuple(missing_notes(study, TOKEN, _reason(study)))
    found = _pairs(study, TOKEN, log10_of)
    if not found:
        return ReportFigure("ratio_range", title, about, notes)
    most = len(found) if len(found) <= 2 else 3
    first, series = found[0], series_of(study)

    def draw(canvas: Canvas, theme: Theme) -> None:
        axes = panels(canvas, len(found), most)
        for ax, (i, pair) in zip(axes, found):
            if i != first[0]:
                for band in first[1]:
                    ax.plot(band.steps, band.mean, color=theme.soft, lw=0.9, ls=dashes(series[first[0]]))
            _draw_range(ax, pair, theme, series[i])
            bounds = clip_bounds(study.variants[i])
            for bound in filter(_is_drawn, bounds or ()):
                ax.axhline(math.log10(bound), color=theme.ink, lw=0.8, ls=(0, (4, 3)))
            clip = _clip_words(bounds) if study.variants[i].runs[0].config else ""
            columns = ax.get_subplotspec().get_gridspec().ncols / len(ax.get_subplotspec().colspan)
            ax.set_title(f"{panel_title(study.variants[i].label, canvas.get_figwidth() / columns)}\n{clip}", loc="left")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
            ax.margins(x=0)
        as_ratio_axis(axes[0])
        for ax in axes:
            if ax.get_subplotspec().is_first_col():
                ax.set_ylabel("ratio (log scale)")

    rows = len(panel_rows(len(found), most))
    width = HALF_PAGE if most <= 2 else FULL_PAGE
    return ReportFigure("ratio_range", title, about, notes, draw, (width, 0.35 + 2.65 * rows))


def sequence_ratio(study: Study) -> ReportFigure:
    """The range of sequences' ratios with the exponent 1/|o| (geometric mean) and without it (product)."""
    title = "Importance ratio of whole sequences"
    about = (
        "The smallest and the largest of a step's sequences, with the exponent 1/|o| (geometric mean of the token ratios) and "
        "without it (their product). Over all responses of a step; the paper's Figure 6 has those with a positive reward, in "
        "GRPO training."
    )
    notes = tuple(missing_notes(study, PRODUCT, _reason(study)))
    with_exponent = _pairs(study, GEOMETRIC, log10_of)
    without = _pairs(study, PRODUCT, lambda logs: logs / math.log(10))
    if not with_exponent or not without:
        return ReportFigure("sequence_ratio", title, about, notes)

    geometric, product = (_outermost(found) for found in (with_exponent, without))
    axis, series = SymmetricAxis.around(geometric, geometric + product), series_of(study)

    def draw(canvas: Canvas, theme: Theme) -> None:
        left, right = panels(canvas, 2, 2)
        for ax, name, found in ((left, "with 1/|o|", with_exponent), (right, "without", without)):
            for i, pair in found:
                _draw_range(ax, pair, theme, series[i])
            ax.axhline(0, color=theme.soft, lw=0.8)
            ax.set_title(name, loc="left")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
            ax.margins(x=0)
        axis.apply(left)
        left.set_ylabel("sequence ratio (symmetric log scale)")
        add_legend(canvas, [(series[i], study.variants[i]) for i, _ in without], theme)

    legend = legend_height(study.variants, HALF_PAGE)
    return ReportFigure(
        "sequence_ratio", title, f"{about} {axis.describe()}", notes, draw, (HALF_PAGE, 3.4 + legend), legend
    )


def _outermost(found: Sequence[tuple[int, _Pair]]) -> list[float]:
    """The outermost values of some bands, those of single seeds included."""
    return [float(value) for _, pair in found for band in pair for value in (band.low.min(), band.high.max())]


def clip_bounds(variant: Variant) -> tuple[float, float] | None:
    """The ratios at which a token is clipped, 0 and infinity for no bound.

    None for a loss that clips no tokens, and where the configuration isn't known.
    """
    config = variant.runs[0].config if variant.runs else None
    actor = (config or {}).get("worker", {}).get("actor", {})
    loss = actor.get("loss_type")
    in_log: Mapping[str, Any] = actor.get(loss) or {} if loss in ("gmpo", "power_mean") else {}
    if in_log.get("clip") == "token":
        return math.exp(-float(in_log["log_clip_low"])), math.exp(float(in_log["log_clip_high"]))
    if loss in ("default", "cispo") and "clip_ratio_low" in actor:
        return max(1 - float(actor["clip_ratio_low"]), 0.0), 1 + float(actor["clip_ratio_high"])
    return None


def _is_drawn(bound: float) -> bool:
    """Whether a bound has a place on a logarithmic axis."""
    return 0 < bound < math.inf


def _clip_words(bounds: tuple[float, float] | None) -> str:
    low, high = map(_is_drawn, bounds or (0.0, math.inf))
    if bounds is None or not (low or high):
        return "no clip by tokens"
    if low and high:
        return f"clip {bounds[0]:.3g} to {bounds[1]:.3g}"
    return f"clip above {bounds[1]:.3g}" if high else f"clip below {bounds[0]:.3g}"


def _draw_range(ax: Any, pair: _Pair, theme: Theme, series: int) -> None:
    low, high = pair
    if np.array_equal(low.steps, high.steps):
        ax.fill_between(low.steps, low.mean, high.mean, color=theme.colour(series), alpha=BAND_ALPHA / 2, lw=0)
    for band in pair:
        draw_band(ax, band, theme, series)


def _pairs(study: Study, names: tuple[str, str], transform: Transform) -> list[tuple[int, _Pair]]:
    """(place of the variant, its bands of both metrics as log10), averaged over seeds as logarithms."""
    found = []
    for i, variant in enumerate(study.variants):
        low, high = (variant_band(variant, name, transform) for name in names)
        if low is not None and high is not None:
            found.append((i, (low, high)))
    return found


def _reason(study: Study) -> str:
    foreign = any(run.source != "gmpo-mm" for variant in study.variants for run in variant.runs)
    return _OTHER_TOOLS if foreign else ""
