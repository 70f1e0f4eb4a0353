"""Where the time and the memory of a round go: exclusive phases, measured the same way on both sides."""

from __future__ import annotations

import functools
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

REST = "rest"
"""The phase of everything that no other phase claims."""


def resident_mib(field_name: str = "VmRSS") -> float:
    """Resident set of this process in MiB; `VmHWM` is its high-water mark since the last `reset_high_water`."""
    match = re.search(rf"{field_name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match, f"{field_name} is not in /proc/self/status"
    return int(match.group(1)) / 1024


def reset_high_water() -> None:
    """Start a new high-water mark (proc(5): writing 5 to clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


@dataclass
class Round:
    """One measured round: seconds and peak MiB by phase, and what it worked on."""

    wall_s: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    cpu_s: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    peak_mib: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    facts: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries, for the pipe to the parent."""
        return {name: dict(value) for name, value in vars(self).items()}


class PhaseClock:
    """Stack of phases: time inside an inner phase is not counted to the outer one.

    CPU seconds are those of this process and of its child processes (a reward function may grade in worker processes).
    """

    def __init__(self) -> None:
        self.round = Round()
        self._stack: list[str] = []
        self._process = psutil.Process()
        self._wall = self._cpu = 0.0

    def start_round(self) -> None:
        """Forget what was measured and begin a round."""
        self.round = Round()
        self._stack = [REST]
        reset_high_water()
        self._wall, self._cpu = time.perf_counter(), self._cpu_seconds()

    def end_round(self) -> Round:
        """Close the round and hand it over."""
        assert self._stack == [REST], f"a round ended inside {self._stack[1:]}"
        self._settle()
        self._stack = []
        return self.round

    def push(self, name: str) -> None:
        """Enter a phase; outside a round nothing is measured."""
        if self._stack:
            self._settle()
            self._stack.append(name)

    def pop(self, name: str) -> None:
        """Leave the phase that was entered last, which has to be `name`."""
        if self._stack:
            assert self._stack[-1] == name, f"left {name} inside {self._stack}"
            self._settle()
            self._stack.pop()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """`push` and `pop` around a block."""
        self.push(name)
        try:
            yield
        finally:
            self.pop(name)

    def wrap(self, owner: Any, method: str, name: str | Callable[[], str]) -> None:
        """Replace `owner.method` by one that runs in phase `name`."""
        inner = getattr(owner, method)

        @functools.wraps(inner)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name if isinstance(name, str) else name()):
                return inner(*args, **kwargs)

        setattr(owner, method, timed)

    def _settle(self) -> None:
        wall, cpu, name = time.perf_counter(), self._cpu_seconds(), self._stack[-1]
        self.round.wall_s[name] += wall - self._wall
        self.round.cpu_s[name] += cpu - self._cpu
        self.round.peak_mib[name] = max(self.round.peak_mib[name], resident_mib("VmHWM"))
        reset_high_water()
        self._wall, self._cpu = time.perf_counter(), self._cpu_seconds()

    def _cpu_seconds(self) -> float:
        seconds = time.process_time()
        for child in self._process.children(recursive=True):
            try:
                times = child.cpu_times()
            except psutil.NoSuchProcess:
                continue
            seconds += times.user + times.system
        return seconds
