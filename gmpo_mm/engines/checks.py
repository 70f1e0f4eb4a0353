"""What is said of a configuration before it trains, its engine asked too: errors, keys without effect, cautions."""

from __future__ import annotations

from typing import Any

from gmpo_mm.config.cautions import cautions
from gmpo_mm.config.engine_facts import ENGINES, engine_name
from gmpo_mm.config.ineffective import without_effect
from gmpo_mm.config.load import LoadedConfig
from gmpo_mm.config.validate import raise_problems
from gmpo_mm.config.words import show
from gmpo_mm.engines.registry import engine_of


def validate_for_training(loaded: LoadedConfig, *, prepared: bool = True) -> None:
    """Raises ConfigError with one paragraph for each thing that is wrong; loads no model and no data.

    For a plan, `prepared=False` lets data and models be missing that a command of ours makes.
    """
    known = engine_name(loaded.config) in ENGINES
    raise_problems(loaded, engine_of(loaded.config).rules if known else None, prepared=prepared)


def ineffective_keys(loaded: LoadedConfig) -> list[tuple[str, Any, str]]:
    """(key, value, why it has no effect) of every explicitly set key that the run will not read, sorted by reason."""
    return without_effect(loaded, engine_of(loaded.config).ineffective(loaded))


def notes(loaded: LoadedConfig) -> list[str]:
    """All lines that a start and a dry run print: keys without effect, one line a reason, then the cautions."""
    by_reason: dict[str, list[str]] = {}
    for key, value, reason in ineffective_keys(loaded):
        by_reason.setdefault(reason, []).append(f"{key}={show(value)}")
    lines = ["Set, but without effect here:"] if by_reason else []
    lines += [f"  {reason}: {', '.join(keys)}" for reason, keys in by_reason.items()]
    return lines + [f"Note: {text}" for text in cautions(loaded)]
