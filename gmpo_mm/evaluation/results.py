"""What an evaluation leaves on the disk, and how it is read back: one directory for one benchmark under one protocol.

    evaluation.json   what was asked: benchmark, protocol, grader, model, problem set, versions, command (written first)
    problems.jsonl    the problems: id, text, golds, type, picture files (written second, before any sampling)
    pictures/         the problems' pictures, scaled down, for the page
    samples.jsonl     one line a sample, appended as they are graded
    summary.json      the numbers (written last; an evaluation without it is not finished)
    page.html         the numbers and every sample, to look at
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from gmpo_mm.errors import DataError

FORMAT = 1
"""Raised when a file of a result changes its meaning; results of two formats are not compared."""


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
    environment: dict[str, Any] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    format: int = FORMAT

    @property
    def name(self) -> str:
        """`benchmark [protocol]`, the column that this result may stand in."""
        return f"{self.benchmark} [{self.protocol.name}]"


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
    """A result's directory, read back. Problems and samples are in order and complete unless `complete` is False."""

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

    @property
    def summary(self) -> dict[str, Any]:
        """summary.json; {} before the evaluation has finished."""
        path = self.path / "summary.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


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


def read_spec(path: Path) -> Spec:
    """Read evaluation.json of a result's directory. Raises DataError when there is none or it is of another format."""
    file = path / "evaluation.json"
    if not file.is_file():
        raise DataError(f"{path}: no evaluation.json there; give the directory that `gmpo-mm evaluate` wrote for one benchmark")
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        if data.get("format") != FORMAT:
            raise DataError(
                f"{file}: format {data.get('format')!r}, and this version reads {FORMAT}; evaluate again with this version"
            )
        protocol = Protocol(**{**data["protocol"], "stop": tuple(data["protocol"]["stop"])})
        return Spec(
            **{**data, "protocol": protocol, "grader": GraderInfo(**data["grader"]), "command": tuple(data["command"])}
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{file}: can't be read ({error}); restore it, or evaluate into another directory") from error


def read_result(path: Path) -> Result:
    """Read a result's directory; samples that a killed evaluation had not written are missing (see `Result.complete`)."""
    spec = read_spec(path)
    problems = tuple(
        Problem(**{**row, "golds": tuple(row["golds"]), "pictures": tuple(row["pictures"])})
        for row in read_lines(path / "problems.jsonl")
    )
    samples = [Sample(**row) for row in read_lines(path / "samples.jsonl")]
    samples.sort(key=lambda sample: (sample.index, sample.sample))
    return Result(path, spec, problems, tuple(samples))


def read_lines(path: Path) -> Iterable[dict[str, Any]]:
    """Objects of a JSON Lines file; a last line that a kill cut in half is left out, any other broken line raises."""
    if not path.is_file():
        return []
    *lines, _cut = path.read_bytes().split(b"\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise DataError(f"{path}: line {number} can't be read ({error}); remove it and evaluate again") from None
    return rows
