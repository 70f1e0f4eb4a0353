"""What the forward passes of an update saw, on its way from verl's workers to the trainer: rows and log-probabilities.

A worker gets a mini-batch as rows cut out of the step's; the trainer numbers the rows, and each micro-batch says which it
holds. It travels with the metrics, so no pass is added.
"""

from __future__ import annotations

from collections.abc import Iterable
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
    """The rows of each optimizer step, in order, of all epochs and ranks; and each row's log-probabilities in the last one."""

    updates: list[list[int]]
    log_probs: list[torch.Tensor]
    """For each row (tokens,), float32."""


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
    """Remove the entries of all micro-batches from what `update_actor` returned; None where the rows had no numbers.

    verl strings the mini-batches together, each with the micro-batches of all its ranks, and gives all the same number of rows.
    """
    parts: list[tuple[list[int], list[int], np.ndarray]] = metrics.pop(_SEEN, [])
    if not parts:
        return None
    size, rest = divmod(sum(len(rows) for rows, _, _ in parts), updates)
    found: list[list[int]] = [[]]
    log_probs: dict[int, torch.Tensor] = {}
    for rows, lengths, flat in parts:
        if len(found[-1]) == size:
            found.append([])
        found[-1] += rows
        log_probs |= zip(rows, torch.from_numpy(flat).split(lengths), strict=True)
    if rest or any(len(rows) != size for rows in found) or len(found) != updates:
        raise TrainingError(f"verl's {updates} mini-batches came back with {[len(rows) for rows in found]} rows")
    _check_whole(found, len(log_probs))
    return Seen([sorted(rows) for rows in found], [log_probs[row] for row in range(len(log_probs))])


def _check_whole(updates: Iterable[list[int]], rows: int) -> None:
    """Every epoch trains on each row once."""
    in_order = [row for update in updates for row in update]
    epochs = [in_order[start : start + rows] for start in range(0, len(in_order), rows)]
    if any(sorted(epoch) != list(range(rows)) for epoch in epochs):
        raise TrainingError("verl's mini-batches do not hold each row of the step once an epoch")
