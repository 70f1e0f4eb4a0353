"""Value of a formula's tree at a point: exact where it is rational, else to as many bits as are asked for.

Sizes are bounded: integers and rationals to MAX_BITS, factorials to MAX_FACTORIAL, other values to MAX_MAGNITUDE bits before or
after the binary point. What lies beyond raises `TooLarge`; where there is no value, `OutsideDomain`.
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
MAX_FACTORIAL = 10_000
MAX_MAGNITUDE = 20_000
_REAL_ROOTS = (3, 5, 7, 9)  # denominators of powers that negative numbers have in the reals

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
    """A Fraction where the value is rational and known, else an mpmath number; OutsideDomain where there is none."""
    return Evaluator(environment, in_complex, bits).evaluate(tree)


class Evaluator:
    """Values of trees at one point, in the reals or in the complex numbers with principal values.

    `spread` is the largest number of bits before or after the binary point of any value on the way.
    """

    def __init__(self, environment: Environment, in_complex: bool, bits: int) -> None:
        self.environment = environment
        self.in_complex = in_complex
        self.context = context(bits)
        self.spread = 0
        self.steps = 0

    def evaluate(self, tree: Tree) -> Any:
        """The value of a tree; OutsideDomain where there is none. Its steps are taken from the budget of the pair."""
        try:
            value = self.value(tree)
            spend(self.steps * (1 + self.context.prec // 512))
            return value
        except (ZeroDivisionError, ValueError, OverflowError, TypeError, RecursionError, mpmath.libmp.ComplexResult) as error:
            raise OutsideDomain("no value") from error

    def value(self, tree: Tree) -> Any:
        kind = tree[0]
        self.steps += 1
        if kind == "num":
            return tree[1]
        if kind == "var":
            return self.environment[tree[1]]
        if kind == "const":
            return {"pi": self.context.pi, "e": self.context.e, "i": self.context.j}[tree[1]] * self.context.one
        method = getattr(self, f"_{kind}", None)
        if method is None:
            raise OutsideDomain(f"{kind} has no value here")
        result = method(tree)
        if isinstance(result, (Fraction, int)):
            result = Fraction(result)
            if max(result.numerator.bit_length(), result.denominator.bit_length()) > MAX_BITS:
                raise TooLarge("number too large")
            return result
        if not self.context.isfinite(result) or self.magnitude(result) > MAX_MAGNITUDE:
            raise TooLarge("too large")
        return result

    def number(self, value: Any) -> Any:
        """The value as a number of the context."""
        if not isinstance(value, Fraction):
            return value
        result = self.context.mpf(value.numerator) / value.denominator
        self.magnitude(result)
        return result

    def numbers(self, tree: Tree) -> list[Any]:
        """Values of all children: all exact, or all numbers of the context."""
        values = [self.value(child) for child in tree[1:]]
        return values if all(isinstance(value, Fraction) for value in values) else [self.number(value) for value in values]

    def magnitude(self, value: Any) -> int:
        """Bits before or after the binary point."""
        size = 0 if value == 0 else abs(int(self.context.mag(value)))
        self.spread = max(self.spread, size)
        return size

    def integer(self, tree: Tree, largest: int) -> int:
        value = self.whole(self.value(tree))
        if value is None:
            raise OutsideDomain("not an integer")
        if abs(value) > largest:
            raise TooLarge("integer beyond the bounds")
        return value

    def whole(self, value: Any) -> int | None:
        """The integer that a value is, rounding of irrational steps aside; None where it is none."""
        if isinstance(value, Fraction):
            return value.numerator if value.denominator == 1 else None
        if self.context.im(value) != 0 or self.magnitude(value) > self.context.prec // 2:
            return None
        nearest = self.context.nint(self.context.re(value))
        return int(nearest) if abs(value - nearest) < self.context.mpf(2) ** (-self.context.prec // 2) else None

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
        if bottom == 0:
            raise OutsideDomain("division by zero")
        return top / bottom

    def _pow(self, tree: Tree) -> Any:
        return self.power(self.value(tree[1]), self.value(tree[2]))

    def power(self, base: Any, exponent: Any) -> Any:
        if base == 0:
            if self.context.re(self.number(exponent)) <= 0:
                raise OutsideDomain("0 to a power that is not positive")
            return Fraction(0)
        if isinstance(exponent, Fraction) and isinstance(base, Fraction) and exponent.denominator == 1:
            if base in (1, -1):
                return base ** (exponent.numerator % 2) if base == -1 else base
            # Bounded before it is computed: the power itself could be astronomically long.
            size = max(base.numerator.bit_length(), base.denominator.bit_length()) - 1 or 1
            if size * abs(exponent.numerator) > MAX_BITS:
                raise TooLarge("power too large")
            return base**exponent.numerator
        if isinstance(exponent, Fraction) and isinstance(base, Fraction) and base > 0 and exponent.denominator <= 16:
            exact = _exact_root(base, exponent.denominator)
            if exact is not None:
                return self.power(exact, Fraction(exponent.numerator))
        base, exponent, odd = self.number(base), self.number(exponent), exponent
        if self.magnitude(exponent) > 60 or self.magnitude(base) * abs(exponent) > MAX_MAGNITUDE:
            raise TooLarge("power too large")
        if self.in_complex or base > 0 or self.context.isint(exponent):
            return base**exponent
        if isinstance(odd, Fraction) and odd.denominator in _REAL_ROOTS:  # the real root of a negative number
            size = (-base) ** exponent
            return -size if odd.numerator % 2 else size
        raise OutsideDomain("power of a negative number")

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
            if self.whole(base) == 0:  # what rounding left of zero
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
        n = self.integer(tree[1], MAX_FACTORIAL)
        if n < 0:
            raise OutsideDomain("factorial of a negative number")
        return math.factorial(n)

    def _binom(self, tree: Tree) -> Any:
        n, k = self.integer(tree[1], MAX_FACTORIAL), self.integer(tree[2], MAX_FACTORIAL)
        if not 0 <= k <= n:
            raise OutsideDomain("binomial coefficient")
        return math.comb(n, k)

    def _mod(self, tree: Tree) -> Any:
        a, b = (self.integer(child, 1 << MAX_BITS) for child in tree[1:])
        if b <= 0:
            raise OutsideDomain("modulus")
        return a % b

    def _gcd(self, tree: Tree) -> Any:
        return math.gcd(*(self.integer(child, 1 << MAX_BITS) for child in tree[1:]))

    def _lcm(self, tree: Tree) -> Any:
        return math.lcm(*(self.integer(child, 1 << 64) for child in tree[1:]))

    def _max(self, tree: Tree) -> Any:
        return max(self.real(value) for value in self.numbers(tree))

    def _min(self, tree: Tree) -> Any:
        return min(self.real(value) for value in self.numbers(tree))

    def _degrees(self, tree: Tree) -> Any:
        return self.number(self.value(tree[1])) * self.context.pi / 180

    def _call(self, tree: Tree) -> Any:
        """An unknown function: some smooth value that depends on its name and on every argument."""
        seed = zlib.crc32(str(tree[1:2]).encode()) % 1009 + 1
        total = self.context.mpf(seed) / 997
        for place, argument in enumerate(tree[2:], start=2):
            value = self.number(self.value(argument))
            if self.magnitude(value) > 64:
                raise TooLarge("argument too large")
            total += self.context.sin(value * place + seed) + value / (place + 5)
        return total

    def _fn(self, tree: Tree) -> Any:
        name, context = tree[1], self.context
        value = self.value(tree[2])
        if name == "ln":
            return self.logarithm(value)
        if name in ("floor", "ceil"):
            return self._rounded(name, self.real(value))
        if name == "abs":
            return abs(value)
        if value == 0 and name in ("sin", "tan", "sinh", "tanh", "arcsin", "arctan", "cos", "cosh", "exp", "sec"):
            return Fraction(int(name in ("cos", "cosh", "exp", "sec")))
        value = self.number(value)
        if self.magnitude(value) > 12 and name in ("exp", "sinh", "cosh", "tanh") and abs(value) > 4096:
            raise TooLarge("exponential too large")
        if self.magnitude(value) > 64 and name != "arctan":
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
        return {"arctan": context.atan, "exp": context.exp}.get(name, getattr(context, name, None))(value)

    def _rounded(self, name: str, value: Any) -> int:
        whole = self.whole(value)
        if whole is not None:
            return whole
        if not isinstance(value, Fraction) and self.magnitude(value) > self.context.prec // 2:
            raise TooLarge("no digits behind the point are known")
        if isinstance(value, Fraction):
            return math.floor(value) if name == "floor" else math.ceil(value)
        return int(self.context.floor(value) if name == "floor" else self.context.ceil(value))


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
