"""What the forward passes of an update saw, on its way from verl's workers to the trainer.

A worker gets a mini-batch as rows cut out of the step's; the trainer numbers the rows, and each micro-batch
says which it holds, and their log-probabilities. It travels with the metrics, so no pass is added.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gmpo_mm.errors import TrainingError

ROW = "gmpo_row"
"""Field of verl's queue with a row's number in its step, shape (1,); where it is absent, nothing is sent."""
_SEEN = "gmpo_seen"


@dataclass(frozen=True)
class Seen:
    """The rows of each forward pass of an update, and each row's log-probabilities in the last epoch."""

    calls: list[list[list[int]]]
    """For each optimizer step, in order, of all epochs: the rows of each micro-batch, of all ranks."""
    log_probs: list[torch.Tensor]
    """For each row (tokens,), float32."""

    @property
    def updates(self) -> list[list[int]]:
        """The rows of each optimizer step, in increasing order."""
        return [sorted(row for rows in calls for row in rows) for calls in self.calls]

    @property
    def last_epoch(self) -> list[list[list[int]]]:
        """The calls of the last epoch's optimizer steps."""
        return self.calls[-(len(self.log_probs) // sum(map(len, self.calls[0]))) :]


def seen_here(data: Any, log_probs_BT: torch.Tensor) -> dict[str, Any]:
    """The entry among a micro-batch's metrics; `log_probs_BT` is right-padded, `data` verl's micro-batch."""
    if ROW not in data:
        return {}
    rows = data[ROW]
    rows = rows.values() if rows.is_nested else rows
    lengths = data["response_mask"].offsets().diff()
    valid_BT = torch.arange(log_probs_BT.shape[1], device=lengths.device)[None] < lengths[:, None]
    flat = log_probs_BT.detach()[valid_BT].float().cpu().numpy()
    return {_SEEN: (rows.flatten().tolist(), lengths.tolist(), flat)}


def take_seen(metrics: dict[str, Any], updates: int) -> Seen | None:
    """Remove all micro-batches' entries from what `update_actor` returned; None where no row had a number.

    verl strings the mini-batches together, each with the micro-batches of all its ranks, and gives all
    the same number of rows. Raises TrainingError where an epoch does not hold each row once.
    """
    parts: list[tuple[list[int], list[int], np.ndarray]] = metrics.pop(_SEEN, [])
    if not parts:
        return None
    size = sum(len(rows) for rows, _, _ in parts) // updates
    calls: list[list[list[int]]] = [[]]
    log_probs: dict[int, torch.Tensor] = {}
    for rows, lengths, flat in parts:
        if sum(map(len, calls[-1])) >= size:
            calls.append([])
        calls[-1].append(rows)
        log_probs |= zip(rows, torch.from_numpy(flat).split(lengths), strict=True)
    in_order = [row for update in calls for rows in update for row in rows]
    count = len(log_probs)
    epochs = [in_order[start : start + count] for start in range(0, len(in_order), count)]
    is_cut_evenly = len(calls) == updates and all(sum(map(len, update)) == size for update in calls)
    if not is_cut_evenly or any(sorted(epoch) != list(range(count)) for epoch in epochs):
        raise TrainingError(
            f"verl's {updates} mini-batches came back with {[sum(map(len, update)) for update in calls]} "
            f"rows, and not each of the step's {count} once an epoch"
        )
    return Seen(calls, [log_probs[row] for row in range(count)])
