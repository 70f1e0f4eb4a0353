"""Checkpoints written beside the training: the step's own values, one at a time, and no error lost."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
from collections import namedtuple

import psutil
import pytest

from gmpo_mm.errors import TrainingError
from gmpo_mm.runs import checkpoint_saver
from gmpo_mm.runs.checkpoint import load_checkpoint
from gmpo_mm.runs.run_directory import read_metrics
from gmpo_mm.runs.snapshot import HostCopies
from tests.runs.small_training import Training, assert_holds, steps_of


class Gate:
    """Holds every write of a background thread at the flush of a file of this name, of any if None, until it
    is opened."""

    def __init__(self):
        self.opened, self.reached, self.file = threading.Event(), threading.Event(), None
        self.open, self.fsync = self.opened.set, os.fsync

    def held_fsync(self, descriptor):
        in_background = threading.current_thread() is not threading.main_thread()
        if in_background and self.file in (None, os.path.basename(_path(descriptor))):
            self.reached.set()
            assert self.opened.wait(30)
        self.fsync(descriptor)


@pytest.fixture
def gate(monkeypatch):
    made = Gate()
    monkeypatch.setattr(os, "fsync", made.held_fsync)
    yield made
    made.open()


def _path(descriptor):
    return os.readlink(f"/proc/self/fd/{descriptor}")


@pytest.fixture
def training(tmp_path):
    made = Training(tmp_path / "run")
    yield made
    made.run.close()


@pytest.mark.parametrize("reuse", [False, True])
def test_a_checkpoint_holds_its_own_step_while_the_next_ones_train(training, gate, reuse):
    training.saver._copies = HostCopies(reuse=reuse, pin=False)
    with training.saver:
        training.step(1)
        state = {"value": 1, "nested": {"position": 5}}
        training.save(1, state=state)
        assert gate.reached.wait(30)
        training.step(2)
        state["nested"]["position"] = 6
        assert steps_of(training) == [], "the step was trained while the write was held"
        training.saver.check()
        gate.open()
        training.save(2)
        data = load_checkpoint(training.run.checkpoints_dir / "step_1")
        assert data.state["nested"] == {"position": 5}
        assert_holds(training.run.checkpoints_dir, 1)
        training.step(3)
        training.save(3, background=False)
    for step in (2, 3):
        assert_holds(training.run.checkpoints_dir, step)
    assert steps_of(training) == [2, 3], "pruned, after the third had its name"
    assert json.loads((training.run.path / "run.json").read_text())["last_checkpoint"] == 3


def test_both_ways_write_the_same_bytes(tmp_path):
    files = []
    for background in (True, False):
        training = Training(tmp_path / str(background))
        with training.run, training.saver:
            training.step(1)
            training.save(1, background=background)
        folder = training.run.checkpoints_dir / "step_1"
        files.append({str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()})
    assert files[0] == files[1] and "manifest.json" in files[0]


def test_a_second_save_waits_for_the_first(training, gate):
    with training.saver:
        training.step(1)
        training.save(1)
        assert gate.reached.wait(30)
        training.step(2)
        opener = threading.Timer(0.3, gate.open)
        opener.start()
        training.save(2)
        assert_holds(training.run.checkpoints_dir, 1)
        assert training.saver._write.step == 2
    assert_holds(training.run.checkpoints_dir, 2)


def test_metrics_are_on_the_disk_before_the_checkpoint_has_its_name(training, monkeypatch):
    events, fsync, rename = [], os.fsync, type(training.run.path).rename

    def noted_fsync(descriptor):
        events.append(os.path.basename(_path(descriptor)))
        fsync(descriptor)

    def noted_rename(path, target):
        events.append(f"-> {os.path.basename(target)}")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(type(training.run.path), "rename", noted_rename)
    with training.saver:
        training.step(1)
        events.clear()
        training.save(1)
    assert events.index("metrics.jsonl") < events.index("-> step_1")
    written = {
        "model.safetensors",
        "config.json",
        "optimizer.safetensors",
        "trainer_state.json",
        "manifest.json",
    }
    assert written <= set(events[: events.index("-> step_1")])
    assert events.count("model.safetensors") == 1


@contextlib.contextmanager
def failing_background(monkeypatch, error, file):
    fsync = os.fsync

    def failing(descriptor):
        if threading.current_thread() is not threading.main_thread() and _path(descriptor).endswith(file):
            raise error
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        yield


def fail_a_write(training, monkeypatch, error, file="optimizer.safetensors"):
    """Step 1 is saved, the write of step 2 has failed in the background and nobody was told yet."""
    training.step(1)
    training.save(1)
    training.saver.wait()
    with failing_background(monkeypatch, error, file):
        training.step(2)
        training.save(2)
        training.saver._write._ended.wait()
    training.step(3)


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
FULL_MESSAGE = r"step_2: the disk is full.*step_1 is whole"


@pytest.mark.parametrize("how", ["check", "save", "wait", "leave"])
def test_a_full_disk_in_the_background_is_raised_where_the_run_looks_next(training, monkeypatch, how):
    with pytest.raises(TrainingError, match=FULL_MESSAGE), training.saver:
        fail_a_write(training, monkeypatch, FULL)
        if how == "save":
            training.save(3)
        elif how != "leave":
            getattr(training.saver, how)()
    assert steps_of(training) == [1] and sorted(os.listdir(training.run.checkpoints_dir)) == ["step_1"]
    assert_holds(training.run.checkpoints_dir, 1)
    assert json.loads((training.run.path / "run.json").read_text())["last_checkpoint"] == 1


@pytest.mark.parametrize(
    "file", ["model.safetensors", "config.json", "manifest.json", "checkpoints", "metrics.jsonl"]
)
def test_whatever_the_disk_refuses_is_a_training_error(training, monkeypatch, file):
    with pytest.raises(TrainingError, match="No space left|disk is full"), training.saver:
        fail_a_write(training, monkeypatch, FULL, file)
    for step in steps_of(training):
        assert_holds(training.run.checkpoints_dir, step)
    assert 1 in steps_of(training)


def test_any_other_error_of_the_thread_is_raised_as_it_is(training, monkeypatch):
    with pytest.raises(ZeroDivisionError), training.saver:
        fail_a_write(training, monkeypatch, ZeroDivisionError())
        training.saver.check()
    assert sorted(os.listdir(training.run.checkpoints_dir)) == ["step_1"]


def test_an_error_in_the_loop_lets_the_write_finish(training, gate):
    with pytest.raises(ZeroDivisionError), training.saver:
        training.step(1)
        training.save(1)
        assert gate.reached.wait(30)
        threading.Timer(0.3, gate.open).start()
        raise ZeroDivisionError
    assert_holds(training.run.checkpoints_dir, 1)
    assert [line["step"] for line in read_metrics(training.run.path)] == [1]


def test_an_error_in_the_loop_comes_before_that_of_the_write_which_is_shown(training, monkeypatch):
    with pytest.raises(ZeroDivisionError), training.saver:
        fail_a_write(training, monkeypatch, FULL)
        raise ZeroDivisionError
    assert "warning: could not save the checkpoint" in training.output.getvalue()
    assert "step_2: the disk is full" in training.output.getvalue()


@pytest.mark.parametrize("while_waiting", [False, True])
@pytest.mark.parametrize("file", ["metrics.jsonl", "model.safetensors", "manifest.json"])
def test_an_order_to_stop_at_once_gives_the_write_up(training, gate, monkeypatch, file, while_waiting):
    gate.file = file
    training.step(1)
    with pytest.raises(KeyboardInterrupt), training.saver:
        training.save(1)
        assert gate.reached.wait(30)
        threading.Timer(0.3, gate.open).start()
        if while_waiting:  # the signal's handler raises it inside of the wait
            monkeypatch.setattr(
                checkpoint_saver._Write, "wait", lambda write: (_ for _ in ()).throw(KeyboardInterrupt)
            )
            training.saver.wait()
        raise KeyboardInterrupt
    assert os.listdir(training.run.checkpoints_dir) == []


def test_without_memory_for_a_snapshot_it_is_saved_at_once_and_said_once(training, monkeypatch):
    memory = namedtuple("Memory", "available")
    need = training.saver._copies.missing_bytes(dict(training.module.named_parameters()))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory(checkpoint_saver.MARGIN_BYTES + need))
    with training.saver:
        for step in (1, 2):
            training.step(step)
            training.save(step)
            assert_holds(training.run.checkpoints_dir, step)
            assert training.saver._write is None
        text = training.output.getvalue()
        assert text.count("training waits while a checkpoint is written") == 1
        assert f"{need:,}" not in text and f"{checkpoint_saver.MARGIN_BYTES:,}" in text  # moments count too
        monkeypatch.setattr(
            psutil, "virtual_memory", lambda: memory(checkpoint_saver.MARGIN_BYTES + 4 * need)
        )
        training.step(3)
        training.save(3)
        assert training.saver._write is not None


def test_model_only_leaves_the_optimizer_out(tmp_path):
    training = Training(tmp_path / "run", model_only=True)
    with training.run, training.saver:
        training.step(1)
        training.save(1)
    assert not load_checkpoint(training.run.checkpoints_dir / "step_1").has_tensors("optimizer")


def test_the_best_step_is_protected_from_pruning(training):
    with training.saver:
        for step in (1, 2, 3, 4):
            training.step(step)
            training.save(step, protect={1})
    assert steps_of(training) == [1, 4]
