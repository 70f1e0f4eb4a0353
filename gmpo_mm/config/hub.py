"""One short question to the Hugging Face hub before libraries ask it file by file, with half a minute of retries."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from gmpo_mm.errors import ConfigError

SECONDS = 10.0
"""How long the hub may take to answer."""


def check_hub_model(name: str, key: str, note: Callable[[str], None] = lambda text: None) -> None:
    """ConfigError at once when neither the hub nor its cache on this machine has the model.

    `key` is how the error names what the user set. Without the hub its cache is used, for the rest of this
    process.
    """
    why = ask_hub(name, "model")
    if why is None:
        return
    if not _is_cached(name):
        raise ConfigError(
            f"{key} = {name!r}: no such folder here, and the Hugging Face hub gave nothing: {why}; correct the "
            "name, or download the model and name its folder"
        )
    use_cache_only()
    note(f"{name} comes from the hub's cache on this machine ({why})")


def ask_hub(name: str, kind: str) -> str | None:
    """None when the hub has the "model" or "dataset"; else why not, in plain words."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled, RepositoryNotFoundError

    try:
        HfApi().repo_info(name, repo_type=kind, timeout=SECONDS)
    except RepositoryNotFoundError:
        return f"it has no {kind} of that name, or shows it only to a token (HF_TOKEN) with access"
    except HFValidationError:
        return "that is no name of the hub (owner/name)"
    except OfflineModeIsEnabled:
        return "offline mode is on (HF_HUB_OFFLINE)"
    except Exception as error:  # types of the HTTP library, which is another one from version to version
        first = (str(error).strip().splitlines() or [""])[0]
        return f"it can't be reached ({type(error).__name__}: {first})"
    return None


def use_cache_only() -> None:
    """Take what the hub's cache holds and ask the hub no more, in this process and those that it starts."""
    from huggingface_hub import constants

    os.environ["HF_HUB_OFFLINE"] = "1"
    constants.HF_HUB_OFFLINE = True
    if "datasets" in sys.modules:
        import datasets

        datasets.config.HF_HUB_OFFLINE = True


def _is_cached(name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        files = (try_to_load_from_cache(name, file) for file in ("config.json", "adapter_config.json"))
        return any(isinstance(file, str) for file in files)
    except HFValidationError:
        return False
