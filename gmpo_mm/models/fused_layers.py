"""Lets the layers of a transformers model use the fused functions: norms, gated MLPs, rotary embeddings, LoRA."""

from __future__ import annotations

import sys
from typing import Any

import torch

from gmpo_mm.models.fused import rms_norm, rotary, swiglu

ORIGINAL = "_gmpo_mm_original"
ROTARY = {"apply_rotary_pos_emb": 1, "apply_rotary_pos_emb_vision": -2}
"""Functions of transformers, and the axis of queries and keys that their cosines and sines lack."""


def fuse_layers(model: torch.nn.Module) -> None:
    """Switch the layers of a decoder or a vision tower to fused functions.

    Weights, names and what a layer computes stay as they are. What has another form (a mixture's experts, an
    activation other than SiLU, an adapter other than one plain LoRA) is left alone.
    """
    for module in model.modules():
        kind = type(module).__name__
        if kind.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
            module.forward = _NormForward(module)  # type: ignore[method-assign, assignment]
        elif _is_gated_mlp(module):
            module.forward = _MLPForward(module)  # type: ignore[method-assign, assignment]
        elif kind.endswith("Attention"):
            for name in ROTARY:
                _fuse_rotary(sys.modules[type(module).__module__], name)
        elif hasattr(module, "lora_A") and isinstance(getattr(module, "base_layer", None), torch.nn.Linear):
            module.forward = _LoraForward(module)  # type: ignore[method-assign, assignment]


def _is_gated_mlp(module: Any) -> bool:
    parts = all(hasattr(module, name) for name in ("gate_proj", "up_proj", "down_proj"))
    return parts and type(getattr(module, "act_fn", None)).__name__ in ("SiLUActivation", "SiLU")


class _Forward:
    """A module's forward; an object, so that a copy of the model gets one that belongs to the copy."""

    def __init__(self, module: Any) -> None:
        self.module = module


class _NormForward(_Forward):
    def __call__(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return rms_norm(hidden_states, self.module.weight, self.module.variance_epsilon)


class _MLPForward(_Forward):
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        module = self.module
        return module.down_proj(swiglu(module.gate_proj(x), module.up_proj(x)))


class _LoraForward(_Forward):
    """`W x + scale B A x`, the scale and the sum inside the second matrix product.

    peft writes B A x, scales it in a second kernel and adds it in a third: 64 of the 424 ms of a 7B update.
    """

    def __call__(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        module = self.module
        name = self._one_plain_adapter(x)
        if name is None or args or kwargs:
            return type(module).forward(module, x, *args, **kwargs)
        base = module.base_layer(x)
        inner_NR = x.flatten(0, -2) @ module.lora_A[name].weight.T
        out = torch.addmm(
            base.flatten(0, -2), inner_NR, module.lora_B[name].weight.T, alpha=module.scaling[name]
        )
        return out.view_as(base)

    def _one_plain_adapter(self, x: torch.Tensor) -> str | None:
        module = self.module
        active = [name for name in module.active_adapters if name in module.lora_A]
        if module.disable_adapters or module.merged or len(active) != 1:
            return None
        name = active[0]
        a, b, dropout = module.lora_A[name], module.lora_B[name], module.lora_dropout[name]
        plain = name not in getattr(module, "lora_variant", {}) and a.bias is None and b.bias is None
        same_type = x.dtype == a.weight.dtype == b.weight.dtype == module.base_layer.weight.dtype
        return name if plain and same_type and isinstance(dropout, torch.nn.Identity) else None


def _fuse_rotary(namespace: Any, name: str) -> None:
    """Replace a rotary function in the module that defines an attention class; it is a global there.

    Tensors of another type than the GPU path's go to the original.
    """
    original, axis = getattr(namespace, name, None), ROTARY[name]
    if original is None or hasattr(original, ORIGINAL):
        return

    def fused(
        q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if q.dtype != torch.bfloat16 or args or kwargs:
            return original(q, k, cos, sin, *args, **kwargs)
        return rotary(q, k, cos.unsqueeze(axis), sin.unsqueeze(axis))

    setattr(fused, ORIGINAL, original)
    setattr(namespace, name, fused)
