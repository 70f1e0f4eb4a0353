"""Checkpoints written while the next step trains: killed, interrupted and out of disk in the middle, end to
end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from gmpo_mm.runs.checkpoint import checkpoint_steps, load_checkpoint
from gmpo_mm.runs.metrics_file import read_events
from tests.engine.runs import arguments, file_bytes, metrics_without_times, run_process, start_process

STEPS = 4
OPTIONS = (
    f"trainer.max_steps={STEPS}", "trainer.save_freq=2", "trainer.save_limit=2", "algorithm.drop_zero_advantage=false",
)  # fmt: skip
WAITS, GIVES_UP = "the loop waits for the write", "the write is given up"
# The flush of a checkpoint's file in a thread that isn't the main one lasts until there is a file GATE: a
# very slow disk. The output says when the loop comes to wait for the write, and when it gives it up.
HELD_DISK = f"""
import os, threading, time
from gmpo_mm.runs.checkpoint_saver import _Write
def told(method, words):
    def tell(self):
        print(words, flush=True)
        return method(self)
    return tell
_Write.wait, _Write.stop = told(_Write.wait, {WAITS!r}), told(_Write.stop, {GIVES_UP!r})
fsync = os.fsync
def held(descriptor):
    if threading.current_thread() is not threading.main_thread():
        while "/checkpoints/" in os.readlink(f"/proc/self/fd/{{descriptor}}") and not os.path.exists(os.environ["GATE"]):
            time.sleep(0.01)
    fsync(descriptor)
os.fsync = held
from gmpo_mm.cli import main; main()
"""


@pytest.fixture(scope="module")
def straight(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing happened to, on a fast disk."""
    run_dir = tmp_path_factory.mktemp("straight") / "run"
    code, output = run_process(arguments(data, run_dir, *OPTIONS))
    assert code == 0, output
    return run_dir


def start(args: list[str], run_dir: Path) -> subprocess.Popen[str]:
    return start_process(args, ("-c", HELD_DISK), GATE=str(run_dir.with_name("gate")))


def open_gate(run_dir: Path) -> None:
    run_dir.with_name("gate").touch()


def wait_until_trained_beside_a_write(process: subprocess.Popen[str], run_dir: Path) -> None:
    """Step 3 has its metrics, and the checkpoint of step 2 is still being written."""
    metrics = run_dir / "metrics.jsonl"
    while not (
        metrics.exists()
        and '"step": 3, "kind": "train"' in metrics.read_text()
        and any(name.startswith(".step_2.tmp-") for name in os.listdir(run_dir / "checkpoints"))
    ):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.001)
    assert checkpoint_steps(run_dir / "checkpoints") == []


def read_until(process: subprocess.Popen[str], *words: str) -> None:
    """Until all of these have been printed."""
    assert process.stdout is not None
    missing, lines = set(words), []
    while missing:
        line = process.stdout.readline()
        assert line, "".join(lines)
        lines.append(line)
        missing -= {text for text in missing if text in line}


def assert_goes_on_to_the_same_end(args: list[str], run_dir: Path, straight: Path) -> None:
    code, output = run_process(args)
    assert code == 0, output
    assert metrics_without_times(run_dir) == metrics_without_times(straight)
    assert file_bytes(run_dir, STEPS) == file_bytes(straight, STEPS)
    assert sorted(os.listdir(run_dir / "checkpoints")) == ["step_2", "step_4"]


def run_json(run_dir: Path) -> dict:
    return json.loads((run_dir / "run.json").read_text())


@pytest.mark.slow
def test_killed_while_a_step_trains_beside_a_write(data: Path, straight: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    args = arguments(data, run_dir, *OPTIONS)
    process = start(args, run_dir)
    wait_until_trained_beside_a_write(process, run_dir)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert checkpoint_steps(run_dir / "checkpoints") == []
    assert "last_checkpoint" not in run_json(run_dir)
    assert_goes_on_to_the_same_end(args, run_dir, straight)
    assert [event["from_step"] for event in read_events(run_dir)] == [0]


def test_a_first_signal_waits_for_the_write(data: Path, straight: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    args = arguments(data, run_dir, *OPTIONS)
    process = start(args, run_dir)
    wait_until_trained_beside_a_write(process, run_dir)
    os.kill(process.pid, signal.SIGTERM)
    read_until(process, "stopping: ", WAITS)
    assert process.poll() is None
    open_gate(run_dir)
    output, _ = process.communicate()
    saved = checkpoint_steps(run_dir / "checkpoints")
    state = run_json(run_dir)
    assert saved[0] == 2 and saved[-1] == state["last_checkpoint"] == state["step"] >= 3
    assert all(load_checkpoint(run_dir / f"checkpoints/step_{step}").step == step for step in saved)
    if saved[-1] < STEPS:
        assert state["state"] == "interrupted" and process.returncode == 143, output
        code, output = run_process(args)
        assert code == 0, output
    assert metrics_without_times(run_dir) == metrics_without_times(straight)
    assert file_bytes(run_dir, STEPS) == file_bytes(straight, STEPS)


@pytest.mark.slow
def test_a_second_signal_gives_the_write_up(data: Path, straight: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    args = arguments(data, run_dir, *OPTIONS)
    process = start(args, run_dir)
    wait_until_trained_beside_a_write(process, run_dir)
    os.kill(process.pid, signal.SIGINT)
    read_until(process, "stopping: ")
    os.kill(process.pid, signal.SIGINT)
    read_until(process, GIVES_UP)
    open_gate(run_dir)
    output, _ = process.communicate()
    assert process.returncode == 130, output
    assert os.listdir(run_dir / "checkpoints") == [], output
    assert run_json(run_dir)["state"] == "interrupted" and "last_checkpoint" not in run_json(run_dir)
    assert_goes_on_to_the_same_end(args, run_dir, straight)


REWARD_THAT_FAILS_IN_STEP_3 = """
import glob, threading, time
calls = 0
def compute_score(rows):
    global calls
    calls += 1
    if calls == 3:
        while not glob.glob("{run}/checkpoints/.step_2.tmp-*"):
            time.sleep(0.001)
        threading.Timer(0.5, open, ("{gate}", "w")).start()
        raise ZeroDivisionError
    return [{{"overall": float(len(row["response"]) % 2)}} for row in rows]
"""


def test_an_error_in_the_loop_finishes_the_write_first(data: Path, tmp_path: Path) -> None:
    run_dir, reward = tmp_path / "run", tmp_path / "reward.py"
    reward.write_text(REWARD_THAT_FAILS_IN_STEP_3.format(run=run_dir, gate=tmp_path / "gate"))
    args = arguments(data, run_dir, *OPTIONS, f"worker.reward.reward_function={reward}:compute_score")
    process = start(args, run_dir)
    output, _ = process.communicate()
    assert process.returncode == 2 and "ZeroDivisionError" in output
    state = run_json(run_dir)
    assert (state["state"], state["step"], state["last_checkpoint"]) == ("failed", 2, 2)
    assert os.listdir(run_dir / "checkpoints") == ["step_2"]
    assert load_checkpoint(run_dir / "checkpoints/step_2").step == 2
