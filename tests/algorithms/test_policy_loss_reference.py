"""Values and gradients of every loss and option against a naive float64 double loop."""

import pytest
import torch

from gmpo_mm.algorithms import PolicyLossConfig, compute_policy_loss, count_units
from tests.algorithms.naive import Batch, config_name, every_config, make_batch, naive_loss

CONFIGS = every_config()


def ours(batch: Batch, config: PolicyLossConfig, **kwargs) -> tuple[torch.Tensor, torch.Tensor]:
    log_probs = batch.log_probs.clone().requires_grad_()
    loss = compute_policy_loss(log_probs, batch.old, batch.advantages, batch.mask, config, **kwargs)
    loss.sum.backward()
    return loss.sum.detach(), log_probs.grad


@pytest.mark.parametrize("config", CONFIGS, ids=config_name)
@pytest.mark.parametrize("seed", range(3))
def test_value_gradient_and_unit_count_equal_the_naive_double_loop(config, seed):
    batch = make_batch(seed)
    reference = batch.log_probs.clone().requires_grad_()
    expected, units = naive_loss(reference, batch, config)
    expected.backward()

    value, gradient = ours(batch, config)

    assert value.dtype == torch.float64
    torch.testing.assert_close(value, expected.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, torch.nan_to_num(reference.grad), rtol=1e-11, atol=1e-13)
    assert gradient.abs().sum() > 0
    assert int(count_units(batch.mask, config)) == units


@pytest.mark.parametrize("config", [c for c in CONFIGS if c.loss_type != "gmpo"], ids=config_name)
def test_advantages_that_differ_by_token_equal_the_naive_double_loop(config):
    batch = make_batch(5, per_token=True)
    reference = batch.log_probs.clone().requires_grad_()
    expected, _ = naive_loss(reference, batch, config)
    expected.backward()
    value, gradient = ours(batch, config)
    torch.testing.assert_close(value, expected.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, torch.nan_to_num(reference.grad), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("config", CONFIGS, ids=config_name)
def test_one_advantage_a_sequence_equals_the_same_advantage_on_each_token(config):
    batch = make_batch(1)
    advantages_B = torch.tensor([0.7, -1.0, 0.3, 0.0, -0.2, 1.5, -2.0, 0.9, -0.4, 0.1], dtype=torch.float64)
    log_probs = batch.log_probs.clone().requires_grad_()
    loss = compute_policy_loss(log_probs, batch.old, advantages_B, batch.mask, config)
    loss.sum.backward()
    batch.advantages = advantages_B[:, None].expand_as(batch.mask)
    value, gradient = ours(batch, config)
    assert torch.equal(loss.sum.detach(), value)
    assert torch.equal(log_probs.grad, gradient)


@pytest.mark.parametrize("config", CONFIGS, ids=config_name)
def test_float32_agrees_with_float64(config):
    batch = make_batch(2)
    value64, gradient64 = ours(batch, config)
    value32, gradient32 = ours(batch.to(torch.float32), config)
    assert value32.dtype == torch.float32
    torch.testing.assert_close(value32.double(), value64, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient32.double(), gradient64, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", CONFIGS, ids=config_name)
def test_bfloat16_inputs_are_computed_in_float32(config):
    batch = make_batch(2).to(torch.bfloat16)
    value, gradient = ours(batch, config)
    exact_value, exact_gradient = ours(batch.to(torch.float32), config)
    assert value.dtype == torch.float32
    assert gradient.dtype == torch.bfloat16
    assert torch.equal(value, exact_value)
    assert torch.equal(gradient, exact_gradient.to(torch.bfloat16))


@pytest.mark.parametrize("config", CONFIGS, ids=config_name)
def test_no_gradient_flows_into_old_log_probs_and_advantages(config):
    batch = make_batch(2)
    log_probs, old, advantages = (x.clone().requires_grad_() for x in (batch.log_probs, batch.old, batch.advantages))
    compute_policy_loss(log_probs, old, advantages, batch.mask, config).sum.backward()
    assert log_probs.grad is not None
    assert old.grad is None and advantages.grad is None
