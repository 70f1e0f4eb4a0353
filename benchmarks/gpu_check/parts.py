"""Parts run in order of worth; one that fails is recorded, and the next goes on."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_check.report import Report

BROKEN_PART = "GPU_CHECK_BREAK"
"""Environment variable: the name of a part that raises. With it a test sees that the others go on."""
SLOWER_THAN_ESTIMATED = 3.0
"""A part is stopped after so many times its estimate, or after a minute if that is more."""


@dataclass
class Context:
    """What a part gets. `tiny` asks for shapes that a CPU does in a second; `scratch` is a folder for its
    files."""

    device: torch.device
    tiny: bool
    report: Report
    scratch: Path
    cache: dict[str, Any] = field(default_factory=dict)
    """What several parts share."""

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.is_cuda:
            torch.cuda.synchronize(self.device)

    def free(self) -> None:
        """Give back what nobody holds."""
        gc.collect()
        if self.is_cuda:
            torch.cuda.empty_cache()

    def timer(self) -> Timer:
        return Timer(self.device)


class Timer:
    """Seconds of device time between `start` and `seconds`, by CUDA events; by the clock on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self.events = (
            [torch.cuda.Event(enable_timing=True) for _ in range(2)] if device.type == "cuda" else None
        )
        self.start()

    def start(self) -> None:
        """Begin again."""
        if self.events:
            self.events[0].record()
        self.clock = time.perf_counter()

    def stop(self) -> None:
        """Note the end; the host goes on."""
        if self.events:
            self.events[1].record()
        self.end = time.perf_counter()

    def seconds(self) -> float:
        """Time from start to stop; waits for the device."""
        if not self.events:
            return self.end - self.clock
        self.events[1].synchronize()
        return self.events[0].elapsed_time(self.events[1]) / 1e3


@dataclass(frozen=True)
class Part:
    """One part: `groups` are names of `--only`; `estimate_s` is what it takes on an H100."""

    name: str
    groups: tuple[str, ...]
    estimate_s: float
    run: Callable[[Context], None]


class DeviceLostError(Exception):
    """The process can't use its GPU any more; a new one can."""


def run_parts(parts: Sequence[Part], context: Context, stop_slow: bool = False) -> None:
    """Run each part that fits into the time left. Raises DeviceLostError when the GPU no longer answers this
    process.

    Parts that the report knows already are left out. With `stop_slow` a part that takes far too long is
    broken off.
    """
    report = context.report
    for part in parts:
        if part.name in report.data["parts"]:
            continue
        report.part = part.name
        if part.estimate_s > report.seconds_left and not context.tiny:
            left = max(0.0, report.seconds_left)
            report.skipped("all of it", f"needs about {part.estimate_s:.0f} s, and {left:.0f} s are left")
            continue
        started = time.monotonic()
        try:
            limit = max(60.0, SLOWER_THAN_ESTIMATED * part.estimate_s) if stop_slow else 0.0
            with _stopped_after(limit):
                if os.environ.get(BROKEN_PART) == part.name:
                    raise RuntimeError(f"broken on purpose by {BROKEN_PART}")
                part.run(context)
        except Exception as error:
            report.failed("the part as a whole", error)
        finally:
            report.end_part(part.name, time.monotonic() - started)
        if context.is_cuda and not _answers(context.device):
            raise DeviceLostError(part.name)
        if context.is_cuda:
            torch.compiler.reset()  # each part brings its own shapes; a function is compiled 8 times at most
        context.free()


@contextlib.contextmanager
def _stopped_after(seconds: float) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TimeoutError(f"stopped after {seconds:.0f} s")

    if not seconds:
        yield
        return
    former = signal.signal(signal.SIGALRM, stop)
    signal.alarm(int(seconds))
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)


def _answers(device: torch.device) -> bool:
    """An illegal memory access or a device-side assertion ends a process's use of its GPU for good."""
    try:
        torch.cuda.synchronize(device)
        return float(torch.ones(1, device=device).sum()) == 1.0
    except RuntimeError:
        return False
