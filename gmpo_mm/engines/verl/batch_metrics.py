"""What a step's batch says of itself, from padded rows; pure, and the same numbers for any order of the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from gmpo_mm.algorithms import (
    Correction,
    compute_kl,
    correction_metrics,
    correction_weights,
    finalize_metrics,
    log_prob_gap,
    masked_mean,
)
from gmpo_mm.engines.batch_metrics import response_shares


def batch_metrics(rows: Mapping[str, torch.Tensor], uids: Sequence[str], end_tokens: Sequence[int]) -> dict[str, float]:
    """Entropy by token in nats, the share of truncated responses, and of groups in which no response has an advantage.

    `rows` holds `responses`, `response_mask`, `advantages`, `entropy`, each (B, T), right-padded.
    """
    mask_BT = rows["response_mask"].bool()
    entropy = float(rows["entropy"][mask_BT].double().mean()) if mask_BT.any() else 0.0
    shares = response_shares(rows["responses"], mask_BT, rows["advantages"], uids, end_tokens)
    return {"actor/entropy": entropy, **shares}


def sampler_gap(rows: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """How far the sampler's log-probabilities are from the model's: mean and largest absolute gap, and an estimate of the KL.

    The estimate of KL(sampler || model) in nats a token is the mean of exp(x) - 1 - x, x = model - sampler, which is never
    negative (Schulman, "Approximating KL Divergence", 2020).
    """
    mask_BT = rows["response_mask"].bool()
    model_BT, sampler_BT = rows["old_log_probs"].double(), rows["rollout_log_probs"].double()
    gap = log_prob_gap(model_BT, sampler_BT, mask_BT)
    kl = masked_mean(compute_kl(sampler_BT, model_BT, "low_var_kl", mask_BT), mask_BT)
    return finalize_metrics(gap | {"rollout/kl": kl})


def corrected(rows: Mapping[str, torch.Tensor], correction: Correction) -> tuple[torch.Tensor, dict[str, float]]:
    """The weights of a correction, (B, T), between the trainer's recomputed log-probabilities and the sampler's; and its
    metrics, once over the whole batch, since neither changes while a batch is trained on."""
    compared = (rows["old_log_probs"], rows["rollout_log_probs"], rows["response_mask"].bool(), correction)
    return correction_weights(*compared), finalize_metrics(correction_metrics(*compared))
