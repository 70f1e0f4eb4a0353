"""A policy and its processor from a model folder or hub name."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import torch

from gmpo_mm.config.keys import nearest
from gmpo_mm.config.shipped import find_file
from gmpo_mm.config.weight_files import check_weight_files
from gmpo_mm.errors import ConfigError
from gmpo_mm.models.adapters import config_source, lineage, merge_adapter, tokenizer_source
from gmpo_mm.models.packed_attention import register
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.models.processing import Processor, find_files, load_processor

SUMS_WIDER_GRADIENTS = hasattr(torch.Tensor, "grad_dtype")
"""Whether this torch lets a weight's gradient have another type than the weight."""

VISION_TOKENS = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>")
"""Tokens that stand for pictures in a prompt. Sampling one would break the next forward pass, so none can be sampled."""


def resolve_device(name: str) -> torch.device:
    """The device of `trainer.device`; `auto` is the first GPU, else the CPU."""
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"trainer.device={name} is no device of torch; use auto, cpu or cuda:0") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"trainer.device={name}, but torch {torch.__version__} sees no GPU; use trainer.device=cpu")
    return device


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """The compute type of `trainer.dtype`; `auto` is bfloat16 on a GPU and float32 on a CPU."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if name not in known:
        raise ConfigError(f"trainer.dtype={name} is not known; use auto, {' or '.join(known)}")
    return known[name]


_FETCH = "correct the path or the file, or fetch or copy the model again"


def read_config(path: str, trust_remote_code: bool = False, override_config: dict[str, Any] | None = None) -> Any:
    """transformers' configuration of a model's folder, adapter or hub name. Raises ConfigError."""
    from transformers import AutoConfig

    source = config_source(path)
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, RecursionError) as error:
        if own := _own_code(path, error):
            raise own from None
        what = "the folder has no usable config.json" if Path(source).is_dir() else "no such folder, and the hub gave nothing"
        shown = path if source == path else f"{path} (its base {source})"
        raise ConfigError(f"worker.actor.model.model_path={shown}: {what} ({error}); {_FETCH}") from error
    for key, value in (override_config or {}).items():
        holder = config if hasattr(config, key) else config.get_text_config()
        if not hasattr(holder, key):
            raise ConfigError(f"worker.actor.model.override_config.{key}={value}: {type(config).__name__} has no such key")
        setattr(holder, key, value)
    return config


def _own_code(path: str, error: Exception) -> ConfigError | None:
    """The error for a model that transformers would load with Python code of the model's own; None for another error."""
    if "trust_remote_code" not in str(error):
        return None
    return ConfigError(
        f"worker.actor.model.model_path={path}: the model brings Python code of its own, which is not run; choose a model that "
        "transformers knows, or set worker.actor.model.trust_remote_code=true if you trust that code"
    )


def load_model(
    path: str,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
    trust_remote_code: bool = False,
    override_config: dict[str, Any] | None = None,
) -> torch.nn.Module:
    """Load a causal text or image-text model through transformers' Auto classes, with packed attention.

    LoRA adapters are merged into their base. Only safetensors weights are read. Raises ConfigError for a path without weights
    in that format.
    """
    config = read_config(path, trust_remote_code, override_config)
    *adapters, whole = lineage(path)
    for each in (*adapters, whole):
        if Path(each).is_dir():
            check_weight_files(Path(each), f"worker.actor.model.model_path={path}")
    model = _load_whole(whole, config, dtype, trust_remote_code)
    for adapter in reversed(adapters):
        model = merge_adapter(model, Path(adapter), "worker.actor.model.model_path")
    if Path(path).is_dir():  # a new adapter names its base by it, wherever it will be loaded from
        model.name_or_path = str(Path(path).absolute())  # type: ignore[assignment]
    if broken := not_finite(model):
        raise ConfigError(f"worker.actor.model.model_path={path}: {broken}; use weights without NaN and infinity")
    return use_packed_attention(model).to(device or torch.device("cpu"))


def not_finite(module: torch.nn.Module) -> str | None:
    """Which weights hold NaN or infinity, in words; None where none does. Waits for the device once."""
    weights = ((name, weight.detach()) for name, weight in module.named_parameters())
    named = [(name, weight) for name, weight in weights if weight.is_floating_point() and weight.numel()]
    extremes = torch.stack([torch.stack(weight.aminmax()).float() for _, weight in named])
    broken = [name for (name, _), fine in zip(named, extremes.isfinite().all(1).tolist(), strict=True) if not fine]
    if not broken:
        return None
    shown = ", ".join(broken[:3]) + (", ..." if len(broken) > 3 else "")
    return f"{len(broken)} of {len(named)} weights hold NaN or infinity ({shown})"


def _load_whole(path: str, config: Any, dtype: torch.dtype, trust_remote_code: bool) -> torch.nn.Module:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    kind = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
    try:
        return kind.from_pretrained(
            path, config=config, dtype=dtype, attn_implementation="sdpa",
            trust_remote_code=trust_remote_code, use_safetensors=True,
        )  # fmt: skip
    except (OSError, ValueError, SafetensorError) as error:
        if own := _own_code(path, error):
            raise own from None
        if not isinstance(error, (OSError, SafetensorError)):
            raise
        raise ConfigError(
            f"worker.actor.model.model_path={path}: no weights in safetensors format could be read ({error}); "
            "convert the checkpoint with model.save_pretrained(folder)"
        ) from error


def store_weights(
    model: torch.nn.Module, device: torch.device, compute_dtype: torch.dtype, sixteen_bit: bool
) -> dict[torch.nn.Parameter, torch.Tensor]:
    """Move a float32 model to its device; returns the float32 masters of its trained weights.

    With `sixteen_bit` every weight is stored in the compute type: no pass casts it, and what is frozen takes half the memory.
    Buffers, such as rotary frequencies, keep their type. Without, nothing is rounded and there are no masters. Raises
    ConfigError for a torch that can't sum gradients in another type than the weights'.
    """
    if not sixteen_bit or compute_dtype == torch.float32:
        model.to(device)
        return {}
    if not SUMS_WIDER_GRADIENTS:
        raise ConfigError(
            f"trainer.dtype={str(compute_dtype).removeprefix('torch.')} on a GPU needs torch 2.11 or later, which sums "
            f"gradients of 16-bit weights in float32; this is {torch.__version__}. Upgrade it, or set trainer.dtype=float32"
        )
    masters: dict[torch.nn.Parameter, torch.Tensor] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            masters[parameter] = parameter.data.to(device, torch.float32)
            parameter.data = masters[parameter].to(compute_dtype)
        else:
            parameter.data = parameter.data.to(compute_dtype).to(device)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
    return masters


def use_packed_attention(model: torch.nn.Module) -> torch.nn.Module:
    """Switch the decoder (not the vision tower) to the packed attention; returns the model."""
    name = register()
    inner: Any = model
    decoder = inner.model.language_model if hasattr(inner.model, "language_model") else inner.model
    kinds = set(getattr(decoder.config, "layer_types", None) or ["full_attention"])
    if kinds - {"full_attention", "sliding_attention"}:
        raise ConfigError(f"layers of kind {sorted(kinds)} can't be packed; the local engine needs attention layers only")
    decoder.config._attn_implementation = name
    return model


def vision_token_ids(tokenizer: Any, config: Any) -> list[int]:
    """Ids of every token that may not be sampled, for a tokenizer and its model's configuration."""
    vocabulary = tokenizer.get_vocab()
    ids = {vocabulary[token] for token in VISION_TOKENS if token in vocabulary}
    from_config = [getattr(config, key, None) for key in ("image_token_id", "video_token_id")]
    ids |= {token for token in from_config if token is not None}
    # rows of the output layer beyond the tokenizer's vocabulary are padding and decode to nothing
    ids |= set(range(max(vocabulary.values()) + 1, config.get_text_config().vocab_size))
    return sorted(ids)


def end_token_ids(path: str, tokenizer: Any) -> list[int]:
    """Ids that end a response: the generation config's and the tokenizer's."""
    from transformers import GenerationConfig

    ids = {tokenizer.eos_token_id}
    try:
        listed = GenerationConfig.from_pretrained(config_source(path)).eos_token_id
    except OSError:  # a model folder need not have a generation config
        listed = None
    ids |= set(listed if isinstance(listed, list) else [listed])
    return sorted(i for i in ids if i is not None)


def add_lora(
    model: torch.nn.Module, rank: int, alpha: int, target_modules: str, exclude_modules: str | None
) -> torch.nn.Module:
    """Wrap a model in a LoRA adapter; `target_modules` is `all-linear` or a comma-separated list (EasyR1's form).

    Raises ConfigError for a target that is in no module's name, and for what peft can't adapt.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    everything = target_modules.strip().lower() == "all-linear"
    targets: Any = "all-linear" if everything else [t.strip() for t in target_modules.split(",")]
    if "lm_head" in targets:
        raise ConfigError(
            "worker.actor.model.lora.target_modules names lm_head: log-probabilities read its weight directly, so an adapter "
            "there would have no effect; leave it out"
        )
    if not everything:
        _check_targets(model, targets)
    try:
        re.compile(exclude_modules or "")
    except re.error as error:
        raise ConfigError(
            f"worker.actor.model.lora.exclude_modules={exclude_modules}: no regular expression ({error})"
        ) from error
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM, r=rank, lora_alpha=alpha, target_modules=targets, exclude_modules=exclude_modules
    )
    try:
        return get_peft_model(model, config)  # type: ignore[arg-type]
    except ValueError as error:
        raise ConfigError(f"worker.actor.model.lora.target_modules={target_modules}: {error}") from error


def _check_targets(model: torch.nn.Module, targets: Sequence[str]) -> None:
    """peft passes over a target that no module has, as long as another one is found."""
    names = [name for name, _ in model.named_modules() if name]
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            linear = {n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
            linear = {name for name in linear - {"lm_head"} if not name.isdigit()}
            meant = nearest(target, linear)
            raise ConfigError(
                f"worker.actor.model.lora.target_modules names {target!r}, and no module of {type(model).__name__} is called "
                f"so.{f' Did you mean {meant}?' if meant else ''} Known: all-linear, {', '.join(sorted(linear))}"
            )


def add_configured_lora(model: torch.nn.Module, options: Any, is_vision: bool) -> torch.nn.Module:
    """The adapter of `worker.actor.model`, not in a frozen vision tower. ConfigError when nothing is left to train."""
    lora = options.lora
    adapted: Any = add_lora(model, lora.rank, lora.alpha, lora.target_modules, lora.exclude_modules)
    if options.freeze_vision_tower and is_vision:  # all-linear puts adapters there as well
        adapted.get_base_model().model.visual.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in adapted.parameters()):
        raise ConfigError(
            f"worker.actor.model.lora.target_modules={lora.target_modules}: they are all in the vision tower, which "
            "worker.actor.model.freeze_vision_tower=true freezes, so nothing would be trained; set it to false, or name "
            "modules of the language model"
        )
    return adapted


def check_lora(options: Any, model_config: Any) -> None:
    """Find out whether the adapter of `worker.actor.model` fits a model of that configuration; no weights are loaded.

    Raises ConfigError.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    if options.lora.rank == 0:
        return
    is_vision = hasattr(model_config, "vision_config")
    kind = AutoModelForImageTextToText if is_vision else AutoModelForCausalLM
    with torch.device("meta"):
        add_configured_lora(kind.from_config(model_config), options, is_vision)


@dataclass(frozen=True)
class ModelDescription:
    """What the small files of a model say: all that a sampler with weights of its own needs of it."""

    config: Any
    """transformers' configuration, with `override_config` applied."""
    processor: Processor
    forbidden_token_ids: list[int]
    eos_token_ids: list[int]


def context_tokens(config: Any) -> int | None:
    """Tokens that prompt and response may have together, where transformers' configuration says so."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def read_chat_template(path: str | None) -> str | None:
    """The text of `data.override_chat_template`; ConfigError for a file that is no template."""
    if path is None:
        return None
    from transformers.utils.chat_template_utils import _compile_jinja_template

    try:
        text = find_file(path).read_text(encoding="utf-8")
        _compile_jinja_template(text)
    except (OSError, ValueError, jinja2.TemplateError) as error:
        raise ConfigError(
            f"data.override_chat_template={path}: no chat template could be read ({error}); correct the file"
        ) from error
    if not text.strip():
        raise ConfigError(f"data.override_chat_template={path}: the file is empty; write a template, or leave the key out")
    return text


def describe_model(model_config: Any, chat_template: str | None = None) -> ModelDescription:
    """Read configuration, tokenizer and image processor of `worker.actor.model`, and no weights."""
    from gmpo_mm.config import resolve_model_path

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    path, remote = resolve_model_path(model_config.model_path), model_config.trust_remote_code
    config = read_config(path, remote, dict(model_config.override_config or {}))
    processor = load_processor(
        tokenizer_source(resolve_model_path(model_config.tokenizer_path or model_config.model_path)), trust_remote_code=remote,
        chat_template=chat_template, is_vision=hasattr(config, "vision_config"),
        image_token_id=getattr(config, "image_token_id", None),
    )  # fmt: skip
    return ModelDescription(
        config, processor, vision_token_ids(processor.tokenizer, config), end_token_ids(path, processor.tokenizer)
    )


def load_policy(model_config: Any, *, device: torch.device, compute_dtype: torch.dtype, chat_template: str | None = None,
                seed: int = 0, trains: bool = True) -> tuple[PolicyModel, Processor]:  # fmt: skip
    """Load the policy of `worker.actor.model` and its processor; without `trains` all of it is frozen.

    Trained weights are float32 whatever the compute type, so that small updates are not rounded away: those of the model on
    the CPU, and on a GPU masters beside it (`store_weights`).
    """
    import transformers

    from gmpo_mm.config import resolve_model_path

    path = resolve_model_path(model_config.model_path)
    remote = model_config.trust_remote_code
    described = describe_model(model_config, chat_template)
    transformers.utils.logging.disable_progress_bar()  # its bars would run into the run's own display
    torch.manual_seed(seed)  # a fresh LoRA adapter is drawn from it
    model = load_model(
        path, trust_remote_code=remote, override_config=dict(model_config.override_config or {})
    )
    is_vision = hasattr(described.config, "vision_config")
    if model_config.freeze_vision_tower and is_vision:
        model.model.visual.requires_grad_(False)  # type: ignore[union-attr]
    if model_config.lora.rank > 0:
        model = add_configured_lora(model, model_config, is_vision)
    if model_config.enable_gradient_checkpointing:
        # without dropout, which the GPU path refuses, a second pass needs no random state
        keeps = device.type == "cpu"
        model.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": keeps})  # type: ignore[operator]
    if not trains:
        model.requires_grad_(False)
    masters = store_weights(model, device, compute_dtype, sixteen_bit=device.type == "cuda")
    policy = PolicyModel(
        model,
        forbidden_token_ids=described.forbidden_token_ids,
        eos_token_ids=described.eos_token_ids,
        compute_dtype=compute_dtype,
        config_files=find_files(config_source(path), ("config.json", "generation_config.json"))
        if not model_config.override_config else (),
        masters=masters,
    )
    return policy, described.processor
