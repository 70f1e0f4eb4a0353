"""The slow stage of equivalence: computer algebra by sympy, on trees of our own grammar. Runs in worker
processes only.

Two formulas are equal where sympy proves that their difference is 0 and where, in addition, their values
agree at a point at which every denominator is not 0. The proof alone is not enough: `(y - y)(x + 1)/(y - y)`
reduces to anything. A worker is killed when it overruns its time or its memory, so nothing is bounded here.
"""

import itertools
import zlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

from gmpo_mm.verifiers.trees import Tree, canonical_tree, contains, subtrees, variables

Compare = Callable[[str, str], bool]

# sympy imports most of itself on demand: these cost a second once, and not each new worker within its limit.
WARM_UP = (
    (r"\frac{x + 1}{2}", "(1 + x) / 2 + 0 y"),
    (r"\sin(x)^2 + \cos(x)^2", r"1 + \ln(e) - \sqrt{1}"),
    (r"\sum_{k=1}^{n} k 2^k + n!", r"(n - 1) 2^{n+1} + 2 + \binom{n}{1} (n-1)!"),
    (r"\int_0^1 2 x e^{x} dx", "2"),
    (r"\lim_{x \to 0} \frac{\sin x}{x}", "1"),
    (r"\frac{d}{dx} (x^2 \arctan x)", r"2 x \arctan(x) + \frac{x^2}{1 + x^2}"),
    (r"|x|^{3/2} + f(x)", r"f(x) + \sqrt[4]{x^6}"),
)
INTEGER_NAMES = frozenset(
    "nmkijlNMKpqr"
)  # where a factorial, a binomial coefficient, a floor or a sum's bound has them
_NEEDS_INTEGERS = frozenset({"floor", "ceil", "factorial", "binom", "sum", "product", "gcd", "lcm", "mod"})
_DIGITS = 30  # of values; twenty of them must agree
_POINTS = 8
_LARGEST = 10**100
_TERMS = 100  # of a sum, whose denominators are looked at
_FUNCTIONS = {
    "floor": "floor", "ceil": "ceiling", "abs": "Abs", "ln": "log", "arcsin": "asin",
    "arccos": "acos", "arctan": "atan",
}  # fmt: skip


class NoValue(ValueError):
    """The formula has no value, or none that sympy knows how to write."""


class _Converter:
    """A tree as a sympy expression, by `identity`'s conventions: real names, real roots unless `i` occurs."""

    def __init__(self, trees: tuple[Tree, Tree]) -> None:
        import sympy

        self.sympy = sympy
        self.in_complex = any(contains(tree, frozenset({"i"})) for tree in trees)
        integers = INTEGER_NAMES if any(contains(tree, _NEEDS_INTEGERS) for tree in trees) else frozenset()
        names = variables(trees[0]) | variables(trees[1])
        self.symbols = {
            name: sympy.Symbol(name, integer=True) if name in integers else sympy.Symbol(name, real=True)
            for name in names
        }
        self.denominators: list[Any] = []

    def convert(self, tree: Tree) -> Any:
        """The expression; NoValue where any part of it has none."""
        value = getattr(self, f"_{tree[0]}", self._unknown)(tree)
        if value.has(self.sympy.zoo, self.sympy.nan, self.sympy.oo, -self.sympy.oo, self.sympy.AccumBounds):
            raise NoValue("infinite or undefined")
        return value

    def all(self, tree: Tree) -> list[Any]:
        return [self.convert(child) for child in tree[1:] if isinstance(child, tuple)]

    def _unknown(self, tree: Tree) -> Any:
        raise NoValue(f"{tree[0]} has no value")

    def _num(self, tree: Tree) -> Any:
        return self.sympy.Rational(tree[1].numerator, tree[1].denominator)

    def _var(self, tree: Tree) -> Any:
        return self.symbols[tree[1]]

    def _const(self, tree: Tree) -> Any:
        return {"pi": self.sympy.pi, "e": self.sympy.E, "i": self.sympy.I}[tree[1]]

    def _neg(self, tree: Tree) -> Any:
        return -self.convert(tree[1])

    def _add(self, tree: Tree) -> Any:
        return self.sympy.Add(*self.all(tree))

    def _mul(self, tree: Tree) -> Any:
        return self.sympy.Mul(*self.all(tree))

    def _div(self, tree: Tree) -> Any:
        top, bottom = self.all(tree)
        self.denominators.append(bottom)
        return top / bottom

    def _pow(self, tree: Tree) -> Any:
        base, exponent = self.all(tree)
        if not exponent.is_positive:
            self.denominators.append(base)
        if exponent.is_Rational and exponent.q % 2 and exponent.q > 1 and not self.in_complex:
            return self.sympy.real_root(base, exponent.q) ** exponent.p
        return base**exponent

    def _root(self, tree: Tree) -> Any:
        base, degree = self.all(tree)
        if not (degree.is_Integer and degree > 1):
            raise NoValue("degree of a root")
        if self.in_complex or degree % 2 == 0:
            return base ** (1 / degree)
        return self.sympy.real_root(base, degree)

    def _log(self, tree: Tree) -> Any:
        value, base = self.all(tree)
        self.denominators.append(self.sympy.log(base))
        return self.sympy.log(value) / self.sympy.log(base)

    def _degrees(self, tree: Tree) -> Any:
        return self.convert(tree[1]) * self.sympy.pi / 180

    def _fn(self, tree: Tree) -> Any:
        return getattr(self.sympy, str(_FUNCTIONS.get(tree[1], tree[1])))(self.convert(tree[2]))

    def _factorial(self, tree: Tree) -> Any:
        return self.sympy.factorial(self.convert(tree[1]))

    def _binom(self, tree: Tree) -> Any:
        return self.sympy.binomial(*self.all(tree))

    def _max(self, tree: Tree) -> Any:
        return self.sympy.Max(*self.all(tree))

    def _min(self, tree: Tree) -> Any:
        return self.sympy.Min(*self.all(tree))

    def _gcd(self, tree: Tree) -> Any:
        values = self.all(tree)
        if not all(value.is_Integer for value in values):
            return self.sympy.Function(tree[0])(*sorted(values, key=str))
        return self.sympy.Integer((self.sympy.igcd if tree[0] == "gcd" else self.sympy.ilcm)(*values))

    _lcm = _gcd

    def _mod(self, tree: Tree) -> Any:
        value, modulus = self.all(tree)
        if not (value.is_integer and modulus.is_integer):
            raise NoValue("a remainder of what is no integer")
        self.denominators.append(modulus)
        return self.sympy.Mod(value, modulus)

    def _call(self, tree: Tree) -> Any:
        return self.sympy.Function(f"{tree[0]} {tree[1]}")(*self.all(tree))

    _index = _call

    def _derivative(self, tree: Tree) -> Any:
        if variables(tree[1]) - {tree[2]} - {node[1] for node in subtrees(tree[1]) if node[0] == "call"}:
            raise NoValue("other names may depend on the variable")
        return self.sympy.diff(self.convert(tree[1]), self.convert(("var", tree[2])), tree[3]).doit()

    def _bound(self, tree: Tree, **assumptions: bool) -> tuple[Any, Any, list[Any]]:
        """A new symbol for a bound name, the body, and those divisors in the body that depend on it."""
        outer, divided = self.symbols.get(tree[2]), len(self.denominators)
        symbol = self.symbols[tree[2]] = self.sympy.Dummy(tree[2], **assumptions)
        body = self.convert(tree[1])
        inside = [one for one in self.denominators[divided:] if symbol in one.free_symbols]
        self.denominators[divided:] = [
            one for one in self.denominators[divided:] if symbol not in one.free_symbols
        ]
        if outer is None:
            del self.symbols[tree[2]]
        else:
            self.symbols[tree[2]] = outer
        return symbol, body, inside

    def _end(self, tree: Tree) -> Any:
        """A bound, which may be infinite."""
        if tree[0] == "infinity":
            return self.sympy.oo
        return -self.sympy.oo if tree == ("neg", ("infinity",)) else self.convert(tree)

    def _sum(self, tree: Tree) -> Any:
        symbol, body, divisors = self._bound(tree, integer=True)
        first, last = self._end(tree[3]), self._end(tree[4])
        infinite = [end for end in (first, last) if end.is_infinite]
        if any(end.is_integer is not True for end in (first, last) if end not in infinite):
            raise NoValue("a sum over what may be no integers")
        is_sum = tree[0] == "sum"
        if not infinite and (last - first).is_number and last < first:
            return self.sympy.Integer(0 if is_sum else 1)
        found = (self.sympy.Sum if is_sum else self.sympy.Product)(body, (symbol, first, last))
        if infinite and not (is_sum and (body.free_symbols - {symbol} or found.is_convergent())):
            raise NoValue("a sum that does not converge")
        if first.is_Integer:
            end = min(int(last), int(first) + _TERMS) if last.is_Integer else int(first) + 2
            self.denominators += [one.subs(symbol, k) for one in divisors for k in range(int(first), end + 1)]
        return self._generic(found.doit())

    _product = _sum

    def _integral(self, tree: Tree) -> Any:
        if tree[3] is None:
            raise NoValue("an antiderivative is known but for a constant")
        symbol, body, _ = self._bound(tree, real=True)
        return self._generic(
            self.sympy.Integral(body, (symbol, self._end(tree[3]), self._end(tree[4]))).doit()
        )

    def _limit(self, tree: Tree) -> Any:
        symbol, body, _ = self._bound(tree, real=True)
        point = self._end(tree[3])
        side = tree[4] or ("+-" if point.is_finite else "-")
        return self.sympy.limit(body, symbol, point, side)

    def _generic(self, value: Any) -> Any:
        """A case distinction without the cases that are one point, or in which nothing was found."""
        undone = (self.sympy.Sum, self.sympy.Integral, self.sympy.Product)

        def choose(*cases: tuple[Any, Any]) -> Any:
            kept = [
                one
                for one, condition in cases
                if not (isinstance(condition, self.sympy.Equality) or one.has(*undone))
            ]
            return kept[0] if len(kept) == 1 else self.sympy.Piecewise(*cases)

        return value.replace(self.sympy.Piecewise, choose)


def _points(converter: _Converter) -> Iterator[dict[Any, Any]]:
    """Values for every name: first positive ones, then of both signs; integers for integers."""
    for index in range(_POINTS):
        point = {}
        for name, symbol in converter.symbols.items():
            noise = zlib.crc32(f"{index}/{name}".encode())
            value = Fraction(2 + noise % 9) if symbol.is_integer else Fraction(1 + noise % 4001, 2003)
            point[symbol] = converter.convert(
                ("num", -value if index > _POINTS // 2 and noise >> 16 & 1 else value)
            )
        yield point


def _agree(converter: _Converter, first: Any, second: Any) -> bool:
    """Whether the values agree at a point where both have one; False at the first where they do not."""
    sympy = converter.sympy

    def value(expression: Any, point: dict[Any, Any]) -> Any:
        """A finite number, None where there is none; an unknown function has some smooth values."""
        found = expression.subs(point)
        for call in found.atoms(sympy.core.function.AppliedUndef):
            seed = zlib.crc32(str(call.func).encode()) % 97 + 1
            found = found.subs(
                call, sum(sympy.sin(part * place + seed) for place, part in enumerate(call.args, start=2))
            )
        found = found.doit().evalf(_DIGITS)
        return found if found.is_number and found.is_finite and abs(found) < _LARGEST else None

    agreed = False
    for point in itertools.islice(_points(converter), None if converter.symbols else 1):
        values = [value(expression, point) for expression in (first, second)]
        divisors = [value(one, point) for one in converter.denominators]
        if None in values or any(one is None or abs(one) < 1e-25 for one in divisors):
            continue
        if abs(values[0] - values[1]) > max(map(abs, values)) * 1e-20:
            return False
        agreed = True
    return agreed


def _is_zero(sympy: Any, difference: Any) -> bool:
    """Whether sympy proves that an expression is 0; what is cheap first."""
    steps: tuple[Callable[[Any], Any], ...] = (
        lambda one: one,
        sympy.expand,
        lambda one: sympy.simplify(one),
        lambda one: sympy.simplify(sympy.expand_log(sympy.combsimp(sympy.gammasimp(one)), force=True)),
        lambda one: sympy.simplify(one.rewrite(sympy.exp)),
    )
    for step in steps:
        found = step(difference)
        if found == 0 or (not found.free_symbols and found.equals(0) is True):
            return True
    return False


def proved_equal(first: Tree, second: Tree) -> bool:
    """Whether two formulas are the same as they stand or sympy proves them equal."""
    if canonical_tree(first) == canonical_tree(second):
        return True
    converter = _Converter((first, second))
    try:
        values = [converter.convert(tree) for tree in (first, second)]
        return _agree(converter, *values) and _is_zero(converter.sympy, values[0] - values[1])
    except Exception:  # sympy raises errors of many kinds on what it can't do
        return False


def load_compare() -> Compare:
    """The comparison of two canonical texts, with everything imported that its first uses import."""
    from gmpo_mm.verifiers.expressions import NotExpression, parse_expression

    def compare(prediction: str, gold: str) -> bool:
        try:
            return proved_equal(parse_expression(prediction), parse_expression(gold))
        except NotExpression:
            return False

    for prediction, gold in WARM_UP:
        compare(prediction, gold)
    return compare
