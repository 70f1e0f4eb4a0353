"""Corrections of a sampler that differs from the trainer: constant weights of tokens or of whole sequences.

Let r_t = pi_trainer(o_t) / pi_sampler(o_t) of a sampled token, both with the weights that sampled, and n the
number of tokens of its response. C is the cap, F the floor:

- ``truncated``: a token weighs min(r_t, C).
- ``masked``: r_t where F <= r_t <= C, else 0: IcePop's M(r_t; F, C) (arXiv 2510.18855, equation as in
  2512.16144).
- ``sequence_truncated``: each token of a response weighs min(R, C), R = prod_t r_t.
- ``sequence_masked``: R where F <= R <= C, else 0.
- ``geometric_masked``: 1 where F <= R^(1/n) <= C, else 0. The mean selects and does not weigh: it is no
  importance ratio.

A weight of 0 masks, and what is masked goes on to COUNT: in n, in the number of tokens and of sequences, and
in the KL and the entropy term. So a denominator never depends on the sampler. IcePop (1 / all tokens), verl's
weights (``rollout_is``) and TRL do the same; verl's ``rollout_rs`` takes what it rejects out of the number of
tokens.

How a weight enters a loss stands in ``compute_policy_loss``. Nothing here reads a value back from the device,
and a sequence's weight depends on that sequence alone, so the cut into micro-batches can't change it.
"""

import math

import torch
from torch import Tensor

from gmpo_mm.algorithms.correction_keys import Correction
from gmpo_mm.algorithms.masked import zero_outside
from gmpo_mm.algorithms.metrics import WEIGHT_MEAN, WEIGHT_SQUARE, Metric, masked_mean

LOG_BOUND = 80.0
"""Weights stay above exp(-80), a float32 that is not 0: only what is masked is 0."""


def truncated_importance_weights(
    trainer_log_probs_BT: Tensor, sampler_log_probs_BT: Tensor, response_mask_BT: Tensor, cap: float
) -> Tensor:
    """min(pi_trainer / pi_sampler, cap) for each token, (B, T), detached; 1 under a False mask.

    Corrects for a rollout engine whose probabilities differ from the trainer's: pass the result to
    ``compute_policy_loss(..., token_weights_BT=...)`` with the TRAINER's log-probabilities as the old ones.
    Ratios below e^-80 are held there, so that geometric means stay defined. Truncated importance sampling:
    Ionides (2008).

    Raises:
        ValueError: cap not above 0.
    """
    if not 0 < cap < float("inf"):
        raise ValueError(
            f"cap: {cap!r} must be a finite number above 0; the weights of sampled tokens are cut there."
        )
    correction = Correction("truncated", cap)
    return correction_weights(trainer_log_probs_BT, sampler_log_probs_BT, response_mask_BT, correction)


def correction_weights(
    trainer_log_probs_BT: Tensor,
    sampler_log_probs_BT: Tensor,
    response_mask_BT: Tensor,
    correction: Correction,
) -> Tensor:
    """The weights of ``correction``, (B, T), detached: 0 masks, 1 under a False mask.

    Pass them to ``compute_policy_loss(..., token_weights_BT=...)`` with the TRAINER's log-probabilities as
    the old ones.
    """
    mask_BT = response_mask_BT.bool()
    d_BT = _log_ratios(trainer_log_probs_BT, sampler_log_probs_BT, mask_BT)
    if correction.unit == "token":
        return zero_outside(_bounded(d_BT, correction), mask_BT, fill=1.0)
    weights_B = _bounded(_sequence_log_ratios(d_BT, mask_BT, correction), correction).to(d_BT.dtype)
    return zero_outside(weights_B[:, None].expand_as(mask_BT), mask_BT, fill=1.0)


def correction_metrics(
    trainer_log_probs_BT: Tensor,
    sampler_log_probs_BT: Tensor,
    response_mask_BT: Tensor,
    correction: Correction,
) -> dict[str, Metric]:
    """How much of a batch a correction leaves: means over its tokens, or for a kind of sequences over those.

    ``correction/masked_frac``: share that is masked. ``correction/capped_frac``: share with a ratio above the
    cap, which is cut there or masked. ``correction/weight_mean``: mean weight. ``finalize_metrics`` makes
    ``correction/ess`` of what is summed here: the effective sample size (sum w)^2 / sum w^2 as a share of all
    N, 1 for equal weights, 0 when all is masked (Kish 1965).
    """
    mask_BT = response_mask_BT.bool()
    d_BT = _log_ratios(trainer_log_probs_BT, sampler_log_probs_BT, mask_BT)
    if correction.unit == "token":
        log_ratios, counted = d_BT, mask_BT
    else:
        log_ratios, counted = _sequence_log_ratios(d_BT, mask_BT, correction), mask_BT.any(dim=-1)
    weights, number = _bounded(log_ratios, correction).double(), counted.sum()
    return {
        WEIGHT_MEAN: masked_mean(weights, counted, number),
        WEIGHT_SQUARE: masked_mean(weights.square(), counted, number),
        "correction/masked_frac": masked_mean((weights == 0).double(), counted, number),
        "correction/capped_frac": masked_mean(
            (log_ratios > math.log(correction.cap)).double(), counted, number
        ),
    }


def _log_ratios(trainer_BT: Tensor, sampler_BT: Tensor, mask_BT: Tensor) -> Tensor:
    dtype = torch.promote_types(trainer_BT.dtype, torch.float32)
    return zero_outside(trainer_BT.detach().to(dtype) - sampler_BT.detach().to(dtype), mask_BT)


def _sequence_log_ratios(d_BT: Tensor, mask_BT: Tensor, correction: Correction) -> Tensor:
    """(B,): log R, or log R / n. Float64, so that padding can't move a sequence over a bound by rounding."""
    sum_B = d_BT.double().sum(dim=-1)
    return sum_B / mask_BT.sum(dim=-1).clamp(min=1) if correction.kind == "geometric_masked" else sum_B


def _bounded(log_ratios: Tensor, correction: Correction) -> Tensor:
    """The weights of log-ratios, of tokens or of sequences."""
    log_cap = math.log(correction.cap)
    if correction.kind in ("truncated", "sequence_truncated"):
        return log_ratios.clamp(min=-LOG_BOUND, max=LOG_BOUND).exp().clamp(max=correction.cap)
    log_floor = math.log(correction.floor) if correction.floor > 0 else -math.inf
    kept = (log_ratios >= log_floor) & (log_ratios <= log_cap)
    if correction.kind == "geometric_masked":
        return kept.to(log_ratios.dtype)
    return torch.where(kept, log_ratios.clamp(min=-LOG_BOUND, max=LOG_BOUND).exp(), 0.0)
