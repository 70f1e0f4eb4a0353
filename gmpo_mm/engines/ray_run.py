"""How a run on a Ray cluster begins: what is checked before a worker starts, the run directory, the cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gmpo_mm.config import resume_choice, run_directory, to_yaml
from gmpo_mm.config.load import LoadedConfig
from gmpo_mm.config.schema import Config
from gmpo_mm.engines.checks import validate_for_training
from gmpo_mm.engines.ray_cluster import check_cluster, connect
from gmpo_mm.engines.run_setup import configured_reward
from gmpo_mm.rewards.loading import RewardFunction
from gmpo_mm.runs.checkpoint_layout import fsdp_layout
from gmpo_mm.runs.progress import LOG_NAME, Progress
from gmpo_mm.runs.run_data import with_columns
from gmpo_mm.runs.run_directory import RunDirectory
from gmpo_mm.runs.trackers import check_trackers
from gmpo_mm.runs.usable_model import with_usable_models


@dataclass(frozen=True)
class OpenedRun:
    """A run whose directory is open: its configuration with models that are on this machine, and its reward function."""

    config: Config
    run: RunDirectory
    progress: Progress
    reward: RewardFunction

    def has_nothing_to_train(self, total_steps: int) -> bool:
        """Whether the run here has done its steps already, which is then said."""
        if not self.run.is_complete(total_steps) or self.config.trainer.val_only:
            return False
        self.progress.log(f"nothing to train: the run in {self.run.path} has done its {total_steps} steps")
        return True


@contextmanager
def open_run(
    loaded: LoadedConfig, command: Sequence[str], progress: Progress | None, *,
    installed: Callable[[Config], Mapping[str, str | None]], check_directory: Callable[[Path], None], overwrite: bool,
) -> Iterator[OpenedRun]:  # fmt: skip
    """Check a configuration and open its run directory, which is closed with the state in which the block ends.

    `installed` raises unless the engine can train here, and gives the versions to write down; `check_directory` raises for a
    directory with a run that is not ours. Raises ConfigError and DataError before any worker starts.
    """
    validate_for_training(loaded)
    notes: list[str] = []
    loaded = with_columns(loaded, notes.append)
    config = loaded.config
    versions = installed(config)
    check_trackers(config.trainer.logger)
    path = run_directory(config)
    check_directory(path)
    with (
        progress or Progress() as progress,
        RunDirectory.open(
            path, resume=resume_choice(config), config=to_yaml(config, loaded.written), command=list(command),
            layout=fsdp_layout(config.trainer.nnodes * config.trainer.n_gpus_per_node), overwrite=overwrite,
            interpolated=loaded.interpolated,
        ) as run,
    ):  # fmt: skip
        progress.log_to(run.path / LOG_NAME, command)
        for note in (*notes, *run.notes):
            progress.log(note)
        run.environment |= versions
        config = with_usable_models(config, progress.log, whole=True)
        reward = configured_reward(config)  # an error here, before an actor of Ray's would find it out
        yield OpenedRun(config, run, progress, reward)


def join_cluster(
    config: Config, progress: Progress, environment: Mapping[str, str], *, cpus_a_gpu: int = 0, **options: Any
) -> None:
    """Join or start Ray, `environment` for its workers; ConfigError when its nodes can't hold the run's processes.

    A Ray that is initialised already is used as it is. `options` are for one that is started.
    """
    import ray

    if not ray.is_initialized():
        connect(config.ray_address, progress, runtime_env={"env_vars": dict(environment)}, **options)
    nodes = ray.nodes()
    check_cluster(nodes, config.trainer.nnodes, config.trainer.n_gpus_per_node, cpus_a_gpu)
    progress.log(f"Ray {ray.__version__} at {ray.get_runtime_context().gcs_address}, {len(nodes)} node(s)")
