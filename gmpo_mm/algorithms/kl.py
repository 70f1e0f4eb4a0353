"""KL divergence from a reference policy: estimators, the penalty in the reward, and what sets its coefficient."""

from typing import Any

import torch
from torch import Tensor

from gmpo_mm.algorithms.masked import masked_mean_B, place_on_last_token, zero_outside

KL_KINDS = ("kl", "abs", "mse", "low_var_kl", "full")


def compute_kl(
    log_probs_BT: Tensor, ref_log_probs_BT: Tensor, kind: str, response_mask_BT: Tensor | None = None
) -> Tensor:
    """Estimate of KL(pi || pi_ref) at each token, (B, T), in float32 at least; EasyR1's kinds.

    With x = log pi - log pi_ref: ``kl`` x; ``abs`` |x|; ``mse`` x^2 / 2; ``low_var_kl`` exp(-x) + x - 1, with x held
    within 20 and the result within 10 (Schulman, "Approximating KL Divergence", 2020). ``full`` is the exact sum over
    the vocabulary and takes (B, T, V).

    Args:
        response_mask_BT: if given, the result and the gradient are 0 where it is False, whatever the inputs hold.

    Raises:
        ValueError: unknown kind; ``full`` on the log-probabilities of sampled tokens.
    """
    if kind not in KL_KINDS:
        raise ValueError(f"kl_penalty: {kind!r} is unknown; use one of {', '.join(KL_KINDS)}.")
    if kind == "full" and log_probs_BT.dim() != 3:
        raise ValueError(
            "kl_penalty: 'full' needs the log-probabilities of the whole vocabulary, (B, T, V); the actor keeps those "
            f"of the sampled tokens, {tuple(log_probs_BT.shape)}. Use low_var_kl, kl, abs or mse."
        )
    dtype = torch.promote_types(log_probs_BT.dtype, torch.float32)
    log_probs, ref_log_probs = log_probs_BT.to(dtype), ref_log_probs_BT.to(dtype)
    if response_mask_BT is not None:
        mask = response_mask_BT.bool()
        mask = mask[..., None] if kind == "full" else mask
        log_probs, ref_log_probs = zero_outside(log_probs, mask), zero_outside(ref_log_probs, mask)
    x = log_probs - ref_log_probs
    if kind == "kl":
        return x
    if kind == "abs":
        return x.abs()
    if kind == "mse":
        return 0.5 * x.square()
    if kind == "low_var_kl":
        bounded = x.clamp(-20.0, 20.0)
        return (torch.expm1(-bounded) + bounded).clamp(max=10.0)
    return (log_probs.exp() * x).sum(dim=-1)


def apply_kl_to_rewards(scores_B: Tensor, kl_BT: Tensor, response_mask_BT: Tensor, kl_coef: float) -> Tensor:
    """Rewards by token, (B, T): the score on the last valid token, minus ``kl_coef`` times every valid token's KL."""
    mask_BT = response_mask_BT.bool()
    return place_on_last_token(scores_B.to(kl_BT.dtype), mask_BT) - kl_coef * zero_outside(kl_BT.detach(), mask_BT)


def mean_sequence_kl(kl_BT: Tensor, response_mask_BT: Tensor) -> float:
    """What a controller is updated with: the mean over sequences of their mean KL by token (empty ones count as 0)."""
    return float(masked_mean_B(kl_BT.detach(), response_mask_BT.bool()).mean()) if kl_BT.shape[0] else 0.0


class FixedKLController:
    """A coefficient that stays."""

    def __init__(self, kl_coef: float) -> None:
        self.kl_coef = kl_coef

    def update(self, current_kl: float, n_steps: int) -> None:
        """Nothing."""

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"kl_coef": self.kl_coef}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint. A fixed coefficient is the configuration's, so there is nothing to take over."""


class AdaptiveKLController:
    """A coefficient that steers the KL towards ``target`` (arXiv 1909.08593, section 2.2).

    Raises:
        ValueError: target or horizon not above 0.
    """

    def __init__(self, kl_coef: float, target: float, horizon: float) -> None:
        for key, value in (("kl_target", target), ("kl_horizon", horizon)):
            if not value > 0:
                raise ValueError(f"{key}: {value!r} must be above 0 for kl_type adaptive.")
        self.kl_coef = kl_coef
        self.target = target
        self.horizon = horizon

    def update(self, current_kl: float, n_steps: int) -> None:
        """Move by the relative error, held within 0.2, times ``n_steps`` (samples of the step) over the horizon."""
        error = min(max(current_kl / self.target - 1.0, -0.2), 0.2)
        self.kl_coef *= 1.0 + error * n_steps / self.horizon

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"kl_coef": self.kl_coef}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.kl_coef = float(state["kl_coef"])


def make_kl_controller(
    kind: str, kl_coef: float, target: float = 0.1, horizon: float = 10000.0
) -> FixedKLController | AdaptiveKLController:
    """The controller of ``algorithm.kl_type``: fixed or adaptive; ValueError for anything else."""
    if kind == "fixed":
        return FixedKLController(kl_coef)
    if kind == "adaptive":
        return AdaptiveKLController(kl_coef, target, horizon)
    raise ValueError(f"kl_type: {kind!r} is unknown; use fixed or adaptive.")
