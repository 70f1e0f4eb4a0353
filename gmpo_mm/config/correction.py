"""`worker.rollout.correction` and its bounds: read as one thing, and checked."""

from __future__ import annotations

from collections.abc import Iterator

from gmpo_mm.algorithms.correction_keys import CORRECTIONS, Correction, make_correction
from gmpo_mm.config.load import LoadedConfig
from gmpo_mm.config.schema import Config

KEY = "worker.rollout.correction"


def correction_of(config: Config) -> Correction | None:
    """The correction with its bounds; None for `none`. Raises ValueError for what `check_correction` names."""
    rollout = config.worker.rollout
    return make_correction(rollout.correction, rollout.correction_cap, rollout.correction_floor)


def check_correction(loaded: LoadedConfig) -> Iterator[str]:
    """There are two distributions to compare, and bounds between which a ratio can lie."""
    rollout = loaded.config.worker.rollout
    kind = CORRECTIONS.get(rollout.correction)
    if kind is None:
        return  # none, or named by check_choices
    if loaded.config.worker.actor.old_log_probs == "sampler":
        yield (
            f"{KEY} = {rollout.correction!r}: it weighs the trainer's log-probabilities against the sampler's; "
            "with worker.actor.old_log_probs=sampler they are the same; set old_log_probs=auto."
        )
    if kind.floor is None:
        if rollout.correction_floor is not None:
            masking = ", ".join(name for name, other in CORRECTIONS.items() if other.floor is not None)
            yield (
                f"{KEY}_floor = {rollout.correction_floor}: correction={rollout.correction} has no lower bound, "
                f"it cuts weights from above; remove it, or set {KEY} to one of {masking}."
            )
        return
    cap = kind.cap if rollout.correction_cap is None else rollout.correction_cap
    floor = kind.floor if rollout.correction_floor is None else rollout.correction_floor
    if floor >= cap:
        yield (
            f"{KEY}_floor = {floor} is not below {KEY}_cap = {cap} (for {rollout.correction}, {kind.floor:g} and "
            f"{kind.cap:g} unless they are set): every ratio would be masked; lower the floor or raise the cap."
        )
