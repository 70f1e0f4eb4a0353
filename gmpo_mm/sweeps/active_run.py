"""A run of a sweep while its process is there."""

from __future__ import annotations

from dataclasses import dataclass

from gmpo_mm.sweeps.directory import RunRecord
from gmpo_mm.sweeps.planning import PlannedRun
from gmpo_mm.sweeps.processes import Child


@dataclass
class ActiveRun:
    """A run whose process is there: training first, then its evaluation in the same slot."""

    run: PlannedRun
    record: RunRecord
    slot: int
    child: Child
    evaluating: bool
    started: float
    before: float
    """Seconds of the same kind that earlier attempts took."""

    def note_seconds(self, now: float) -> None:
        """Bring the record's wall time up to date."""
        seconds = self.before + now - self.started
        if self.evaluating:
            self.record.evaluation_seconds = seconds
        else:
            self.record.seconds = seconds
