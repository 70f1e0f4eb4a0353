"""What an evaluation leaves on the disk, and how it is read back: one directory for one benchmark under one protocol.

    evaluation.json   what was asked: benchmark, protocol, grader, model, problem set, versions, command (written first)
    problems.jsonl    the problems: id, text, golds, type, picture files (written second, before any sampling)
    pictures/         the problems' pictures, scaled down, for the page
    samples.jsonl     one line a sample, appended as they are graded
    summary.json      the numbers, and bytes and SHA-256 of problems and samples (written last; not finished without it)
    page.html         the numbers and every sample, to look at
    regrade.json      of `gmpo-mm regrade --in-page`: the scores under other projects' rules, which the page shows
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import with_config
from typing_extensions import NotRequired, TypedDict

from gmpo_mm.errors import DataError
from gmpo_mm.runs.files import sha256, write_atomically
from gmpo_mm.runs.reading import read_json, read_rows

FORMAT = 1
"""Raised when a file of a result changes its meaning; results of two formats are not compared."""

SUMMARY = "summary.json"
SUMMARISED = ("problems.jsonl", "samples.jsonl")
REPAIR = "the command of the evaluation, given again, samples what is missing (overwrite=true starts again)"


@dataclass(frozen=True)
class Protocol:
    """How answers are sampled. Part of a result's name: numbers of two protocols never share a column."""

    name: str
    temperature: float
    n: int
    max_tokens: int
    top_p: float = 1.0
    top_k: int = -1
    template: str = "model"
    stop: tuple[str, ...] = ()

    def describe(self) -> str:
        """One line with every number: `geometry3k: T 0.5, n 16, top_p 1, 2048 tokens, template geometry3k`."""
        sampling = "greedy" if self.temperature == 0 else f"T {self.temperature:g}"
        parts = [sampling, f"n {self.n}"]
        if self.temperature != 0:
            parts.append(f"top_p {self.top_p:g}")
            if self.top_k > 0:
                parts.append(f"top_k {self.top_k}")
        parts += [f"{self.max_tokens} tokens", f"template {self.template}"]
        return f"{self.name}: " + ", ".join(parts)


@dataclass(frozen=True)
class GraderInfo:
    """Which grader gave the grades; two results are comparable only when this is equal."""

    name: str
    extraction: str
    version: int
    timeout: float
    packages: dict[str, str] = field(default_factory=dict)
    unevaluated: str = "accept"
    """What becomes of a right expression that is only copied out of its problem: accept | reject."""


@dataclass(frozen=True)
class Spec:
    """evaluation.json: everything that decides the samples and grades, and where they came from."""

    benchmark: str
    protocol: Protocol
    grader: GraderInfo
    model: str
    backend: str
    seed: int
    problems: int
    problem_set: str
    """SHA-256 over the problems' ids, texts and golds: what two compared results must share."""
    model_hash: str = ""
    """SHA-256 over a local model's files; empty for a hub name or a server."""
    stop_when_decided: float | None = None
    """Problems come in a random order until the interval of Pass@1 is narrower than this; None: all of them."""
    environment: dict[str, Any] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    format: int = FORMAT

    @property
    def name(self) -> str:
        """`benchmark [protocol]`, the column that this result may stand in."""
        return f"{self.benchmark} [{self.protocol.name}]"


@with_config(extra="forbid")
@dataclass(frozen=True)
class Problem:
    """One problem as the page and the comparison show it; `index` counts from 0 in the benchmark's order."""

    index: int
    id: str
    text: str
    golds: tuple[str, ...]
    type: str | None = None
    source: str | None = None
    pictures: tuple[str, ...] = ()
    """Paths relative to the result's directory."""


@with_config(extra="forbid")
@dataclass(frozen=True)
class Sample:
    """One graded sample: number `sample` of problem `index`. `tokens` counts the response's tokens."""

    index: int
    id: str
    sample: int
    response: str
    extracted: str | None
    correct: bool
    status: str
    """graded | no_answer | timeout | error | not_evaluated, as `gmpo_mm.verifiers.Grade` has it."""
    why: str
    tokens: int
    stop_reason: str
    """stop | length: `length` means truncated at the protocol's max_tokens."""


@dataclass(frozen=True)
class Result:
    """A result's directory, read back. Problems and samples are in order and complete unless `complete` is False.

    One that stopped early has all problems, and the samples of those that it used (`gmpo_mm.evaluation.early_stop`).
    """

    path: Path
    spec: Spec
    problems: tuple[Problem, ...]
    samples: tuple[Sample, ...]

    @property
    def complete(self) -> bool:
        """Whether every sample of every problem is there."""
        return len(self.samples) == len(self.problems) * self.spec.protocol.n

    @cached_property
    def by_problem(self) -> list[list[Sample]]:
        """Samples of each problem, in the problems' order."""
        groups: list[list[Sample]] = [[] for _ in self.problems]
        for sample in self.samples:
            groups[sample.index].append(sample)
        return groups

    @cached_property
    def summary(self) -> dict[str, Any]:
        """summary.json; {} before the evaluation has finished."""
        return read_summary(self.path)


class _FileFacts(TypedDict):
    bytes: int
    sha256: str


class _Score(TypedDict):
    value: float
    low: float | None
    high: float | None


@with_config(extra="allow")
class _Summary(TypedDict):
    problems: int
    samples: int
    pass_at_1: _Score
    files: NotRequired[dict[str, _FileFacts]]
    sha256: NotRequired[str]


def to_json_line(row: Problem | Sample) -> str:
    """A problem or a sample as one line of its file, newline included; half a surrogate pair stays escaped."""
    line = json.dumps(asdict(row), ensure_ascii=False) + "\n"
    try:
        line.encode()
    except UnicodeEncodeError:
        return json.dumps(asdict(row)) + "\n"
    return line


def spec_to_json(spec: Spec) -> str:
    """The text of evaluation.json."""
    return json.dumps(asdict(spec), ensure_ascii=False, indent=2) + "\n"


def read_summary(path: Path) -> dict[str, Any]:
    """summary.json of a result's directory; {} before the evaluation has finished. Raises DataError for a damaged one."""
    file = path / SUMMARY
    if not file.is_file():
        return {}
    read_json(file, _Summary, REPAIR)  # of the right types
    summary = read_json(file, dict[str, Any], REPAIR)
    if summary.get("sha256", _own_hash(summary)) != _own_hash(summary):
        raise DataError(f"{file} has other numbers than were written; {REPAIR}")
    return summary


def write_summary(path: Path, summary: dict[str, Any]) -> None:
    """summary.json with the hash of itself and of the files that it is made from."""
    summary = summary | {"files": file_facts(path)}
    text = json.dumps(summary | {"sha256": _own_hash(summary)}, indent=2, ensure_ascii=False)
    write_atomically(path / SUMMARY, text + "\n")


def _own_hash(summary: dict[str, Any]) -> str:
    content = {key: value for key, value in summary.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def file_facts(path: Path) -> dict[str, dict[str, Any]]:
    """Bytes and SHA-256 of the files that a summary is made from."""
    return {name: {"bytes": (path / name).stat().st_size, "sha256": sha256(path / name)} for name in SUMMARISED}


def damage(path: Path) -> str | None:
    """What a finished result's files have become since its summary was written; None where all are as they were."""
    for name, facts in read_summary(path).get("files", {}).items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if (size := file.stat().st_size) != facts["bytes"]:
            return f"{name} has {size:,} bytes, and {facts['bytes']:,} were written"
        if sha256(file) != facts["sha256"]:
            return f"{name} has other contents than were written"
    return None


def read_spec(path: Path) -> Spec:
    """Read evaluation.json of a result's directory. Raises DataError when there is none or it is of another format."""
    file = path / "evaluation.json"
    if not file.is_file():
        raise DataError(f"{path}: no evaluation.json there; give the directory that `gmpo-mm evaluate` wrote for one benchmark")
    if (found := read_json(file, dict[str, Any], REPAIR).get("format")) != FORMAT:
        raise DataError(f"{file}: format {found!r}, and this version reads {FORMAT}; evaluate again with this version")
    return read_json(file, Spec, REPAIR)


def read_result(path: Path) -> Result:
    """Read a result's directory; samples that a killed evaluation had not written are missing (see `Result.complete`).

    Raises DataError for a finished one whose files are not those that its numbers were made from.
    """
    spec = read_spec(path)
    if what := damage(path):
        raise DataError(f"{path}: its numbers can't be trusted, for {what}; {REPAIR}")
    problems = tuple(read_rows(path / "problems.jsonl", Problem, REPAIR))
    samples = read_rows(path / "samples.jsonl", Sample, REPAIR)
    if wrong := next((s for s in samples if not (0 <= s.index < len(problems) and 0 <= s.sample < spec.protocol.n)), None):
        raise DataError(f"{path}: samples.jsonl has a sample {wrong.sample} of problem {wrong.index}, which is none; {REPAIR}")
    samples.sort(key=lambda sample: (sample.index, sample.sample))
    return Result(path, spec, problems, tuple(samples))
