"""Value of a formula's tree at a point: exact where it is rational, else to as many bits as are asked for.

Sizes are bounded, where names have values more tightly. What lies beyond raises `TooLarge`; where there is no
value, `OutsideDomain`.
"""

import math
import operator
import threading
import zlib
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

from mpmath import MPContext
from mpmath.libmp import from_int, mpf_nthroot, round_nearest, to_int

from gmpo_mm.verifiers.budget import spend
from gmpo_mm.verifiers.trees import Tree

MAX_BITS = 1 << 17  # of the numerator and the denominator of a rational value
FIRST_BITS = 256  # of a first evaluation; its zeros may be small numbers, those of a later one are zeros
BRANCHING = frozenset({"floor", "ceil", "abs", "max", "min"})
"""Kinds and functions of which `Evaluator.branches` records the case that was taken."""

_NEAR_AN_INTEGER = Fraction(1, 1 << 32)

Environment = Mapping[str, Fraction]


class OutsideDomain(ArithmeticError):
    """The formula has no value at this point, or none that can be computed."""


class TooLarge(OutsideDomain):
    """A value, or a step on the way to it, is beyond the bounds."""


@lru_cache(maxsize=64)
def _context(bits: int, thread: int) -> Any:
    """A thread's own mpmath context: the library's global one belongs to everybody."""
    made = MPContext()
    made.prec = bits
    return made


class Evaluator:
    """Values of trees at one point, in the reals or in the complex numbers with principal values.

    Then `spread` is the most bits before or after the binary point that a value needs, `unsure` says
    that an irrational value was taken for the integer next to it, and `branches` has the cases taken.
    """

    def __init__(self, environment: Environment, in_complex: bool, bits: int) -> None:
        self.environment = environment
        self.in_complex = in_complex
        self.context = _context(bits, threading.get_ident())
        bounds = (1 << 14, 700, 1_000) if environment else (MAX_BITS, 20_000, 10_000)
        self.max_bits, self.max_magnitude, self.max_factorial = bounds
        self.spread = self.steps = 0
        self.unsure = False
        self.branches: list[tuple[int, Any]] = []

    def evaluate(self, tree: Tree) -> Any:
        """A Fraction where the value is rational and known, else mpmath's number; takes from the budget."""
        try:
            value = self.value(tree)
        except (ZeroDivisionError, ValueError, OverflowError, TypeError, RecursionError) as error:
            raise OutsideDomain("no value") from error
        spend(self.steps * (1 + self.context.prec // 512))
        return value

    def value(self, tree: Tree) -> Any:
        kind = tree[0]
        self.steps += 1
        if kind == "num":
            return tree[1]
        if kind == "var":
            return self.environment[tree[1]]
        if kind == "const":
            return self.context.one * getattr(self.context, "j" if tree[1] == "i" else tree[1])
        if kind not in _OPERATIONS:
            raise OutsideDomain(f"{kind} has no value here")
        result = _OPERATIONS[kind](self, tree)
        if isinstance(result, (Fraction, int)):
            result = Fraction(result)
            if _bits(result) > self.max_bits:
                raise TooLarge("number too large")
        elif not self.context.isfinite(result) or self.magnitude(result) > self.max_magnitude:
            raise TooLarge("too large")
        return result

    def number(self, value: Any) -> Any:
        """The value as a number of the context."""
        if not isinstance(value, Fraction):
            return value
        result = self.context.mpf(value.numerator) / value.denominator
        if self.environment:
            self.magnitude(result)
            if 0 < abs(apart := value - round(value)) < _NEAR_AN_INTEGER:  # `1 + 10^{-300} x` is not 1
                self.spread = max(self.spread, apart.denominator.bit_length() - apart.numerator.bit_length())
        elif value.denominator != 1 or abs(value.numerator) > 1 << 32:
            self.spread = max(self.spread, _bits(value))
        return result

    def numbers(self, trees: Iterable[Tree]) -> list[Any]:
        """Values of trees: all exact, or all numbers of the context."""
        values = [self.value(tree) for tree in trees]
        exact = all(isinstance(value, Fraction) for value in values)
        return values if exact else list(map(self.number, values))

    def magnitude(self, value: Any) -> int:
        """Bits before or after the binary point."""
        size = 0 if value == 0 else abs(int(self.context.mag(value)))
        self.spread = max(self.spread, size)
        return size

    def noise(self, bits: int = 0) -> Any:
        """What is smaller may be what rounding left of zero, or the square root of that; 2**bits times it."""
        return self.context.mpf(2) ** (bits - 9 * self.context.prec // 20)

    def is_zero(self, value: Any) -> bool:
        """Whether a value is zero, or so small that it may be."""
        if isinstance(value, Fraction) or value == 0 or abs(value) > self.noise():
            return bool(value == 0)
        self.magnitude(value)
        self.unsure = True
        return True

    def integers(self, trees: Iterable[Tree], largest: float = math.inf) -> list[int]:
        """Values of trees, which must be integers no larger than that."""
        values = [self.whole(self.value(tree)) for tree in trees]
        integers = [value for value in values if value is not None]
        if len(integers) < len(values):
            raise OutsideDomain("not an integer")
        if any(abs(value) > largest for value in integers):
            raise TooLarge("integer beyond the bounds")
        return integers

    def whole(self, value: Any) -> int | None:
        """The integer that a value is, rounding of irrational steps aside; None where it is none."""
        if isinstance(value, Fraction):
            return value.numerator if value.denominator == 1 else None
        if self.context.im(value) != 0 or self.magnitude(value) > self.context.prec // 2:
            return None
        nearest = self.context.nint(self.context.re(value))
        apart = not self.is_zero(value - nearest)
        self.unsure |= not apart
        return None if apart else int(nearest)

    def real(self, value: Any) -> Any:
        if isinstance(value, Fraction):
            return value
        if self.context.im(value) != 0:
            raise OutsideDomain("not real")
        return self.context.re(value)

    def branch(self, tree: Tree, case: Any) -> Any:
        self.branches.append((id(tree), case))
        return case

    def quotient(self, tree: Tree) -> Any:
        top, bottom = self.numbers(tree[1:])
        if self.is_zero(bottom) and (bottom == 0 or self.context.prec > FIRST_BITS):
            raise OutsideDomain("division by zero")
        return top / bottom

    def power(self, base: Any, exponent: Any) -> Any:
        if base == 0:
            if self.context.re(self.number(exponent)) <= 0:
                raise OutsideDomain("0 to a power that is not positive")
            return Fraction(0)
        exact = isinstance(base, Fraction) and isinstance(exponent, Fraction)
        if exact and (power := self.rational_power(base, exponent)) is not None:
            return power
        odd = isinstance(exponent, Fraction) and exponent.denominator % 2 == 1
        sign = -1 if odd and exponent.numerator % 2 else 1
        base, exponent = self.number(base), self.number(exponent)
        if self.magnitude(exponent) > 60 or self.magnitude(base) * abs(exponent) > self.max_magnitude:
            raise TooLarge("power too large")
        if self.in_complex or base > 0:
            return base**exponent
        if not odd:
            raise OutsideDomain("power of a negative number")
        return sign * (-base) ** exponent  # the real root of a negative number

    def rational_power(self, base: Fraction, exponent: Fraction) -> Fraction | None:
        """The power where it is rational and that is known; bounded before it is computed."""
        power, degree = exponent.numerator, exponent.denominator
        root = base if degree == 1 else _exact_root(base, degree) if base > 0 and degree <= 64 else None
        if root is None or root in (1, -1):
            return root if root is None or power % 2 else Fraction(1)
        if max(_bits(root) - 1, 1) * abs(power) > self.max_bits:
            raise TooLarge("power too large")
        return root**power

    def ln(self, value: Any) -> Any:
        if value == 1:
            return Fraction(0)
        value = self.number(value)
        if value == 0 or (not self.in_complex and value < 0):
            raise OutsideDomain("logarithm")
        return self.context.ln(value)

    def extreme(self, tree: Tree) -> Any:
        values = [self.real(value) for value in self.numbers(tree[1:])]
        result = max(values) if tree[0] == "max" else min(values)
        if values.count(result) == 1:
            self.branch(tree, values.index(result))
        return result

    def unknown(self, tree: Tree) -> Any:
        """An unknown function: some smooth one of its name and all arguments, and no sum over them."""
        total = self.context.mpf(zlib.crc32(str(tree[1]).encode()) % 1_000_003 + 1) / 997
        for place, argument in enumerate(tree[2:], start=2):
            value = self.number(self.value(argument))
            if self.magnitude(value) > 64:
                raise TooLarge("argument too large")
            total = self.context.sin(total * place + value) + (total + 1) * value / (place + 5)
        return total

    def function(self, tree: Tree) -> Any:
        name, context = tree[1], self.context
        value = self.value(tree[2])
        if name == "ln":
            return self.ln(value)
        if name in ("floor", "ceil"):
            return self.branch(tree, self.rounded(name, self.real(value)))
        if name == "abs":
            if value != 0 and (isinstance(value, Fraction) or context.im(value) == 0):
                self.branch(tree, self.real(value) > 0)
            return abs(value)
        value = self.number(value)
        size = self.magnitude(value)
        if name in ("exp", "sinh", "cosh", "tanh") and size > 12 and abs(value) > 4096:
            raise TooLarge("exponential too large")
        if size > 64 and name != "arctan":
            raise TooLarge("argument too large")
        if name in ("tanh", "coth"):  # nearer to 1 than its argument shows
            self.spread = max(self.spread, min(int(3 * abs(value)), self.max_magnitude))
        if name in ("cot", "sec", "csc", "tan"):
            sine, cosine = context.sin(value), context.cos(value)
            bottom = cosine if name in ("sec", "tan") else sine
            if self.is_zero(bottom):
                raise OutsideDomain("pole")
            return {"cot": cosine, "tan": sine}.get(name, 1) / bottom
        result = getattr(context, name.replace("arc", "a"))(value)
        return result if self.in_complex else self.real(result)

    def rounded(self, name: str, value: Any) -> int:
        whole = self.whole(value)
        if whole is not None or isinstance(value, Fraction):
            return getattr(math, name)(value) if whole is None else whole
        if self.magnitude(value) > self.context.prec // 2:
            raise TooLarge("no digits behind the point are known")
        return int(getattr(self.context, name)(value))


_OPERATIONS: dict[str, Callable[[Evaluator, Tree], Any]] = {
    "add": lambda at, tree: operator.add(*at.numbers(tree[1:])),
    "neg": lambda at, tree: -at.value(tree[1]),
    "mul": lambda at, tree: operator.mul(*at.numbers(tree[1:])),
    "div": Evaluator.quotient,
    "pow": lambda at, tree: at.power(at.value(tree[1]), at.value(tree[2])),
    "root": lambda at, tree: at.power(at.value(tree[1]), Fraction(1, *at.integers(tree[2:], 64))),
    "log": lambda at, tree: operator.truediv(*(at.number(at.ln(at.value(child))) for child in tree[1:])),
    "factorial": lambda at, tree: math.factorial(*at.integers(tree[1:], at.max_factorial)),
    "binom": lambda at, tree: math.comb(*at.integers(tree[1:], at.max_factorial)),
    "max": Evaluator.extreme,
    "min": Evaluator.extreme,
    "degrees": lambda at, tree: at.number(at.value(tree[1])) * at.context.pi / 180,
    "call": Evaluator.unknown,
    "fn": Evaluator.function,
}


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _exact_root(value: Fraction, degree: int) -> Fraction | None:
    """The rational root of a rational number that is not negative; None where there is none."""
    parts, bits = (value.numerator, value.denominator), _bits(value) // degree + 32
    roots = [to_int(mpf_nthroot(from_int(part), degree, bits), round_nearest) for part in parts]
    return Fraction(*roots) if parts == tuple(root**degree for root in roots) else None
