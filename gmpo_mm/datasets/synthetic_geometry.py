"""Draw the bundled task as Parquet records: problem, images, answer, id, source, kind.

    gmpo-mm data synthetic_geometry --out data/synthetic_geometry

writes `train.parquet`, `test_pictures.parquet` and `test_combinations.parquet`; gmpo_mm/toys/synthetic_geometry.py says
what each holds back from the others. The same seed and sizes give the same problems and the same pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pyarrow.parquet as pq
import typer

from gmpo_mm.toys.synthetic_geometry import BUNDLED_SEED, make_problem, make_rows

SCHEMA = pa.schema(
    [
        ("problem", pa.string()),
        ("images", pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))),
        ("answer", pa.string()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("kind", pa.string()),
    ]
)


def main(
    out: Annotated[Path, typer.Option(help="Folder for the three Parquet files.")],
    train_size: Annotated[int, typer.Option(min=1, help="Problems to train on.")] = 2048,
    test_size: Annotated[int, typer.Option(min=1, help="Problems in each of the two test splits.")] = 64,
    seed: Annotated[
        int, typer.Option(help="Decides what is held out; the bundled model was made with 0.")
    ] = BUNDLED_SEED,
) -> None:
    """Write the bundled task's three splits."""
    if seed != BUNDLED_SEED:
        typer.echo(f"note: the bundled model has seen number pairs and pictures that seed {seed} holds out", err=True)
    sizes = {"train": train_size, "test_pictures": test_size, "test_combinations": test_size}
    for split, size in sizes.items():
        make_problem(split, size - 1, seed)  # before anything is drawn: do so many exist?
    tables = {split: make_rows(split, size, seed) for split, size in sizes.items()}
    out.mkdir(parents=True, exist_ok=True)
    for split, rows in tables.items():
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), out / f"{split}.parquet")
        typer.echo(f"{out / f'{split}.parquet'}: {len(rows)} problems")


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command(help=__doc__, epilog="Example: gmpo-mm data synthetic_geometry --out data/synthetic_geometry")(main)
