"""The power mean: against its equation, at both ends against the losses that it joins, and in between."""

import math

import pytest
import torch

from gmpo_mm.algorithms import (
    GMPOConfig,
    PolicyLossConfig,
    PowerMeanConfig,
    compute_policy_loss,
    finalize_metrics,
)
from gmpo_mm.algorithms.power_mean import log_power_mean
from tests.algorithms.contract import check_contract, check_reference
from tests.algorithms.naive import make_batch
from tests.algorithms.test_policy_loss_extremes import run
from tests.algorithms.test_policy_loss_reference import ours

CLIPS = ("token", "sequence", "none")


def power_mean(**options) -> PolicyLossConfig:
    options = {"log_clip_low": 0.3, "log_clip_high": 0.7} | options
    return PolicyLossConfig(loss_type="power_mean", power_mean=PowerMeanConfig(**options))


def naive_row(p: float, clip: str, low: float = 0.3, high: float = 0.7):
    """Equations 1, 2 and 11 of arXiv 2605.12058 in ratio space, one sequence."""

    def clipped(ratio, a):
        if clip != "none" and a > 0 and ratio.item() > math.exp(high):
            return torch.full_like(ratio, math.exp(high))
        if clip != "none" and a < 0 and ratio.item() < math.exp(-low):
            return torch.full_like(ratio, math.exp(-low))
        return ratio

    def row(log_probs, old, advantages):
        a = advantages[0]
        total = torch.zeros((), dtype=torch.float64)
        product = torch.ones((), dtype=torch.float64)
        for new, before in zip(log_probs, old, strict=True):
            ratio = torch.exp(new - before)
            if clip == "token":
                ratio = clipped(ratio, a)
            total = total + ratio**p
            product = product * ratio
        mean = product ** (1 / len(old)) if p == 0 else (total / len(old)) ** (1 / p)
        if clip == "sequence":
            mean = clipped(mean, a)
        return -a * mean

    return row


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("p", [0.0, 0.25, 0.5, 1.0, 3.0, -1.0])
def test_value_gradient_and_sign_equal_the_equation(p, clip):
    check_reference(power_mean(p=p, clip=clip), naive_row(p, clip))


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("p", [0.0, 1e-9, 0.5, 1.0, -2.0])
def test_it_keeps_the_contract_of_every_loss(p, clip):
    check_contract(power_mean(p=p, clip=clip))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("clip", ["token", "none"])
def test_power_0_is_gmpo_bit_for_bit(clip, dtype):
    gmpo = PolicyLossConfig(loss_type="gmpo", gmpo=GMPOConfig(clip=clip, log_clip_low=0.3, log_clip_high=0.7))
    for seed in range(5):
        batch = make_batch(seed).to(dtype)
        for got, expected in zip(ours(batch, power_mean(p=0, clip=clip)), ours(batch, gmpo), strict=True):
            assert torch.equal(got, expected)


def test_power_1_is_grpos_mean_over_each_sequence_where_the_clips_agree():
    grpo = PolicyLossConfig(loss_avg_mode="seq", clip_ratio_low=0.2, clip_ratio_high=0.3, clip_ratio_dual=1e6)
    same = power_mean(p=1, log_clip_low=-math.log1p(-0.2), log_clip_high=math.log1p(0.3))
    for seed in range(5):
        batch = make_batch(seed)
        value, gradient = ours(batch, same)
        expected_value, expected_gradient = ours(batch, grpo)
        torch.testing.assert_close(value, expected_value, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-12, atol=1e-14)
        names = ("clip/high_frac", "clip/low_frac")
        got, expected = (
            finalize_metrics(
                compute_policy_loss(batch.log_probs, batch.old, batch.advantages, batch.mask, config).metrics
            )
            for config in (same, grpo)
        )
        assert [got[name] for name in names] == [expected[name] for name in names]
        assert got["clip/high_frac"] > 0 and got["clip/low_frac"] > 0


def test_power_0_with_the_mean_clipped_is_gspo_where_the_clips_agree():
    gspo = PolicyLossConfig(loss_type="gspo", clip_ratio_low=0.2, clip_ratio_high=0.3, clip_ratio_dual=1e6)
    bounds = {"log_clip_low": -math.log1p(-0.2), "log_clip_high": math.log1p(0.3)}
    batch = make_batch(3)
    value, gradient = ours(batch, power_mean(p=0, clip="sequence", **bounds))
    expected_value, expected_gradient = ours(batch, gspo)
    torch.testing.assert_close(value, expected_value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("p", [1e-3, 1e-6, 1e-9, 1e-12, 1e-20, 1e-29, 1e-31, 1e-45, 5e-324])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_and_gradient_are_continuous_at_power_0(p, sign, dtype):
    """|log M_p - log M_0| is about |p| var(c) / 2, and no digit more may be lost however small p is."""
    batch = make_batch(4, spread=1.0).to(dtype)
    value, gradient = ours(batch, power_mean(p=sign * p, clip="none"))
    limit, limit_gradient = ours(batch, power_mean(p=0, clip="none"))
    room = 20 * p + (1e-5 if dtype == torch.float32 else 1e-13)
    torch.testing.assert_close(value, limit, rtol=room, atol=room)
    torch.testing.assert_close(gradient, limit_gradient, rtol=room, atol=room)
    if p >= 1e-9 and dtype == torch.float64:
        assert value != limit  # and it isn't the limit that is computed


def test_the_mean_grows_with_the_power():
    batch = make_batch(5)
    batch.advantages = -batch.advantages.abs().nan_to_num(0, 0, 0) - 1
    values = [ours(batch, power_mean(p=p, clip="none"))[0].item() for p in (-50, -1, 0, 0.25, 0.5, 1, 2, 50)]
    assert values == sorted(values) and len(set(values)) == len(values)


@pytest.mark.parametrize("p", [0.0, 1e-9, 0.5, 1.0, 2.0, 100.0, -1.0])
@pytest.mark.parametrize("size", [50.0, -50.0])
def test_log_ratios_of_50_are_exact_in_float32(p, size):
    value, gradient, _ = run([[size, size]], [-1.0], power_mean(p=p, clip="none"))
    assert value == pytest.approx(math.exp(size), rel=1e-4)
    assert gradient[0].tolist() == pytest.approx([math.exp(size) / 2] * 2, rel=1e-4)


@pytest.mark.parametrize("p", [0.0, 0.5, 100.0, -100.0])
def test_a_masked_token_and_an_empty_row_are_no_part_of_the_mean(p):
    c_BT = torch.tensor([[-50.0, -50.0, 0.0], [50.0, 0.0, 50.0], [0.0, 0.0, 0.0]])
    mask_BT = torch.tensor([[True, True, False], [True, False, True], [False, False, False]])
    assert log_power_mean(c_BT, mask_BT, p).tolist() == [-50.0, 50.0, 0.0]


def test_one_far_token_weighs_by_the_power():
    """Log-ratios 50 and 0: M_1 is half of e^50, M_0 is e^25, M_-1 is 2; the gradient lies where the mean comes from."""
    for p, mean, share in ((1.0, math.exp(50) / 2, 1.0), (0.0, math.exp(25), 0.5), (-1.0, 2.0, 0.0)):
        value, gradient, _ = run([[50.0, 0.0]], [-1.0], power_mean(p=p, clip="none"), torch.float64)
        assert value == pytest.approx(mean, rel=1e-9)
        assert gradient[0, 0].item() == pytest.approx(share * mean, rel=1e-9, abs=1e-9)


def test_a_bound_is_reached_only_by_its_sign_and_counted_so():
    log_ratios = [[0.8, 0.1, 0.1], [-0.4, 0.1, 0.1], [0.8, 0.1, 0.1], [-0.4, 0.1, 0.1]]
    value, gradient, metrics = run(log_ratios, [1.0, 1.0, -1.0, -1.0], power_mean(p=0.5), torch.float64)
    assert [g == 0 for g in gradient[:, 0].tolist()] == [True, False, False, True]
    assert metrics["clip/high_frac"] == pytest.approx(1 / 12)
    assert metrics["clip/low_frac"] == pytest.approx(1 / 12)
    assert math.isfinite(value)
    _, gradient, metrics = run(
        [[1.5, 0.9, 0.9], [-0.4, 0.1, 0.1]], [1.0, -1.0], power_mean(p=0.5, clip="sequence"), torch.float64
    )
    assert gradient[0].tolist() == [0.0] * 3 and gradient[1].abs().min() > 0
    assert metrics["clip/high_frac"] == 0.5 and metrics["clip/low_frac"] == 0.0
    assert "clip/high_frac" not in run([[1.5]], [1.0], power_mean(clip="none"))[2]


def test_each_key_changes_something_and_no_other_does():
    batch = make_batch(13, sequences=40, spread=1.5)
    base = ours(batch, power_mean())[0]
    for change in (
        {"p": 0.75},
        {"clip": "none"},
        {"clip": "sequence"},
        {"log_clip_low": 0.1},
        {"log_clip_high": 0.2},
    ):
        assert ours(batch, power_mean(**change))[0] != base, change
    for change in (
        {"clip_ratio_low": 0.1},
        {"clip_ratio_high": 0.1},
        {"clip_ratio_dual": 1.1},
        {"loss_avg_mode": "seq"},
    ):
        config = PolicyLossConfig(loss_type="power_mean", power_mean=power_mean().power_mean, **change)
        assert ours(batch, config)[0] == base, change


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip": "tokens"}, "power_mean.clip: 'tokens'"),
        ({"log_clip_low": -0.1}, "power_mean.log_clip_low: -0.1"),
        ({"p": math.inf}, "power_mean.p: inf"),
        ({"p": math.nan}, "power_mean.p: nan"),
    ],
)
def test_a_value_outside_its_range_is_an_error_that_names_the_key(options, message):
    with pytest.raises(ValueError, match=message):
        PowerMeanConfig(**options)
