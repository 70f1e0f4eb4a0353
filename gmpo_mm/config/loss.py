"""The part of the config that the policy loss reads, and which of its keys the chosen loss leaves unread."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from gmpo_mm.algorithms.config import LossKeys, PolicyLossConfig, loss_keys, make_loss_config
from gmpo_mm.config.schema import Config
from gmpo_mm.config.words import settings_for_value
from gmpo_mm.errors import ConfigError

if TYPE_CHECKING:
    from gmpo_mm.algorithms.registry import RegisteredLoss

ACTOR = "worker.actor."
COMPARE = "trainer.compare_losses"
LOSS_KEYS = tuple(loss_keys())
LOG_CLIP_SECTIONS = ("gmpo", "power_mean")
"""The losses that clip in log space, each with a section of that name: `clip`, `log_clip_low`, `log_clip_high`."""
_LOSS_TYPE = re.compile(r"loss_type=(\w+)")


def policy_loss_config(config: Config) -> PolicyLossConfig:
    """The `PolicyLossConfig` that `gmpo_mm.algorithms` takes. Raises ConfigError for a value outside its range."""
    return actor_loss_config(config.worker.actor)


def actor_loss_config(actor: Any) -> PolicyLossConfig:
    """The same from a `worker.actor` section: ours, or another engine's that has our keys."""
    values = {item.name: getattr(actor, item.name) for item in fields(LossKeys)}
    try:
        return make_loss_config({key: vars(value) if is_dataclass(value) else value for key, value in values.items()})
    except ValueError as error:
        words = [(ACTOR + "loss_avg_mode", actor.loss_avg_mode)]
        words += [(f"{ACTOR}{section}.clip", getattr(actor, section).clip) for section in LOG_CLIP_SECTIONS]
        hints = [settings for key, value in words if (settings := settings_for_value(key, value))]
        raise ConfigError(f"{ACTOR}{error}" + "".join(f" Write {settings}." for settings in hints)) from error


def loss_unit_of(config: Config) -> str:
    """What the configured loss is a mean over: `seq` or `token`. Raises ConfigError for an unknown loss."""
    from gmpo_mm.algorithms import loss_unit

    try:
        return loss_unit(policy_loss_config(config))
    except ValueError as error:
        raise ConfigError(f"{ACTOR}{error}") from error


def compared_losses(config: Config) -> list[RegisteredLoss]:
    """The losses of `trainer.compare_losses`. Raises ConfigError that names every unknown one."""
    from gmpo_mm.algorithms import get_policy_loss
    from gmpo_mm.algorithms.registry import OTHER_NAMES

    losses, problems = [], []
    for name in config.trainer.compare_losses:
        try:
            losses.append(get_policy_loss(name))
        except ValueError as error:
            message = str(error).removeprefix("loss_type: ")
            other = OTHER_NAMES.get(name.strip().lower())
            if other is not None:  # only the loss can differ here, not what else that name means
                message = message.replace(f"Write {other}.", f"Write {_LOSS_TYPE.findall(other)[0]}.")
            problems.append(f"{COMPARE} = {config.trainer.compare_losses}: {message}")
    if problems:
        raise ConfigError("\n\n".join(problems))
    return losses


def untrained_loss_keys(loss_type: str) -> frozenset[str]:
    """Full dotted loss keys that a loss doesn't read, so that they change nothing that is trained; none for an unknown one."""
    from gmpo_mm.algorithms import clip_keys_read_by

    try:
        read = clip_keys_read_by(loss_type)
    except ValueError:
        return frozenset()
    return frozenset(ACTOR + key for key in LOSS_KEYS if key not in read)


def unread_loss_keys(config: Config, *, compared: bool = True) -> frozenset[str]:
    """Full dotted loss keys that no loss of the run reads: neither the trained one nor, unless `compared` is false, one of
    `trainer.compare_losses`. Raises ConfigError for an unknown loss."""
    from gmpo_mm.algorithms import clip_keys_read_by

    try:
        read = clip_keys_read_by(config.worker.actor.loss_type)
    except ValueError as error:
        raise ConfigError(f"{ACTOR}{error}") from error
    for loss in compared_losses(config) if compared else ():
        read |= loss.reads
    for section in LOG_CLIP_SECTIONS:
        if getattr(config.worker.actor, section).clip == "none":
            read -= {f"{section}.log_clip_low", f"{section}.log_clip_high"}
    return frozenset(ACTOR + key for key in LOSS_KEYS if key not in read)
