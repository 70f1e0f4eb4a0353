"""What the commands of `gmpo-mm data` share: complete files or none, problems that are the same problem, errors as one line."""

from __future__ import annotations

import math
import os
import re
import shutil
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gmpo_mm.data.sources import Rows, read_rows
from gmpo_mm.errors import DataError, GMPOError

USER_ERROR = 2

# Commands that change how a formula looks and not what it says; `\dfrac` and `\tfrac` are taken care of apart.
_LOOKS = re.compile(r"\\(?:left|right|displaystyle|textstyle|limits|q?quad|[bB]igg?)(?![A-Za-z])|\\[ ,;:!()\[\]]|[~$]")
_FONTS = re.compile(r"\\(?:text|mathrm|mathbf|textbf|textit|emph|mbox)(?![A-Za-z])")
_UNSPOKEN = re.compile(r"[\s{}]+")


def problem_key(text: str) -> str:
    """The problem's text without what differs between copies of it: spaces, `$`, braces, case, fonts, kinds of `\\frac`.

    Numbers, letters and operators stay, so two problems that differ in one sign have two keys. A problem in other words has
    another key: equal keys mean the same problem, different keys don't mean that there is no overlap.
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    text = _FONTS.sub("", _LOOKS.sub("", text)).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    return _UNSPOKEN.sub("", text).rstrip(".?!:")


def problem_keys(specs: Iterable[str]) -> dict[str, str]:
    """`problem_key` of every problem in these files, folders or hub data sets, with the spec it comes from."""
    keys: dict[str, str] = {}
    for spec in specs:
        rows = read_rows(spec)
        need_columns(rows, ("problem",), spec)
        for index, problem in enumerate(rows.column("problem")):
            keys.setdefault(problem_key(problem_text(problem, f"row {index} of {spec}")), spec)
    return keys


def answer_text(value: Any, where: str) -> str:
    """A gold as text without white space at its ends; whole floats lose their `.0`; empty for None and empty text.

    Raises DataError for anything that is neither text nor a finite number.
    """
    if value is None or isinstance(value, str):
        return (value or "").strip()
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise DataError(f"{where}: answer {value!r} is neither text nor a finite number")


def problem_text(value: Any, where: str) -> str:
    """A problem's text as it is. Raises DataError when it is none, or empty."""
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: problem {value!r} is no text")
    return value


def need_columns(rows: Rows, names: Iterable[str], where: str) -> None:
    """Raise DataError when one of the columns is missing; the message names what is there."""
    if missing := [name for name in names if name not in rows.columns]:
        raise DataError(f"{where}: no column {', '.join(missing)}; its columns are {', '.join(rows.columns) or 'none'}")


def read_splits(spec: str, splits: Iterable[str]) -> list[dict[str, Any]]:
    """The rows of several splits of a hub data set or a folder, one after the other."""
    rows: list[dict[str, Any]] = []
    for split in splits:
        part = read_rows(f"{spec}@{split}")
        rows += [part.row(i) for i in range(len(part))]
    return rows


def write_tables(tables: Mapping[Path, pa.Table]) -> None:
    """Write Parquet files; all are complete and on the disk before the first appears under its name.

    Raises DataError when the folder can't be written to.
    """
    written = []
    try:
        for path, table in tables.items():
            if path.is_dir():
                raise IsADirectoryError(0, "it is a folder", str(path))
            path.parent.mkdir(parents=True, exist_ok=True)
            aside = path.with_name(f".{path.name}.{os.getpid()}")
            written.append((aside, path))
            aside.unlink(missing_ok=True)
            with open(aside, "xb") as file:  # made anew: what stands there, as a symbolic link, is not followed
                pq.write_table(table, file, compression="zstd")
                file.flush()
                os.fsync(file.fileno())
        for aside, path in written:
            aside.replace(path)
    except OSError as error:
        raise DataError(f"{error.filename or path}: can't write ({error.strerror or error}); give another --out") from error
    finally:
        for aside, _ in written:
            aside.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` to write into; it takes the name `path` when the block ends well, and is removed when not.

    Raises DataError when `path` holds something already, or can't be made.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise DataError(f"{path}: is there already; remove it, or give another --out")
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.mkdir(parents=True)
        yield aside
        aside.replace(path)
    except OSError as error:
        raise DataError(f"{error.filename or path}: can't write ({error.strerror or error}); give another --out") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def run_tool(app: Callable[[], Any]) -> None:
    """Run a command of `data_tools/`; an error that a user can fix is one red paragraph and exit code 2."""
    try:
        app()
    except GMPOError as error:
        from rich.console import Console
        from rich.text import Text

        Console(stderr=True).print(Text(f"error: {error}", style="red"), soft_wrap=True)
        raise SystemExit(USER_ERROR) from None
