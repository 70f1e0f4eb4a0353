"""Our advantage estimators behind one name in verl's registry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from verl.trainer.ppo.core_algos import register_adv_est

from gmpo_mm.config import Config
from gmpo_mm.engines.verl.translate import ADVANTAGE_NAME
from gmpo_mm.rewards.advantages import configured_advantages


@dataclass
class Rewards:
    """What verl's estimators are not handed: the rewards of `algorithm.gdpo_reward_keys`, (K, B), in the batch's order."""

    parts_KB: torch.Tensor | None = None


def install(config: Config) -> Rewards:
    """Make verl's trainer, in this process, compute the advantages of `algorithm.adv_estimator` with `gmpo_mm.algorithms`.

    "Returns", which only verl's metrics read, are the advantages. The rewards of each batch for `gdpo` are put into what is
    returned.
    """
    algorithm, rewards = config.algorithm, Rewards()

    def advantages_and_returns(
        token_level_rewards: torch.Tensor, response_mask: torch.Tensor, index: Any, **others: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        advantages_BT = configured_advantages(
            algorithm,
            token_level_rewards.sum(dim=-1),
            torch.as_tensor(np.unique(np.asarray(index, dtype=str), return_inverse=True)[1]),
            response_mask_BT=response_mask.bool(),
            token_rewards_BT=None if algorithm.gdpo_reward_keys else token_level_rewards,
            parts_KB=rewards.parts_KB,
        )
        return advantages_BT, advantages_BT

    _replace(ADVANTAGE_NAME)(advantages_and_returns)
    return rewards


def _replace(name: str) -> Any:
    """verl refuses a second function under one name; a second run in a process brings one."""
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY

    ADV_ESTIMATOR_REGISTRY.pop(name, None)
    return register_adv_est(name)
