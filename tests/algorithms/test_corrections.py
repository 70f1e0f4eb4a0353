"""Corrections of a sampler that differs, against loops written from their equations: weights, losses, gradients, metrics."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from gmpo_mm.algorithms import (
    CORRECTIONS,
    Correction,
    PolicyLossConfig,
    PowerMeanConfig,
    compute_policy_loss,
    correction_metrics,
    correction_weights,
    finalize_metrics,
    make_correction,
    merge_metrics,
)
from tests.algorithms.naive import Batch, config_name, every_config, make_batch, naive_loss

KINDS = tuple(CORRECTIONS)
BOUNDS = {
    "truncated": (1.4, None), "masked": (1.6, 0.6), "sequence_truncated": (1.3, None), "sequence_masked": (3.0, 0.2),
    "geometric_masked": (1.15, 0.9),
}  # fmt: skip
"""Bounds of each kind that cut or mask some of the batch and keep some."""


def correction(kind: str) -> Correction:
    made = make_correction(kind, *BOUNDS[kind])
    assert made is not None
    return made


def sampled(seed: int, sequences: int = 14) -> tuple[Batch, Tensor]:
    """A batch and its sampler's log-probabilities; rubbish under the mask."""
    batch = make_batch(seed, sequences)
    generator = torch.Generator().manual_seed(seed + 1)
    gap = 0.5 * torch.randn(batch.mask.shape, generator=generator, dtype=torch.float64)
    return batch, torch.where(batch.mask, batch.old - gap, float("nan"))


@dataclass
class Naive:
    """Weights of valid tokens by (row, position), and one weight and one ratio for each unit of the kind."""

    tokens: dict[tuple[int, int], float]
    weights: list[float]
    ratios: list[float]


def naive(batch: Batch, sampler: Tensor, kind: str) -> Naive:
    """From the equations, in ratio space."""
    cap, floor = BOUNDS[kind]
    found = Naive({}, [], [])
    for i in range(batch.mask.shape[0]):
        valid = [t for t in range(batch.mask.shape[1]) if batch.mask[i, t]]
        r = [math.exp(float(batch.old[i, t]) - float(sampler[i, t])) for t in valid]
        if kind == "truncated":
            w = [x if x < cap else cap for x in r]
        elif kind == "masked":
            w = [x if floor <= x <= cap else 0.0 for x in r]
        else:
            product = 1.0
            for x in r:
                product *= x
            if kind == "sequence_truncated":
                one, ratio = (product if product < cap else cap), product
            elif kind == "sequence_masked":
                one, ratio = (product if floor <= product <= cap else 0.0), product
            else:
                ratio = product ** (1 / len(valid)) if valid else 1.0
                one = 1.0 if floor <= ratio <= cap else 0.0
            w = [one] * len(valid)
            found.weights += [one] if valid else []
            found.ratios += [ratio] if valid else []
        if kind in ("truncated", "masked"):
            found.weights += w
            found.ratios += r
        found.tokens |= {(i, t): x for t, x in zip(valid, w, strict=True)}
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_those_of_the_equation_zero_where_masked_and_one_outside_the_mask(kind: str) -> None:
    batch, sampler = sampled(51)
    expected = torch.ones_like(batch.old)
    reference = naive(batch, sampler, kind)
    for (i, t), weight in reference.tokens.items():
        expected[i, t] = weight
    weights = correction_weights(batch.old.requires_grad_(), sampler, batch.mask, correction(kind))
    torch.testing.assert_close(weights, expected, rtol=1e-12, atol=0.0)
    assert not weights.requires_grad
    cap = BOUNDS[kind][0]
    assert any(r > cap for r in reference.ratios) and any(r < cap for r in reference.ratios), (
        "the batch tests both"
    )
    masks = kind.endswith("masked")
    assert masks == any(w == 0 for w in reference.weights) and any(w > 0 for w in reference.weights)
    if masks:
        assert any(r < BOUNDS[kind][1] for r in reference.ratios), "below the floor too"


SEQUENCE_LOSSES = ("gmpo", "gspo")
POWER = PolicyLossConfig(
    loss_type="power_mean", power_mean=PowerMeanConfig(p=0.0, log_clip_low=0.3, log_clip_high=0.7)
)


def naive_corrected_loss(leaf: Tensor, batch: Batch, config: PolicyLossConfig, weights: dict) -> Tensor:
    """A loss of tokens: each token's own, times its weight. A loss of sequences: a masked token's ratio is 1 and has no
    gradient, it counts in |o| all the same, and the sequence weighs the geometric mean of the weights, a masked one as 1."""
    total = torch.zeros((), dtype=torch.float64)
    for i in range(batch.mask.shape[0]):
        valid = [t for t in range(batch.mask.shape[1]) if batch.mask[i, t]]
        row = batch.rows(slice(i, i + 1))
        if config.loss_type in SEQUENCE_LOSSES:
            kept = [t for t in valid if weights[i, t] > 0]
            if not kept:
                continue
            weight = math.exp(sum(math.log(weights[i, t]) for t in kept) / len(valid))
            masked = torch.tensor([[t in valid and t not in kept for t in range(batch.mask.shape[1])]])
            total = total + weight * naive_loss(torch.where(masked, row.old, leaf[i : i + 1]), row, config)[0]
            continue
        for t in valid:  # all advantages 0 but its own
            row.advantages = torch.zeros_like(row.advantages)
            row.advantages[0, t] = batch.advantages[i, t]
            total = total + weights[i, t] * naive_loss(leaf[i : i + 1], row, config)[0]
    return total


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("config", every_config(), ids=config_name)
def test_a_corrected_loss_and_its_gradient_are_the_loops(config: PolicyLossConfig, kind: str) -> None:
    batch, sampler = sampled(52, 7)
    leaf = batch.log_probs.clone().requires_grad_()
    expected = naive_corrected_loss(leaf, batch, config, naive(batch, sampler, kind).tokens)
    expected.backward()
    log_probs = batch.log_probs.clone().requires_grad_()
    weights = correction_weights(batch.old, sampler, batch.mask, correction(kind))
    loss = compute_policy_loss(log_probs, batch.old, batch.advantages, batch.mask, config, weights)
    loss.sum.backward()
    torch.testing.assert_close(loss.sum.detach(), expected.detach(), rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(log_probs.grad, torch.nan_to_num(leaf.grad), rtol=1e-10, atol=1e-13)
    units = loss.metrics["actor/pg_loss"].count
    plain = compute_policy_loss(log_probs, batch.old, batch.advantages, batch.mask, config)
    assert units == plain.metrics["actor/pg_loss"].count, "what is masked goes on to count"


@pytest.mark.parametrize("kind", KINDS)
def test_the_power_mean_at_0_takes_a_correction_as_gmpo_does(kind: str) -> None:
    batch, sampler = sampled(53)
    gmpo = next(
        c for c in every_config() if c.loss_type == "gmpo" and c.gmpo.clip == "token" and c.gmpo.normalize
    )
    weights = correction_weights(batch.old, sampler, batch.mask, correction(kind))
    args = (batch.log_probs, batch.old, batch.advantages, batch.mask)
    assert compute_policy_loss(*args, POWER, weights).sum.item() == pytest.approx(
        compute_policy_loss(*args, gmpo, weights).sum.item(), rel=1e-12
    )


@pytest.mark.parametrize(
    "loss_type", ["gmpo", "gspo", "luspo", "reinforce", "power_mean", "default", "cispo", "gpg"]
)
def test_a_masked_token_has_no_gradient_and_a_masked_sequence_no_loss(loss_type: str) -> None:
    batch = make_batch(54)
    weights = torch.ones_like(batch.old)
    weights[2, ::2] = 0.0
    weights[5] = 0.0
    log_probs = torch.where(batch.mask, batch.log_probs, 0.0).requires_grad_()
    args = (batch.old, batch.advantages, batch.mask, PolicyLossConfig(loss_type=loss_type))
    compute_policy_loss(log_probs, *args, weights).sum.backward()
    assert (log_probs.grad[weights == 0] == 0).all() and (log_probs.grad[2, 1::2] != 0).any()
    alone = batch.rows(slice(5, 6))
    rest = (alone.old, alone.advantages, alone.mask, args[3])
    assert compute_policy_loss(alone.log_probs, *rest, weights[5:6]).sum.item() == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_the_cut_into_micro_batches_and_their_padding_change_no_weight_and_no_metric(kind: str) -> None:
    batch, sampler = sampled(55)
    old, sampler, corrects = batch.old.float(), sampler.float(), correction(kind)
    whole = correction_weights(old, sampler, batch.mask, corrects)
    parts = []
    for start, stop in ((0, 1), (1, 6), (6, 14)):
        width = max(1, int(batch.mask[start:stop].sum(1).max()))
        part = (old[start:stop, :width], sampler[start:stop, :width], batch.mask[start:stop, :width])
        assert torch.equal(correction_weights(*part, corrects), whole[start:stop, :width])
        parts.append(correction_metrics(*part, corrects))
    cut = finalize_metrics(merge_metrics(parts))
    assert cut == pytest.approx(
        finalize_metrics(correction_metrics(old, sampler, batch.mask, corrects)), rel=1e-12
    )


@pytest.mark.parametrize("kind", [kind for kind in KINDS if CORRECTIONS[kind].unit == "sequence"])
def test_padding_of_long_sequences_changes_no_bit_of_a_weight(kind: str) -> None:
    """In float32 a sum over more zeros is taken in another order, and could move a sequence over a bound."""
    old, sampler = torch.randn(2, 64, 300, generator=torch.Generator().manual_seed(61)) / 8
    mask = torch.ones(64, 300).bool()
    wide = [torch.nn.functional.pad(part, (0, 1200)) for part in (old, sampler, mask)]
    corrects = make_correction(kind, 1e6, None if CORRECTIONS[kind].floor is None else 1e-6)
    assert corrects is not None
    assert torch.equal(
        correction_weights(*wide, corrects)[:, :300], correction_weights(old, sampler, mask, corrects)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_metrics_are_the_effective_sample_size_and_the_shares_of_the_kinds_own_unit(kind: str) -> None:
    batch, sampler = sampled(56)
    reference, cap = naive(batch, sampler, kind), BOUNDS[kind][0]
    n = len(reference.weights)
    expected = {
        "correction/ess": sum(reference.weights) ** 2 / sum(w * w for w in reference.weights) / n,
        "correction/weight_mean": sum(reference.weights) / n,
        "correction/masked_frac": sum(w == 0 for w in reference.weights) / n,
        "correction/capped_frac": sum(r > cap for r in reference.ratios) / n,
    }
    found = finalize_metrics(correction_metrics(batch.old, sampler, batch.mask, correction(kind)))
    assert found == pytest.approx(expected, rel=1e-12)
    assert 0 < found["correction/ess"] < 1 and found["correction/capped_frac"] > 0


def test_equal_weights_have_the_full_sample_size_and_a_batch_that_is_all_masked_has_none() -> None:
    batch = make_batch(57)
    equal = finalize_metrics(correction_metrics(batch.old, batch.old, batch.mask, correction("masked")))
    assert (equal["correction/ess"], equal["correction/masked_frac"]) == (1.0, 0.0)
    far = finalize_metrics(correction_metrics(batch.old, batch.old - 9, batch.mask, correction("masked")))
    assert (far["correction/ess"], far["correction/masked_frac"], far["correction/capped_frac"]) == (
        0.0,
        1.0,
        1.0,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_no_correction_is_what_equal_log_probabilities_give(kind: str) -> None:
    batch = make_batch(58)
    weights = correction_weights(batch.old, batch.old, batch.mask, correction(kind))
    for config in every_config():
        args = (batch.log_probs, batch.old, batch.advantages, batch.mask, config)
        assert torch.equal(compute_policy_loss(*args).sum, compute_policy_loss(*args, weights).sum)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gap", [1e4, -1e4, float("inf")])
def test_extreme_gaps_stay_finite_and_only_what_is_masked_is_zero(kind: str, gap: float) -> None:
    wide = make_correction(kind, 1e6, None if BOUNDS[kind][1] is None else 0.0)
    assert wide is not None
    weights = correction_weights(torch.full((1, 3), gap), torch.zeros(1, 3), torch.ones(1, 3).bool(), wide)
    assert weights.isfinite().all()
    assert (weights == 0).all().item() == (gap > 0 and kind.endswith("masked"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss_type", ["gmpo", "default"])
def test_nothing_is_read_back_from_the_device(kind: str, loss_type: str) -> None:
    batch, sampler = sampled(60)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        log_probs, old, sampler, mask = (
            mode.from_tensor(t) for t in (batch.log_probs, batch.old, sampler, batch.mask)
        )
        weights = correction_weights(old, sampler, mask, correction(kind))
        correction_metrics(old, sampler, mask, correction(kind))
        advantages = mode.from_tensor(batch.advantages[:, 0].clone())
        compute_policy_loss(log_probs, old, advantages, mask, PolicyLossConfig(loss_type=loss_type), weights)


def test_truncated_is_bit_for_bit_what_it_was() -> None:
    batch, sampler = sampled(59)
    old, sampler = batch.old.float(), sampler.float()
    weights = correction_weights(old, sampler, batch.mask, correction("truncated"))
    before = torch.where(batch.mask, old - sampler, 0.0).clamp(min=-80.0, max=80.0).exp().clamp(max=1.4)
    assert torch.equal(weights, torch.where(batch.mask, before, 1.0))


def test_each_kind_has_its_authors_bounds_unless_others_are_set() -> None:
    assert make_correction("none") is None
    made = {kind: make_correction(kind) for kind in KINDS}
    assert {kind: (c.cap, c.floor) for kind, c in made.items() if c is not None} == {
        "truncated": (2.0, 0.0), "masked": (5.0, 0.5), "sequence_truncated": (2.0, 0.0), "sequence_masked": (3.0, 0.0),
        "geometric_masked": (1.001, 0.999),
    }  # fmt: skip
    assert make_correction("masked", 4.0, 0.0) == Correction("masked", 4.0, 0.0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("icepop",), "geometric_masked"), (("truncated", 0.0), "above 0"), (("masked", math.inf), "finite"),
        (("truncated", 2.0, 0.5), "no lower bound"), (("masked", 2.0, 2.0), "below the cap"), (("masked", 2.0, -0.1), "floor"),
    ],
)  # fmt: skip
def test_bounds_that_make_no_correction_are_errors(arguments: tuple, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_correction(*arguments)
