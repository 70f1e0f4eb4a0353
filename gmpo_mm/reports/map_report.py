"""What a report says of a map in words, tables, JSON and CSV."""

from __future__ import annotations

import csv
import io
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from gmpo_mm.reports.map_figures import collapse_words, interval_text, map_figures
from gmpo_mm.reports.page import Part
from gmpo_mm.reports.report_figure import ReportFigure
from gmpo_mm.reports.report_tables import LEVEL_TEXT, NOTHING, ReportTable, Row
from gmpo_mm.reports.scores import StudyScore, study_score
from gmpo_mm.reports.seed_statistics import SeedMean
from gmpo_mm.reports.study import Named, Study, StudyMap
from gmpo_mm.reports.study_map import Cell, Grid, kl_metric, map_cells
from gmpo_mm.reports.words import plural

CSV_COLUMNS = (
    "panel", "row", "column", "seed", "state", "score_start", "score_final", "kl_last", "entropy_last", "collapse", "reason",
)  # fmt: skip


@dataclass(frozen=True)
class MapReport:
    """The parts of a map's report."""

    headline: str
    summary: tuple[Part, ...]
    table: ReportTable
    figures: tuple[ReportFigure, ...]
    numbers: dict[str, Any]
    csv: str


def map_report(study: Study, grid: StudyMap) -> MapReport:
    """Everything that a report says of the study's map."""
    score = study_score(study)
    cells = map_cells(
        grid,
        study.variants,
        None if score is None else score.metric,
        percent=score is not None and score.percent,
    )
    return MapReport(
        map_headline(grid, cells), map_summary(study, grid, cells), map_table(grid, cells, score),
        tuple(map_figures(study, grid, cells, score)), map_numbers(study, grid, cells, score), map_csv(cells),
    )  # fmt: skip


def map_headline(grid: StudyMap, cells: Grid) -> str:
    """How many cells lie beyond the boundary."""
    ended = [cell for cell in cells.values() if cell.ended]
    beyond = sum(cell.beyond for cell in ended)
    runs = sum(len(cell.runs) for cell in cells.values())
    done = sum(cell.ended for cell in cells.values())
    collapsed = sum(cell.collapsed for cell in cells.values())
    return (
        f"{plural(len(grid.rows), 'loss').replace('losss', 'losses')} at {plural(len(grid.columns), 'value')} of {grid.axis}: "
        f"{done} of {plural(runs, 'run')} ended, {collapsed} of them collapsed; {beyond} of {plural(len(ended), 'cell')} lie "
        "beyond the collapse boundary."
    )


def map_summary(study: Study, grid: StudyMap, cells: Grid) -> tuple[Part, ...]:
    """For each panel, where each row collapses first; and the runs that ended by an error."""
    parts = []
    for panel in grid.panels:
        lines = [_row_words(grid, panel, row, cells) for row in grid.rows]
        parts.append(Part(panel.label or "Where each loss collapses", tuple(lines)))
    failed = [
        f"{variant.label}, {run.name}: {run.reason or 'no reason is known'}"
        for variant in study.variants for run in variant.runs if run.state == "failed"
    ]  # fmt: skip
    if failed:
        parts.append(Part("Runs that ended by an error", tuple(failed)))
    return (*parts, Part("What counts as collapsed", (collapse_words(grid, kl_metric(study.variants)),)))


def _row_words(grid: StudyMap, panel: Named, row: Named, cells: Grid) -> str:
    found = [(column, cells.get((panel.name, row.name, column.name))) for column in grid.columns]
    beyond = [column.label for column, cell in found if cell is not None and cell.beyond]
    some = [
        f"{column.label} ({cell.collapsed} of {cell.ended})"
        for column, cell in found
        if cell and cell.collapsed
    ]
    missing = [column.label for column, cell in found if cell is None or not cell.ended]
    if len(missing) == len(found):
        return f"{row.label}: no run has ended."
    if not some:
        words = "no run collapsed"
    else:
        words = f"runs collapsed at {grid.axis} {', '.join(some)}"
        words += (
            f"; beyond the boundary at {', '.join(beyond)}" if beyond else "; no cell is beyond the boundary"
        )
    return f"{row.label}: {words}" + (f"; nothing has ended at {', '.join(missing)}." if missing else ".")


def map_table(grid: StudyMap, cells: Grid, score: StudyScore | None) -> ReportTable:
    """A line for each cell."""
    percent = score is not None and score.percent
    factor = 100.0 if percent else 1.0
    columns = (
        *(["panel"] if len(grid.panels) > 1 else []), "loss", grid.axis, "runs", f"final score{' (%)' if percent else ''}",
        f"{LEVEL_TEXT} interval over seeds", "each seed", "collapsed", "KL at the end (nats)", "entropy at the end (nats)",
        "why collapsed",
    )  # fmt: skip
    rows = []
    for panel in grid.panels:
        for row in grid.rows:
            for column in grid.columns:
                cell = cells.get((panel.name, row.name, column.name))
                if cell is not None:
                    start = ([panel.label] if len(grid.panels) > 1 else []) + [row.label, column.label]
                    rows.append(Row((*start, *_cell_texts(cell, factor)), None))
    return ReportTable("map", "The map in numbers", "Means over runs that ended.", columns, tuple(rows))


def _cell_texts(cell: Cell, factor: float) -> tuple[str, ...]:
    why = Counter(run.collapse for run in cell.runs if run.collapse is not None)
    mean = cell.score
    return (
        f"{cell.ended}" if cell.ended == len(cell.runs) else f"{cell.ended} of {len(cell.runs)}",
        NOTHING if mean is None else _text(factor * mean.mean, factor),
        NOTHING if mean is None else interval_text(mean, factor),
        NOTHING if mean is None else ", ".join(_text(factor * value, factor) for value in mean.values),
        f"{cell.collapsed} of {cell.ended}" if cell.ended else NOTHING,
        NOTHING if cell.kl is None else f"{cell.kl.mean:.3g}",
        NOTHING if cell.entropy is None else f"{cell.entropy.mean:.3g}",
        "; ".join(f"{text}{f' ({count} times)' if count > 1 else ''}" for text, count in why.items()),
    )


def _text(value: float, factor: float) -> str:
    return f"{value:.1f}" if factor == 100 else f"{value:.3g}"


def map_numbers(study: Study, grid: StudyMap, cells: Grid, score: StudyScore | None) -> dict[str, Any]:
    """The map for report.json; scores are as they are logged."""

    def mean(found: SeedMean | None) -> dict[str, Any] | None:
        return None if found is None else asdict(found)

    return {
        "axis": grid.axis,
        "rows": [asdict(one) for one in grid.rows],
        "columns": [asdict(one) for one in grid.columns],
        "panels": [asdict(one) for one in grid.panels],
        "score": None if score is None else score.metric,
        "kl": kl_metric(study.variants),
        "collapse_kl": grid.collapse_kl,
        "exponents": dict(grid.exponents),
        "cells": [
            {
                "panel": panel, "row": row, "column": column, "runs": len(cell.runs), "ended": cell.ended,
                "collapsed": cell.collapsed, "beyond": cell.beyond, "score": mean(cell.score), "kl": mean(cell.kl),
                "entropy": mean(cell.entropy),
            }
            for (panel, row, column), cell in cells.items()
        ],
    }  # fmt: skip


def map_csv(cells: Grid) -> str:
    """A line for each run."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for place, cell in cells.items():
        for one in cell.runs:
            run = one.run
            numbers = [
                repr(value) if value is not None else ""
                for value in (one.start, one.score, one.kl, one.entropy)
            ]
            writer.writerow(
                [*place, run.seed or "", run.state, *numbers, one.collapse or "", run.reason or ""]
            )
    return text.getvalue()
