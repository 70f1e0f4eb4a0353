"""The part of the config that the policy loss reads, and which of its keys the chosen loss leaves unread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gmpo_mm.config.schema import Config

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
    """The `PolicyLossConfig` that `gmpo_mm.algorithms` takes."""
    from gmpo_mm.algorithms import GMPOConfig, PolicyLossConfig

    actor = config.worker.actor
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


def is_custom_loss(loss_type: str) -> bool:
    """True for `path/to/file.py:name`, a loss from a user's own file."""
    return ".py:" in loss_type


def unread_loss_keys(config: Config) -> frozenset[str]:
    """Full dotted loss keys that `worker.actor.loss_type` does not read; none for an unknown or a custom loss."""
    from gmpo_mm.algorithms import clip_keys_read_by, known_loss_types

    actor = config.worker.actor
    if is_custom_loss(actor.loss_type) or actor.loss_type not in known_loss_types():
        return frozenset()
    read = {key.removeprefix(ACTOR) for key in clip_keys_read_by(actor.loss_type)}
    unread = {key for key in LOSS_KEYS if key not in read}
    if actor.loss_type == "gmpo" and actor.gmpo.clip == "none":
        unread |= {"gmpo.log_clip_low", "gmpo.log_clip_high"}
    return frozenset(ACTOR + key for key in unread)
