"""A step's advantages, from what its batch holds and a configuration says."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gmpo_mm.algorithms import apply_kl_to_rewards, compute_kl, mean_sequence_kl
from gmpo_mm.config.schema import AlgorithmConfig
from gmpo_mm.rewards.advantages import configured_advantages
from gmpo_mm.rewards.parts import reward_parts
from gmpo_mm.training.batch import Batch


def set_advantages(
    batch: Batch, algorithm: AlgorithmConfig, kl_coef: float, baselines: Sequence[float] = ()
) -> float | None:
    """Put the advantages of its rewards into a batch, and leave truncated responses out if that is asked for.

    `baselines` (one a prompt) are the rewards of greedy responses. Returns the mean KL of a sequence where KL is
    part of the reward, weighted with `kl_coef`; else None.
    """
    token_rewards_BT, current = None, None
    if not algorithm.disable_kl and not algorithm.use_kl_loss:
        assert batch.ref_log_probs_BT is not None
        kl_BT = compute_kl(
            batch.behaviour_log_probs_BT, batch.ref_log_probs_BT, algorithm.kl_penalty, batch.mask_BT
        )
        token_rewards_BT = apply_kl_to_rewards(batch.rewards_B, kl_BT, batch.mask_BT, kl_coef)
        current = mean_sequence_kl(kl_BT, batch.mask_BT)
    batch.advantages_BT = configured_advantages(
        algorithm,
        batch.rewards_B,
        batch.group_ids_B,
        response_mask_BT=batch.mask_BT,
        token_rewards_BT=token_rewards_BT,
        baselines_B=torch.tensor(baselines, dtype=torch.float64).repeat_interleave(batch.group_size)
        if baselines
        else None,
        parts_KB=reward_parts([s for g in batch.groups for s in g.scores], algorithm.gdpo_reward_keys),
    ).float()
    if algorithm.mask_truncated_completions:
        batch.leave_out_truncated()
    return current
