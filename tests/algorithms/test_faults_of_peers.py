"""Faults seen in other implementations of these losses, each with a test that would catch it here."""

import math

import pytest
import torch

from gmpo_mm.algorithms import (
    GMPOConfig,
    PolicyLossConfig,
    aggregate,
    clip_keys_read_by,
    compute_kl,
    compute_policy_loss,
    count_units,
    known_loss_types,
    loss_unit,
)
from tests.algorithms.naive import make_batch

GMPO = PolicyLossConfig(loss_type="gmpo")
SEQ = PolicyLossConfig(loss_avg_mode="seq")
TOKEN = PolicyLossConfig(loss_avg_mode="token")


def gradient_in_micro_batches(batch, config, size):
    """Accumulated gradient of the mini-batch mean."""
    units = int(count_units(batch.mask, config))
    leaf = batch.log_probs.clone().requires_grad_()
    for start in range(0, batch.mask.shape[0], size):
        rows = slice(start, start + size)
        loss = compute_policy_loss(leaf[rows], batch.old[rows], batch.advantages[rows], batch.mask[rows], config)
        (loss.sum / units).backward()
    return leaf.grad


@pytest.mark.parametrize("config", [GMPO, SEQ], ids=["gmpo", "seq"])
def test_scale_of_a_sequence_mean_does_not_grow_with_the_number_of_micro_batches(config):
    """verl's geo_mean: 0.25 -> 0.5 -> 1.0 of the loss as the micro-batch shrinks."""
    batch = make_batch(11, sequences=8)
    norms = [gradient_in_micro_batches(batch, config, size).norm().item() for size in (8, 4, 2, 1)]
    assert norms == pytest.approx([norms[0]] * 4, rel=1e-12)
    assert norms[0] > 0


@pytest.mark.parametrize("config", [GMPO, SEQ], ids=["gmpo", "seq"])
def test_micro_batches_of_a_sequence_mean_are_not_weighted_by_their_tokens(config):
    """EasyR1's update weights each micro-batch by its tokens: a long response would count more than a short one."""
    log_probs = torch.zeros(2, 100, dtype=torch.float64, requires_grad=True)
    mask = torch.zeros(2, 100, dtype=torch.bool)
    mask[0, :1] = True
    mask[1, :] = True
    units = count_units(mask, config)
    for row in (slice(0, 1), slice(1, 2)):
        loss = compute_policy_loss(
            log_probs[row], torch.zeros(1, 100, dtype=torch.float64), torch.ones(1), mask[row], config
        )
        (loss.sum / units).backward()
    pull = log_probs.grad.sum(dim=1)
    assert pull.tolist() == pytest.approx([-0.5, -0.5], rel=1e-12)


def test_loss_avg_mode_seq_differs_from_token_at_micro_batch_one():
    """In EasyR1 the two are the same at micro-batch 1."""
    batch = make_batch(12)
    by_sequence = gradient_in_micro_batches(batch, SEQ, 1)
    by_token = gradient_in_micro_batches(batch, TOKEN, 1)
    cosine = torch.nn.functional.cosine_similarity(by_sequence.flatten(), by_token.flatten(), dim=0)
    assert cosine < 0.99


def test_each_sequence_has_its_own_geometric_mean():
    """callsys/GMPO takes one ratio over the whole micro-batch, which is right only for a batch of one."""
    log_ratios = torch.tensor([[0.3, 0.3], [-0.3, -0.3]], dtype=torch.float64)
    mask = torch.ones_like(log_ratios, dtype=torch.bool)
    loss = compute_policy_loss(log_ratios, 0 * log_ratios, torch.tensor([1.0, 1.0]), mask, GMPO)
    assert loss.sum.item() == pytest.approx(-(math.exp(0.3) + math.exp(-0.3)), rel=1e-12)
    assert loss.sum.item() != pytest.approx(-2.0, rel=1e-3)  # one ratio over both rows


@pytest.mark.parametrize("function", ["compute", "count", "keys", "unit"])
def test_unknown_loss_type_is_an_error_that_lists_the_known_and_the_nearest(function):
    """EasyR1 trains default PPO on an unknown loss_type and says nothing."""
    config = PolicyLossConfig(loss_type="gmpoo")
    zeros = torch.zeros(1, 1)
    with pytest.raises(ValueError, match="Did you mean 'gmpo'") as error:
        if function == "compute":
            compute_policy_loss(zeros, zeros, zeros, zeros.bool(), config)
        elif function == "count":
            count_units(zeros.bool(), config)
        elif function == "keys":
            clip_keys_read_by("gmpoo")
        else:
            loss_unit(config)
    assert all(name in str(error.value) for name in known_loss_types())


def test_no_option_of_a_loss_is_without_effect_and_each_unread_key_is():
    """TRL's fused option trains GRPO under the GMPO trainer: an option that is declared has to act, and only that."""
    changed = {
        "clip_ratio_low": 0.05,
        "clip_ratio_high": 0.6,
        "clip_ratio_dual": 1.5,
        "tau_positive": 2.0,
        "tau_negative": 3.0,
        "loss_avg_mode": "seq",
        "gmpo.clip": "none",
        "gmpo.normalize": False,
        "gmpo.log_clip_low": 0.1,
        "gmpo.log_clip_high": 0.2,
    }
    batch = make_batch(13, sequences=40, spread=1.5)
    for loss_type in known_loss_types():
        base = compute_policy_loss(
            batch.log_probs, batch.old, batch.advantages, batch.mask, PolicyLossConfig(loss_type=loss_type)
        ).sum
        for key, value in changed.items():
            if key.startswith("gmpo."):
                config = PolicyLossConfig(loss_type=loss_type, gmpo=GMPOConfig(**{key.removeprefix("gmpo."): value}))
            else:
                config = PolicyLossConfig(loss_type=loss_type, **{key: value})
            total = compute_policy_loss(batch.log_probs, batch.old, batch.advantages, batch.mask, config).sum
            assert (total != base).item() == (key in clip_keys_read_by(loss_type)), (loss_type, key)


def test_clip_bounds_of_gmpo_are_log_space_and_of_the_others_ratio_space():
    """verl's clip_ratio is log-space in one loss and 1 +- eps in the others, under one name."""
    far = torch.full((1, 1), 3.0, dtype=torch.float64)
    args = (far, 0 * far, torch.ones(1), far.bool())
    assert compute_policy_loss(*args, GMPO).sum.item() == pytest.approx(-math.exp(0.4))
    assert compute_policy_loss(*args, PolicyLossConfig(clip_ratio_high=0.4)).sum.item() == pytest.approx(-1.4)
    # and neither reads the other's keys
    assert not {key for key in clip_keys_read_by("gmpo") if key.startswith("clip_ratio")}
    others = set().union(*(clip_keys_read_by(name) for name in known_loss_types() if name != "gmpo"))
    assert not {key for key in others if key.startswith("gmpo.")}


@pytest.mark.parametrize("loss_type", ["gmpo", "default", "gspo", "gspo_token", "cispo", "sapo", "power_mean", "gpg"])
def test_on_policy_gradient_is_the_plain_policy_gradient(loss_type):
    """With equal log-probabilities each ratio is exactly 1, so nothing is clipped and no weight differs from 1."""
    batch = make_batch(14)
    config = PolicyLossConfig(loss_type=loss_type, loss_avg_mode="seq")
    log_probs = batch.log_probs.clone().requires_grad_()
    loss = compute_policy_loss(log_probs, batch.log_probs, batch.advantages, batch.mask, config)
    loss.sum.backward()
    n = batch.mask.sum(dim=1, keepdim=True).clamp(min=1)
    expected = torch.where(batch.mask, -batch.advantages / n, 0.0)
    torch.testing.assert_close(log_probs.grad, expected, rtol=1e-12, atol=0)
    for name in ("ratio/token_min", "ratio/token_max", "ratio/seq_geo_mean_min", "ratio/seq_geo_mean_max"):
        assert loss.metrics[name].value.item() == 1.0


def test_kl_term_shares_the_unit_of_the_loss_so_that_one_division_serves_both():
    """A KL or entropy term summed over tokens beside a sum over sequences would be scaled by the response length."""
    batch = make_batch(15)
    kl = compute_kl(batch.log_probs, batch.old, "low_var_kl", batch.mask)
    means = [kl[i][batch.mask[i]].mean() for i in range(10) if batch.mask[i].any()]
    assert loss_unit(GMPO) == "seq"
    term = aggregate(kl, batch.mask, loss_unit(GMPO)) / count_units(batch.mask, GMPO)
    assert term.item() == pytest.approx(sum(means).item() / 10, rel=1e-12)
    term = aggregate(kl, batch.mask, loss_unit(TOKEN)) / count_units(batch.mask, TOKEN)
    assert term.item() == pytest.approx(kl[batch.mask].mean().item(), rel=1e-12)
