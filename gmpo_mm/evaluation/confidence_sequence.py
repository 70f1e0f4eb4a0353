"""An interval of Pass@1 that may be looked at after every problem: a confidence sequence for sampling without replacement.

A set has N problems with scores x in [0, 1] (a problem's share of right samples, which its seed fixes) and the mean m. Drawn in
a random order, the next one's mean is known for each m from those that are there:

    m_t = (N m - (x_1 + ... + x_{t-1})) / (N - t + 1)

So under the true m both capitals of a gambler are nonnegative martingales that start at 1, whatever he stakes from what he has
seen, as long as he can't lose more than he has:

    K+_t(m) = prod_{i <= t} (1 + min(l_i, c / m_i) (x_i - m_i))              bets that the mean is larger than m
    K-_t(m) = prod_{i <= t} (1 - min(l_i, c / (1 - m_i)) (x_i - m_i))        bets that it is smaller

The interval after t problems holds every m for which max(K+_t(m), K-_t(m)) / 2 < 1 / alpha. By Ville's inequality the true mean
is ever left out with a chance of at most alpha, however often one looks and for whatever reason one stops. This is the hedged
capital of Waudby-Smith and Ramdas ("Estimating means of bounded random variables by betting", JRSS B 2024, arXiv 2010.09686;
without replacement also their "Confidence sequences for sampling without replacement", NeurIPS 2020, arXiv 2006.04347).

Any stake that looks only back is allowed. Theirs fits all times; ours is for the width w that is asked for.
Against a mean at the distance w / 2 the drift x_i - m_i is (w / 2) N / (N - i + 1), and the logarithm of the
capital grows most with the stake

    l_i = (w / 2) N / (N - i + 1) / s2_{i-1}
    s2_t = (1/4 + sum_{i <= t} (x_i - (1/2 + x_1 + ... + x_i) / (i + 1))^2) / (t + 1)

Each factor of K+ falls with m and each of K- rises, so the set is an interval whose ends are found by bisection.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gmpo_mm.evaluation.resampling import Interval

BETTING_TEST = "betting test, problems drawn without replacement"
METHOD = "betting confidence sequence, problems drawn without replacement"
MOST_LOST = 0.75
"""c: the share of the capital that one problem may cost."""
BISECTIONS = 40
"""Halvings of the range that an end is looked for in: to 1e-12."""


def log_capitals(
    scores_NT: ArrayLike, total: int, width: float, mean: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """log K+_t and log K-_t after each of the scores (..., T), for a candidate mean (...) that these scores allow."""
    scores = np.asarray(scores_NT, dtype=np.float64)
    before = np.arange(scores.shape[-1])  # t - 1
    sums = np.cumsum(scores, axis=-1)
    left = total - before
    means = np.clip((total * np.asarray(mean)[..., None] - (sums - scores)) / left, 0.0, 1.0)
    stakes = width / 2 * total / left / _variances_before(scores, sums)
    with np.errstate(divide="ignore"):  # a mean of 0 or 1 limits one of the stakes by nothing
        gain = np.minimum(stakes, MOST_LOST / means) * (scores - means)
        loss = np.minimum(stakes, MOST_LOST / (1 - means)) * (scores - means)
        return np.cumsum(np.log1p(gain), axis=-1), np.cumsum(np.log1p(-loss), axis=-1)


def _variances_before(scores: NDArray[np.float64], sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """s2_{t-1} for t = 1 .. T, each from the scores before it."""
    count = np.arange(1, scores.shape[-1] + 1)
    squares = np.cumsum((scores - (0.5 + sums) / (count + 1)) ** 2, axis=-1)
    return (0.25 + np.concatenate([np.zeros_like(squares[..., :1]), squares[..., :-1]], axis=-1)) / count


def sequence_interval(scores_T: ArrayLike, total: int, width: float, level: float = 0.95) -> Interval:
    """The interval of the mean of all `total` scores after those of (T,), given in the random order that they came in.

    `width` sizes the stakes and has to be chosen before the first score. After all scores it is a point.
    """
    scores = _checked(scores_T, total)
    limit = math.log(2 / (1 - level))
    least, most = float(scores.sum()) / total, float(scores.sum() + total - len(scores)) / total

    def rejected(side: int) -> Callable[[float], bool]:
        return lambda mean: bool(log_capitals(scores, total, width, mean)[side][-1] >= limit)

    if len(scores) == total:
        return Interval(least, least, METHOD, level)
    low, high = _first_kept(rejected(0), least, most), _first_kept(rejected(1), most, least)
    if low > high:  # both capitals reject every mean: what the scores that are not there allow still holds
        low, high = least, most
    return Interval(low, high, METHOD, level)


def sequence_difference(differences_T: ArrayLike, total: int, width: float, level: float = 0.95) -> Interval:
    """The same of the mean of paired differences in [-1, 1], which are bounded as scores are, after (d + 1) / 2."""
    interval = sequence_interval((np.asarray(differences_T) + 1) / 2, total, width / 2, level)
    return Interval(2 * interval.low - 1, 2 * interval.high - 1, interval.method, level)


def sequence_p_value(differences_T: ArrayLike, total: int, width: float) -> float:
    """Of "the mean of all `total` differences is 0": 1 over the hedged capital against it, valid whenever one stops."""
    scores = _checked((np.asarray(differences_T) + 1) / 2, total)
    if not scores.sum() <= total / 2 <= scores.sum() + total - len(scores):
        return 0.0  # whatever the others are, the mean can't be 0
    most = max(float(capitals[-1]) for capitals in log_capitals(scores, total, width / 2, 0.5))
    return min(1.0, 2 * math.exp(-most))


def decided_after(
    scores_T: ArrayLike, total: int, width: float, level: float = 0.95, first: int = 1
) -> int | None:
    """The first number of scores, from `first` on, whose interval is narrower than `width`; None where none is."""
    scores = np.asarray(scores_T, dtype=np.float64)
    for count in range(first, len(scores) + 1):
        interval = sequence_interval(scores[:count], total, width, level)
        if interval.high - interval.low < width:
            return count
    return None


def _first_kept(rejected: Callable[[float], bool], start: float, end: float) -> float:
    """Where a mean is no longer rejected on the way from `start` to `end`; on the rejected side by less than 1e-12."""
    if not rejected(start):
        return start
    for _ in range(BISECTIONS):
        middle = (start + end) / 2
        start, end = (middle, end) if rejected(middle) else (start, middle)
    return start


def _checked(scores_T: ArrayLike, total: int) -> NDArray[np.float64]:
    scores = np.asarray(scores_T, dtype=np.float64)
    if scores.ndim != 1 or not 0 < len(scores) <= total:
        raise ValueError(f"one to {total} scores in a flat list are expected, and got shape {scores.shape}")
    if not (scores.min() >= 0 and scores.max() <= 1):
        raise ValueError(f"scores must lie in [0, 1], and run from {scores.min():g} to {scores.max():g}")
    return scores
