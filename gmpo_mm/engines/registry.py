"""The engines by name. An engine's module is imported when it is asked for; the names stand in `config/engine_facts.py`."""

from __future__ import annotations

import importlib
from functools import cache
from typing import cast

from gmpo_mm.config.engine_facts import ENGINES, engine_name
from gmpo_mm.config.schema import Config
from gmpo_mm.engines.protocol import Engine


@cache
def get_engine(name: str) -> Engine:
    """The engine of this name. Raises KeyError for a name that is not registered."""
    return cast(Engine, importlib.import_module(f"gmpo_mm.engines.{ENGINES[name].name}.engine").ENGINE)


def engine_of(config: Config) -> Engine:
    """The engine that trains a checked configuration."""
    return get_engine(engine_name(config))


def all_engines() -> list[Engine]:
    """Every engine, whether it can train here or not."""
    return [get_engine(name) for name in ENGINES]
