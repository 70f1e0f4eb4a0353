"""Runs as jobs of a Ray cluster, by Ray's own job submission client (`pip install 'gmpo-mm[ray]'`).

The working directory and the sweep's folder have to lie on a file system that the cluster's nodes share: progress, logs and the
state of each run are read there. A job outlives the sweep that submitted it; the same command finds it again by its id.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gmpo_mm.config import Config
from gmpo_mm.engines.registry import engine_of
from gmpo_mm.errors import ConfigError, TrainingError
from gmpo_mm.sweeps.processes import begin_log

STOP_SECONDS = 3600
"""How long Ray waits for a stopped job to finish its step and save before it kills it (Ray's default is 3)."""
POLL_SECONDS = 2.0
SILENCE_SECONDS = 120.0


class RayLauncher:
    """Submits commands to the cluster at `address`: auto, host:port, or the dashboard's http://host:8265."""

    def __init__(self, address: str) -> None:
        try:
            from ray.job_submission import JobSubmissionClient
        except ImportError as error:
            raise ConfigError(f"ray_address = {address!r}: ray is not installed; pip install 'gmpo-mm[ray]'") from error
        try:
            self.client = JobSubmissionClient(address)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConfigError(
                f"ray_address = {address!r}: no Ray cluster answers there ({error}); start one with `ray start --head`"
            ) from error

    def start(self, arguments: Sequence[str], log: Path, slot: int, config: Config) -> RayJob:
        """Submit `gmpo-mm ARGUMENTS`, or go on watching the job that a killed sweep submitted for it."""
        log = log.absolute()
        job = f"gmpo-{hashlib.sha256(str(log).encode()).hexdigest()[:8]}-{log.stem}-{arguments[0]}"
        status = self._status(job)
        if status in ("PENDING", "RUNNING"):
            return RayJob(self.client, job)
        if status is not None:
            self.client.delete_job(job)
        if engine_of(config).distributed and arguments[0] == "train":
            arguments = [*arguments, "ray_address=auto"]
        begin_log(log, arguments)
        command = shlex.join([sys.executable, "-m", "gmpo_mm.cli", *arguments])
        environment = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS), "PYTHONUNBUFFERED": "1"}
        if "PYTHONPATH" in os.environ:
            environment["PYTHONPATH"] = os.environ["PYTHONPATH"]
        self.client.submit_job(
            entrypoint=f"cd {shlex.quote(os.getcwd())} && exec {command} >> {shlex.quote(str(log))} 2>&1",
            submission_id=job,
            runtime_env={"env_vars": environment},
            **_resources(config),
        )
        return RayJob(self.client, job)

    def _status(self, job: str) -> str | None:
        try:
            return str(self.client.get_job_status(job).value)
        except RuntimeError:  # there is no such job
            return None


class RayJob:
    """A job that was submitted."""

    def __init__(self, client: Any, job: str) -> None:
        self._client = client
        self._job = job
        self._answered = time.monotonic()
        self._next = 0.0
        self._code: int | None = None

    def poll(self) -> int | None:
        """The exit code, None while it waits or runs. Raises TrainingError when the cluster has long been silent."""
        now = time.monotonic()
        if self._code is None and now >= self._next:
            self._next = now + POLL_SECONDS
            try:
                info = self._client.get_job_info(self._job)
            except (OSError, RuntimeError) as error:
                if now - self._answered > SILENCE_SECONDS:
                    raise TrainingError(
                        f"the Ray cluster has not answered for {SILENCE_SECONDS:.0f} s ({error}); its jobs may go on, and the "
                        "same command finds them again"
                    ) from error
                return None
            self._answered = now
            self._code = _exit_code(info)
        return self._code

    def interrupt(self) -> None:
        """Ray sends SIGTERM, after which a run finishes its step and saves."""
        self._client.stop_job(self._job)

    def kill(self) -> None:
        """Ray's client has no harder way: the job is left to its stop, and this sweep no longer waits for it."""
        self.interrupt()
        self._code = -signal.SIGKILL if self._code is None else self._code


def _exit_code(info: Any) -> int | None:
    status = str(info.status.value)
    if status in ("PENDING", "RUNNING"):
        return None
    if status == "STOPPED":
        return 128 + signal.SIGTERM  # by its stop, or by somebody else's
    return 0 if status == "SUCCEEDED" else info.driver_exit_code or 1


def _resources(config: Config) -> dict[str, Any]:
    """What Ray keeps free for the job: a run of EasyR1 or verl asks for its GPUs itself."""
    if engine_of(config).distributed:
        return {}
    return {"entrypoint_num_gpus": 1} if config.trainer.device.startswith("cuda") else {"entrypoint_num_cpus": 1}


def check_for_ray(address: str, configs: Sequence[Config]) -> None:
    """Raises ConfigError where Ray could not know what a run needs."""
    for config in configs:
        if not engine_of(config).distributed and config.trainer.device == "auto":
            raise ConfigError(
                f"trainer.device = 'auto': with ray_address={address} Ray has to know what a run of "
                f"engine={engine_of(config).name} needs; set trainer.device=cuda (one GPU of the cluster a run) or cpu"
            )


def cluster_address(sweep_address: str | None, configs: Sequence[Config]) -> str | None:
    """The cluster that runs are submitted to: the sweep file's, else the one that the runs' own configurations name."""
    named = sorted({config.ray_address for config in configs if config.ray_address and engine_of(config).distributed})
    if sweep_address is None and len(named) > 1:
        raise ConfigError(f"ray_address: the runs name {', '.join(named)}; set one for all in the sweep file")
    return sweep_address or (named[0] if named else None)
