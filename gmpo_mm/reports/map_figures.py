"""The figures of a map: the final score of every cell with the collapse boundary, curves, and the atlas along p."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from gmpo_mm.reports.algorithm import series_of_variants
from gmpo_mm.reports.curves import variant_band
from gmpo_mm.reports.drawing import draw_band, panel_rows, panels, short_label
from gmpo_mm.reports.figure_style import FULL_PAGE, Theme, dashes, marker
from gmpo_mm.reports.report_figure import ReportFigure
from gmpo_mm.reports.scores import StudyScore
from gmpo_mm.reports.seed_statistics import LEVEL, SeedMean
from gmpo_mm.reports.study import Named, Study, StudyMap, Variant
from gmpo_mm.reports.study_map import KL_TO_START, Cell, Grid, kl_metric
from gmpo_mm.reports.words import MINUS, plural

COLOURS = "cividis"
"""Perceptually uniform, and the same to readers who do not tell red from green (doi:10.1371/journal.pone.0199239)."""
SHADES = 40
ROW_HEIGHT = 0.5
CURVE_PANELS = 3
FAINT = 0.08
"""Of bands: a dozen lie over one another."""


def map_figures(study: Study, grid: StudyMap, cells: Grid, score: StudyScore | None) -> list[ReportFigure]:
    """For each panel its map, its curves and, where the sweep says which rows are power means, its atlas."""
    figures = []
    for panel in grid.panels:
        figures.append(_map(grid, panel, cells, score, kl_metric(study.variants)))
        figures.append(_curves(study, grid, panel, score))
        if grid.exponents:
            figures.append(_atlas(study, grid, panel, cells, score))
    return figures


def _named(kind: str, panel: Named) -> str:
    return f"{kind}_{panel.name}" if panel.name else kind


def _titled(title: str, panel: Named) -> str:
    return f"{panel.label}: {title[0].lower()}{title[1:]}" if panel.name else title


def collapse_words(grid: StudyMap, kl_name: str | None, *, briefly: bool = False) -> str:
    """The rule that the map goes by, for its caption; `briefly` for a line in the picture."""
    kl = "KL to the model before training" if kl_name == KL_TO_START else "KL to the old policy"
    bound = f"{grid.collapse_kl:g} nat{'' if grid.collapse_kl == 1 else 's'} a token"
    if briefly:
        last = f", or {kl} above {bound} at the last step" if kl_name else ""
        return f"Collapsed: last score below the score before training, numbers not finite{last}."
    last = f", or its {kl} at its last step is above {bound}" if kl_name else ""
    return (
        "A run counts as collapsed when its last score is below its score before training, when it was ended because weights "
        f"or gradients were not finite, when its score or KL is not finite{last}."
    )


# ---- the map -----------------------------------------------------------------------------------------------------------


def _map(
    grid: StudyMap, panel: Named, cells: Grid, score: StudyScore | None, kl_name: str | None
) -> ReportFigure:
    name, words = "final score" if score is None else score.words, "validation"
    title = _titled(f"Final {name} by loss and {grid.axis}", panel)
    about = (
        f"Mean final {words} {name} over seeds; below it the {100 * LEVEL:g} % interval (Student's t over seeds), and how many "
        "of the runs that ended collapsed. Hatched, beyond the line: more than half of a cell's runs collapsed. "
        + collapse_words(grid, kl_name)
    )
    placed = {
        (y, x): cells[panel.name, row.name, column.name]
        for y, row in enumerate(grid.rows) for x, column in enumerate(grid.columns)
        if (panel.name, row.name, column.name) in cells
    }  # fmt: skip
    figure_name = _named("map", panel)
    if score is None or not any(cell.ended for cell in placed.values()):
        return ReportFigure(figure_name, title, about, ("No run of it has ended with a score.",))
    factor = 100.0 if score.percent else 1.0
    means = [factor * cell.score.mean for cell in placed.values() if cell.score is not None]
    shades = _shades(means)

    def draw(canvas: Canvas, theme: Theme) -> None:
        ax = canvas.subplots()
        for (y, x), cell in placed.items():
            _draw_cell(ax, x, y, cell, factor, shades, theme)
        _draw_boundary(ax, placed, theme)
        ax.set_xlim(-0.5, len(grid.columns) - 0.5)
        ax.set_ylim(len(grid.rows) - 0.5, -0.5)
        ax.set_xticks(
            range(len(grid.columns)), [_wrapped(one.label, 100 // len(grid.columns)) for one in grid.columns]
        )
        ax.set_yticks(range(len(grid.rows)), [short_label(one.label) for one in grid.rows])
        ax.set_xlabel(grid.axis)
        canvas.supxlabel(collapse_words(grid, kl_name, briefly=True), fontsize=7, color=theme.soft)
        ax.tick_params(length=0)
        ax.grid(visible=False)
        for spine in ax.spines.values():
            spine.set_visible(False)
        scale = matplotlib.cm.ScalarMappable(shades.norm, shades.colours)
        bar = canvas.colorbar(scale, ax=ax, pad=0.01, aspect=40, ticks=MaxNLocator(6), format="{x:g}")
        bar.set_label(f"final {name} (%)" if score.percent else f"final {name}")
        bar.outline.set_visible(False)
        bar.minorticks_off()
        handles = [
            Rectangle((0, 0), 1, 1, fc="none", ec=theme.soft, hatch="////", lw=0.6),
            Line2D([], [], color=theme.colour(1), lw=3),
            Rectangle((0, 0), 1, 1, fc="none", ec=theme.soft, ls=":", lw=0.8),
        ]
        labels = ["most runs collapsed", "collapse boundary", "no run has ended"]
        canvas.legend(handles, labels, loc="outside upper left", ncols=3, borderaxespad=0.2)

    short = sum(cell.ended < len(cell.runs) for cell in placed.values())
    notes = (f"Not all runs of {short} of the {plural(len(placed), 'cell')} have ended.",) if short else ()
    return ReportFigure(
        figure_name, title, about, notes, draw, (FULL_PAGE, 1.3 + ROW_HEIGHT * len(grid.rows))
    )


class _Shades:
    """Score -> colour, in `SHADES` steps, and the ink that is read on it."""

    def __init__(self, low: float, high: float) -> None:
        self.norm = BoundaryNorm(np.linspace(low, high, SHADES + 1).tolist(), SHADES)
        self.colours = ListedColormap(matplotlib.colormaps[COLOURS](np.linspace(0, 1, SHADES)))

    def of(self, value: float) -> tuple[str, str]:
        colour = self.colours(self.norm(value))
        red, green, blue = colour[:3]
        light = 0.2126 * red + 0.7152 * green + 0.0722 * blue
        return matplotlib.colors.to_hex(colour), "#000000" if light > 0.46 else "#ffffff"


def _shades(values: Sequence[float]) -> _Shades:
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    return _Shades(low, high if high > low else low + 1.0)


def _draw_cell(ax: Any, x: int, y: int, cell: Cell, factor: float, shades: _Shades, theme: Theme) -> None:
    if not cell.ended:
        ax.add_patch(Rectangle((x - 0.49, y - 0.49), 0.98, 0.98, fc="none", ec=theme.soft, lw=0.8, ls=":"))
        ax.text(x, y, "missing", ha="center", va="center", color=theme.soft, fontsize=7)
        return
    colour, ink = ("none", theme.ink) if cell.score is None else shades.of(factor * cell.score.mean)
    ax.add_patch(Rectangle((x - 0.49, y - 0.49), 0.98, 0.98, fc=colour, ec="none"))
    if cell.beyond:
        ax.add_patch(
            Rectangle((x - 0.49, y - 0.49), 0.98, 0.98, fc="none", ec=ink, lw=0, hatch="///", alpha=0.35)
        )
    box = None if colour == "none" else {"boxstyle": "square,pad=0.12", "fc": colour, "ec": "none"}
    score = "no score" if cell.score is None else _number(factor * cell.score.mean, factor)
    ax.text(
        x, y - 0.17, score, ha="center", va="center", color=ink, fontsize=9.5, fontweight="bold", bbox=box
    )
    share = f"{cell.collapsed}/{cell.ended} collapsed"
    low = share if cell.score is None else f"{interval_text(cell.score, factor)}   {share}"
    ax.text(x, y + 0.2, low, ha="center", va="center", color=ink, fontsize=6.8, bbox=box)


def _draw_boundary(ax: Any, placed: dict[tuple[int, int], Cell], theme: Theme) -> None:
    """A line along every edge between a cell beyond the boundary and one before it; cells without runs have no side."""
    for (y, x), cell in placed.items():
        for dy, dx in ((0, 1), (1, 0)):
            other = placed.get((y + dy, x + dx))
            if other is None or not cell.ended or not other.ended or cell.beyond == other.beyond:
                continue
            xs, ys = (
                ((x + 0.5, x + 0.5), (y - 0.5, y + 0.5)) if dx else ((x - 0.5, x + 0.5), (y + 0.5, y + 0.5))
            )
            ax.plot(xs, ys, color=theme.colour(1), lw=3, solid_capstyle="projecting", zorder=5)


def interval_text(mean: SeedMean, factor: float) -> str:
    """`61.2 to 70.4`, or why there is no interval."""
    if mean.low is None or mean.high is None:
        return "one seed" if mean.seeds == 1 else "no spread"
    return f"{_number(factor * mean.low, factor)} to {_number(factor * mean.high, factor)}"


def _number(value: float, factor: float) -> str:
    text = f"{value:.1f}" if factor == 100 else f"{value:.3g}"
    return text.replace("-", MINUS)


def _wrapped(label: str, width: int) -> str:
    return "\n".join(textwrap.wrap(short_label(label), max(8, width)))


# ---- curves ------------------------------------------------------------------------------------------------------------


def _curves(study: Study, grid: StudyMap, panel: Named, score: StudyScore | None) -> ReportFigure:
    title = _titled(f"Score over steps at each {grid.axis}", panel)
    about = "A line for each loss: the mean over seeds at each validation; the band goes from the lowest to the highest seed."
    by_place = {grid.cells[variant.name]: variant for variant in study.variants}
    lines = {
        (column.name, row.name): band
        for column in grid.columns for row in grid.rows
        if score is not None and (variant := by_place.get((panel.name, row.name, column.name))) is not None
        and (band := variant_band(variant, score.metric, _scaled(score))) is not None
    }  # fmt: skip
    if not lines:
        return ReportFigure(_named("curves", panel), title, about, ("No run of it has a validation score.",))
    rows = row_series(study.variants, grid)
    axis = f"validation {score.words}" + (" (%)" if score.percent else "") if score is not None else ""

    def draw(canvas: Canvas, theme: Theme) -> None:
        axes = panels(canvas, len(grid.columns), CURVE_PANELS)
        for ax, column in zip(axes, grid.columns):
            for row in grid.rows:
                if (band := lines.get((column.name, row.name))) is not None:
                    draw_band(ax, band, theme, rows[row.name], markers=True, alpha=FAINT)
            ax.set_title(_wrapped(f"{grid.axis}: {column.label}", 36), loc="left")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        for place in np.cumsum([0, *panel_rows(len(grid.columns), CURVE_PANELS)[:-1]]).tolist():
            axes[place].set_ylabel(axis)
        _legend(canvas, theme, [(short_label(row.label), rows[row.name]) for row in grid.rows])

    heights = 0.35 + 2.3 * len(panel_rows(len(grid.columns), CURVE_PANELS)) + 0.2 * -(-len(grid.rows) // 4)
    return ReportFigure(_named("curves", panel), title, about, (), draw, (FULL_PAGE, heights))


def _scaled(score: StudyScore) -> Callable[[Any], Any]:
    return lambda values: (100.0 if score.percent else 1.0) * values


def row_series(variants: Sequence[Variant], grid: StudyMap) -> dict[str, int]:
    """Row -> its series: that of its algorithm, in the first panel and column that the row is in."""
    firsts: dict[str, Variant] = {}
    for variant in variants:
        firsts.setdefault(grid.cells[variant.name][1], variant)
    labels = {row.name: row.label for row in grid.rows}
    plain = [Variant(name, labels[name], variant.runs, variant.settings) for name, variant in firsts.items()]
    return dict(zip(firsts, series_of_variants(plain)))


def _legend(canvas: Canvas, theme: Theme, entries: Sequence[tuple[str, int]]) -> None:
    handles = [Line2D([], [], color=theme.colour(k), ls=dashes(k), marker=marker(k)) for _, k in entries]
    canvas.legend(
        handles, [label for label, _ in entries], loc="outside upper left", ncols=4, borderaxespad=0.2
    )


# ---- the atlas ---------------------------------------------------------------------------------------------------------


def _atlas(study: Study, grid: StudyMap, panel: Named, cells: Grid, score: StudyScore | None) -> ReportFigure:
    """Score, KL and entropy over p, a line for each column."""
    title = _titled("Along p, from the geometric to the arithmetic mean", panel)
    to_start = kl_metric(study.variants) == KL_TO_START
    kl_words = "KL to the start (nats a token)" if to_start else "KL to the old policy (nats a token)"
    about = (
        "The power mean of a response's ratios: p = 0 is GMPO's geometric mean, p = 1 GRPO's arithmetic one. Means over seeds "
        f"of the last score, KL and token entropy, with {100 * LEVEL:g} % intervals (Student's t over seeds); a line for each "
        f"{grid.axis}."
    )
    rows = sorted(grid.exponents, key=lambda row: grid.exponents[row])
    percent = score is not None and score.percent
    words = "score" if score is None else score.words
    shown: list[tuple[str, float, Callable[[Cell], SeedMean | None]]] = [
        (
            f"final {words} (%)" if percent else f"final {words}",
            100.0 if percent else 1.0,
            lambda cell: cell.score,
        ),
        (kl_words, 1.0, lambda cell: cell.kl),
        ("token entropy (nats)", 1.0, lambda cell: cell.entropy),
    ]
    points = {
        (i, column.name): [
            (grid.exponents[row], mean)
            for row in rows
            if (cell := cells.get((panel.name, row, column.name))) is not None and (mean := value(cell)) is not None
        ]
        for i, (_, _, value) in enumerate(shown) for column in grid.columns
    }  # fmt: skip
    if not any(points.values()):
        return ReportFigure(_named("atlas", panel), title, about, ("No run of these rows has ended.",))

    def draw(canvas: Canvas, theme: Theme) -> None:
        ramp = matplotlib.colormaps["viridis"](np.linspace(0.2, 0.85, len(grid.columns)))
        axes = canvas.subplots(1, 3)
        for i, (ax, (axis, factor, _)) in enumerate(zip(axes, shown)):
            for j, column in enumerate(grid.columns):
                if points[i, column.name]:
                    _draw_along_p(
                        ax,
                        points[i, column.name],
                        factor,
                        matplotlib.colors.to_hex(ramp[j]),
                        j,
                        len(grid.columns),
                    )
            means = [mean.mean for column in grid.columns for _, mean in points[i, column.name]]
            if i == 1 and means and min(means) > 0 and max(means) / min(means) > 30:
                ax.set_yscale("log")
            ax.set_title(axis, loc="left")
            ax.set_xlabel("p")
            ax.set_xticks([grid.exponents[row] for row in rows], [f"{grid.exponents[row]:g}" for row in rows])
        handles = [
            Line2D([], [], color=matplotlib.colors.to_hex(ramp[j]), ls=dashes(j), marker=marker(j))
            for j in range(len(grid.columns))
        ]
        labels = [short_label(column.label) for column in grid.columns]
        canvas.legend(
            handles,
            labels,
            loc="outside upper left",
            ncols=min(6, len(labels)),
            title=grid.axis,
            alignment="left",
        )

    return ReportFigure(_named("atlas", panel), title, about, (), draw, (FULL_PAGE, 3.6))


def _draw_along_p(
    ax: Any, points: Sequence[tuple[float, SeedMean]], factor: float, colour: str, j: int, count: int
) -> None:
    """Lines stand a little beside each other, so that intervals at one p do not hide one another."""
    span = points[-1][0] - points[0][0] or 1.0
    shift = span * 0.012 * (j - (count - 1) / 2)
    xs = [p + shift for p, _ in points]
    ax.plot(xs, [factor * mean.mean for _, mean in points], color=colour, ls=dashes(j), marker=marker(j))
    for x, (_, mean) in zip(xs, points):
        if mean.low is not None and mean.high is not None:
            ax.plot([x, x], [factor * mean.low, factor * mean.high], color=colour, lw=1.1)
