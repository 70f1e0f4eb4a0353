"""Pieces that the figures are drawn with: a variant's curve with its band, legends, panels."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from gmpo_mm.reports.curves import Band
from gmpo_mm.reports.figure_style import Theme, dashes, marker
from gmpo_mm.reports.study import Variant

BAND_ALPHA = 0.2
LABEL_LENGTH = 34


def draw_band(
    ax: Any, band: Band, theme: Theme, series: int, *, markers: bool = False, alpha: float = BAND_ALPHA
) -> None:
    """A variant's mean as a line and its seeds' range as a band; the line is thin where not every seed has a value."""
    colour, style = theme.colour(series), dashes(series)
    whole = band.counts == band.seeds
    if band.seeds > 1:
        ax.fill_between(band.steps, band.low, band.high, color=colour, alpha=alpha, lw=0)
    if not whole.all():
        ax.plot(band.steps, band.mean, color=colour, lw=0.8, ls=style, alpha=0.7)
    shape = marker(series) if markers or whole.sum() == 1 else None
    ax.plot(band.steps, np.where(whole, band.mean, np.nan), color=colour, ls=style, marker=shape)


def add_legend(canvas: Canvas, variants: Sequence[tuple[int, Variant]], theme: Theme, *, markers: bool = False) -> None:
    """The variants that are drawn, each with its series, above the axes; nothing in a page, which has a legend for all."""
    if not theme.legend:
        return
    handles = [Line2D([], [], color=theme.colour(k), ls=dashes(k), marker=marker(k) if markers else None) for k, _ in variants]
    labels = [short_label(variant.label) for _, variant in variants]
    columns = _legend_columns([variant for _, variant in variants], canvas.get_figwidth())
    canvas.legend(handles, labels, loc="outside upper left", ncols=columns, borderaxespad=0.2, columnspacing=1.4)


def legend_height(variants: Sequence[Variant], width: float) -> float:
    """Inches that the legend takes of a figure so wide."""
    return 0.1 + 0.2 * -(-len(variants) // _legend_columns(variants, width))


def _legend_columns(variants: Sequence[Variant], width: float) -> int:
    longest = max(len(short_label(variant.label)) for variant in variants)
    return max(1, min(len(variants), int(width / (0.62 + 0.078 * longest))))


def short_label(label: str) -> str:
    """A label that fits, on one line; matplotlib leaves out what begins with an underscore, so a space goes before it."""
    text = " ".join(label.split()) or "(no name)"
    if len(text) > LABEL_LENGTH:
        text = text[: LABEL_LENGTH - 1] + "…"
    return f" {text}" if text.startswith("_") else text


def panel_rows(count: int, most: int) -> list[int]:
    """How many panels stand in each row, `most` at most: as equal as can be, so that no row has an empty end."""
    rows = -(-count // most)
    fewest, more = divmod(count, rows)
    return [fewest + (row < more) for row in range(rows)]


def panels(canvas: Canvas, count: int, most: int, *, sharey: bool = True) -> list[Any]:
    """That many axes over steps in rows of `most` at most, each row as wide as the figure."""
    rows = panel_rows(count, most)
    grid = canvas.add_gridspec(len(rows), math.lcm(*rows))
    axes: list[Any] = []
    for row, columns in enumerate(rows):
        span = grid.ncols // columns
        for column in range(columns):
            first = axes[0] if axes else None
            cell = grid[row, column * span : (column + 1) * span]
            ax = canvas.add_subplot(cell, sharex=first, sharey=first if sharey else None)
            if sharey and column:
                ax.tick_params(labelleft=False)
            if row == len(rows) - 1:
                ax.set_xlabel("step")
            axes.append(ax)
    return axes


def panel_title(label: str, width: float) -> str:
    """A variant's label over a panel so many inches wide."""
    return "\n".join(textwrap.wrap(short_label(label), max(12, int(width / 0.085)), drop_whitespace=False))
