"""Floating-point operations that a model's passes need, for MFU; what is computed twice counts once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from gmpo_mm.models.packed import Group

PER_WEIGHT = 2
"""A multiplication and an addition for each weight and token."""


@dataclass
class Work:
    """What passes through a model: tokens of the decoder and of the head, pairs of tokens that attend, and
    patches.

    `pairs` counts (query, key) over all sequences of one decoder layer; `full_pairs` and `window_pairs` those
    of one vision block of either kind; `patches` and `merged` the vision tower's tokens before and after its
    merger.
    """

    tokens: int = 0
    head_tokens: int = 0
    pairs: float = 0.0
    patches: int = 0
    merged: int = 0
    full_pairs: int = 0
    window_pairs: int = 0

    def add_group(self, prompt: int, responses: Iterable[int]) -> None:
        """A prompt of so many tokens, encoded once, and its responses; their last tokens are no inputs."""
        self.tokens += prompt
        self.pairs += prompt * (prompt + 1) / 2
        for length in responses:
            inputs = max(0, length - 1)
            self.tokens += inputs
            self.head_tokens += length
            self.pairs += inputs * prompt + inputs * (inputs + 1) / 2

    def add_image(self, grid: Sequence[int], vision_config: Any) -> None:
        """An image of (frames, height, width) in patches."""
        frames, height, width = (int(x) for x in grid)
        merge = int(vision_config.spatial_merge_size)
        self.patches += frames * height * width
        self.merged += frames * height * width // merge**2
        self.full_pairs += frames * (height * width) ** 2
        window = _window_side(vision_config)
        if window:
            rows = _pieces(height // merge, window)
            columns = _pieces(width // merge, window)
            self.window_pairs += frames * sum((r * c * merge**2) ** 2 for r in rows for c in columns)


def work_of(groups: Iterable[Group], vision_config: Any) -> Work:
    """What a pass over some groups takes through a model; `vision_config` is None for a text model."""
    work = Work()
    for group in groups:
        work.add_group(len(group.prompt.input_ids_S), [len(r) for r in group.responses])
        grids = group.prompt.image_grid_thw_N3
        for grid in grids.tolist() if grids is not None else []:
            work.add_image(grid, vision_config)
    return work


def _window_side(vision_config: Any) -> int:
    """Merged tokens along a side of a window; 0 for a vision tower that attends to whole images only."""
    pixels = getattr(vision_config, "window_size", None)
    return (
        int(pixels) // int(vision_config.spatial_merge_size) // int(vision_config.patch_size) if pixels else 0
    )


def _pieces(length: int, size: int) -> list[int]:
    return [min(size, length - start) for start in range(0, length, size)]


@dataclass
class Part:
    """Weights of matrix products that see the same tokens, those with a gradient and those without."""

    trained: float = 0.0
    frozen: float = 0.0

    def flops(self, units: float, backward: bool, flows: bool) -> float:
        """Forward, and backward: by weight 2 for the output, 2 for its input's gradient, 2 for its own."""
        if not backward:
            return PER_WEIGHT * units * (self.trained + self.frozen)
        return PER_WEIGHT * units * (3 * self.trained + (2 if flows else 1) * self.frozen)


@dataclass
class ModelFlops:
    """A model's weights by what they are multiplied with, and its attention's width; `of` reads them from a
    module.

    Of a mixture of experts the share of experts that a token is sent to. Embedding tables are looked up, not
    multiplied.
    """

    decoder: Part = field(default_factory=Part)
    head: Part = field(default_factory=Part)
    patch_embedding: Part = field(default_factory=Part)
    vision: Part = field(default_factory=Part)
    merger: Part = field(default_factory=Part)
    layers: int = 0
    attention_width: int = 0
    vision_full_layers: int = 0
    vision_window_layers: int = 0
    vision_width: int = 0

    @classmethod
    def of(cls, module: nn.Module) -> ModelFlops:
        """Count a model of transformers, with or without a LoRA adapter; tensors may be fake or on `meta`."""
        adapted: Any = module
        base: Any = adapted.get_base_model() if hasattr(module, "peft_config") else module
        text = base.config.get_text_config()
        heads = int(text.num_attention_heads)
        width = int(getattr(text, "head_dim", None) or text.hidden_size // heads)
        found = cls(layers=int(text.num_hidden_layers), attention_width=heads * width)
        found._count_vision_layers(getattr(base.config, "vision_config", None))
        head = base.get_output_embeddings().weight
        _count(found.head, head, 1.0)
        tables = {id(m.weight) for m in base.modules() if isinstance(m, nn.Embedding)}
        experts = int(getattr(text, "num_experts", 0) or getattr(text, "num_local_experts", 0) or 0)
        active = int(text.num_experts_per_tok) / experts if experts else 1.0
        for name, weight in base.named_parameters():
            if weight.dim() < 2 or weight is head or id(weight) in tables:
                continue
            share = active if ".experts." in name else 1.0
            if ".visual." not in f".{name}":
                _count(found.decoder, weight, share)
            else:
                part = (
                    found.patch_embedding
                    if "patch_embed" in name
                    else found.merger
                    if "merger" in name
                    else found.vision
                )
                _count(part, weight, share)
        return found

    def _count_vision_layers(self, vision: Any) -> None:
        if vision is None:
            return
        depth = int(getattr(vision, "depth", 0) or vision.num_hidden_layers)
        full = getattr(vision, "fullatt_block_indexes", None)
        self.vision_full_layers = depth if full is None or not _window_side(vision) else len(full)
        self.vision_window_layers = depth - self.vision_full_layers
        self.vision_width = int(getattr(vision, "embed_dim", None) or vision.hidden_size)

    def count(self, work: Work, backward: bool) -> float:
        """FLOPs of a forward pass over `work`, and of its backward pass too when asked."""
        vision_trains = bool(self.vision.trained or self.merger.trained)
        total = self.decoder.flops(work.tokens, backward, flows=True) + self.head.flops(
            work.head_tokens, backward, flows=True
        )
        total += self.vision.flops(work.patches, backward, flows=vision_trains)
        patches = self.patch_embedding  # pixels need no gradient
        total += PER_WEIGHT * work.patches * ((2 if backward else 1) * patches.trained + patches.frozen)
        total += self.merger.flops(work.merged, backward, flows=vision_trains)
        a_pair = 2 * PER_WEIGHT  # query x key, and weight x value
        total += a_pair * (3 if backward else 1) * self.layers * self.attention_width * work.pairs
        vision_pairs = (
            self.vision_full_layers * work.full_pairs + self.vision_window_layers * work.window_pairs
        )
        return total + a_pair * (3 if backward and vision_trains else 1) * self.vision_width * vision_pairs


def model_flops(module: nn.Module, work: Work, backward: bool = True) -> float:
    """Model FLOPs of `work` through `module`.

    A weight of a matrix product and a token make 6 where the weight is trained, 4 where it is frozen and
    gradients flow through, 2 without a backward pass. Attention is causal. What gradient checkpointing computes
    again is not counted.
    """
    return ModelFlops.of(module).count(work, backward)


def mfu(flops: float, seconds: float, peak_flops: float) -> float:
    """Model FLOPs utilisation: the share of a card's dense peak (FLOP/s) that `flops` in `seconds` make."""
    return flops / (seconds * peak_flops) if seconds > 0 else math.nan


def _count(part: Part, weight: torch.Tensor, share: float) -> None:
    if weight.requires_grad:
        part.trained += share * weight.numel()
    else:
        part.frozen += share * weight.numel()
