"""Our losses with known faults of other implementations, one each, as adapters of the checker."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch

from conformance.adapters import gmpo_mm
from conformance.torch_side import Rows, accumulate
from gmpo_mm.algorithms import (
    aggregate,
    compute_kl,
    compute_policy_loss,
    correction_weights,
    count_units,
    loss_unit,
)
from gmpo_mm.algorithms.correction_keys import Correction


def mutant(part_of: Any) -> Any:
    """An adapter from `f(config, keys, part, whole) -> loss of the part`."""

    def loss(config: dict[str, Any], batch: dict[str, Any], cut: list[list[int]]) -> dict[str, Any]:
        keys = gmpo_mm.settings(config)
        return accumulate(batch, cut, lambda part, whole: part_of(config, keys, part, whole))

    return SimpleNamespace(loss=loss, NAME=part_of.__name__, TOLERANCE=1e-9)


def right(config: dict[str, Any], keys: Any, part: Rows, whole: Rows) -> torch.Tensor:
    """No fault."""
    return weighted(config, keys, part, whole, sampler_weights(config, part))


def sampler_weights(config: dict[str, Any], part: Rows) -> torch.Tensor | None:
    """Those of the configuration's correction."""
    correction = gmpo_mm.sampler_correction(config)
    if correction is None:
        return None
    return correction_weights(part.old_log_probs, part.sampler_log_probs, part.mask, correction)


def weighted(
    config: dict[str, Any], keys: Any, part: Rows, whole: Rows, weights: torch.Tensor | None
) -> torch.Tensor:
    """The loss with these weights of tokens."""
    result = compute_policy_loss(
        part.log_probs, part.old_log_probs, part.advantages, part.mask, keys, token_weights_BT=weights,
        with_metrics=False,
    )  # fmt: skip
    total = result.sum
    if "kl" in config:
        kl = compute_kl(part.log_probs, part.ref_log_probs, gmpo_mm.KL[config["kl"]["kind"]], part.mask)
        total = total + config["kl"]["coef"] * aggregate(kl, part.mask, loss_unit(keys))
    return total / count_units(whole.mask, keys)


def micro_batch_mean(config: dict[str, Any], keys: Any, part: Rows, whole: Rows) -> torch.Tensor:
    """The mean of each micro-batch, and these summed: the gradient grows with the number of micro-batches."""
    return right(config, keys, part, part) if part.mask.any() else part.log_probs.sum() * 0


def micro_batch_mean_by_tokens(config: dict[str, Any], keys: Any, part: Rows, whole: Rows) -> torch.Tensor:
    """The mean of each micro-batch, weighted by its tokens: right for a mean over tokens only."""
    return micro_batch_mean(config, keys, part, whole) * part.mask.sum() / whole.mask.sum()


def mean_over_sequences(config: dict[str, Any], keys: Any, part: Rows, whole: Rows) -> torch.Tensor:
    """Token means of responses, and the mean of these, where a mean over tokens is asked for."""
    return right(config, replace(keys, loss_avg_mode="seq"), part, whole)


def mean_over_tokens(config: dict[str, Any], keys: Any, part: Rows, whole: Rows) -> torch.Tensor:
    """The reverse."""
    return right(config, replace(keys, loss_avg_mode="token"), part, whole)


def sum_over_columns(config: dict[str, Any], keys: Any, part: Rows, whole: Rows) -> torch.Tensor:
    """The sum over tokens divided by all columns, padding too: 1 / (B T) for 1 / N."""
    return right(config, keys, part, whole) * whole.mask.sum() / whole.mask.numel()


def clip_of_the_other_sign(config: dict[str, Any], keys: Any, part: Rows, whole: Rows) -> torch.Tensor:
    """A > 0 is clipped where A < 0 should be."""
    part = replace(part, advantages=-part.advantages)
    return -right(config, keys, part, whole)


def maximum_for_minimum(config: dict[str, Any], keys: Any, part: Rows, whole: Rows) -> torch.Tensor:
    """max(rho A, clip(rho) A), for tokens."""
    ratio = (part.log_probs - part.old_log_probs).exp()
    clipped = ratio.clamp(config["ratio_min"], config["ratio_max"])
    largest = torch.maximum(ratio * part.advantages, clipped * part.advantages)
    return -aggregate(largest, part.mask, "token") / whole.mask.sum()


def clip_on_both_sides(config: dict[str, Any], keys: Any, part: Rows, whole: Rows) -> torch.Tensor:
    """No minimum: the ratio is clipped whatever the sign of A."""
    ratio = (part.log_probs - part.old_log_probs).exp().clamp(config["ratio_min"], config["ratio_max"])
    return -aggregate(ratio * part.advantages, part.mask, "token") / whole.mask.sum()


def no_dual_clip(config: dict[str, Any], keys: Any, part: Rows, whole: Rows) -> torch.Tensor:
    """The dual clip is missing."""
    return right(config, replace(keys, clip_ratio_dual=1e6), part, whole)


def dual_clip_everywhere(config: dict[str, Any], keys: Any, part: Rows, whole: Rows) -> torch.Tensor:
    """A dual clip where none is asked for."""
    return right(config, replace(keys, clip_ratio_dual=3.0), part, whole)


def padding_in_the_length(config: dict[str, Any], keys: Any, part: Rows, whole: Rows) -> torch.Tensor:
    """|o| counts the padding: GMPO's root is that of the widest response."""
    columns = part.mask.shape[1]
    part = replace(
        part,
        log_probs=torch.where(part.mask, part.log_probs, 0.0),
        old_log_probs=torch.where(part.mask, part.old_log_probs, 0.0),
        advantages=part.advantages_B[:, None].expand(-1, columns),
        mask=part.mask.any(1, keepdim=True).expand(-1, columns),
    )
    return right(config, keys, part, whole)


def advantages_of_masked_tokens(config: dict[str, Any], keys: Any, part: Rows, whole: Rows) -> torch.Tensor:
    """A response's advantage is the mean over all its columns that hold one, masked or not."""
    filled = (part.advantages != 0).sum(1).clamp(min=1)
    mean = part.advantages.sum(1) / filled
    return right(config, keys, replace(part, advantages=mean[:, None].expand_as(part.mask)), whole)


def old_is_new(config: dict[str, Any], keys: Any, part: Rows, whole: Rows) -> torch.Tensor:
    """The old log-probabilities are taken from the new ones, so that no ratio is anything but 1."""
    return right(config, keys, replace(part, old_log_probs=part.log_probs.detach()), whole)


def kl_of_the_other_sign(config: dict[str, Any], keys: Any, part: Rows, whole: Rows) -> torch.Tensor:
    """log pi_ref - log pi for log pi - log pi_ref."""
    return right({"kl": config["kl"] | {"coef": -config["kl"]["coef"]}}, keys, part, whole)


def kl_the_other_way_round(config: dict[str, Any], keys: Any, part: Rows, whole: Rows) -> torch.Tensor:
    """k3 of -x: exp(x) - x - 1."""
    x = part.log_probs - part.ref_log_probs
    term = aggregate(x.exp() - x - 1, part.mask, "token") / whole.mask.sum()
    return right({}, keys, part, whole) + config["kl"]["coef"] * term


def no_kl(config: dict[str, Any], keys: Any, part: Rows, whole: Rows) -> torch.Tensor:
    """The penalty is not read."""
    return right({}, keys, part, whole)


def bounds_not_read(config: dict[str, Any], keys: Any, part: Rows, whole: Rows) -> torch.Tensor:
    """The bounds are those of the defaults, whatever the configuration says."""
    gmpo = replace(keys.gmpo, log_clip_low=0.4, log_clip_high=0.4)
    return right(config, replace(keys, clip_ratio_low=0.2, clip_ratio_high=0.3, gmpo=gmpo), part, whole)


def bounds_exchanged(config: dict[str, Any], keys: Any, part: Rows, whole: Rows) -> torch.Tensor:
    """The lower bound is used for the upper one and the reverse."""
    gmpo = replace(keys.gmpo, log_clip_low=keys.gmpo.log_clip_high, log_clip_high=keys.gmpo.log_clip_low)
    return right(config, replace(keys, gmpo=gmpo), part, whole)


def gmpo_trains_grpo(config: dict[str, Any], keys: Any, part: Rows, whole: Rows) -> torch.Tensor:
    """An option that chooses another loss than it says."""
    return right(config, replace(keys, loss_type="default", loss_avg_mode="seq"), part, whole)


def one_ratio_for_all_rows(config: dict[str, Any], keys: Any, part: Rows, whole: Rows) -> torch.Tensor:
    """GMPO's geometric mean over the tokens of the micro-batch, not of each response."""
    d = part.log_probs - part.old_log_probs
    ratio = (aggregate(d.clamp(-0.4, 0.4), part.mask, "token") / part.mask.sum().clamp(min=1)).exp()
    return -(ratio * part.advantages_B).sum() / len(whole.mask)


def correction_not_read(config: dict[str, Any], keys: Any, part: Rows, whole: Rows) -> torch.Tensor:
    """No weights, whatever the correction."""
    return weighted(config, keys, part, whole, None)


def weight_inverted(config: dict[str, Any], keys: Any, part: Rows, whole: Rows) -> torch.Tensor:
    """The sampler's probability over the trainer's."""
    exchanged = replace(part, old_log_probs=part.sampler_log_probs, sampler_log_probs=part.old_log_probs)
    return weighted(config, keys, part, whole, sampler_weights(config, exchanged))


def bounds_of_the_inverse(config: dict[str, Any], keys: Any, part: Rows, whole: Rows) -> torch.Tensor:
    """The weight is trainer over sampler, the bounds are those of sampler over trainer."""
    cap, floor = config["correction"]["cap"], config["correction"].get("floor")
    kind = config["correction"]["kind"]
    trainer, sampler = part.old_log_probs, part.sampler_log_probs
    if kind == "truncated":
        weights = (trainer - sampler).exp().clamp(min=1 / cap)
    else:
        inverse = Correction(kind, 1 / floor, 1 / cap)
        weights = correction_weights(trainer, sampler, part.mask, inverse)
    return weighted(config, keys, part, whole, weights)


def masked_leaves_the_denominator(config: dict[str, Any], keys: Any, part: Rows, whole: Rows) -> torch.Tensor:
    """What a correction masks is as padding is."""
    weights = sampler_weights(config, part)
    left, all_left = (
        replace(rows, mask=rows.mask & (sampler_weights(config, rows) != 0)) for rows in (part, whole)
    )
    return weighted(config, keys, left, all_left, weights)


def masked_token_keeps_its_ratio(config: dict[str, Any], keys: Any, part: Rows, whole: Rows) -> torch.Tensor:
    """A loss of responses: the masked token stays in the product of ratios."""
    weights = sampler_weights(config, part)
    kept = (weights != 0) & part.mask
    log_mean = (weights.clamp(min=1e-30).log() * kept).sum(1) / part.mask.sum(1).clamp(min=1)
    whole_weight = log_mean.exp() * kept.any(1)
    return weighted(config, keys, part, whole, whole_weight[:, None].expand_as(part.mask).clamp(min=1e-30))
