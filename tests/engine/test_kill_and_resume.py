"""Kill -9 anywhere, run the same command again: the same metrics and the same bytes as the run that was not killed.

(tests/robustness/test_kills.py kills before file operations: inside a checkpoint, before the first one, at the end.)
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from gmpo_mm.runs.metrics_file import read_events
from tests.engine.runs import (
    arguments,
    file_bytes,
    kill_when,
    metrics_without_times,
    run_here,
    run_process,
    start_process,
    train_metrics,
)

STEPS = 6
OPTIONS = (
    f"trainer.max_steps={STEPS}", "trainer.save_freq=2", "trainer.val_freq=3", "trainer.val_before_train=true",
    "trainer.save_limit=2", "worker.rollout.val_override_config={n: 48, temperature: 0.5}",
    "algorithm.disable_kl=false", "algorithm.use_kl_loss=false", "algorithm.kl_type=adaptive", "algorithm.kl_coef=0.01",
    "algorithm.drop_zero_advantage=false", "worker.actor.optim.lr_scheduler_type=cosine",
)  # fmt: skip


@pytest.fixture(scope="module")
def straight(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody killed."""
    run_dir = tmp_path_factory.mktemp("straight") / "run"
    code, output = run_process(arguments(data, run_dir, *OPTIONS))
    assert code == 0, output
    return run_dir


def has_line(run_dir: Path, kind: str, step: int) -> bool:
    file = run_dir / "metrics.jsonl"
    return file.exists() and any(f'"step": {step}, "kind": "{kind}"' in line for line in file.read_text().splitlines())


def assert_same_end(run_dir: Path, straight: Path) -> None:
    assert metrics_without_times(run_dir) == metrics_without_times(straight)
    assert file_bytes(run_dir, STEPS) == file_bytes(straight, STEPS)
    for name in (p.name for p in (straight / "samples").iterdir()):
        assert (run_dir / "samples" / name).read_bytes() == (straight / "samples" / name).read_bytes()
    assert not [p for p in (run_dir / "checkpoints").iterdir() if p.name.startswith(".")]


def test_killed_in_the_middle_of_a_step(data: Path, straight: Path, tmp_path: Path) -> None:
    args = arguments(data, tmp_path / "run", *OPTIONS)
    kill_when(args, lambda: has_line(tmp_path / "run", "train", 4) and (tmp_path / "run/checkpoints/step_4").exists())
    assert not has_line(tmp_path / "run", "train", STEPS)
    code, output = run_process(args)
    assert code == 0, output
    assert read_events(tmp_path / "run/metrics.jsonl")[0]["from_step"] == 4
    assert_same_end(tmp_path / "run", straight)


@pytest.mark.slow
def test_killed_in_the_middle_of_a_validation(data: Path, straight: Path, tmp_path: Path) -> None:
    args = arguments(data, tmp_path / "run", *OPTIONS)
    kill_when(args, lambda: has_line(tmp_path / "run", "train", 3))
    assert not has_line(tmp_path / "run", "validation", 3)
    code, output = run_process(args)
    assert code == 0, output
    assert_same_end(tmp_path / "run", straight)


@pytest.mark.slow
def test_ctrl_c_finishes_the_step_saves_and_says_how_to_go_on(data: Path, straight: Path, tmp_path: Path) -> None:
    args = arguments(data, tmp_path / "run", *OPTIONS)
    process = start_process(args)
    while not has_line(tmp_path / "run", "train", 1):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate()
    assert process.returncode == 130, output
    assert "this step is finished and saved first" in output and "the same command goes on there" in output
    steps = [line["step"] for line in train_metrics(tmp_path / "run")]
    assert (tmp_path / f"run/checkpoints/step_{steps[-1]}").exists()
    code, output = run_process(args)
    assert code == 0, output
    assert metrics_without_times(tmp_path / "run") == metrics_without_times(straight)
    final = file_bytes(tmp_path / "run", STEPS)
    assert final["huggingface/model.safetensors"] == file_bytes(straight, STEPS)["huggingface/model.safetensors"]


def test_a_finished_run_does_nothing_more_and_a_longer_one_goes_on(data: Path, tmp_path: Path) -> None:
    first = arguments(data, tmp_path / "run", "trainer.max_steps=1", "trainer.save_freq=1")
    run_here(first)
    before = (tmp_path / "run/metrics.jsonl").read_bytes()
    run_here(first)
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == before
    run_here([*first, "trainer.max_steps=2"])
    assert [line["step"] for line in train_metrics(tmp_path / "run")] == [1, 2]
