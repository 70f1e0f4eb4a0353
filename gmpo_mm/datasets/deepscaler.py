"""Prepare DeepScaleR-Preview (about 40,000 contest problems, agentica-org) for training as Parquet records.

    gmpo-mm data deepscaler --exclude data/eval_suite/aime24.parquet --exclude data/eval_suite/amc.parquet ...
    gmpo-mm data deepscaler path/to/deepscaler.json --exclude ...

Takes the hub's data set or a file of it with problem, answer, solution. Left out, counted and named are problems without an
answer, repeated problems, and problems of the files given with --exclude: the benchmarks that the model will be judged by.
Two problems are the same when their texts are: spaces, `$`, braces and fonts aside. A problem in other words isn't found.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import typer

from gmpo_mm.data.sources import Rows, read_rows
from gmpo_mm.datasets.preparing import answer_text, need_columns, problem_key, problem_keys, problem_text, write_tables
from gmpo_mm.errors import DataError

HUB = "agentica-org/DeepScaleR-Preview-Dataset@train"
HUB_ROWS = 40315
SHOWN = 10
SCHEMA = pa.schema([(name, pa.string()) for name in ("problem", "answer", "id", "source", "solution")])


def select(rows: Rows, excluded: dict[str, str]) -> tuple[list[dict[str, Any]], dict[str, list[int]]]:
    """The records, and for each reason the rows that were left out; `excluded` maps `problem_key`s to their file.

    Raises DataError that names a broken row.
    """
    need_columns(rows, ("problem", "answer"), "DeepScaleR")
    records: list[dict[str, Any]] = []
    left_out: dict[str, list[int]] = {}
    golds: dict[str, str] = {}
    for index in range(len(rows)):
        row, where = rows.row(index), f"row {index}"
        problem, answer = problem_text(row["problem"], where), answer_text(row["answer"], where)
        key = problem_key(problem)
        if not answer:
            reason = "without an answer"
        elif key in excluded:
            reason = f"in {excluded[key]}"
        elif key in golds:
            reason = "repeated" if golds[key] == answer else "repeated, with another answer than before"
        else:
            golds[key] = answer
            records.append(
                {"problem": problem, "answer": answer, "id": f"DeepScaleR-{index}", "source": "DeepScaleR",
                 "solution": row.get("solution")}
            )  # fmt: skip
            continue
        left_out.setdefault(reason, []).append(index)
    return records, left_out


def main(
    source: Annotated[str, typer.Argument(help="A file (JSON, JSON Lines, Parquet), or a hub data set as NAME@SPLIT.")] = HUB,
    out: Annotated[Path, typer.Option(help="The Parquet file.")] = Path("data/deepscaler/train.parquet"),
    exclude: Annotated[
        list[str] | None, typer.Option(help="A file with problems to leave out; can be given several times.")
    ] = None,
    expect_rows: Annotated[
        int, typer.Option(min=0, help="Number of rows that the source must have; 0 takes any number.")
    ] = HUB_ROWS,
) -> None:
    """Write DeepScaleR's records."""
    rows = read_rows(source)
    if expect_rows and len(rows) != expect_rows:
        raise DataError(f"{source}: {len(rows):,} rows, not {expect_rows:,}; complete it, or give --expect-rows 0")
    excluded = problem_keys(exclude or [])
    records, left_out = select(rows, excluded)
    typer.echo(f"{len(rows):>6,} rows")
    for reason, indices in left_out.items():
        shown = ", ".join(map(str, indices[:SHOWN])) + (", ..." if len(indices) > SHOWN else "")
        typer.echo(f"{len(indices):>6,} {reason}: row {shown}")
    if not exclude:
        typer.echo("note: no --exclude, so problems of the benchmarks may be among these", err=True)
    if not records:
        raise DataError(f"{source}: no problem is left")
    write_tables({out: pa.Table.from_pylist(records, SCHEMA)})
    typer.echo(f"{out}: {len(records):,} rows")


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command(help=__doc__, epilog="Example: gmpo-mm data deepscaler --exclude data/eval_suite/math500.parquet")(main)
