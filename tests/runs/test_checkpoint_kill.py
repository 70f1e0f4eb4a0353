"""kill -9 while a checkpoint is written: whatever the instant, a complete one is there, loads, and is the newest finished."""

import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch

from gmpo_mm.runs.checkpoint import (
    checkpoint_steps,
    latest_checkpoint,
    load_checkpoint,
    remove_leftovers,
    save_checkpoint,
)
from gmpo_mm.runs.run_directory import read_metrics
from tests.models.model_zoo import build_model
from tests.runs.small_training import Training, assert_holds


@pytest.fixture
def directory():
    """In memory where there is such a place: a kill is not a power cut, so nothing rides on the fsyncs, which are slow."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None) as name:
        yield Path(name)


def fork(child):
    """Run `child` in a forked process that never comes back into pytest; returns its number."""
    number = os.fork()
    if number == 0:
        try:
            torch.set_num_threads(1)  # OpenMP's threads of the parent are not there after a fork
            child()
        finally:
            os._exit(0)
    return number


def write_forever(directory, report):
    remove_leftovers(directory)
    latest = latest_checkpoint(directory)
    step = load_checkpoint(latest).step if latest else 0

    def model_files(folder):
        for index in range(4):
            (folder / f"part_{index}.bin").write_bytes(bytes([step % 256]) * 3_000_000)

    while True:
        step += 1
        tensors = {name: {"x": torch.full((700_000,), float(step))} for name in ("optimizer", "reference")}
        save_checkpoint(directory, step, model_files=model_files, tensors=tensors, state={"value": step}, keep=2)
        os.write(report, f"{step}\n".encode())


def assert_whole(directory, at_least):
    """The newest checkpoint loads, holds its own step's values, and is no older than the last one reported as saved."""
    latest = latest_checkpoint(directory)
    assert latest is not None
    loaded = load_checkpoint(latest)
    assert loaded.step >= at_least
    assert loaded.state["value"] == loaded.step
    assert bool((loaded.tensors("optimizer")["x"] == loaded.step).all())
    return loaded.step


def folder_bytes(folder):
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(os.path.join(parent, name)).st_size
    return total


def test_a_kill_from_outside_leaves_the_newest_complete_checkpoint(directory):
    step, leftovers = 0, 0
    # Bytes of the half-written folder at which the kill falls: 12 MB of model, 5.6 MB of tensors, then state and manifest.
    for threshold in [
        1,
        2_000_000,
        5_000_000,
        9_500_000,
        12_000_001,
        12_500_000,
        15_000_000,
        17_600_000,
        17_600_700,
        10**9,
    ]:
        read_end, write_end = os.pipe()
        writer = fork(lambda report=write_end: write_forever(directory, report))
        os.close(write_end)
        reports = os.fdopen(read_end)
        reported = int(reports.readline())
        deadline = time.monotonic() + 5  # a step later than the threshold would do as well
        while time.monotonic() < deadline:
            half = next((entry.path for entry in os.scandir(directory) if ".tmp-" in entry.name), None)
            if half and folder_bytes(half) >= threshold:
                break
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        rest = reports.read().split()
        reports.close()
        step = assert_whole(directory, max(step, reported, *map(int, rest)))
        leftovers += bool(remove_leftovers(directory))
    assert leftovers >= 3, "the kills have to fall into writes, or the test proves nothing"


def _kill_at_call(kill_at):
    """From now on the n-th file-system call of this process, in whatever thread, is a kill -9."""
    calls = 0

    def count(event, arguments):
        nonlocal calls
        if event in (
            "open",
            "os.mkdir",
            "os.rename",
            "os.remove",
            "os.rmdir",
            "os.scandir",
            "os.listdir",
            "shutil.rmtree",
        ):
            calls += 1
            if calls == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def _save_until_killed(directory, kill_at):
    """In a forked child: replace step 2 and save step 3 with pruning."""
    _kill_at_call(kill_at)
    for step in (2, 3):
        save_step(directory, step)


def save_step(directory, step):
    tensors = {"optimizer": {"x": torch.full((10,), float(step))}}

    def model_files(folder):
        (folder / "model.bin").write_bytes(b"x")

    save_checkpoint(directory, step, model_files=model_files, tensors=tensors, state={"value": step}, keep=2)


def test_a_kill_at_every_single_file_system_call_leaves_a_complete_checkpoint(directory):
    base, kill_at, finished, seen = directory, 0, False, set()
    while not finished:
        kill_at += 1
        directory = base / str(kill_at)
        save_step(directory, 1)
        save_step(directory, 2)
        child = fork(lambda folder=directory, call=kill_at: _save_until_killed(folder, call))
        _, status = os.waitpid(child, 0)
        finished = os.WIFEXITED(status)
        seen |= {name.split(".")[2].split("-")[0] for name in os.listdir(directory) if name.startswith(".")}
        remove_leftovers(directory)
        assert_whole(directory, at_least=2)
        # Every checkpoint under a final name is complete, not only the newest; and a next save works.
        for step in checkpoint_steps(directory):
            assert load_checkpoint(directory / f"step_{step}").step == step
        save_step(directory, 4)
        assert checkpoint_steps(directory)[-1] == 4
        assert not [name for name in os.listdir(directory) if name.startswith(".")]
    assert seen == {"tmp", "old", "removing"}, "the kills have to fall into the write, the replacement and the removal"
    assert kill_at > 40


def _train_until_killed(directory, module, kill_at):
    """In a forked child: four steps, each saved in the background while the next one writes its metrics."""
    training = Training(directory, module)
    _kill_at_call(kill_at)
    with training.run, training.saver:
        for step in (1, 2, 3, 4):
            training.step(step)
            training.save(step)
        training.step(5)


@pytest.mark.slow
def test_a_kill_at_file_system_calls_of_trainer_and_background_writer_leaves_a_run_that_goes_on(directory):
    module = build_model("qwen2")
    kill_at, finished, half, behind = 0, False, 0, 0
    while not finished:
        kill_at += 3  # the two threads take turns as they like, so that every call is met sooner or later
        run = directory / str(kill_at)
        child = fork(lambda run=run, call=kill_at: _train_until_killed(run, module, call))
        finished = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        saved = checkpoint_steps(run / "checkpoints")
        half += any(".tmp-" in name for name in os.listdir(run / "checkpoints"))
        lines = [line["step"] for line in read_metrics(run)] if (run / "metrics.jsonl").exists() else []
        behind += len(lines) > len(saved) and bool(saved)
        assert lines == list(range(1, len(lines) + 1)) and len(lines) >= max(saved, default=0)
        assert json.loads((run / "run.json").read_text()).get("last_checkpoint", 0) <= max(saved, default=0)
        with contextlib.closing(Training(run, module).run) as again:
            assert again.from_step == max(saved, default=0) and again.resuming
            assert not [name for name in os.listdir(again.checkpoints_dir) if name.startswith(".")]
            for step in saved:
                assert_holds(again.checkpoints_dir, step)
    assert saved == [3, 4]
    assert half >= 10 and behind >= 5, "the kills have to fall into writes, and into steps trained beside one"
