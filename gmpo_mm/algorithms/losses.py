"""The policy losses themselves: what is minimised for each token or sequence, nothing else.

Throughout, d = log pi - log pi_old is a token's log-ratio, rho = exp(d) its ratio, A its advantage, n the number of
valid tokens of the sequence. Inputs come prepared by ``compute_policy_loss``: masked entries are 0.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from gmpo_mm.algorithms.config import PolicyLossConfig
from gmpo_mm.algorithms.masked import masked_mean_B
from gmpo_mm.algorithms.registry import LossTerms, register_policy_loss

# EasyR1's bound on the log-ratio of the losses that clip ratios; beyond it the ratio is constant, its gradient 0.
LOG_RATIO_BOUND = 20.0
RATIO_CLIP_KEYS = ("clip_ratio_low", "clip_ratio_high")


def saturated_exp(x: Tensor) -> Tensor:
    """exp(x), right wherever it can be represented with room for a sum, else constant with gradient 0.

    The exponent stops at 80 in float32 (5.5e34, the largest float being 3.4e38) and at 700 in float64. A sequence out
    there then counts with a huge finite loss but, as under PPO's dual clip, no longer pulls at the weights.
    """
    return torch.exp(x.clamp(max=700.0 if x.dtype == torch.float64 else 80.0))


@register_policy_loss(
    "gmpo",
    unit="sequence",
    reads=("gmpo.clip", "gmpo.normalize", "gmpo.log_clip_low", "gmpo.log_clip_high"),
    sequence_advantages=True,
    by_row=True,
)
def gmpo_loss(
    log_probs_BT: Tensor, old_BT: Tensor, advantages_B: Tensor, mask_BT: Tensor, config: PolicyLossConfig
) -> LossTerms:
    """Geometric-Mean Policy Optimization, (B,): loss = -A exp(sum_t(c_t) / n) (the paper's equation 4, Algorithm 1).

    With s = sgn(A), the pessimistic minimum of equation 4, taken in log space, is
    c_t = s min(s d_t, s clip(d_t, -log_clip_low, log_clip_high)): where A > 0 only ``log_clip_high`` can bind, where
    A < 0 only ``log_clip_low``. (Algorithm 1 has one epsilon and clips s d_t, which is the same for equal bounds.)

    Ablations of Table 4: ``clip: none`` is line 2 (equation 3); ``clip: sequence`` is line 3, the minimum taken once of
    sum_t(d_t), then the power 1/n; ``normalize: false`` is line 4, without the power 1/n. The paper writes |A| inside
    the product; as in its Algorithm 1, A enters once whatever the power.
    """
    options = config.gmpo
    low, high = options.log_clip_low, options.log_clip_high
    d_BT = log_probs_BT - old_BT
    n_B = mask_BT.sum(dim=-1).clamp(min=1)
    s_B = advantages_B.sign()
    flags: Callable[[], dict[str, Tensor]] = dict

    if options.clip == "token":
        s_B1 = s_B[:, None]
        c_BT = s_B1 * torch.minimum(s_B1 * d_BT, s_B1 * d_BT.clamp(-low, high))
        exponent_B = c_BT.sum(dim=-1)
        flags = partial(clip_flags, d_BT.detach(), s_B1, -low, high)
    else:
        exponent_B = d_BT.sum(dim=-1)
        if options.clip == "sequence":
            flags = partial(clip_flags, exponent_B.detach(), s_B, -low, high)
            exponent_B = s_B * torch.minimum(s_B * exponent_B, s_B * exponent_B.clamp(-low, high))

    if options.normalize:
        exponent_B = exponent_B / n_B
    return LossTerms(-advantages_B * saturated_exp(exponent_B), flags)


@register_policy_loss("default", reads=(*RATIO_CLIP_KEYS, "clip_ratio_dual"), by_row=True)
def ppo_clip_loss(
    log_probs_BT: Tensor, old_BT: Tensor, advantages_BT: Tensor, mask_BT: Tensor, config: PolicyLossConfig
) -> LossTerms:
    """PPO's clipped ratio (arXiv 1707.06347) with dual clip (1912.09729): equation 1, the loss of GRPO, (B, T)."""
    return _clipped_surrogate(log_probs_BT - old_BT, advantages_BT, config)


@register_policy_loss("gspo", unit="sequence", reads=(*RATIO_CLIP_KEYS, "clip_ratio_dual"), by_row=True)
def gspo_loss(
    log_probs_BT: Tensor, old_BT: Tensor, advantages_BT: Tensor, mask_BT: Tensor, config: PolicyLossConfig
) -> LossTerms:
    """GSPO (arXiv 2507.18071), (B,): PPO's clip on one ratio a sequence, exp(mean_t d_t)."""
    d_B1 = masked_mean_B(log_probs_BT - old_BT, mask_BT)[:, None]
    terms = _clipped_surrogate(d_B1.expand_as(log_probs_BT), advantages_BT, config)
    return LossTerms(masked_mean_B(terms.losses, mask_BT), terms.token_flags)


@register_policy_loss("gspo_token", reads=(*RATIO_CLIP_KEYS, "clip_ratio_dual"), by_row=True)
def gspo_token_loss(
    log_probs_BT: Tensor, old_BT: Tensor, advantages_BT: Tensor, mask_BT: Tensor, config: PolicyLossConfig
) -> LossTerms:
    """GSPO-token (arXiv 2507.18071), (B, T): the sequence's ratio in value, the token's own in gradient."""
    d_B1 = masked_mean_B(log_probs_BT - old_BT, mask_BT)[:, None].detach()
    # The bracket is exactly 0 and carries the gradient; without it the value would lose digits to large log-probs.
    return _clipped_surrogate(d_B1 + (log_probs_BT - log_probs_BT.detach()), advantages_BT, config)


@register_policy_loss("cispo", reads=RATIO_CLIP_KEYS, by_row=True)
def cispo_loss(
    log_probs_BT: Tensor, old_BT: Tensor, advantages_BT: Tensor, mask_BT: Tensor, config: PolicyLossConfig
) -> LossTerms:
    """CISPO (arXiv 2506.13585), (B, T): -A clip(rho) log pi, clip(rho) a constant, so every token has a gradient."""
    d_BT = (log_probs_BT - old_BT).detach()
    lower, upper = _log_bounds(config)

    def flags() -> dict[str, Tensor]:
        return {"clip/high_frac": d_BT > upper, "clip/low_frac": d_BT < lower}

    return LossTerms(-advantages_BT * d_BT.clamp(lower, upper).exp() * log_probs_BT, flags)


@register_policy_loss("sapo", reads=("tau_positive", "tau_negative"), by_row=True)
def sapo_loss(
    log_probs_BT: Tensor, old_BT: Tensor, advantages_BT: Tensor, mask_BT: Tensor, config: PolicyLossConfig
) -> Tensor:
    """SAPO (arXiv 2511.20347), (B, T): a soft gate 4/tau sigmoid(tau (rho - 1)) for a clip; tau by the sign of A."""
    ratio_BT = (log_probs_BT - old_BT).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp()
    tau_BT = torch.full_like(ratio_BT, config.tau_positive).masked_fill(advantages_BT < 0, config.tau_negative)
    return -advantages_BT * 4.0 / tau_BT * torch.sigmoid(tau_BT * (ratio_BT - 1.0))


def _clipped_surrogate(d_BT: Tensor, advantages_BT: Tensor, config: PolicyLossConfig) -> LossTerms:
    """-min(rho A, clip(rho, 1 - low, 1 + high) A), and where A < 0 no more than -dual A."""
    lower, upper = _log_bounds(config)
    ratio_BT = d_BT.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp()
    plain_BT = ratio_BT * advantages_BT
    clipped_BT = d_BT.clamp(lower, upper).exp() * advantages_BT
    floor_BT = config.clip_ratio_dual * advantages_BT
    surrogate_BT = torch.minimum(plain_BT, clipped_BT)
    negative_BT = advantages_BT < 0
    losses_BT = -torch.where(negative_BT, torch.maximum(surrogate_BT, floor_BT), surrogate_BT)

    def flags() -> dict[str, Tensor]:
        return clip_flags(d_BT, advantages_BT.sign(), lower, upper) | {
            "actor/pg_clipfrac_higher": clipped_BT < plain_BT,
            "actor/pg_clipfrac_lower": negative_BT & (surrogate_BT < floor_BT),
        }

    return LossTerms(losses_BT, flags)


def _log_bounds(config: PolicyLossConfig) -> tuple[float, float]:
    low = config.clip_ratio_low
    return math.log(1.0 - low) if low < 1 else -math.inf, math.log(1.0 + config.clip_ratio_high)


def clip_flags(d: Tensor, sign: Tensor, lower: float, upper: float) -> dict[str, Tensor]:
    """Where the bound that a pessimistic minimum can reach (upper for A > 0, lower for A < 0) does bind."""
    return {"clip/high_frac": (sign > 0) & (d > upper), "clip/low_frac": (sign < 0) & (d < lower)}
