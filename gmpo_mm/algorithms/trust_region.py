"""Policy losses that leave out, weigh or penalise the tokens that went far from the old policy.

The words are those of ``losses.py``: d = log pi - log pi_old, rho = exp(d), A the advantage. "The code" is what the authors
of a paper published. ``m2po``, ``clip_cov`` and ``kl_cov`` rank tokens against one another: they do so over the rows of one
call, a micro-batch in training, so unlike the others they depend on how a mini-batch is cut. With a micro-batch as large as
the mini-batch they are the papers' rules.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from gmpo_mm.algorithms.config import PolicyLossConfig
from gmpo_mm.algorithms.losses import (
    LOG_RATIO_BOUND,
    RATIO_CLIP_KEYS,
    _clipped_surrogate,
    _log_bounds,
    clip_flags,
    saturated_exp,
)
from gmpo_mm.algorithms.masked import zero_outside
from gmpo_mm.algorithms.registry import LossTerms, register_policy_loss

KL_FLOOR = 1e-8
"""Added by verl to the probabilities of "any other token", so that the binary KL stays finite."""


@register_policy_loss("dppo_tv", reads=("dppo.tv_low", "dppo.tv_high", "dppo.ratio_cap"), by_row=True)
def dppo_tv_loss(
    log_probs_BT: Tensor, old_BT: Tensor, advantages_BT: Tensor, mask_BT: Tensor, config: PolicyLossConfig
) -> LossTerms:
    """DPPO with the binary total variation (arXiv 2602.04879), (B, T): -A M min(rho, cap) log pi.

    M and the ratio are constants. M is 0 where the update goes on in the direction in which the token's probability p has
    moved too far: where A > 0 and p - p_old > ``tv_high``, or A < 0 and p_old - p > ``tv_low``. The paper writes -A M rho,
    whose gradient is the same up to the cap; the value is verl's. The paper's old policy is the one that sampled.
    """
    keys = config.dppo
    rise_BT = log_probs_BT.detach().exp() - old_BT.exp()
    outside = {"clip/high_frac": rise_BT > keys.tv_high, "clip/low_frac": rise_BT < -keys.tv_low}
    return _masked_policy_gradient(log_probs_BT, old_BT, advantages_BT, outside, keys.ratio_cap)


@register_policy_loss("dppo_kl", reads=("dppo.kl_low", "dppo.kl_high", "dppo.ratio_cap"), by_row=True)
def dppo_kl_loss(
    log_probs_BT: Tensor, old_BT: Tensor, advantages_BT: Tensor, mask_BT: Tensor, config: PolicyLossConfig
) -> LossTerms:
    """DPPO with the binary KL (arXiv 2602.04879), (B, T): the loss of ``dppo_tv`` with another measure of the distance.

    D = p_old log(p_old / p) + (1 - p_old) log((1 - p_old) / (1 - p)), the KL between "this token" and "any other". M is 0
    where A > 0, p > p_old and D > ``kl_high``, or A < 0, p < p_old and D > ``kl_low``. As in verl, 1e-8 is added to both
    probabilities of "any other"; 1 - p itself is computed without cancellation.
    """
    keys = config.dppo
    d_BT = log_probs_BT.detach() - old_BT
    other_BT, old_other_BT = (
        -torch.expm1(x.clamp(max=0.0)) + KL_FLOOR for x in (log_probs_BT.detach(), old_BT)
    )
    kl_BT = -old_BT.exp() * d_BT + (1.0 - old_BT.exp()) * (old_other_BT / other_BT).log()
    outside = {
        "clip/high_frac": (d_BT > 0) & (kl_BT > keys.kl_high),
        "clip/low_frac": (d_BT < 0) & (kl_BT > keys.kl_low),
    }
    return _masked_policy_gradient(log_probs_BT, old_BT, advantages_BT, outside, keys.ratio_cap)


@register_policy_loss("m2po", reads=("m2po.budget",))
def m2po_loss(
    log_probs_BT: Tensor, old_BT: Tensor, advantages_BT: Tensor, mask_BT: Tensor, config: PolicyLossConfig
) -> LossTerms:
    """M2PO (arXiv 2510.01161), (B, T): -A M rho, M from the second moment of the log-ratios of the call's rows.

    Of the tokens that a trust region concerns (A > 0 and rho > 1, or A < 0 and rho < 1), those with the largest d^2 are
    left out, M = 0, until the mean of d^2 over the rest is at most ``budget``; no other token is. Tokens of equal d^2 stay
    or go together.

    Here the paper's rule, to leave tokens out, is built, on the tokens that the code counts. The code clips at a common
    |d| instead, chosen so that the mean of d^2 after clipping is within the budget, which leaves the gradient of more
    tokens 0. AReaL counts all tokens, whatever the sign of A.
    """
    d_BT = log_probs_BT - old_BT
    fixed_BT = d_BT.detach()
    upper_BT = (advantages_BT > 0) & (fixed_BT > 0)
    lower_BT = (advantages_BT < 0) & (fixed_BT < 0)
    concerned_BT = upper_BT | lower_BT
    squares_BT = fixed_BT.square()

    ascending = zero_outside(squares_BT, concerned_BT, math.inf).flatten().sort().values
    finite = ascending < math.inf
    # the mean of the k smallest grows with k, so what is within the budget is a beginning of the row
    means = zero_outside(ascending, finite).cumsum(0) / torch.arange(
        1, len(ascending) + 1, device=d_BT.device
    )
    beyond = zero_outside(ascending, finite & (means > config.m2po.budget), math.inf)
    first_left_out = pad(beyond, (0, 1), value=math.inf).amin()
    left_out_BT = concerned_BT & (squares_BT >= first_left_out)

    flags = {"clip/high_frac": left_out_BT & upper_BT, "clip/low_frac": left_out_BT & lower_BT}
    return LossTerms(-advantages_BT * _ratio(d_BT) * (~left_out_BT), flags)


@register_policy_loss(
    "clip_cov", reads=(*RATIO_CLIP_KEYS, "clip_cov.share", "clip_cov.cov_low", "clip_cov.cov_high")
)
def clip_cov_loss(
    log_probs_BT: Tensor, old_BT: Tensor, advantages_BT: Tensor, mask_BT: Tensor, config: PolicyLossConfig
) -> LossTerms:
    """Clip-Cov (arXiv 2505.22617), (B, T): PPO's clipped ratio without dual clip, and 0 on a few tokens.

    A token's covariance is (A - mean A)(log pi - mean log pi), the means over the call's tokens. Of the tokens with a
    covariance between ``cov_low`` and ``cov_high`` that PPO's clip leaves alone, floor(``share`` x tokens), one at least,
    are drawn and have loss 0. The clip beside them and the one at least are in the code, not in the paper's equation.
    The code draws with torch's random state; here the bits of a token's log-probability are its lot, so that a run can be
    repeated, and the order of the rows does not matter.
    """
    keys = config.clip_cov
    d_BT = log_probs_BT - old_BT
    lower, upper = _log_bounds(config)
    plain_BT = _ratio(d_BT) * advantages_BT
    surrogate_BT = torch.minimum(plain_BT, d_BT.clamp(lower, upper).exp() * advantages_BT)
    clipped_BT = surrogate_BT < plain_BT

    cov_BT = _covariances(log_probs_BT.detach(), advantages_BT, mask_BT)
    candidates_BT = mask_BT & ~clipped_BT & (cov_BT > keys.cov_low) & (cov_BT < keys.cov_high)
    chosen_BT = _first(_lots(log_probs_BT.detach()), candidates_BT, mask_BT, keys.share)

    def flags() -> dict[str, Tensor]:
        return clip_flags(d_BT.detach(), advantages_BT.sign(), lower, upper) | {"cov/chosen_frac": chosen_BT}

    return LossTerms(-surrogate_BT * (~chosen_BT), flags)


@register_policy_loss("kl_cov", reads=("kl_cov.share", "kl_cov.coef"))
def kl_cov_loss(
    log_probs_BT: Tensor, old_BT: Tensor, advantages_BT: Tensor, mask_BT: Tensor, config: PolicyLossConfig
) -> LossTerms:
    """KL-Cov (arXiv 2505.22617), (B, T): -A rho, and + ``coef`` |d| on the tokens of the largest covariances.

    The covariance is that of ``clip_cov``; floor(``share`` x tokens), one at least, have the penalty. |d| for the KL and
    the one at least are the code's. Tokens with A = 0 are never chosen, so that they have no gradient, as in every loss here.
    """
    d_BT = log_probs_BT - old_BT
    cov_BT = _covariances(log_probs_BT.detach(), advantages_BT, mask_BT)
    chosen_BT = _first(-cov_BT, mask_BT & (advantages_BT != 0), mask_BT, config.kl_cov.share)
    return LossTerms(
        -advantages_BT * _ratio(d_BT) + config.kl_cov.coef * zero_outside(d_BT.abs(), chosen_BT),
        {"cov/chosen_frac": chosen_BT},
    )


@register_policy_loss(
    "vespo",
    reads=("vespo.k_positive", "vespo.k_negative", "vespo.lambda_positive", "vespo.lambda_negative"),
    by_row=True,
)
def vespo_loss(
    log_probs_BT: Tensor, old_BT: Tensor, advantages_BT: Tensor, mask_BT: Tensor, config: PolicyLossConfig
) -> Tensor:
    """VESPO (arXiv 2602.10693), (B, T): -A phi(W) log pi, phi(W) = W^k exp(lambda (1 - W)) a constant, phi(1) = 1.

    W is the product of the sequence's ratios, not their mean; k and lambda go by the sign of A (A = 0 counts as positive).
    Computed as exp(k log W + lambda (1 - W)). The mean over tokens or responses is ``loss_avg_mode``'s; the authors train
    with ``token``. The code also holds each d within 20 and log W between -18.4 and 20, for its numbers' sake; here nothing
    is held. The code takes the weights for another sampler into W; here they multiply the loss, as they do every loss of
    tokens.
    """
    keys = config.vespo
    log_w_B1 = (log_probs_BT - old_BT).detach().sum(dim=-1, keepdim=True)
    negative_BT = advantages_BT < 0
    k_BT = torch.full_like(advantages_BT, keys.k_positive).masked_fill(negative_BT, keys.k_negative)
    lambda_BT = torch.full_like(advantages_BT, keys.lambda_positive).masked_fill(
        negative_BT, keys.lambda_negative
    )
    # an infinite W makes phi 0; a small lambda beside a large k could still overflow
    log_phi_BT = k_BT * log_w_B1 + lambda_BT * (1.0 - log_w_B1.exp())
    return -advantages_BT * saturated_exp(log_phi_BT) * log_probs_BT


@register_policy_loss(
    "fipo",
    reads=(
        *RATIO_CLIP_KEYS,
        "clip_ratio_dual",
        "fipo.half_life",
        "fipo.clip",
        "fipo.clip_high_only",
        "fipo.safe_ratio",
    ),
    by_row=True,
)
def fipo_loss(
    log_probs_BT: Tensor, old_BT: Tensor, advantages_BT: Tensor, mask_BT: Tensor, config: PolicyLossConfig
) -> LossTerms:
    """FIPO (arXiv 2603.19835), (B, T): the loss of ``default`` with A f for A, the weight f a constant.

    f_t = clip(exp(F_t), low, 1 + ``clip``), F_t = sum over k >= t of 2^(-(k - t) / ``half_life``) d_k: how much more
    probable the rest of the response became, the near tokens counting most. ``low`` is 1, or 1 - ``clip``. A d_k whose
    ratio is above ``clip_ratio_dual`` counts as 0 in the sum, and where A < 0 and rho > ``safe_ratio`` f is held in
    [0.8, 1]. Built from the README and the code of the authors' repository. The code also leaves out whole responses with
    more than one token beyond the dual clip; the README does not say so, and it is not done here.
    """
    keys = config.fipo
    d_BT = (log_probs_BT - old_BT).detach()
    counted_BT = d_BT.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).masked_fill(
        d_BT > math.log(config.clip_ratio_dual), 0.0
    )
    future_BT = _discounted_sums(counted_BT, 2.0 ** (-1.0 / keys.half_life))
    lowest = 1.0 if keys.clip_high_only else 1.0 - keys.clip
    weight_BT = saturated_exp(future_BT).clamp(lowest, 1.0 + keys.clip)
    unsafe_BT = (advantages_BT < 0) & (_ratio(d_BT) > keys.safe_ratio)
    weight_BT = torch.where(unsafe_BT, weight_BT.clamp(0.8, 1.0), weight_BT)
    return _clipped_surrogate(log_probs_BT - old_BT, advantages_BT * weight_BT, config)


def _ratio(d_BT: Tensor) -> Tensor:
    return d_BT.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp()


def _masked_policy_gradient(
    log_probs_BT: Tensor, old_BT: Tensor, advantages_BT: Tensor, outside: dict[str, Tensor], cap: float
) -> LossTerms:
    """DPPO's loss; ``outside`` says which tokens went too far up and down, whatever their A."""
    high_BT = outside["clip/high_frac"] & (advantages_BT > 0)
    low_BT = outside["clip/low_frac"] & (advantages_BT < 0)
    weight_BT = (log_probs_BT.detach() - old_BT).clamp(max=math.log(cap)).exp() * ~(high_BT | low_BT)
    return LossTerms(
        -advantages_BT * weight_BT * log_probs_BT, {"clip/high_frac": high_BT, "clip/low_frac": low_BT}
    )


def _covariances(log_probs_BT: Tensor, advantages_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Each token's product of deviations from the means over all valid tokens of the rows."""
    n = mask_BT.sum().clamp(min=1)
    return (advantages_BT - advantages_BT.sum() / n) * (log_probs_BT - log_probs_BT.sum() / n)


def _lots(values_BT: Tensor) -> Tensor:
    """A number in [0, 2^32) for each value, without pattern but always the same: its bits as float32, mixed."""
    lots_BT = values_BT.float().view(torch.int32).long() & 0xFFFFFFFF
    for _ in range(2):
        lots_BT = (lots_BT ^ (lots_BT >> 16)) * 0x45D9F3B & 0xFFFFFFFF
    return lots_BT ^ (lots_BT >> 16)


def _first(order_BT: Tensor, candidates_BT: Tensor, mask_BT: Tensor, share: float) -> Tensor:
    """The candidates of smallest ``order_BT``: ``share`` of all valid tokens, rounded down, but one at least; bool (B, T)."""
    last = torch.iinfo(torch.int64).max if order_BT.dtype == torch.int64 else math.inf
    places = torch.where(candidates_BT, order_BT, last).flatten().argsort(stable=True)
    wanted = (mask_BT.sum().double() * share).floor().clamp(min=1)
    early = torch.arange(len(places), device=places.device) < wanted
    return torch.zeros_like(early).scatter(0, places, early).view_as(candidates_BT) & candidates_BT


def _discounted_sums(values_BT: Tensor, gamma: float) -> Tensor:
    """sum over k >= t of gamma^(k - t) x_k for each t: windows of 1, 2, 4, ... tokens, each from two of the one before."""
    width = 1
    while width < values_BT.shape[1]:
        values_BT = values_BT + gamma**width * pad(values_BT[:, width:], (0, width))
        width *= 2
    return values_BT
