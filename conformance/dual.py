"""A number that carries its slopes, so that a loss written in plain Python has an exact gradient (forward
mode).

Every value is a float; `slopes` maps the place of a log-probability, (row, token), to the derivative by it. A
number that was taken out with `.value` is a constant: that is how a reference stops a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

Place = tuple[int, int]


class Dual:
    """value + slopes; arithmetic with other duals and with floats."""

    __slots__ = ("slopes", "value")

    def __init__(self, value: float, slopes: dict[Place, float] | None = None) -> None:
        self.value = value
        self.slopes = slopes or {}

    def __add__(self, other: Dual | float) -> Dual:
        if not isinstance(other, Dual):
            return Dual(self.value + other, self.slopes)
        return Dual(self.value + other.value, _combine(self.slopes, 1.0, other.slopes, 1.0))

    def __mul__(self, other: Dual | float) -> Dual:
        if not isinstance(other, Dual):
            return Dual(self.value * other, {place: slope * other for place, slope in self.slopes.items()})
        slopes = _combine(self.slopes, other.value, other.slopes, self.value)
        return Dual(self.value * other.value, slopes)

    def __neg__(self) -> Dual:
        return self * -1.0

    def __sub__(self, other: Dual | float) -> Dual:
        return self + (-other)

    def __truediv__(self, other: float) -> Dual:
        return Dual(self.value / other, {place: slope / other for place, slope in self.slopes.items()})

    def __pow__(self, exponent: float) -> Dual:
        return self._chain(self.value**exponent, exponent * self.value ** (exponent - 1.0))

    __radd__ = __add__
    __rmul__ = __mul__

    def _chain(self, value: float, derivative: float) -> Dual:
        return Dual(value, {place: slope * derivative for place, slope in self.slopes.items()})


def _combine(a: dict[Place, float], wa: float, b: dict[Place, float], wb: float) -> dict[Place, float]:
    result = {place: slope * wa for place, slope in a.items()}
    for place, slope in b.items():
        result[place] = result.get(place, 0.0) + slope * wb
    return result


def _function(f: Callable[[float], float], derivative: Callable[[float], float]) -> Callable[[Dual], Dual]:
    return lambda x: x._chain(f(x.value), derivative(x.value))


exp = _function(math.exp, math.exp)
absolute = _function(abs, lambda x: math.copysign(1.0, x) if x else 0.0)
sigmoid = _function(lambda x: 1 / (1 + math.exp(-x)), lambda x: math.exp(-x) / (1 + math.exp(-x)) ** 2)


def total(numbers: Iterable[Dual]) -> Dual:
    """Their sum; 0 for none."""
    result = Dual(0.0)
    for number in numbers:
        result = result + number
    return result


def product(numbers: Iterable[Dual]) -> Dual:
    """Their product; 1 for none."""
    result = Dual(1.0)
    for number in numbers:
        result = result * number
    return result
