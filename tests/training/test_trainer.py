"""What the training loop hands from one part to the next: KL in the reward, baselines, the KL controller."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gmpo_mm.algorithms import AdaptiveKLController
from gmpo_mm.config import load_config
from gmpo_mm.training.batch import Batch
from gmpo_mm.training.trainer import Trainer
from tests.models.model_zoo import build_policy
from tests.training.builders import PARAMS, make_batch

QUICKSTART = str(Path(__file__).parents[2] / "configs" / "quickstart.yaml")
COEF, HORIZON, GAMMA = 0.5, 50.0, 0.9


def make_trainer(target: float, *overrides: str) -> Trainer:
    """A trainer with what `_advantages` reads: configuration and KL controller."""
    others: dict[str, Any] = dict.fromkeys(
        ("run", "policy", "processor", "actor", "rollout", "batches", "order")
    )
    others |= dict.fromkeys(("validator", "progress", "trackers"))
    config = load_config(QUICKSTART, list(overrides)).config
    return Trainer(config=config, kl=AdaptiveKLController(COEF, target, HORIZON), total_steps=1, **others)


@pytest.fixture(scope="module")
def batch() -> Batch:
    made = make_batch(build_policy("qwen2"))
    torch.manual_seed(11)
    made.rewards_B = torch.randn(len(made), dtype=torch.float64)
    made.ref_log_probs_BT = made.sampler_log_probs_BT + torch.randn(made.mask_BT.shape) * made.mask_BT
    return made


def kl_of(batch: Batch) -> list[list[float]]:
    """low_var_kl of the old policy against the reference, token by token."""
    assert batch.old_log_probs_BT is not None and batch.ref_log_probs_BT is not None
    result = []
    for row in range(len(batch)):
        x = [
            float(batch.old_log_probs_BT[row, t] - batch.ref_log_probs_BT[row, t])
            for t in range(int(batch.mask_BT[row].sum()))
        ]
        result.append([min(math.exp(-v) + v - 1, 10.0) for v in x])
    return result


def naive_advantages(
    estimator: str, rewards: list[list[float]], baselines: list[float], by_std: bool
) -> list[list[float]]:
    """Advantages by token from rewards by token."""
    n = PARAMS.n
    totals = [sum(row) for row in rewards]
    if estimator == "reinforce_plus_plus":
        returns = [
            [sum(r * GAMMA**k for k, r in enumerate(row[t:])) for t in range(len(row))] for row in rewards
        ]
        flat = [value for row in returns for value in row]
        mean = sum(flat) / len(flat)
        std = math.sqrt(sum((v - mean) ** 2 for v in flat) / (len(flat) - 1))
        return [[(value - mean) / std for value in row] for row in returns]
    result = []
    for row, total in enumerate(totals):
        group = totals[row // n * n : row // n * n + n]
        mean = baselines[row // n] if estimator == "remax" else sum(group) / n
        by = (
            math.sqrt(sum((v - mean) ** 2 for v in group) / (n - 1))
            if estimator == "grpo" and by_std
            else 1.0
        )
        result.append([(total - mean) / by] * len(rewards[row]))
    return result


@pytest.mark.parametrize("in_reward", [False, True], ids=["no-kl", "kl-in-reward"])
@pytest.mark.parametrize("estimator", ["grpo", "grpo-without-std", "remax", "reinforce_plus_plus"])
def test_advantages_with_and_without_kl_in_the_reward(batch: Batch, estimator: str, in_reward: bool) -> None:
    name = estimator.removesuffix("-without-std")
    trainer = make_trainer(
        0.1, f"algorithm.adv_estimator={name}", f"algorithm.norm_adv_by_std={str(name == estimator).lower()}",
        f"algorithm.gamma={GAMMA}", f"algorithm.disable_kl={str(not in_reward).lower()}",
        "algorithm.use_kl_loss=false", "algorithm.kl_penalty=low_var_kl",
    )  # fmt: skip
    baselines = [0.3, -1.0, 2.0, 0.9] if name == "remax" else []
    metrics = trainer._advantages(batch, baselines)
    rewards = []
    for row, kl in enumerate(kl_of(batch)):
        penalty = [-COEF * value if in_reward else 0.0 for value in kl]
        rewards.append([*penalty[:-1], penalty[-1] + float(batch.rewards_B[row])])
    for row, expected in enumerate(naive_advantages(name, rewards, baselines, name == estimator)):
        found = batch.advantages_BT[row]
        torch.testing.assert_close(found[: len(expected)], torch.tensor(expected), atol=2e-5, rtol=2e-5)
        assert not found[len(expected) :].any()
    assert set(metrics) == ({"actor/kl_penalty", "actor/kl_coef"} if in_reward else set())


@pytest.mark.parametrize(
    "factor", [0.5, 0.95, 2.0], ids=["far-above-target", "near-target", "far-below-target"]
)
def test_the_kl_controller_counts_every_sample(batch: Batch, factor: float) -> None:
    """arXiv 1909.08593: the coefficient moves by the relative error, within 0.2, times B over the horizon."""
    mean = sum(sum(kl) / len(kl) for kl in kl_of(batch)) / len(batch)
    trainer = make_trainer(factor * mean, "algorithm.disable_kl=false", "algorithm.use_kl_loss=false",
                           "algorithm.kl_penalty=low_var_kl")  # fmt: skip
    metrics = trainer._advantages(batch, [])
    error = {0.5: 0.2, 0.95: 1 / 0.95 - 1, 2.0: -0.2}[factor]
    assert trainer.kl.kl_coef == pytest.approx(COEF * (1 + error * 16 / HORIZON), rel=1e-5)
    assert metrics["actor/kl_penalty"] == pytest.approx(mean, rel=1e-5)
    assert metrics["actor/kl_coef"] == COEF  # what this step was penalised with


@pytest.mark.parametrize(
    ("reads", "changes"),
    [
        (False, {}),  # one update: its own log-probabilities are the old ones
        (True, {"mini": 2}),
        (True, {"epochs": 2}),
        (False, {"overrides": ["algorithm.disable_kl=false", "algorithm.use_kl_loss=true"]}),
        (True, {"overrides": ["algorithm.disable_kl=false", "algorithm.use_kl_loss=false"]}),  # KL in the reward
        (False, {"mini": 2, "exact": True}),  # the sampler's own
        (True, {"mini": 2, "exact": True, "truncated": True}),
        (True, {"mini": 2, "exact": True, "overrides": ["worker.rollout.emulate.logits_noise=0.1"]}),
        (False, {"mini": 2, "overrides": ["worker.rollout.staleness=1"]}),  # the sampler's, of whatever precision
    ],
)
def test_old_log_probs_are_computed_only_where_they_are_read(reads: bool, changes: dict[str, Any]) -> None:
    trainer = make_trainer(0.1, "algorithm.disable_kl=true", *changes.get("overrides", []))
    update = SimpleNamespace(epochs=changes.get("epochs", 1), mini_batch_prompts=changes.get("mini", 4))
    trainer.actor = SimpleNamespace(config=update)  # type: ignore[assignment]
    trainer.rollout = SimpleNamespace(exact_log_probs=changes.get("exact", False))  # type: ignore[assignment]
    params = SimpleNamespace(is_truncated=changes.get("truncated", False))
    trainer.batches = SimpleNamespace(prompts=4, params=params)  # type: ignore[assignment]
    assert trainer._reads_old_log_probs() == reads
