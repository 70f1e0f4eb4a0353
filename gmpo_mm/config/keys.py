"""Dotted keys of the schema: what exists, what holds what, and which known key a mistyped one was meant to be."""

from __future__ import annotations

import difflib
import functools
import types
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

from gmpo_mm.config.schema import Config

SIMILAR = 0.6
"""Below this share of common letters a known name is not suggested: it would be another thing."""

_TYPE_NAMES = {
    int: "an integer", float: "a number", str: "a text", bool: "true or false", type(None): "null", Any: "a text or a list",
}  # fmt: skip


@functools.cache
def schema_keys() -> dict[str, Any]:
    """Every leaf's dotted key and its annotated type; a `dict[str, Any]` is a leaf."""
    return dict(_walk_types(Config, ""))


def _walk_types(section: type, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, hint in get_type_hints(section).items():
        if is_dataclass(hint):
            yield from _walk_types(hint, f"{prefix}{name}.")  # type: ignore[arg-type]
        else:
            yield f"{prefix}{name}", hint


@functools.cache
def section_names() -> frozenset[str]:
    """The dotted names of all sections, such as `worker.actor.optim`."""
    keys = schema_keys()
    return frozenset(key.rsplit(".", depth)[0] for key in keys for depth in range(1, key.count(".") + 1))


def flatten(config: Config) -> dict[str, Any]:
    """Leaf key -> value; dictionaries stay whole."""
    return {key: get_key(config, key) for key in schema_keys()}


def get_key(config: Config, key: str) -> Any:
    """The value of a dotted key."""
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def default_of(key: str) -> Any:
    """The schema's default of a dotted key."""
    return get_key(Config(), key)


def describe_type(hint: Any) -> str:
    """A type hint in plain words: `int | None` is "an integer or null"."""
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(describe_type(part) for part in get_args(hint))
    if get_origin(hint) is list:
        inner = {str: "texts", float: "numbers", int: "integers"}.get(get_args(hint)[0], "values")
        return f"a list of {inner}"
    if get_origin(hint) is dict:
        return "a mapping of keys to values"
    return _TYPE_NAMES.get(hint, str(hint))


def is_text(hint: Any) -> bool:
    """True for `str` and `str | None`."""
    return hint is str or (get_origin(hint) in (Union, types.UnionType) and str in get_args(hint))


def nearest(name: Any, known: Iterable[str], cutoff: float = SIMILAR) -> str | None:
    """The known name that looks most like `name`, or None below the cutoff; capitals don't matter."""
    by_small = {item.lower(): item for item in known}
    found = difflib.get_close_matches(str(name).lower(), list(by_small), n=1, cutoff=cutoff)
    return by_small[found[0]] if found else None


def nearest_key(key: str) -> str | None:
    """The known key or section that a mistyped one was most likely meant to be; None when none looks like it.

    Siblings come first (a slip in the last part; close ones only where the very name is known elsewhere), then the same
    last part elsewhere (a wrong section), then a slip in both. The last parts are compared on their own: a long section in
    common says nothing.
    """
    parent, _, last = key.rpartition(".")
    known = [*schema_keys(), *sorted(section_names())]
    siblings = {name.rpartition(".")[2]: name for name in known if name.rpartition(".")[0].lower() == parent.lower()}
    lasts: dict[str, list[str]] = {}
    for name in known:
        lasts.setdefault(name.rpartition(".")[2], []).append(name)
    sibling = nearest(last, siblings, cutoff=0.85 if last in lasts else 0.7)
    if sibling is not None:
        return siblings[sibling]
    same = nearest(last, lasts, cutoff=0.85)
    if same is None:
        return None
    return max(lasts[same], key=lambda name: similarity(key, name))


def is_close(a: str, b: str) -> bool:
    """Whether every part of `a` is most likely a slip for the part of `b` at its place."""
    pairs = list(zip(a.split("."), b.split("."), strict=False))
    return a.count(".") == b.count(".") and all(similarity(*pair) >= (0.8 if pair != pairs[-1] else 0.85) for pair in pairs)


def similarity(a: str, b: str) -> float:
    """0 to 1; capitals don't matter."""
    return difflib.SequenceMatcher(None, a.lower(), b.lower()).ratio()


def known_children(section: str) -> list[str]:
    """The names directly inside a section ("" is the root), in the schema's order."""
    node: Any = Config()
    for part in filter(None, section.split(".")):
        node = getattr(node, part)
    return [item.name for item in fields(node)]
