"""The report as one HTML page that loads nothing: figures are SVG inside it, in the page's colours, light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import markupsafe

import gmpo_mm
from gmpo_mm.reports.curves import MAX_POINTS
from gmpo_mm.reports.figure_style import LIGHT, page_variables, to_svg
from gmpo_mm.reports.report_figure import ReportFigure
from gmpo_mm.reports.report_tables import ReportTable
from gmpo_mm.reports.study import Study

TEMPLATES = Path(__file__).parent / "templates"
REM_PER_INCH = 7.6
"""So that text in a wide figure is as large as in one of half the page's width."""


@dataclass(frozen=True)
class Part:
    """What is said about one score."""

    title: str
    lines: tuple[str, ...]


def make_page(
    study: Study,
    summary: Sequence[Part],
    score_tables: Sequence[ReportTable],
    other_tables: Sequence[ReportTable],
    figures: Sequence[ReportFigure],
) -> str:
    """The page's text. Labels, titles, reasons and paths are untrusted and are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    style += f":root {{ {page_variables(dark=False)} }}\n"
    style += f"@media (prefers-color-scheme: dark) {{ :root {{ {page_variables(dark=True)} }} }}\n"
    longest = max((len(s.steps) for v in study.variants for r in v.runs for s in r.series.values()), default=0)
    page = environment.get_template("report.html").render(
        study=study,
        counts=count_runs(study),
        summary=summary,
        score_tables=score_tables,
        other_tables=other_tables,
        figures=[_shown(figure) for figure in figures],
        series=len(LIGHT),
        thinned=MAX_POINTS if longest > MAX_POINTS else None,
        version=gmpo_mm.__version__,
        style=markupsafe.Markup(style),
    )
    return page.encode("utf-8", "replace").decode()  # a half of a surrogate pair can't be written


def count_runs(study: Study) -> str:
    """`2 variants, 6 runs, 5 of them finished`."""
    runs = [run for variant in study.variants for run in variant.runs]
    finished = sum(run.counts for run in runs)
    text = f"{_plural(len(study.variants), 'variant')}, {_plural(len(runs), 'run')}"
    return text if finished == len(runs) else f"{text}, {finished} of them finished"


def _plural(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _shown(figure: ReportFigure) -> dict[str, object]:
    # matplotlib escapes the texts in its SVG
    svg = None if figure.draw is None else markupsafe.Markup(to_svg(figure.draw, figure.size, figure.name))
    return {
        "name": figure.name, "title": figure.title, "about": figure.about, "notes": figure.notes, "wide": figure.wide,
        "width": round(REM_PER_INCH * figure.size[0], 1),
        "svg": svg,
    }  # fmt: skip
