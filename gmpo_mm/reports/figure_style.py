"""How figures look: colours that every eye tells apart, on light and on dark, as PNG and as SVG that follows the page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no screen is needed

from matplotlib.figure import Figure as Canvas

LIGHT = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555b63")
"""Okabe and Ito's colours (their yellow is too faint on white). algorithm.py says whose series which is."""
DARK = ("#4fa8e0", "#f58a4b", "#33c79c", "#e3a1c6", "#f0bd45", "#a3d7f7", "#b9c0c9")
"""The same hues, lighter."""
DASHES: tuple[Any, ...] = (
    "-", (0, (5, 1.6)), (0, (5, 1.4, 1.2, 1.4)), (0, (1.4, 1.2)), (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)), (0, (2.5, 2.5)),
)  # fmt: skip
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
HALF_PAGE = 4.6
"""Inches: at half the width of a printed page the text is still of 7 points."""
FULL_PAGE = 2 * HALF_PAGE
PNG_DPI = 160
FONT_SIZE = 9.5


@dataclass(frozen=True)
class Theme:
    """Colours of one drawing."""

    colours: tuple[str, ...]
    ink: str
    soft: str
    line: str
    card: str
    legend: bool = field(default=True, kw_only=True)
    """Whether a figure has a legend of its own; the page has one for all of them."""

    def colour(self, series: int) -> str:
        """Of a series; after the seventh they come again, with other dashes."""
        return self.colours[series % len(self.colours)]


LIGHT_THEME = Theme(LIGHT, "#1a1d21", "#59616b", "#d9dde3", "#ffffff")
DARK_THEME = Theme(DARK, "#e8eaed", "#a3abb5", "#373d45", "#1d2125")

# An SVG in the page takes its colours from the page's style sheet: it is drawn in colours that nothing else has, and
# these are then replaced by the names of the page's own.
_NAMES = {f"#fe01{i:02x}": f"--series-{i}" for i in range(len(LIGHT))} | {
    "#fe02a0": "--ink", "#fe02a1": "--soft", "#fe02a2": "--line", "#fe02a3": "--card",
}  # fmt: skip
_STAND_IN = tuple(_NAMES)
_PAGE_THEME = Theme(_STAND_IN[: len(LIGHT)], *_STAND_IN[len(LIGHT) :], legend=False)


def dashes(series: int) -> Any:
    """The line style of a series."""
    return DASHES[(series + series // len(LIGHT)) % len(DASHES)]


def dash_array(series: int, width: float) -> str:
    """The line style as SVG has it, for a line so wide; empty for a whole line."""
    style = dashes(series)
    return "" if style == "-" else " ".join(f"{width * part:g}" for part in style[1])


def marker(series: int) -> str:
    """The marker of a series."""
    return MARKERS[(series + series // len(LIGHT)) % len(MARKERS)]


def page_variables(dark: bool) -> str:
    """The style sheet's definitions of the series' colours."""
    return " ".join(f"--series-{i}: {colour};" for i, colour in enumerate(DARK if dark else LIGHT))


Draw = Callable[[Canvas, Theme], None]
"""Draws a figure into an empty canvas."""


def to_png(draw: Draw, size: tuple[float, float], dark: bool) -> bytes:
    """The figure as PNG; `size` in inches."""
    buffer = io.BytesIO()
    with _drawn(draw, size, DARK_THEME if dark else LIGHT_THEME) as canvas:
        canvas.savefig(buffer, format="png", dpi=PNG_DPI, metadata={"Software": None})
    return buffer.getvalue()


def to_svg(draw: Draw, size: tuple[float, float], name: str) -> str:
    """The figure as an SVG element for the page: no addresses, no ids that another figure has, colours by the page's names."""
    buffer = io.StringIO()
    with _drawn(draw, size, _PAGE_THEME) as canvas, matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        canvas.patch.set_visible(False)
        canvas.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r' (?:xmlns(?::xlink)?|width|height)="[^"]*"', "", text[: text.index(">")]) + text[text.index(">") :]
    text = text.replace("xlink:href", "href")
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda match: f' id="{name}-{match[1]}"' if match[1] in used else "", text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), text)  # hundredths of a point
    text = re.sub(r"#fe0[12][0-9a-f]{2}", lambda match: f"var({_NAMES[match[0]]})" if match[0] in _NAMES else match[0], text)
    return re.sub(r"\s*\n\s*", "\n", text).strip()


@contextmanager
def _drawn(draw: Draw, size: tuple[float, float], theme: Theme) -> Iterator[Canvas]:
    """The figure, within the settings that its ticks' labels too are to be made with."""
    settings: Any = {
        "font.size": FONT_SIZE, "font.family": "DejaVu Sans", "text.parse_math": False, "axes.edgecolor": theme.soft,
        "axes.labelcolor": theme.ink, "axes.facecolor": "none", "axes.grid": True, "axes.spines.top": False,
        "axes.spines.right": False, "axes.titlesize": FONT_SIZE, "axes.labelsize": FONT_SIZE, "axes.titlecolor": theme.ink,
        "grid.color": theme.line, "grid.linewidth": 0.6, "axes.axisbelow": True, "xtick.color": theme.soft,
        "ytick.color": theme.soft, "xtick.labelcolor": theme.ink, "ytick.labelcolor": theme.ink,
        "xtick.labelsize": FONT_SIZE - 1, "ytick.labelsize": FONT_SIZE - 1, "text.color": theme.ink, "legend.frameon": False,
        "legend.fontsize": FONT_SIZE - 0.5,
        "legend.handlelength": 2.4, "lines.linewidth": 1.6, "lines.markersize": 4,
        "figure.facecolor": theme.card, "path.simplify_threshold": 0.2,
    }  # fmt: skip
    with matplotlib.rc_context(settings):
        canvas = Canvas(figsize=size, layout="constrained")
        draw(canvas, theme)
        yield canvas
