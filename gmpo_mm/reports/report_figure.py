"""One figure of a report."""

from __future__ import annotations

from dataclasses import dataclass

from gmpo_mm.reports.figure_style import HALF_PAGE, Draw


@dataclass(frozen=True)
class ReportFigure:
    """A drawing with its words. `draw` is None where no run has the data; `notes` then say so."""

    name: str
    """File name without its ending."""
    title: str
    about: str
    notes: tuple[str, ...]
    draw: Draw | None = None
    size: tuple[float, float] = (HALF_PAGE, 3.0)
    """Width and height in inches."""
    legend: float = 0.0
    """Inches of the height that the legend takes; the page has one legend for all figures."""

    @property
    def wide(self) -> bool:
        """Whether it takes the page's whole width."""
        return self.size[0] > HALF_PAGE
