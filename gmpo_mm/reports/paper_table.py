"""The paper's numbers beside ours, for a sweep that is one of the paper's tables; every column of the paper's is marked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gmpo_mm.evaluation.paper import PaperRow, paper_rows
from gmpo_mm.reports.report_tables import NOTHING, ReportTable, Row
from gmpo_mm.reports.scores import ScoreTable
from gmpo_mm.reports.study import Study
from gmpo_mm.reports.words import score_text


def paper_table(study: Study, tables: Sequence[ScoreTable]) -> ReportTable | None:
    """The paper's rows beside ours, where the sweep says which table it is of; None where it says none.

    Ours stand benchmark by benchmark where they are under what the paper says of its protocol, else as one score of another
    task. The page knows the paper's columns by their beginning, `paper: `.
    """
    number = (study.paper or {}).get("table")
    rows = [row for row in paper_rows() if row.table == number]
    if not rows or not tables:
        return None
    chosen = [_paper_row(rows, variant.paper_line, number) for variant in study.variants]
    shown = [row for row in chosen if row is not None] or rows
    benchmarks = list(dict.fromkeys(n.benchmark for row in shown for n in row.numbers))
    fitting = {table.spec.benchmark: table for table in tables if table.spec is not None and _fits(table, shown)}
    other = None if fitting else next((table for table in tables if table.key != "best"), tables[0])
    columns = ["variant", *([f"ours: {other.title}"] if other else []), "paper: line"]
    for name in benchmarks:
        columns += [*([f"ours: {name}"] if name in fitting else []), f"paper: {name}"]
    lines = []
    for i, (variant, row) in enumerate(zip(study.variants, chosen)):
        values = {} if row is None else {n.benchmark: f"{n.value:.1f}" for n in row.numbers}
        cells = [variant.label, *([_mean(other, i)] if other else []), NOTHING if row is None else row.numbers[0].model]
        for name in benchmarks:
            cells += [*([_mean(fitting[name], i)] if name in fitting else []), values.get(name, NOTHING)]
        lines.append(Row((*cells, NOTHING if row is None or row.average is None else f"{row.average:.1f}"), i))
    return ReportTable(
        "paper", "Beside the paper's numbers", _about(study, shown, other), (*columns, "paper: average"), tuple(lines)
    )


def _paper_row(rows: Sequence[PaperRow], line: int | None, number: Any) -> PaperRow | None:
    """The row of a line as the paper numbers it: Table 4 begins with line 0, the model before training."""
    index = None if line is None else line if number == 4 else line - 1
    return rows[index] if index is not None and 0 <= index < len(rows) else None


def _fits(table: ScoreTable, rows: Sequence[PaperRow]) -> bool:
    spec = table.spec
    return spec is not None and any(
        number.benchmark == spec.benchmark and number.protocol.fits(spec.protocol) for row in rows for number in row.numbers
    )


def _mean(table: ScoreTable, i: int) -> str:
    mean = table.rows[i].mean
    return NOTHING if mean is None else score_text(mean.mean, table)


def _about(study: Study, rows: Sequence[PaperRow], other: ScoreTable | None) -> str:
    theirs = ", ".join(dict.fromkeys(n.base_model or n.model for row in rows for n in row.numbers))
    mine = ", ".join(dict.fromkeys(_models(study))) or "other models"
    text = (
        f"Columns marked “paper” are the paper's, Table {rows[0].table} of {rows[0].numbers[0].source}, in percent, "
        f"with {theirs}; not measured here. Ours: with {mine}"
    )
    if other is None:
        return f"{text}, means over seeds, under what the paper says of its protocol."
    return f"{text}, {other.title}. Other problems or another protocol: the heights can't be compared."


def _models(study: Study) -> Iterable[str]:
    for variant in study.variants:
        for run in variant.runs:
            config: Mapping[str, Any] = run.config or {}
            name = config.get("worker", {}).get("actor", {}).get("model", {}).get("model_path")
            if name:
                yield str(name)
