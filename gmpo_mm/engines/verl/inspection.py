"""What a run on verl writes of a step beside its metrics: all of it, and what other losses would do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transfer_queue import KVBatchMeta

from gmpo_mm.algorithms import PolicyLossConfig
from gmpo_mm.engines.verl.comparing import KIND, compared
from gmpo_mm.engines.verl.recording import StepRecorder
from gmpo_mm.engines.verl.seen import Seen, take_seen
from gmpo_mm.engines.verl.step_rows import StepRows
from gmpo_mm.runs.progress import Progress
from gmpo_mm.runs.trackers import Trackers


@dataclass
class StepInspection:
    """`trainer.record_steps` and `trainer.compare_losses`; both need what the update's forward passes saw."""

    progress: Progress
    trackers: Trackers
    recorder: StepRecorder | None = None
    losses: Mapping[str, PolicyLossConfig] = field(default_factory=dict)
    """`compared_configs`; empty where no losses are compared."""
    only_ended_by: Sequence[int] | None = None
    """Tokens that end a response, where those that were cut off have no part in the loss."""
    asked: list[str] = field(default_factory=list)
    """Names of the step's prompts in verl's queue, in the order of the data loader."""
    _seen: Seen | None = None

    def announce(self, steps: int, workers: Sequence[Any]) -> None:
        """Before the first step: how large the records of `steps` steps can be, and how long they take."""
        if self.recorder is not None:
            self.progress.log(self.recorder.announcement(steps, workers))

    def begin(self, step: int, workers: Sequence[Any]) -> bool:
        """Before a step's first update; whether its rows are to be numbered. `workers` hold the weights."""
        if is_recorded := self._records(step):
            assert self.recorder is not None
            self.recorder.begin(workers)
        return is_recorded or bool(self.losses)

    def take(self, metrics: dict[str, Any], updates: int) -> None:
        """Take what the workers sent of a step out of its metrics."""
        self._seen = take_seen(metrics, updates)

    def end(
        self, step: int, batch: KVBatchMeta, metrics: Mapping[str, float], workers: Sequence[Any]
    ) -> None:
        """After the last update, with the batch in the order in which its rows were numbered."""
        seen, asked = self._seen, list(self.asked)
        self._seen = None
        self.asked.clear()
        if seen is None:
            return
        rows = StepRows.of(batch, asked, seen)
        if self._records(step):
            assert self.recorder is not None
            with self.progress.stage(f"step {step}: recording"):
                self.recorder.end(step, rows, metrics, workers)
        if self.losses:
            self.trackers.log(step, KIND, compared(rows, self.losses, self.only_ended_by))

    def _records(self, step: int) -> bool:
        return self.recorder is not None and self.recorder.wants(step)
