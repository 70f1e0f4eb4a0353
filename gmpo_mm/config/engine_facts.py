"""The engines: their names, and what the layers below `engines` have to know of them.

An engine is registered here, by one entry of `ENGINES`. Everything else of it is in its folder `gmpo_mm/engines/NAME`, whose
module `engine` holds the object that the rest of the package asks (`gmpo_mm.engines.registry`).
"""

from __future__ import annotations

from dataclasses import dataclass

from gmpo_mm.config.schema import Config


@dataclass(frozen=True)
class CheckpointTracker:
    """How the newest `global_step_N` of a run directory is found.

    `file` names the last step, and is written after everything else of a checkpoint: as JSON under `key`, or as the bare number
    without one. `loader_state` is the last file in the checkpoint's own folder.
    """

    file: str
    loader_state: str
    key: str | None = None


@dataclass(frozen=True)
class EngineFacts:
    """`distributed`: one run is spread over the GPUs of a Ray cluster, else it is this process on one device of this machine.

    `has_critic`: it trains a value model. `tracker`: None for checkpoints in `checkpoints/step_N`. `own_actor`: its updates are
    those of `gmpo_mm.training`, which a replay can do again to the byte.
    """

    name: str
    distributed: bool = False
    has_critic: bool = False
    tracker: CheckpointTracker | None = None
    own_actor: bool = False


ENGINES: dict[str, EngineFacts] = {
    facts.name: facts
    for facts in (
        EngineFacts("local", own_actor=True),
        EngineFacts(
            "easyr1",
            distributed=True,
            has_critic=True,
            tracker=CheckpointTracker("checkpoint_tracker.json", "dataloader.pt", key="last_global_step"),
        ),
        EngineFacts("verl", distributed=True, tracker=CheckpointTracker("latest_checkpointed_iteration.txt", "data.pt")),
    )
}
AUTO = "local"
"""What `engine: auto` stands for."""
TRACKERS = tuple(facts.tracker for facts in ENGINES.values() if facts.tracker is not None)


def engine_name(config: Config) -> str:
    """The engine by its own name."""
    return AUTO if config.engine == "auto" else config.engine


def facts_of(config: Config) -> EngineFacts:
    """What is known of the configured engine; an unknown one, which `check_choices` names, is asked nothing of this machine."""
    name = engine_name(config)
    return ENGINES.get(name) or EngineFacts(name, distributed=True)


def has_own_actor(name: str) -> bool:
    """Whether an engine's updates are those of `gmpo_mm.training`; false for one that is not known."""
    return name in ENGINES and ENGINES[name].own_actor
