"""Pieces that the figures are drawn with: a variant's curve with its band, legends, panels."""

from __future__ import annotations

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


def draw_band(ax: Any, band: Band, theme: Theme, index: int, *, markers: bool = False) -> None:
    """A variant's mean as a line and its seeds' range as a band; the line is thin where not every seed has a value."""
    colour, style = theme.colour(index), dashes(index)
    whole = band.counts == band.seeds
    if band.seeds > 1:
        ax.fill_between(band.steps, band.low, band.high, color=colour, alpha=BAND_ALPHA, lw=0)
    if not whole.all():
        ax.plot(band.steps, band.mean, color=colour, lw=0.8, ls=style, alpha=0.7)
    shape = marker(index) if markers or whole.sum() == 1 else None
    ax.plot(band.steps, np.where(whole, band.mean, np.nan), color=colour, ls=style, marker=shape)


def add_legend(canvas: Canvas, variants: Sequence[tuple[int, Variant]], theme: Theme, *, markers: bool = False) -> None:
    """The variants that are drawn, above the axes; the more there are, the more rows."""
    handles = [Line2D([], [], color=theme.colour(i), ls=dashes(i), marker=marker(i) if markers else None) for i, _ in variants]
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


def panels(canvas: Canvas, count: int, columns: int, *, sharey: bool = True) -> list[Any]:
    """That many axes in rows; those of a row's end that are not needed are left empty."""
    rows = -(-count // columns)
    axes = np.atleast_1d(canvas.subplots(rows, columns, sharex=True, sharey=sharey, squeeze=False)).ravel().tolist()
    for ax in axes[count:]:
        ax.remove()
    for i, ax in enumerate(axes[:count]):
        if i + columns >= count:
            ax.tick_params(labelbottom=True)
            ax.set_xlabel("step")
    return axes[:count]
