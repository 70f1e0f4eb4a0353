"""Correction for a sampler whose probabilities differ from the trainer's."""

import math

import pytest
import torch

from gmpo_mm.algorithms import PolicyLossConfig, compute_policy_loss, truncated_importance_weights
from tests.algorithms.naive import config_name, every_config, make_batch, naive_loss

CONFIGS = every_config()


def test_weights_are_the_ratio_cut_at_the_cap_and_one_outside_the_mask():
    trainer = torch.tensor([[0.0, 1.0, -1.0, float("nan")]], requires_grad=True)
    mask = torch.tensor([[True, True, True, False]])
    weights = truncated_importance_weights(trainer, torch.zeros(1, 4), mask, cap=2.0)
    torch.testing.assert_close(weights, torch.tensor([[1.0, 2.0, math.exp(-1), 1.0]]))
    assert not weights.requires_grad


@pytest.mark.parametrize("gap", [1e4, -1e4])
def test_extreme_gaps_stay_finite_and_keep_a_geometric_mean(gap):
    weights = truncated_importance_weights(torch.full((1, 1), gap), torch.zeros(1, 1), torch.ones(1, 1).bool(), 2.0)
    assert weights.item() == pytest.approx(2.0 if gap > 0 else math.exp(-80), rel=1e-4)
    assert weights.log().isfinite().all()


def test_equal_log_probs_change_nothing():
    batch = make_batch(31)
    weights = truncated_importance_weights(batch.old, batch.old, batch.mask, 2.0)
    for config in CONFIGS:
        args = (batch.log_probs, batch.old, batch.advantages, batch.mask, config)
        assert torch.equal(compute_policy_loss(*args).sum, compute_policy_loss(*args, weights).sum)


@pytest.mark.parametrize("config", CONFIGS, ids=config_name)
def test_weights_multiply_tokens_or_as_their_geometric_mean_the_sequence(config):
    """Against the naive loop, one sequence at a time (and one token at a time for a loss of tokens)."""
    batch = make_batch(32)
    gap = torch.randn(batch.mask.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights = truncated_importance_weights(batch.old, batch.old - gap, batch.mask, cap=1.5)
    one_ratio = config.loss_type in ("gmpo", "gspo")
    leaf = batch.log_probs.clone().requires_grad_()
    expected = torch.zeros((), dtype=torch.float64)
    for i in range(10):
        row = batch.rows(slice(i, i + 1))
        n = int(row.mask.sum())
        if one_ratio and n:
            weight = math.prod(weights[i][batch.mask[i]].tolist()) ** (1 / n)
            expected = expected + weight * naive_loss(leaf[i : i + 1], row, config)[0]
        for t in range(n if not one_ratio else 0):
            # The loss of one token within its sequence: all advantages 0 but its own.
            single = batch.rows(slice(i, i + 1))
            single.advantages = torch.zeros_like(single.advantages)
            single.advantages[0, t] = batch.advantages[i, t]
            expected = expected + weights[i, t] * naive_loss(leaf[i : i + 1], single, config)[0]
    expected.backward()

    log_probs = batch.log_probs.clone().requires_grad_()
    weights[~batch.mask] = float("nan")
    loss = compute_policy_loss(log_probs, batch.old, batch.advantages, batch.mask, config, token_weights_BT=weights)
    loss.sum.backward()
    torch.testing.assert_close(loss.sum.detach(), expected.detach(), rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(log_probs.grad, torch.nan_to_num(leaf.grad), rtol=1e-10, atol=1e-13)


def test_one_weight_a_sequence_never_exceeds_the_cap():
    batch = make_batch(33)
    weights = truncated_importance_weights(batch.old, batch.old - 5.0, batch.mask, cap=2.0)
    args = (batch.log_probs, batch.old, batch.advantages, batch.mask, PolicyLossConfig(loss_type="gmpo"))
    assert compute_policy_loss(*args, weights).sum.item() == pytest.approx(
        2.0 * compute_policy_loss(*args).sum.item(), rel=1e-12
    )


@pytest.mark.parametrize("cap", [0.0, -1.0, float("nan"), float("inf")])
def test_cap_must_be_a_finite_number_above_zero(cap):
    with pytest.raises(ValueError, match="cap"):
        truncated_importance_weights(torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1, 1), cap)
