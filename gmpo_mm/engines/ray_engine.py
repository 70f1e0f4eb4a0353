"""What the engines that run on a Ray cluster answer alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gmpo_mm.config.schema import Config
from gmpo_mm.engines.protocol import Engine

if TYPE_CHECKING:
    from gmpo_mm.runs.checkpoint_layout import CheckpointLayout


class RayEngine(Engine):
    """One run over `trainer.nnodes` x `trainer.n_gpus_per_node` processes, with a shard of the weights in each."""

    def layout(self, config: Config) -> CheckpointLayout:
        """Folders `global_step_N` with one file a process."""
        from gmpo_mm.runs.checkpoint_layout import fsdp_layout

        return fsdp_layout(config.trainer.nnodes * config.trainer.n_gpus_per_node)

    def device_words(self, config: Config) -> str:
        """Nodes and processes."""
        return f"{config.trainer.nnodes} node(s) x {config.trainer.n_gpus_per_node} {self.process_words(config)}"

    def process_words(self, config: Config) -> str:
        """What each process has."""
        return "GPUs"
