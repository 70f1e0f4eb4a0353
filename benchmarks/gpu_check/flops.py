"""Model FLOPs of an update, for MFU: what gradient checkpointing computes again does not count."""

from __future__ import annotations

from gmpo_mm.models.flops import model_flops, work_of
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.training.batch import Batch


def count_flops(policy: PolicyModel, batch: Batch) -> tuple[float, int]:
    """Model FLOPs of forward and backward passes over a batch, and the decoder's tokens, each prompt once."""
    vision = getattr(policy.causal_lm.config, "vision_config", None)
    work = work_of(batch.group_of(range(len(batch))), vision)
    return model_flops(policy.module, work, backward=True), work.tokens
