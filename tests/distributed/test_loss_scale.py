"""The gradient of a mini-batch does not depend on micro-batches or ranks; under EasyR1's own weights it does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from gmpo_mm.algorithms import PolicyLossConfig, compute_policy_loss
from gmpo_mm.engines.distributed import LossScale, reduce_over_ranks, world_size
from tests.algorithms.naive import Batch, make_batch
from tests.distributed.ranks import on_ranks

LOSSES = [
    PolicyLossConfig(loss_type="gmpo"),
    PolicyLossConfig(loss_type="default", loss_avg_mode="seq"),
    PolicyLossConfig(loss_type="default", loss_avg_mode="token"),
    PolicyLossConfig(loss_type="gspo"),
    PolicyLossConfig(loss_type="sapo", loss_avg_mode="seq"),
]
SEQUENCES = 8


def whole_batch() -> Batch:
    """Ragged lengths, from none to all tokens."""
    return make_batch(seed=3, sequences=SEQUENCES, tokens=9)


def policy_gradient(batch: Batch, rows: list[int], micro: int, loss: PolicyLossConfig, seq_mean: str) -> torch.Tensor:
    """Gradient by a parameter that every token's log-probability depends on, of one rank's rows."""
    weight_T = torch.zeros(9, dtype=torch.float64, requires_grad=True)
    scale = LossScale(batch.mask[rows], loss, seq_mean)
    for start in range(0, len(rows), micro):
        part = batch.rows(rows[start : start + micro])
        log_probs = part.log_probs + weight_T * torch.arange(1, 10)
        total = compute_policy_loss(log_probs, part.old, part.advantages, part.mask, loss).sum
        (total * scale.of(part.mask)).backward()
    return weight_T.grad


def naive_gradient(loss: PolicyLossConfig) -> torch.Tensor:
    """The gradient of the mean over units, written down once more."""
    batch = whole_batch()
    weight_T = torch.zeros(9, dtype=torch.float64, requires_grad=True)
    log_probs = batch.log_probs + weight_T * torch.arange(1, 10)
    total = compute_policy_loss(log_probs, batch.old, batch.advantages, batch.mask, loss).sum
    by_tokens = loss.loss_type in ("default", "sapo") and loss.loss_avg_mode == "token"
    (total / (int(batch.mask.sum()) if by_tokens else SEQUENCES)).backward()
    return weight_T.grad


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("micro", [1, 2, 4, 8])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda c: f"{c.loss_type}-{c.loss_avg_mode}")
def test_micro_batches_add_up_to_the_full_batch(loss: PolicyLossConfig, micro: int) -> None:
    found = policy_gradient(whole_batch(), list(range(SEQUENCES)), micro, loss, "exact")
    assert relative(found, naive_gradient(loss)) < 1e-12


@pytest.mark.parametrize("loss", [LOSSES[0], LOSSES[1]], ids=["gmpo", "default-seq"])
def test_easyr1s_weights_depend_on_the_cut_when_the_loss_is_a_mean_over_sequences(loss: PolicyLossConfig) -> None:
    found = {micro: policy_gradient(whole_batch(), list(range(8)), micro, loss, "easyr1") for micro in (1, 2, 4, 8)}
    assert relative(found[8], naive_gradient(loss)) < 1e-12, "one micro-batch is the mini-batch"
    for micro in (1, 2, 4):
        assert relative(found[micro], naive_gradient(loss)) > 0.05
    by_tokens = PolicyLossConfig(loss_type="default", loss_avg_mode="token")
    for micro in (1, 2, 4):
        token = policy_gradient(whole_batch(), list(range(8)), micro, by_tokens, "easyr1")
        assert relative(token, naive_gradient(by_tokens)) < 1e-12, "a mean over tokens is not touched"


def _gradients_of_a_rank(rank: int) -> dict[str, torch.Tensor]:
    """Averaged over ranks as FSDP does it, for every loss and micro-batch size; ranks hold sequences of other lengths."""
    rows = [[0, 3, 1, 6], [2, 4, 5, 7]][rank]
    found = {}
    for number, loss in enumerate(LOSSES):
        for micro in (1, 2, 4):
            gradient = policy_gradient(whole_batch(), rows, micro, loss, "exact")
            dist.all_reduce(gradient)
            found[f"{number}/{micro}"] = gradient / world_size()
    stock = policy_gradient(whole_batch(), rows, 2, LOSSES[0], "easyr1")
    dist.all_reduce(stock)
    return found | {"stock": stock / world_size()}


def _metrics_of_a_rank(rank: int) -> dict[str, torch.Tensor]:
    batch = whole_batch()
    rows = [[0, 3, 1], [2, 4, 5, 6, 7]][rank]
    part = batch.rows(rows)
    metrics = compute_policy_loss(part.log_probs, part.old, part.advantages, part.mask, LOSSES[0]).metrics
    merged = reduce_over_ranks(metrics)
    return {name: torch.stack([m.value.double(), m.count.double()]) for name, m in merged.items()}


def test_two_ranks_give_the_gradient_of_one(tmp_path: Path) -> None:
    first, second = on_ranks(2, _gradients_of_a_rank, tmp_path)
    for name, gradient in first.items():
        assert torch.equal(gradient, second[name])
        if name != "stock":
            assert relative(gradient, naive_gradient(LOSSES[int(name.split("/")[0])])) < 1e-12
    assert relative(first["stock"], naive_gradient(LOSSES[0])) > 0.05


def test_metrics_of_two_ranks_are_those_of_all_rows(tmp_path: Path) -> None:
    first, second = on_ranks(2, _metrics_of_a_rank, tmp_path)
    batch = whole_batch()
    whole = compute_policy_loss(batch.log_probs, batch.old, batch.advantages, batch.mask, LOSSES[0]).metrics
    assert first.keys() == second.keys() == whole.keys()
    for name, metric in whole.items():
        assert torch.equal(first[name], second[name])
        value, count = first[name].tolist()
        assert count == float(metric.count), name
        assert value == pytest.approx(float(metric.value), rel=1e-12), name


def test_without_a_process_group_metrics_stay_as_they_are() -> None:
    batch = whole_batch()
    metrics = compute_policy_loss(batch.log_probs, batch.old, batch.advantages, batch.mask, LOSSES[0]).metrics
    assert reduce_over_ranks(metrics) == metrics
    assert reduce_over_ranks({}) == {}


def test_an_unknown_weighting_is_refused() -> None:
    with pytest.raises(ValueError, match=r"seq_mean: 'tokens' is unknown; use exact or easyr1"):
        LossScale(whole_batch().mask, LOSSES[0], "tokens")


def test_a_mini_batch_without_a_token_gives_no_gradient_rather_than_a_nan() -> None:
    empty = whole_batch()
    empty.mask[:] = False
    for loss in LOSSES:
        assert policy_gradient(empty, [0, 1], 1, loss, "exact").eq(0).all()
