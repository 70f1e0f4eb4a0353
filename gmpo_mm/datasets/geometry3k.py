"""Prepare Geometry3K (Inter-GPS, arXiv 2105.04165) as Parquet records: images, problem, answer, annotations.

    gmpo-mm data geometry3k intergps path/to/geometry3k --out data/geometry3k
    gmpo-mm data geometry3k hub --out data/geometry3k

The first reads the original's unpacked archives, `{train,val,test}/ID/{data.json,img_diagram.png}`, and sorts by id.
The second takes the hub's data set, which has images, problem and answer only, in the hub's own order. Both give the
same problems: `<image>` and the annotated text; the answer is the text of the right choice. Training takes the result
as `data.train_files=data/geometry3k@train`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import typer

from gmpo_mm.data.images import ImageSource, check_image
from gmpo_mm.errors import DataError

COUNTS = {"train": 2101, "validation": 300, "test": 601}
FOLDERS = {"train": "train", "validation": "val", "test": "test"}
LETTERS = "ABCD"
ROW_GROUP = 256

Row = dict[str, Any]
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
_Out = Annotated[Path, typer.Option(help="Folder for geometry3k_{train,validation,test}.parquet.")]
_Partial = Annotated[bool, typer.Option(help="Take what is there instead of asking for all 2,101 / 300 / 601 rows.")]


def _features(names: list[str]) -> tuple[pa.Schema, bytes]:
    """Arrow schema, and the same as `datasets`' metadata in the spelling that old and new versions read."""
    text, texts = pa.string(), pa.list_(pa.string())
    types: dict[str, pa.DataType] = {
        "images": pa.list_(pa.struct([("bytes", pa.binary()), ("path", text)])),
        "problem": text,
        "answer": text,
        "id": pa.int64(),
        "letter": text,
        "choices": texts,
        "problem_text": text,
        "precise_value": pa.list_(pa.float64()),
        "problem_type_graph": texts,
        "problem_type_goal": texts,
    }

    def feature(kind: pa.DataType) -> dict[str, Any]:
        if pa.types.is_struct(kind):
            return {"_type": "Image"}
        if pa.types.is_list(kind):
            return {"feature": feature(kind.value_type), "_type": "Sequence"}
        return {"dtype": {"double": "float64"}.get(str(kind), str(kind)), "_type": "Value"}

    described = {"info": {"features": {name: feature(types[name]) for name in names}}}
    return pa.schema([(name, types[name]) for name in names]), json.dumps(described).encode()


def intergps_row(folder: Path, split: str) -> Row:
    """One problem of the original. Raises DataError that names the folder."""
    try:
        data = json.loads((folder / "data.json").read_text(encoding="utf-8"))
        picture = (folder / "img_diagram.png").read_bytes()
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: can't read data.json and img_diagram.png: {error}") from error
    check_image(ImageSource(data=picture), f"{folder}/img_diagram.png")
    names = ("id", "annotat_text", "choices", "answer", "problem_text", "precise_value", "problem_type_graph")
    if missing := [name for name in (*names, "problem_type_goal") if name not in data]:
        raise DataError(f"{folder}/data.json: no {', '.join(missing)}; is this the original Geometry3K?")
    if str(data["id"]) != folder.name:
        raise DataError(f"{folder}/data.json: id {data['id']} differs from the folder's name")
    letter, choices = data["answer"], data["choices"]
    if letter not in tuple(LETTERS[: len(choices)]) or not choices[LETTERS.index(letter)].strip():
        raise DataError(f"{folder}/data.json: answer {letter!r} is none of its {len(choices)} choices")
    return {
        "images": [{"bytes": picture, "path": f"{FOLDERS[split]}_{data['id']}_img_diagram.png"}],
        "problem": "<image>" + data["annotat_text"],
        "answer": choices[LETTERS.index(letter)],
        "id": int(data["id"]),
        "letter": letter,
        "choices": choices,
        "problem_text": data["problem_text"],
        "precise_value": [_number(value) for value in data["precise_value"]],
        "problem_type_graph": data["problem_type_graph"],
        "problem_type_goal": data["problem_type_goal"],
    }


def _number(value: Any) -> float | None:
    """A choice's value; None where the original has text or nothing."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def read_intergps(root: Path, split: str) -> list[Row]:
    """All problems of a split, by id; empty when its folder is missing."""
    folder = root / FOLDERS[split]
    problems = sorted(
        (path for path in folder.glob("*") if path.is_dir()), key=lambda path: (len(path.name), path.name)
    )
    return [intergps_row(path, split) for path in problems]


def read_hub(name: str, split: str) -> list[Row]:
    """Images, problem and answer of a split of the hub's data set, in its order; DataError when it can't be had."""
    from gmpo_mm.data.records import RecordKeys, Records, check_records
    from gmpo_mm.data.sources import read_rows

    rows = read_rows(f"{name}@{split}")
    check_records(Records(rows, RecordKeys(prompt_key="problem"), f"{name}@{split}"))
    return [{key: rows.row(i)[key] for key in ("images", "problem", "answer")} for i in range(len(rows))]


def check_counts(tables: dict[str, list[Row]], allow_partial: bool) -> None:
    """Raise DataError unless each split has its number of rows (or, partial, at least one split has any)."""
    found = {split: len(rows) for split, rows in tables.items()}
    if found != COUNTS and not allow_partial:
        raise DataError(
            "expected " + ", ".join(f"{split} {count}" for split, count in COUNTS.items()) + " rows, found "
            + ", ".join(f"{split} {count}" for split, count in found.items())
            + "; complete the source, or use --allow-partial"
        )  # fmt: skip
    if not any(found.values()):
        raise DataError("no problem found; the source needs folders train, val and test with one folder a problem")


def write_splits(tables: dict[str, list[Row]], out: Path) -> list[Path]:
    """Write a Parquet file for each split that has rows; all are complete before the first appears under its name."""
    out.mkdir(parents=True, exist_ok=True)
    written = []
    try:
        for split, rows in tables.items():
            if rows:
                schema, metadata = _features(list(rows[0]))
                table = pa.Table.from_pylist(rows, schema=schema.with_metadata({"huggingface": metadata}))
                path = out / f"geometry3k_{split}.parquet"
                aside = path.with_name(f".{path.name}.{os.getpid()}")
                written.append((aside, path))
                with open(aside, "wb") as file:
                    pq.write_table(table, file, compression="zstd", row_group_size=ROW_GROUP)
                    file.flush()
                    os.fsync(file.fileno())
        for aside, path in written:
            aside.replace(path)
    finally:
        for aside, _ in written:
            aside.unlink(missing_ok=True)
    return [path for _, path in written]


def _convert(tables: dict[str, list[Row]], out: Path, allow_partial: bool) -> None:
    check_counts(tables, allow_partial)
    for path in write_splits(tables, out):
        typer.echo(f"{path}: {pq.read_metadata(path).num_rows} rows")


@app.command(epilog="Example: gmpo-mm data geometry3k intergps InterGPS/geometry3k --out data/geometry3k")
def intergps(
    root: Annotated[Path, typer.Argument(help="Folder with train, val and test of the unpacked release.")],
    out: _Out = Path("data/geometry3k"),
    allow_partial: _Partial = False,
) -> None:
    """Convert the original folders."""
    _convert({split: read_intergps(root, split) for split in COUNTS}, out, allow_partial)


@app.command(epilog="Example: gmpo-mm data geometry3k hub --out data/geometry3k")
def hub(
    name: Annotated[
        str, typer.Argument(help="Data set of the hub, or a folder of its Parquet files.")
    ] = "hiyouga/geometry3k",
    out: _Out = Path("data/geometry3k"),
    allow_partial: _Partial = False,
) -> None:
    """Convert the hub's data set."""
    _convert({split: read_hub(name, split) for split in COUNTS}, out, allow_partial)
