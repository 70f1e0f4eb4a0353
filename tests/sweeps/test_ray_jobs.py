"""A sweep on a real Ray cluster of this machine, by Ray's job submission; skipped where ray is not installed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gmpo_mm.config import Config
from gmpo_mm.errors import ConfigError
from gmpo_mm.sweeps.ray_jobs import RayLauncher, check_for_ray, cluster_address
from tests.sweeps.sweeps import GMPO, NO_CLIP, run_sweep, runs_of, start_sweep, states_of, trained, wait_for, write_sweep


def configs(engine: str, device: str = "auto", address: str | None = None) -> list[Config]:
    config = Config()
    config.engine, config.trainer.device, config.ray_address = engine, device, address
    return [config]


def test_the_cluster_is_the_sweep_files_or_the_one_of_easyr1s_runs() -> None:
    assert cluster_address(None, configs("local")) is None
    assert cluster_address("auto", configs("local")) == "auto"
    assert cluster_address(None, configs("easyr1", address="head:6379")) == "head:6379"
    with pytest.raises(ConfigError, match="the runs name a:1, b:1"):
        cluster_address(None, configs("easyr1", address="a:1") + configs("easyr1", address="b:1"))


def test_a_run_of_one_device_has_to_say_what_ray_shall_keep_free_for_it() -> None:
    check_for_ray("auto", configs("easyr1") + configs("local", "cuda") + configs("local", "cpu"))
    with pytest.raises(ConfigError, match="trainer.device = 'auto'.*trainer.device=cuda"):
        check_for_ray("auto", configs("local"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The dashboard's address of a one-node cluster that lives as long as this module."""
    pytest.importorskip("ray", reason="ray is not installed (extra ray)")
    ray = str(Path(sys.executable).with_name("ray"))
    port, dashboard = free_port(), free_port()
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    process = subprocess.Popen(
        [ray, "start", "--head", "--block", "--num-cpus=2", f"--port={port}", "--dashboard-host=127.0.0.1",
         f"--dashboard-port={dashboard}", "--include-dashboard=true", f"--temp-dir={tmp_path_factory.mktemp('r')}"],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    address = f"http://127.0.0.1:{dashboard}"
    try:
        wait_for(process, lambda: answers(address))
        yield address
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(address: str) -> bool:
    try:
        RayLauncher(address).client.list_jobs()
    except (ConfigError, RuntimeError, OSError):
        return False
    return True


CPU = "trainer.device=cpu"


def test_runs_are_jobs_of_the_cluster(cluster: str, data: Path, tmp_path: Path) -> None:
    bad = {"bad": {"overrides": ["worker.reward.reward_function=bad.py:compute_score"]}}
    (tmp_path / "bad.py").write_text("def compute_score(inputs):\n    raise ValueError('no reward today')\n")
    file = write_sweep(tmp_path, data, {**GMPO, **bad}, CPU, ray_address=cluster)
    code, output = run_sweep(file, tmp_path / "out", "--jobs", "2")
    assert code == 1, output
    assert states_of(tmp_path / "out") == {"gmpo": "finished", "bad": "failed"}
    assert "no reward today" in runs_of(tmp_path / "out")["bad", 1]["reason"]
    jobs = {job.submission_id: str(job.status.value) for job in RayLauncher(cluster).client.list_jobs()}
    assert sorted(jobs.values()) == ["FAILED", "SUCCEEDED"]
    assert any("-gmpo_seed_1-train" in name for name in jobs)


def test_a_killed_sweeps_job_is_found_again_and_an_interrupted_one_saves_and_is_resumed(
    cluster: str, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    file = write_sweep(tmp_path, data, NO_CLIP, CPU, "trainer.max_steps=100000", ray_address=cluster)
    process = start_sweep(file, out)
    wait_for(process, lambda: trained(out, "no_clip", 2))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    left_behind = (out / "sweep.json").stat().st_mtime_ns
    process = start_sweep(file, out)  # the job has gone on meanwhile
    wait_for(process, lambda: (out / "sweep.json").stat().st_mtime_ns > left_behind)
    wait_for(process, lambda: runs_of(out)["no_clip", 1]["state"] == "running")
    step = sum('"kind": "train"' in line for line in (out / "runs/no_clip/seed_1/metrics.jsonl").read_text().splitlines())
    wait_for(process, lambda: trained(out, "no_clip", step + 5))
    assert '"event": "resume"' not in (out / "runs/no_clip/seed_1/metrics.jsonl").read_text()  # it is the same process
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert runs_of(out)["no_clip", 1]["state"] == "interrupted"
    state = json.loads((out / "runs/no_clip/seed_1/run.json").read_text())
    assert state["state"] == "interrupted" and state["last_checkpoint"] == state["step"] > step
    process = start_sweep(file, out)
    wait_for(process, lambda: trained(out, "no_clip", state["step"] + 1))
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130 and '"event": "resume"' in (out / "runs/no_clip/seed_1/metrics.jsonl").read_text(), output


def test_a_cluster_that_does_not_answer_is_an_error_before_anything_starts(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed (extra ray)")
    file = write_sweep(tmp_path, data, GMPO, CPU, ray_address=f"http://127.0.0.1:{free_port()}")
    code, output = run_sweep(file, tmp_path / "out")
    assert code == 2 and "no Ray cluster answers there" in output and "Traceback" not in output, output


def test_without_ray_the_error_names_the_extra(data: Path, tmp_path: Path) -> None:
    file = write_sweep(tmp_path, data, GMPO, CPU, ray_address="auto")
    (tmp_path / "ray.py").write_text("raise ImportError('not here')\n")  # whether or not it is installed
    process = start_sweep(file, tmp_path / "out", PYTHONPATH=f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2 and "pip install 'gmpo-mm[ray]'" in output, output
