"""Where a model's configuration can be found without the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gmpo_mm.config import Config, resolve_model_path
from gmpo_mm.errors import ConfigError

SHIPPED = Path(__file__).parent / "model_configs"
"""config.json of the models that the shipped configurations train, by hub name."""


def find_model_folder(name: str) -> Path | None:
    """A local folder, a bundled model, a shipped config.json, or what the hub's cache holds; None when it
    isn't here.
    """
    folder = Path(resolve_model_path(name)).expanduser()
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
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"worker.actor.model.model_path={name}: {folder} has no usable config.json ({error})"
        ) from error
    for key, value in (options.override_config or {}).items():
        setattr(found if hasattr(found, key) else found.get_text_config(), key, value)
    return found
