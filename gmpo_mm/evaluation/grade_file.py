"""Grade a file of responses from anywhere: `gmpo-mm grade FILE`."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gmpo_mm.data.sources import Rows
from gmpo_mm.errors import ConfigError, DataError, GMPOError
from gmpo_mm.evaluation.response_files import read_responses
from gmpo_mm.runs.files import open_new
from gmpo_mm.runs.progress import Progress, clean
from gmpo_mm.verifiers import (
    DEFAULT_TIMEOUT,
    GRADERS,
    Grade,
    VerifierUnavailableError,
    check_grader,
    grade_responses,
    grader_info,
)
from gmpo_mm.verifiers.extraction import EXTRACTIONS
from gmpo_mm.verifiers.golds import gold_fault
from gmpo_mm.verifiers.graders import KINDS

GOLD_KEYS = ("answers", "answer", "ground_truth", "gold")
"""Where a row's gold is looked for when no key is given; the first that a row has."""

CHUNK = 2048  # responses graded at a time
ADDED = ("correct", "status", "extracted", "why", "grader")
MAX_GROUPS = 200


@dataclass(frozen=True)
class GradeFileSettings:
    """What to grade and how. Keys may reach into a column with dots: `reward_model.ground_truth`."""

    file: str
    response_key: str = "response"
    gold_key: str | None = None
    grader: str = "math"
    extraction: str = "auto"
    kind: str = "response"
    timeout: float = DEFAULT_TIMEOUT
    out: str | None = None
    overwrite: bool = False
    by: str | None = None
    problem_key: str | None = None
    unevaluated: str = "accept"
    format: str = "auto"
    """Which tool wrote the file (`response_files`); columns that are named make it rows."""


@dataclass
class Tally:
    """Counts of one group of rows; `accuracy` is the mean over rows of the mean over a row's samples."""

    rows: int = 0
    samples: int = 0
    row_accuracies: float = 0.0
    statuses: dict[str, int] = field(default_factory=dict)

    def add(self, grades: Sequence[Grade]) -> None:
        """Count one row."""
        self.rows += 1
        self.samples += len(grades)
        self.row_accuracies += sum(grade.correct for grade in grades) / len(grades)
        for grade in grades:
            self.statuses[grade.status] = self.statuses.get(grade.status, 0) + 1

    @property
    def accuracy(self) -> float:
        """NaN where there is no row."""
        return self.row_accuracies / self.rows if self.rows else float("nan")

    def share(self, status: str) -> float:
        """Share of the samples with that status."""
        return self.statuses.get(status, 0) / self.samples if self.samples else float("nan")


@dataclass(frozen=True)
class GradeFileReport:
    """The numbers of a graded file: all rows, and the groups of `by` in their values' order."""

    settings: GradeFileSettings
    stamp: dict[str, Any]
    total: Tally
    groups: dict[str, Tally]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class FileRow:
    data: dict[str, Any]
    responses: list[str | None]
    """None where a row, or one of its samples, has no answer."""
    several: bool
    gold: list[str]
    group: str
    problem: str | None


def grade_file(settings: GradeFileSettings, progress: Progress | None = None) -> GradeFileReport:
    """Grade every row of the file and write the grades beside them.

    A response that is null counts as no answer. DataError names the row that lacks a gold; ConfigError an argument that
    can't be meant. `out` appears whole when everything is graded, or not at all.
    """
    _check(settings)
    named = settings.response_key != "response" or settings.gold_key is not None
    rows, form = read_responses(settings.file, "rows" if named and settings.format == "auto" else settings.format)
    if not len(rows):
        raise DataError(f"{settings.file}: no rows in it, so there is nothing to grade")
    if settings.by is not None and settings.by.split(".")[0] not in rows.columns:
        raise DataError(f"{settings.file}: no column {settings.by!r} for --by; there are {', '.join(rows.columns)}")
    if settings.response_key not in rows.columns and settings.response_key.split(".")[0] not in rows.columns:
        raise DataError(
            f"{settings.file}: no column {settings.response_key!r}; give --response-key, there are {', '.join(rows.columns)}"
        )
    stamp = grader_info(settings.grader, settings.extraction, settings.timeout, settings.unevaluated)
    total, groups = Tally(), dict[str, Tally]()
    left_out: dict[str, None] = {}
    without, bad_golds, bad_gold = 0, 0, ""
    with ExitStack() as stack:
        progress = stack.enter_context(progress or Progress())
        stage = stack.enter_context(progress.stage("grading", len(rows), "rows"))
        file = stack.enter_context(_AtomicFile(Path(settings.out))) if settings.out is not None else None
        for chunk in _chunks(rows, settings):
            for row, grades in zip(chunk, _grade(chunk, settings), strict=True):
                total.add(grades)
                without += row.responses.count(None)
                if GRADERS[settings.grader].check_gold is None and all(fault := [gold_fault(text) for text in row.gold]):
                    bad_golds, bad_gold = bad_golds + 1, bad_gold or f"{row.gold[0][-100:]!r}, {fault[0]}"
                if settings.by is not None:
                    groups.setdefault(row.group, Tally()).add(grades)
                    if len(groups) > MAX_GROUPS:
                        raise ConfigError(f"--by {settings.by}: more than {MAX_GROUPS} different values; choose another column")
                if file is not None:
                    left_out.update(dict.fromkeys(file.write_row(row, grades, stamp)))
            stage.update(total.rows)
        if without == total.samples and settings.response_key not in rows.columns:  # a path into structs that leads nowhere
            raise DataError(
                f"{settings.file}: no row has a response in {settings.response_key!r}; give --response-key, there are "
                f"{', '.join(rows.columns)}"
            )
    notes = [] if form == "rows" else [f"read as a file of {form}"]
    notes += [f"{without} of {total.samples} responses are missing (null); each counts as no answer"] if without else []
    if bad_golds:
        notes.append(f"{bad_golds} of {total.rows} rows have golds that no short answer can equal, such as {bad_gold}")
    notes += [f"left out of {settings.out}, as JSON can't hold bytes: {', '.join(left_out)}"] if left_out else []
    replaced = [name for name in ADDED if name in rows.columns]
    if replaced and settings.out is not None:
        notes.append(f"replaced in {settings.out} by these grades: {', '.join(replaced)}")
    return GradeFileReport(settings, stamp, total, dict(sorted(groups.items())), tuple(notes))


def _check(settings: GradeFileSettings) -> None:
    try:
        check_grader(settings.grader)
    except ValueError as error:
        raise ConfigError(f"--{error}") from None
    for name, value, known in (
        ("extraction", settings.extraction, EXTRACTIONS),
        ("kind", settings.kind, KINDS),
        ("unevaluated", settings.unevaluated, ("accept", "reject")),
    ):
        if value not in known:
            raise ConfigError(f"--{name}={value!r} is not known; use one of {', '.join(known)}")
    if settings.unevaluated == "reject" and settings.problem_key is None:
        raise ConfigError("--unevaluated reject needs the problems: name their column with --problem-key")
    if not 0 < settings.timeout < float("inf"):
        raise ConfigError(f"--timeout={settings.timeout!r} must be a positive number of seconds")
    if settings.out is not None:
        out = Path(settings.out)
        if out.is_dir():
            raise ConfigError(f"--out {out}: is a folder; name a file, such as {out / 'graded.jsonl'}")
        if out.exists() and out.resolve() == Path(settings.file).expanduser().resolve():
            raise ConfigError(f"--out {out}: is the file to grade; name another")
        if out.exists() and not settings.overwrite:
            raise ConfigError(f"--out {out}: exists; give --overwrite to replace it, or name another")


def _chunks(rows: Rows, settings: GradeFileSettings) -> Iterator[list[FileRow]]:
    """Rows by about CHUNK responses, so that neither the rows nor their grades are ever all in memory."""
    chunk: list[FileRow] = []
    count = 0
    for index in range(len(rows)):
        row = read_row(rows, index, settings)
        chunk.append(row)
        count += len(row.responses)
        if count >= CHUNK:
            yield chunk
            chunk, count = [], 0
    if chunk:
        yield chunk


def _grade(chunk: Sequence[FileRow], settings: GradeFileSettings) -> Iterator[list[Grade]]:
    responses = [response for row in chunk for response in row.responses]
    golds = [row.gold for row in chunk for _ in row.responses]
    problems = [row.problem for row in chunk for _ in row.responses]
    try:
        grades = grade_responses(
            settings.grader, responses, golds, extraction=settings.extraction, timeout=settings.timeout, kind=settings.kind,
            problems=problems, unevaluated=settings.unevaluated,
        )  # fmt: skip
    except VerifierUnavailableError as error:
        raise GMPOError(str(error)) from error
    start = 0
    for row in chunk:
        yield grades[start : start + len(row.responses)]
        start += len(row.responses)


def read_row(rows: Rows, index: int, settings: GradeFileSettings) -> FileRow:
    data = rows.row(index)
    part, row_in_file = rows.part(index)
    where = f"row {row_in_file} of {part.name}"
    response = _value(data, settings.response_key)
    several = isinstance(response, (list, tuple))
    responses = [_response(text, where, settings) for text in (response or [None] if several else [response])]
    gold = _gold(data, settings, where)
    group = "" if settings.by is None else _group(_value(data, settings.by))
    problem = None if settings.problem_key is None else _value(data, settings.problem_key)
    if settings.problem_key is not None and not isinstance(problem, str):
        raise DataError(f"{where}: {settings.problem_key!r} must be the problem's text; got {_shown(problem)}")
    return FileRow(data, responses, several, gold, group, problem)


def _response(value: Any, where: str, settings: GradeFileSettings) -> str | None:
    """A response's text; None for null (in a table also NaN). A number is its text."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(int(value)) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else str(value)
    raise DataError(f"{where}: {settings.response_key!r} must be a text, null or a list of them; got {_shown(value)}")


def _gold(data: Mapping[str, Any], settings: GradeFileSettings, where: str) -> list[str]:
    keys = GOLD_KEYS if settings.gold_key is None else (settings.gold_key,)
    gold = next((value for value in (_value(data, key) for key in keys) if value is not None), None)
    if gold is None:
        raise DataError(f"{where}: no {' or '.join(map(repr, keys))}; give --gold-key, the row has {', '.join(data)}")
    golds = list(gold) if isinstance(gold, (list, tuple)) else [gold]
    if not golds or any(isinstance(one, (bool, bytes, list, tuple)) or one is None for one in golds):
        raise DataError(f"{where}: the gold must be a text, a number, or a list of at least one of them; got {_shown(gold)}")
    texts = [json.dumps(_without_missing(one)) if isinstance(one, Mapping) else str(one) for one in golds]
    check = GRADERS[settings.grader].check_gold
    if check is not None:
        try:
            check(texts)
        except ValueError as error:
            raise DataError(f"{where}: {error}") from None
    return texts


def _without_missing(struct: Mapping[str, Any]) -> dict[str, Any]:
    """A struct of Parquet has every key of its column, None where the row has none."""
    return {key: value for key, value in struct.items() if value is not None}


def _value(data: Mapping[str, Any], key: str) -> Any:
    """The row's value; a key with dots reaches into structs where no column is named so."""
    if key in data:
        return data[key]
    value: Any = data
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _group(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text[:60]}{'...' if len(text) > 60 else ''}"


class _AtomicFile:
    """A file of JSON lines that is there when it is complete: written aside, flushed to the disk, renamed."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser()
        self.temporary = self.path.with_name(f".{self.path.name}.tmp")
        self.file: IO[str] | None = None

    def __enter__(self) -> _AtomicFile:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # A lone surrogate can't be UTF-8; its escape is what JSON writes for it anyway.
            self.file = open_new(self.temporary, "w", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise ConfigError(f"--out {self.path}: can't be written ({error.strerror}); name another file") from error
        return self

    def write_row(self, row: FileRow, grades: Sequence[Grade], stamp: Mapping[str, Any]) -> list[str]:
        """One line; returns the columns that were left out because they hold bytes."""
        assert self.file is not None
        left_out = [key for key, value in row.data.items() if _has_bytes(value)]
        line = {key: value for key, value in row.data.items() if key not in left_out}
        for name in ADDED[:-1]:
            values = [getattr(grade, name) for grade in grades]
            line[name] = values if row.several else values[0]
        line["grader"] = dict(stamp)
        try:
            self.file.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")
        except OSError as error:
            raise GMPOError(f"--out {self.path}: can't be written ({error.strerror}); free some space") from error
        return left_out

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        assert self.file is not None
        try:
            if kind is None:
                self.file.flush()
                os.fsync(self.file.fileno())
            self.file.close()
            if kind is None:
                self.temporary.replace(self.path)
            else:
                self.temporary.unlink(missing_ok=True)
        except OSError as failure:
            self.temporary.unlink(missing_ok=True)
            raise GMPOError(f"--out {self.path}: can't be written ({failure.strerror}); free some space") from failure


def _has_bytes(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_bytes, value.values()))
    return any(map(_has_bytes, value)) if isinstance(value, (list, tuple)) else isinstance(value, bytes)


def report_json(report: GradeFileReport) -> dict[str, Any]:
    """For programs: the numbers of all rows and of each group, the grader, and what was left out."""

    def numbers(tally: Tally) -> dict[str, Any]:
        return {
            "rows": tally.rows, "responses": tally.samples, "accuracy": tally.accuracy, "statuses": dict(tally.statuses)
        }  # fmt: skip

    groups = {name: numbers(tally) for name, tally in report.groups.items()}
    settings = report.settings
    return {
        "file": settings.file, **numbers(report.total), "by": settings.by, "groups": groups, "grader": report.stamp,
        "out": settings.out, "notes": list(report.notes),
    }  # fmt: skip


def print_report(report: GradeFileReport, console: Console | None = None) -> None:
    """The table at the end: all rows, the groups, and the grader with the versions that its grades depend on."""
    console = console or Console()
    settings, stamp = report.settings, report.stamp
    numbers = ("rows", "responses", "accuracy", "no answer", "timed out", "error")
    statuses = ("no_answer", "timeout", "error")
    if settings.unevaluated == "reject":
        numbers, statuses = (*numbers, "copied"), (*statuses, "not_evaluated")  # type: ignore[assignment]
    table = Table(title=Text(f"Grades of {clean(settings.file)}"), title_justify="left")
    for name in (clean(settings.by) if settings.by else "", *numbers):
        table.add_column(name, justify="right" if name in numbers else "left")
    for name, tally in [*report.groups.items(), ("all", report.total)]:
        if name == "all" and tally is report.total and report.groups:
            table.add_section()
        shares = [f"{tally.share(status):.1%}" for status in statuses]
        table.add_row(Text(clean(name)), f"{tally.rows:,}", f"{tally.samples:,}", f"{tally.accuracy:.4f}", *shares)
    console.print(table)
    packages = ", ".join(f"{name} {version}" for name, version in stamp["packages"].items())
    where = f"extraction {stamp['extraction']}" if settings.kind == "response" else "answers as they are"
    line = f"grader {stamp['name']}, version {stamp['version']}, {where}, at most {stamp['timeout']:g} s a comparison"
    console.print(Text(f"{line} ({packages})" if packages else line), soft_wrap=True)
    for note in report.notes:
        console.print(Text(clean(note)), soft_wrap=True)
    if settings.out is not None:
        console.print(Text(f"grades in {clean(settings.out)}"), soft_wrap=True)
