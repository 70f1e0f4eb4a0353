"""From the rewards of a step to its advantages, as a configuration says; the same on every engine."""

from __future__ import annotations

from typing import Any

import torch

from gmpo_mm.algorithms import compute_advantages
from gmpo_mm.config.schema import AlgorithmConfig
from gmpo_mm.errors import TrainingError


def configured_advantages(
    algorithm: AlgorithmConfig, rewards_B: torch.Tensor, group_ids_B: torch.Tensor, **tensors: Any
) -> torch.Tensor:
    """`compute_advantages` with `algorithm.adv_estimator` and its keys; `tensors` are the other tensors that it takes.

    Raises TrainingError for rewards that the estimator can't take.
    """
    try:
        return compute_advantages(
            algorithm.adv_estimator,
            rewards_B,
            group_ids_B,
            weights_K=algorithm.gdpo_reward_weights or None,
            gamma=algorithm.gamma,
            norm_by_std=algorithm.norm_adv_by_std,
            **tensors,
        )
    except ValueError as error:
        raise TrainingError(str(error)) from error
