"""Make arithmetic in words: what SmolLM2-135M can nearly do (docs/results/smollm2.md).

    gmpo-mm data word_problems --out data/word_problems

writes `train.parquet`, `test.parquet` and `transfer.parquet` with problem, answer, id, source, kind, steps, numbers and one
solution. The test asks for the same kinds of calculation in other stories and with numbers that training never shows. The
transfer split asks for kinds of calculation that training has none of: three steps, averages, perimeters, change. The same
seed and sizes give the same files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pyarrow as pa
import typer

from gmpo_mm.datasets.preparing import write_tables
from gmpo_mm.toys.word_problems import make_rows

SCHEMA = pa.schema(
    [
        ("problem", pa.string()),
        ("answer", pa.string()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("kind", pa.string()),
        ("steps", pa.int64()),
        ("numbers", pa.list_(pa.int64())),
        ("solution", pa.string()),
    ]
)


def main(
    out: Annotated[Path, typer.Option(help="Folder for the three Parquet files.")] = Path("data/word_problems"),
    train_size: Annotated[int, typer.Option(min=1, help="Problems to train on.")] = 1024,
    test_size: Annotated[int, typer.Option(min=1, help="Problems held out.")] = 128,
    transfer_size: Annotated[int, typer.Option(min=1, help="Problems of other kinds.")] = 128,
    seed: Annotated[int, typer.Option(help="Decides which problems are drawn.")] = 0,
) -> None:
    """Write the three splits."""
    sizes = {"train": train_size, "test": test_size, "transfer": transfer_size}
    tables = {
        out / f"{split}.parquet": pa.Table.from_pylist(make_rows(split, size, seed), SCHEMA) for split, size in sizes.items()
    }
    write_tables(tables)
    for path, table in tables.items():
        typer.echo(f"{path}: {table.num_rows:,} problems")


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command(help=__doc__, epilog="Example: gmpo-mm data word_problems --out data/word_problems")(main)
