"""What the forward passes of an update saw, row by row, on its way from the actor of each rank to the trainer.

The trainer numbers the rows of a batch; an actor that finds numbers notes which rows were in each optimizer step, and the
log-probabilities and entropies that the update computed anyway. Without numbers nothing is kept. Imports no `verl`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

ROWS = "gmpo_rows"
"""Name of the rows' numbers, (B,) int64, in a batch that is to be noted."""
SEEN = "gmpo/seen"
"""Name under which each rank's notes travel to the trainer, beside the metrics."""


@dataclass(eq=False)
class RowsSeen:
    """One rank's notes: the rows of each micro-batch of each optimizer step, and what the last epoch's passes gave."""

    updates: list[list[list[int]]] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    """Of the last epoch, in the order of `log_probs` and `entropies`."""
    log_probs: list[torch.Tensor] = field(default_factory=list)
    """(b, T) for each micro-batch of the last epoch, on the CPU."""
    entropies: list[torch.Tensor] = field(default_factory=list)
    grids: dict[int, torch.Tensor] = field(default_factory=dict)
    """Row -> (pictures, 3), patches in time, height and width."""

    def epoch_begins(self) -> None:
        """What the former epoch's passes gave is forgotten."""
        self.rows, self.log_probs, self.entropies = [], [], []

    def update_begins(self) -> None:
        """The micro-batches that follow are of a new optimizer step."""
        self.updates.append([])

    def note(self, inputs: Mapping[str, Any], log_probs_BT: torch.Tensor, entropy_BT: torch.Tensor) -> None:
        """A micro-batch and its forward pass; nothing where its rows have no numbers."""
        if ROWS not in inputs:
            return
        rows = inputs[ROWS].tolist()
        self.updates[-1].append(rows)
        self.rows += rows
        self.log_probs.append(log_probs_BT.detach().float().cpu())
        self.entropies.append(entropy_BT.detach().float().cpu())
        for row, pictures in zip(rows, inputs.get("multi_modal_inputs", ()), strict=False):
            if "image_grid_thw" in pictures:
                self.grids[row] = pictures["image_grid_thw"].cpu()


@dataclass(frozen=True, eq=False)
class StepSeen:
    """The notes of all ranks together, for B rows."""

    calls: Sequence[Sequence[Sequence[int]]]
    """For each optimizer step, in order, of all epochs: the rows of every micro-batch on every rank."""
    log_probs_BT: torch.Tensor
    """Of the last epoch."""
    entropy_BT: torch.Tensor
    grids: Mapping[int, torch.Tensor]

    @property
    def updates(self) -> list[list[int]]:
        """The rows of each optimizer step, in rising order."""
        return [sorted(row for rows in calls for row in rows) for calls in self.calls]


def of_all_ranks(parts: Iterable[RowsSeen]) -> StepSeen:
    """Ranks that share their rows (ulysses) count once. ValueError where an epoch did not pass through each row once."""
    ranks = list({tuple(part.rows): part for part in parts}.values())
    rows = torch.tensor([row for part in ranks for row in part.rows])
    order_B = rows.argsort()
    if rows[order_B].tolist() != list(range(len(rows))) or len({len(part.updates) for part in ranks}) != 1:
        raise ValueError(f"the ranks' updates passed through the rows {sorted(rows.tolist())}")
    return StepSeen(
        calls=[[rows for calls in of_ranks for rows in calls] for of_ranks in zip(*(p.updates for p in ranks), strict=True)],
        log_probs_BT=torch.cat([tensor for part in ranks for tensor in part.log_probs])[order_B],
        entropy_BT=torch.cat([tensor for part in ranks for tensor in part.entropies])[order_B],
        grids={row: grid for part in ranks for row, grid in part.grids.items()},
    )
