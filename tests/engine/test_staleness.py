"""`worker.rollout.staleness`: samples come from the weights of some steps ago, and the run says so and can be killed."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gmpo_mm.config import Config, load_config
from gmpo_mm.engines.checks import validate_for_training
from gmpo_mm.engines.local import launch
from gmpo_mm.errors import ConfigError, TrainingError
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.rollout.hf import HFRollout
from gmpo_mm.runs.metrics_file import read_metrics
from gmpo_mm.training.actor import Actor
from gmpo_mm.training.batch import Batch
from tests.engine.runs import (
    SAVING,
    arguments,
    file_bytes,
    kill_when,
    metrics_without_times,
    policy_of,
    run_here,
    run_process,
    train_metrics,
)

STALENESS = "worker.rollout.staleness"
LARGE_RATE = "worker.actor.optim.lr=1e-3"
SAVED = (*SAVING, LARGE_RATE)


def hashes(run_dir: Path) -> dict[int, dict[str, str]]:
    """Step -> line of kind `weights`."""
    return {line["step"]: line for line in read_metrics(run_dir) if line["kind"] == "weights"}


@pytest.fixture(scope="module")
def lagging(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """A run with each staleness, saved after each of its steps."""
    folder = tmp_path_factory.mktemp("lagging")
    none = "worker.rollout.emulate={weights: none, logits_noise: 0.0, top_p: 1.0}"
    return {
        k: run_here(arguments(data, folder / str(k), *SAVED, none, f"trainer.max_steps={steps}", f"{STALENESS}={k}"))
        for k, steps in ((0, 2), (1, 4), (2, 4))
    }


@pytest.mark.parametrize("k", [1, 2])
def test_hashes_prove_which_weights_sampled(lagging: dict[int, Path], k: int) -> None:
    lines = hashes(lagging[k])
    assert sorted(lines) == [0, 1, 2, 3, 4]
    assert len({line["actor/weights_sha256"] for line in lines.values()}) == 5, "every step changes the weights"
    for step in range(1, 5):
        former = max(0, step - 1 - k)
        assert lines[step]["rollout/weights_sha256"] == lines[former]["actor/weights_sha256"]
        assert train_metrics(lagging[k])[step - 1]["rollout/weights_step"] == former


def test_a_checkpoint_holds_the_weights_of_the_steps_before_it(lagging: dict[int, Path]) -> None:
    past = load_file(lagging[2] / "checkpoints/step_3/past_weights.safetensors")
    assert {name.partition("/")[0] for name in past} == {"1", "2"}
    for flat, tensor in past.items():
        step, _, name = flat.partition("/")
        file = lagging[2] / f"checkpoints/step_{step}/huggingface/model.safetensors"
        assert torch.equal(load_file(file)[name.replace("model.language_model.", "model.")], tensor)


def test_no_staleness_and_nothing_emulated_writes_what_a_run_without_the_keys_writes(
    data: Path, lagging: dict[int, Path], tmp_path: Path
) -> None:
    plain = run_here(arguments(data, tmp_path / "run", *SAVED, "trainer.max_steps=2"))
    assert metrics_without_times(plain) == metrics_without_times(lagging[0])
    assert file_bytes(plain, 2) == file_bytes(lagging[0], 2)
    assert {line["kind"] for line in metrics_without_times(plain)} == {"train"}
    assert not any("past_weights" in name for name in file_bytes(plain, 2))
    assert not any(name.startswith("rollout/weights") for name in train_metrics(plain)[0])


@pytest.mark.parametrize("old", ["auto", *(pytest.param(word, marks=pytest.mark.slow) for word in ("sampler", "recompute"))])
def test_the_first_ratio_is_that_of_the_new_to_the_stale_weights(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str
) -> None:
    """Step 3 with staleness 1: log rho = log pi(weights after step 2) - log pi(those after step 1)."""
    seen: list[tuple[Actor, Batch]] = []
    update = Actor.update
    monkeypatch.setattr(Actor, "update", lambda self, batch, *more: seen.append((self, batch)) or update(self, batch, *more))
    run_dir = run_here(
        arguments(data, tmp_path / "run", *SAVED, f"{STALENESS}=1", "trainer.max_steps=3",
                  "worker.actor.global_batch_size=4", "algorithm.drop_zero_advantage=false",
                  f"worker.actor.old_log_probs={old}")
    )  # fmt: skip
    actor, batch = seen[2]
    newest, stale = (actor.log_probs(batch, policy_of(data, run_dir, step)) for step in (2, 1))
    torch.testing.assert_close(batch.sampler_log_probs_BT, stale, atol=2e-5, rtol=0)
    expected_BT = newest - (newest if old == "recompute" else stale)
    ratios = [json.loads(line)["log_ratio"] for line in (run_dir / "samples/step_3_train.jsonl").read_text().splitlines()]
    assert ratios == pytest.approx(expected_BT.sum(1).tolist(), abs=2e-4)
    line = train_metrics(run_dir)[2]
    if old == "recompute":
        assert line["ratio/token_max"] == 1.0
    else:
        assert line["ratio/token_max"] == pytest.approx(float(expected_BT.max().exp()), rel=1e-4)
        assert line["ratio/token_max"] > 1.01
    gap_BT = (newest - stale).abs()
    assert line["rollout/log_prob_gap_mean"] == pytest.approx(float(gap_BT[batch.mask_BT].mean()), rel=1e-3)


def test_killed_between_steps_and_gone_on_it_gives_the_same_bytes(
    data: Path, lagging: dict[int, Path], tmp_path: Path
) -> None:
    for steps in (1, 3, 4):
        run_here(arguments(data, tmp_path / "run", *SAVED, f"{STALENESS}=2", f"trainer.max_steps={steps}"))
        saved = file_bytes(tmp_path / "run", steps)
        assert ("past_weights.safetensors" in saved) and "past_weights.safetensors" in saved["manifest.json"].decode()
    assert metrics_without_times(tmp_path / "run") == metrics_without_times(lagging[2])
    for step in (3, 4):
        assert file_bytes(tmp_path / "run", step) == file_bytes(lagging[2], step)


def test_a_checkpoint_without_the_weights_that_are_needed_is_refused(
    data: Path, lagging: dict[int, Path], tmp_path: Path
) -> None:
    start = lagging[1] / "checkpoints/step_3"
    args = arguments(data, tmp_path / "run", f"trainer.resume={start}", "trainer.max_steps=4")
    with pytest.raises(TrainingError, match=r"weights after step 1, with which worker\.rollout\.staleness=2"):
        run_here([*args, f"{STALENESS}=2"])


def test_validation_has_the_newest_weights(data: Path, tmp_path: Path) -> None:
    val = ("trainer.val_freq=2", "trainer.max_steps=2", "trainer.save_freq=2", LARGE_RATE, f"{STALENESS}=1")
    run_dir = run_here(arguments(data, tmp_path / "run", *val))
    (line,) = (line for line in metrics_without_times(run_dir) if line["kind"] == "validation")
    again = run_here(
        arguments(data, tmp_path / "again", "trainer.val_only=true", "trainer.val_before_train=true",
                  f"worker.actor.model.model_path={run_dir}/checkpoints/step_2/huggingface")
    )  # fmt: skip
    (other,) = (line for line in metrics_without_times(again) if line["kind"] == "validation")
    assert {**line, "step": 0} == other


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([f"{STALENESS}=-1"], r"worker\.rollout\.staleness = -1: it must be at least 0"),
        ([f"{STALENESS}=1", "worker.rollout.correction=truncated"], r"set worker\.actor\.old_log_probs=recompute"),
        ([f"{STALENESS}=1", "engine=verl"], r"staleness = 1: engine=verl .* set it to 0, or use engine=local"),
        ([f"{STALENESS}=1", "engine=easyr1"], r"staleness = 1: engine=easyr1 .* set it to 0, or use engine=local"),
    ],
)
def test_bad_settings_are_refused_with_key_value_and_fix(
    data: Path, tmp_path: Path, settings: list[str], message: str
) -> None:
    args = arguments(data, tmp_path / "run", *settings)
    with pytest.raises(ConfigError, match=message):
        validate_for_training(load_config(args[0], args[1:]))


class OwnWeights(HFRollout):
    """A sampler with weights of its own, as vLLM has them: it samples with what `sync_weights` showed it last."""

    samples_in_place = False

    def sync_weights(self, model: torch.nn.Module) -> None:
        self.policy.module.load_state_dict(model.state_dict())


def test_a_sampler_with_weights_of_its_own_gets_the_stale_ones(
    data: Path, lagging: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(config: Config, name: str, policy: PolicyModel, *_: object) -> OwnWeights:
        module = copy.deepcopy(policy.module)
        return OwnWeights(
            PolicyModel(module, forbidden_token_ids=policy.forbidden_token_ids, eos_token_ids=policy.eos_token_ids,
                        compute_dtype=policy.compute_dtype)
        )  # fmt: skip

    monkeypatch.setattr(launch, "_build_rollout", build)
    run_dir = run_here(arguments(data, tmp_path / "run", *SAVED, "trainer.max_steps=4", f"{STALENESS}=1"))
    assert metrics_without_times(run_dir) == metrics_without_times(lagging[1])
    assert file_bytes(run_dir, 4) == file_bytes(lagging[1], 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", [(f"{STALENESS}=2",), (f"{STALENESS}=2", "worker.rollout.emulate={weights: int8, logits_noise: 0.3, top_p: 0.9}")],
    ids=["stale", "stale-and-emulated"],
)  # fmt: skip
def test_killed_with_signal_9_and_gone_on_it_gives_the_same_bytes(data: Path, tmp_path: Path, more: tuple[str, ...]) -> None:
    steps = ("trainer.max_steps=6", *SAVED, *more)
    straight = run_here(arguments(data, tmp_path / "straight", *steps))
    args = arguments(data, tmp_path / "run", *steps)
    for step in (2, 4):
        kill_when(args, lambda step=step: (tmp_path / f"run/checkpoints/step_{step}").exists())
    code, output = run_process(args)
    assert code == 0, output
    assert metrics_without_times(tmp_path / "run") == metrics_without_times(straight)
    for step in (5, 6):
        assert file_bytes(tmp_path / "run", step) == file_bytes(straight, step)
