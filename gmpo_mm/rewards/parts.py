"""Single numbers of a reward function, picked by their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from gmpo_mm.config.schema import Config
from gmpo_mm.errors import ConfigError, TrainingError
from gmpo_mm.rewards.loading import RewardFunction
from gmpo_mm.rewards.overlong import PART
from gmpo_mm.rewards.trial import try_reward

GDPO_KEYS = "algorithm.gdpo_reward_keys"


def reward_part(scores_B: Sequence[Mapping[str, float]], name: str, key: str) -> torch.Tensor:
    """(B,) float64: the number `name` of each response. `key` is what asks for it, for the TrainingError where it is not."""
    missing = [score for score in scores_B if name not in score]
    if any(f"{name}_not_finite" in score for score in missing):
        raise TrainingError(
            f"{key}={name}: the reward function returned a number that is not finite for {len(missing)} responses; fix it, or "
            "take another of its numbers, such as overall"
        )
    if missing:
        raise TrainingError(
            f"{key}={name}: the reward function returns no such number; it returns {sorted(missing[0])}"
        )
    return torch.tensor([score[name] for score in scores_B], dtype=torch.float64)


def reward_parts(scores_B: Sequence[Mapping[str, float]], names: Sequence[str]) -> torch.Tensor | None:
    """(K, B) float64: the rewards of `algorithm.gdpo_reward_keys`; None without any."""
    return torch.stack([reward_part(scores_B, name, GDPO_KEYS) for name in names]) if names else None


def check_part_names(
    config: Config, function: RewardFunction, problem: str | None, golds: Sequence[str]
) -> None:
    """Try the reward function where the configuration names numbers of it; ConfigError where it does not return them."""
    if config.algorithm.gdpo_reward_keys:
        _, score = try_reward(function, problem, golds)
        check_tried(config, score)


def check_tried(config: Config, score: Mapping[str, float]) -> None:
    """ConfigError where `score`, of a made response, lacks a number that the configuration names; {} tells nothing."""
    known = {*score, PART} if config.worker.reward.overlong_buffer.enable else set(score)
    for name in config.algorithm.gdpo_reward_keys:
        if score and name not in known:
            raise ConfigError(
                f"{GDPO_KEYS}: {name!r} is no number that {config.worker.reward.reward_function} returns; it returns "
                f"{', '.join(sorted(known))}"
            )
