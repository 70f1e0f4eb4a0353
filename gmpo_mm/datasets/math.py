"""Prepare MATH (arXiv 2103.03874) without MATH500 for training: levels 3 to 5 as Parquet records.

    gmpo-mm data math files path/to/MATH --math500 data/eval_suite/math500.parquet
    gmpo-mm data math hub --math500 data/eval_suite/math500.parquet

The first reads the original's folder (`{train,test}/SUBJECT/NUMBER.json`), or JSON Lines or Parquet files; the second a hub
data set with splits train and test. Wanted are problem, level and either answer or solution (the gold is then the
solution's last box); subject or type and unique_id are taken where they are. A problem is one of MATH500 when its unique_id
or its text is: spaces, `$`, braces and fonts aside.

All 12,500 problems less 500 are 12,000; 8,888 have level 3 to 5; two of them have no gold and are left out: 8,886. One
gold is corrected by hand. The 8,523 problems of the papers' runs are chosen by a rule that isn't published.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import typer

from gmpo_mm.data.sources import SUFFIXES, read_rows
from gmpo_mm.datasets.preparing import (
    answer_text,
    need_columns,
    problem_key,
    problem_text,
    read_splits,
    write_tables,
)
from gmpo_mm.errors import DataError
from gmpo_mm.verifiers.extraction import last_boxed

HUB = "nlile/hendrycks-MATH-benchmark"
MATH500_PROBLEMS = 500
EXPECTED = 8886
SCHEMA = pa.schema(
    [
        ("problem", pa.string()),
        ("answer", pa.string()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("level", pa.int64()),
        ("subject", pa.string()),
    ]
)
# Its solution boxes numbers as part of the question and ends by saying that it won't box the answer: copies' golds are wrong.
_BOXED_NUMBERS = (
    r"Let $\boxed{N}$ mean the number of whole number divisors of $N$. For example, $\boxed{3}=2$, because $3$ has two "
    r"divisors, $1$ and $3.$ Find the value of \[\boxed{\boxed{11}\times\boxed{20}}\]"
)
CORRECTED = {problem_key(_BOXED_NUMBERS): "6"}
_BARE_BOX = re.compile(r"\\(?:boxed|fbox)\s+([^\s${}\\]+)")

Row = dict[str, Any]
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
_Out = Annotated[Path, typer.Option(help="The Parquet file.")]
_Math500 = Annotated[str, typer.Option(help="MATH500: a file with its problems, or a hub data set as NAME@SPLIT.")]
_Levels = Annotated[str, typer.Option(help="Levels to keep, with commas between.")]
_Expect = Annotated[int, typer.Option(min=0, help="Number of problems that must come out; 0 takes any number.")]


def read_original(root: Path) -> list[Row]:
    """Rows of the original's folder, one JSON file a problem, by subject and number; the path becomes the unique_id."""
    paths = [path for split in ("train", "test") for path in root.glob(f"{split}/*/*.json")]
    rows = []
    for path in sorted(paths, key=lambda path: (path.parent, len(path.name), path.name)):
        found = read_rows(str(path))
        if len(found) != 1:
            raise DataError(f"{path}: {len(found)} objects where the original has one")
        rows.append({"unique_id": path.relative_to(root).as_posix(), **found.row(0)})
    return rows


def read_files(root: Path) -> list[Row]:
    """Rows of a file, of the original's folder, or of a folder of JSON Lines or Parquet files, sorted by name."""
    if root.is_dir():
        if rows := read_original(root):
            return rows
        files = sorted(path for path in root.iterdir() if path.suffix in SUFFIXES)
        if not files:
            raise DataError(f"{root}: neither train/SUBJECT/NUMBER.json as in the original nor {', '.join(SUFFIXES)} files")
        return [row for path in files for row in read_files(path)]
    found = read_rows(str(root))
    return [found.row(i) for i in range(len(found))]


def gold(row: Row, where: str) -> str:
    """The answer column, else the solution's last box; empty when there is none. Raises DataError without either column."""
    if row.get("answer") is not None:
        return answer_text(row["answer"], where)
    solution = row.get("solution")
    if not isinstance(solution, str):
        raise DataError(f"{where}: neither answer nor solution; its columns are {', '.join(row)}")
    braced, bare = last_boxed(solution), list(_BARE_BOX.finditer(solution))
    if bare and bare[-1].start() >= max(solution.rfind("\\boxed"), solution.rfind("\\fbox")):
        return bare[-1].group(1)  # `\boxed 2`
    return (braced or "").strip()


def level(row: Row, where: str) -> int:
    """1 to 5; 0 where the original has none (`Level ?`). Raises DataError for anything else."""
    match = re.fullmatch(r"(?:Level )?([1-5?])", str(row.get("level")).strip())
    if match is None:
        raise DataError(f"{where}: level {row.get('level')!r} is none of Level 1 to Level 5")
    return int(match.group(1).replace("?", "0"))


def identities(rows: Iterable[Row]) -> tuple[set[str], set[str]]:
    """The unique_ids and the `problem_key`s of these problems."""
    ids, keys = set(), set()
    for row in rows:
        keys.add(problem_key(row["problem"]))
        if row.get("unique_id"):
            ids.add(row["unique_id"])
    return ids, keys


def select(rows: list[Row], math500: list[Row], levels: set[int]) -> tuple[list[Row], Counter[str]]:
    """The records, and how many rows went where. Raises DataError that names a broken row."""
    ids, keys = identities(math500)
    counts: Counter[str] = Counter({"rows": len(rows)})
    records: list[Row] = []
    left_out, seen = set(), set()
    for index, row in enumerate(rows):
        where = f"row {index}" + (f" ({row['unique_id']})" if row.get("unique_id") else "")
        problem = problem_text(row.get("problem"), where)
        key, answer, its_level = problem_key(problem), gold(row, where), level(row, where)
        if answer != CORRECTED.get(key, answer):
            counts["golds corrected"] += 1
            answer = CORRECTED[key]
        if row.get("unique_id") in ids or key in keys:
            counts["in MATH500"] += 1
            left_out.add(key)
        elif its_level not in levels:
            counts["of another level"] += 1
        elif not answer:
            counts["without a gold"] += 1
        else:
            counts["repeated, kept"] += key in seen
            seen.add(key)
            records.append(
                {"problem": problem, "answer": answer, "id": str(row.get("unique_id") or f"MATH-{index}"),
                 "source": "MATH", "level": its_level, "subject": row.get("subject") or row.get("type")}
            )  # fmt: skip
    counts["problems of MATH500 found"] = len(left_out)
    counts["left"] = len(records)
    return records, counts


def _convert(rows: list[Row], out: Path, math500: str, levels: str, expect: int) -> None:
    wanted = {int(text) for text in re.findall(r"\d+", levels)}
    if not wanted or not wanted <= set(range(1, 6)):
        raise DataError(f"--levels {levels}: give levels from 1 to 5 with commas between")
    try:
        test = read_rows(math500)
    except DataError as error:
        raise DataError(f"--math500: {error}; gmpo-mm data eval_suite prepares math500.parquet") from error
    need_columns(test, ("problem",), math500)
    if len(test) != MATH500_PROBLEMS:
        raise DataError(f"--math500 {math500}: {len(test)} problems, not {MATH500_PROBLEMS}")
    records, counts = select(rows, [test.row(i) for i in range(len(test))], wanted)
    for what, count in counts.items():
        typer.echo(f"{count:>6,} {what}")
    if expect and len(records) != expect:
        raise DataError(f"{len(records):,} problems came out, not {expect:,}; complete the source, or give --expect 0")
    write_tables({out: pa.Table.from_pylist(records, SCHEMA)})
    typer.echo(f"{out}: {len(records):,} rows")


@app.command(epilog="Example: gmpo-mm data math files MATH --math500 data/eval_suite/math500.parquet")
def files(
    root: Annotated[Path, typer.Argument(metavar="PATH", help="The original's folder, or a file or folder of rows.")],
    out: _Out = Path("data/math/train.parquet"),
    math500: _Math500 = "data/eval_suite/math500.parquet",
    levels: _Levels = "3,4,5",
    expect: _Expect = EXPECTED,
) -> None:
    """Convert files that lie here."""
    _convert(read_files(root), out, math500, levels, expect)


@app.command(epilog="Example: gmpo-mm data math hub --math500 data/eval_suite/math500.parquet")
def hub(
    name: Annotated[str, typer.Argument(help="Data set of the hub with splits train and test.")] = HUB,
    out: _Out = Path("data/math/train.parquet"),
    math500: _Math500 = "data/eval_suite/math500.parquet",
    levels: _Levels = "3,4,5",
    expect: _Expect = EXPECTED,
) -> None:
    """Convert a data set of the hub: both splits, since MATH500 is what is held out."""
    _convert(read_splits(name, ("train", "test")), out, math500, levels, expect)
