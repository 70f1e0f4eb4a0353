"""A run of verl on the CPU whose vision tower is not trained, and its continuation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gmpo_mm.config import resolve_model_path
from gmpo_mm.runs.fsdp_checkpoint import merged_model
from tests.verl.runs import LIMIT, finish, lines, pictures, start


@pytest.mark.timeout(2 * LIMIT)
def test_the_vision_tower_keeps_its_weights_and_everything_else_is_trained(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    frozen = ("worker.actor.model.freeze_vision_tower=true", "trainer.val_freq=-1", "trainer.val_before_train=false")
    finish(start(pictures(data, run, *frozen)))
    before = stored(Path(resolve_model_path("bundled:qwen2_5_vl_tiny")))
    after = load_file(merged_model(run / "global_step_2") / "model.safetensors")
    assert before.keys() == after.keys()
    tower = {name for name in before if "visual" in name}
    assert 5 < len(tower) < len(before) - 5
    assert {name for name in before if torch.equal(before[name].float(), after[name].float())} == tower
    finish(start(pictures(data, run, *frozen, "trainer.max_steps=3")))
    assert [line["step"] for line in lines(run, "train")] == [1, 2, 3]
    last = load_file(merged_model(run / "global_step_3") / "model.safetensors")
    assert {name for name in after if torch.equal(last[name], after[name])} == tower, "and goes on without it"


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}
