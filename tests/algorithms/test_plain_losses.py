"""gpg, reinforce and luspo: against their equations, and against the losses that they are next to."""

import math

import pytest
import torch

from gmpo_mm.algorithms import PolicyLossConfig, clip_keys_read_by
from tests.algorithms.contract import check_contract, check_reference
from tests.algorithms.naive import make_batch
from tests.algorithms.test_policy_loss_extremes import run
from tests.algorithms.test_policy_loss_reference import ours


def gpg_row(mode):
    def row(log_probs, old, advantages):
        losses = [-a * new for new, a in zip(log_probs, advantages, strict=True)]
        return sum(losses) / (len(losses) if mode == "seq" else 1)

    return row


def reinforce_row(log_probs, old, advantages):
    return -sum(a * new for new, a in zip(log_probs, advantages, strict=True))


def luspo_row(low, high, dual):
    def row(log_probs, old, advantages):
        """Length times GSPO's clipped ratio, the geometric mean; one advantage a token is averaged over tokens."""
        n = len(old)
        ratio = torch.ones((), dtype=torch.float64)
        for new, before in zip(log_probs, old, strict=True):
            ratio = ratio * torch.exp(new - before)
        ratio = ratio ** (1 / n)
        total = torch.zeros((), dtype=torch.float64)
        for a in advantages:
            used = ratio
            if a > 0 and ratio.item() > 1 + high:
                used = torch.full_like(ratio, 1 + high)
            if a < 0 and ratio.item() < 1 - low:
                used = torch.full_like(ratio, 1 - low)
            if a < 0 and ratio.item() > dual:
                used = torch.full_like(ratio, dual)
            total = total - a * used
        return total

    return row


CASES = [
    *((PolicyLossConfig(loss_type="gpg", loss_avg_mode=mode), gpg_row(mode)) for mode in ("token", "seq")),
    *(
        (PolicyLossConfig(loss_type="reinforce", loss_avg_mode=mode), reinforce_row)
        for mode in ("token", "seq")
    ),
    (PolicyLossConfig(loss_type="luspo"), luspo_row(0.2, 0.3, 3.0)),
    (
        PolicyLossConfig(loss_type="luspo", clip_ratio_low=0.1, clip_ratio_high=0.05, clip_ratio_dual=1.2),
        luspo_row(0.1, 0.05, 1.2),
    ),
]
IDS = [f"{config.loss_type}-{config.loss_avg_mode}-{config.clip_ratio_low}" for config, _ in CASES]


@pytest.mark.parametrize("per_token", [False, True], ids=["one_advantage", "advantages_by_token"])
@pytest.mark.parametrize(("config", "row"), CASES, ids=IDS)
def test_value_gradient_and_sign_equal_the_equation(config, row, per_token):
    check_reference(config, row, per_token)


@pytest.mark.parametrize("config", [config for config, _ in CASES], ids=IDS)
def test_it_keeps_the_contract_of_every_loss(config):
    check_contract(config)


@pytest.mark.parametrize("loss_type", ["gpg", "reinforce"])
def test_the_old_policy_has_no_part_in_a_loss_without_a_ratio(loss_type):
    batch = make_batch(3)
    value, gradient = ours(batch, PolicyLossConfig(loss_type=loss_type))
    batch.old = batch.old * 2 - 1
    other_value, other_gradient = ours(batch, PolicyLossConfig(loss_type=loss_type))
    assert torch.equal(value, other_value) and torch.equal(gradient, other_gradient)
    assert not {key for key in clip_keys_read_by(loss_type) if "clip" in key}
    assert "clip/high_frac" not in run([[9.0]], [1.0], PolicyLossConfig(loss_type=loss_type))[2]


def test_gpg_on_policy_has_the_gradient_of_grpo():
    """Where the policy is the one that sampled, grad rho = grad log pi."""
    batch = make_batch(6)
    batch.old = batch.log_probs.clone()
    for mode in ("token", "seq"):
        gradient = ours(batch, PolicyLossConfig(loss_type="gpg", loss_avg_mode=mode))[1]
        assert torch.equal(gradient, ours(batch, PolicyLossConfig(loss_avg_mode=mode))[1])


def test_reinforce_weighs_a_response_by_its_length_and_gpg_by_response_does_not():
    log_ratios = [[0.0] * 4, [0.0] * 4]
    mask = [[True] * 4, [True, False, False, False]]
    _, summed, _ = run(log_ratios, [1.0, 1.0], PolicyLossConfig(loss_type="reinforce"), mask=mask)
    assert summed.sum(dim=1).tolist() == [-4.0, -1.0]
    config = PolicyLossConfig(loss_type="gpg", loss_avg_mode="seq")
    assert run(log_ratios, [1.0, 1.0], config, mask=mask)[1].sum(dim=1).tolist() == [-1.0, -1.0]


def test_luspo_is_gspo_times_the_length_with_gspos_flags():
    row = [[0.4, 0.4, 0.4], [0.1, 0.0, 0.0], [-0.4, -0.4, -0.4]]
    advantages = [1.0, 1.0, -1.0]
    value, gradient, metrics = run(row, advantages, PolicyLossConfig(loss_type="luspo"), torch.float64)
    gspo_value, gspo_gradient, gspo_metrics = run(
        row, advantages, PolicyLossConfig(loss_type="gspo"), torch.float64
    )
    assert value == pytest.approx(3 * gspo_value, rel=1e-12)
    torch.testing.assert_close(gradient, 3 * gspo_gradient, rtol=1e-12, atol=0)
    assert metrics["clip/high_frac"] == gspo_metrics["clip/high_frac"] == pytest.approx(1 / 3)
    assert metrics["clip/low_frac"] == gspo_metrics["clip/low_frac"] == pytest.approx(1 / 3)
    assert gradient[1].tolist() == pytest.approx(
        [-math.exp(0.1 / 3)] * 3
    )  # the weight of a token is its ratio, not 1/n


@pytest.mark.parametrize(
    "change",
    [{"clip_ratio_low": 0.05}, {"clip_ratio_high": 0.05}, {"clip_ratio_dual": 1.1}, {"loss_avg_mode": "seq"}],
    ids=str,
)
@pytest.mark.parametrize("loss_type", ["gpg", "reinforce", "luspo"])
def test_each_key_that_is_read_changes_something_and_no_other_does(loss_type, change):
    batch = make_batch(13, sequences=40, spread=1.5)
    base = ours(batch, PolicyLossConfig(loss_type=loss_type))[0]
    changed = ours(batch, PolicyLossConfig(loss_type=loss_type, **change))[0]
    assert (changed != base).item() == (next(iter(change)) in clip_keys_read_by(loss_type))
