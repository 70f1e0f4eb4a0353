"""A logarithmic axis for ratios whose logarithms may be too large for a float: positions are log10(ratio)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

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
