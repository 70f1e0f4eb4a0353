"""Trained weights reach vLLM: the gap between its log-probabilities and the model's tells."""

from __future__ import annotations

import pytest
import torch

from gmpo_mm.errors import TrainingError
from tests.vllm.conftest import NEEDS_VLLM

pytestmark = NEEDS_VLLM


def moved(model: torch.nn.Module, scale: float = 0.02) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += scale * torch.randn(weight.shape, generator=generator)
    return model


def test_the_gap_closes_after_a_sync_and_only_then(tiny, rollout, sampling) -> None:
    prompts, seeds = tiny.prompts(), [1, 2, 3, 4, 5]
    model = moved(tiny.fresh_model())
    stale = rollout.generate(prompts, sampling(), seeds)
    assert tiny.gap(model, prompts, stale) > 0.5
    rollout.sync_weights(model)
    assert tiny.gap(model, prompts, rollout.generate(prompts, sampling(), seeds)) < 1e-4
    moved(model)
    rollout.sync_weights(model)  # a second time: nothing of the first may linger
    assert tiny.gap(model, prompts, rollout.generate(prompts, sampling(), seeds)) < 1e-4


@pytest.mark.parametrize("part", ["model.visual", "model.language_model.embed_tokens", "model.language_model.layers"])
def test_every_part_of_the_model_is_synced(tiny, rollout, sampling, part) -> None:
    # pictures are in the cache from the first call; the embedding is the output layer too
    prompts, seeds = tiny.prompts()[2:], [3, 4, 5]
    before = rollout.generate(prompts, sampling(), seeds)
    model = tiny.fresh_model()
    moved(model.get_submodule(part), 0.05)
    assert tiny.gap(model, prompts, before) > 0.01
    rollout.sync_weights(model)
    assert tiny.gap(model, prompts, rollout.generate(prompts, sampling(), seeds)) < 1e-4


def test_a_lora_adapter_is_merged_on_the_way(tiny, rollout, sampling) -> None:
    from gmpo_mm.models.loading import add_lora

    prompts, seeds = tiny.prompts(), [1, 2, 3, 4, 5]
    model = add_lora(tiny.fresh_model(), rank=4, alpha=8, target_modules="all-linear", exclude_modules=None)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.1)
    assert tiny.gap(model, prompts, rollout.generate(prompts, sampling(), seeds)) > 0.1
    rollout.sync_weights(model)
    assert tiny.gap(model, prompts, rollout.generate(prompts, sampling(), seeds)) < 1e-4


def test_a_weight_that_does_not_arrive_is_an_error(tiny, rollout) -> None:
    model = tiny.fresh_model()
    del model.model.visual.blocks[1].mlp.down_proj
    with pytest.raises(TrainingError, match="not loaded"):
        rollout.sync_weights(model)
