"""Orders to stop: Ctrl-C, SIGTERM (batch systems send it) and SIGHUP (the terminal was closed).

While a run trains, the first one asks for an orderly end: the step is finished and saved. A second one, or one that comes
outside of training, ends the process at once. Either way the exit status is 128 + the signal's number: 130, 143, 129.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from gmpo_mm.errors import StoppedRun

if TYPE_CHECKING:  # imported by every command, so it has to be quick
    from gmpo_mm.training.progress import Progress
    from gmpo_mm.training.run_directory import RunDirectory

NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
if hasattr(signal, "SIGHUP"):  # not on Windows
    NAMES[signal.SIGHUP] = "SIGHUP"

class StopNow(KeyboardInterrupt):
    """An order to end at once."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {_name(number)}")
        self.status = 128 + number


class StopAsked(Exception):
    """Raised within a step that is given up between two tries of online filtering; nothing of it was trained."""


def was_stopped(status: int) -> bool:
    """Whether a command's exit status (or `subprocess`'s -signal) says that it was asked to stop, so that it can go on."""
    return any(status in (128 + number, -number) for number in NAMES)


def stop_at_once() -> None:
    """From now on SIGTERM and SIGHUP end the process as Ctrl-C does: locks are freed, children ended, the status is right."""
    for number in stop_signals():
        if number != signal.SIGINT:  # Python's own handler raises KeyboardInterrupt
            signal.signal(number, _stop_now)


def _stop_now(number: int, frame: FrameType | None) -> NoReturn:
    raise StopNow(number)


def stop_signals() -> list[int]:
    """What can be listened to here: only the main thread may, and what `nohup` had ignored stays ignored."""
    if threading.current_thread() is not threading.main_thread():
        return []
    hangup = getattr(signal, "SIGHUP", None)
    return [number for number in NAMES if number != hangup or signal.getsignal(number) != signal.SIG_IGN]


class StopRequest:
    """Notes the first signal while a run trains, for the loop to look at; the second one stops at once."""

    def __init__(self, progress: Progress) -> None:
        self.number: int | None = None
        self._progress = progress

    @property
    def wanted(self) -> bool:
        """Whether the run was asked to stop."""
        return self.number is not None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals while training; the former handlers come back afterwards."""
        former = {number: signal.signal(number, self._handle) for number in stop_signals()}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    def end(self, run: RunDirectory, step: int, total_steps: int) -> NoReturn:
        """Write down that the run was interrupted after `step`, which is saved, say how to go on, and raise StoppedRun."""
        assert self.number is not None
        run.finish("interrupted", f"asked to stop ({_name(self.number)}); saved first")
        where = f"after step {step} of {total_steps}, saved" if step else "before its first step"
        said = f"stopped {where} in {run.path}; the same command goes on there"
        self._progress.log(said)
        raise StoppedRun(said, 128 + self.number, run.path)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.wanted:
            raise StopNow(number)
        self.number = number
        self._progress.warn("stopping: this step is finished and saved first (interrupt again to stop at once)")


def _name(number: int) -> str:
    return NAMES.get(signal.Signals(number), signal.Signals(number).name)
