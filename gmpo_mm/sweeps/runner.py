"""The loop of a sweep: start what waits, watch what runs, write down how it ends; killed anywhere, it goes on."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Literal

from gmpo_mm.errors import DataError
from gmpo_mm.runs.progress import format_seconds, shorten
from gmpo_mm.runs.stopping import stop_signals, was_stopped
from gmpo_mm.sweeps.active_run import ActiveRun
from gmpo_mm.sweeps.directory import RunRecord, State, SweepDirectory
from gmpo_mm.sweeps.display import SweepDisplay
from gmpo_mm.sweeps.planning import PlannedRun
from gmpo_mm.sweeps.processes import Launcher, log_tail
from gmpo_mm.sweeps.rounds import Rounds
from gmpo_mm.sweeps.run_progress import RunProgress, read_progress

POLL_SECONDS = 0.2
SAVE_SECONDS = 5.0
"""How often the wall times of what runs are written down, so that a kill -9 loses no more of them."""
LOG_LINES = 12
FAILED, INTERRUPTED = 1, 128 + signal.SIGINT
Why = Literal["interrupted", "out_of_budget"]


class SweepRunner:
    """Runs what is not finished, `jobs` at once; used once."""

    def __init__(self, directory: SweepDirectory, launcher: Launcher, jobs: int, display: SweepDisplay) -> None:
        self.directory = directory
        self.launcher = launcher
        self.jobs = jobs
        self.display = display
        self.active: list[ActiveRun] = []
        self.why: Why | None = None
        """Why no new run starts, and what runs was asked to stop."""
        self._signals = 0
        self._first_signal: int = signal.SIGINT
        self._killed = False
        self._started = time.monotonic()
        self._saved = 0.0

    def run(self) -> int:
        """Until everything has ended; returns the exit code: 0, 1 when a run failed, 128 + the signal that stopped it."""
        rounds = Rounds(self.directory, self.display.say)
        waiting = rounds.next()
        with self._listening():
            try:
                while waiting or self.active:
                    self._collect()
                    self._obey()
                    if not waiting and not self.active and self.why is None:
                        waiting = rounds.next()
                    while waiting and self.why is None and len(self.active) < self.jobs:
                        self._start(waiting.pop(0), self._free_slot())
                    if self.why is not None and not self.active:
                        break
                    self._save_times()
                    self.display.refresh(self.active)
                    time.sleep(POLL_SECONDS)
            finally:
                for active in self.active:  # only an error of the sweep's own leaves any; the same command resumes them
                    active.child.kill()
        for record in self.directory.records.values():
            if self.why == "out_of_budget" and record.state == "waiting":
                self._end(record, "out_of_budget", f"not started: {self._budget()} were over")
        self.directory.save()
        self.display.refresh([])
        states = {record.state for record in self.directory.records.values()}
        if "failed" in states:
            return FAILED
        if self.why == "interrupted":
            return 128 + self._first_signal
        return INTERRUPTED if "interrupted" in states else 0

    # ---- start --------------------------------------------------------------------------------------------------------

    def _free_slot(self) -> int:
        return min(set(range(self.jobs)) - {active.slot for active in self.active})

    def _start(self, run: PlannedRun, slot: int) -> None:
        trained = self._progress(self.directory.record(run)).state == "finished"
        self._launch(run, slot, evaluating=trained)

    def _launch(self, run: PlannedRun, slot: int, evaluating: bool) -> None:
        record, path = self.directory.record(run), self.directory.path
        if evaluating:
            evaluation = self.directory.sweep.evaluation
            assert evaluation is not None  # without one, a trained run is finished and never started
            arguments = [
                "evaluate", evaluation, "--model", str(path / record.directory), "--out", str(path / record.evaluation_folder),
            ]  # fmt: skip
        else:
            arguments = ["train", run.base, *run.overrides]
        child = self.launcher.start(arguments, path / record.log, slot, run.config)
        before = (record.evaluation_seconds if evaluating else record.seconds) or 0.0
        self.active.append(ActiveRun(run, record, slot, child, evaluating, time.monotonic(), before))
        record.state, record.reason = "running", None
        self.directory.save()
        self.display.say(f"{run.name}: {'evaluation' if evaluating else 'training'} started, output in {path / record.log}")

    # ---- end ----------------------------------------------------------------------------------------------------------

    def _collect(self) -> None:
        for active in list(self.active):
            code = active.child.poll()
            if code is None:
                continue
            self.active.remove(active)
            active.note_seconds(time.monotonic())
            if active.evaluating:
                self._evaluation_ended(active, code)
            else:
                self._training_ended(active, code)

    def _training_ended(self, active: ActiveRun, code: int) -> None:
        progress = self._progress(active.record)
        done = f"step {progress.step} of {progress.total or '?'}"
        if code == 0 and progress.state == "finished":
            if self.directory.tasks and self.why is None:
                self.display.say(f"{active.run.name}: trained in {format_seconds(active.record.seconds or 0)}")
                self._launch(active.run, active.slot, evaluating=True)
            elif self.directory.tasks:
                self._stopped(active, "trained, not yet evaluated")
            else:
                self._finished(active)
        elif self.why is not None:
            self._stopped(active, f"at {done}")
        elif was_stopped(code):
            self._interrupted(active, f"its process was asked to stop from outside, at {done}")
        else:
            known = progress.reason if progress.state == "failed" and code > 0 else None  # one ended by a signal wrote nothing
            reason = known or self._last_words(active, code)
            self._failed(active, f"{reason} ({done})")

    def _evaluation_ended(self, active: ActiveRun, code: int) -> None:
        active.record.evaluations = self.directory.finished_evaluations(active.record)
        if code == 0 and len(active.record.evaluations) == len(self.directory.tasks):
            self._finished(active)
        elif self.why is not None:
            self._stopped(active, "trained, the evaluation cut short")
        elif was_stopped(code):
            self._interrupted(active, "trained; the evaluation's process was asked to stop from outside")
        else:
            self._failed(active, f"trained, but the evaluation failed: {self._last_words(active, code)}")

    def _finished(self, active: ActiveRun) -> None:
        self._end(active.record, "finished", None)
        seconds = format_seconds(active.record.seconds or 0)
        extra = f", evaluated in {format_seconds(active.record.evaluation_seconds or 0)}" if active.evaluating else ""
        self.display.say(f"{active.run.name}: finished, trained in {seconds}{extra}", "green")

    def _stopped(self, active: ActiveRun, where: str) -> None:
        assert self.why is not None
        text = "interrupted from the keyboard" if self.why == "interrupted" else f"{self._budget()} were over"
        how = "killed" if self._killed else "stopped"
        self._end(active.record, self.why, f"{text}, {how} {where}; the same command goes on")
        self.display.say(f"{active.run.name}: {how} {where}")

    def _interrupted(self, active: ActiveRun, reason: str) -> None:
        self._end(active.record, "interrupted", reason)
        self.display.say(f"{active.run.name}: {reason}", "yellow")

    def _failed(self, active: ActiveRun, reason: str) -> None:
        self._end(active.record, "failed", shorten(reason, 400))
        log = self.directory.path / active.record.log
        self.display.say(f"{active.run.name}: failed: {active.record.reason}; the end of {log}:", "red")
        for line in log_tail(log, LOG_LINES):
            self.display.say(f"    {line}")

    def _end(self, record: RunRecord, state: State, reason: str | None) -> None:
        record.state, record.reason = state, reason
        self.directory.save()

    def _last_words(self, active: ActiveRun, code: int) -> str:
        if code < 0:
            hint = " (out of memory?)" if -code == signal.SIGKILL else ""
            return f"its process was ended by {signal.Signals(-code).name}{hint}"
        last = log_tail(self.directory.path / active.record.log, 1)
        return f"exit code {code}: {last[0].strip()}" if last else f"exit code {code}"

    def _progress(self, record: RunRecord) -> RunProgress:
        try:
            return read_progress(self.directory.path / record.directory)
        except DataError as error:  # a damaged metrics file fails its run, not the sweep
            return RunProgress(state="failed", reason=str(error))

    # ---- stop ---------------------------------------------------------------------------------------------------------

    def _budget(self) -> str:
        return f"the budget's {self.directory.sweep.budget_hours:g} hours"

    def _obey(self) -> None:
        """Pass on what was asked for: Ctrl-C, a second one, or the end of the budget."""
        hours = self.directory.sweep.budget_hours
        if self.why is None and self._signals:
            self._ask_to_stop("interrupted", "stopping")
        elif self.why is None and hours is not None and time.monotonic() - self._started > hours * 3600:
            self._ask_to_stop("out_of_budget", f"{self._budget()} are over")
        # the end of the budget is no Ctrl-C: the first one after it is asked for, and the second one kills
        if self.active and self._signals >= 2 and not self._killed:
            self._killed = True
            self.display.say("killing what still runs; the same command resumes from the last checkpoints", "yellow")
            for active in self.active:
                active.child.kill()

    def _ask_to_stop(self, why: Why, text: str) -> None:
        self.why = why
        if self.active:
            self.display.say(f"{text}: each run finishes its step and saves first (interrupt again to kill)", "yellow")
        for active in self.active:
            active.child.interrupt()

    @contextmanager
    def _listening(self) -> Iterator[None]:
        former = {number: signal.signal(number, self._count) for number in stop_signals()}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    def _count(self, number: int, frame: FrameType | None) -> None:
        if not self._signals:
            self._first_signal = number
        self._signals += 1

    def _save_times(self) -> None:
        now = time.monotonic()
        if now - self._saved >= SAVE_SECONDS and self.active:
            self._saved = now
            for active in self.active:
                active.note_seconds(now)
            self.directory.save(durable=False)
