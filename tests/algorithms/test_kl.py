"""KL estimators by hand, unbiased where they claim to be; the penalty in the reward; the controllers."""

import math

import pytest
import torch

from gmpo_mm.algorithms import (
    AdaptiveKLController,
    FixedKLController,
    aggregate,
    apply_kl_to_rewards,
    compute_kl,
    make_kl_controller,
    mean_sequence_kl,
)


@pytest.mark.parametrize("x", [-3.0, -0.1, 0.0, 0.5, 2.0])
def test_each_kind_by_hand_with_its_gradient(x):
    expected = {
        "kl": (x, 1.0),
        "abs": (abs(x), math.copysign(1.0, x) if x else 0.0),
        "mse": (x * x / 2, x),
        "low_var_kl": (min(math.exp(-x) + x - 1, 10.0), 1 - math.exp(-x) if math.exp(-x) + x - 1 < 10 else 0.0),
    }
    for kind, (value, slope) in expected.items():
        log_probs = torch.full((1, 1), x - 1.0, dtype=torch.float64, requires_grad=True)
        kl = compute_kl(log_probs, torch.full((1, 1), -1.0, dtype=torch.float64), kind)
        kl.sum().backward()
        assert kl.item() == pytest.approx(value, abs=1e-12)
        assert log_probs.grad.item() == pytest.approx(slope, abs=1e-12)


@pytest.mark.parametrize("kind", ["kl", "low_var_kl"])
def test_expectation_over_the_policy_is_the_true_divergence(kind):
    """Summed exactly over a vocabulary rather than sampled."""
    log_p = torch.log_softmax(torch.tensor([0.3, -1.0, 0.8, 0.1], dtype=torch.float64), 0)
    log_q = torch.log_softmax(torch.tensor([0.1, -0.5, 0.2, 0.4], dtype=torch.float64), 0)
    truth = torch.nn.functional.kl_div(log_q, log_p, log_target=True, reduction="sum")
    estimate = (log_p.exp() * compute_kl(log_p[None], log_q[None], kind)[0]).sum()
    torch.testing.assert_close(estimate, truth, rtol=1e-12, atol=1e-15)
    full = compute_kl(log_p[None, None], log_q[None, None], "full")
    assert full.shape == (1, 1)
    torch.testing.assert_close(full[0, 0], truth, rtol=1e-12, atol=1e-15)


def test_low_variance_kl_keeps_its_digits_near_zero():
    x = 1e-4
    got = compute_kl(torch.full((1, 1), x), torch.zeros(1, 1), "low_var_kl").item()
    assert got == pytest.approx(x * x / 2, rel=0.05)


@pytest.mark.parametrize("kind", ["kl", "abs", "mse", "low_var_kl"])
def test_bfloat16_is_computed_in_float32_and_extremes_are_finite(kind):
    log_probs = torch.tensor([[-1e4, -0.5]], dtype=torch.bfloat16, requires_grad=True)
    kl = compute_kl(log_probs, torch.tensor([[-0.5, -1e4]], dtype=torch.bfloat16), kind)
    kl.sum().backward()
    assert kl.dtype == torch.float32
    assert kl.isfinite().all() and log_probs.grad.isfinite().all()


@pytest.mark.parametrize("kind", ["kl", "abs", "mse", "low_var_kl"])
@pytest.mark.parametrize("mode", ["token", "seq"])
def test_rubbish_under_the_mask_reaches_neither_value_nor_gradient(kind, mode):
    mask = torch.tensor([[True, False], [False, False]])
    log_probs = torch.tensor([[-1.0, float("nan")], [float("inf"), -float("inf")]], requires_grad=True)
    ref = torch.tensor([[-1.5, 2.0], [float("nan"), 0.0]])
    total = aggregate(compute_kl(log_probs, ref, kind, mask), mask, mode)
    total.backward()
    assert total.item() == pytest.approx(compute_kl(torch.tensor([[-1.0]]), torch.tensor([[-1.5]]), kind).item())
    assert log_probs.grad.isfinite().all() and log_probs.grad[0, 0] != 0
    assert log_probs.grad[~mask].tolist() == [0.0] * 3


def test_full_on_sampled_tokens_and_unknown_kinds_are_errors():
    with pytest.raises(ValueError, match=r"'full' needs the log-probabilities of the whole vocabulary.*\(2, 3\)"):
        compute_kl(torch.zeros(2, 3), torch.zeros(2, 3), "full")
    with pytest.raises(ValueError, match="'k3' is unknown; use one of kl, abs"):
        compute_kl(torch.zeros(2, 3), torch.zeros(2, 3), "k3")


def test_aggregate_is_a_sum_over_tokens_or_over_sequence_means():
    values = torch.tensor([[1.0, 2.0, 9.0], [4.0, float("nan"), 9.0], [5.0, 5.0, 5.0]])
    mask = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    assert aggregate(values, mask, "token").item() == 7.0
    assert aggregate(values, mask, "seq").item() == 5.5
    with pytest.raises(ValueError, match="'mean' is unknown"):
        aggregate(values, mask, "mean")


def test_reward_penalty_puts_the_score_on_the_last_valid_token_and_the_kl_on_each():
    mask = torch.tensor([[True, True, False], [False, True, True], [False, False, False]])
    kl = torch.tensor([[0.5, 0.25, float("nan")], [7.0, 1.0, 2.0], [1.0, 1.0, 1.0]])
    got = apply_kl_to_rewards(torch.tensor([1.0, 2.0, 3.0]), kl, mask, kl_coef=0.1)
    expected = torch.tensor([[-0.05, 0.975, 0.0], [0.0, -0.1, 1.8], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(got, expected)
    assert mean_sequence_kl(kl, mask) == pytest.approx((0.375 + 1.5 + 0.0) / 3)


def test_fixed_controller_stays():
    controller = make_kl_controller("fixed", 0.02)
    controller.update(100.0, 512)
    assert isinstance(controller, FixedKLController) and controller.kl_coef == 0.02


@pytest.mark.parametrize(("current", "factor"), [(0.11, 1.01), (100.0, 1.02), (0.0, 0.98), (0.1, 1.0)])
def test_adaptive_controller_moves_by_the_clipped_error(current, factor):
    controller = make_kl_controller("adaptive", 0.5, target=0.1, horizon=1000)
    controller.update(current, n_steps=100)
    assert controller.kl_coef == pytest.approx(0.5 * factor, rel=1e-9)


def test_adaptive_controller_goes_on_from_a_checkpoint():
    first = AdaptiveKLController(0.5, 0.1, 1000)
    first.update(1.0, 64)
    second = AdaptiveKLController(0.5, 0.1, 1000)
    second.load_state_dict(first.state_dict())
    for controller in (first, second):
        controller.update(0.05, 64)
    assert first.kl_coef == second.kl_coef != 0.5


def test_controllers_without_target_or_horizon_and_unknown_kinds_are_errors():
    with pytest.raises(ValueError, match="kl_horizon: 0"):
        make_kl_controller("adaptive", 0.1, horizon=0)
    with pytest.raises(ValueError, match="kl_target: 0"):
        make_kl_controller("adaptive", 0.1, target=0)
    with pytest.raises(ValueError, match="kl_type: 'adaptve' is unknown"):
        make_kl_controller("adaptve", 0.1)
