"""Rows and log-probabilities of the update's forward passes, as verl strings them together."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tensordict import TensorDict
from verl.utils.py_functional import append_to_dict

from gmpo_mm.engines.verl.seen import ROW, seen_here, take_seen
from gmpo_mm.errors import TrainingError

LENGTHS = [3, 1, 2, 4, 2, 1, 3, 2]


def micro_batch(rows: list[int], epoch: int) -> dict[str, Any]:
    """What a worker sends of these rows; row r's log-probabilities are -(r + 0.1 t + 100 epoch)."""
    lengths = [LENGTHS[row] for row in rows]
    masks = torch.nested.as_nested_tensor(
        [torch.zeros(n, dtype=torch.long) for n in lengths], layout=torch.jagged
    )
    data = TensorDict({ROW: torch.tensor(rows)[:, None], "response_mask": masks}, batch_size=len(rows))
    log_probs_BT = torch.full((len(rows), max(lengths)), 7.0)
    for place, row in enumerate(rows):
        log_probs_BT[place, : LENGTHS[row]] = expected(row, epoch)
    return seen_here(data, log_probs_BT.requires_grad_())


def expected(row: int, epoch: int) -> torch.Tensor:
    return -(row + 0.1 * torch.arange(LENGTHS[row]) + 100.0 * epoch)


def metrics(updates: list[list[list[int]]], epochs: int) -> dict[str, Any]:
    """As verl's worker puts the micro-batches of all ranks into one list, mini-batch by mini-batch."""
    together: dict[str, Any] = {"grad_norm": [1.0] * len(updates) * epochs}
    for epoch in range(epochs):
        for calls in updates:
            of_update: dict[str, Any] = {}
            for rows in calls:
                append_to_dict(of_update, micro_batch(rows, epoch))
            append_to_dict(together, of_update)
    return together


def test_rows_of_each_optimizer_step_and_log_probs_of_the_last_epoch_come_back() -> None:
    calls = [[[5, 0], [2], [7]], [[1], [6, 3], [4]]]
    sent = metrics(calls, epochs=2)
    seen = take_seen(sent, 4)
    assert seen is not None and list(sent) == ["grad_norm"]
    assert seen.calls == calls * 2 and seen.last_epoch == calls
    assert seen.updates == [[0, 2, 5, 7], [1, 3, 4, 6]] * 2
    for row, log_probs in enumerate(seen.log_probs):
        assert torch.equal(log_probs, expected(row, 1)) and not log_probs.requires_grad


def test_a_step_without_numbered_rows_sends_nothing() -> None:
    data = TensorDict({"response_mask": torch.ones(2, 3)}, batch_size=2)
    assert seen_here(data, torch.zeros(2, 3)) == {}
    assert take_seen({"grad_norm": [1.0]}, 1) is None


@pytest.mark.parametrize(
    ("calls", "epochs", "updates"),
    [([[[0, 1]], [[2, 3, 4]]], 1, 2), ([[[0, 1]], [[2, 2]]], 1, 2), ([[[0]], [[1]], [[2]]], 1, 2)],
    ids=["unequal", "a row twice", "more steps than norms"],
)
def test_mini_batches_that_do_not_hold_each_row_once_an_epoch_end_the_run(
    calls: Any, epochs: int, updates: int
) -> None:
    with pytest.raises(TrainingError, match="not each of the step's"):
        take_seen(metrics(calls, epochs), updates)
