"""Value of a formula's tree at a point: exact where it is rational, else to as many bits as are asked for.

Sizes are bounded: integers and rationals to MAX_BITS, factorials to MAX_FACTORIAL, other values to
MAX_MAGNITUDE bits before or after the binary point; where names have values, to less. What lies beyond
raises `TooLarge`; where there is no value, `OutsideDomain`.
"""

import math
import threading
import zlib
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import mpmath

from gmpo_mm.verifiers.budget import spend
from gmpo_mm.verifiers.trees import Tree

MAX_BITS = 1 << 17
MAX_BITS_AT_A_POINT = 1 << 14
FIRST_BITS = 256  # of a first evaluation; its zeros may be small numbers, those of a later one are zeros
MAX_FACTORIAL = 10_000
MAX_FACTORIAL_AT_A_POINT = 1_000
MAX_MAGNITUDE = 20_000
MAX_MAGNITUDE_AT_A_POINT = 700
BRANCHING = frozenset({"floor", "ceil", "abs", "max", "min", "mod", "gcd"})
"""Kinds and functions of which `Evaluator.branches` records the case that was taken."""

_NEAR_AN_INTEGER = Fraction(1, 1 << 32)

Environment = Mapping[str, Fraction]


class OutsideDomain(ArithmeticError):
    """The formula has no value at this point, or none that can be computed."""


class TooLarge(OutsideDomain):
    """A value, or a step on the way to it, is beyond the bounds."""


_local = threading.local()


def context(bits: int) -> Any:
    """This thread's own mpmath context: the library's global one belongs to everybody."""
    contexts = _local.__dict__.setdefault("contexts", {})
    if bits not in contexts:
        if len(contexts) > 64:
            contexts.clear()
        contexts[bits] = mpmath.MPContext()
        contexts[bits].prec = bits
    return contexts[bits]


def evaluate_tree(tree: Tree, environment: Environment, in_complex: bool, bits: int) -> Any:
    """A Fraction where the value is rational and known, else a number of mpmath."""
    return Evaluator(environment, in_complex, bits).evaluate(tree)


class Evaluator:
    """Values of trees at one point, in the reals or in the complex numbers with principal values.

    After an evaluation, `spread` is the largest number of bits before or after the binary point that any
    value on the way needs. `unsure` says that an irrational value was taken for the integer or the zero
    next to it, which more bits may undo. `branches` has the id of each node that decides between cases, and
    its case.
    """

    def __init__(self, environment: Environment, in_complex: bool, bits: int) -> None:
        self.environment = environment
        self.in_complex = in_complex
        self.context = context(bits)
        self.max_bits = MAX_BITS_AT_A_POINT if environment else MAX_BITS
        self.max_magnitude = MAX_MAGNITUDE_AT_A_POINT if environment else MAX_MAGNITUDE
        self.max_factorial = MAX_FACTORIAL_AT_A_POINT if environment else MAX_FACTORIAL
        self.spread = 0
        self.steps = 0
        self.unsure = False
        self.branches: list[tuple[int, Any]] = []

    def evaluate(self, tree: Tree) -> Any:
        """The value of a tree; OutsideDomain where there is none. Its steps are the budget's to bound."""
        try:
            value = self.value(tree)
            spend(self.steps * (1 + self.context.prec // 512))
            return value
        except (
            ZeroDivisionError,
            ValueError,
            OverflowError,
            TypeError,
            RecursionError,
            mpmath.libmp.ComplexResult,
        ) as error:
            raise OutsideDomain("no value") from error

    def value(self, tree: Tree) -> Any:
        kind = tree[0]
        self.steps += 1
        if kind == "num":
            return tree[1]
        if kind == "var":
            return self.environment[tree[1]]
        if kind == "const":
            return {"pi": self.context.pi, "e": self.context.e, "i": self.context.j}[
                tree[1]
            ] * self.context.one
        method = getattr(self, f"_{kind}", None)
        if method is None:
            raise OutsideDomain(f"{kind} has no value here")
        result = method(tree)
        if isinstance(result, (Fraction, int)):
            result = Fraction(result)
            if _bits(result) > self.max_bits:
                raise TooLarge("number too large")
            return result
        if not self.context.isfinite(result) or self.magnitude(result) > self.max_magnitude:
            raise TooLarge("too large")
        return result

    def number(self, value: Any) -> Any:
        """The value as a number of the context."""
        if not isinstance(value, Fraction):
            return value
        result = self.context.mpf(value.numerator) / value.denominator
        if self.environment:
            self.magnitude(result)
            apart = value - round(value)
            if apart and abs(apart) < _NEAR_AN_INTEGER:  # `1 + 10^{-300} x` is near 1, and not 1
                self.spread = max(self.spread, apart.denominator.bit_length() - apart.numerator.bit_length())
        elif value.denominator != 1 or abs(value.numerator) > 1 << 32:
            self.spread = max(self.spread, _bits(value))
        return result

    def numbers(self, tree: Tree) -> list[Any]:
        """Values of all children: all exact, or all numbers of the context."""
        values = [self.value(child) for child in tree[1:]]
        return (
            values
            if all(isinstance(value, Fraction) for value in values)
            else [self.number(value) for value in values]
        )

    def magnitude(self, value: Any) -> int:
        """Bits before or after the binary point."""
        size = 0 if value == 0 else abs(int(self.context.mag(value)))
        self.spread = max(self.spread, size)
        return size

    def noise(self) -> Any:
        """What is smaller may be what rounding left of zero, or the square root of that."""
        return self.context.mpf(2) ** (-9 * self.context.prec // 20)

    def is_zero(self, value: Any) -> bool:
        """Whether a value is zero, or so small that it may be."""
        if isinstance(value, Fraction) or value == 0 or abs(value) > self.noise():
            return bool(value == 0)
        self.magnitude(value)
        self.unsure = True
        return True

    def integer(self, tree: Tree, largest: int | None = None) -> int:
        value = self.whole(self.value(tree))
        if value is None:
            raise OutsideDomain("not an integer")
        if largest is not None and abs(value) > largest:
            raise TooLarge("integer beyond the bounds")
        return value

    def whole(self, value: Any) -> int | None:
        """The integer that a value is, rounding of irrational steps aside; None where it is none."""
        if isinstance(value, Fraction):
            return value.numerator if value.denominator == 1 else None
        if self.context.im(value) != 0 or self.magnitude(value) > self.context.prec // 2:
            return None
        nearest = self.context.nint(self.context.re(value))
        if not self.is_zero(value - nearest):
            return None
        self.unsure = True
        return int(nearest)

    def real(self, value: Any) -> Any:
        if not isinstance(value, Fraction) and self.context.im(value) != 0:
            raise OutsideDomain("not real")
        return value if isinstance(value, Fraction) else self.context.re(value)

    def _add(self, tree: Tree) -> Any:
        a, b = self.numbers(tree)
        return a + b

    def _neg(self, tree: Tree) -> Any:
        return -self.value(tree[1])

    def _mul(self, tree: Tree) -> Any:
        a, b = self.numbers(tree)
        return a * b

    def _div(self, tree: Tree) -> Any:
        top, bottom = self.numbers(tree)
        if self.is_zero(bottom) and (bottom == 0 or self.context.prec > FIRST_BITS):
            raise OutsideDomain("division by zero")
        return top / bottom

    def _pow(self, tree: Tree) -> Any:
        return self.power(self.value(tree[1]), self.value(tree[2]))

    def power(self, base: Any, exponent: Any) -> Any:
        if base == 0:
            if self.context.re(self.number(exponent)) <= 0:
                raise OutsideDomain("0 to a power that is not positive")
            return Fraction(0)
        if isinstance(base, Fraction) and isinstance(exponent, Fraction):
            exact = self.rational_power(base, exponent)
            if exact is not None:
                return exact
        if not isinstance(exponent, Fraction) and not self.in_complex and base < 0:
            whole = self.whole(exponent)
            exponent = exponent if whole is None else Fraction(whole)
        odd = exponent.denominator % 2 == 1 if isinstance(exponent, Fraction) else False
        negative = odd and exponent.numerator % 2 == 1
        base, exponent = self.number(base), self.number(exponent)
        if self.magnitude(exponent) > 60 or self.magnitude(base) * abs(exponent) > self.max_magnitude:
            raise TooLarge("power too large")
        if self.in_complex or base > 0:
            return base**exponent
        if odd:  # the real root of a negative number
            size = (-base) ** exponent
            return -size if negative else size
        raise OutsideDomain("power of a negative number")

    def rational_power(self, base: Fraction, exponent: Fraction) -> Fraction | None:
        """The power where it is rational and that is known; bounded before it is computed."""
        if exponent.denominator != 1:
            root = (
                _exact_root(base, exponent.denominator) if base > 0 and exponent.denominator <= 16 else None
            )
            return None if root is None else self.rational_power(root, Fraction(exponent.numerator))
        if base in (1, -1):
            return base if exponent.numerator % 2 else Fraction(1)
        if max(_bits(base) - 1, 1) * abs(exponent.numerator) > self.max_bits:
            raise TooLarge("power too large")
        return base**exponent.numerator

    def _root(self, tree: Tree) -> Any:
        base, degree = self.value(tree[1]), self.integer(tree[2], 64)
        if degree < 2:
            raise OutsideDomain("degree of a root")
        exact = _exact_root(abs(base), degree) if isinstance(base, Fraction) else None
        if exact is not None and (base >= 0 or (degree % 2 == 1 and not self.in_complex)):
            return exact if base >= 0 else -exact
        base = self.number(base)
        if self.in_complex:
            return self.context.sqrt(base) if degree == 2 else self.power(base, self.context.one / degree)
        if base < 0 and degree % 2 == 0:
            if self.is_zero(base):
                return Fraction(0)
            raise OutsideDomain("root of a negative number")
        size = self.context.sqrt(abs(base)) if degree == 2 else self.context.nthroot(abs(base), degree)
        return -size if base < 0 else size

    def logarithm(self, value: Any) -> Any:
        if value == 1:
            return Fraction(0)
        value = self.number(value)
        if value == 0 or (not self.in_complex and value < 0):
            raise OutsideDomain("logarithm")
        return self.context.ln(value)

    def _log(self, tree: Tree) -> Any:
        bottom = self.number(self.logarithm(self.value(tree[2])))
        if bottom == 0:
            raise OutsideDomain("logarithm to base 1")
        return self.number(self.logarithm(self.value(tree[1]))) / bottom

    def _factorial(self, tree: Tree) -> Any:
        n = self.integer(tree[1], self.max_factorial)
        if n < 0:
            raise OutsideDomain("factorial of a negative number")
        return math.factorial(n)

    def _binom(self, tree: Tree) -> Any:
        n, k = (self.integer(child, self.max_factorial) for child in tree[1:])
        if not 0 <= k <= n:
            raise OutsideDomain("binomial coefficient")
        return math.comb(n, k)

    def _mod(self, tree: Tree) -> Any:
        a, b = (self.integer(child) for child in tree[1:])
        if b <= 0:
            raise OutsideDomain("modulus")
        self.branches.append((id(tree), a // b))
        return a % b

    def _gcd(self, tree: Tree) -> Any:
        result = math.gcd(*(self.integer(child) for child in tree[1:]))
        self.branches.append((id(tree), result))
        return result

    def _lcm(self, tree: Tree) -> Any:
        return math.lcm(*(self.integer(child, 1 << 64) for child in tree[1:]))

    def _max(self, tree: Tree) -> Any:
        return self.extreme(tree, max)

    def _min(self, tree: Tree) -> Any:
        return self.extreme(tree, min)

    def extreme(self, tree: Tree, choose: Any) -> Any:
        values = [self.real(value) for value in self.numbers(tree)]
        result = choose(values)
        if values.count(result) == 1:
            self.branches.append((id(tree), values.index(result)))
        return result

    def _degrees(self, tree: Tree) -> Any:
        return self.number(self.value(tree[1])) * self.context.pi / 180

    def _call(self, tree: Tree) -> Any:
        """An unknown function: some smooth one of its name and all arguments, and no sum over them."""
        seed = zlib.crc32(str(tree[1]).encode()) % 1_000_003 + 1
        total = self.context.mpf(seed) / 997
        for place, argument in enumerate(tree[2:], start=2):
            value = self.number(self.value(argument))
            if self.magnitude(value) > 64:
                raise TooLarge("argument too large")
            total = self.context.sin(total * place + value) + (total + 1) * value / (place + 5)
        return total

    def _fn(self, tree: Tree) -> Any:
        name, context = tree[1], self.context
        value = self.value(tree[2])
        if name == "ln":
            return self.logarithm(value)
        if name in ("floor", "ceil"):
            rounded = self._rounded(name, self.real(value))
            self.branches.append((id(tree), rounded))
            return rounded
        if name == "abs":
            if value != 0 and (isinstance(value, Fraction) or context.im(value) == 0):
                self.branches.append(
                    (id(tree), value > 0 if isinstance(value, Fraction) else context.re(value) > 0)
                )
            return abs(value)
        if value == 0 and name in (
            "sin",
            "tan",
            "sinh",
            "tanh",
            "arcsin",
            "arctan",
            "cos",
            "cosh",
            "exp",
            "sec",
        ):
            return Fraction(int(name in ("cos", "cosh", "exp", "sec")))
        value = self.number(value)
        if self.magnitude(value) > 12 and name in ("exp", "sinh", "cosh", "tanh") and abs(value) > 4096:
            raise TooLarge("exponential too large")
        if self.magnitude(value) > 64 and name != "arctan":
            raise TooLarge("argument too large")
        if name == "tanh":  # nearer to 1 than its argument shows
            self.spread = max(self.spread, min(int(3 * abs(value)), self.max_magnitude))
        if name in ("cot", "sec", "csc", "tan"):
            sine, cosine = context.sin(value), context.cos(value)
            bottom = cosine if name in ("sec", "tan") else sine
            if self.is_zero(bottom):
                raise OutsideDomain("pole")
            return {"cot": cosine, "sec": 1, "csc": 1, "tan": sine}[name] / bottom
        if name in ("arcsin", "arccos"):
            if not self.in_complex and abs(value) > 1:
                raise OutsideDomain("inverse function")
            return context.asin(value) if name == "arcsin" else context.acos(value)
        return getattr(context, "atan" if name == "arctan" else name)(value)

    def _rounded(self, name: str, value: Any) -> int:
        whole = self.whole(value)
        if whole is not None:
            return whole
        if not isinstance(value, Fraction) and self.magnitude(value) > self.context.prec // 2:
            raise TooLarge("no digits behind the point are known")
        if isinstance(value, Fraction):
            return math.floor(value) if name == "floor" else math.ceil(value)
        return int(self.context.floor(value) if name == "floor" else self.context.ceil(value))


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _exact_root(value: Fraction, degree: int) -> Fraction | None:
    """The rational root of a rational number that is not negative; None where there is none."""
    top, bottom = _integer_root(value.numerator, degree), _integer_root(value.denominator, degree)
    return None if top is None or bottom is None else Fraction(top, bottom)


def _integer_root(value: int, degree: int) -> int | None:
    if degree == 2:
        guess = math.isqrt(value)
        return guess if guess * guess == value else None
    low, high = 0, 1 << (value.bit_length() // degree + 1)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if middle**degree < value else (low, middle)
    return low if low**degree == value else None
