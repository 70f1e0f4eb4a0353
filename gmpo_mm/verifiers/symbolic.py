"""The slow stage of equivalence: computer algebra by sympy, in worker processes, which can be killed.

Two formulas are equal where sympy proves that their difference is 0 and their values agree at a point where
no denominator is 0. The proof alone is not enough: `(y - y)(x + 1)/(y - y)` reduces to anything.
"""

import operator
import zlib
from collections.abc import Callable
from typing import Any

import sympy

from gmpo_mm.verifiers.expressions import parse_expression
from gmpo_mm.verifiers.trees import Tree, canonical_tree, children, contains, variables

# sympy imports most of itself on demand: these cost a second once, and not each new worker within its limit.
WARM_UP = (
    (r"\frac{x + 1}{2}", "(1 + x) / 2 + 0 y"),
    (r"\sin(x)^2 + \cos(x)^2", r"1 + \ln(e) - \sqrt{1}"),
    (r"\sum_{k=1}^{n} k 2^k + n!", r"(n - 1) 2^{n+1} + 2 + \binom{n}{1} (n-1)!"),
    (r"|x|^{3/2} + f(x)", r"f(x) + \sqrt[4]{x^6}"),
)
# Where a factorial, a binomial coefficient, a floor or a sum's bound has them.
_INTEGER_NAMES = frozenset("nmkijlNMKpqr")
_NEEDS_INTEGERS = frozenset({"floor", "ceil", "factorial", "binom", "sum", "product"})
_POINTS = 8
_CONSTANTS = {"pi": sympy.pi, "e": sympy.E, "i": sympy.I}
_FUNCTIONS = {"ceil": "ceiling", "abs": "Abs", "ln": "log"}
_OPERATIONS = {
    "neg": operator.neg, "add": sympy.Add, "mul": sympy.Mul, "factorial": sympy.factorial,
    "binom": sympy.binomial, "degrees": sympy.rad, "max": sympy.Max, "min": sympy.Min,
}  # fmt: skip
# What proves that an expression is 0, the cheap first.
_STEPS = (
    lambda one: one,
    sympy.expand,
    sympy.simplify,
    lambda one: sympy.simplify(sympy.expand_log(sympy.combsimp(sympy.gammasimp(one)), force=True)),
    lambda one: sympy.simplify(one.rewrite(sympy.exp)),
)


class _Converter:
    """A tree as a sympy expression, by `identity`'s conventions: real names, real roots unless `i` occurs."""

    def __init__(self, *trees: Tree) -> None:
        self.in_complex = any(contains(tree, frozenset({"i"})) for tree in trees)
        integers = _INTEGER_NAMES if any(contains(tree, _NEEDS_INTEGERS) for tree in trees) else ()
        self.symbols = {
            name: sympy.Symbol(name, real=True, integer=name in integers or None)
            for name in frozenset.union(*map(variables, trees))
        }
        self.denominators: list[Any] = []

    def convert(self, tree: Tree) -> Any:
        """The expression; an error where any part of it has none."""
        value = sympy.sympify(self._value(tree))
        if value.has(sympy.zoo, sympy.nan, sympy.oo, -sympy.oo, sympy.AccumBounds):
            raise ValueError("infinite or undefined")
        return value

    def _value(self, tree: Tree) -> Any:
        match tree:
            case ("num", number):
                return sympy.Rational(number.numerator, number.denominator)
            case ("var", name):
                return self.symbols[name]
            case ("const", name):
                return _CONSTANTS[name]
            case ("fn", name, argument):
                function = getattr(sympy, _FUNCTIONS.get(name, str(name).replace("arc", "a")))
                return function(self.convert(argument))
            case ("call" | "index" as kind, name, *arguments):
                return sympy.Function(f"{kind} {name}")(*map(self.convert, arguments))
            case ("div", top, bottom):
                return self.convert(top) / self._divisor(self.convert(bottom))
            case ("log", argument, base):
                return sympy.log(self.convert(argument)) / self._divisor(sympy.log(self.convert(base)))
            case ("pow", base, exponent):
                return self._power(self.convert(base), self.convert(exponent))
            case ("root", base, degree) if (n := self.convert(degree)).is_Integer and n > 1:
                return self._power(self.convert(base), 1 / n)
            case ("sum" | "product" as kind, body, name, first, last):
                return self._series(kind == "sum", body, name, first, last)
            case (kind, *_) if kind in _OPERATIONS:
                return _OPERATIONS[kind](*map(self.convert, children(tree)))
        raise ValueError(f"{tree[0]} has no value")

    def _divisor(self, value: Any) -> Any:
        self.denominators.append(value)
        return value

    def _power(self, base: Any, exponent: Any) -> Any:
        if not exponent.is_positive:
            self._divisor(base)
        if exponent.is_Rational and exponent.q % 2 and exponent.q > 1 and not self.in_complex:
            return sympy.real_root(base, exponent.q) ** exponent.p
        return base**exponent

    def _series(self, is_sum: bool, body: Tree, name: str, *ends: Tree) -> Any:
        infinite = ("infinity",) in ends[1:]
        first, last = (sympy.oo if end == ("infinity",) else self.convert(end) for end in ends)
        outer, divided = self.symbols, self.denominators
        symbol = sympy.Dummy(name, integer=True)
        self.symbols, self.denominators = {**outer, name: symbol}, []
        term, divisors = self.convert(body), self.denominators
        self.symbols = outer
        self.denominators = divided + [one for one in divisors if symbol not in one.free_symbols]
        if not first.is_integer or not (last.is_integer or infinite):
            raise ValueError("a sum over what may be no integers")
        if not infinite and (last - first).is_number and last < first:
            return 0 if is_sum else 1
        found = (sympy.Sum if is_sum else sympy.Product)(term, (symbol, first, last))
        if infinite and not (is_sum and (term.free_symbols - {symbol} or found.is_convergent())):
            raise ValueError("a sum that does not converge")
        if first.is_Integer:
            end = min(int(last), int(first) + 100) if last.is_Integer else int(first) + 2
            self.denominators += {one.subs(symbol, k) for one in divisors for k in range(int(first), end + 1)}
        return found.doit()

    def agree(self, first: Any, second: Any) -> bool:
        """Whether the values agree at a point where both have one; False at the first where they do not."""
        agreed = False
        for index in range(_POINTS if self.symbols else 1):
            point = {}
            for name, symbol in self.symbols.items():  # at first positive values, then of both signs
                noise = zlib.crc32(f"{index}/{name}".encode())
                value = 2 + noise % 9 if symbol.is_integer else sympy.Rational(1 + noise % 4001, 2003)
                point[symbol] = -value if index > _POINTS // 2 and noise >> 16 & 1 else value
            x, y, *divisors = (_number(one, point) for one in (first, second, *self.denominators))
            if x is None or y is None or any(one is None or abs(one) < 1e-25 for one in divisors):
                continue
            if abs(x - y) > max(abs(x), abs(y)) * 1e-20:
                return False
            agreed = True
        return agreed


def _number(expression: Any, point: dict[Any, Any]) -> Any:
    """A finite value at a point, None where there is none; an unknown function has some smooth values."""
    found = expression.subs(point)
    for call in found.atoms(sympy.core.function.AppliedUndef):
        seed = zlib.crc32(str(call.func).encode()) % 97 + 1
        found = found.subs(call, sum(sympy.sin(part * k + seed) for k, part in enumerate(call.args, start=2)))
    found = found.doit().evalf(30)  # twenty digits must agree
    return found if found.is_number and found.is_finite and abs(found) < 10**100 else None


def _is_zero(one: Any) -> bool:
    return bool(one == 0 or (not one.free_symbols and one.equals(0) is True))


def compare(prediction: str, gold: str) -> bool:
    """Whether two canonical texts are formulas that are the same as they stand, or are proved equal."""
    try:
        trees = parse_expression(prediction), parse_expression(gold)
        if canonical_tree(trees[0]) == canonical_tree(trees[1]):
            return True
        converter = _Converter(*trees)
        first, second = map(converter.convert, trees)
        return converter.agree(first, second) and any(_is_zero(step(first - second)) for step in _STEPS)
    except Exception:  # sympy raises errors of many kinds on what it can't do
        return False


def load_compare() -> Callable[[str, str], bool]:
    """`compare`, with everything imported that its first uses import."""
    for prediction, gold in WARM_UP:
        compare(prediction, gold)
    return compare
