"""Intervals that may be looked at after every problem: against the equations as they stand, and in simulations."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from gmpo_mm.evaluation.confidence_sequence import (
    decided_after,
    log_capitals,
    sequence_difference,
    sequence_interval,
    sequence_p_value,
)
from gmpo_mm.evaluation.resampling import standard_error

Population = Callable[[np.random.Generator, int], np.ndarray]
POPULATIONS: dict[str, Population] = {
    "16 samples of easy and hard problems": lambda g, n: g.binomial(16, g.beta(0.4, 0.8, n)) / 16,
    "half right": lambda g, n: (np.arange(n) < n // 2).astype(float),
    "almost none right": lambda g, n: (np.arange(n) < max(1, n // 25)).astype(float),
    "almost all right": lambda g, n: 1.0 - (np.arange(n) < max(1, n // 25)),
    "all alike": lambda g, n: np.full(n, 0.25),
    "all about equally hard": lambda g, n: g.binomial(16, 0.3, n) / 16,
    "nearly equal, and one apart": lambda g, n: np.where(np.arange(n) == 0, 1.0, 0.01),
}


def naive_capitals(
    scores: list[float], total: int, width: float, mean: float
) -> tuple[list[float], list[float]]:
    """K+ and K- after each score, written from the equations of the module's first lines."""
    plus, minus, up, down = 1.0, 1.0, [], []
    for i in range(1, len(scores) + 1):
        past = scores[: i - 1]
        m = (total * mean - sum(past)) / (total - i + 1)
        squares = 0.25
        for j in range(1, i):
            squares += (scores[j - 1] - (0.5 + sum(scores[:j])) / (j + 1)) ** 2
        stake = width / 2 * total / (total - i + 1) / (squares / i)
        most_up = math.inf if m == 0 else 0.75 / m
        most_down = math.inf if m == 1 else 0.75 / (1 - m)
        plus *= 1 + min(stake, most_up) * (scores[i - 1] - m)
        minus *= 1 - min(stake, most_down) * (scores[i - 1] - m)
        up.append(plus)
        down.append(minus)
    return up, down


@pytest.mark.parametrize("name", POPULATIONS)
def test_the_capitals_and_the_interval_are_those_of_the_equations(name: str) -> None:
    total, width = 24, 0.3
    scores = np.random.default_rng(3).permutation(POPULATIONS[name](np.random.default_rng(1), total))
    for count in (1, 9, 23):
        seen = scores[:count].tolist()
        least, most = sum(seen) / total, (sum(seen) + total - count) / total
        kept = []
        for mean in np.linspace(least, most, 120):
            up, down = naive_capitals(seen, total, width, float(mean))
            found = log_capitals(seen, total, width, mean)
            np.testing.assert_allclose(found, (np.log(up), np.log(down)), rtol=1e-9, atol=1e-9)
            if max(up[-1], down[-1]) / 2 < 20:
                kept.append(float(mean))
        interval, step = sequence_interval(seen, total, width), (most - least) / 119
        assert interval.low == pytest.approx(min(kept), abs=step) and interval.low <= min(kept) + 1e-9
        assert interval.high == pytest.approx(max(kept), abs=step) and interval.high >= max(kept) - 1e-9


def test_after_all_problems_the_interval_is_their_mean() -> None:
    scores = np.random.default_rng(0).random(30)
    interval = sequence_interval(scores, 30, 0.1)
    assert interval.low == interval.high == pytest.approx(scores.mean(), abs=1e-12)
    assert decided_after(scores, 30, 1e-6) == 30


def test_the_decision_is_the_first_interval_that_is_narrower_whatever_is_looked_at_together() -> None:
    scores = np.random.default_rng(5).binomial(16, 0.3, 200) / 16
    count = decided_after(scores, 200, 0.2)
    assert count is not None and 10 < count < 60
    widths = [sequence_interval(scores[:t], 200, 0.2) for t in (count - 1, count)]
    assert widths[0].high - widths[0].low >= 0.2 > widths[1].high - widths[1].low
    assert decided_after(scores[: count - 1], 200, 0.2) is None
    assert decided_after(scores[: count + 9], 200, 0.2, first=count) == count


def test_the_fair_gambler_wins_nothing_on_average() -> None:
    """Over all orders of a small set each capital's mean is 1 after each problem: what Ville's inequality needs."""
    import itertools

    scores = np.array([0.0, 0.25, 0.25, 1.0, 0.75])
    orders = np.array([scores[list(order)] for order in itertools.permutations(range(5))])
    for capitals in log_capitals(orders, 5, 0.4, scores.mean()):
        np.testing.assert_allclose(np.exp(capitals).mean(axis=0), 1.0, rtol=1e-12)


def random_orders(population: Population, total: int, runs: int) -> np.ndarray:
    """So many populations of `total` scores, each in a random order."""
    generator = np.random.default_rng(total)
    return np.array([generator.permutation(population(generator, total)) for _ in range(runs)])


def left_out_by_the_sequence(orders: np.ndarray, width: float) -> float:
    """The share of the orders whose confidence sequence leaves the true mean out after any number of problems."""
    capitals = log_capitals(orders, orders.shape[1], width, orders.mean(axis=1))
    highest = np.max([one.max(axis=1) for one in capitals], axis=0)
    return float(np.mean(highest >= math.log(40)))


def left_out_by_a_fixed_interval(orders: np.ndarray) -> float:
    """The same of mean +- 1.96 standard errors with the finite set's correction, looked at from the 10th problem on."""
    missed = 0
    for order in orders:
        for t in range(10, len(order)):
            error = (standard_error(order[:t]) or 0.0) * math.sqrt(1 - t / len(order))
            if abs(order[:t].mean() - order.mean()) > 1.96 * error + 1e-12:
                missed += 1
                break
    return missed / len(orders)


def most_allowed(runs: int) -> float:
    """5 %, and three standard errors of a share of so many runs."""
    return 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


@pytest.mark.parametrize("name", POPULATIONS)
def test_the_true_mean_stays_inside_at_every_look(name: str) -> None:
    orders = random_orders(POPULATIONS[name], 120, 300)
    assert left_out_by_the_sequence(orders, 0.2) <= most_allowed(300)


def test_a_fixed_interval_looked_at_after_every_problem_loses_the_true_mean_far_more_often() -> None:
    orders = random_orders(POPULATIONS["16 samples of easy and hard problems"], 120, 100)
    assert left_out_by_the_sequence(orders, 0.2) <= most_allowed(100)
    assert left_out_by_a_fixed_interval(orders) > 0.3


@pytest.mark.slow
@pytest.mark.parametrize("name", POPULATIONS)
@pytest.mark.parametrize(("total", "width"), [(30, 0.3), (120, 0.2), (601, 0.1), (601, 0.02)])
def test_the_true_mean_stays_inside_at_every_look_in_many_orders(name: str, total: int, width: float) -> None:
    orders = random_orders(POPULATIONS[name], total, 5000)
    assert left_out_by_the_sequence(orders, width) <= most_allowed(5000)


def test_a_difference_is_bounded_and_tested_by_the_same_capital() -> None:
    generator = np.random.default_rng(2)
    better = generator.binomial(16, 0.6, 100) / 16 - generator.binomial(16, 0.3, 100) / 16
    interval, p_value = sequence_difference(better[:60], 100, 0.2), sequence_p_value(better[:60], 100, 0.2)
    assert 0 < interval.low < better.mean() < interval.high and p_value < 0.05
    mirrored = sequence_difference(-better[:60], 100, 0.2)
    assert (mirrored.low, mirrored.high) == pytest.approx((-interval.high, -interval.low), abs=1e-9)
    for count in range(1, 101):  # the test rejects exactly where the interval has no 0
        within = sequence_difference(better[:count], 100, 0.2)
        assert (sequence_p_value(better[:count], 100, 0.2) <= 0.05) == (not within.low <= 0 <= within.high)


def test_equal_models_are_called_different_in_few_orders_only() -> None:
    generator = np.random.default_rng(4)
    called = 0
    for _ in range(100):
        differences = generator.binomial(4, 0.4, 40) / 4 - generator.binomial(4, 0.4, 40) / 4
        differences = np.concatenate([differences, -differences])  # their mean is 0
        order = generator.permutation(differences)
        called += min(sequence_p_value(order[:t], 80, 0.2) for t in range(5, 80, 5)) <= 0.05
    assert called <= 100 * most_allowed(100)


def test_scores_outside_of_0_and_1_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        sequence_interval([0.5, 1.5], 4, 0.1)
    with pytest.raises(ValueError, match="one to 2 scores"):
        sequence_interval([0.5, 0.5, 0.5], 2, 0.1)
