"""Our configuration as EasyR1's, against EasyR1's own merge of its own files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from verl.trainer.core_algos import ADV_ESTIMATOR_MAP, AdvantageEstimator, compute_advantage_return

from gmpo_mm.algorithms import compute_advantages
from gmpo_mm.config import LoadedConfig, load_config
from gmpo_mm.config.keys import schema_keys
from gmpo_mm.engines.checks import validate_for_training
from gmpo_mm.engines.easyr1 import advantages
from gmpo_mm.engines.easyr1.config import HANDLED_HERE, GMPOPPOConfig, to_easyr1
from gmpo_mm.engines.easyr1.trainer import StepRewards

OURS = {"worker.actor.seq_mean", "worker.actor.entropy_coef"}


def values(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key -> value of nested dataclasses."""
    for item in fields(config):
        value = getattr(config, item.name)
        if is_dataclass(value):
            yield from values(value, f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", value


@pytest.fixture
def example(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(checkout)
    return checkout / "examples" / "config.yaml"


def load(example: Path, *overrides: str) -> LoadedConfig:
    return load_config(example, ["engine=easyr1", *overrides])


def test_easyr1s_example_merges_to_what_easyr1_itself_makes_of_it(example: Path) -> None:
    loaded = load(example, "worker.actor.loss_type=gmpo")
    validate_for_training(loaded)
    ours = dict(values(to_easyr1(loaded.config)))
    # EasyR1's own main, on sections that take two loggers (omegaconf 2.4 refuses them otherwise)
    gmpo = {"worker": {"actor": {"loss_type": "gmpo"}}}
    own = OmegaConf.merge(OmegaConf.structured(GMPOPPOConfig()), OmegaConf.load(example), gmpo)
    stock = OmegaConf.to_object(own)
    stock.deep_post_init()
    expected = dict(values(stock))
    assert ours.keys() == expected.keys()
    different = {key for key in ours if ours[key] != expected[key]}
    assert different == {"trainer.save_checkpoint_path", "worker.critic.model.trust_remote_code"}, "our defaults: runs/, false"
    assert ours["trainer.save_checkpoint_path"] == str(Path("runs/easy_r1/qwen2_5_7b_math_grpo").absolute())
    assert ours["worker.actor.use_kl_loss"] is True and ours["worker.actor.kl_coef"] == 0.01
    assert ours["worker.ref.padding_free"] is True and ours["worker.rollout.prompt_length"] == 2048


def test_every_key_of_ours_arrives_or_is_handled_here(example: Path) -> None:
    there = dict(values(to_easyr1(load(example).config)))
    missing = {key for key in schema_keys() if key not in there}
    assert missing == HANDLED_HERE
    assert set(there) >= OURS


def test_names_and_paths_are_resolved_for_processes_elsewhere(example: Path, tmp_path: Path) -> None:
    (tmp_path / "loss.py").write_text("")
    config = load(
        example, "worker.actor.model.model_path=bundled:qwen2_5_vl_tiny", f"worker.actor.loss_type={tmp_path}/loss.py:mine",
        "worker.reward.reward_function=gmpo_mm/rewards/math.py:compute_score", "worker.rollout.name=auto",
        "algorithm.adv_estimator=dr_grpo", "data.override_chat_template=null",
    ).config  # fmt: skip
    easyr1 = to_easyr1(config)
    model = easyr1.worker.actor.model
    assert (Path(model.model_path) / "config.json").is_file() and model.tokenizer_path == model.model_path
    assert easyr1.worker.actor.loss_type == f"{tmp_path}/loss.py:mine"
    assert Path(easyr1.worker.reward.reward_function).is_file()
    assert easyr1.worker.reward.reward_function_name == "compute_score"
    assert (easyr1.worker.rollout.name, easyr1.algorithm.adv_estimator) == ("vllm", "grpo")
    assert easyr1.worker.rollout.val_override_config["n"] == 1


ESTIMATORS = ["grpo", "dr_grpo", "grpo_passk", "rloo", "reinforce_plus_plus", "remax", "opo", "max_rl"]
OURS_ALONE = ("dr_grpo", "opo", "max_rl")
"""Estimators that EasyR1 does not have; they go under the name of its grpo."""


def advantage_inputs() -> dict[str, Any]:
    g = torch.Generator().manual_seed(0)
    mask = torch.arange(6)[None] < torch.tensor([[6], [3], [1], [4], [5], [2]])
    rewards = torch.zeros(6, 6)
    rewards[torch.arange(6), mask.sum(1) - 1] = torch.rand(6, generator=g)
    uids = np.array(["b", "a", "b", "a", "b", "a"], dtype=object)
    return {"token_level_rewards": rewards, "response_mask": mask.long(), "index": uids, "gamma": 1.0, "lam": 1.0}


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_easyr1s_trainer_gets_our_advantages(example: Path, estimator: str) -> None:
    config = load(example, f"algorithm.adv_estimator={estimator}").config
    stock_name = "grpo" if estimator in OURS_ALONE else estimator
    inputs = advantage_inputs()
    if estimator == "remax":
        inputs["reward_baselines"] = torch.rand(6)
    stock = dict(advantages._STOCK)
    try:
        advantages.install(config)
        name = to_easyr1(config).algorithm.adv_estimator
        assert name == stock_name and name in list(AdvantageEstimator), "EasyR1's trainer lets no other name pass"
        found, returns = compute_advantage_return(name, **inputs)
    finally:
        ADV_ESTIMATOR_MAP.update(stock)
    expected = compute_advantages(
        estimator, inputs["token_level_rewards"].sum(1), torch.tensor([1, 0, 1, 0, 1, 0]),
        response_mask_BT=inputs["response_mask"].bool(), baselines_B=inputs.get("reward_baselines"),
    )  # fmt: skip
    assert torch.allclose(found, expected)
    assert returns.shape == found.shape
    if estimator != "remax":  # EasyR1's own multiplies (B,) by (B, T), which only works for B = T, and wrongly
        mask = inputs["response_mask"].bool()
        theirs, their_returns = stock[name](**inputs)
        assert torch.allclose(found[mask], theirs[mask], atol=1e-4) == (estimator not in OURS_ALONE)
        assert torch.allclose(returns, their_returns, atol=1e-4) == (estimator not in OURS_ALONE)


def test_gdpo_is_given_the_rewards_that_the_reward_actor_returned(example: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = ("algorithm.adv_estimator=gdpo", "algorithm.gdpo_reward_keys=[accuracy,format]", "algorithm.disable_kl=true")
    config = load(example, *keys, "algorithm.gdpo_reward_weights=[1,0.5]").config
    per_sample = {
        "overall": [9.0] * 6, "accuracy": [1.0, 0.0, 0.0, 1.0, 1.0, 0.0], "format": [0.0, 1.0, 1.0, 1.0, 0.0, 0.0],
        "length": [1.0] * 5, "length_not_finite": [0.0, 1.0, 0.0, 0.0, 0.0, 0.0],
    }  # fmt: skip
    actor = SimpleNamespace(compute_reward=SimpleNamespace(remote=lambda batch: ("rewards", per_sample)))
    monkeypatch.setattr("ray.get", lambda answer: answer)
    rewards = StepRewards(actor)
    batch = SimpleNamespace(non_tensor_batch={"uid": ["b", "a"] * 3})
    assert rewards.compute_reward.remote(batch) == ("rewards", per_sample)
    assert "length" not in rewards.scores()[1] and rewards.scores()[2]["length"] == 1.0
    stock, inputs = dict(advantages._STOCK), advantage_inputs()
    try:
        advantages.install(config, rewards.scores)
        found, _ = compute_advantage_return(to_easyr1(config).algorithm.adv_estimator, **inputs)
    finally:
        ADV_ESTIMATOR_MAP.update(stock)
    expected = compute_advantages(
        "gdpo", torch.zeros(6), torch.tensor([1, 0, 1, 0, 1, 0]), response_mask_BT=inputs["response_mask"].bool(),
        parts_KB=torch.tensor([per_sample["accuracy"], per_sample["format"]]), weights_K=[1.0, 0.5],
    )  # fmt: skip
    assert torch.allclose(found, expected.to(found.dtype)) and found.abs().max() > 0.1


def test_the_standard_deviation_is_left_out_when_asked(example: Path) -> None:
    config = load(example, "algorithm.norm_adv_by_std=false").config
    stock = dict(advantages._STOCK)
    try:
        advantages.install(config)
        found, _ = compute_advantage_return("grpo", **advantage_inputs())
    finally:
        ADV_ESTIMATOR_MAP.update(stock)
    scores = advantage_inputs()["token_level_rewards"].sum(1)
    assert found[0, 0].item() == pytest.approx((scores[0] - scores[[0, 2, 4]].mean()).item(), abs=1e-6)
