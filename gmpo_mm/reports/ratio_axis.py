"""Axes for ratios, which may be too large for a float: positions are log10(ratio)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator, NullLocator

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def ratio_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """(position, label) for an axis from `low` to `high`, both log10 of a ratio: round ratios, about five of them."""
    span = high - low
    if span >= 2.5:
        stride = math.ceil(span / 6)
        first = math.ceil(low / stride) * stride
        return [(float(k), _power(k)) for k in range(first, math.floor(high) + 1, stride)]
    for digits, least in (((1,), 1.8), ((1, 3), 1.2), ((1, 2, 5), 0.6)):
        if span >= least:
            ratios = [d * 10.0**k for k in range(math.floor(low) - 1, math.ceil(high) + 1) for d in digits]
            break
    else:
        ratios = [float(r) for r in MaxNLocator(5).tick_values(10**low, 10**high) if r > 0]
    return [(math.log10(r), f"{r:.6g}") for r in ratios if low - 1e-9 <= math.log10(r) <= high + 1e-9]


def as_ratio_axis(ax: Any) -> None:
    """Label the y axis, drawn in log10, with ratios."""
    ticks = ratio_ticks(*ax.get_ylim())
    ax.set_yticks([position for position, _ in ticks], [label for _, label in ticks])


def log10_of(values: np.ndarray) -> np.ndarray:
    """log10 of ratios; one that underflowed to 0 is drawn at the smallest float."""
    return np.log10(np.maximum(values, np.finfo(np.float64).tiny))


def _power(k: int) -> str:
    return f"{10.0**k:.6g}" if -3 <= k <= 4 else f"10{str(k).translate(_SUPERSCRIPTS)}"


_NEAR_ONE = tuple(math.log10(ratio) for ratio in (1.001, 1.01, 1.1, 2.0))
_POWERS = tuple(float(digit * 10**k) for k in range(9) for digit in (1, 3))
_LABELLED = (*_NEAR_ONE, *_POWERS)
"""log10 of the ratios that a symmetric axis may have labels at."""
_LIMITS = (
    *(math.log10(ratio) for ratio in (1.002, 1.005, 1.01, 1.02, 1.05, 1.1, 1.2, 1.5, 2.0, 3.0, 5.0)),
    *(float(digit * 10**k) for k in range(9) for digit in (1, 2, 3, 5)),
)  # fmt: skip


@dataclass(frozen=True)
class SymmetricAxis:
    """A ratio's axis that is symmetric about 1: linear near it, farther out logarithmic in the ratio's logarithm.

    So ratios within a percent of 1 and ratios of 10^300 can be read on one axis.
    """

    limit: float
    """log10 of the largest ratio on it; the smallest is its reciprocal."""
    linear: float
    """log10 of the ratio up to which it is linear."""

    @classmethod
    def around(cls, near: Iterable[float], all_logs: Iterable[float]) -> SymmetricAxis:
        """Wide enough for all logs (log10 of ratios), and linear no farther than half the outermost of those near 1."""
        outermost, inner = max(map(abs, all_logs), default=0.0), max(map(abs, near), default=0.0)
        limit = next((place for place in _LIMITS if place >= outermost), outermost)
        linear = max((place for place in _NEAR_ONE if place <= min(inner, limit) / 2), default=_NEAR_ONE[0])
        return cls(limit, linear)

    def describe(self) -> str:
        """Its limits, for the words beside a figure."""
        low, high = map(_label, (-self.limit, self.limit))
        return f"The axis is symmetric about 1 and goes from {low} to {high}: it is {self.describe_scale()}."

    def describe_scale(self) -> str:
        """Where it is linear."""
        below, above = map(_label, (-self.linear, self.linear))
        return f"linear between {below} and {above}, and logarithmic in the logarithm of the ratio beyond"

    def apply(self, ax: Any) -> None:
        """Scale, limits and labels of axes whose y values are log10 of ratios; the outermost labels are the limits."""
        ax.set_yscale("symlog", linthresh=self.linear, linscale=0.6)
        ax.set_ylim(-self.limit, self.limit)
        inside = [place for place in _LABELLED if self.linear <= place < self.limit / 2.5]
        chosen = [*inside[:: max(1, round(len(inside) / 5))], self.limit]
        places = [*(-place for place in reversed(chosen)), 0.0, *chosen]
        ax.set_yticks(places, [_label(place) for place in places])
        ax.yaxis.set_minor_locator(NullLocator())

    def apply_x(self, ax: Any, low: float, high: float) -> None:
        """The same for x values, between two of them; no two labels come near to each other."""
        ax.set_xscale("symlog", linthresh=self.linear, linscale=0.6)
        ax.set_xlim(low, high)
        scale = ax.xaxis.get_transform().transform
        ends = scale([low, high])
        places: list[float] = []
        for place in sorted({0.0, *_LABELLED, *(-one for one in _LABELLED)}, key=abs):
            far = all(abs(scale([place])[0] - scale([one])[0]) > (ends[1] - ends[0]) / 9 for one in places)
            if low <= place <= high and (place == 0 or abs(place) >= self.linear) and far:
                places.append(place)
        ax.set_xticks(places, [_label(place) for place in places])
        ax.xaxis.set_minor_locator(NullLocator())


def _label(place: float) -> str:
    """A ratio from its log10: 10³⁰, 5, 1.01, 1, 1/1.01, 0.1."""
    if abs(place) >= 1:
        return _power(round(place)) if float(place).is_integer() else f"{10**place:.3g}"
    return f"1/{10**-place:.4g}" if place < 0 else f"{10**place:.4g}"
