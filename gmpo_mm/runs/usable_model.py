"""A model as loaders take it: whatever has to be looked up or merged first is, and that is reported."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from typing_extensions import TypedDict

from gmpo_mm.config.checkpoint_paths import MODEL_FOLDER, is_fsdp_checkpoint
from gmpo_mm.config.hub import check_hub_model
from gmpo_mm.config.paths import (
    ADAPTER_FILE,
    BUNDLED_PREFIX,
    CONFIG_FILE,
    TOKENIZER_FILES,
    find_model,
    resolve_model_path,
)
from gmpo_mm.config.schema import Config
from gmpo_mm.errors import DataError, TrainingError
from gmpo_mm.models.adapters import WEIGHTS_FILE, is_adapter, lineage, tokenizer_source, write_merged
from gmpo_mm.models.loading import check_lora, load_model, read_config
from gmpo_mm.models.processing import PROCESSOR_FILES, find_files
from gmpo_mm.runs.checkpoint import MANIFEST_FILE, check_files
from gmpo_mm.runs.files import fsync, remove_tree, sha256
from gmpo_mm.runs.fsdp_checkpoint import merged_model
from gmpo_mm.runs.lock import DirectoryLock
from gmpo_mm.runs.reading import read_json

MERGED_FOLDER = "merged"
ORIGIN_FILE = "merged_from.json"
ASIDE = f".{MERGED_FOLDER}-"
"""How the names of folders begin in which a merge is written."""


class _Origin(TypedDict):
    models: list[str]
    sha256: list[str]
    files: dict[str, str]


def usable_model(
    name: str, key: str, note: Callable[[str], None] = lambda text: None, *, whole: bool = False
) -> str:
    """The folder or hub name of a model's weights, for `load_model` or, with `whole`, for any other loader.

    A run directory means its newest checkpoint. Shards of EasyR1 and verl are merged into safetensors now, if
    they are not yet, and with `whole` a LoRA adapter into its base (`merged` in its folder). Raises ConfigError
    with `key`, the user's key or option, when there is no such model, at once also where the hub can't be
    reached; TrainingError when the disk refuses.
    """
    found = find_model(name, key)
    if name.startswith(BUNDLED_PREFIX):
        return name
    if not Path(found).is_dir():
        check_hub_model(found, key, note)
        found = _hub_adapter(found)
    for model in lineage(found):
        folder = Path(model)
        if not folder.is_dir():
            if model != found:
                check_hub_model(model, f"{key} = {name!r}: its base", note)
        elif folder.name == MODEL_FOLDER and is_fsdp_checkpoint(folder.parent.parent):
            merged_model(folder.parent.parent, note)
        elif folder.name == MODEL_FOLDER and (folder.parent / MANIFEST_FILE).is_file():  # a checkpoint of the local engine
            check_files(folder.parent, below=f"{MODEL_FOLDER}/")
    return merged_adapter(found, note) if whole and is_adapter(found) else found


def with_usable_models(config: Config, note: Callable[[str], None], *, whole: bool) -> Config:
    """A copy of a run's configuration whose models are usable ones; see `usable_model`."""
    changed = copy.deepcopy(config)
    for section, model in (("actor", changed.worker.actor.model), ("critic", changed.worker.critic.model)):
        key = f"worker.{section}.model"
        if model.model_path is not None:
            model.model_path = usable_model(model.model_path, f"{key}.model_path", note, whole=whole)
        if model.tokenizer_path is not None:
            tokenizer = find_model(model.tokenizer_path, f"{key}.tokenizer_path", TOKENIZER_FILES)
            if not Path(tokenizer).is_dir():
                check_hub_model(tokenizer, f"{key}.tokenizer_path", note)
            model.tokenizer_path = tokenizer_source(tokenizer)
    actor = changed.worker.actor.model
    if actor.lora.rank > 0:  # before the weights are loaded, which takes minutes
        check_lora(actor, read_config(resolve_model_path(actor.model_path or ""), actor.trust_remote_code))
    return changed


def _hub_adapter(name: str) -> str:
    """The folder in the hub's cache when the name is an adapter's; else the name."""
    if find_files(name, (CONFIG_FILE,)) or not (found := find_files(name, (ADAPTER_FILE,))):
        return name
    find_files(name, (WEIGHTS_FILE, *PROCESSOR_FILES))  # fetched into the same folder
    return str(found[0].parent)


def merged_adapter(path: str, note: Callable[[str], None] = lambda text: None) -> str:
    """The folder with an adapter merged into its base; made when it is missing, damaged or of another adapter.

    Written aside and renamed: complete or absent. The whole model in float32 is in host memory meanwhile. A second process
    waits for the first one and takes what it made.
    """
    models = lineage(path)
    files = [Path(each) / name for each in models[:-1] for name in (WEIGHTS_FILE, ADAPTER_FILE)]
    origin = {"models": models, "sha256": [sha256(file) for file in files if file.is_file()]}
    target = Path(path) / MERGED_FOLDER
    if _is_merged(target, origin):
        return str(target)
    with DirectoryLock(Path(path) / ".lock", wait=True):
        for leftover in target.parent.glob(f"{ASIDE}*"):  # of a merge that was killed: the lock is ours
            remove_tree(leftover)
        if not _is_merged(target, origin):
            note(f"merging the adapter {path} into its base, as a whole model in {target}")
            _merge(path, target, origin)
    return str(target)


def _is_merged(target: Path, origin: dict[str, Any]) -> bool:
    """Whether the folder holds what was merged from `origin`, unchanged since."""
    if not (target / ORIGIN_FILE).is_file():
        return False
    try:
        made_from = read_json(target / ORIGIN_FILE, _Origin, "")
    except DataError:
        return False
    written = made_from["files"]
    if made_from != {**origin, "files": written} or any(not (target / name).is_file() for name in written):
        return False
    return all(sha256(target / name) == digest for name, digest in written.items())


def _merge(path: str, target: Path, origin: dict[str, Any]) -> None:
    aside = target.with_name(f"{ASIDE}{os.getpid()}")
    try:
        aside.mkdir()
        with torch.no_grad():
            dtype = getattr(read_config(path), "dtype", None) or torch.float32
            write_merged(path, aside, load_model(path), dtype)
        written = {file.name: sha256(file) for file in sorted(aside.iterdir())}
        (aside / ORIGIN_FILE).write_text(json.dumps({**origin, "files": written}, indent=2) + "\n", encoding="utf-8")
        for file in (*aside.iterdir(), aside):
            fsync(file)
        (target / ORIGIN_FILE).unlink(missing_ok=True)  # first: a half removed folder is not taken for a whole one
        remove_tree(target)
        aside.rename(target)
        fsync(target.parent)
    except OSError as error:
        raise TrainingError(
            f"could not write the merged model {target} ({error}); free some space or make the folder writable, then run "
            "the same command again"
        ) from error
    finally:
        remove_tree(aside)
