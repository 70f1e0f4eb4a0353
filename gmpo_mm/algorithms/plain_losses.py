"""Losses of few parts: the policy gradient without a ratio, and GSPO's sum over tokens. Notation as in ``losses.py``."""

from torch import Tensor

from gmpo_mm.algorithms.config import PolicyLossConfig
from gmpo_mm.algorithms.losses import RATIO_CLIP_KEYS, _clipped_surrogate
from gmpo_mm.algorithms.masked import masked_mean_B, zero_outside
from gmpo_mm.algorithms.registry import LossTerms, register_policy_loss


@register_policy_loss("gpg", by_row=True)
def gpg_loss(
    log_probs_BT: Tensor, old_BT: Tensor, advantages_BT: Tensor, mask_BT: Tensor, config: PolicyLossConfig
) -> Tensor:
    """Group Policy Gradient (arXiv 2504.02546), (B, T): -A log pi, with no ratio, no clip and no old policy.

    What the authors' code computes; it takes the mean over a response, then over responses (``loss_avg_mode: seq``), and
    verl's ``gpg`` the mean over tokens (``token``). The paper's advantage (r - mean) / F_norm is an estimator's here:
    ``dr_grpo`` for F_norm = 1, which the authors prefer, ``grpo`` for the standard deviation. Its factor
    alpha = B / (B - M), M responses of B being in groups that all got one reward, isn't built: it scales the gradient of
    the whole batch. ``algorithm.online_filtering`` replaces such groups, which leaves alpha = 1.
    """
    return -advantages_BT * log_probs_BT


@register_policy_loss("reinforce", unit="sequence", by_row=True)
def reinforce_loss(
    log_probs_BT: Tensor, old_BT: Tensor, advantages_BT: Tensor, mask_BT: Tensor, config: PolicyLossConfig
) -> Tensor:
    """REINFORCE (Williams 1992), (B,): -sum_t A_t log pi_t; with one advantage a sequence, -A log pi(o).

    The gradient of the expected reward itself, so a response weighs by its length: a SUM over its tokens where ``gpg``
    and ``default`` take a mean. As everything without a ratio it is on-policy: exact for the first update of a rollout.
    """
    return -(advantages_BT * log_probs_BT).sum(dim=-1)


@register_policy_loss("luspo", unit="sequence", reads=(*RATIO_CLIP_KEYS, "clip_ratio_dual"), by_row=True)
def luspo_loss(
    log_probs_BT: Tensor, old_BT: Tensor, advantages_BT: Tensor, mask_BT: Tensor, config: PolicyLossConfig
) -> LossTerms:
    """LUSPO (arXiv 2602.05261), (B,): GSPO's loss of a sequence times its length, so that each token counts alike.

    A token of GSPO has the weight 1/n, less the longer its response; here it has the weight 1. The dual clip is EasyR1's
    and not the paper's, as in ``gspo``; a large ``clip_ratio_dual`` is none.
    """
    d_B1 = masked_mean_B(log_probs_BT - old_BT, mask_BT)[:, None]
    terms = _clipped_surrogate(d_B1.expand_as(log_probs_BT), advantages_BT, config)
    return LossTerms(zero_outside(terms.losses, mask_BT).sum(dim=-1), terms.token_flags)
