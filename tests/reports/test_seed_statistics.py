"""Statistics over seeds, against scipy's own tests, printed tables and a simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gmpo_mm.reports.seed_statistics import (
    detectable_in_errors,
    seed_difference,
    seed_mean,
    steps_to,
    welch_half_width,
)

SCORES = st.lists(st.floats(0, 1, allow_nan=False), min_size=2, max_size=8)


def test_the_interval_is_the_one_that_a_t_table_gives() -> None:
    mean = seed_mean([0.70, 0.80, 0.90])
    half = 4.303 * 0.1 / math.sqrt(3)  # t(0.975, 2 degrees of freedom) as printed
    assert mean.mean == pytest.approx(0.8)
    assert (mean.low, mean.high) == pytest.approx((0.8 - half, 0.8 + half), abs=1e-4)


@given(SCORES)
def test_intervals_and_p_values_are_scipy_s(values: list[float]) -> None:
    a = [0.5 + 0.1 * math.sin(i) for i in range(len(values))]
    found = seed_difference(values, a)
    gaps = np.array(values) - np.array(a)
    if np.ptp(gaps) < 1e-9:
        return
    theirs = stats.ttest_rel(values, a)
    assert found.p_value == pytest.approx(float(theirs.pvalue), rel=1e-6)
    assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval(0.95)), rel=1e-6, abs=1e-12)


# Cohen's d of a paired two-sided t-test at alpha 0.05 and power 0.8, as power tables print it
@pytest.mark.parametrize(("n", "d"), [(3, 3.264), (5, 1.682), (10, 0.996), (30, 0.529)])
def test_the_detectable_difference_is_the_one_of_power_tables(n: int, d: float) -> None:
    assert detectable_in_errors(n) / math.sqrt(n) == pytest.approx(d, abs=1e-3)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_a_difference_of_the_detectable_size_is_found_four_times_in_five(n: int) -> None:
    generator = np.random.default_rng(n)
    true = detectable_in_errors(n) / math.sqrt(n)  # in standard deviations
    draws = generator.normal(true, 1.0, (20_000, n))
    p_values = stats.ttest_1samp(draws, 0.0, axis=1).pvalue
    assert np.mean(p_values < 0.05) == pytest.approx(0.8, abs=0.01)


def test_more_seeds_show_smaller_differences() -> None:
    sizes = [detectable_in_errors(n) / math.sqrt(n) for n in range(2, 20)]
    assert sizes == sorted(sizes, reverse=True)


def test_one_seed_and_equal_values_give_no_interval_and_no_test() -> None:
    assert seed_mean([0.9]).low is None
    assert seed_mean([0.9, 0.9, 0.9]).low is None
    for b, a in (([0.9], [0.5]), ([0.9, 0.8], [0.5, 0.4])):
        found = seed_difference(b, a)
        assert found.mean == pytest.approx(0.4)
        assert (found.low, found.high, found.p_value, found.detectable) == (None, None, None, None)


def test_an_interval_ends_where_the_quantity_does() -> None:
    free, cut = seed_mean([0.9, 1.0, 1.0]), seed_mean([0.9, 1.0, 1.0], bounds=(0.0, 1.0))
    assert free.high is not None and free.high > 1
    assert (cut.low, cut.high) == (free.low, 1.0)
    apart = seed_difference([0.9, 0.2], [0.1, 0.3], bound=1.0)
    assert (apart.low, apart.high) == (-1.0, 1.0)


def test_unpaired_lists_are_refused() -> None:
    with pytest.raises(ValueError, match="paired"):
        seed_difference([0.1, 0.2], [0.1])


def test_steps_to_a_score_are_the_first_that_reach_it() -> None:
    steps, scores = [0, 20, 40, 60], [0.2, 0.9, 0.7, 0.95]
    assert steps_to(steps, scores, 0.9) == 20
    assert steps_to(steps, scores, 0.91) == 60
    assert steps_to(steps, scores, 0.99) is None


def test_the_unpaired_interval_is_scipy_s_welch() -> None:
    generator = np.random.default_rng(6)
    b, a = generator.normal(0.6, 0.05, 7).tolist(), generator.normal(0.5, 0.01, 7).tolist()
    low, high = stats.ttest_ind(b, a, equal_var=False).confidence_interval(0.95)
    assert welch_half_width(b, a) == pytest.approx((high - low) / 2, rel=1e-9)
    assert welch_half_width([0.5, 0.5], [0.4, 0.4]) is None


def test_pairing_narrows_the_interval_where_a_lucky_seed_is_lucky_for_both_and_widens_it_elsewhere() -> None:
    luck = np.array([0.01, 0.07, -0.04, 0.03, -0.06])
    noise = np.array([0.004, -0.002, 0.001, 0.003, -0.005])
    together = seed_difference((0.6 + luck + noise).tolist(), (0.5 + luck).tolist()).pairing
    against = seed_difference((0.6 - luck + noise).tolist(), (0.5 + luck).tolist()).pairing
    assert together is not None and against is not None
    assert together.correlation > 0.99 and together.narrowed > 0.8
    assert against.correlation < -0.9 and against.narrowed < 0
    assert seed_difference([0.6, 0.7], [0.5, 0.6]).pairing is None  # equal differences: no interval
