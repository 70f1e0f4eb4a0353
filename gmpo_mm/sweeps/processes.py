"""Where a sweep's commands run: a process of this machine, or (ray_jobs.py) a job on a Ray cluster."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from gmpo_mm.config import Config
from gmpo_mm.credentials import hide_command
from gmpo_mm.engines.registry import engine_of
from gmpo_mm.errors import ConfigError
from gmpo_mm.machine_errors import writing
from gmpo_mm.runs.files import open_appending
from gmpo_mm.sweeps.child import ARGUMENTS

CHILD = "gmpo_mm.sweeps.child"
"""The module that is a run's process."""
TAIL_BYTES = 16384


class Child(Protocol):
    """A command that was started."""

    def poll(self) -> int | None:
        """The exit code (minus the signal's number when one ended it), None while it runs."""

    def interrupt(self) -> None:
        """As Ctrl-C: a run finishes its step and saves."""

    def kill(self) -> None:
        """End it now."""


class Launcher(Protocol):
    """Starts `gmpo-mm ARGUMENTS`; `slot` counts the places of `--jobs` from 0."""

    def start(self, arguments: Sequence[str], log: Path, slot: int, config: Config) -> Child:
        """Start the command, its output appended to `log`."""


class LocalProcess:
    """A child process in a group of its own, so that a Ctrl-C at the terminal reaches it through the sweep, once."""

    def __init__(self, arguments: Sequence[str], log: Path, environment: dict[str, str]) -> None:
        shown = hide_command(arguments)
        if shown != list(arguments):  # everybody may read a process's arguments, and only its owner its environment
            environment = environment | {ARGUMENTS: json.dumps(list(arguments))}
        command = [sys.executable, "-m", CHILD, str(os.getpid()), *shown]
        begin_log(log, arguments)
        with writing(log), open_appending(log, "ab") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
            )  # fmt: skip

    def poll(self) -> int | None:
        return self._process.poll()

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        if self._process.poll() is None:  # the group's number is not used again before it was waited for
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


class LocalLauncher:
    """Processes of this machine; with `gpus`, each slot sees one of them."""

    def __init__(self, gpus: Sequence[str]) -> None:
        self.gpus = tuple(gpus)

    def start(self, arguments: Sequence[str], log: Path, slot: int, config: Config) -> Child:
        """As `Launcher.start`."""
        sees_one = self.gpus and not engine_of(config).distributed and config.trainer.device != "cpu"
        environment = {"CUDA_VISIBLE_DEVICES": self.gpus[slot % len(self.gpus)]} if sees_one else {}
        return LocalProcess(arguments, log, environment)


def begin_log(log: Path, arguments: Sequence[str]) -> None:
    """A line in the log that says when which command began; several attempts share a file."""
    with writing(log), open_appending(log, encoding="utf-8") as file:
        file.write(f"==== {time.strftime('%Y-%m-%d %H:%M:%S')}  gmpo-mm {' '.join(hide_command(arguments))}\n")


def log_tail(log: Path, lines: int) -> list[str]:
    """The last lines of the last attempt, empty ones left out."""
    if not log.is_file():
        return []
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        text = file.read().decode(errors="replace")
    attempt = text.rpartition("\n==== ")[2] if "\n==== " in text else text
    return [line.rstrip() for line in attempt.splitlines()[1:] if line.strip()][-lines:]


def visible_gpus() -> tuple[str, ...]:
    """The GPUs that a run may use, as CUDA_VISIBLE_DEVICES names them; () without CUDA."""
    import torch

    if not torch.cuda.is_available():
        return ()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return tuple(named or (str(index) for index in range(torch.cuda.device_count())))


def choose_jobs(asked: int | None, configs: Sequence[Config], gpus: Sequence[str]) -> int:
    """How many runs go on at once: what was asked for, else one, or one a GPU. Raises ConfigError for what can't be."""
    spread = [config.engine for config in configs if engine_of(config).distributed]
    if spread:
        if asked is not None and asked > 1:
            raise ConfigError(
                f"--jobs {asked}: engine={spread[0]} takes all GPUs for one run; leave --jobs out, or set ray_address in the "
                "sweep file and let a Ray cluster place the runs"
            )
        return 1
    devices = {config.trainer.device for config in configs}
    named = sorted(device for device in devices if device.startswith("cuda:"))
    if gpus and named:
        raise ConfigError(
            f"trainer.device = {named[0]!r}: the sweep gives each run a GPU (CUDA_VISIBLE_DEVICES), the only one that it "
            "sees; set trainer.device=cuda, and choose the GPUs by CUDA_VISIBLE_DEVICES of the sweep"
        )
    if asked is not None:
        return asked
    return len(gpus) if gpus and devices != {"cpu"} else 1
