"""How far a run is, read from its run directory: while it runs, after a kill, and from any process."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gmpo_mm.planning.counts import RunPlan
from gmpo_mm.runs.accuracy import accuracy_of
from gmpo_mm.runs.metrics_file import FILE_NAME, read_metrics
from gmpo_mm.runs.step_table import STEP_SECONDS
from gmpo_mm.sweeps.directory import read_run_json

LAST_STEPS = 20
"""Steps whose median counts as the present speed, as in a run's own progress."""


@dataclass(frozen=True)
class RunProgress:
    """`step` was trained last, `saved` is what a resumed run starts from; None is not known yet.

    `step_seconds` and `validation_seconds` are medians of what was measured.
    """

    state: str | None = None
    reason: str | None = None
    step: int = 0
    saved: int = 0
    total: int | None = None
    score: float | None = None
    step_seconds: float | None = None
    validation_seconds: float | None = None
    validations: int = 0
    measured_seconds: float = 0.0
    """All steps and validations together; the rest of a process's time is its start-up and its saving."""


def read_progress(run_directory: Path) -> RunProgress:
    """Read run.json and metrics.jsonl; of a run that has not begun everything is unknown. Raises DataError for damage."""
    run = read_run_json(run_directory)
    lines = read_metrics(run_directory) if (run_directory / FILE_NAME).is_file() else []
    validations = [line for line in lines if line["kind"] == "validation"]
    steps = [_first(line, STEP_SECONDS) for line in lines if line["kind"] == "train"]
    return RunProgress(
        state=run.get("state"),
        reason=run.get("exit_reason"),
        step=int(run.get("step") or 0),
        saved=int(run.get("last_checkpoint") or 0),
        total=run.get("total_steps"),
        score=_score(validations[-1]) if validations else None,
        step_seconds=median(steps[-LAST_STEPS:]),
        validation_seconds=median(line.get("timing_s/validation") for line in validations),
        validations=len(validations),
        measured_seconds=sum(seconds or 0.0 for seconds in steps)
        + sum(float(line.get("timing_s/validation") or 0.0) for line in validations),
    )


def _score(validation: Mapping[str, Any]) -> float | None:
    found = accuracy_of(validation)
    return _first(validation, (found.name if found else "val/reward_score",))


def _first(line: Mapping[str, Any], names: Sequence[str]) -> float | None:
    return next((float(line[name]) for name in names if name in line), None)


def median(values: Iterable[float | None]) -> float | None:
    """The median of what is known; None when nothing is."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


class ProgressReader:
    """Reads a run's progress again only when its metrics or its state have changed."""

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[tuple[tuple[int, int], ...], RunProgress]] = {}

    def read(self, run_directory: Path) -> RunProgress:
        """As `read_progress`."""
        stamp = tuple(_stamp(run_directory / name) for name in ("run.json", FILE_NAME))
        known = self._seen.get(run_directory)
        if known is None or known[0] != stamp:
            known = self._seen[run_directory] = (stamp, read_progress(run_directory))
        return known[1]


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except FileNotFoundError:
        return (0, 0)
    return (found.st_size, found.st_mtime_ns)


@dataclass(frozen=True)
class Speed:
    """Seconds a step and a validation, of one run or the median over several; None is not measured."""

    step: float | None = None
    validation: float | None = None


def startup_seconds(wall_seconds: float | None, progress: RunProgress) -> float | None:
    """What a finished run's process took beside its steps and validations, loading above all; None for other runs."""
    if progress.state != "finished" or wall_seconds is None or not progress.measured_seconds:
        return None
    return max(0.0, wall_seconds - progress.measured_seconds)


def seconds_left(progress: RunProgress, done: int, plan: RunPlan, speed: Speed) -> float | None:
    """Training and validation that are left after step `done`, by measured times; None while nothing tells.

    What has no measured time yet counts as none: validations before the first one.
    """
    total = progress.total if progress.total is not None else plan.steps
    if total is None or (speed.step is None and total > done):
        return None
    seconds = (total - done) * (speed.step or 0.0)
    if plan.validations and speed.validation is not None and total:
        seconds += speed.validation * plan.validations * (total - done) / total
    return seconds
