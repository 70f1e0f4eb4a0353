"""Mixture-of-experts runs: what they log of their experts, a panel each, under names for people."""

from __future__ import annotations

from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from gmpo_mm.reports.algorithm import series_of
from gmpo_mm.reports.curves import variant_band
from gmpo_mm.reports.drawing import add_legend, draw_band, legend_height, panel_rows, panels
from gmpo_mm.reports.figure_style import FULL_PAGE, HALF_PAGE, Theme
from gmpo_mm.reports.report_figure import ReportFigure
from gmpo_mm.reports.study import Study, Variant

PREFIX = "moe/"
NAMES = {
    "moe/expert_share_max": ("Most used expert", "share of tokens"),
    "moe/expert_share_min": ("Least used expert", "share of tokens"),
    "moe/unused_experts": ("Experts without a token", "experts"),
    "moe/load_entropy": ("Evenness of the load", "1 = all alike"),
    "moe/router_entropy": ("Entropy of the router", "nats"),
    "moe/rollout_disagreement": ("Another expert than the sampler's", "share of tokens"),
    "moe/rollout_disagreement_same_weights": ("The same with equal weights", "share of tokens"),
}
"""Metric -> (what it is, what its axis shows)."""


def experts(study: Study) -> list[ReportFigure]:
    """One figure with all that the runs log of their experts; none where nothing is logged."""
    runs = [run for variant in study.variants for run in variant.runs]
    logged = {name for run in runs for name in run.series if name.startswith(PREFIX)}
    if not logged:
        return []
    names = [*(name for name in NAMES if name in logged), *sorted(logged - NAMES.keys())]
    series = series_of(study)
    most = min(3, len(names))

    def draw(canvas: Canvas, theme: Theme) -> None:
        for ax, name in zip(panels(canvas, len(names), most, sharey=False), names):
            for i, variant in enumerate(study.variants):
                band = variant_band(variant, name)
                if band is not None:
                    draw_band(ax, band, theme, series[i])
            title, axis = NAMES.get(name, (_readable(name), ""))
            ax.set_title(title, loc="left")
            ax.set_ylabel(axis)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        shown = [(series[i], variant) for i, variant in enumerate(study.variants) if _has_experts(variant)]
        add_legend(canvas, shown, theme)

    begun = [variant for variant in study.variants if any(run.series for run in variant.runs)]
    dense = [variant.label for variant in begun if not _has_experts(variant)]
    partial = [
        f"{variant.label}: {NAMES.get(name, (_readable(name), ''))[0].lower()}"
        for variant in study.variants if _has_experts(variant) for name in names if not variant.has(name)
    ]  # fmt: skip
    notes = [f"Not drawn: {'; '.join(dense)}. Nothing of experts is logged there."] if dense else []
    notes += [f"Not logged: {'; '.join(partial)}."] if partial else []
    width = FULL_PAGE if most == 3 else HALF_PAGE
    legend = legend_height(study.variants, width)
    size = (width, 0.3 + 2.2 * len(panel_rows(len(names), most)) + legend)
    about = (
        "How the routers spread a step's tokens over the experts: shares are of one layer's tokens, entropies "
        "means over layers."
    )
    return [ReportFigure("experts", "Experts", about, tuple(notes), draw, size, legend)]


def _has_experts(variant: Variant) -> bool:
    return any(name.startswith(PREFIX) for run in variant.runs for name in run.series)


def _readable(name: str) -> str:
    """A metric that has no name for people yet: its own words."""
    return name.removeprefix(PREFIX).replace("_", " ").replace("/", ", ").capitalize()
