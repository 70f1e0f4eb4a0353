"""The loss of a mini-batch can't depend on how it is cut, ordered or padded."""

from itertools import pairwise

import pytest
import torch
from torch.nn.functional import pad

from gmpo_mm.algorithms import PolicyLossConfig, compute_policy_loss, count_units, finalize_metrics, merge_metrics
from tests.algorithms.naive import Batch, config_name, every_config, make_batch

CONFIGS = every_config()


def mean_loss(
    parts: list[Batch], config: PolicyLossConfig
) -> tuple[torch.Tensor, list[torch.Tensor], dict[str, float]]:
    """As a trainer does it: sums of micro-batches over the units of the mini-batch."""
    units = sum(int(count_units(part.mask, config)) for part in parts)
    leaves, metrics, total = [], [], torch.zeros(())
    for part in parts:
        log_probs = part.log_probs.clone().requires_grad_()
        loss = compute_policy_loss(log_probs, part.old, part.advantages, part.mask, config)
        (loss.sum / units).backward()
        total = total + loss.sum.detach() / units
        leaves.append(log_probs.grad)
        metrics.append(loss.metrics)
    return total, leaves, finalize_metrics(merge_metrics(metrics))


def cut(batch: Batch, sizes: list[int]) -> list[Batch]:
    edges = [sum(sizes[:k]) for k in range(len(sizes) + 1)]
    return [batch.rows(slice(a, b)) for a, b in pairwise(edges)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("config", CONFIGS, ids=config_name)
@pytest.mark.parametrize("sizes", [[1] * 10, [2] * 5, [3, 7], [10]], ids=str)
def test_micro_batch_cut_changes_nothing(config, sizes, dtype):
    batch = make_batch(7).to(dtype)
    whole, (gradient,), metrics = mean_loss([batch], config)
    total, gradients, merged = mean_loss(cut(batch, sizes), config)
    torch.testing.assert_close(total, whole, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(torch.cat(gradients), gradient, rtol=1e-6, atol=1e-7)
    assert merged == pytest.approx(metrics, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("config", CONFIGS, ids=config_name)
def test_row_order_changes_nothing(config):
    batch = make_batch(8).to(torch.float32)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    value, (gradient,), metrics = mean_loss([batch], config)
    moved_value, (moved_gradient,), moved_metrics = mean_loss([batch.rows(order)], config)
    torch.testing.assert_close(moved_value, value, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(moved_gradient, gradient[order], rtol=1e-6, atol=1e-7)
    assert moved_metrics == pytest.approx(metrics, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("config", CONFIGS, ids=config_name)
@pytest.mark.parametrize("left", [0, 4], ids=["right", "both"])
def test_padding_changes_nothing_whatever_it_holds(config, left):
    batch = make_batch(9).to(torch.float32)
    padded = Batch(
        pad(batch.log_probs, (left, 5), value=float("nan")),
        pad(batch.old, (left, 5), value=1e30),
        pad(batch.advantages, (left, 5), value=float("inf")),
        pad(batch.mask, (left, 5), value=False),
    )
    value, (gradient,), metrics = mean_loss([batch], config)
    padded_value, (padded_gradient,), padded_metrics = mean_loss([padded], config)
    torch.testing.assert_close(padded_value, value, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(padded_gradient, pad(gradient, (left, 5)), rtol=1e-6, atol=1e-7)
    assert padded_metrics == pytest.approx(metrics, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("config", CONFIGS, ids=config_name)
def test_rubbish_under_the_mask_has_no_effect_not_even_on_a_bit(config):
    batch = make_batch(3)
    cleaned = (torch.where(batch.mask, x, 0.0) for x in (batch.log_probs, batch.old, batch.advantages))
    clean = Batch(*cleaned, batch.mask)
    value, (gradient,), metrics = mean_loss([batch], config)
    clean_value, (clean_gradient,), clean_metrics = mean_loss([clean], config)
    assert torch.equal(value, clean_value)
    assert torch.equal(gradient, clean_gradient)
    assert metrics == clean_metrics
