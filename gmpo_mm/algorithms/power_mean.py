"""The line between GRPO and GMPO: a power mean of a response's ratios."""

import torch
from torch import Tensor

from gmpo_mm.algorithms.config import PolicyLossConfig
from gmpo_mm.algorithms.losses import clip_flags, saturated_exp
from gmpo_mm.algorithms.masked import masked_mean_B, zero_outside
from gmpo_mm.algorithms.registry import LossTerms, register_policy_loss

# Below it, M_p and M_0 are the same number in float64 and 1/p would leave float32's range.
SMALLEST_POWER = 1e-30


@register_policy_loss(
    "power_mean",
    unit="sequence",
    reads=("power_mean.p", "power_mean.clip", "power_mean.log_clip_low", "power_mean.log_clip_high"),
    sequence_advantages=True,
    by_row=True,
)
def power_mean_loss(
    log_probs_BT: Tensor, old_BT: Tensor, advantages_B: Tensor, mask_BT: Tensor, config: PolicyLossConfig
) -> LossTerms:
    """A power mean of the ratios, (B,): loss = -A M_p, M_p = (mean_t exp(p c_t))^(1/p), and M_0 = exp(mean_t c_t).

    The objective of PMPO (arXiv 2601.22521) with a fixed exponent, and of HoelderPO (arXiv 2605.12058): its equation 1
    is M_p, its equation 11 the clip of each token (``clip: token``), its equation 2 the clip of the mean (``sequence``).
    p = 1 is GRPO's mean over a response (``default`` with ``loss_avg_mode: seq``, without its dual clip), p = 0 is
    ``gmpo`` for ``clip: token`` and ``none``, and ``gspo`` for ``sequence``. The limit p -> 0 is taken exactly, in value
    and gradient: a token's share of the gradient is exp(p c_t) / sum_k exp(p c_k), which goes to 1/n.

    With s = sgn(A), c_t = s min(s d_t, s clip(d_t, -log_clip_low, log_clip_high)), as in ``gmpo``; the papers' bounds
    1 - eps, 1 + eps are -log(1 - eps), log(1 + eps) here. PMPO's rule that picks p for each response from its clipped
    share and an effective sample size isn't built.
    """
    options = config.power_mean
    low, high = options.log_clip_low, options.log_clip_high
    d_BT = log_probs_BT - old_BT
    s_B = advantages_B.sign()

    if options.clip == "token":
        s_B1 = s_B[:, None]
        c_BT = s_B1 * torch.minimum(s_B1 * d_BT, s_B1 * d_BT.clamp(-low, high))
        mean_B = log_power_mean(c_BT, mask_BT, options.p)
        return LossTerms(
            -advantages_B * saturated_exp(mean_B), lambda: clip_flags(d_BT.detach(), s_B1, -low, high)
        )

    mean_B = log_power_mean(d_BT, mask_BT, options.p)
    if options.clip == "none":
        return LossTerms(-advantages_B * saturated_exp(mean_B))
    clipped_B = s_B * torch.minimum(s_B * mean_B, s_B * mean_B.clamp(-low, high))
    return LossTerms(
        -advantages_B * saturated_exp(clipped_B), lambda: clip_flags(mean_B.detach(), s_B, -low, high)
    )


def log_power_mean(c_BT: Tensor, mask_BT: Tensor, p: float) -> Tensor:
    """log M_p of exp(c) over the valid tokens of each sequence, (B,); p = 0 is the mean of c; 0 for an empty sequence.

    Exact for every p and every size of c: with a the largest p c_t over p, log M_p = a + log(1 + mean_t(e_t)) / p where
    e_t = exp(p (c_t - a)) - 1 lies in [-1, 0], so that nothing overflows and nothing cancels as p goes to 0.
    """
    if abs(p) < SMALLEST_POWER or c_BT.shape[1] == 0:
        return masked_mean_B(c_BT, mask_BT)
    largest_B = _largest(c_BT.detach(), mask_BT) if p > 0 else -_largest(-c_BT.detach(), mask_BT)
    e_BT = torch.expm1(p * zero_outside(c_BT - largest_B[:, None], mask_BT))
    return largest_B + torch.log1p(masked_mean_B(e_BT, mask_BT)) / p


def _largest(c_BT: Tensor, mask_BT: Tensor) -> Tensor:
    return zero_outside(zero_outside(c_BT, mask_BT, -torch.inf).amax(dim=-1), mask_BT.any(dim=-1))
