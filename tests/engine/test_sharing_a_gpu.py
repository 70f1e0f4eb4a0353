"""What leaves the device while it samples, in whole runs: nothing of it may change a number, and the order is
fixed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from gmpo_mm.config import Config
from gmpo_mm.engines.local import launch as local
from gmpo_mm.rollout.hf import HFRollout
from gmpo_mm.training.offload import Offload
from tests.engine.runs import arguments, file_bytes, metrics_without_times, run_here
from tests.training.builders import make_actor

# a reference model, validation in between, filtering that samples several times a step, and a checkpoint a
# step
OVERRIDES = (
    "algorithm.disable_kl=false", "algorithm.use_kl_loss=true", "algorithm.drop_zero_advantage=false",
    "algorithm.online_filtering=true", "algorithm.filter_low=0.0001", "data.mini_rollout_batch_size=2",
    "trainer.val_freq=1", "trainer.val_before_train=true", "trainer.save_freq=1", "trainer.save_limit=-1",
    "trainer.max_steps=3",
)  # fmt: skip


class Recording(HFRollout):
    """The built-in sampler, which notes down what it is asked for."""

    calls: list[str]

    def generate(self, *args: Any, **options: Any) -> Any:
        self.calls.append("generate")
        return super().generate(*args, **options)

    def sync_weights(self, model: Any) -> None:
        self.calls.append("sync")

    def free_memory(self) -> None:
        self.calls.append("free")

    def close(self) -> None:
        self.calls.append("close")


class RecordingOffload(Offload):
    calls: list[str]

    def before_sync(self) -> None:
        self.calls.append("rest leaves")
        super().before_sync()

    def after_sync(self) -> None:
        self.calls.append("policy leaves")
        super().after_sync()

    def back(self) -> None:
        self.calls.append("back")
        super().back()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The order of the calls of a run that shares its device with a sampler; both sides of the copies are CPU
    memory."""
    made: list[str] = []

    def offload(config: Any, name: str, actor: Any, reference: Any, device: Any) -> Offload:
        found = RecordingOffload(
            actor.optimizer,
            actor.policy.module,
            reference.module,
            device,
            optimizer_states=True,
            weights=True,
            pin=False,
        )
        found.calls = made
        return found

    def rollout(config: Any, name: str, policy: Any, *_: Any) -> Recording:
        sampler = Recording(policy)
        sampler.calls = made
        made.append("start")
        return sampler

    monkeypatch.setattr(local, "_offload", offload)
    monkeypatch.setattr(local, "_build_rollout", rollout)
    return made


def shortened(calls: list[str]) -> list[str]:
    """Without repetitions: a round may sample several times."""
    return [call for i, call in enumerate(calls) if i == 0 or call != calls[i - 1]]


HAND_OVER = ["rest leaves", "sync", "policy leaves"]
TAKE_BACK = ["generate", "free", "back"]


def test_a_run_that_moves_its_memory_writes_the_same_bytes(
    data: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    plain = run_here(arguments(data, tmp_path / "plain", *OVERRIDES))
    calls = request.getfixturevalue("calls")
    moved = run_here(arguments(data, tmp_path / "moved", *OVERRIDES))
    assert metrics_without_times(moved) == metrics_without_times(plain)
    for step in (1, 2, 3):
        ours, theirs = (
            {name: data for name, data in file_bytes(run, step).items() if name.endswith(".safetensors")}
            for run in (moved, plain)
        )
        assert ours == theirs and len(ours) >= 2
    start = ["rest leaves", "policy leaves", "start", "back"]
    # validation before training samples in the first round; the one after step 3 in the last
    rounds = [*HAND_OVER, *TAKE_BACK] * 3
    assert shortened(calls) == [*start, *rounds, *HAND_OVER, "generate", "close"]
    in_one_round = "".join(call[0] for call in calls).split("p")[
        2
    ]  # between one hand-over's end and the next
    assert in_one_round.count("g") >= 3, "validation and two or more tries of the filter share one stay"


def test_a_resumed_run_hands_over_first(data: Path, tmp_path: Path, calls: list[str]) -> None:
    run_dir = tmp_path / "run"
    run_here(arguments(data, run_dir, *OVERRIDES, "trainer.max_steps=1"))
    calls.clear()
    run_here(arguments(data, run_dir, *OVERRIDES, "trainer.max_steps=2"))
    assert shortened(calls)[4:] == [*HAND_OVER, *TAKE_BACK, *HAND_OVER, "generate", "close"]


def test_validation_alone_gives_nothing_back(data: Path, tmp_path: Path, calls: list[str]) -> None:
    run_here(arguments(data, tmp_path / "run", *OVERRIDES, "trainer.val_only=true"))
    assert shortened(calls)[4:] == [*HAND_OVER, "generate", "close"]


def test_an_error_while_sampling_closes_the_sampler(
    data: Path, tmp_path: Path, calls: list[str], monkeypatch
) -> None:
    def fail(self: Any, *args: Any, **options: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Recording, "generate", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        run_here(arguments(data, tmp_path / "run", *OVERRIDES))
    assert calls[-1] == "close"


def test_room_is_made_for_vllm_on_a_gpu_alone() -> None:
    actor, config = make_actor(), Config()
    offload = config.worker.actor.offload
    gpu, cpu = torch.device("cuda:0"), torch.device("cpu")
    assert local._offload(config, "vllm", actor, None, gpu) is None
    offload.offload_optimizer = True
    for name, device in (("hf", gpu), ("vllm", cpu)):
        assert local._offload(config, name, actor, None, device) is None
    moved = local._offload(config, "vllm", actor, actor.policy, gpu)
    assert moved is not None and (len(moved._before_sync), len(moved._after_sync)) == (1, 0)
    offload.offload_params = True
    moved = local._offload(config, "vllm", actor, actor.policy, gpu)
    assert moved is not None and (len(moved._before_sync), len(moved._after_sync)) == (2, 1)
