"""LoRA adapters as models: the base that an adapter names, and both merged, W + scale * B A.

An adapter's folder, as ours and peft's, holds `adapter_config.json`, which names its base, and
`adapter_model.safetensors`. The base may be an adapter itself, as of a run that went on from a LoRA run.
Configuration and tokenizer are the adapter's own where its folder holds them, else the base's.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from gmpo_mm.config.json_text import read_mapping
from gmpo_mm.config.paths import (
    ADAPTER_FILE,
    BUNDLED_PREFIX,
    CONFIG_FILE,
    TOKENIZER_FILES,
    bundled_model_names,
    looks_like_path,
    resolve_model_path,
)
from gmpo_mm.errors import ConfigError
from gmpo_mm.models.processing import PROCESSOR_FILES, find_files

WEIGHTS_FILE = "adapter_model.safetensors"


def is_adapter(path: str) -> bool:
    """Whether a model's folder holds an adapter; with whole weights beside it, too, as in transformers."""
    return (Path(path) / ADAPTER_FILE).is_file()


def lineage(path: str) -> list[str]:
    """A model's folder or hub name; of an adapter then its base, and so on down to whole weights.

    Raises ConfigError for an adapter whose base is not named, or not there.
    """
    found = [path]
    while is_adapter(found[-1]):
        base = _base_of(Path(found[-1]))
        if base in found:
            where = f"base_model_name_or_path in {found[-1]}/{ADAPTER_FILE}"
            raise ConfigError(f"the adapter {path} is its own base, by {where}")
        found.append(base)
    return found


def _base_of(folder: Path) -> str:
    file = folder / ADAPTER_FILE
    name = read_mapping(file, "restore it, or give another adapter").get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise ConfigError(
            f"{file} names no base model; write its folder or hub name as base_model_name_or_path into it"
        )
    path = Path(resolve_model_path(name))
    if path.is_dir():
        return str(path)
    if (
        path.parent.name == "bundled" and path.name in bundled_model_names()
    ):  # trained where the package lies elsewhere
        return resolve_model_path(BUNDLED_PREFIX + path.name)
    if looks_like_path(name):
        raise ConfigError(
            f"the adapter {folder} was trained on {name}, and there is no such folder here; put the base model "
            f"there, or correct base_model_name_or_path in {file}"
        )
    return name


def config_source(path: str) -> str:
    """Where the model's config.json is: the path itself or, for an adapter without one, its base."""
    return _first_with(path, (CONFIG_FILE,))


def tokenizer_source(path: str) -> str:
    """The same for the tokenizer and the image processor."""
    return _first_with(path, TOKENIZER_FILES[:2])


def _first_with(path: str, files: tuple[str, ...]) -> str:
    models = lineage(path)
    for model in models:
        if not Path(model).is_dir() or any((Path(model) / file).is_file() for file in files):
            return model
    return models[-1]


def merge_adapter(base: torch.nn.Module, folder: Path, key: str) -> torch.nn.Module:
    """The base with an adapter's weights added to its own; `base` is changed.

    Raises ConfigError when the adapter does not fit the base, to the last weight, or is none that can be merged.
    """
    from peft import PeftConfig, get_peft_model, load_peft_weights, set_peft_model_state_dict

    if not (folder / WEIGHTS_FILE).is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        what = "is stored as a pickle (adapter_model.bin), which can run any code when it is read, and has"
        raise ConfigError(
            f"{key}={folder}: the adapter {what if pickled else 'has'} no {WEIGHTS_FILE}; "
            "convert it with PeftModel.save_pretrained(folder)"
        )
    try:
        config = PeftConfig.from_pretrained(str(folder))
        config.inference_mode = True
        config.base_model_name_or_path = None  # peft warns of a base that another path led to
        model: Any = get_peft_model(base, config)  # type: ignore[arg-type]
        loaded: Any = set_peft_model_state_dict(model, load_peft_weights(str(folder), device="cpu"))
        missing = _missing_weights(loaded.missing_keys, starts_at_zero=config.init_lora_weights is True)
        unexpected = list(loaded.unexpected_keys)
        if missing or unexpected:
            raise ValueError(f"missing {missing[:3]}, unexpected {unexpected[:3]}")
        _check_no_shared_weight(model)
        merged: torch.nn.Module = model.merge_and_unload(safe_merge=True)
    except (
        ValueError,
        TypeError,
        KeyError,
        RuntimeError,
        AttributeError,
    ) as error:  # peft has no type of its own
        raise ConfigError(
            f"{key}={folder}: the adapter can't be merged into its base {getattr(base, 'name_or_path', '')} "
            f"({type(base).__name__}): {error}"
        ) from error
    return merged.requires_grad_(True)  # peft freezes the base


def _missing_weights(names: Sequence[str], starts_at_zero: bool) -> list[str]:
    """What an adapter's file lacks. Layers without A and B were frozen while it was trained: B A is 0."""
    wanted = [name for name in names if ".lora_" in name or ".modules_to_save." in name]
    if not starts_at_zero:
        return wanted
    kinds: dict[str, set[str]] = {}
    for name in wanted:
        layer, _, kind = name.partition(".lora_")
        kinds.setdefault(layer, set()).add(kind[:1])
    return [name for name in wanted if kinds[name.partition(".lora_")[0]] != {"A", "B"}]


def _check_no_shared_weight(model: torch.nn.Module) -> None:
    """What is added to a weight that two modules share, as a tied output layer, would change the other one as well."""
    owners: dict[int, int] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    for name, module in model.named_modules():
        inner: Any = getattr(module, "base_layer", None)
        if inner is not None and owners[id(inner.weight)] > 1:
            raise ValueError(f"it adapts {name}, whose weight the base shares with another layer")


def write_merged(path: str, target: Path, model: Any, dtype: torch.dtype) -> None:
    """Write what `load_model` made of an adapter into the new folder `target` as a whole model of that type."""
    model.to(dtype).save_pretrained(target)
    for source, names in (
        (config_source(path), (CONFIG_FILE, "generation_config.json")),
        (tokenizer_source(path), PROCESSOR_FILES),
    ):
        for file in find_files(source, names):
            shutil.copyfile(file, target / file.name)
