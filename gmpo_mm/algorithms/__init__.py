"""The mathematics of training, in torch and nothing else: policy losses, advantages, KL, and their metrics."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gmpo_mm.algorithms.public import *  # noqa: F403


def __getattr__(name: str) -> Any:
    """A public name. Imported late, since torch is: the keys of the losses (`config.py`) do without it."""
    public = importlib.import_module("gmpo_mm.algorithms.public")
    if name in public.__all__:
        return getattr(public, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    public = importlib.import_module("gmpo_mm.algorithms.public")
    return sorted([*globals(), *public.__all__])
