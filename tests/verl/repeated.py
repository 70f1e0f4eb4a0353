"""Recorded steps of a run on verl, done again on the local engine."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from gmpo_mm.config import load_config, resolve_model_path
from gmpo_mm.inspection.replay import replay
from gmpo_mm.models.loading import load_model
from gmpo_mm.models.weights_hash import weights_sha256
from gmpo_mm.runs.fsdp_checkpoint import merged_model

STAGES = {"prompts", "advantages", "old log-probs", "log-probs", "loss", "gradient norm"}


def repeated_on_local(run: Path, step: int) -> None:
    """Every stage of the update is verl's to 1e-5, and so is what it changed, by the run's checkpoints."""
    found = replay(run, step)
    assert found.same, found.first_difference
    assert found.replayed.tolerance == 1e-5
    assert {stage.name for stage in found.stages if stage.same} >= STAGES
    before, after = weights_of(run, step - 1), weights_of(run, step)
    changes = found.replayed.update.changes
    assert after.keys() == changes.keys()
    moved = torch.cat([(after[name] - before[name]).flatten() for name in after])
    apart = torch.cat([(after[name] - before[name] - change).flatten() for name, change in changes.items()])
    assert moved.abs().max() > 1e-5
    # AdamW's first steps are the gradient's sign nearly everywhere: weights with almost none differ most
    assert apart.abs().max() < 1e-5 and apart.norm() < 2e-3 * moved.norm()


def weights_of(run: Path, step: int) -> dict[str, torch.Tensor]:
    """The weights after a step, in float32: of the checkpoint; for step 0, of the run's model."""
    if step:
        return load_file(merged_model(run / f"global_step_{step}") / "model.safetensors")
    path = resolve_model_path(load_config(run / "config.yaml").config.worker.actor.model.model_path or "")
    return {name: weight.detach().float() for name, weight in load_model(path).named_parameters()}


def hash_of(checkpoint: Path) -> str:
    """The hash that the local engine makes of a checkpoint of verl's."""
    return weights_sha256(load_model(str(merged_model(checkpoint))).named_parameters())
