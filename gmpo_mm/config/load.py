"""YAML file + `key=value` overrides -> a checked Config; wrong keys and types are errors that name the fix."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gmpo_mm.config.keys import (
    default_of,
    describe_type,
    flatten,
    is_close,
    is_text,
    known_children,
    nearest,
    nearest_key,
    schema_keys,
    section_names,
    similarity,
)
from gmpo_mm.config.paths import pinned_model
from gmpo_mm.config.schema import Config
from gmpo_mm.config.shipped import find_file, shipped_hint
from gmpo_mm.config.words import MAPPINGS, settings_for_key, settings_for_value
from gmpo_mm.config.yaml_text import parse_override, read_file
from gmpo_mm.credentials import HIDDEN, clean, hide, hide_argument, hide_written, is_credential, is_hidden, remember, texts_of
from gmpo_mm.errors import ConfigError

OFFLOAD = "worker.actor.offload"
_INTERPOLATION = re.compile(r"(?<!\\)(?:\\\\)*\$\{")
OFFLOAD_WORDS: dict[str, dict[str, bool]] = {
    "none": {"offload_params": False, "offload_optimizer": False},
    "optimizer": {"offload_params": False, "offload_optimizer": True},
    "all": {"offload_params": True, "offload_optimizer": True},
}
"""One word in place of the section `worker.actor.offload`."""


@dataclass(frozen=True)
class LoadedConfig:
    """A config and the dotted keys that the file or an override set; defaults are not in `explicit_keys`.

    `written`: dotted key -> the value as it was written, of those with a `${...}` in them; keys of mappings count.
    """

    config: Config
    explicit_keys: frozenset[str]
    written: Mapping[str, Any] = field(default_factory=dict)

    @property
    def interpolated(self) -> dict[str, Any]:
        """What the keys of `written` have as values now. For a run's hashes, and nothing else that is saved or shown."""
        if not self.written:
            return {}
        return {
            key: value
            for leaf, content in flatten(self.config).items()
            for key, value in _nodes(leaf, content)
            if key in self.written and not is_hidden(hide_written(key, self.written[key]))
        }


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> LoadedConfig:
    """Defaults, then the YAML file, then the overrides; what comes later wins. A run without a name gets the file's.

    `path` may be the name of a shipped configuration. A model that is a run directory becomes its newest checkpoint's.
    Raises ConfigError for an unreadable file, and for all unknown keys (with what they were meant to be) and wrong types
    at once.
    """
    merged = OmegaConf.structured(Config)
    explicit: set[str] = set()
    problems: list[str] = []
    layers: list[tuple[str, Any]] = []
    if path is not None:
        layers.append((str(path), _read_yaml(find_file(path))))
    layers.extend(
        (f"override {hide_argument(text)}", parse_override(text, "worker.rollout.n=8")) for text in overrides
    )
    for origin, content in layers:
        remember("", content)
        for key, value in _leaves(content, "", origin, problems):
            try:
                _set(merged, key, value, origin)
            except ConfigError as error:
                problems.append(str(error))
            explicit.add(key)
    if problems:
        raise ConfigError(clean("\n\n".join(dict.fromkeys(problems))))
    config = _to_config(merged)
    _check_nothing_hidden(config)
    for key, value in flatten(config).items():
        remember(key, value)
    for model in (config.worker.actor.model, config.worker.critic.model):
        model.model_path, model.tokenizer_path = pinned_model(model.model_path), pinned_model(model.tokenizer_path)
    if path is not None:
        _name_after_file(config, find_file(path), explicit)
    return LoadedConfig(config, frozenset(explicit), _written(merged))


def _written(merged: DictConfig) -> dict[str, Any]:
    """Dotted key -> text, list or mapping with `${...}` in it, as it was written."""
    found: dict[str, Any] = {}

    def walk(content: Any, prefix: str) -> None:
        for name, value in content.items():
            if isinstance(value, dict):
                walk(value, f"{prefix}{name}.")
            elif any(_INTERPOLATION.search(text) for text in texts_of(value)):
                found[f"{prefix}{name}"] = value

    walk(OmegaConf.to_container(merged, resolve=False), "")
    return found


def _nodes(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of a value and of everything in it, if it is a mapping."""
    yield key, value
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _nodes(f"{key}.{name}", inner)


def _check_nothing_hidden(config: Config) -> None:
    for key, value in flatten(config).items():
        if is_hidden(value):
            inside = f"{key}.NAME" if isinstance(value, dict) else key
            raise ConfigError(f"{key}: a value in it was hidden when the file was saved ({HIDDEN}); give it anew, {inside}=...")


def _name_after_file(config: Config, path: Path, explicit: set[str]) -> None:
    """Without names of its own a run is called after its file, so that each file has a run directory: runs/<file's name>."""
    if "trainer.experiment_name" in explicit:
        return
    trainer = config.trainer
    trainer.experiment_name = path.stem
    if "trainer.project_name" not in explicit and not trainer.run_dir and not trainer.save_checkpoint_path:
        trainer.run_dir = f"runs/{path.stem}"


def to_yaml(config: Config, written: Mapping[str, Any] | None = None) -> str:
    """The whole config as YAML that `load_config` reads back to an equal config.

    `written` are the keys with a `${...}`, which stay as they were written. Values of keys that look like credentials are
    `<hidden>`, and `load_config` asks for them.

    Loss keys that the configured loss does not read are left out while they hold their defaults, so that the
    resolved file of a run also passes `validate_for_training`.
    """
    from gmpo_mm.config.loss import unread_loss_keys

    unread = unread_loss_keys(config)
    defaults = flatten(Config())
    tree: dict[str, Any] = {}
    for key, value in flatten(config).items():
        if key in unread and value == defaults[key]:
            continue
        *sections, last = key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[last] = _as_saved(key, value, written or {})
    return OmegaConf.to_yaml(OmegaConf.create(tree))


def _as_saved(key: str, value: Any, written: Mapping[str, Any]) -> Any:
    if key in written:
        return hide_written(key, written[key])
    if isinstance(value, dict) and any(name.startswith(f"{key}.") for name in written):
        return {name: _as_saved(f"{key}.{name}", inner, written) for name, inner in value.items()}
    return _escape(hide(key, value))


def config_differences(a: Config, b: Config) -> list[tuple[str, Any, Any]]:
    """(key, value in a, value in b) of every leaf that differs, in the schema's order."""
    flat_a, flat_b = flatten(a), flatten(b)
    return [(key, flat_a[key], flat_b[key]) for key in flat_a if flat_a[key] != flat_b[key]]


def _read_yaml(path: Path) -> Any:
    if not path.is_file():
        nearby = ", ".join(str(p) for p in sorted(path.parent.glob("*.y*ml"))[:8]) if path.parent.is_dir() else ""
        nearby = f"; there are: {nearby}." if nearby else "."
        raise ConfigError(f"config file {path}: there is no such file{nearby}{shipped_hint(path)}")
    content = read_file(path, "config file")
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise ConfigError(f"config file {path} holds a {type(content).__name__}; sections are expected, as data: {{...}}.")
    for key in _dotted(content, ""):
        raise ConfigError(
            f"{key!r} (config file {path}): a key of a file has no dots, which are for overrides; write the sections one in "
            f"another, or remove it and give {key}=... on the command line."
        )
    return content


def _dotted(content: Any, prefix: str) -> Iterator[str]:
    """Keys with a dot that name a key of the schema or something in one of its sections."""
    for name, value in content.items():
        if isinstance(name, str) and "." in name and name.partition(".")[0] in known_children(prefix):
            yield f"{prefix}.{name}".lstrip(".")
        elif isinstance(value, dict) and f"{prefix}.{name}".lstrip(".") in section_names():
            yield from _dotted(value, f"{prefix}.{name}".lstrip("."))


def _leaves(content: Any, prefix: str, origin: str, problems: list[str]) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) for every leaf that the schema has; what is wrong with the others goes to `problems`."""
    for name, value in content.items():
        key = f"{prefix}{name}"
        if key in schema_keys():
            yield key, value
        elif key not in section_names():
            problems.extend(_unknown_key_message(*leaf, origin) for leaf in _foreign_leaves(key, value))
        elif key == OFFLOAD and isinstance(value, str):
            if value in OFFLOAD_WORDS:
                yield from _leaves(OFFLOAD_WORDS[value], f"{key}.", origin, problems)
            else:
                problems.append(
                    f"{OFFLOAD} = {_show(value)} ({origin}): there is no such word; use one of {', '.join(OFFLOAD_WORDS)}, or "
                    f"set the keys inside it: {', '.join(known_children(OFFLOAD))}."
                )
        elif isinstance(value, dict):
            yield from _leaves(value, f"{key}.", origin, problems)
        else:
            inside = ", ".join(known_children(key))
            problems.append(f"{key} = {_show(value, key)} ({origin}): {key} is a section; set the keys inside it: {inside}.")


def _foreign_leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Every whole key that was written below an unknown one; the keywords of a reward function stay together."""
    if isinstance(value, dict) and value and not key.endswith(MAPPINGS) and not is_credential(key):
        for name, inner in value.items():
            yield from _foreign_leaves(f"{key}.{name}", inner)
    else:
        yield key, value


def _unknown_key_message(key: str, value: Any, origin: str) -> str:
    """The key of another project first, unless it is a slip for its neighbour; then what looks like it."""
    message = f"{key} = {_show(value, key)} ({origin}): there is no such key."
    meant = nearest_key(key)
    theirs = None if meant is not None and is_close(key, meant) else settings_for_key(key, value)
    if theirs is not None:
        return f"{message} {theirs}"
    meant = meant or _nearest_section(key)
    if meant is not None:
        message += f" Did you mean {meant}?"
    parent = key.rpartition(".")[0]
    if parent in section_names() and (meant is None or _last_parts_differ(key, meant)):
        message += f" Known in {parent}: {', '.join(known_children(parent))}."
    elif meant is None:
        message += f" Remove it, or use one of {', '.join(known_children(''))}; all keys: gmpo-mm train FILE --print-config."
    return message


def _nearest_section(key: str) -> str | None:
    """A key whose section is misspelt, with the section that was most likely meant; None when none looks like it."""
    parts = str(key).split(".")
    for depth, part in enumerate(parts[:-1]):
        section = ".".join(parts[:depth])
        if part not in known_children(section):
            meant = nearest(part, known_children(section), cutoff=0.7)
            return None if meant is None else f"{section}.{meant}".lstrip(".")
    return None


def _last_parts_differ(a: str, b: str) -> bool:
    return similarity(a.rpartition(".")[2], b.rpartition(".")[2]) < 0.6


def _set(merged: DictConfig, key: str, value: Any, origin: str) -> None:
    hint = schema_keys()[key]
    if value is None and hint is str and default_of(key) == "":  # `data.val_files=`, and a YAML key without a value
        value = ""
    expected = describe_type(hint)
    settings = settings_for_value(key, _show(value).strip("'"))
    fix = f" Write {settings}." if settings else ""
    wrong = ConfigError(f"{key} = {_show(value, key)} ({origin}): {expected} is expected, not {_kind(value)}.{fix}")
    if isinstance(value, bool) and is_text(hint):  # OmegaConf would turn YAML's `no` into the text "False"
        raise ConfigError(
            f"{key} = {_show(value, key)} ({origin}): a text is expected; put it in quotes if it is one.{fix}"
        )
    if hint is bool and isinstance(value, (int, float)) and value not in (0, 1):  # OmegaConf takes every number for true
        raise wrong
    if isinstance(value, str) and value == "???":  # OmegaConf's mark for a value that is to be given
        raise ConfigError(f"{key} = ??? ({origin}): the value is missing; give {expected}.")
    if get_origin(hint) is list and isinstance(value, list):
        item_types = (int, float) if get_args(hint)[0] is float else (str, int, float)
        bad = [item for item in value if isinstance(item, bool) or not isinstance(item, item_types)]
        if bad:
            raise ConfigError(f"{key} = {_show(value, key)} ({origin}): {expected} is expected; {_show(bad[0])} is none.")
    try:
        OmegaConf.update(merged, key, value, merge=True)
    except (OmegaConfBaseException, OverflowError) as error:  # OverflowError: an integer that no float can hold
        if "${" in str(value):
            raise ConfigError(f"{key} = {_show(value, key)} ({origin}): {str(error).splitlines()[0]}") from error
        raise wrong from error


def _to_config(merged: DictConfig) -> Config:
    try:
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:  # an interpolation that leads nowhere or to another type
        key = getattr(error, "full_key", None) or "the config"
        reason = clean(str(error).splitlines()[0])
        raise ConfigError(f"{key}: {reason}; correct the interpolation, or write the value itself.") from error
    assert isinstance(config, Config)
    return config


def _escape(tree: Any) -> Any:
    """Keep a literal `${` from being read as an interpolation when the text comes back."""
    if isinstance(tree, dict):
        return {key: _escape(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_escape(value) for value in tree]
    return tree.replace("${", "\\${") if isinstance(tree, str) else tree


def _show(value: Any, key: str = "") -> str:
    value = hide(key, value)
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, dict):
        return "a mapping"
    return {bool: "true/false", int: "an integer", float: "a number", str: "a text", list: "a list"}.get(
        type(value), type(value).__name__
    )
