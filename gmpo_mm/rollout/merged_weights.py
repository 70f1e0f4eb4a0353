"""A trained model's weights under the names of its checkpoint, with LoRA adapters merged in on the way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from gmpo_mm.errors import ConfigError


def merged_weights(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (name, weight) as `save_pretrained` of the merged model would store them; the model is not changed.

    Names are those of the checkpoint on disk; in memory transformers 5 keeps other ones, and fuses experts (transformers 4
    is not supported: vLLM needs 5). A tied weight comes once, under its first name. `W + scale * B A` of a LoRA layer is
    built when its turn comes, so one merged matrix exists at a time.
    Raises ConfigError for adapters other than plain LoRA.
    """
    from transformers.core_model_loading import revert_weight_conversion

    base: Any = model.get_base_model() if hasattr(model, "peft_config") else model  # type: ignore[operator]
    adapters = lora_layers(base)
    state: dict[str, torch.Tensor] = {}
    seen: set[tuple[int, torch.Size]] = set()
    for name, weight in base.state_dict().items():
        key = (weight.data_ptr(), weight.shape)
        if ".lora_" in name or (key in seen and weight.numel() > 0):
            continue
        seen.add(key)
        state[name.replace(".base_layer.", ".")] = weight.detach()
    by_address = {layer.get_base_layer().weight.data_ptr(): (layer, name) for layer, name in adapters}
    for name, weight in revert_weight_conversion(base, state).items():
        layer, adapter = by_address.get(weight.data_ptr(), (None, ""))
        if layer is not None:
            with torch.no_grad():
                weight = weight + layer.get_delta_weight(adapter).to(weight.dtype)
        yield name, weight


def lora_layers(base: torch.nn.Module) -> list[tuple[Any, str]]:
    """Every LoRA layer with the name of its one active adapter."""
    if not any(hasattr(module, "base_layer") for module in base.modules()):
        return []
    from peft.tuners.lora import LoraLayer

    found = []
    for name, module in base.named_modules():
        if not hasattr(module, "base_layer") and not hasattr(module, "modules_to_save"):
            continue
        active = list(getattr(module, "active_adapters", []))
        plain = isinstance(module, LoraLayer) and len(active) == 1 and active[0] in module.lora_A and not module.merged
        if not plain or getattr(module, "use_dora", {}).get(active[0], False):
            raise ConfigError(
                f"worker.actor.model.lora: {name} ({type(module).__name__}) holds something other than one unmerged "
                "LoRA adapter, which can't be merged for the sampler; use worker.rollout.name=hf without emulate.weights"
            )
        found.append((module, active[0]))
    return found
