"""Model FLOPs of an update, for MFU: what gradient checkpointing computes again does not count."""

from __future__ import annotations

from typing import Any

from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.training.batch import Batch


def count_flops(policy: PolicyModel, batch: Batch) -> tuple[float, int]:
    """Model FLOPs of forward and backward passes over a batch, and the decoder's tokens, each prompt once."""
    try:
        from gmpo_mm.models.flops import Work, model_flops  # type: ignore[import-not-found]
    except ImportError:
        return _count_by_hand(policy, batch)
    work: Any = Work()
    for group in batch.group_of(range(len(batch))):
        work.add_group(len(group.prompt.input_ids_S), [len(r) for r in group.responses])
        grids = group.prompt.image_grid_thw_N3
        for grid in grids.tolist() if grids is not None else []:
            work.add_image(grid, policy.causal_lm.config.vision_config)
    return model_flops(policy.module, work, backward=True), work.tokens


def _count_by_hand(policy: PolicyModel, batch: Batch) -> tuple[float, int]:
    """6 a weight and token where weights are trained, else 4, and causal attention; without pictures'
    attention."""
    groups = batch.group_of(range(len(batch)))
    prompts, inputs = (
        [len(g.prompt.input_ids_S) for g in groups],
        [[len(r) - 1 for r in g.responses] for g in groups],
    )
    tokens = sum(prompts) + sum(map(sum, inputs))
    pairs = sum(
        p * p / 2 + sum(n * p + n * n / 2 for n in own) for p, own in zip(prompts, inputs, strict=True)
    )
    patches = sum(0 if g.prompt.pixel_values is None else len(g.prompt.pixel_values) for g in groups)
    total = 12.0 * policy.config.num_hidden_layers * policy.config.hidden_size * pairs
    head, table = policy.lm_head.weight, policy.embedding.weight
    for name, weight in policy.causal_lm.named_parameters():
        if weight.dim() < 2 or (weight is table and weight is not head):
            continue
        seen = sum(batch.lengths) if weight is head else patches if "visual" in name else tokens
        total += (6 if weight.requires_grad else 4) * weight.numel() * seen
    return total, tokens
