"""Make CountDown problems: reach a target with each number exactly once and + - * / (TinyZero's task).

    gmpo-mm data countdown --out data/countdown

writes `train.parquet` and `test.parquet` with problem, answer, id, source, operands, numbers, target and one solution. The
answer is `{"numbers": [...], "target": ...}`, which the countdown reward and grader read. No problem occurs twice, in one
split or in both, whatever the order of its numbers; `--hold-out numbers` keeps the test's numbers out of training with any
target. The same seed, sizes and ranges give the same files. A set that is trained on and a set that is tested on have to come
from one call: two seeds know nothing of each other.

    gmpo-mm data countdown --tiny --out data/countdown_tiny

writes what the bundled text models were warm-started on and can learn: three numbers from 1 to 20, + and -, targets from 1
to 60, as `3 8 2 -> 9`; 4,096 problems to train on and 256 held out, which the warm start has not seen.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import typer

from gmpo_mm.datasets.preparing import write_tables
from gmpo_mm.errors import DataError
from gmpo_mm.toys.countdown import (
    HOLD_OUTS,
    OPERATORS,
    PROMPTS,
    TEST_SIZE,
    TINY,
    TINY_TEST_SIZE,
    TINY_TRAIN_SIZE,
    TRAIN_SIZE,
    CountdownProblem,
    CountdownSettings,
    make_rows,
    make_splits,
)

SCHEMA = pa.schema(
    [
        ("problem", pa.string()),
        ("answer", pa.string()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("operands", pa.int64()),
        ("numbers", pa.list_(pa.int64())),
        ("target", pa.int64()),
        ("solution", pa.string()),
    ]
)


def main(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder for the two Parquet files.")] = Path("data/countdown"),
    train_size: Annotated[int, typer.Option(min=1, help="Problems to train on.")] = TRAIN_SIZE,
    test_size: Annotated[int, typer.Option(min=1, help="Problems held out.")] = TEST_SIZE,
    numbers: Annotated[
        str, typer.Option(help="How many numbers a problem has; counts in equal shares, commas between.")
    ] = "3,4",
    min_number: Annotated[int, typer.Option(help="The least number.")] = 1,
    max_number: Annotated[int, typer.Option(help="The largest number.")] = 99,
    min_target: Annotated[int, typer.Option(help="The least target.")] = 1,
    max_target: Annotated[int, typer.Option(help="The largest target.")] = 100,
    operators: Annotated[str, typer.Option(help=f"Some of {OPERATORS}, without spaces.")] = OPERATORS,
    seed: Annotated[int, typer.Option(help="Decides which problems are drawn and which are held out.")] = 0,
    hold_out: Annotated[
        str, typer.Option(help=f"What of the test is kept out of training: {' or '.join(HOLD_OUTS)}.")
    ] = "problems",
    prompt: Annotated[str, typer.Option(help=f"The question's wording: {', '.join(PROMPTS)}.")] = "ours",
    tiny: Annotated[bool, typer.Option("--tiny", help="The bundled text models' form; goes with --out alone.")] = False,
) -> None:
    """Write the two splits."""
    if tiny:
        given = [name for name in context.params if str(context.get_parameter_source(name)).endswith("COMMANDLINE")]
        if others := sorted(set(given) - {"out", "tiny"}):
            raise DataError(f"--tiny fixes every setting, and --{others[0].replace('_', '-')} was given too; leave one out")
        _write(out, TINY, make_splits(TINY, TINY_TRAIN_SIZE, TINY_TEST_SIZE), "short")
        return
    if not re.fullmatch(r"\d+(,\d+)*", numbers):
        raise DataError(f"--numbers {numbers}: give counts with commas between, as 3,4")
    operands = tuple(dict.fromkeys(int(count) for count in numbers.split(",")))
    settings = CountdownSettings(operands, min_number, max_number, min_target, max_target, seed, operators)
    _write(out, settings, make_splits(settings, train_size, test_size, hold_out), prompt)


def _write(out: Path, settings: CountdownSettings, splits: dict[str, list[CountdownProblem]], prompt: str) -> None:
    tables = {
        out / f"{split}.parquet": pa.Table.from_pylist(make_rows(problems, split, settings.seed, prompt), SCHEMA)
        for split, problems in splits.items()
    }
    write_tables(tables)
    for path, table in tables.items():
        typer.echo(f"{path}: {table.num_rows:,} problems")


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command(help=__doc__, epilog="Example: gmpo-mm data countdown --tiny --out data/countdown_tiny")(main)
