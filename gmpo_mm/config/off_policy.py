"""Training off-policy on purpose (docs/guides/off_policy.md): what is asked for, and what it goes together with."""

from __future__ import annotations

from collections.abc import Iterator

from gmpo_mm.config.load import LoadedConfig
from gmpo_mm.config.schema import Config

STALENESS = "worker.rollout.staleness"


def is_off_policy(config: Config) -> bool:
    """Whether training samples on purpose from something else than the trained weights."""
    return config.worker.rollout.staleness > 0


def sampler_is_old(config: Config) -> bool:
    """Whether the sampler's log-probabilities are the old ones of the ratio throughout.

    With stale weights, `auto` takes them: nothing else is the policy that sampled.
    """
    old = config.worker.actor.old_log_probs
    return old == "sampler" or (old == "auto" and config.worker.rollout.staleness > 0)


def check_off_policy(loaded: LoadedConfig) -> Iterator[str]:
    """A correction has two policies to compare."""
    config = loaded.config
    rollout = config.worker.rollout
    if rollout.correction != "none" and rollout.staleness > 0 and config.worker.actor.old_log_probs == "auto":
        yield (
            f"worker.rollout.correction = {rollout.correction!r}: with {STALENESS} = {rollout.staleness} and "
            "worker.actor.old_log_probs=auto the ratio is taken to the stale weights that sampled, so a correction for "
            "them would have nothing left; set worker.actor.old_log_probs=recompute (the correction sees the lag, the "
            "ratio does not), or worker.rollout.correction=none."
        )


def refused_by(engine: str, config: Config) -> Iterator[str]:
    """The message of an engine that always samples with the weights as they are."""
    if config.worker.rollout.staleness > 0:
        yield (
            f"{STALENESS} = {config.worker.rollout.staleness}: engine={engine} always samples with the newest weights; set it "
            "to 0, or use engine=local."
        )
