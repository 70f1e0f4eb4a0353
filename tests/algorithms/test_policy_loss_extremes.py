"""Extreme inputs: finite, and right."""

import math

import pytest
import torch

from gmpo_mm.algorithms import GMPOConfig, PolicyLossConfig, compute_policy_loss, count_units, finalize_metrics
from tests.algorithms.naive import config_name, every_config, make_batch

CONFIGS = every_config()


def run(log_ratios, advantages, config, dtype=torch.float32, mask=None):
    log_ratios = torch.tensor(log_ratios, dtype=dtype)
    log_probs = (log_ratios - 1.0).requires_grad_()
    mask = torch.ones_like(log_ratios, dtype=torch.bool) if mask is None else torch.tensor(mask)
    old = torch.full_like(log_ratios, -1.0)
    loss = compute_policy_loss(log_probs, old, torch.tensor(advantages, dtype=dtype), mask, config)
    loss.sum.backward()
    return loss.sum.item(), log_probs.grad, finalize_metrics(loss.metrics)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("config", CONFIGS, ids=config_name)
def test_extreme_log_ratios_give_finite_loss_gradient_and_metrics(config, dtype):
    rows = [[1e4] * 3, [-1e4] * 3, [1e4, -1e4, 0.0], [1e4, 0.1, -0.1], [-1e4, 0.1, -0.1], [90.0, 80.0, 100.0]]
    advantages = [a for a in (2.0, -2.0, 0.0) for _ in rows]
    value, gradient, metrics = run(rows * 3, advantages, config, dtype)
    assert math.isfinite(value)
    assert gradient.isfinite().all()
    assert all(math.isfinite(number) for number in metrics.values())


@pytest.mark.parametrize("config", CONFIGS, ids=config_name)
def test_advantage_zero_gives_loss_and_gradient_exactly_zero(config):
    value, gradient, _ = run([[1e4, 0.3], [-1e4, 0.2], [0.1, 0.1]], [0.0, 0.0, -0.0], config)
    assert value == 0.0
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("config", CONFIGS, ids=config_name)
def test_fully_masked_batch_gives_zero_loss_zero_gradient_and_no_metric_but_counts_sequences(config):
    batch = make_batch(0)
    mask = torch.zeros_like(batch.mask)
    log_probs = torch.full_like(batch.log_probs, float("nan")).requires_grad_()
    loss = compute_policy_loss(log_probs, batch.old, batch.advantages[:, 0], mask, config)
    loss.sum.backward()
    assert loss.sum.item() == 0.0
    assert torch.equal(log_probs.grad, torch.zeros_like(log_probs))
    of_sequences = config.loss_type in ("gmpo", "gspo") or config.loss_avg_mode == "seq"
    assert int(count_units(mask, config)) == (10 if of_sequences else 0)
    assert finalize_metrics(loss.metrics) == ({"actor/pg_loss": 0.0} if of_sequences else {})


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0)])
@pytest.mark.parametrize("config", CONFIGS, ids=config_name)
def test_batch_without_rows_or_without_tokens_gives_zero(config, shape):
    empty = torch.zeros(shape)
    assert compute_policy_loss(empty, empty, empty, empty.bool(), config).sum.item() == 0.0


@pytest.mark.parametrize("config", CONFIGS, ids=config_name)
def test_single_token_sequences_agree_between_geometric_and_arithmetic_mean(config):
    value, gradient, _ = run([[0.05]], [1.5], config, torch.float64)
    if config.loss_type in ("gmpo", "default", "gspo", "gspo_token"):
        assert value == pytest.approx(-1.5 * math.exp(0.05), rel=1e-12)
        assert gradient.item() == pytest.approx(-1.5 * math.exp(0.05), rel=1e-12)
    else:
        assert math.isfinite(value) and gradient.item() < 0


@pytest.mark.parametrize("exponent", [-200.0, -50.0, 50.0, 79.0])
def test_gmpo_is_exact_wherever_float32_can_represent_the_ratio(exponent):
    config = PolicyLossConfig(loss_type="gmpo", gmpo=GMPOConfig(clip="none", normalize=False))
    value, gradient, _ = run([[exponent / 2, exponent / 2]], [-1.0], config)
    assert value == pytest.approx(math.exp(exponent), rel=1e-4, abs=1e-38)
    assert gradient[0].tolist() == pytest.approx([math.exp(exponent)] * 2, rel=1e-4, abs=1e-38)


@pytest.mark.parametrize(("dtype", "largest"), [(torch.float32, 80.0), (torch.float64, 700.0)])
def test_gmpo_beyond_the_largest_exponent_is_constant_with_gradient_zero(dtype, largest):
    config = PolicyLossConfig(loss_type="gmpo", gmpo=GMPOConfig(clip="none", normalize=False))
    value, gradient, _ = run([[6e3, 4e3], [0.0, 0.0]], [-1.0, 0.0], config, dtype)
    assert value == pytest.approx(math.exp(largest), rel=1e-5)
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_gmpo_with_a_hopeless_token_under_negative_advantage_stays_finite_with_the_default_clip():
    """A < 0 has no upper bound in equation (4): the one place where clip=token, normalize=true can overflow too."""
    value, gradient, _ = run([[1e4, 1e4], [0.1, 0.1]], [-1.0, -1.0], PolicyLossConfig(loss_type="gmpo"))
    assert math.isfinite(value)
    assert gradient[1].tolist() == pytest.approx([math.exp(0.1) / 2] * 2, rel=1e-5)


def test_gspo_token_keeps_its_digits_when_log_probs_are_large():
    log_probs = torch.full((1, 3), -1e4, requires_grad=True)
    old = log_probs.detach() - torch.tensor([[0.125, 0.125, 0.1875]])  # exact; their mean has no short binary form
    config = PolicyLossConfig(loss_type="gspo_token")
    value = compute_policy_loss(log_probs, old, torch.ones(1), torch.ones(1, 3, dtype=torch.bool), config).sum
    assert value.item() == pytest.approx(-3 * math.exp(0.4375 / 3), rel=1e-6)


@pytest.mark.parametrize("config", CONFIGS, ids=config_name)
def test_nan_on_a_valid_token_is_not_hidden(config):
    """The trainer has to see it, to skip the update and count it."""
    value, _, metrics = run([[0.1, float("nan")], [0.1, 0.1]], [1.0, 1.0], config)
    assert math.isnan(value)
    assert math.isnan(metrics["ratio/token_max"])


def test_a_lower_bound_of_1_is_none() -> None:
    """EasyR1's files set clip_ratio_low: 1.0 for a one-sided CISPO; ratios of 1e-4 are then left alone."""
    log_ratios = torch.tensor([[-9.0, 0.0]])
    old = torch.full_like(log_ratios, -1.0)
    log_probs = (log_ratios - 1.0).requires_grad_()
    mask = torch.ones_like(log_ratios, dtype=torch.bool)
    config = PolicyLossConfig(loss_type="cispo", clip_ratio_low=1.0, clip_ratio_high=4.0)
    compute_policy_loss(log_probs, old, torch.ones(1), mask, config).sum.backward()
    assert log_probs.grad is not None
    torch.testing.assert_close(log_probs.grad, -log_ratios.exp())
