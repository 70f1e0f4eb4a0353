"""Our advantage estimators behind EasyR1's names, through its own registry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from verl.trainer.core_algos import ADV_ESTIMATOR_MAP, register_adv_estimator

from gmpo_mm.config import Config
from gmpo_mm.engines.easyr1.config import name_in_easyr1
from gmpo_mm.rewards.advantages import configured_advantages
from gmpo_mm.rewards.parts import reward_parts

_STOCK = dict(ADV_ESTIMATOR_MAP)


def install(config: Config, scores: Callable[[], list[dict[str, float]]] | None = None) -> None:
    """Make EasyR1's trainer compute the advantages of `algorithm.adv_estimator` with `gmpo_mm.algorithms`.

    `gae` stays EasyR1's: it belongs to its critic. "Returns", which only EasyR1's metrics read, are what EasyR1 takes them
    to be; its own `remax` can't be asked, it multiplies (B,) by (B, T). `scores` gives what the reward function returned for
    the rows of the batch, for `gdpo`.
    """
    estimator = config.algorithm.adv_estimator
    if estimator == "gae":
        register_adv_estimator("gae")(_STOCK["gae"])
        return
    name = name_in_easyr1(estimator)

    def advantages_and_returns(
        token_level_rewards: torch.Tensor,
        response_mask: torch.Tensor,
        index: Any,
        gamma: float = 1.0,
        reward_baselines: torch.Tensor | None = None,
        **others: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        names = config.algorithm.gdpo_reward_keys
        advantages = configured_advantages(
            config.algorithm,
            token_level_rewards.sum(dim=-1),
            torch.as_tensor(np.unique(np.asarray(index, dtype=str), return_inverse=True)[1]),
            response_mask_BT=response_mask.bool(),
            token_rewards_BT=None if names else token_level_rewards,
            baselines_B=reward_baselines,
            parts_KB=reward_parts(scores(), names) if names and scores is not None else None,
        )
        if estimator == "reinforce_plus_plus":
            rewards = {"token_level_rewards": token_level_rewards, "response_mask": response_mask, "gamma": gamma}
            return advantages, _STOCK[name](**rewards)[1]
        if estimator == "remax":
            return advantages, (token_level_rewards * response_mask).flip(-1).cumsum(-1).flip(-1)
        return advantages, advantages

    register_adv_estimator(name)(advantages_and_returns)
