"""The slow stage of equivalence: computer algebra by sympy, on trees of our own grammar. Runs in worker
processes only.

Two formulas are equal where sympy proves that their difference is 0 and where, in addition, their values
agree at a point at which every denominator is not 0. The proof alone is not enough: `(y - y)(x + 1)/(y - y)`
reduces to anything. A worker is killed when it overruns its time or its memory, so nothing is bounded here.
"""

import operator
import zlib
from collections.abc import Callable
from typing import Any

from gmpo_mm.verifiers.trees import Tree, canonical_tree, children, contains, subtrees, variables

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
# Where a factorial, a binomial coefficient, a floor or a sum's bound has them.
INTEGER_NAMES = frozenset("nmkijlNMKpqr")
_NEEDS_INTEGERS = frozenset({"floor", "ceil", "factorial", "binom", "sum", "product"})
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
            name: sympy.Symbol(name, real=True, integer=name in integers or None) for name in names
        }
        self.denominators: list[Any] = []
        self.operations: dict[str, Callable[..., Any]] = {
            "neg": operator.neg, "add": sympy.Add, "mul": sympy.Mul, "factorial": sympy.factorial,
            "div": self._quotient, "pow": self._power, "root": self._root, "binom": sympy.binomial,
            "log": lambda value, base: self._quotient(sympy.log(value), sympy.log(base)),
            "degrees": sympy.rad, "max": sympy.Max, "min": sympy.Min,
        }  # fmt: skip

    def convert(self, tree: Tree) -> Any:
        """The expression; NoValue where any part of it has none."""
        value = self.sympy.sympify(self._value(tree))
        if value.has(self.sympy.zoo, self.sympy.nan, self.sympy.oo, -self.sympy.oo, self.sympy.AccumBounds):
            raise NoValue("infinite or undefined")
        return value

    def _value(self, tree: Tree) -> Any:
        sympy = self.sympy
        match tree:
            case ("num", number):
                return sympy.Rational(number.numerator, number.denominator)
            case ("var", name):
                return self.symbols[name]
            case ("const", name):
                return {"pi": sympy.pi, "e": sympy.E, "i": sympy.I}[name]
            case ("fn", name, argument):
                return getattr(sympy, str(_FUNCTIONS.get(name, name)))(self.convert(argument))
            case ("call" | "index" as kind, name, *arguments):
                return sympy.Function(f"{kind} {name}")(*map(self.convert, arguments))
            case ("derivative", body, name, order):
                if variables(body) - {name} - {node[1] for node in subtrees(body) if node[0] == "call"}:
                    raise NoValue("other names may depend on the variable")
                return sympy.diff(self.convert(body), self.symbols[name], order).doit()
            case ("sum" | "product" as kind, body, name, first, last):
                return self._series(kind == "sum", body, name, self._end(first), self._end(last))
            case ("integral", body, name, first, last) if first is not None:
                symbol, body, _ = self._bound(body, name, real=True)
                return self._generic(sympy.Integral(body, (symbol, self._end(first), self._end(last))).doit())
            case ("limit", body, name, point, side):
                symbol, body, _ = self._bound(body, name, real=True)
                point = self._end(point)
                return sympy.limit(body, symbol, point, side or ("+-" if point.is_finite else "-"))
            case (kind, *_) if kind in self.operations:
                return self.operations[kind](*map(self.convert, children(tree)))
        raise NoValue(f"{tree[0]} has no value")

    def _quotient(self, top: Any, bottom: Any) -> Any:
        self.denominators.append(bottom)
        return top / bottom

    def _power(self, base: Any, exponent: Any) -> Any:
        if not exponent.is_positive:
            self.denominators.append(base)
        if exponent.is_Rational and exponent.q % 2 and exponent.q > 1 and not self.in_complex:
            return self.sympy.real_root(base, exponent.q) ** exponent.p
        return base**exponent

    def _root(self, base: Any, degree: Any) -> Any:
        if not (degree.is_Integer and degree > 1):
            raise NoValue("degree of a root")
        return self._power(base, 1 / degree)

    def _bound(self, body: Tree, name: str, **assumptions: bool) -> tuple[Any, Any, list[Any]]:
        """A new symbol for a bound name, the body, and those divisors in the body that depend on it."""
        outer, divided = self.symbols, self.denominators
        symbol = self.sympy.Dummy(name, **assumptions)
        self.symbols, self.denominators = {**outer, name: symbol}, []
        value, inside = self.convert(body), self.denominators
        self.symbols = outer
        self.denominators = divided + [one for one in inside if symbol not in one.free_symbols]
        return symbol, value, [one for one in inside if symbol in one.free_symbols]

    def _end(self, tree: Tree) -> Any:
        """A bound, which may be infinite."""
        ends = {("infinity",): self.sympy.oo, ("neg", ("infinity",)): -self.sympy.oo}
        return ends[tree] if tree in ends else self.convert(tree)

    def _series(self, is_sum: bool, body: Tree, name: str, first: Any, last: Any) -> Any:
        symbol, term, divisors = self._bound(body, name, integer=True)
        infinite = first.is_infinite or last.is_infinite
        if any(end.is_integer is not True for end in (first, last) if not end.is_infinite):
            raise NoValue("a sum over what may be no integers")
        if not infinite and (last - first).is_number and last < first:
            return 0 if is_sum else 1
        found = (self.sympy.Sum if is_sum else self.sympy.Product)(term, (symbol, first, last))
        if infinite and not (is_sum and (term.free_symbols - {symbol} or found.is_convergent())):
            raise NoValue("a sum that does not converge")
        if first.is_Integer:
            end = min(int(last), int(first) + _TERMS) if last.is_Integer else int(first) + 2
            self.denominators += [one.subs(symbol, k) for one in divisors for k in range(int(first), end + 1)]
        return self._generic(found.doit())

    def _generic(self, value: Any) -> Any:
        """A case distinction without the cases that are one point, or in which nothing was found."""
        sympy = self.sympy

        def choose(*cases: tuple[Any, Any]) -> Any:
            undone = (sympy.Sum, sympy.Integral, sympy.Product)
            kept = [one for one, when in cases if not (isinstance(when, sympy.Equality) or one.has(*undone))]
            return kept[0] if len(kept) == 1 else sympy.Piecewise(*cases)

        return value.replace(sympy.Piecewise, choose)

    def point(self, index: int) -> dict[Any, Any]:
        """Values for every name: at first positive ones, then of both signs; integers for integers."""
        point = {}
        for name, symbol in self.symbols.items():
            noise = zlib.crc32(f"{index}/{name}".encode())
            value = self.sympy.Rational(1 + noise % 4001, 2003) if not symbol.is_integer else 2 + noise % 9
            point[symbol] = -value if index > _POINTS // 2 and noise >> 16 & 1 else value
        return point

    def number(self, expression: Any, point: dict[Any, Any]) -> Any:
        """A finite value at a point, None where there is none; an unknown function has some smooth values."""
        found = expression.subs(point)
        for call in found.atoms(self.sympy.core.function.AppliedUndef):
            seed = zlib.crc32(str(call.func).encode()) % 97 + 1
            parts = [self.sympy.sin(part * place + seed) for place, part in enumerate(call.args, start=2)]
            found = found.subs(call, sum(parts))
        found = found.doit().evalf(_DIGITS)
        return found if found.is_number and found.is_finite and abs(found) < _LARGEST else None

    def agree(self, first: Any, second: Any) -> bool:
        """Whether the values agree at a point where both have one; False at the first where they do not."""
        agreed = False
        for index in range(_POINTS if self.symbols else 1):
            point = self.point(index)
            values = [self.number(expression, point) for expression in (first, second)]
            divisors = [self.number(one, point) for one in self.denominators]
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
        sympy.simplify,
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
        return converter.agree(*values) and _is_zero(converter.sympy, values[0] - values[1])
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
