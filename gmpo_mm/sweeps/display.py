"""What a person sees of a sweep: a live table on a terminal, plain lines elsewhere; and the table of a dry run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gmpo_mm.config.cautions import cautions
from gmpo_mm.config.keys import get_key
from gmpo_mm.config.loss import unread_loss_keys
from gmpo_mm.credentials import clean as without_secrets
from gmpo_mm.credentials import hide, hide_command
from gmpo_mm.errors import DataError
from gmpo_mm.planning.dry_run import missing_lines
from gmpo_mm.runs.progress import Progress, clean, format_seconds
from gmpo_mm.sweeps.active_run import ActiveRun
from gmpo_mm.sweeps.directory import RunRecord, SweepDirectory
from gmpo_mm.sweeps.planning import PlannedRun, beyond_the_loss, missing_problems, variant_differences
from gmpo_mm.sweeps.run_progress import ProgressReader, RunProgress, Speed, median, seconds_left, startup_seconds

if TYPE_CHECKING:
    from typing_extensions import Self


TABLE_SECONDS = 1.0
LINE_SECONDS = 30.0
"""How often a running run gets a plain line when the output is no terminal."""
COLUMNS = ("variant", "seed", "state", "step", "validation", "s/step", "left")
FILTERING = (
    "Online filtering: variants with equal seeds go through the same order of prompts, but how far each gets in a step depends "
    "on what it keeps, so after the first step that differs their steps no longer have the same prompts."
)
STYLES = {"finished": "green", "running": "cyan", "failed": "red", "interrupted": "yellow", "out_of_budget": "yellow"}


@dataclass(frozen=True)
class Estimate:
    """Where a run stands on the disk: steps done (that a resumed run need not repeat), all steps, seconds left."""

    progress: RunProgress
    done: int
    total: int | None
    left: float | None


class Estimator:
    """Reads the runs and estimates what is left from measured times: a run's own, else its variant's, else all runs'."""

    def __init__(self, directory: SweepDirectory) -> None:
        self.directory = directory
        self._reader = ProgressReader()

    def estimates(self) -> list[Estimate]:
        """One for each planned run, in their order."""
        runs = self.directory.planned
        found = [self.progress(self.directory.record(run)) for run in runs]
        of_all = _speed(found)
        by_variant: dict[str, list[RunProgress]] = {}
        for run, progress in zip(runs, found, strict=True):
            by_variant.setdefault(run.variant.name, []).append(progress)
        of_variant = {name: _speed(its) for name, its in by_variant.items()}
        once = self._evaluation_seconds() or 0.0
        start = self.startup(found)
        return [
            self._estimate(run, progress, _speed([progress]) or of_variant[run.variant.name] or of_all or Speed(), once, start)
            for run, progress in zip(runs, found, strict=True)
        ]

    def startup(self, found: Sequence[RunProgress]) -> float | None:
        """The median of what finished runs took to start and to save; None before one has finished."""
        records = [self.directory.record(run) for run in self.directory.planned]
        return median(startup_seconds(record.seconds, progress) for record, progress in zip(records, found, strict=True))

    def progress(self, record: RunRecord) -> RunProgress:
        """How far the run is; nothing known for a damaged directory, which the run itself will report."""
        try:
            return self._reader.read(self.directory.path / record.directory)
        except DataError:
            return RunProgress()

    def _estimate(
        self, run: PlannedRun, progress: RunProgress, speed: Speed, evaluation: float, start: float | None
    ) -> Estimate:
        record = self.directory.record(run)
        goes_on = record.state != "running" and progress.state != "finished"
        done = progress.saved if goes_on else progress.step
        total = progress.total if progress.total is not None else run.plan.steps
        if record.state == "finished":
            return Estimate(progress, done, total, 0.0)
        left = seconds_left(progress, done, run.plan, speed)
        if left is None:
            return Estimate(progress, done, total, None)
        starts = (goes_on or progress.step == 0) and progress.state != "finished"  # a resumed run loads again
        return Estimate(progress, done, total, left + evaluation + ((start or 0.0) if starts else 0.0))

    def _evaluation_seconds(self) -> float | None:
        """The median of the finished evaluations; None where none is wanted or none has been measured."""
        records = self.directory.records.values() if self.directory.tasks else ()
        return median(record.evaluation_seconds for record in records if record.state == "finished")


def _speed(runs: Sequence[RunProgress]) -> Speed | None:
    """The median of what the runs measured; None when none has finished a step."""
    step = median(progress.step_seconds for progress in runs)
    return None if step is None else Speed(step, median(progress.validation_seconds for progress in runs))


def all_seconds_left(estimates: Sequence[Estimate], jobs: int) -> float | None:
    """Of the whole sweep with `jobs` runs at once; None while a run's time is not known."""
    known = [found.left for found in estimates if found.left is not None]
    return max(sum(known) / jobs, max(known)) if known and len(known) == len(estimates) else None


class SweepDisplay:
    """The runner's display; a context manager."""

    def __init__(self, directory: SweepDirectory, jobs: int) -> None:
        self._directory = directory
        self._jobs = jobs
        self._estimator = Estimator(directory)
        self._console = Console(highlight=False)
        self._plain = Progress(live=False)  # goes quiet when its pipe is closed or its disk is full, and never ends a sweep
        self._live: Live | None = None
        self._next = 0.0
        self._next_line: dict[str, float] = {}

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(self._table(), console=self._console, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str, style: str = "") -> None:
        """Print a line; control characters of logs and names are shown, not obeyed."""
        if self._live is not None:
            self._console.print(Text(clean(text), style=style))
        else:
            self._plain.log(text)

    def refresh(self, active: list[ActiveRun]) -> None:
        """Redraw the table once a second, or print a line for each run twice a minute."""
        now = time.monotonic()
        if active and now < self._next:
            return
        self._next = now + TABLE_SECONDS
        if self._live is not None:
            self._live.update(self._table(active), refresh=True)
            return
        due = [item for item in active if now >= self._next_line.setdefault(item.run.name, now + LINE_SECONDS)]
        if due:
            estimates = dict(zip((run.name for run in self._directory.planned), self._estimator.estimates(), strict=True))
            for item in due:
                self._next_line[item.run.name] = now + LINE_SECONDS
                self.say(self._line(item, estimates[item.run.name]))

    def _line(self, item: ActiveRun, found: Estimate) -> str:
        if item.evaluating:
            return f"{item.run.name}: evaluating for {format_seconds(time.monotonic() - item.started)}"
        step, score, speed, left = _cells(found)
        parts = [f"step {step}", score and f"validation {score}", speed and f"{speed} a step", left and f"{left} left"]
        return f"{item.run.name}: " + ", ".join(part for part in parts if part)

    def _table(self, active: Sequence[ActiveRun] = ()) -> Table:
        evaluating = {item.run.name for item in active if item.evaluating}
        estimates = self._estimator.estimates()
        left = all_seconds_left(estimates, self._jobs)
        table = _new_table(self._directory.sweep.name + (f", about {format_seconds(left)} left" if left else ""), COLUMNS)
        for run, found in zip(self._directory.planned, estimates, strict=True):
            record = self._directory.record(run)
            state = "evaluating" if run.name in evaluating else record.state.replace("_", " ")
            style = STYLES.get(record.state, "")
            table.add_row(record.variant, str(record.seed), Text(state, style=style), *_cells(found))
        return table


def _cells(found: Estimate) -> tuple[str, str, str, str]:
    """step/total, last validation score, seconds a step, seconds left; empty where nothing is known."""
    progress = found.progress
    return (
        f"{found.done}/{found.total if found.total is not None else '?'}",
        "" if progress.score is None else f"{progress.score:.3f}",
        "" if progress.step_seconds is None else f"{progress.step_seconds:.2f} s",
        format_seconds(found.left) if found.left else "",
    )


def _new_table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=Text(title), title_justify="left")
    for name in columns:
        table.add_column(
            name, overflow="fold", justify="right" if name in ("seed", "step", "validation", "s/step", "left") else "left"
        )
    return table


def print_dry_run(directory: SweepDirectory, jobs: int) -> None:
    """What would run, what is there, in what variants differ, and for how long."""
    console = Console(highlight=False)
    estimates = Estimator(directory).estimates()
    table = _new_table("What would run", COLUMNS)
    for run, found in zip(directory.planned, estimates, strict=True):
        state = _state_on_disk(directory.record(run), found.progress)
        table.add_row(run.variant.name, str(run.seed), state, *_cells(found))
    console.print(table)
    console.print(_differences(directory))
    for line in _remarks(directory):
        console.print(Text(line), soft_wrap=True)
    missing = missing_lines((run.config for run in directory.planned), missing_problems(directory.sweep).items())
    for line in missing:
        console.print(Text(line), soft_wrap=True)
    left = all_seconds_left(estimates, jobs)
    console.print(Text(f"{_duration(directory, left, jobs)}\nDry run: nothing was started or written."), soft_wrap=True)


def _state_on_disk(record: RunRecord, progress: RunProgress) -> str:
    if record.state == "finished":
        return "finished, kept"
    if progress.state is None or progress.state == "created":
        return "new"
    if progress.state == "finished":
        return "trained, to be evaluated"
    state = "begun" if progress.state == "running" else progress.state  # killed, or at work in another process
    return f"{state}: step {progress.step}, saved {progress.saved}"


def _compared(directory: SweepDirectory) -> Sequence[PlannedRun]:
    """A run of each variant; of a map, of each row in the first column of the first panel."""
    sweep = directory.sweep
    return directory.planned[: len(sweep.variants if sweep.map is None else sweep.map.rows)]


def _differences(directory: SweepDirectory) -> Table:
    """The keys in which variants differ, as resolved; a loss key that a variant's loss does not read is left empty."""
    runs = _compared(directory)
    unread = [unread_loss_keys(run.config) for run in runs]
    keys = dict.fromkeys(key for run in runs[1:] for key, _, _ in variant_differences(runs[0], run))
    table = _new_table("In what the variants differ", ("key", *(run.variant.name for run in runs)))
    for key in keys:
        values = ["" if key in skipped else _shown(run, key) for run, skipped in zip(runs, unread, strict=True)]
        table.add_row(key, *values)
    return table


def _shown(run: PlannedRun, key: str) -> str:
    return without_secrets(str(hide(key, get_key(run.config, key))))


def _remarks(directory: SweepDirectory) -> list[str]:
    """What a comparison of these variants confounds with the loss, and what is odd in one of them."""
    runs = _compared(directory)
    if len(runs) < 2:
        return []
    found = beyond_the_loss(runs)
    lines = ["Beyond the loss, the variants differ in:" if found else "The variants differ in the loss only."]
    for key, by_value in found.items():
        lines.append(f"  {key}: " + "; ".join(f"{value} ({', '.join(names)})" for value, names in by_value.items()))
    if found:
        lines.append("  A difference between two variants that differ there too is not the loss's alone.")
    if any(run.config.algorithm.online_filtering for run in runs):
        lines.append(FILTERING)
    said: dict[str, list[str]] = {}
    for run in runs:
        for text in cautions(run.loaded):
            said.setdefault(text, []).append(run.variant.name)
    if (found_map := directory.sweep.map) is not None:
        lines.append(f"Each of them at each {found_map.axis} of {len(found_map.columns)}:")
        lines += [f"  {one.label}: {', '.join(hide_command(one.overrides)) or 'as above'}" for one in found_map.columns]
    return lines + [f"Note ({', '.join(names)}): {text}" for text, names in said.items()]


def _duration(directory: SweepDirectory, left: float | None, jobs: int) -> str:
    runs = f"{len(directory.planned)} runs in {directory.path}, {jobs} at once"
    if left is None:
        return f"{runs}: the time is unknown until the first steps of a run have been measured."
    estimator = Estimator(directory)
    start = estimator.startup([estimator.progress(directory.record(run)) for run in directory.planned])
    counted = f"{format_seconds(start)} for each start" if start is not None else "starting is not counted: no run has finished"
    if directory.sweep.stop_rule is not None:
        runs += " at most (it stops when the difference is decided)"
    words = f"{runs}: about {format_seconds(left)} left by the measured seconds a step and a validation; {counted}"
    if directory.tasks and all(record.evaluation_seconds is None for record in directory.records.values()):
        words += ", nor are the evaluations, none of which has been measured"
    if directory.sweep.budget_hours is not None:
        words += f" (budget: {directory.sweep.budget_hours:g} hours)"
    return words + "."
