"""The part of the config that the policy loss reads, and which of its keys the chosen loss leaves unread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gmpo_mm.config.schema import Config
from gmpo_mm.config.words import settings_for_value
from gmpo_mm.errors import ConfigError

if TYPE_CHECKING:
    from gmpo_mm.algorithms import PolicyLossConfig

ACTOR = "worker.actor."
LOSS_KEYS = (
    "clip_ratio_low",
    "clip_ratio_high",
    "clip_ratio_dual",
    "tau_positive",
    "tau_negative",
    "loss_avg_mode",
    "gmpo.clip",
    "gmpo.normalize",
    "gmpo.log_clip_low",
    "gmpo.log_clip_high",
)


def policy_loss_config(config: Config) -> PolicyLossConfig:
    """The `PolicyLossConfig` that `gmpo_mm.algorithms` takes. Raises ConfigError for a value outside its range."""
    return actor_loss_config(config.worker.actor)


def actor_loss_config(actor: Any) -> PolicyLossConfig:
    """The same from a `worker.actor` section: ours, or another engine's that has our keys."""
    from gmpo_mm.algorithms import GMPOConfig, PolicyLossConfig

    try:
        return PolicyLossConfig(
            loss_type=actor.loss_type,
            clip_ratio_low=actor.clip_ratio_low,
            clip_ratio_high=actor.clip_ratio_high,
            clip_ratio_dual=actor.clip_ratio_dual,
            tau_positive=actor.tau_positive,
            tau_negative=actor.tau_negative,
            loss_avg_mode=actor.loss_avg_mode,
            gmpo=GMPOConfig(
                clip=actor.gmpo.clip,
                normalize=actor.gmpo.normalize,
                log_clip_low=actor.gmpo.log_clip_low,
                log_clip_high=actor.gmpo.log_clip_high,
            ),
        )
    except ValueError as error:
        words = ((ACTOR + "loss_avg_mode", actor.loss_avg_mode), (ACTOR + "gmpo.clip", actor.gmpo.clip))
        hints = [settings for key, value in words if (settings := settings_for_value(key, value))]
        raise ConfigError(f"{ACTOR}{error}" + "".join(f" Write {settings}." for settings in hints)) from error


def loss_unit_of(config: Config) -> str:
    """What the configured loss is a mean over: `seq` or `token`. Raises ConfigError for an unknown loss."""
    from gmpo_mm.algorithms import loss_unit

    try:
        return loss_unit(policy_loss_config(config))
    except ValueError as error:
        raise ConfigError(f"{ACTOR}{error}") from error


def unread_loss_keys(config: Config) -> frozenset[str]:
    """Full dotted loss keys that the configured loss does not read. Raises ConfigError for an unknown loss."""
    from gmpo_mm.algorithms import clip_keys_read_by

    try:
        read = clip_keys_read_by(config.worker.actor.loss_type)
    except ValueError as error:
        raise ConfigError(f"{ACTOR}{error}") from error
    if config.worker.actor.gmpo.clip == "none":
        read -= {"gmpo.log_clip_low", "gmpo.log_clip_high"}
    return frozenset(ACTOR + key for key in LOSS_KEYS if key not in read)
