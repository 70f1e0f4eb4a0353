"""A test that may be looked at after every pair: e-values for differences that are symmetric about 0.

The null hypothesis is that a difference's sign is a fair coin whatever its size and whatever came before: so it is for two
variants that differ in nothing but their names, as swapping these changes nothing. It is the hypothesis of a sign-flip test,
and needs neither a normal distribution nor a known spread.

    K_t = (1/4) sum over b in {-2, -1, 1, 2} of prod_{i <= t} (1 + tanh(b z_i)),   z_i = d_i / rms(d_1, ..., d_i)

Each factor bets the share tanh(b z_i) of the capital on a sign. Given |d_i| and the past its mean is 1 under the null, as
1 + tanh(x) = exp(x) / cosh(x): the martingale of symmetric variables (Ramdas, Ruf, Larsson and Koolen, "Admissible
anytime-valid sequential inference must rely on nonnegative martingales", arXiv 2009.03167; Vovk and Wang, "Nonparametric
e-tests of symmetry", arXiv 2208.08925). So K is a nonnegative martingale that starts at 1, and by Ville's inequality it
ever reaches 1 / alpha with a chance of at most alpha, however often one looks and for whatever reason one stops.

Not used: the hedged capital of Waudby-Smith and Ramdas ("Estimating means of bounded random variables by betting", arXiv
2010.09686), which tests the mean of values in [-1, 1] without symmetry. Its factor for a difference of 0.02 is at most 1.02,
so that scores a few points apart take hundreds of seeds whatever their spread; here six that agree are enough.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

BETS = (-2.0, -1.0, 1.0, 2.0)
"""In units of the differences' root mean square: near the best bets for true differences of one and two spreads."""
NO_DIFFERENCE = 1e-12
"""Differences below it are the last bits of two sums, and count as 0: the test is free of scale and would believe them."""
CANDIDATES = 2001
"""Centres that `confidence_interval` tries; the interval is widened by one step, so that none is cut off between two."""


def log_e_values(differences_NT: ArrayLike) -> NDArray[np.float64]:
    """log K_t after each of the differences (..., T), in the same shape."""
    return np.asarray(special.logsumexp(_log_capitals(differences_NT), axis=0) - math.log(len(BETS)))


def favours_b(differences: ArrayLike) -> bool:
    """Whether the bets on positive differences (T,) have earned more than those on negative ones."""
    capitals = _log_capitals(differences)[:, -1]
    return bool(
        special.logsumexp(capitals[np.array(BETS) > 0]) > special.logsumexp(capitals[np.array(BETS) < 0])
    )


def decided_after(differences: ArrayLike, alpha: float) -> int | None:
    """The first number of differences (T,) at which the e-value is at least 1 / alpha; None where it never is."""
    reached = np.flatnonzero(log_e_values(differences) >= -math.log(alpha))
    return int(reached[0]) + 1 if len(reached) else None


def confidence_interval(differences: ArrayLike, alpha: float) -> tuple[float, float] | None:
    """The centres about which the differences (T,) may be symmetric: those not rejected after any of them.

    A confidence sequence, so it holds at whatever time one stops, with a chance of 1 - alpha. None where the differences
    are too few to bound it.
    """
    values = np.asarray(differences, dtype=np.float64)
    if not len(values) or np.ptp(values) <= NO_DIFFERENCE:
        return None
    span = float(np.ptp(values))
    centres = np.linspace(values.min() - span, values.max() + span, CANDIDATES)
    kept = np.flatnonzero(log_e_values(values - centres[:, None]).max(axis=-1) < -math.log(alpha))
    if not len(kept) or kept[0] == 0 or kept[-1] == CANDIDATES - 1:
        return None
    return float(centres[kept[0] - 1]), float(centres[kept[-1] + 1])


def _log_capitals(differences_NT: ArrayLike) -> NDArray[np.float64]:
    """Log capital of each bet, (bets, ..., T)."""
    values = np.asarray(differences_NT, dtype=np.float64)
    values = np.where(np.abs(values) <= NO_DIFFERENCE, 0.0, values)
    counts = np.arange(1, values.shape[-1] + 1)
    rms = np.sqrt(np.cumsum(values**2, axis=-1) / counts)
    z = np.divide(values, rms, out=np.zeros_like(values), where=rms > 0)
    # log(1 + tanh(x)) = log(2) - log(1 + exp(-2x)), which neither overflows nor loses a small capital
    return np.stack([np.cumsum(math.log(2) - np.logaddexp(0.0, -2 * bet * z), axis=-1) for bet in BETS])
