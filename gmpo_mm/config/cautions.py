"""What is legal and still most likely not meant: said before training, each with the key that fixes it."""

from __future__ import annotations

from collections.abc import Iterator

from gmpo_mm.config.load import LoadedConfig
from gmpo_mm.config.loss import ACTOR, loss_unit_of
from gmpo_mm.errors import ConfigError

GSPO_BOUNDS = (3e-4, 4e-4)
"""Clip range of GSPO's experiments (arXiv 2507.18071, section 5.1)."""
WIDE, NARROW = 0.01, 0.01
"""A sequence's ratio stays within a percent of 1, so bounds above that clip nothing; a token's does not."""
_SEQUENCE_RATIOS = ("gspo", "gspo_token", "luspo")
_WITHOUT_RATIO = ("gpg", "reinforce")
_BOUNDS = f"{ACTOR}clip_ratio_low={GSPO_BOUNDS[0]:g} {ACTOR}clip_ratio_high={GSPO_BOUNDS[1]:g}"


def cautions(loaded: LoadedConfig) -> list[str]:
    """One sentence for each; an unknown loss has none, because `validate` names it."""
    return [*_clip_range(loaded), *_off_policy(loaded), *_unseen_lag(loaded), *_mean(loaded), *_warm_up(loaded)]


def _clip_range(loaded: LoadedConfig) -> Iterator[str]:
    actor = loaded.config.worker.actor
    low, high, loss = actor.clip_ratio_low, actor.clip_ratio_high, actor.loss_type
    shown = f"{ACTOR}clip_ratio_low = {low:g} and clip_ratio_high = {high:g}"
    if loss == "cispo" and low < 1:
        yield (
            f"{ACTOR}clip_ratio_low = {low:g} with loss_type=cispo raises every ratio below {1 - low:g} to {1 - low:g}"
            + (" (EasyR1's example script does so)" if low == 0 else "")
            + f"; CISPO has no lower bound: set {ACTOR}clip_ratio_low=1.0."
        )
    elif loss in _SEQUENCE_RATIOS and max(low, high) >= WIDE:
        whose = "the paper's" if loss.startswith("gspo") else "GSPO's"
        yield (
            f"{shown} with loss_type={loss}: {whose} bounds are {GSPO_BOUNDS[0]:g} and {GSPO_BOUNDS[1]:g}, about a "
            f"thousand times narrower, because the ratio of a whole sequence stays near 1; these clip nothing. Set {_BOUNDS}."
        )
    elif loss == "default" and max(low, high) < NARROW:
        yield (
            f"{shown} with loss_type=default clip nearly every token: such bounds belong to gspo, whose ratio is a whole "
            f"sequence's. Set 0.2 for both, or {ACTOR}loss_type=gspo."
        )
    gmpo = actor.gmpo
    if loss == "gmpo" and gmpo.clip != "none" and max(gmpo.log_clip_low, gmpo.log_clip_high) < NARROW:
        yield (
            f"{ACTOR}gmpo.log_clip_low = {gmpo.log_clip_low:g} and log_clip_high = {gmpo.log_clip_high:g} clip nearly every "
            "token; the paper has 0.4 for both."
        )


def _off_policy(loaded: LoadedConfig) -> Iterator[str]:
    """A loss without a ratio doesn't see that the policy has moved."""
    actor, data = loaded.config.worker.actor, loaded.config.data
    updates = actor.ppo_epochs * data.rollout_batch_size // max(actor.global_batch_size, 1)
    if actor.loss_type in _WITHOUT_RATIO and updates > 1:
        yield (
            f"{ACTOR}loss_type = {actor.loss_type} has no ratio to the policy that sampled, and a rollout gets {updates} "
            f"updates, all but the first off-policy; set "
            f"{ACTOR}global_batch_size={data.rollout_batch_size} {ACTOR}ppo_epochs=1."
        )


def _unseen_lag(loaded: LoadedConfig) -> Iterator[str]:
    """Stale weights that neither the ratio nor a correction knows of."""
    actor, rollout = loaded.config.worker.actor, loaded.config.worker.rollout
    lag = f"worker.rollout.staleness = {rollout.staleness}"
    if rollout.staleness == 0 or rollout.correction != "none":
        return
    if actor.old_log_probs == "recompute":
        yield (
            f"{lag} with {ACTOR}old_log_probs=recompute and worker.rollout.correction=none: the old policy is the newest one, "
            f"so nothing in the loss knows of the lag; set {ACTOR}old_log_probs=auto, or a correction."
        )
    elif actor.loss_type in _WITHOUT_RATIO:
        yield f"{lag} with {ACTOR}loss_type={actor.loss_type}: the loss has no ratio, so nothing in it knows of the lag."


def _mean(loaded: LoadedConfig) -> Iterator[str]:
    """EasyR1's losses that are a mean over sequences here whatever EasyR1's default of the key says."""
    actor = loaded.config.worker.actor
    key = f"{ACTOR}loss_avg_mode"
    if key in loaded.explicit_keys or actor.loss_avg_mode == "seq":
        return
    if actor.loss_type == "gspo" and _unit(loaded) == "seq":
        yield (
            f"{key} is not set, and EasyR1's default is token; loss_type=gspo is a mean over sequences, as in its paper. Write "
            f"{key}=seq to say so, or {ACTOR}loss_type=gspo_token for a mean over tokens."
        )
    elif actor.loss_type == "gspo_token":
        yield f"{key} is not set, so EasyR1's default holds: a mean over tokens. GSPO's paper has {key}=seq."


def _unit(loaded: LoadedConfig) -> str | None:
    try:
        return loss_unit_of(loaded.config)
    except ConfigError:
        return None


def _warm_up(loaded: LoadedConfig) -> Iterator[str]:
    """The schedule is EasyR1's: it starts at 0 and moves once a step."""
    optim, trainer = loaded.config.worker.actor.optim, loaded.config.trainer
    steps, ratio = optim.lr_warmup_steps, optim.lr_warmup_ratio
    if trainer.val_only or optim.lr == 0:
        return
    if steps is None and trainer.max_steps is not None:
        steps = int(ratio * trainer.max_steps)
    warms_up = ratio > 0 if steps is None else steps > 0
    if warms_up:
        name = "lr_warmup_steps" if optim.lr_warmup_steps is not None else "lr_warmup_ratio"
        yield (
            f"{ACTOR}optim.{name} = {getattr(optim, name):g}: the first step of the warm-up has rate 0, as in EasyR1, so its "
            f"round is sampled and graded and changes nothing; {ACTOR}optim.lr_warmup_steps=0 starts at the full rate."
        )
