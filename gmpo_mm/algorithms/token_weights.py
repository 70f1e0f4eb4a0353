"""What a policy loss does to each token.

A token's WEIGHT is w = -dL / dlog pi: how hard the loss L, a mean over a mini-batch's units, pulls the token's
log-probability up (w > 0) or down (w < 0). The gradient of a model is the sum over tokens of -w grad log pi. A token's
RELATIVE WEIGHT is w divided by the weight that it would have at a ratio of 1: rho in equation 5 of the GMPO paper (GRPO),
the geometric mean of the response's ratios in equation 6 (GMPO), 0 where it is clipped.
"""

import torch
from torch import Tensor

from gmpo_mm.algorithms.config import PolicyLossConfig
from gmpo_mm.algorithms.policy_loss import compute_policy_loss
from gmpo_mm.algorithms.registry import get_policy_loss


def token_weights(
    log_probs_BT: Tensor,
    old_log_probs_BT: Tensor,
    advantages_BT: Tensor,
    mask_BT: Tensor,
    config: PolicyLossConfig,
    units: int | Tensor,
    token_weights_BT: Tensor | None = None,
) -> Tensor:
    """The weight -dL / dlog pi of each token, (B, T), detached; L is the loss of these rows divided by ``units``.

    Works for every registered loss: autograd, with the log-probabilities as the leaves. The arguments are those of
    ``compute_policy_loss``, which says what it raises; ``units`` is ``count_units`` of the whole mini-batch.
    """
    with torch.enable_grad():
        dtype = torch.promote_types(log_probs_BT.dtype, torch.float32)
        leaf_BT = log_probs_BT.detach().to(dtype, copy=True).requires_grad_()
        total = compute_policy_loss(
            leaf_BT, old_log_probs_BT, advantages_BT, mask_BT, config, token_weights_BT, with_metrics=False
        ).sum
        (gradient_BT,) = torch.autograd.grad(total, leaf_BT)
    return -gradient_BT / units


def relative_weights(
    log_probs_BT: Tensor,
    old_log_probs_BT: Tensor,
    advantages_BT: Tensor,
    mask_BT: Tensor,
    config: PolicyLossConfig,
    token_weights_BT: Tensor | None = None,
) -> Tensor:
    """Each token's weight divided by its weight at a ratio of 1 (old = current), (B, T).

    1 for every token of an on-policy batch, 0 where the loss has no gradient, NaN where A = 0 or the mask is False.
    """
    weights_BT, at_one_BT = weights_and_at_one(
        log_probs_BT, old_log_probs_BT, advantages_BT, mask_BT, config, token_weights_BT
    )
    return relative_to(weights_BT, at_one_BT, weighed_tokens(advantages_BT, mask_BT))


def weights_and_at_one(
    log_probs_BT: Tensor,
    old_log_probs_BT: Tensor,
    advantages_BT: Tensor,
    mask_BT: Tensor,
    config: PolicyLossConfig,
    token_weights_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``token_weights`` of the loss's sum (1 unit), and those at a ratio of 1, where old = current; both (B, T)."""
    rest = (advantages_BT, mask_BT, config, 1)
    if not get_policy_loss(config.loss_type).by_row:
        return (
            token_weights(log_probs_BT, old_log_probs_BT, *rest, token_weights_BT),
            token_weights(log_probs_BT, log_probs_BT, *rest, token_weights_BT),
        )
    # rows don't see each other: one call does both
    corrections = None if token_weights_BT is None else torch.cat([token_weights_BT, token_weights_BT])
    both = token_weights(
        torch.cat([log_probs_BT, log_probs_BT]),
        torch.cat([old_log_probs_BT, log_probs_BT]),
        torch.cat([advantages_BT, advantages_BT]),
        torch.cat([mask_BT, mask_BT]),
        config,
        1,
        corrections,
    )
    weights_BT, at_one_BT = both.chunk(2)
    return weights_BT, at_one_BT


def weighed_tokens(advantages: Tensor, mask_BT: Tensor) -> Tensor:
    """(B, T): where a token has an advantage other than 0; advantages are (B, T) or (B,)."""
    return mask_BT.bool() & (on_tokens(advantages, mask_BT) != 0)


def on_tokens(advantages: Tensor, mask_BT: Tensor) -> Tensor:
    """Advantages as (B, T), given as that or one a sequence."""
    return advantages[:, None].expand_as(mask_BT) if advantages.dim() == 1 else advantages


def relative_to(weights_BT: Tensor, at_one_BT: Tensor, weighed_BT: Tensor) -> Tensor:
    """The relative weights. A token that a correction masks has no weight at a ratio of 1 either: it has 0, not 0 / 0."""
    relative_BT = torch.where(weights_BT == 0, 0.0, weights_BT / at_one_BT)
    return torch.where(weighed_BT & relative_BT.isfinite(), relative_BT, torch.nan)
