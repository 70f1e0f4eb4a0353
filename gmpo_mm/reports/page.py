"""The report as one HTML page that loads nothing: figures are SVG inside it, in the page's colours, light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jinja2
import markupsafe

from gmpo_mm.evaluation.page import breakable
from gmpo_mm.evaluation.policy import content_policy
from gmpo_mm.reports.algorithm import series_of
from gmpo_mm.reports.curves import MAX_POINTS
from gmpo_mm.reports.figure_style import FULL_PAGE, LIGHT, dash_array, page_variables, to_svg
from gmpo_mm.reports.report_figure import ReportFigure
from gmpo_mm.reports.report_tables import ReportTable
from gmpo_mm.reports.study import Study
from gmpo_mm.reports.words import plural
from gmpo_mm.version import VERSION

TEMPLATES = Path(__file__).parent / "templates"
KEY_WIDTH = 2.4
"""Of the lines in the legend, in the units of its drawing."""


@dataclass(frozen=True)
class Part:
    """What is said about one score."""

    title: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """A part of the page with words, a table and figures of its own."""

    key: str
    title: str
    about: str
    parts: tuple[Part, ...]
    notes: tuple[str, ...]
    """What is missing in it."""
    table: ReportTable
    figures: tuple[ReportFigure, ...]


def make_page(
    study: Study,
    headline: str,
    made_by: str,
    summary: Sequence[Part],
    score_tables: Sequence[ReportTable],
    other_tables: Sequence[ReportTable],
    figures: Sequence[ReportFigure],
    sections: Sequence[Section] = (),
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
        headline=headline,
        made_by=made_by,
        counts=count_runs(study),
        summary=summary,
        score_tables=score_tables,
        other_tables=other_tables,
        figures=[_shown(figure) for figure in _drawn_pairs(figures)],
        not_drawn=[one for part in (figures, *(s.figures for s in sections)) for one in part if one.draw is None],
        sections=[(one, [_shown(figure) for figure in _drawn_pairs(one.figures)]) for one in sections],
        legend=study.variants if study.map is None else (),  # figures of a map have their own
        keys=[{"colour": k % len(LIGHT), "dashes": dash_array(k, KEY_WIDTH), "width": KEY_WIDTH} for k in series_of(study)],
        breakable=breakable,
        thinned=MAX_POINTS if longest > MAX_POINTS else None,
        version=VERSION,
        style=markupsafe.Markup(style),
        policy=content_policy(),
    )
    return page.encode("utf-8", "replace").decode()  # a half of a surrogate pair can't be written


def count_runs(study: Study) -> str:
    """`2 variants, 6 runs, 5 of them finished`."""
    runs = [run for variant in study.variants for run in variant.runs]
    finished = sum(run.counts for run in runs)
    text = f"{plural(len(study.variants), 'variant')}, {plural(len(runs), 'run')}"
    return text if finished == len(runs) else f"{text}, {finished} of them finished"


def in_pairs(figures: Sequence[ReportFigure]) -> list[ReportFigure]:
    """Figures in an order that fills a grid of two columns: narrow ones wait until their row is full.

    Two in a row are drawn equally high; one that is left over is drawn as wide as the page.
    """
    placed: list[ReportFigure] = []
    row: list[ReportFigure] = []
    for figure in figures:
        (placed if figure.wide else row).append(figure)
        if len(row) == 2:
            height = max(one.size[1] - one.legend for one in row)
            placed += [replace(one, size=(one.size[0], height + one.legend)) for one in row]
            row = []
    return placed + [replace(one, size=(FULL_PAGE, one.size[1])) for one in row]


def _drawn_pairs(figures: Sequence[ReportFigure]) -> list[ReportFigure]:
    return in_pairs([figure for figure in figures if figure.draw is not None])


def _shown(figure: ReportFigure) -> dict[str, object]:
    assert figure.draw is not None
    width, height = figure.size
    return {
        "name": figure.name, "title": figure.title, "about": figure.about, "notes": figure.notes, "wide": figure.wide,
        # matplotlib escapes the texts in its SVG
        "svg": markupsafe.Markup(to_svg(figure.draw, (width, height - figure.legend), figure.name)),
    }  # fmt: skip
