"""What the rest of the package asks of an engine. The object is in `gmpo_mm/engines/NAME/engine.py`, as `ENGINE`.

Importing such a module imports neither torch nor what the engine trains with: a command asks before it knows what is installed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from gmpo_mm.config.engine_facts import ENGINES
from gmpo_mm.config.ineffective import set_and_listed
from gmpo_mm.config.load import LoadedConfig
from gmpo_mm.config.schema import Config

if TYPE_CHECKING:
    from gmpo_mm.runs.checkpoint_layout import CheckpointLayout
    from gmpo_mm.runs.progress import Progress


class Engine(Protocol):
    """One way to train a configuration.

    `about` says in the plan of a run what trains. `unread` are the keys that it never reads, `unread_where` those that it does
    not read in some runs, under words that name such runs (or "" where the reasons do), each with the reason; a name that ends
    in a dot or an underscore stands for all keys that begin with it. `refused` are keys that this engine does not have: no
    value but the default passes.
    """

    name: str
    about: str
    unread: Mapping[str, str]
    unread_where: Mapping[str, Mapping[str, str]]
    refused: tuple[str, ...]

    @property
    def distributed(self) -> bool:
        """Whether one run is spread over the GPUs of a Ray cluster; else it is one process on one device of this machine."""
        return ENGINES[self.name].distributed

    def rules(self, loaded: LoadedConfig) -> Iterator[str]:
        """Every clash of a configuration with this engine: one sentence each, with key, value and fix."""
        ...

    def ineffective(self, loaded: LoadedConfig) -> Iterator[tuple[str, str]]:
        """(key, reason) of what the file sets and this engine does not read in this run."""
        return set_and_listed(loaded, self.unread)

    def preflight(self, configs: Sequence[Config]) -> str:
        """What is installed, with its version; ConfigError with everything that keeps one of the runs from training here."""
        ...

    def check_directory(self, path: Path) -> None:
        """ConfigError for a run directory that holds a run which is not ours."""
        return

    def layout(self, config: Config) -> CheckpointLayout:
        """Where it keeps the checkpoints of a run."""
        ...

    def device_words(self, config: Config) -> str:
        """What a run trains on."""
        ...

    def translation(self, config: Config, steps: int | None) -> list[str]:
        """Lines that say what becomes of the configuration, for a dry run; [] where each key keeps its name."""
        return []

    def diagnose(self) -> str:
        """Whether it can train on this machine and, where it can't, why; it begins with "ready" where it can."""
        ...

    def train(
        self, loaded: LoadedConfig, command: Sequence[str], progress: Progress | None = None, *, overwrite: bool = False
    ) -> Path:
        """Train a configuration, and return the run directory.

        Raises ConfigError and DataError before any long work, RewardError and TrainingError during it.
        """
        ...
