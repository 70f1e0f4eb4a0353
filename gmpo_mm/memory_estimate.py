"""An estimate of a run's memory from the model's files alone: config.json and the headers of its safetensors."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gmpo_mm.config import Config, resolve_model_path
from gmpo_mm.errors import ConfigError

BYTES = {"float32": 4, "bfloat16": 2}
MAX_HEADER_BYTES = 100 * 2**20


@dataclass(frozen=True)
class ModelShape:
    """What the estimate needs to know of a model; `tensors` maps each weight's name to its shape."""

    tensors: Mapping[str, tuple[int, ...]]
    layers: int
    hidden: int
    intermediate: int
    key_value_heads: int
    head_dim: int
    vocabulary: int

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(math.prod(shape) for shape in self.tensors.values())


@dataclass(frozen=True)
class MemoryItem:
    """One line of the estimate, in bytes, with the formula it comes from."""

    name: str
    bytes: int
    formula: str


def find_model_files(name: str) -> Path | None:
    """The folder of a model: a local path, a bundled one, or what the hub's cache holds; None when it isn't here."""
    folder = Path(resolve_model_path(name)).expanduser()
    if folder.is_dir():
        return folder
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        return None
    return Path(cached).parent if isinstance(cached, str) else None


def read_model_shape(folder: Path) -> ModelShape:
    """Shapes from `config.json` and the safetensors headers; no weight is read.

    Raises ConfigError when the folder holds no readable config or no safetensors.
    """
    try:
        root = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        text = root.get("text_config") or root
        heads = int(text["num_attention_heads"])
        shape = ModelShape(
            tensors=dict(_tensor_shapes(folder)),
            layers=int(text["num_hidden_layers"]),
            hidden=int(text["hidden_size"]),
            intermediate=int(text.get("intermediate_size") or 4 * text["hidden_size"]),
            key_value_heads=int(text.get("num_key_value_heads") or heads),
            head_dim=int(text.get("head_dim") or text["hidden_size"] // heads),
            vocabulary=int(text["vocab_size"]),
        )
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise ConfigError(f"{folder}: can't estimate memory from its files ({error!r}).") from error
    if not shape.tensors:
        raise ConfigError(f"{folder}: there are no safetensors files here, so no weights could be loaded.")
    return shape


def _tensor_shapes(folder: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:  # 8 bytes of length, then a JSON header
            (length,) = struct.unpack("<Q", file.read(8))
            if length > MAX_HEADER_BYTES:
                raise ValueError(f"{path.name} has a header of {length} bytes")
            header = json.loads(file.read(length))
        for name, entry in header.items():
            if name != "__metadata__":
                yield name, tuple(entry["shape"])


def trained_parameters(config: Config, shape: ModelShape) -> int:
    """Weights that get gradients: LoRA's (rank x (in + out) of each adapted layer), or all but a frozen vision tower."""
    model = config.worker.actor.model
    if model.lora.rank > 0:
        adapted = [dims for name, dims in shape.tensors.items() if _has_adapter(name, dims, config)]
        return sum(model.lora.rank * (rows + columns) for rows, columns in adapted)
    frozen = model.freeze_vision_tower
    return sum(math.prod(dims) for name, dims in shape.tensors.items() if not (frozen and "visual." in name))


def _has_adapter(name: str, dims: Sequence[int], config: Config) -> bool:
    lora = config.worker.actor.model.lora
    layer = name.removesuffix(".weight")
    if len(dims) != 2 or layer == name or layer.endswith(("embed_tokens", "lm_head")):
        return False
    if lora.exclude_modules and re.fullmatch(lora.exclude_modules, layer):
        return False
    targets = [target.strip() for target in lora.target_modules.split(",")]
    return targets == ["all-linear"] or layer.rpartition(".")[2] in targets


def estimate_memory(config: Config, shape: ModelShape, dtype: str, on_gpu: bool) -> list[MemoryItem]:
    """Bytes of weights, gradients, optimizer, reference, sampling and one update; `dtype` is the compute type.

    An estimate from above: it takes every prompt and response at its full length. Fragmentation and CUDA's own
    memory are not in it.
    """
    from gmpo_mm.models.token_log_probs import CHUNK_ELEMENTS

    actor = config.worker.actor
    size = BYTES[dtype]
    weights, trained = shape.parameters, trained_parameters(config, shape)
    items = [
        MemoryItem("weights", 4 * weights, f"4 bytes x {weights:,} parameters (float32, so that small updates count)"),
        MemoryItem("gradients", 4 * trained, f"4 bytes x {trained:,} trained parameters"),
        MemoryItem("AdamW states", 8 * trained, f"8 bytes x {trained:,} trained parameters"),
    ]
    if not config.algorithm.disable_kl and actor.model.lora.rank == 0:
        each = size if on_gpu else 4
        items.append(MemoryItem("reference model", each * weights, f"{each} bytes x {weights:,} parameters"))
    if size < 4:
        items.append(MemoryItem("compute copies", size * weights, f"{size} bytes x {weights:,} (autocast's {dtype})"))
    items += [_cache_item(config, shape, size), _activation_item(config, shape, size)]
    logits = 3 * 4 * max(CHUNK_ELEMENTS, shape.vocabulary)
    items.append(MemoryItem("logit chunk", logits, "3 x 4 bytes x elements of one chunk; never those of a whole batch"))
    return items


def _cache_item(config: Config, shape: ModelShape, size: int) -> MemoryItem:
    """Keys and values while a batch of rollouts is sampled, at the sampler's own limits."""
    from gmpo_mm.rollout.hf import HFRollout

    length = config.data.max_prompt_length + config.data.max_response_length
    rows, tokens = _sampler_limits(HFRollout)
    rows = max(config.worker.rollout.n, min(rows, tokens // length, config.data.rollout_batch_size * config.worker.rollout.n))
    count = 2 * shape.layers * shape.key_value_heads * shape.head_dim * rows * length
    formula = (
        f"{size} bytes x 2 x {shape.layers} layers x {shape.key_value_heads} heads x {shape.head_dim} x "
        f"{rows} rows x {length:,} tokens"
    )
    return MemoryItem("KV cache while sampling", size * count, formula)


def _sampler_limits(sampler: Any) -> tuple[int, int]:
    import inspect

    parameters = inspect.signature(sampler.__init__).parameters
    return int(parameters["max_rows"].default), int(parameters["max_cached_tokens"].default)


def _activation_item(config: Config, shape: ModelShape, size: int) -> MemoryItem:
    """What one packed micro-batch keeps for its backward pass."""
    data, actor = config.data, config.worker.actor
    samples = actor.micro_batch_size_per_device_for_update
    tokens = data.max_prompt_length + samples * data.max_response_length
    if actor.dynamic_batching:
        tokens = max(samples * (data.max_prompt_length + data.max_response_length), 1)
    a_layer = 8 * shape.hidden + 4 * shape.intermediate
    if actor.model.enable_gradient_checkpointing:
        count, words = tokens * (shape.layers * shape.hidden + a_layer), f"({shape.layers} x {shape.hidden} + {a_layer:,})"
    else:
        count, words = tokens * shape.layers * a_layer, f"{shape.layers} layers x {a_layer:,}"
    return MemoryItem("activations of a micro-batch", size * count, f"{size} bytes x {tokens:,} tokens x {words}")


def available_memory(device: str) -> int:
    """Bytes of memory that the device has in all."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.get_device_properties(device).total_memory)
    import psutil

    return int(psutil.virtual_memory().total)
