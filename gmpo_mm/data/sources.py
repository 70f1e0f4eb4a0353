"""Where rows come from: Parquet, JSON Lines, JSON, a folder of one of these, or a data set of the Hugging Face hub."""

from __future__ import annotations

import bisect
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from gmpo_mm.config.hub import ask_hub, use_cache_only
from gmpo_mm.config.paths import looks_like_path
from gmpo_mm.errors import DataError
from gmpo_mm.machine_errors import is_out_of_memory

SUFFIXES = (".parquet", ".jsonl", ".json")
_MEND = "make or copy the file again, in the format that its name tells and JSON in UTF-8"
SPLIT_NAMES = {"train": "train", "test": "test", "validation": "validation", "valid": "validation", "val": "validation"}
SPLIT_NAMES["dev"] = "validation"
MAX_LINE = 64 << 20
"""Characters of one line of JSON Lines."""
MEMORY_LIMIT = 2 * 2**30
"""Uncompressed bytes above which Parquet files are memory-mapped (through `datasets`' cache) instead of read."""


@dataclass(frozen=True)
class Part:
    """The rows of one file: `first` is its first row's index among all rows; `folder` anchors relative image paths.

    `in_memory` rows come from the program itself and from no file.
    """

    name: str
    folder: Path | None
    first: int
    in_memory: bool = False


@dataclass(frozen=True)
class Rows:
    """Rows as dictionaries, from an Arrow table (large, image bytes stay in Arrow) or a list (small)."""

    data: pa.Table | Sequence[dict[str, Any]]
    parts: tuple[Part, ...]
    start: int = 0
    stop: int = field(default=-1)

    def __len__(self) -> int:
        return (len(self.data) if self.stop < 0 else self.stop) - self.start

    @property
    def columns(self) -> list[str]:
        """Column names; for a list of dictionaries the union of all keys, in order of appearance."""
        if isinstance(self.data, pa.Table):
            return list(self.data.column_names)
        return list(dict.fromkeys(key for row in self.data for key in row))

    def row(self, index: int) -> dict[str, Any]:
        """One row; binary columns come as bytes and are not decoded."""
        if isinstance(self.data, pa.Table):
            return self.data.slice(self.start + index, 1).to_pylist()[0]
        return self.data[self.start + index]

    def column(self, name: str) -> list[Any]:
        """All values of one column; None where a row has none."""
        if isinstance(self.data, pa.Table):
            return self.data.column(name).slice(self.start, len(self)).to_pylist()
        return [row.get(name) for row in self.data[self.start : self.start + len(self)]]

    def part(self, index: int) -> tuple[Part, int]:
        """The file that a row came from, and the row's index in that file, from 0."""
        position = self.start + index
        part = self.parts[bisect.bisect_right([part.first for part in self.parts], position) - 1]
        return part, position - part.first


def read_rows(spec: str) -> Rows:
    """Read `path`, `folder`, `folder@split` or `hub/name@split`; a split may carry a slice, `train[:100]`.

    The split defaults to `train`, as in EasyR1. In a folder, files whose names carry a split (`train-00000.parquet`,
    `geometry3k_test.parquet`) are taken by it; files without one all belong to `train`. A single file is `train`.

    Raises DataError when nothing is there, when files disagree, or when the hub doesn't give the data set.
    """
    path, split, bounds = _parse_spec(spec)
    if path.is_file():
        if split != "train":
            raise DataError(f"{spec}: a single file has no split {split!r}; leave out '@{split}' or name a folder")
        return _sliced(_read_files([path]), bounds, spec)
    if path.is_dir():
        return _sliced(_read_files(_files_of_split(path, split)), bounds, spec)
    return _read_hub(spec)


def first_rows(spec: str, count: int = 100) -> Rows:
    """Some of the first rows of `spec` (see `read_rows`), without reading all of a large file where that can be avoided."""
    path, split, _ = _parse_spec(spec)
    if path.is_dir():
        path = _files_of_split(path, split)[0]
    part = (Part(path.name, path.parent, 0),)
    try:
        if path.is_file() and path.suffix == ".parquet":
            batch = next(pq.ParquetFile(path).iter_batches(count), None)
            return Rows(pa.Table.from_batches([batch]) if batch is not None else pq.read_table(path), part)
        if path.is_file() and path.suffix == ".jsonl":
            with path.open(encoding="utf-8") as file:
                lines = list(itertools.islice(((i, line) for i, line in _bounded_lines(file, path) if line.strip()), count))
            if lines and not lines[0][1].lstrip().startswith("["):
                rows = [_parse_json(line, path, number) for number, line in lines]
                return Rows([row for row in rows if isinstance(row, dict)], part)
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, DataError) or is_out_of_memory(error):
            raise
        raise DataError(f"{spec}: can't be read: {_first_line(error)}; {_MEND}") from error
    return read_rows(spec)


def _parse_spec(spec: str) -> tuple[Path, str, str]:
    """Cut a spec into path, split name and slice ("" for all); a path that exists as written wins over '@'."""
    if not spec or not spec.strip():
        raise DataError("no data: data.train_files (or val_files) is empty; give a file, a folder or 'hub/name@split'")
    name, at, split = spec.rpartition("@")
    if not at or Path(spec).expanduser().exists():
        name, split = spec, "train"
    match = re.fullmatch(r"([\w.\-]+)(\[[^\]]*\])?", split)
    if match is None and Path(name).expanduser().exists():
        raise DataError(f"{spec}: can't read split {split!r}; write NAME or NAME[start:stop], as in 'train[:100]'")
    path = Path(name).expanduser()
    if looks_like_path(name, SUFFIXES) and not path.exists():
        raise DataError(
            f"{spec}: there is no file or folder {path.absolute()}; correct the path, or give a hub data set as "
            "'owner/name@split'"
        )
    return path, match.group(1) if match else split, (match.group(2) or "") if match else ""


def _files_of_split(folder: Path, split: str) -> list[Path]:
    """The data files of a split, sorted by name; files of other types (pictures, notes) are none of our business."""
    files = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file())
    if not files:
        below = sorted({str(path.parent) for path in folder.glob("*/*") if path.suffix in SUFFIXES})
        fix = f"name the folder that holds them: {', '.join(below)}" if below else "name a data file, or a folder with one"
        raise DataError(f"{folder}: no {', '.join(SUFFIXES)} file in this folder; {fix}")
    named = {path: _split_in_name(path) for path in files}
    if not any(named.values()):
        if split != "train":
            raise DataError(f"{folder}: no file is named after split {split!r}; found {_names(files)}")
        chosen = files
    elif unnamed := [path for path, name in named.items() if not name]:
        raise DataError(
            f"{folder}: some files are named after a split and {_names(unnamed)} not, so it can't be told what belongs "
            "to which; rename or move them, or name one file"
        )
    else:
        wanted = SPLIT_NAMES.get(split, split)
        chosen = [path for path, name in named.items() if name == wanted]
        if not chosen:
            raise DataError(f"{folder}: no file of split {split!r}; found {_names(files)}")
    if len({path.suffix for path in chosen}) > 1:
        raise DataError(f"{folder}: files of several types ({_names(chosen)}); keep one type, or name one file")
    return chosen


def _split_in_name(path: Path) -> str | None:
    found = {SPLIT_NAMES[word] for word in re.split(r"[^a-z]+", path.stem.lower()) if word in SPLIT_NAMES}
    return found.pop() if len(found) == 1 else None


def _names(paths: Sequence[Path]) -> str:
    shown = ", ".join(path.name for path in paths[:5])
    return shown + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")


def _read_files(files: list[Path]) -> Rows:
    if files[0].suffix == ".parquet":
        return _read_parquet(files)
    if files[0].suffix not in SUFFIXES:
        raise DataError(f"{files[0]}: can't read this type; known are {', '.join(SUFFIXES)}")
    rows: list[dict[str, Any]] = []
    parts = []
    for path in files:
        parts.append(Part(path.name, path.parent, len(rows)))
        rows += _read_json(path)
    return Rows(rows, tuple(parts))


def _read_parquet(files: list[Path]) -> Rows:
    parts = []
    count = size = 0
    try:
        for path in files:
            metadata = pq.read_metadata(path)
            parts.append(Part(path.name, path.parent, count))
            count += metadata.num_rows
            size += sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
        if size > MEMORY_LIMIT:
            import datasets

            loaded = datasets.Dataset.from_parquet([str(path) for path in files])
            return Rows(loaded.data.table, tuple(parts))
        table = pa.concat_tables([pq.read_table(path) for path in files], promote_options="default")
    except (pa.ArrowException, OSError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise DataError(f"{_names(files)}: can't read as Parquet: {_first_line(error)}; {_MEND}") from error
    return Rows(table, tuple(parts))


def _read_json(path: Path) -> list[dict[str, Any]]:
    """Objects of a JSON array, or one object a line; empty lines are allowed."""
    try:
        with path.open(encoding="utf-8") as file:
            if file.read(100).lstrip().startswith("["):
                file.seek(0)
                rows = _parse_json(file.read(), path, 1)
            else:
                file.seek(0)
                rows = [_parse_json(line, path, number) for number, line in _bounded_lines(file, path) if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: can't read as UTF-8 text: {error}; {_MEND}") from error
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            raise DataError(f"row {index} of {path.name}: expected an object with columns, got {type(row).__name__}")
    return rows


def _bounded_lines(file: TextIO, path: Path) -> Iterator[tuple[int, str]]:
    """Lines with their numbers, from 1; DataError for one that is too long, without reading it whole."""
    for number in itertools.count(1):
        line = file.readline(MAX_LINE + 1)
        if not line:
            return
        if len(line) > MAX_LINE:
            raise DataError(
                f"{path}: line {number} has more than {MAX_LINE:,} characters; one row a line is expected, so is a line break "
                "missing? Pictures belong into files or into Parquet"
            )
        yield number, line


def _parse_json(text: str, path: Path, first_line: int) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of more than 4,300 digits
        line = first_line + getattr(error, "lineno", 1) - 1
        reason = getattr(error, "msg", None) or _first_line(error)
        raise DataError(f"{path}: broken JSON in line {line}: {reason}; one object a line, or one array") from error


def _read_hub(spec: str) -> Rows:
    """A data set of the hub, memory-mapped from `datasets`' cache; the split goes to `datasets` as it is written."""
    import datasets

    name, _, split = spec.partition("@")
    why = ask_hub(name, "dataset")
    if why is not None:  # then `datasets` finds it in its cache at once, or not
        use_cache_only()
    try:
        loaded = datasets.load_dataset(name, split=split or "train")
    except Exception as error:  # The hub client raises many unrelated types; all mean: this data can't be had.
        raise DataError(
            f"{spec}: neither a file nor a folder here, and the Hugging Face hub did not give it "
            f"({why or f'{type(error).__name__}: {_first_line(error)}'}); check the name and the split, the network and, for a "
            "gated data set, HF_TOKEN - or download it and give the path"
        ) from error
    return Rows(loaded.data.table, (Part(spec, None, 0),))


def _sliced(rows: Rows, bounds: str, spec: str) -> Rows:
    if not bounds:
        return rows
    from datasets import ReadInstruction

    try:
        (absolute,) = ReadInstruction.from_spec(f"train{bounds}").to_absolute({"train": len(rows)})
    except (ValueError, AssertionError) as error:
        raise DataError(f"{spec}: can't take slice {bounds}: {_first_line(error)}") from error
    return Rows(rows.data, rows.parts, absolute.from_ or 0, len(rows) if absolute.to is None else absolute.to)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
