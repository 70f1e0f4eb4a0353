"""Checks that everything a config names is there: model, data, prompt, reward and loss functions, checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from gmpo_mm.config.keys import nearest
from gmpo_mm.config.load import LoadedConfig
from gmpo_mm.config.paths import (
    DATA_SUFFIXES,
    MODEL_CONFIGS,
    TOKENIZER_FILES,
    find_model,
    looks_like_path,
    split_data_spec,
    split_function_spec,
    top_level_names,
)
from gmpo_mm.config.preparations import Missing, missing_preparations, preparing_command
from gmpo_mm.config.schema import Config
from gmpo_mm.config.shipped import find_file
from gmpo_mm.config.words import settings_for_value
from gmpo_mm.errors import ConfigError

RESUME_WORDS = ("auto", "never", "must")


def check_prepared(loaded: LoadedConfig) -> Iterator[str]:
    """Data and models that a command of ours makes and that aren't there yet; a plan can do without them."""
    for item in missing_preparations(loaded.config):
        yield f"{item.key} = {item.path!r}: it is not there yet; make it with\n  {preparing_command([item.preparation])}"


def check_paths(loaded: LoadedConfig) -> Iterator[str]:
    """Missing files and folders, and a missing model, data set or reward function, but for what `check_prepared` names."""
    config = loaded.config
    missing = {item.key: item for item in missing_preparations(config)}
    yield from _check_model(config, missing)
    yield from _check_data(config, missing)
    for key, path, kind in (
        ("data.image_dir", config.data.image_dir, "folder"),
        ("data.format_prompt", config.data.format_prompt, "file"),
        ("data.override_chat_template", config.data.override_chat_template, "file"),
        ("trainer.load_checkpoint_path", config.trainer.load_checkpoint_path, "folder"),
    ):
        if path is not None:
            yield from _check_exists(key, path, kind)
    yield from _check_reward(config)
    resume = config.trainer.resume
    if resume not in RESUME_WORDS and not Path(resume).is_dir():
        settings = settings_for_value("trainer.resume", resume)
        hint = f" Write {settings}." if settings else _hint(resume, RESUME_WORDS)
        yield (
            f"trainer.resume = {resume!r}: it must be auto, never, must or an existing checkpoint folder, and there is "
            f"no folder {Path(resume).absolute()}.{hint}"
        )


def _check_model(config: Config, missing: Mapping[str, Missing]) -> Iterator[str]:
    model = config.worker.actor.model
    if not model.model_path:
        yield (
            "worker.actor.model.model_path is not set: name a folder, a hub model (Qwen/Qwen2.5-VL-7B-Instruct) or a "
            "shipped one (bundled:NAME)."
        )
        return
    critic = config.worker.critic.model.model_path
    for key, name, files in (
        ("worker.actor.model.model_path", model.model_path, MODEL_CONFIGS),
        ("worker.actor.model.tokenizer_path", model.tokenizer_path, TOKENIZER_FILES),
        ("worker.critic.model.model_path", critic, MODEL_CONFIGS),
    ):
        if name is None or key in missing:
            continue
        try:
            find_model(name, key, files)
        except ConfigError as error:
            yield str(error)


def _check_data(config: Config, missing: Mapping[str, Missing]) -> Iterator[str]:
    data = config.data
    if not data.train_files and not config.trainer.val_only:
        yield "data.train_files is empty: name a parquet or JSONL file, a folder, or a hub data set (owner/name@split)."
    for key, spec in (("data.train_files", data.train_files), ("data.val_files", data.val_files)):
        name = split_data_spec(spec)[0]
        if key not in missing and looks_like_path(name, DATA_SUFFIXES) and not Path(name).expanduser().exists():
            yield (
                f"{key} = {spec!r}: there is no file or folder {Path(name).expanduser().absolute()}; correct the path, "
                "or name a hub data set as owner/name@split."
            )


def _check_reward(config: Config) -> Iterator[str]:
    key, spec = "worker.reward.reward_function", config.worker.reward.reward_function
    if not spec:
        yield f"{key} is not set: name path/to/file.py:function, for example gmpo_mm/rewards/math.py:compute_score."
        return
    path, function = split_function_spec(spec)
    missing = list(_check_exists(key, str(path), "file", shown=spec))
    if missing:
        yield from missing
        return
    try:
        names = top_level_names(path)
    except ConfigError as error:
        yield f"{key} = {spec!r}: {error}"
        return
    if names is not None and function not in names:
        written = "" if ":" in spec else " (the default when no function is named)"
        hint = _hint(function, names)
        yield f"{key} = {spec!r}: {path} defines no {function!r}{written}; write {path}:FUNCTION.{hint}"


def _check_exists(key: str, path: str, kind: str, shown: str | None = None) -> Iterator[str]:
    target = Path(path) if kind == "folder" else find_file(path)
    if target.is_dir() if kind == "folder" else target.is_file():
        return
    name = shown if shown is not None else path
    if target.exists():
        yield f"{key} = {name!r}: that is a {'file' if target.is_file() else 'folder'}; a {kind} is expected."
        return
    meant = nearest(target.name, [item.name for item in target.parent.iterdir()]) if target.parent.is_dir() else None
    hint = f" Did you mean {target.parent / meant}?" if meant else ""
    yield f"{key} = {name!r}: there is no {kind} {target.absolute()}; correct the path.{hint}"


def _hint(name: str, known: tuple[str, ...] | set[str]) -> str:
    meant = nearest(name, sorted(known))
    return f" Did you mean {meant}?" if meant else ""
