"""Prepare the five language benchmarks of Dr. GRPO (arXiv 2503.20783): AIME24, AMC, MATH500, Minerva, OlympiadBench.

    gmpo-mm data eval_suite folder path/to/understand-r1-zero/datasets/evaluation_suite --out data/eval_suite
    gmpo-mm data eval_suite hub --out data/eval_suite

The first reads the arrow folders of the repository sail-sg/understand-r1-zero (or a hub data set's Parquet files,
downloaded); the second a hub data set of the same five splits. Both write aime24, amc, math500, minerva and
olympiadbench.parquet with problem, answer, answers (any one counts), id, source, difficulty. Whole golds lose their `.0`
(AMC's are floats), leading zeros stay (AIME), a gold's line breaks at its ends go (Minerva), `$` stays (OlympiadBench).

The number of rows (30, 83, 500, 272, 675) and the SHA-256 of problems and golds are compared with the repository's, so that
a benchmark's name means one set of problems. The hub's data set has no difficulty, which is then null.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import typer

from gmpo_mm.data.sources import Part, Rows, read_rows
from gmpo_mm.datasets.preparing import answer_text, need_columns, problem_text, write_tables
from gmpo_mm.errors import DataError

HUB = "lkevinzc/math-eval"


@dataclass(frozen=True)
class Source:
    """A split of the suite: our name, rows, and first 16 digits of the SHA-256 of its problems and of its golds."""

    name: str
    rows: int
    problems: str
    golds: str


SUITE = {
    "aime": Source("aime24", 30, "686c1b5f0adbab85", "b3d2f55d41a61661"),
    "amc": Source("amc", 83, "f2c6dc4f5fcda3d8", "73cf0da5f514615f"),
    "math": Source("math500", 500, "f2be42c84a8b6881", "e24127013fce4dd4"),
    "minerva": Source("minerva", 272, "bbd18c724ac52158", "58b4e13af68adac6"),
    "olympiad_bench": Source("olympiadbench", 675, "e9c9dc5f62ebff6f", "b0c3cb44f976f091"),
}
SCHEMA = pa.schema(
    [
        ("problem", pa.string()),
        ("answer", pa.string()),
        ("answers", pa.list_(pa.string())),
        ("id", pa.string()),
        ("source", pa.string()),
        ("difficulty", pa.float64()),
    ]
)

Record = dict[str, Any]
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
_Out = Annotated[Path, typer.Option(help="Folder for the five Parquet files.")]
_Different = Annotated[
    bool, typer.Option(help="Take other rows or golds than the public suite's; its numbers are then not comparable.")
]


def read_arrow(folder: Path) -> Rows:
    """The rows of a data set that `datasets` saved to disk. Raises DataError that names the folder."""
    try:
        names = [item["filename"] for item in json.loads((folder / "state.json").read_text(encoding="utf-8"))["_data_files"]]
        tables = []
        for name in names:
            with pa.OSFile(str(folder / Path(name).name)) as file, pa.ipc.open_stream(file) as stream:
                tables.append(stream.read_all())
        return Rows(pa.concat_tables(tables), (Part(folder.name, folder, 0),))
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise DataError(f"{folder}: can't read as a data set that was saved to disk: {error!r}; get the folder anew") from error


def read_folder(root: Path, split: str) -> Rows:
    """A split from `ROOT/SPLIT/` (arrow) or `ROOT/[data/]SPLIT-*.parquet` (a hub data set's files)."""
    if (root / split / "state.json").is_file():
        return read_arrow(root / split)
    files = sorted([*root.glob(f"{split}-*.parquet"), *root.glob(f"data/{split}-*.parquet")])
    if len(files) != 1:
        raise DataError(
            f"{root}: no {split}/state.json and {len(files)} files {split}-*.parquet; give the folder that holds "
            f"{', '.join(SUITE)}, as datasets/evaluation_suite of sail-sg/understand-r1-zero"
        )
    return read_rows(str(files[0]))


def gold_texts(value: Any, where: str) -> list[str]:
    """The golds of a row, without those that are the same but for white space. Raises DataError when one is empty."""
    texts = [answer_text(item, where) for item in (value if isinstance(value, list) else [value])]
    if not texts or not all(texts):
        raise DataError(f"{where}: answer {value!r} holds no gold or an empty one")
    return list(dict.fromkeys(texts))


def make_records(rows: Rows, split: str) -> list[Record]:
    """The records of a split. Raises DataError that names the row."""
    name = SUITE[split].name
    need_columns(rows, ("problem", "answer"), split)
    records = []
    for index in range(len(rows)):
        row, where = rows.row(index), f"row {index} of {split}"
        difficulty = row.get("difficulty")
        if difficulty is not None and not isinstance(difficulty, (int, float)):
            raise DataError(f"{where}: difficulty {difficulty!r} is no number")
        answers = gold_texts(row["answer"], where)
        if name == "amc":  # a copy may hold the repository's floats as texts, `142.0`
            answers = [text.removesuffix(".0") for text in answers]
        records.append(
            {"problem": problem_text(row["problem"], where), "answer": answers[0], "answers": answers,
             "id": f"{name}-{index}", "source": name, "difficulty": difficulty}
        )  # fmt: skip
    return records


def digests(records: list[Record]) -> tuple[str, str]:
    """SHA-256 of the problems and of the golds, their first 16 digits."""
    columns = [record["problem"] for record in records], [record["answers"] for record in records]
    problems, golds = (hashlib.sha256(json.dumps(column).encode()).hexdigest()[:16] for column in columns)
    return problems, golds


def check_suite(suite: dict[str, list[Record]]) -> None:
    """Raise DataError that names every split whose rows or content are not the public suite's."""
    faults = []
    for split, source in SUITE.items():
        records = suite[split]
        if len(records) != source.rows:
            faults.append(f"{split} has {len(records)} rows, not {source.rows}")
            continue
        found = digests(records)
        other = [what for what, a, b in zip(("problems", "golds"), found, (source.problems, source.golds)) if a != b]
        if other:
            faults.append(f"{split} has other {' and '.join(other)}")
    if faults:
        raise DataError(
            f"this is not the public suite: {'; '.join(faults)}. Take it from sail-sg/understand-r1-zero, or use "
            "--allow-different and don't call the results by the benchmarks' names"
        )


def _convert(rows: dict[str, Rows], out: Path, allow_different: bool) -> None:
    suite = {split: make_records(part, split) for split, part in rows.items()}
    if not allow_different:
        check_suite(suite)
    tables = {out / f"{SUITE[split].name}.parquet": pa.Table.from_pylist(suite[split], SCHEMA) for split in suite}
    write_tables(tables)
    for path, table in tables.items():
        typer.echo(f"{path}: {table.num_rows} rows")


@app.command(epilog="Example: gmpo-mm data eval_suite folder understand-r1-zero/datasets/evaluation_suite")
def folder(
    root: Annotated[Path, typer.Argument(metavar="PATH", help="Folder with aime, amc, math, minerva and olympiad_bench.")],
    out: _Out = Path("data/eval_suite"),
    allow_different: _Different = False,
) -> None:
    """Convert the repository's arrow folders, or a hub data set's Parquet files that lie here."""
    _convert({split: read_folder(root, split) for split in SUITE}, out, allow_different)


@app.command(epilog="Example: gmpo-mm data eval_suite hub --out data/eval_suite")
def hub(
    name: Annotated[str, typer.Argument(help="Data set of the hub with the five splits.")] = HUB,
    out: _Out = Path("data/eval_suite"),
    allow_different: _Different = False,
) -> None:
    """Convert a data set of the hub; the default is the copy of the suite's first author."""
    _convert({split: read_rows(f"{name}@{split}") for split in SUITE}, out, allow_different)
