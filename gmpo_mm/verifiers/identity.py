"""Are two formulas the same function? Decided by their values at several points, to some fifty digits.

Two different formulas of this size that agree at points chosen without knowledge of them, to fifty digits, do not occur in
practice; a point outside the domain of either formula says nothing. Sizes and magnitudes are bounded, so that every
input costs milliseconds; where too few points say something the answer is None.
"""

import threading
import zlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import lru_cache
from typing import Any

import mpmath

from gmpo_mm.verifiers.expressions import NotExpression, Tree, contains, parse_expression, variables

PRECISION = 170  # bits
HIGH_PRECISION = 400  # bits; tells a small number from what rounding left of zero
MAX_MAGNITUDE = 20_000  # bits of a value's size; beyond it is out of bounds
MAX_FACTORIAL = 2_000
MAX_VARIABLES = 12
TOLERANCE = 30  # decimal digits that must agree
_ENOUGH_POINTS = 2
_REAL_POINTS = 5
_INTEGER_POINTS = 6
_INTEGER_KINDS = frozenset({"floor", "ceil", "factorial", "binom"})
_COMPLEX = frozenset({"i"})

Environment = dict[str, Any]  # rational or real values of the variables


class OutsideDomain(ArithmeticError):
    """The formula has no real value at this point, or one beyond the bounds."""


class TooLarge(OutsideDomain):
    """A value, or a step on the way to it, is beyond the bounds."""


_local = threading.local()


def context(bits: int) -> Any:
    """This thread's own mpmath context: the library's global one belongs to everybody."""
    contexts = _local.__dict__.setdefault("contexts", {})
    if bits not in contexts:
        contexts[bits] = mpmath.MPContext()
        contexts[bits].prec = bits
    return contexts[bits]


class _Evaluator:
    """Value of a tree at one point; in the reals, or in the complex numbers with principal values."""

    def __init__(self, environment: Environment, in_complex: bool, bits: int = PRECISION) -> None:
        self.environment = environment
        self.in_complex = in_complex
        self.context = context(bits)

    def value(self, tree: Tree) -> Any:
        kind = tree[0]
        if kind == "num":
            return self.number(tree[1])
        if kind == "var":
            value = self.environment[tree[1]]
            return self.number(value) if isinstance(value, Fraction) else value
        if kind == "const":
            return {"pi": self.context.pi, "e": self.context.e, "i": self.context.j}[tree[1]] * self.context.one
        operation = getattr(self, f"_{kind}", None)
        if operation is None:
            raise OutsideDomain("a sum, an integral or another that has no value here")
        result = operation(tree)
        if not self.context.isfinite(result) or self.magnitude(result) > MAX_MAGNITUDE:
            raise TooLarge("too large")
        return result

    def number(self, value: Fraction) -> Any:
        return self.context.mpf(value.numerator) / value.denominator

    def magnitude(self, value: Any) -> float:
        """Bits before or after the binary point."""
        return abs(float(self.context.mag(value))) if value else 0.0

    def integer(self, tree: Tree, largest: int) -> int:
        value = self.value(tree)
        if not self.context.isint(value):
            raise OutsideDomain("not an integer")
        if abs(value) > largest:
            raise TooLarge("integer beyond the bounds")
        return int(value.real)

    def real(self, tree: Tree) -> Any:
        value = self.value(tree)
        if self.context.im(value) != 0:
            raise OutsideDomain("not real")
        return self.context.re(value)

    def _add(self, tree: Tree) -> Any:
        return self.value(tree[1]) + self.value(tree[2])

    def _neg(self, tree: Tree) -> Any:
        return -self.value(tree[1])

    def _mul(self, tree: Tree) -> Any:
        return self.value(tree[1]) * self.value(tree[2])

    def _div(self, tree: Tree) -> Any:
        top, bottom = self.value(tree[1]), self.value(tree[2])
        if bottom == 0:
            raise OutsideDomain("division by zero")
        return top / bottom

    def _pow(self, tree: Tree) -> Any:
        return self.power(self.value(tree[1]), self.value(tree[2]))

    def power(self, base: Any, exponent: Any) -> Any:
        if base == 0:
            if self.context.re(exponent) <= 0:
                raise OutsideDomain("0 to a power that is not positive")
            return self.context.zero
        if self.magnitude(exponent) > 60 or self.magnitude(base) * abs(exponent) > MAX_MAGNITUDE:
            raise TooLarge("power too large")
        if self.in_complex or base > 0 or self.context.isint(exponent):
            return base**exponent
        for odd in (3, 5, 7, 9):  # the real root of a negative number
            top = exponent * odd
            nearest = self.context.nint(top)
            if abs(top - nearest) < self.context.mpf(2) ** (20 - self.context.prec):
                size = (-base) ** exponent
                return -size if int(nearest) % 2 else size
        raise OutsideDomain("power of a negative number")

    def _root(self, tree: Tree) -> Any:
        base, degree = self.value(tree[1]), self.integer(tree[2], 64)
        if degree < 2:
            raise OutsideDomain("degree of a root")
        if self.in_complex:
            return self.context.sqrt(base) if degree == 2 else self.power(base, self.context.one / degree)
        if base < 0 and degree % 2 == 0:
            raise OutsideDomain("root of a negative number")
        size = self.context.sqrt(abs(base)) if degree == 2 else self.context.nthroot(abs(base), degree)
        return -size if base < 0 else size

    def logarithm(self, value: Any) -> Any:
        if value == 0 or (not self.in_complex and value < 0):
            raise OutsideDomain("logarithm")
        return self.context.ln(value)

    def _log(self, tree: Tree) -> Any:
        bottom = self.logarithm(self.value(tree[2]))
        if bottom == 0:
            raise OutsideDomain("logarithm to base 1")
        return self.logarithm(self.value(tree[1])) / bottom

    def _factorial(self, tree: Tree) -> Any:
        n = self.integer(tree[1], MAX_FACTORIAL)
        if n < 0:
            raise OutsideDomain("factorial of a negative number")
        return self.context.factorial(n)

    def _binom(self, tree: Tree) -> Any:
        n, k = self.integer(tree[1], MAX_FACTORIAL), self.integer(tree[2], MAX_FACTORIAL)
        if not 0 <= k <= n:
            raise OutsideDomain("binomial coefficient")
        return self.context.binomial(n, k)

    def _degrees(self, tree: Tree) -> Any:
        return self.value(tree[1]) * self.context.pi / 180

    def _call(self, tree: Tree) -> Any:
        """An unknown function: some smooth value that depends on its name and on every argument."""
        seed = zlib.crc32(str(tree[1]).encode()) % 1009
        total = self.context.mpf(seed) / 997
        for place, argument in enumerate(tree[2:], start=2):
            total += self.context.sin(self.value(argument) * place + seed) + self.value(argument) / (place + 5)
        return total

    def _fn(self, tree: Tree) -> Any:
        name, context = tree[1], self.context
        if name == "ln":
            return self.logarithm(self.value(tree[2]))
        if name in ("floor", "ceil"):
            return getattr(context, name)(self.real(tree[2]))
        value = self.value(tree[2])
        if name == "abs":
            return abs(value)
        if self.magnitude(value) > 12 and name in ("exp", "sinh", "cosh", "tanh") and abs(value) > 4096:
            raise TooLarge("exponential too large")
        if abs(value) > 10**9 and name not in ("arctan",):
            raise TooLarge("argument too large")
        if name in ("cot", "sec", "csc", "tan"):
            sine, cosine = context.sin(value), context.cos(value)
            bottom = cosine if name in ("sec", "tan") else sine
            if abs(bottom) < context.mpf(2) ** (-context.prec // 2):
                raise OutsideDomain("pole")
            return {"cot": cosine, "sec": 1, "csc": 1, "tan": sine}[name] / bottom
        if name in ("arcsin", "arccos"):
            if not self.in_complex and abs(value) > 1:
                raise OutsideDomain("inverse function")
            return context.asin(value) if name == "arcsin" else context.acos(value)
        known: dict[str, Callable[[Any], Any]] = {"arctan": context.atan}
        return known.get(name, getattr(context, name, None) or context.exp)(value)


def evaluate_tree(tree: Tree, environment: Environment, in_complex: bool, bits: int = PRECISION) -> Any:
    """Value at a point; OutsideDomain where there is none within bounds."""
    try:
        return _Evaluator(environment, in_complex, bits).value(tree)
    except (ZeroDivisionError, ValueError, OverflowError, TypeError, RecursionError, mpmath.libmp.ComplexResult) as error:
        raise OutsideDomain("no value") from error


def sample_points(names: frozenset[str], integers: bool) -> Iterator[Environment]:
    """Points that depend on the names alone: first positive coordinates, then of both signs."""
    if not names:
        yield {}
        return
    for index in range(_INTEGER_POINTS if integers else _REAL_POINTS):
        point: Environment = {}
        for name in names:
            noise = zlib.crc32(f"{index}/{name}".encode())
            if integers:
                point[name] = Fraction(2 + noise % 23)
                continue
            value = Fraction(1, 5) + Fraction(noise % 1_000_003, 1_000_003) * (1 if index % 3 == 0 else 3)
            point[name] = -value if index >= 3 and (noise >> 8) % 4 != index % 4 else value
        yield point


@lru_cache(maxsize=2048)
def _value_at(text: str, environment: tuple[tuple[str, Fraction], ...], in_complex: bool) -> Any:
    """Value of a parsed text, None outside its domain."""
    try:
        return evaluate_tree(parse_expression(text), dict(environment), in_complex)
    except OutsideDomain:
        return None


def close(a: Any, b: Any) -> bool:
    """Equal to TOLERANCE digits."""
    return bool(abs(a - b) <= max(abs(a), abs(b)) * context(PRECISION).mpf(10) ** -TOLERANCE)


def _vanishes(tree: Tree, environment: Environment, in_complex: bool) -> bool:
    """Whether the value is what rounding leaves of 0: it shrinks with higher precision, as a small number does not."""
    one = context(PRECISION).one
    try:
        low = abs(evaluate_tree(tree, environment, in_complex))
        high = abs(evaluate_tree(tree, environment, in_complex, HIGH_PRECISION))
    except OutsideDomain:
        return False
    return bool(low == 0 or (low < one / 10**TOLERANCE and high < low * one / 10**20))


def same_function(a: str, b: str) -> bool | None:
    """Whether two normalised texts are the same formula; None where that can't be told."""
    try:
        first, second = parse_expression(a), parse_expression(b)
    except NotExpression:
        return None
    names = variables(first) | variables(second)
    if len(names) > MAX_VARIABLES:
        return None
    in_complex = contains(first, _COMPLEX) or contains(second, _COMPLEX)
    verdict = _agree(a, b, names, in_complex, contains(first, _INTEGER_KINDS) or contains(second, _INTEGER_KINDS))
    if verdict is None and not names and not in_complex:
        verdict = _agree(a, b, names, True, False)
    return verdict


def _agree(a: str, b: str, names: frozenset[str], in_complex: bool, integers: bool) -> bool | None:
    first, second = parse_expression(a), parse_expression(b)
    difference: Tree = ("add", first, ("neg", second))
    for use_integers in (True,) if integers else (False, True):
        agreed = 0
        for environment in sample_points(names, use_integers):
            key = tuple(sorted(environment.items()))
            x, y = _value_at(a, key, in_complex), _value_at(b, key, in_complex)
            if x is None or y is None:
                continue
            if not close(x, y) and not _vanishes(difference, environment, in_complex):
                return False
            agreed += 1
        if agreed >= (_ENOUGH_POINTS if names else 1):
            return True
    return None


def constant_value(text: str) -> Any | None:
    """Real value of a formula without variables, to fifty digits; None for anything else."""
    try:
        tree = parse_expression(text)
    except NotExpression:
        return None
    if variables(tree) or contains(tree, _COMPLEX):
        return None
    return _value_at(text, (), False)


def is_beyond_bounds(text: str) -> bool:
    """Whether the text is a number too large or too small to compute, such as a tower of powers; no library could either."""
    try:
        tree = parse_expression(text)
        if variables(tree):
            return False
        evaluate_tree(tree, {}, contains(tree, _COMPLEX))
    except TooLarge:
        return True
    except (NotExpression, OutsideDomain):
        return False
    return False
