"""What an update of the actor needs to know."""

from __future__ import annotations

from dataclasses import dataclass

from gmpo_mm.algorithms import Correction, PolicyLossConfig
from gmpo_mm.training.batch import CutLimits


@dataclass(frozen=True)
class UpdateConfig:
    """What an update needs to know; the keys it comes from are in `worker.actor` and `algorithm`."""

    loss: PolicyLossConfig
    temperature: float
    mini_batch_prompts: int
    update_limits: CutLimits
    forward_limits: CutLimits
    epochs: int = 1
    max_grad_norm: float = 1.0
    entropy_coef: float = 0.0
    kl_kind: str | None = None
    """KL estimator of the term in the loss; None without one."""
    sampler_is_old: bool = False
    """Take the sampler's log-probabilities as old ones throughout, even where the weights have not moved yet."""
    drop_zero_advantage: bool = False
    correction: Correction | None = None
    """Weights between sampler and trainer; None without."""
