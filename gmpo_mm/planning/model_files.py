"""Where a model's configuration can be found without the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gmpo_mm.config import Config, resolve_model_path
from gmpo_mm.config.weight_files import check_has_weights
from gmpo_mm.errors import ConfigError
from gmpo_mm.models.adapters import config_source, lineage
from gmpo_mm.models.loading import check_lora

SHIPPED = Path(__file__).parent / "model_configs"
"""config.json of the models that the shipped configurations train, by hub name."""


def find_model_folder(name: str) -> Path | None:
    """A local folder (of an adapter without a config.json its base's), a bundled model, a shipped config.json,
    or what the hub's cache holds; None when it isn't here.
    """
    name = config_source(resolve_model_path(name))
    folder = Path(name)
    if folder.is_dir():
        return folder
    if (SHIPPED / name / "config.json").is_file():
        return SHIPPED / name
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        return None
    return Path(cached).parent if isinstance(cached, str) else None


def read_model_config(config: Config) -> Any | None:
    """The model's transformers configuration, with the run's overrides; None when it isn't on this machine.

    Raises ConfigError for a folder without a usable config.json.
    """
    from transformers import AutoConfig

    options = config.worker.actor.model
    name = options.model_path or ""
    folder = find_model_folder(name)
    if folder is None:
        return None
    try:
        found = AutoConfig.from_pretrained(folder, trust_remote_code=options.trust_remote_code)
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"worker.actor.model.model_path={name}: {folder} has no usable config.json ({error}); correct it, or "
            "fetch or copy the model again"
        ) from error
    for key, value in (options.override_config or {}).items():
        setattr(found if hasattr(found, key) else found.get_text_config(), key, value)
    return found


def check_weights_there(config: Config) -> None:
    """ConfigError where a model's folder, an adapter's or its base's is on this machine and holds no weights."""
    name = config.worker.actor.model.model_path or ""
    for part in lineage(resolve_model_path(name)):
        if Path(part).is_dir():
            check_has_weights(Path(part), f"worker.actor.model.model_path = {name!r}")


def check_adapter(config: Config) -> str | None:
    """ConfigError unless the run's LoRA adapter fits its model; a remark when that can't be told on this machine."""
    options = config.worker.actor.model
    if options.lora.rank == 0:
        return None
    found = read_model_config(config)
    if found is None:
        return (
            f"worker.actor.model.lora.target_modules={options.lora.target_modules} could not be checked: the config.json of "
            f"{options.model_path} is not on this machine."
        )
    check_lora(options, found)
    return None
