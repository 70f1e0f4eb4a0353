"""The test that may be looked at after every seed: its values, its error at every stop, its power, its interval."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from gmpo_mm.reports.sequential_test import (
    BETS,
    confidence_interval,
    decided_after,
    favours_b,
    log_e_values,
)
from gmpo_mm.reports.stop_rule import StopRule, decide

SWEEPS, SEEDS, ALPHA = 1000, 30, 0.05


def naive_e_values(differences: list[float]) -> list[float]:
    """K_t from its equation, factor by factor."""
    found = []
    for t in range(1, len(differences) + 1):
        total = 0.0
        for bet in BETS:
            capital = 1.0
            for i in range(t):
                rms = math.sqrt(sum(d * d for d in differences[: i + 1]) / (i + 1))
                z = differences[i] / rms if rms > 0 else 0.0
                capital *= 1 + math.tanh(bet * z)
            total += capital / len(BETS)
        found.append(total)
    return found


@pytest.mark.parametrize(
    "differences",
    [
        [0.1, 0.2, 0.15, 0.05, 0.3, 0.12, 0.2],
        [-0.1, 0.2, 0.0, 0.05, -0.3, 0.12],
        [0.0, 0.0, 1e-9, -3e-9, 2e-9],
        [1.0, -1.0, 1.0, 1.0, 0.001],
        [-0.02] * 9,
    ],
)
def test_e_values_are_the_equations(differences: list[float]) -> None:
    np.testing.assert_allclose(np.exp(log_e_values(differences)), naive_e_values(differences), rtol=1e-12)
    # by swapping the names the value stays, and by another unit too
    for changed in (-np.array(differences), 1000 * np.array(differences)):
        np.testing.assert_allclose(log_e_values(changed), log_e_values(differences), rtol=1e-9, atol=1e-12)


def test_the_evidence_has_mean_one_over_all_signs() -> None:
    """Exactly what Ville's inequality needs: for any sizes, the mean over all 2^6 signs is 1 after each difference."""
    sizes = np.array([0.3, 0.01, 0.5, 0.5, 0.02, 0.9])
    signs = np.array([[1 if bits >> i & 1 else -1 for i in range(6)] for bits in range(64)])
    np.testing.assert_allclose(np.exp(log_e_values(signs * sizes)).mean(axis=0), np.ones(6), rtol=1e-12)


def without_a_difference(kind: str, generator: np.random.Generator) -> NDArray[np.float64]:
    """(sweeps, seeds) differences of two variants that are the same: each pair's scores come from one distribution."""
    shape = (2, SWEEPS, SEEDS)
    shared = generator.uniform(0.2, 0.6, (1, SWEEPS, SEEDS))  # a good or bad seed, for both
    if kind == "share of 64 problems":
        scores = generator.binomial(64, shared * np.ones(shape)) / 64
    elif kind == "0 or 1":
        scores = generator.binomial(1, 0.5, shape).astype(float)
    elif kind == "collapses one time in ten":
        scores = np.where(generator.random(shape) < 0.1, 0.0, 0.9 + 0.001 * generator.normal(size=shape))
    elif kind == "small spread":
        scores = 0.99 + 1e-5 * generator.normal(size=shape)
    else:
        scores = shared + 0.05 * generator.standard_t(2, shape)
    return np.asarray(scores[1] - scores[0])


@pytest.mark.parametrize(
    "kind", ["share of 64 problems", "0 or 1", "collapses one time in ten", "small spread", "heavy tails"]
)
def test_of_a_thousand_sweeps_without_a_difference_one_in_twenty_at_most_is_ever_decided(kind: str) -> None:
    differences = without_a_difference(kind, np.random.default_rng(20))
    decided = (log_e_values(differences) >= math.log(1 / ALPHA)).any(axis=-1)  # a stop at any of 30 seeds
    assert decided.mean() <= ALPHA
    assert decided.any()  # and it does look


def test_a_fixed_test_that_is_looked_at_after_every_seed_would_not_keep_the_error() -> None:
    from scipy import stats

    differences = without_a_difference("share of 64 problems", np.random.default_rng(20))
    looks = [
        stats.ttest_1samp(differences[:, :t], 0.0, axis=1).pvalue < ALPHA for t in range(3, SEEDS + 1, 3)
    ]
    assert np.any(looks, axis=0).mean() > 2 * ALPHA


@pytest.mark.parametrize(("size", "median", "within_20"), [(0.75, 17, 0.6), (1.0, 11, 0.85), (2.0, 7, 1.0)])
def test_a_real_difference_is_decided_in_a_useful_number_of_seeds(
    size: float, median: float, within_20: float
) -> None:
    """`size` in standard deviations of the paired difference."""
    draws = 0.02 * np.random.default_rng(3).normal(size, 1.0, (SWEEPS, 60))
    reached = log_e_values(draws) >= math.log(1 / ALPHA)
    needed = np.where(reached.any(axis=-1), reached.argmax(axis=-1) + 1, 61)
    assert np.median(needed) <= median
    assert (needed <= 20).mean() >= within_20
    right = [favours_b(row[:n]) for row, n in zip(draws, needed) if n <= 60]
    assert np.mean(right) > 0.99


def test_bets_on_a_mean_in_minus_one_to_one_would_take_hundreds_of_seeds_for_two_points() -> None:
    """Why the method is not the hedged capital of arXiv 2010.09686: its best bet, known before, is no better than this."""
    best_growth = math.log1p(2 * (1.02 / 2 - 0.5))  # bet 2 on (d + 1) / 2 - 1/2, with every difference 0.02
    assert math.log(2 / ALPHA) / best_growth > 180
    assert decided_after([0.02] * 10, ALPHA) == 6


def test_the_interval_holds_the_true_difference_at_every_stop_and_shrinks() -> None:
    generator, missed = np.random.default_rng(8), 0
    for _ in range(80):
        interval = confidence_interval(generator.normal(0.03, 0.02, 12), ALPHA)
        missed += interval is not None and not interval[0] <= 0.03 <= interval[1]
    assert missed / 80 <= ALPHA
    draws = generator.normal(0.03, 0.02, 40)
    few, many = confidence_interval(draws[:10], ALPHA), confidence_interval(draws, ALPHA)
    assert few is not None and many is not None and many[1] - many[0] < few[1] - few[0]
    assert confidence_interval(draws[:4], ALPHA) is None  # so few bound nothing


def test_last_bits_of_equal_scores_decide_nothing() -> None:
    assert decided_after([1e-17] * 20, ALPHA) is None
    assert confidence_interval([0.0] * 20, ALPHA) is None


def test_the_decision_is_the_prefixes_and_not_that_of_seeds_that_ended_early() -> None:
    rule = StopRule(("a", "b"))
    seeds = [str(i) for i in range(20)]
    a = dict.fromkeys(seeds, 0.5)
    b = {seed: 0.6 + 0.001 * i for i, seed in enumerate(seeds)}
    whole = decide(rule, a, b, seeds)
    assert whole.decided and whole.better == "b" and whole.seeds == 6 and whole.budget == 20
    del b["3"]  # not finished: what comes after it is not looked at
    early = decide(rule, a, b, seeds)
    assert not early.decided and early.seeds == 3
    swapped = decide(StopRule(("b", "a")), {**b, "3": 0.6}, a, seeds)
    assert swapped.decided and swapped.better == "b" and swapped.mean < 0
