"""The trained weights as files that stock transformers (and peft, for adapters) loads again."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from gmpo_mm.errors import TrainingError
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.models.processing import Processor
from gmpo_mm.runs.safetensors_file import SafetensorsWriter

HALF_TYPES = (torch.bfloat16, torch.float16)


def changing_weights(policy: PolicyModel, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Name -> what the model's files hold of the weights that training changes, buffers included.

    The optimizer's float32 `master` stands in for a weight that has one; a 16-bit weight without one is widened on the
    CPU. The names of a tied weight share one tensor.
    """
    found: dict[int, torch.Tensor] = {}
    weights: dict[str, torch.Tensor] = {}
    for name, value in policy.module.state_dict(keep_vars=True).items():
        if isinstance(value, torch.nn.Parameter) and not value.requires_grad:
            continue
        if id(value) not in found:
            found[id(value)] = _as_saved(optimizer.state.get(value, {}).get("master", value))
        weights[name] = found[id(value)]
    return weights


def frozen_weights(policy: PolicyModel) -> dict[str, torch.Tensor]:
    """Name -> what the model's files hold of the weights that nothing changes, on the CPU; {} for an adapter's files.

    Float32 weights on the CPU are not copied.
    """
    if hasattr(policy.module, "peft_config"):
        return {}
    found: dict[int, torch.Tensor] = {}
    weights: dict[str, torch.Tensor] = {}
    for name, value in policy.module.state_dict(keep_vars=True).items():
        if isinstance(value, torch.nn.Parameter) and not value.requires_grad:
            if id(value) not in found:
                found[id(value)] = _as_saved(value).cpu()
            weights[name] = found[id(value)]
    return weights


def save_model(
    policy: PolicyModel, processor: Processor, folder: Path, weights: Mapping[str, torch.Tensor], writer: SafetensorsWriter
) -> None:
    """Write weights (of the adapter only, for LoRA), configuration, tokenizer and image processor into `folder`.

    `weights` (name in the model's state dict -> tensor) are written instead of the module's own, so that they may be a
    snapshot, and wider than the module's.
    """
    module: Any = policy.module
    named = {name: weights[name] for name in module.state_dict() if name in weights}  # their order decides the shards
    with _collected_files() as files, torch.no_grad():
        module.save_pretrained(folder, state_dict=named)
    for path, (tensors, metadata) in files.items():
        writer.save_file(tensors, path, metadata)
    if module.dtype in HALF_TYPES and (folder / "config.json").exists():
        _name_float32(folder / "config.json")
    if hasattr(module, "peft_config"):
        (folder / "README.md").unlink(missing_ok=True)  # peft's template of a model card, with paths of this machine
        if not policy.config_files:  # so that the changes of override_config come with the adapter
            for each in (policy.causal_lm.config, policy.causal_lm.generation_config):
                each.save_pretrained(folder)
    for file in policy.config_files:  # as they were read, so that every transformers version that read them still can
        shutil.copyfile(file, folder / file.name)
    processor.save(folder)


@contextmanager
def _collected_files() -> Iterator[dict[Path, tuple[dict[str, torch.Tensor], dict[str, str] | None]]]:
    """Path -> (tensors, metadata) of the safetensors files that `save_pretrained` would write while this is open.

    transformers decides which weights go into which file under which names (tied weights, experts that are one tensor in
    memory, shards); it has no interface that stops before the bytes, so the function it would write them with is replaced.
    """
    import transformers.modeling_utils as of_models
    from peft import peft_model as of_adapters

    files: dict[Path, tuple[dict[str, torch.Tensor], dict[str, str] | None]] = {}

    def collect(tensors: dict[str, torch.Tensor], filename: Any, metadata: dict[str, str] | None = None) -> None:
        files[Path(filename)] = (dict(tensors), metadata)

    former = [(module, module.safe_save_file) for module in (of_models, of_adapters)]
    try:
        for module, _ in former:
            module.safe_save_file = collect  # type: ignore[attr-defined]
        yield files
    finally:
        for module, function in former:
            module.safe_save_file = function  # type: ignore[attr-defined]
    if not files:  # never a checkpoint without weights
        raise TrainingError(
            "this version of transformers (or peft) saves weights in a way that is not known here; install one of the versions "
            "in constraints.txt"
        )


def _as_saved(value: torch.Tensor) -> torch.Tensor:
    """A weight in the type of the files: float32 for a 16-bit one, and on the CPU then."""
    value = value.detach()
    return value.cpu().float() if value.dtype in HALF_TYPES else value


def _name_float32(config_file: Path) -> None:
    """`save_pretrained` writes the module's type into the configuration, here that of the files."""
    text = config_file.read_text(encoding="utf-8")
    config_file.write_text(re.sub(r'("(?:torch_)?dtype": )"b?float16"', r'\1"float32"', text), encoding="utf-8")


def load_weights(policy: PolicyModel, folder: Path) -> dict[str, torch.Tensor]:
    """Load what `save_model` wrote into a policy of the same configuration, bit for bit, or rounded to its 16-bit weights.

    Returns name -> tensor of a state dict as the files hold it: what the optimizer's masters start from.
    """
    if hasattr(policy.module, "peft_config"):
        from peft import load_peft_weights, set_peft_model_state_dict

        adapter = load_peft_weights(str(folder), device="cpu")
        set_peft_model_state_dict(policy.module, adapter)
        return {name: adapter[file_name] for name in policy.module.state_dict()
                if (file_name := name.replace(".default", "")) in adapter}  # fmt: skip
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    kind = AutoModelForImageTextToText if policy.vision is not None else AutoModelForCausalLM
    held = policy.lm_head.weight.dtype
    loaded = kind.from_pretrained(folder, dtype=torch.float32 if held in HALF_TYPES else held, use_safetensors=True)
    weights = loaded.state_dict()
    missing, unexpected = policy.module.load_state_dict(weights, strict=False)
    if missing or unexpected:
        raise TrainingError(
            f"{folder} does not fit the configured model (missing {missing[:3]}, unexpected {unexpected[:3]}); resume with the "
            "worker.actor.model settings that made the checkpoint"
        )
    return weights
