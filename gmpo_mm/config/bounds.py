"""Which values a single key may hold: words from a list, numbers in a range."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from gmpo_mm.algorithms.correction_keys import CORRECTIONS
from gmpo_mm.config.backends import SAMPLERS, TRACKERS
from gmpo_mm.config.engine_facts import ENGINES, facts_of
from gmpo_mm.config.keys import flatten, get_key, nearest
from gmpo_mm.config.load import LoadedConfig
from gmpo_mm.config.ranges import ranges_of
from gmpo_mm.config.schema import Config
from gmpo_mm.config.words import settings_for_value

LOGGERS = ("console", "file", *TRACKERS)
_CHOICES: dict[str, tuple[str, ...]] = {
    "engine": ("auto", *ENGINES),
    "algorithm.kl_penalty": ("kl", "abs", "mse", "low_var_kl", "full"),
    "algorithm.kl_type": ("fixed", "adaptive"),
    "worker.actor.seq_mean": ("exact", "easyr1"),
    "worker.actor.old_log_probs": ("auto", "sampler", "recompute"),
    "worker.actor.logits_dtype": ("float32", "bfloat16"),
    "worker.actor.optim.lr_scheduler_type": ("constant", "cosine"),
    "worker.rollout.name": ("auto", *SAMPLERS),
    "worker.rollout.emulate.weights": ("none", "bfloat16", "float8_e4m3", "int8"),
    "worker.rollout.correction": ("none", *CORRECTIONS),
    "trainer.dtype": ("auto", "float32", "bfloat16"),
}



@lru_cache
def choices() -> dict[str, tuple[str, ...]]:
    """Key -> the words that it may hold. Those of a registry are read from it (which imports torch)."""
    from gmpo_mm.algorithms import known_estimators

    return _CHOICES | {"algorithm.adv_estimator": (*known_estimators(), "gae")}


RANGES = dict(ranges_of(Config))
"""Key -> the range that the schema gives it."""
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_LONGEST_NAME = 200
_LARGE_RATE = 1
"""A learning rate from here on was most likely meant to have a minus: 6e5 is 6e-5."""


def check_choices(loaded: LoadedConfig) -> Iterator[str]:
    """Words that must come from a list; the optimizer of another engine gets its own fix."""
    for key, allowed in choices().items():
        value = get_key(loaded.config, key)
        if value not in allowed:
            yield f"{key} = {value!r}: it must be one of {', '.join(allowed)}.{_value_hint(key, value, allowed)}"
    for name in loaded.config.trainer.logger:
        if name not in LOGGERS:
            hint = _value_hint("trainer.logger", name, LOGGERS)
            known = ", ".join(LOGGERS)
            yield f"trainer.logger = {loaded.config.trainer.logger!r}: {name!r} is not known.{hint} Known: {known}."
    key, strategy = "worker.actor.optim.strategy", loaded.config.worker.actor.optim.strategy
    engine = facts_of(loaded.config)
    if strategy == "adamw_bf16" and not engine.distributed:
        yield (
            f"worker.actor.optim.strategy = 'adamw_bf16': engine={engine.name} keeps float32 AdamW states; set it to adamw. To "
            "save memory, train LoRA adapters (worker.actor.model.lora.rank=64)."
        )
    elif strategy not in ("adamw", "adamw_bf16"):
        yield f"{key} = {strategy!r}: it must be adamw.{_value_hint(key, strategy, ('adamw', 'adamw_bf16'))}"


def _value_hint(key: str, value: Any, allowed: tuple[str, ...]) -> str:
    """What another project's word is here, else the allowed word that looks like it."""
    settings = settings_for_value(key, value)
    if settings is not None:
        return f" Write {settings}."
    if key == "algorithm.adv_estimator":  # one letter makes another algorithm of it: letters exchanged or almost equal
        letters = sorted(str(value).lower())
        meant = next((word for word in allowed if sorted(word) == letters), None) or nearest(value, allowed, cutoff=0.8)
    else:
        meant = nearest(value, allowed)
    return f" Did you mean {meant}?" if meant else ""


def check_ranges(loaded: LoadedConfig) -> Iterator[str]:
    """Numbers in their ranges; nan and infinity nowhere (a clip bound of infinity is `gmpo.clip: none`)."""
    config = loaded.config
    for key, value in flatten(config).items():
        allowed = RANGES.get(key)
        fix = f" {allowed.fix}" if allowed is not None and allowed.fix else ""
        if isinstance(value, float) and not math.isfinite(value):
            yield f"{key} = {value}: a finite number is expected.{fix}"
        elif value is not None and allowed is not None and not allowed.holds(value):
            if key.endswith("optim.lr") and value > _LARGE_RATE:
                exponent = math.floor(math.log10(value))
                fix = f" Did you mean {value / 10.0**exponent:.6g}e-{max(exponent, 1)}?"
            yield f"{key} = {shorten(value)}: it must be {allowed.describe()}.{fix}"
    data, algorithm, optim = config.data, config.algorithm, config.worker.actor.optim
    if data.min_pixels and data.max_pixels and data.min_pixels > data.max_pixels:
        yield f"data.min_pixels = {data.min_pixels}: it is above data.max_pixels = {data.max_pixels}; exchange them."
    if algorithm.online_filtering and algorithm.filter_low >= algorithm.filter_high:
        yield (
            f"algorithm.filter_low = {algorithm.filter_low}: nothing lies strictly between it and "
            f"algorithm.filter_high = {algorithm.filter_high}; lower it."
        )
    if len(optim.betas) != 2 or not all(0 <= beta < 1 for beta in optim.betas):
        yield f"worker.actor.optim.betas = {optim.betas}: two numbers from 0 to below 1 are expected, as [0.9, 0.999]."


def check_names(loaded: LoadedConfig) -> Iterator[str]:
    """Texts that become folders or reach other programs: no zero character anywhere, no name that leads elsewhere."""
    for key, value in flatten(loaded.config).items():
        if isinstance(value, str) and (found := _CONTROL.search(value)):
            yield f"{key} = {shorten(value)}: it holds the control character {found.group()!r}; remove it."
    trainer = loaded.config.trainer
    for name in ("project_name", "experiment_name"):
        value = getattr(trainer, name)
        parts = value.split("/")
        if not value.strip() or any(part.strip() in ("", ".", "..") for part in parts) or value.startswith("~"):
            yield (
                f"trainer.{name} = {shorten(value)}: it names the run's folder below runs/, so give a name without "
                "empty parts, '.', '..' and a '/' or '~' at its beginning (another place: trainer.run_dir)."
            )
        elif max(len(part.encode("utf-8", "replace")) for part in parts) > _LONGEST_NAME:
            yield f"trainer.{name} = {shorten(value)}: it names a folder; give at most {_LONGEST_NAME} bytes."


def shorten(value: Any) -> str:
    """A value as an error shows it."""
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 120 else text[:117] + "..."
