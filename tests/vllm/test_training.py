"""A whole run with vLLM rollouts: sampled by vLLM, trained by us, weights handed over each step, the gap measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from gmpo_mm.errors import TrainingError
from gmpo_mm.rollout.vllm import VLLMRollout
from tests.engine.runs import arguments, metrics_without_times, run_here, write_data
from tests.vllm.conftest import NEEDS_VLLM

pytestmark = NEEDS_VLLM
OPTIONS = ("worker.rollout.name=vllm", "trainer.max_steps=3", "worker.actor.optim.lr=3e-4", "data.rollout_batch_size=8")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def test_vllm_rollouts_train_and_stay_with_the_trained_weights(data: Path, tmp_path: Path) -> None:
    run_dir = run_here(
        arguments(data, tmp_path / "run", *OPTIONS, "trainer.val_freq=3", "worker.rollout.correction=truncated")
    )
    train = [line for line in metrics_without_times(run_dir) if line["kind"] == "train"]
    assert [line["step"] for line in train] == [1, 2, 3]
    assert all(line["rollout/log_prob_gap_mean"] < 1e-3 for line in train)
    assert all(line["actor/updates"] == 4 for line in train)


def test_a_sampler_that_misses_the_new_weights_ends_the_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VLLMRollout, "sync_weights", lambda self, model: None)
    options = ("worker.actor.optim.lr=0.01", "worker.rollout.max_log_prob_gap=0.01")
    with pytest.raises(TrainingError, match="max_log_prob_gap"):
        run_here(arguments(data, tmp_path / "run", *OPTIONS, *options))


def test_a_run_frees_memory_once_a_step_after_the_last_sample(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def record(name: str) -> None:
        real = getattr(VLLMRollout, name)
        monkeypatch.setattr(VLLMRollout, name, lambda self, *a, **k: (calls.append(name), real(self, *a, **k))[1])

    for name in ("generate", "sync_weights", "free_memory"):
        record(name)
    run_here(
        arguments(
            data, tmp_path / "run", "worker.rollout.name=vllm", "data.mini_rollout_batch_size=2", "trainer.val_freq=1",
            "algorithm.online_filtering=true", "algorithm.filter_low=0.0001",
        )
    )  # fmt: skip
    assert [call for i, call in enumerate(calls) if i == 0 or call != calls[i - 1]] == [
        *["sync_weights", "generate", "free_memory"] * 2, "sync_weights", "generate",
    ]  # fmt: skip
    assert calls.count("generate") > 5
