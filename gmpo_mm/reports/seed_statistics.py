"""Intervals and tests over seeds, from Student's t distribution: a handful of runs is too few for a bootstrap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

LEVEL = 0.95
POWER = 0.8
NORMAL_FROM = 10_000
"""Degrees of freedom."""


@dataclass(frozen=True)
class SeedMean:
    """The mean over seeds; `low` and `high` are None where the seeds say nothing about the spread (see `seed_mean`)."""

    values: tuple[float, ...]
    mean: float
    low: float | None
    high: float | None
    level: float = LEVEL

    @property
    def seeds(self) -> int:
        """How many runs it is over."""
        return len(self.values)


@dataclass(frozen=True)
class SeedDifference:
    """Paired differences, seed by seed, B - A: their mean, interval, p-value, and the minimum detectable difference.

    `detectable` is the true difference that a two-sided paired t-test over as many seeds with this spread would find with
    a chance of `POWER`. All but the mean are None for fewer than two seeds, and where all differences are equal: the
    seeds then show no spread, and a t-test would claim certainty.
    """

    values: tuple[float, ...]
    mean: float
    low: float | None
    high: float | None
    p_value: float | None
    detectable: float | None
    level: float = LEVEL
    pairing: Pairing | None = None
    """What pairing by seed gained; None where there is no interval."""

    @property
    def seeds(self) -> int:
        """How many pairs it is over."""
        return len(self.values)


@dataclass(frozen=True)
class Pairing:
    """Half widths of the interval of B - A, paired by seed and not (Welch), neither cut; the correlation over seeds.

    With equal seeds two variants see the same prompts in the same order and draw with the same random numbers, so that a
    lucky seed may be lucky for both: where it is, the paired interval is narrower. It is wider where they go against each
    other, and with few seeds for its fewer degrees of freedom. Both intervals are valid.
    """

    paired_half: float
    unpaired_half: float
    correlation: float

    @property
    def narrowed(self) -> float:
        """The share by which pairing narrowed the interval; below 0 where it widened it."""
        return 1 - self.paired_half / self.unpaired_half


def seed_mean(values: Sequence[float], *, level: float = LEVEL, bounds: tuple[float, float] | None = None) -> SeedMean:
    """Mean and t-interval, cut at `bounds` where the quantity can't lie outside. No interval for one seed or equal values."""
    array = np.asarray(values, dtype=np.float64)
    half = _half_width(array, level)
    mean = float(array.mean())
    if half is None:
        return SeedMean(tuple(array.tolist()), mean, None, None, level)
    low, high = mean - half, mean + half
    if bounds is not None:
        low, high = max(low, bounds[0]), min(high, bounds[1])
    return SeedMean(tuple(array.tolist()), mean, low, high, level)


def seed_difference(
    b: Sequence[float], a: Sequence[float], *, level: float = LEVEL, power: float = POWER, bound: float = math.inf
) -> SeedDifference:
    """B - A over the same seeds, in the same order: a paired t-test. ValueError for lists of different lengths.

    No difference is larger than `bound`: the interval is cut there.
    """
    if len(a) != len(b) or not len(a):
        raise ValueError(f"a paired difference needs one value of each for every seed, and got {len(a)} and {len(b)}")
    gaps = np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64)
    mean, half = float(gaps.mean()), _half_width(gaps, level)
    values = tuple(gaps.tolist())
    if half is None:
        return SeedDifference(values, mean, None, None, None, None, level)
    error = float(gaps.std(ddof=1)) / math.sqrt(len(gaps))
    p_value = 2 * float(special.stdtr(len(gaps) - 1, -abs(mean) / error))
    detectable = error * detectable_in_errors(len(gaps), level=level, power=power)
    low, high = max(mean - half, -bound), min(mean + half, bound)
    return SeedDifference(values, mean, low, high, p_value, detectable, level, _pairing(b, a, half, level))


def welch_half_width(b: Sequence[float], a: Sequence[float], level: float = LEVEL) -> float | None:
    """Half of the interval of the means' difference without pairing (Welch 1947); None where neither list has a spread."""
    variances = [float(np.var(np.asarray(values, dtype=np.float64), ddof=1)) / len(values) for values in (b, a)]
    total = sum(variances)
    if total <= 0:
        return None
    degrees = total**2 / sum(part**2 / (len(values) - 1) for part, values in zip(variances, (b, a)))
    return float(special.stdtrit(degrees, (1 + level) / 2)) * math.sqrt(total)


def _pairing(b: Sequence[float], a: Sequence[float], paired_half: float, level: float) -> Pairing | None:
    unpaired = welch_half_width(b, a, level)
    if unpaired is None:
        return None
    spreads = float(np.std(b)) * float(np.std(a))
    together = float(np.mean((np.asarray(b) - np.mean(b)) * (np.asarray(a) - np.mean(a))))
    return Pairing(paired_half, unpaired, together / spreads if spreads > 0 else 0.0)


def detectable_in_errors(n: int, *, level: float = LEVEL, power: float = POWER) -> float:
    """The true difference, in standard errors of the mean, that a two-sided t-test over `n` finds with chance `power`.

    The non-central t distribution's parameter at which P(T > critical value) = power; that a test rejects on the wrong side
    as well is left out (below 1e-6 at a power of 0.8).
    """
    if n < 2:
        raise ValueError(f"a t-test needs two values, and got {n}")
    return detectable_by_degrees(n - 1, level=level, power=power)


def detectable_by_degrees(degrees: int, *, level: float = LEVEL, power: float = POWER) -> float:
    """The same for a t-test with so many degrees of freedom: one less than paired values, two less than two samples hold."""
    critical = float(special.stdtrit(degrees, (1 + level) / 2))
    if degrees > NORMAL_FROM:  # the non-central t's inverse is slow there, and the normal's agrees to three digits
        return float(special.ndtri((1 + level) / 2) + special.ndtri(power))
    return float(special.nctdtrinc(degrees, 1 - power, critical))


def steps_to(steps: Sequence[int], scores: Sequence[float], target: float) -> int | None:
    """The first validated step whose score is at least `target`; None when none is."""
    return next((int(step) for step, score in zip(steps, scores) if score >= target), None)


def _half_width(values: np.ndarray, level: float) -> float | None:
    """Half of the t-interval; None for fewer than two values, or where they don't differ but in their last bits."""
    if len(values) < 2 or np.ptp(values) <= 1e-12 * max(1.0, float(np.abs(values).max())):
        return None
    critical = float(special.stdtrit(len(values) - 1, (1 + level) / 2))
    return critical * float(values.std(ddof=1)) / math.sqrt(len(values))
