"""YAML as people write it: files and `key=value` of every command are read here, by OmegaConf, and by nothing else.

What YAML 1.1 reads in a way that hardly anybody means is an error: `1:30` would be 90, to the base 60.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gmpo_mm.credentials import HIDDEN, clean, hide_argument, is_credential
from gmpo_mm.errors import ConfigError

DEEPEST = 100
"""Levels of a file; no key of ours has a tenth of that."""
_SIXTIES = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?")
_PAIR = re.compile(r"""([\w-]+)(["']?[ \t]*[:=][ \t]*)([^\n]+)""")
"""A key and its value in the piece of a file that an error of YAML's shows."""
_UNREADABLE = (yaml.YAMLError, OmegaConfBaseException, ValueError, TypeError, AttributeError, RecursionError)
"""AttributeError: OmegaConf on a key that is no text."""
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""OmegaConf's own choice; the two disagree on a tab after a value."""


def read_file(path: Path, what: str) -> Any:
    """The content of a YAML file as plain values, interpolations as they are written; an empty file is an error.

    `what` begins the ConfigError: "config file".
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{what} {path} can't be read ({error.strerror}); check its permissions.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{what} {path} is no UTF-8 text (byte {error.start}); write it as UTF-8.") from error
    if not text.strip("\0 \t\r\n"):
        raise ConfigError(f"{what} {path} is empty; restore it, or write {{}} into it to have the defaults.")
    try:
        if isinstance(scalar := _check_events(text), str):
            return scalar
        return OmegaConf.to_container(OmegaConf.load(io.StringIO(text)), resolve=False)
    except _UNREADABLE as error:
        raise ConfigError(f"{what} {path} is not readable YAML: {_reason(error)}") from error


def parse_override(text: str, example: str) -> dict[str, Any]:
    """`a.b=1` as {"a": {"b": 1}}; ConfigError when it is no key=value."""
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"override {hide_argument(text)[:120]!r}: write it as key=value, for example {example}.")
    try:
        _check_events(value)
        made = OmegaConf.to_container(OmegaConf.from_dotlist([text]), resolve=False)
        assert isinstance(made, dict)
        return {str(name): part for name, part in made.items()}
    except _UNREADABLE as error:
        reason = "" if is_credential(key) else f" ({_reason(error)})"
        shown = hide_argument(text)[:120]
        raise ConfigError(f"override {shown!r}: the value is not readable YAML{reason}; quote it.") from error


def _check_events(text: str) -> str | None:
    """ValueError for a number to the base 60 and for more than `DEEPEST` levels; the text where it is a single scalar."""
    depth, deepest, last = 0, 0, None
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            deepest = max(depth, deepest)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.ScalarEvent):
            last = event.value
            if event.implicit[0] and not event.style and _SIXTIES.fullmatch(event.value):
                number = yaml.safe_load(event.value)
                raise ValueError(f"{event.value} is the number {number} to YAML; write {number}, or '{event.value}' for a text")
        if depth > DEEPEST:
            raise ValueError(f"it is nested more than {DEEPEST} levels deep")
    return last if last and deepest == 0 else None


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError) or "nesting depth" in str(error):  # libyaml's words
        return "it is nested too deep"
    return _PAIR.sub(lambda pair: f"{pair[1]}{pair[2]}{HIDDEN}" if is_credential(pair[1]) else pair[0], clean(str(error)))
