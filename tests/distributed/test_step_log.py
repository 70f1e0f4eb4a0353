"""What a Ray engine's loop logs arrives in our files under our names, before a checkpoint of the step is saved."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import torch

from gmpo_mm.engines.batch_metrics import response_shares
from gmpo_mm.engines.step_log import StepLog
from gmpo_mm.runs.progress import Progress


def logged(data: dict[str, Any]) -> list[tuple[Any, ...]]:
    """What happens, in order, when a loop logs `data` as step 3 of 5."""
    events: list[tuple[Any, ...]] = []

    def log(*line: Any) -> None:
        events.append(line)

    trainer = SimpleNamespace(
        trackers=SimpleNamespace(log=log, console=False),
        progress=Progress(io.StringIO()),
        watch=SimpleNamespace(step=lambda step, metrics: events.append(("watched", step))),
        steps_in_all=5,
        own_metrics=lambda: {"actor/own": 1.0},
        own_validation=lambda: {"val/own": 2.0},
        step_recorded=lambda: events.append(("recorded",)),
    )
    StepLog(trainer).log(data, 3)  # type: ignore[arg-type]
    return events


def test_a_validation_is_told_from_a_step_by_its_names() -> None:
    values = {"values/mean": 0.5, "critic/values": 0.1}
    validation = {"val/reward_score": 1, "val_response_length/mean": 2, "val-core/acc": 3}
    train, valid, *after = logged({**values, **validation})
    assert train == (3, "train", {**values, "actor/own": 1.0})
    assert valid == (3, "validation", {**validation, "val/own": 2.0})
    assert after == [("watched", 3), ("recorded",)], "a checkpoint waits until both are written"


def test_a_validation_alone_records_no_step() -> None:
    assert logged({"val/reward_score": 1}) == [(3, "validation", {"val/reward_score": 1.0, "val/own": 2.0})]


def test_the_time_of_a_save_that_did_not_take_place_is_left_out_and_timeouts_have_our_name() -> None:
    (_, _, metrics), *_ = logged({"timing_s/save_checkpoint": 9, "reward/verifier_timeout": 0.25})
    assert metrics == {"actor/own": 1.0, "reward/verifier_timeout": 0.25, "verifier/timeout_frac": 0.25}


def test_shares_of_a_batch_follow_their_definition_for_any_order_of_the_rows() -> None:
    torch.manual_seed(0)
    rows, length, end = 12, 6, [7, 9]
    lengths = torch.randint(1, length + 1, (rows,))
    mask_BT = torch.arange(length) < lengths[:, None]
    responses_BT = torch.randint(0, 10, (rows, length))
    groups = [f"g{i % 4}" for i in range(rows)]
    advantages_BT = torch.randn(rows, 1).expand(rows, length) * torch.tensor([float(g != "g1") for g in groups])[:, None]
    advantages_BT = torch.where(mask_BT, advantages_BT, 1.0)  # what padding holds says nothing
    cut = sum(int(responses_BT[i, lengths[i] - 1]) not in end for i in range(rows)) / rows
    order = torch.randperm(rows).tolist()
    for rows_of in (list(range(rows)), order):
        found = response_shares(
            responses_BT[rows_of], mask_BT[rows_of], advantages_BT[rows_of], [groups[i] for i in rows_of], end
        )
        assert found == {"response/truncated_frac": 1 - (1 - cut), "group/zero_advantage_frac": 0.25}
