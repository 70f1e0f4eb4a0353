"""The data's way through a step, stage by stage."""

from __future__ import annotations

from collections.abc import Iterator

from gmpo_mm.inspection import stages_of_prompts, stages_of_samples, stages_of_updates
from gmpo_mm.inspection.alignment import Alignment
from gmpo_mm.inspection.findings import Stage
from gmpo_mm.inspection.sources import Source

STAGES = (
    stages_of_prompts.prompts,
    stages_of_prompts.prompt_text,
    stages_of_prompts.prompt_ids,
    stages_of_prompts.pictures,
    stages_of_samples.responses,
    stages_of_samples.masks,
    stages_of_samples.rewards,
    stages_of_samples.group_ids,
    stages_of_samples.advantages,
    stages_of_updates.log_probs("sampler_log_probs"),
    stages_of_updates.old_log_probs,
    stages_of_updates.log_probs("ref_log_probs"),
    stages_of_updates.mini_batches,
    stages_of_updates.ratio,
    stages_of_updates.loss,
    stages_of_updates.gradient_norm,
    stages_of_updates.rate,
    stages_of_updates.weights,
)


def walk(a: Source, b: Source, aligned: Alignment) -> Iterator[Stage]:
    """All stages in order, as they are compared."""
    for stage in STAGES:
        yield stage(a, b, aligned)
