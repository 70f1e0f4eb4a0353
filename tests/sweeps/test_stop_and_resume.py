"""Kill, interrupt or budget: nothing goes on by itself, and the same command ends with the sweep that nobody stopped."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from gmpo_mm.config import Config
from gmpo_mm.runs.metrics_file import read_events
from gmpo_mm.sweeps.directory import SweepDirectory
from gmpo_mm.sweeps.processes import LocalLauncher
from tests.engine.runs import ROOT, file_bytes, metrics_without_times, run_here
from tests.sweeps.sweeps import (
    GMPO,
    NO_CLIP,
    STUB,
    are_gone,
    children_of,
    run_sweep,
    runs_of,
    start_sweep,
    states_of,
    trained,
    wait_for,
    write_sweep,
)

STEPS = 20
ENDLESS = ("trainer.max_steps=100000", "trainer.save_freq=-1")
LONG = (f"trainer.max_steps={STEPS}", "trainer.save_freq=3", "trainer.save_limit=2")


@pytest.fixture(scope="module")
def straight(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of gmpo, seed 1, that nobody stopped."""
    folder = tmp_path_factory.mktemp("straight")
    content = yaml.safe_load(write_sweep(folder, data, GMPO, *LONG).read_text())
    return run_here([content["base"], *content["overrides"], f"trainer.run_dir={folder / 'run'}"])


def assert_same_end(run_dir: Path, straight: Path) -> None:
    assert metrics_without_times(run_dir) == metrics_without_times(straight)
    mine, theirs = file_bytes(run_dir, STEPS), file_bytes(straight, STEPS)
    assert mine["huggingface/model.safetensors"] == theirs["huggingface/model.safetensors"]


@pytest.mark.slow
def test_kill_9_leaves_no_run_behind_and_the_same_command_goes_on(data: Path, straight: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    file = write_sweep(tmp_path, data, {**GMPO, **NO_CLIP}, *LONG)
    process = start_sweep(file, out, "--jobs", "2")
    first = out / "runs/gmpo/seed_1/checkpoints/step_3"  # is written beside the next steps
    wait_for(process, lambda: first.is_dir() and trained(out, "gmpo", 4))
    children = children_of(process.pid)
    assert len(children) == 2
    os.kill(process.pid, signal.SIGKILL)  # the sweep alone, not its group
    process.wait()
    assert are_gone(children)
    assert states_of(out) == {"gmpo": "running", "no_clip": "running"}  # nobody was left to write more
    assert not trained(out, "gmpo", STEPS)
    code, output = run_sweep(file, out, "--jobs", "2")
    assert code == 0, output
    assert states_of(out) == {"gmpo": "finished", "no_clip": "finished"}
    assert read_events(out / "runs/gmpo/seed_1/metrics.jsonl")[0]["from_step"] >= 3
    assert_same_end(out / "runs/gmpo/seed_1", straight)


def test_ctrl_c_lets_a_run_save_starts_no_other_and_the_same_command_goes_on(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    variants = {**GMPO, **NO_CLIP}
    process = start_sweep(write_sweep(tmp_path, data, variants, *ENDLESS), out, program=STUB)
    wait_for(process, lambda: trained(out, "gmpo", 7))
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=280)
    assert process.returncode == 130, output
    assert "each run finishes its step and saves first" in output
    run = runs_of(out)["gmpo", 1]
    assert run["state"] == "interrupted" and "the same command goes on" in run["reason"]
    assert runs_of(out)["no_clip", 1]["state"] == "waiting"
    state = json.loads((out / "runs/gmpo/seed_1/run.json").read_text())
    assert state["state"] == "interrupted" and state["last_checkpoint"] == state["step"] >= 7
    process = start_sweep(tmp_path / "sweep.yaml", out, program=STUB)
    wait_for(process, lambda: trained(out, "gmpo", state["step"] + 1))
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=280)
    assert runs_of(out)["gmpo", 1]["seconds"] > run["seconds"]  # of both attempts
    assert read_events(out / "runs/gmpo/seed_1/metrics.jsonl")[0]["from_step"] == state["step"]


def test_a_second_sweep_in_the_same_folder_is_refused(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    lock = SweepDirectory.lock(out)
    try:
        code, output = run_sweep(write_sweep(tmp_path, data, GMPO), out)
    finally:
        lock.release()
    assert code == 2 and "is working in" in output, output
    assert not (out / "sweep.json").exists()


def test_a_second_ctrl_c_kills_what_runs(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    # a step that never ends: only a kill ends the run
    file = write_sweep(tmp_path, data, GMPO, "trainer.max_steps=2", "worker.actor.ppo_epochs=5000")
    process = start_sweep(file, out, program=STUB)
    wait_for(process, lambda: (out / "runs/gmpo/seed_1/config.yaml").exists())
    children = children_of(process.pid)
    os.kill(process.pid, signal.SIGINT)
    assert process.stdout is not None
    while "interrupt again to kill" not in (line := process.stdout.readline()):
        assert line, "the sweep ended without waiting for the step"
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=280)
    assert process.returncode == 130, output
    assert "killing what still runs" in output and are_gone(children)
    assert states_of(out) == {"gmpo": "interrupted"}
    assert "killed at step 0 of 2" in runs_of(out)["gmpo", 1]["reason"]


def test_after_the_budget_the_run_is_saved_no_other_starts_and_the_same_command_goes_on(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    file = write_sweep(tmp_path, data, {**GMPO, **NO_CLIP}, *ENDLESS)
    clock = str(out / "runs/gmpo/seed_1/metrics.jsonl")
    code, output = run_sweep(file, out, "budget.hours=9", program=STUB, CLOCK_JUMPS_AFTER=clock)
    assert code == 0, output
    assert "the budget's 9 hours are over: each run finishes its step and saves first" in output
    stopped, waiting = runs_of(out)["gmpo", 1], runs_of(out)["no_clip", 1]
    assert (stopped["state"], waiting["state"]) == ("out_of_budget", "out_of_budget")
    assert "the budget's 9 hours were over, stopped at step " in stopped["reason"]
    assert waiting["reason"].startswith("not started") and not (out / waiting["directory"]).exists()
    saved = json.loads((out / "runs/gmpo/seed_1/run.json").read_text())["last_checkpoint"]
    assert saved >= 3
    process = start_sweep(file, out, program=STUB)  # without a budget
    wait_for(process, lambda: trained(out, "gmpo", saved + 1))
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=280)
    assert process.returncode == 130, output
    assert read_events(out / "runs/gmpo/seed_1/metrics.jsonl")[0]["from_step"] == saved


def test_a_run_that_is_killed_from_outside_fails_and_is_resumed_by_the_next_call(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start_sweep(write_sweep(tmp_path, data, GMPO, *ENDLESS, "trainer.save_freq=3"), out, program=STUB)
    wait_for(process, lambda: trained(out, "gmpo", 7))
    os.kill(children_of(process.pid)[0], signal.SIGKILL)
    output, _ = process.communicate(timeout=280)
    assert process.returncode == 1, output
    assert "its process was ended by SIGKILL (out of memory?)" in runs_of(out)["gmpo", 1]["reason"]
    process = start_sweep(tmp_path / "sweep.yaml", out, program=STUB)
    wait_for(process, lambda: read_events(out / "runs/gmpo/seed_1/metrics.jsonl") != [])
    assert read_events(out / "runs/gmpo/seed_1/metrics.jsonl")[0]["from_step"] >= 6
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=280)


def test_on_a_terminal_a_table_shows_how_far_each_run_is(data: Path, tmp_path: Path) -> None:
    file = write_sweep(tmp_path, data, GMPO, title="[red]a title[/red]")
    control, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", STUB, "sweep", str(file), "--out", str(tmp_path / "out")], cwd=tmp_path,
        stdout=terminal, stderr=terminal, stdin=subprocess.DEVNULL, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "160", "LINES": "40", "TERM": "xterm", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    os.close(terminal)
    shown = b""
    while True:
        try:
            part = os.read(control, 65536)
        except OSError:  # Linux: the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(control)
    assert process.wait() == 0, shown.decode()
    tables = shown.decode().split("small, about") if b"small, about" in shown else shown.decode().split("small")
    assert "running" in shown.decode() and "0/2" in shown.decode()
    assert "finished" in tables[-1] and "2/2" in tables[-1] and " s " in tables[-1]


def test_a_closed_pipe_ends_no_run(data: Path, tmp_path: Path) -> None:
    process = start_sweep(write_sweep(tmp_path, data, GMPO), tmp_path / "out", program=STUB)
    wait_for(process, lambda: (tmp_path / "out/sweep.json").exists())
    assert process.stdout is not None
    process.stdout.close()  # as `gmpo-mm sweep ... | head -1` does
    process.wait(200)
    assert states_of(tmp_path / "out") == {"gmpo": "finished"}


def test_where_the_kernel_does_not_end_a_child_it_watches_its_parent(tmp_path: Path) -> None:
    watch = "import os, sys; from gmpo_mm.sweeps.child import _watch; print(os.getpid(), flush=True); _watch(int(sys.argv[1]))"
    middle = (
        "import os, subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {watch!r}, str(os.getpid())], stdout=subprocess.PIPE, text=True)\n"
        "print(child.stdout.readline(), flush=True)\n"
        "sys.stdin.read()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen(
        [sys.executable, "-c", middle], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert not are_gone([child], seconds=1.5)
    parent.kill()
    parent.wait()
    assert are_gone([child])


@pytest.mark.skipif(sys.platform != "linux", reason="reads a process's environment from /proc")
def test_each_slot_sees_its_own_gpu_and_a_run_on_the_cpu_none_of_them(tmp_path: Path) -> None:
    def visible(device: str, slot: int) -> str | None:
        config = Config()
        config.trainer.device = device
        child = LocalLauncher(("3", "GPU-7")).start(["train", "--help"], tmp_path / "log.txt", slot, config)
        environ = Path("/proc") / str(child._process.pid) / "environ"  # type: ignore[attr-defined]
        while not (content := environ.read_bytes()):  # the new program's is not there yet
            time.sleep(0.001)
        child.kill()
        variables = content.decode().split("\0")
        return dict(line.partition("=")[::2] for line in variables if line).get("CUDA_VISIBLE_DEVICES")

    assert [visible("auto", slot) for slot in (0, 1, 2)] == ["3", "GPU-7", "3"]
    assert visible("cpu", 1) == os.environ.get("CUDA_VISIBLE_DEVICES")
