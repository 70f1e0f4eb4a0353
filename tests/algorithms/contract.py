"""What every policy loss promises, as checks that take a config: the same that the older losses are held to."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gmpo_mm.algorithms import PolicyLossConfig, compute_policy_loss, count_units, finalize_metrics
from tests.algorithms import test_policy_loss_extremes as extremes
from tests.algorithms import test_policy_loss_invariance as invariance
from tests.algorithms import test_policy_loss_reference as reference
from tests.algorithms.naive import Batch, make_batch

Row = Callable[[list[Tensor], list[float], list[float]], Tensor]
"""The loss of one sequence from the equation, in float64: log-probs (with gradient), old ones and advantages of its
valid tokens -> the sum over its tokens, or its one loss."""


def check_reference(config: PolicyLossConfig, row: Row, per_token: bool = False) -> None:
    """Value, gradient and unit count of several batches against `row`, summed over sequences in a loop."""
    for seed in range(3):
        batch = make_batch(seed, per_token=per_token)
        log_probs = batch.log_probs.clone().requires_grad_()
        expected = torch.zeros((), dtype=torch.float64)
        units = 0
        for i in range(batch.mask.shape[0]):
            valid = [t for t in range(batch.mask.shape[1]) if batch.mask[i, t]]
            units += len(valid) if of_tokens(config) else 1
            if valid:
                old, advantages = ([x[i, t].item() for t in valid] for x in (batch.old, batch.advantages))
                expected = expected + row([log_probs[i, t] for t in valid], old, advantages)
        expected.backward()
        value, gradient = reference.ours(batch, config)
        torch.testing.assert_close(value, expected.detach(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradient, torch.nan_to_num(log_probs.grad), rtol=1e-11, atol=1e-13)
        assert gradient.abs().sum() > 0
        assert int(count_units(batch.mask, config)) == units
        loss = compute_policy_loss(batch.log_probs, batch.old, batch.advantages, batch.mask, config)
        assert finalize_metrics(loss.metrics)["actor/pg_loss"] == pytest.approx(
            loss.sum.item() / units, rel=1e-12
        )


def of_tokens(config: PolicyLossConfig) -> bool:
    mask = torch.ones(1, 3, dtype=torch.bool)
    return int(count_units(mask, config)) == 3


def check_contract(config: PolicyLossConfig) -> None:
    """Extremes, dtypes, masks and the cut of the batch."""
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        extremes.test_extreme_log_ratios_give_finite_loss_gradient_and_metrics(config, dtype)
    extremes.test_advantage_zero_gives_loss_and_gradient_exactly_zero(config)
    extremes.test_nan_on_a_valid_token_is_not_hidden(config)
    for shape in ((0, 4), (3, 0), (0, 0)):
        extremes.test_batch_without_rows_or_without_tokens_gives_zero(config, shape)
    check_fully_masked(config, make_batch(0))
    reference.test_one_advantage_a_sequence_equals_the_same_advantage_on_each_token(config)
    reference.test_float32_agrees_with_float64(config)
    reference.test_bfloat16_inputs_are_computed_in_float32(config)
    reference.test_no_gradient_flows_into_old_log_probs_and_advantages(config)
    for sizes in ([1] * 10, [3, 7]):
        for dtype in (torch.float32, torch.float64):
            invariance.test_micro_batch_cut_changes_nothing(config, sizes, dtype)
    invariance.test_row_order_changes_nothing(config)
    for left in (0, 4):
        invariance.test_padding_changes_nothing_whatever_it_holds(config, left)
    invariance.test_rubbish_under_the_mask_has_no_effect_not_even_on_a_bit(config)


def check_fully_masked(config: PolicyLossConfig, batch: Batch) -> None:
    mask = torch.zeros_like(batch.mask)
    log_probs = torch.full_like(batch.log_probs, float("nan")).requires_grad_()
    loss = compute_policy_loss(log_probs, batch.old, batch.advantages[:, 0], mask, config)
    loss.sum.backward()
    assert loss.sum.item() == 0.0
    assert torch.equal(log_probs.grad, torch.zeros_like(log_probs))
    assert finalize_metrics(loss.metrics) == ({} if of_tokens(config) else {"actor/pg_loss": 0.0})
