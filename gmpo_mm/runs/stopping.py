"""Orders to stop: Ctrl-C, SIGTERM (batch systems send it) and SIGHUP (the terminal was closed).

While a run trains, the first one asks for an orderly end: the step is finished and saved. A second one, or one that comes
outside of training, ends the process at once. Either way the exit status is 128 + the signal's number: 130, 143, 129.

Ending takes a moment (locks are freed, children ended), in which impatient further signals change nothing, so that none of
them can break into it with a traceback; one that comes after PATIENCE seconds of it ends the process without any more ado.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from gmpo_mm.errors import StoppedRun

if TYPE_CHECKING:  # imported by every command, so it has to be quick
    from gmpo_mm.runs.progress import Progress
    from gmpo_mm.runs.run_directory import RunDirectory

NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
if hasattr(signal, "SIGHUP"):  # not on Windows
    NAMES[signal.SIGHUP] = "SIGHUP"

PATIENCE = 5.0
"""Seconds of ending in which further signals are passed over."""

_ending_since: float | None = None


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
    """From now on each signal ends the process in order: locks are freed, children ended, the status is right. For programs."""
    global _ending_since
    _ending_since = None
    for number in stop_signals():
        signal.signal(number, stop_now)
    sys.unraisablehook = _raise_again


def stop_now(number: int, frame: FrameType | None = None) -> None:
    """The handler: raise StopNow once, and pass over what comes while the process ends."""
    global _ending_since
    if _ending_since is None:
        _ending_since = time.monotonic()
        raise StopNow(number)
    if time.monotonic() - _ending_since > PATIENCE:
        os._exit(128 + number)


def ending() -> None:
    """The process is at its end anyway: a signal has nothing more to stop."""
    global _ending_since
    _ending_since = _ending_since or time.monotonic()


def _raise_again(what: sys.UnraisableHookArgs) -> None:
    """A StopNow that was raised where nothing can be raised (a destructor, a callback) would be printed and lost."""
    global _ending_since
    if not isinstance(what.exc_value, StopNow):
        sys.__unraisablehook__(what)
        return
    _ending_since = None
    again = threading.Timer(0.05, os.kill, (os.getpid(), what.exc_value.status - 128))
    again.daemon = True
    again.start()


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
        global _ending_since
        _ending_since = None
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
            stop_now(number)
            return
        self.number = number
        self._progress.warn("stopping: this step is finished and saved first (interrupt again to stop at once)")


def _name(number: int) -> str:
    return NAMES.get(signal.Signals(number), signal.Signals(number).name)
