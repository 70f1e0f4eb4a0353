"""What the paper proves about GMPO holds for our code."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gmpo_mm.algorithms import GMPOConfig, PolicyLossConfig, compute_policy_loss, finalize_metrics
from tests.algorithms.naive import make_batch

UNCLIPPED = PolicyLossConfig(loss_type="gmpo", gmpo=GMPOConfig(clip="none"))
# GRPO without clipping, as in equation (2): bounds that no ratio of the test reaches.
GRPO = PolicyLossConfig(clip_ratio_low=1 - 1e-8, clip_ratio_high=1e8, clip_ratio_dual=1e8, loss_avg_mode="seq")


def gmpo(low=0.4, high=0.4, **options) -> PolicyLossConfig:
    return PolicyLossConfig(loss_type="gmpo", gmpo=GMPOConfig(log_clip_low=low, log_clip_high=high, **options))


def loss_and_gradient(log_probs, old, advantages, mask, config):
    log_probs = log_probs.clone().requires_grad_()
    total = compute_policy_loss(log_probs, old, advantages, mask, config).sum
    total.backward()
    return total.item(), log_probs.grad


def test_equation_6_gradient_is_the_geometric_mean_ratio_times_the_policy_gradient():
    batch = make_batch(4)
    _, gradient = loss_and_gradient(batch.log_probs, batch.old, batch.advantages, batch.mask, UNCLIPPED)
    for i in range(batch.mask.shape[0]):
        valid = batch.mask[i]
        n = int(valid.sum())
        if n == 0:
            assert torch.equal(gradient[i], torch.zeros_like(gradient[i]))
            continue
        ratios = (batch.log_probs[i, valid] - batch.old[i, valid]).exp()
        expected = -ratios.prod() ** (1 / n) * batch.advantages[i, 0] / n  # of the loss: minus the objective
        torch.testing.assert_close(gradient[i, valid], expected.expand(n), rtol=1e-12, atol=1e-15)
        assert torch.equal(gradient[i, ~valid], torch.zeros(int((~valid).sum()), dtype=torch.float64))


def test_equation_5_gradient_of_grpo_is_each_tokens_own_ratio_times_the_policy_gradient():
    batch = make_batch(4)
    _, gradient = loss_and_gradient(batch.log_probs, batch.old, batch.advantages, batch.mask, GRPO)
    i, n = 2, int(batch.mask[2].sum())
    ratios = (batch.log_probs[i] - batch.old[i]).exp()
    torch.testing.assert_close(gradient[i], -ratios * batch.advantages[i] / n, rtol=1e-12, atol=1e-15)


def test_algorithm_1_as_printed_for_equal_bounds():
    batch = make_batch(6)
    epsilon = 0.4
    for i in range(batch.mask.shape[0]):
        mask = batch.mask[i]
        if not mask.any():
            continue
        advantage = batch.advantages[i, 0]
        sgn = 1 if advantage > 0 else -1
        difference = sgn * (batch.log_probs[i] - batch.old[i])
        difference_min = sgn * torch.min(difference, torch.clamp(difference, -epsilon, epsilon))
        printed = -advantage * torch.exp(difference_min[mask].sum() / mask.sum())
        row = batch.rows(slice(i, i + 1))
        value, _ = loss_and_gradient(row.log_probs, row.old, row.advantages, row.mask, gmpo(epsilon, epsilon))
        assert value == pytest.approx(printed.item(), rel=1e-12)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.lists(st.lists(st.floats(-6, 6), min_size=1, max_size=6), min_size=1, max_size=5),
    st.lists(st.floats(-3, 3), min_size=5, max_size=5),
)
def test_objective_of_gmpo_is_never_larger_than_that_of_grpo(rows, advantages):
    """|J_GMPO| <= |J_GRPO| for rollouts of one sign, in fact for each rollout (geometric <= arithmetic mean)."""
    for row, advantage in zip(rows, advantages, strict=False):
        log_probs = torch.tensor([row], dtype=torch.float64)
        args = (log_probs, torch.zeros_like(log_probs), torch.tensor([advantage], dtype=torch.float64))
        mask = torch.ones_like(log_probs, dtype=torch.bool)
        geometric = compute_policy_loss(*args, mask, UNCLIPPED).sum.item()
        arithmetic = compute_policy_loss(*args, mask, GRPO).sum.item()
        assert abs(geometric) <= abs(arithmetic) * (1 + 1e-12) + 1e-300
        assert geometric * arithmetic >= 0


@pytest.mark.parametrize(
    ("advantage", "log_ratio", "effective"),
    [(1, 2.0, 0.7), (1, -2.0, -2.0), (-1, -2.0, -0.3), (-1, 2.0, 2.0), (1, 0.5, 0.5), (-1, -0.2, -0.2)],
)
def test_high_binds_where_the_advantage_is_positive_and_low_where_it_is_negative(advantage, log_ratio, effective):
    one = torch.ones(1, 1, dtype=torch.float64)
    config = gmpo(low=0.3, high=0.7)
    value, gradient = loss_and_gradient(one * log_ratio, 0 * one, advantage * one, one.bool(), config)
    assert value == pytest.approx(-advantage * math.exp(effective), rel=1e-12)
    clipped = effective != log_ratio
    assert gradient.item() == (0.0 if clipped else pytest.approx(-advantage * math.exp(effective), rel=1e-12))


def test_gradient_passes_exactly_at_the_bound():
    one = torch.ones(1, 1, dtype=torch.float64)
    _, gradient = loss_and_gradient(one * 0.4, 0 * one, one, one.bool(), gmpo())
    assert gradient.item() == pytest.approx(-math.exp(0.4), rel=1e-12)


def test_token_clip_silences_the_clipped_token_and_sequence_clip_the_whole_sequence():
    log_ratios = torch.tensor([[2.0, 0.1, 0.1]], dtype=torch.float64)
    mask = torch.ones_like(log_ratios, dtype=torch.bool)
    advantage = torch.ones(1, dtype=torch.float64)
    _, by_token = loss_and_gradient(log_ratios, 0 * log_ratios, advantage, mask, gmpo())
    _, by_sequence = loss_and_gradient(log_ratios, 0 * log_ratios, advantage, mask, gmpo(clip="sequence"))
    assert by_token[0, 0] == 0 and (by_token[0, 1:] < 0).all()
    assert torch.equal(by_sequence, torch.zeros_like(by_sequence))


def test_sequence_clip_bounds_the_product_of_ratios_before_the_root():
    """Table 4 line 3: three ratios of e^0.2 make a product of e^0.6, which 0.4 clips although no token exceeds it."""
    log_ratios = torch.full((1, 3), 0.2, dtype=torch.float64)
    mask = torch.ones_like(log_ratios, dtype=torch.bool)
    advantage = torch.ones(1, dtype=torch.float64)
    value, _ = loss_and_gradient(log_ratios, 0 * log_ratios, advantage, mask, gmpo(clip="sequence"))
    assert value == pytest.approx(-math.exp(0.4 / 3), rel=1e-12)
    loss = compute_policy_loss(log_ratios, 0 * log_ratios, advantage, mask, gmpo(clip="sequence"))
    assert finalize_metrics(loss.metrics)["clip/high_frac"] == 1.0
