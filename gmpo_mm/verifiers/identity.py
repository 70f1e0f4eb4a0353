r"""Are two formulas the same function? Decided by their values at points where they could differ.

Rational values are compared exactly. Others are compared with a precision that follows the sizes of all
that occurs in the formulas, so that `e^{100} + 1`, `\sqrt2 + 10^{-100}` and `\tanh 200` differ from what
they are near.

Formulas that are analytic where they are defined need a few points. Where absolute values, even roots,
floors, factorials, logarithms or powers of negative numbers occur, the points cover both signs, every order
of two names, both parities, zero, small and large numbers and the neighbours of the constants in the
formulas; and each part that decides between cases must have taken more than one of them (`\lfloor
n/10^{400} \rfloor` is 0 at every point that is tried), or else the points decide nothing. Sizes are
bounded, so that every input costs milliseconds.
"""

import itertools
import random
import zlib
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from typing import Any

from gmpo_mm.verifiers.evaluation import (
    BRANCHING,
    FIRST_BITS,
    Environment,
    Evaluator,
    OutsideDomain,
    TooLarge,
    context,
)
from gmpo_mm.verifiers.expressions import NotExpression, parse_expression
from gmpo_mm.verifiers.trees import Tree, canonical_tree, contains, subtrees, variables

MAX_PRECISION = 1 << 15  # bits; formulas that need more are different
MAX_VARIABLES = 12
_ENOUGH = 3  # points at which both formulas have a value
_SHARE = 10  # one in so many points where one of them has a value must be such a point
_MAX_FOLDED = 10**1000  # a longer number stays the formula that it is
_CAREFUL = 3  # first points at which irrational values are always compared at two precisions
_ORDINARY_SPREAD = 32  # bits; irrational values of this size agree to sixty digits or differ visibly
_COMPLEX = frozenset({"i"})
_CALCULUS = frozenset(
    {"sum", "product", "integral", "limit", "derivative", "index", "infinity", "residue"}
)  # fmt: skip
_INTEGER_LETTERS = frozenset("nmkjlNMK")  # names of integers by convention, where a floor or a modulus occurs
_NEED_INTEGERS = frozenset({"factorial", "binom", "gcd", "lcm", "mod"})
_ROUNDING = frozenset({"floor", "ceil"}) | _NEED_INTEGERS
_PERIODIC = frozenset({"sin", "cos", "tan", "cot", "sec", "csc"})


class OneSided(OutsideDomain):
    """One of two formulas has a value at a point, the other has none."""


# Values


def settled_value(tree: Tree, environment: Environment, in_complex: bool = False) -> Any:
    """A Fraction where the value is rational and known, else as many bits as tell it from what it is near."""
    first = Evaluator(environment, in_complex, FIRST_BITS)
    value = first.evaluate(tree)
    if first.unsure or not (isinstance(value, Fraction) or first.spread <= _ORDINARY_SPREAD):
        value = Evaluator(environment, in_complex, _precision(first.spread, environment)).evaluate(tree)
    return value


def _precision(spread: int, environment: Environment) -> int:
    """Bits at which a difference of the smallest size that occurs, or of its square, is no rounding error.

    Of constants, which are compared once, of its cube: `\\sin 10^{-100}` is not `10^{-100}`.
    """
    bits = 2 * FIRST_BITS + (6 if environment else 12) * spread
    if bits > MAX_PRECISION:
        raise TooLarge("too many digits")
    return bits


def _evaluated(trees: tuple[Tree, Tree], environment: Environment, in_complex: bool, bits: int) -> list[Any]:
    """Value and evaluator of both; TooLarge where one is, OneSided where only one has no value."""
    found: list[Any] = []
    errors: list[OutsideDomain] = []
    for tree in trees:
        evaluator = Evaluator(environment, in_complex, bits)
        try:
            found.append((evaluator.evaluate(tree), evaluator))
        except OutsideDomain as error:
            errors.append(error)
    for large in errors:
        if isinstance(large, TooLarge):
            raise large
    if errors:
        raise OneSided("one has no value") if found else errors[0]
    return found


def values_equal(
    first: Tree,
    second: Tree,
    environment: Environment,
    in_complex: bool,
    careful: bool = True,
    branches: dict[int, set[Any]] | None = None,
) -> bool:
    """Whether both have the same value at a point; OutsideDomain where one has none.

    `careful` asks for a second precision even where the values are of ordinary size; `branches` gathers the
    cases that were taken where the values are equal.
    """
    (x, one), (y, other) = _evaluated((first, second), environment, in_complex, FIRST_BITS)
    spread = max(one.spread, other.spread)
    sure = not (one.unsure or other.unsure)
    exact = isinstance(x, Fraction) and isinstance(y, Fraction)
    if sure and exact:
        equal = bool(x == y)
    else:
        equal = not sure or _near(x, y, one, other, spread)
        if equal and (careful or not sure or spread > _ORDINARY_SPREAD):
            bits = _precision(spread, environment)
            (x, one), (y, other) = _evaluated((first, second), environment, in_complex, bits)
            equal = _near(x, y, one, other, max(one.spread, other.spread))
    if equal and branches is not None:
        for node, case in (*one.branches, *other.branches):
            branches.setdefault(node, set()).add(case)
    return equal


def _near(x: Any, y: Any, one: Evaluator, other: Evaluator, spread: int) -> bool:
    """Equal, or no further apart than rounding can bring equal values of this size; see `Evaluator.noise`."""
    if isinstance(x, Fraction) and isinstance(y, Fraction):
        return x == y
    return bool(abs(one.number(x) - other.number(y)) <= one.noise() * context(64).mpf(2) ** spread)


# Formulas


@lru_cache(maxsize=4096)
def same_function(a: str, b: str) -> bool | None:
    """`same_trees` of two canonical texts; None also where one is no formula."""
    try:
        return same_trees(parse_expression(a), parse_expression(b))
    except NotExpression:
        return None


def same_trees(first: Tree, second: Tree) -> bool | None:
    """Whether two formulas are the same; None where only computer algebra could tell."""
    if first == second:
        return None if _never_defined(first) else True
    if contains(first, _CALCULUS) or contains(second, _CALCULUS):
        return canonical_tree(first) == canonical_tree(second) or None
    names = variables(first) | variables(second)
    in_complex = contains(first, _COMPLEX) or contains(second, _COMPLEX)
    if not names:
        return _same_constant(first, second, in_complex)
    if len(names) > MAX_VARIABLES:
        return _same_spelling(first, second)
    return _Points(first, second, in_complex).verdict()


class _Points:
    """Two formulas at one point after the other."""

    def __init__(self, first: Tree, second: Tree, in_complex: bool) -> None:
        self.trees = first, second
        self.in_complex = in_complex
        self.informative = self.one_sided = 0
        self.beyond = False
        self.branches: dict[int, set[Any]] = {}

    def differ_at(self, points: Iterator[Environment]) -> bool:
        """Whether both have values at one of the points, and other ones."""
        for environment in points:
            careful = self.informative < _CAREFUL
            try:
                if not values_equal(*self.trees, environment, self.in_complex, careful, self.branches):
                    return True
            except TooLarge:
                self.beyond = True
            except OneSided:
                self.one_sided += 1
            except OutsideDomain:
                pass
            else:
                self.informative += 1
        return False

    def verdict(self) -> bool | None:
        if self.differ_at(sample_points(*self.trees)):
            return False
        undecided = self.informative < _ENOUGH or not self.all_cases_taken()
        if undecided and self.differ_at(_magnitudes(*self.trees)):
            return False
        enough = self.informative >= _ENOUGH
        if enough and self.informative * _SHARE >= self.informative + self.one_sided:
            return True if self.all_cases_taken() and not self.hides_a_period() else None
        if _same_spelling(*self.trees):
            return True
        return False if self.beyond or (self.one_sided and not self.informative) else None

    def all_cases_taken(self) -> bool:
        """Whether each part that decides between cases has taken two of them."""
        nodes = itertools.chain(*map(_branching, self.trees))
        return all(len(self.branches.get(id(node), ())) >= 2 for node in nodes)

    def hides_a_period(self) -> bool:
        r"""Whether one formula asks for integers, as `x!` does, where the other, `\cos 2\pi x`, is alike."""
        forced = [_forced_integers(tree) for tree in self.trees]
        for tree, needed in (self.trees, forced[1] - forced[0]), (self.trees[::-1], forced[0] - forced[1]):
            real = {name for name in needed if name[:1] not in _INTEGER_LETTERS}
            if any(
                node[0] == "fn" and node[1] in _PERIODIC and variables(node) & real
                for node in subtrees(tree[0])
            ):
                return True
        return False


def _branching(tree: Tree) -> Iterator[Tree]:
    r"""The parts with names that decide between cases; not the bars of `\ln|x|`, a spelling of `\ln x`."""
    stack = [tree]
    while stack:
        node = stack.pop()
        if (node[0] in BRANCHING or (node[0] == "fn" and node[1] in BRANCHING)) and variables(node):
            yield node
        children = [child for child in node[1:] if isinstance(child, tuple)]
        if node[0] == "log" or node[:2] == ("fn", "ln"):
            children = [child[2] if child[:2] == ("fn", "abs") else child for child in children]
        stack += children


# Constants


def _same_constant(first: Tree, second: Tree, in_complex: bool) -> bool:
    try:
        return values_equal(first, second, {}, in_complex)
    except TooLarge:
        return _same_spelling(first, second) or _same_shape(first, second)
    except OutsideDomain:
        return not in_complex and _same_constant(first, second, True)


def _same_shape(first: Tree, second: Tree) -> bool:
    """Whether two constants beyond computing are built in the same way of parts that are equal."""
    if first[0] != second[0] or len(first) != len(second):
        return False
    for a, b in zip(first[1:], second[1:], strict=True):
        if a != b and not (isinstance(a, tuple) and isinstance(b, tuple) and _same_constant(a, b, False)):
            return False
    return True


def _same_spelling(first: Tree, second: Tree) -> bool:
    """Whether two formulas are the same but for order, brackets and the spelling of rational constants."""
    return canonical_tree(_folded(first)) == canonical_tree(_folded(second))


def _folded(tree: Tree) -> Tree:
    """The tree with a number for each part that is a rational constant."""
    if not variables(tree):
        value = constant_of(tree)
        if isinstance(value, Fraction) and abs(value.numerator) + value.denominator < _MAX_FOLDED:
            return ("num", value)
    return (tree[0], *(_folded(child) if isinstance(child, tuple) else child for child in tree[1:]))


def _never_defined(tree: Tree) -> bool:
    """Whether a constant has no value: `1/0` is not equal to itself written otherwise."""
    if variables(tree) or contains(tree, _CALCULUS):
        return False
    try:
        settled_value(tree, {}, contains(tree, _COMPLEX))
    except TooLarge:
        return False
    except OutsideDomain:
        return constant_of(tree) is None
    return False


@lru_cache(maxsize=4096)
def constant_of(tree: Tree) -> Any | None:
    """Real value of a tree without variables, a Fraction where it is rational; None for anything else."""
    if variables(tree) or contains(tree, _COMPLEX):
        return None
    try:
        return settled_value(tree, {})
    except OutsideDomain:
        return None


# Points


def sample_points(first: Tree, second: Tree) -> Iterator[Environment]:
    """Points that depend on the names, the constants and the functions of the two formulas alone."""
    names = sorted(variables(first) | variables(second))
    if not names:
        return
    rng = random.Random(zlib.crc32(" ".join(names).encode()))
    if not (_is_critical(first) or _is_critical(second)):
        for sign in (1, -1, None, None, None):  # all positive, all negative, mixed
            signs = [sign or rng.choice((1, -1)) for _ in names]
            yield {
                name: s * Fraction(rng.randint(71, 1051), 331) for name, s in zip(names, signs, strict=True)
            }
        yield {name: Fraction(rng.randint(2, 29)) for name in names}
        return
    values = {name: _critical_values(name, first, second) for name in names}
    if len(names) == 1:
        yield from ({names[0]: value} for value in values[names[0]])
        return
    if len(names) == 2:
        short = [values[name][:8] for name in names]
        yield from (dict(zip(names, pair, strict=True)) for pair in itertools.product(*short))
    for _ in range(24 if len(names) == 2 else 48):
        yield {name: rng.choice(values[name]) for name in names}
    for _ in range(12):  # where all are positive, which roots and logarithms may ask for
        yield {name: abs(rng.choice(values[name])) or Fraction(1) for name in names}
    if contains(first, _NEED_INTEGERS) or contains(second, _NEED_INTEGERS):
        for _ in range(48):
            yield {name: Fraction(rng.randint(0, 12)) for name in names}


def _magnitudes(first: Tree, second: Tree) -> Iterator[Environment]:
    """One name very large or very small, the others not."""
    names = sorted(variables(first) | variables(second))
    values = {name: _critical_values(name, first, second) for name in names}
    for turn, name in enumerate(names[:4]):
        for exponent in (2, 5, 9, 14, 20, 28, 40, 60, 90, 140, 200):
            for sign in (1, -1):
                large = Fraction(10**exponent + 1)
                for value in (large, 1 / large):
                    if _may_be(sign * value, values[name]):
                        others = {other: some[(exponent + turn) % 2] for other, some in values.items()}
                        yield {**others, name: sign * value}


def _may_be(value: Fraction, values: list[Fraction]) -> bool:
    """Whether a name with such values may have another: of its sign, and whole if all are."""
    return (value > 0 or min(values) < 0) and (
        value.denominator == 1 or any(v.denominator > 1 for v in values)
    )


def _critical_values(name: str, first: Tree, second: Tree) -> list[Fraction]:
    """Both signs and parities, zero, small, large, between, and the neighbours of the formulas' constants.

    Names of integers have integers only; those of radii and resistances, which begin with r or R, have
    positive numbers only.
    """
    base = [
        Fraction(v) for v in (2, -3, 1, 0, -1, 5, -8, 12, 7, -2, 3, 4, 6, 100, 101, -1000, 9973, 10**7 + 1)
    ]
    between = [
        Fraction(5, 2),
        Fraction(-7, 3),
        Fraction(1, 3),
        Fraction(-2, 7),
        Fraction(1, 1000),
        Fraction(10**6, 7),
    ]
    near = []
    for c in _constants(first, second):
        near += [c, -c, c + 1, c - 1, -c - 2, 2 * c + 1, c * c + 1, c / 2, c + Fraction(1, 3)]
    if _is_integer(name, first, second):
        values = [value for value in base + near if value.denominator == 1]
    else:
        values = base[:5] + between[:3] + base[5:] + between[3:] + near
    return [value for value in values if value > 0] if name[:1] in "rR" else values


@lru_cache(maxsize=256)
def _constants(first: Tree, second: Tree) -> list[Fraction]:
    """The smallest and the largest constants in the formulas, an irrational one as the integer below it."""
    found = set()
    for tree in (first, second):
        for node in subtrees(tree):
            value = constant_of(node)
            if value is not None and value != 0:
                number = abs(value) if isinstance(value, Fraction) else Fraction(int(abs(value)))
                if 1 < number <= 10**500 and number.denominator < 10**6:
                    found.add(number)
    ordered = sorted(found)
    return ordered if len(ordered) <= 6 else ordered[:3] + ordered[-3:]


def _is_integer(name: str, first: Tree, second: Tree) -> bool:
    if name in _forced_integers(first) | _forced_integers(second):
        return True
    return name[:1] in _INTEGER_LETTERS and (contains(first, _ROUNDING) or contains(second, _ROUNDING))


@lru_cache(maxsize=2048)
def _forced_integers(tree: Tree) -> frozenset[str]:
    r"""Names in `n!`, `\binom{n}{k}` and `(-1)^n`, which have values for integers only."""
    names: set[str] = set()
    for node in subtrees(tree):
        if node[0] in _NEED_INTEGERS:
            names |= variables(node)
        elif node[0] == "pow" and variables(node[2]):
            base = constant_of(node[1])
            if base is not None and base < 0:
                names |= variables(node[2])
    return frozenset(names)


@lru_cache(maxsize=2048)
def _is_critical(tree: Tree) -> bool:
    """Whether a formula has parts that are not analytic, or are defined for some values of its names only."""
    return any(_is_critical_node(node) for node in subtrees(tree))


def _is_critical_node(node: Tree) -> bool:
    if not variables(node):
        return False
    if node[0] == "fn":
        return node[1] in ("floor", "ceil", "abs", "ln", "arcsin", "arccos", "arctan")
    if node[0] in ("factorial", "binom", "max", "min", "mod", "gcd", "lcm", "log", "root"):
        return True
    if node[0] != "pow":
        return False
    exponent = constant_of(node[2])
    if isinstance(exponent, Fraction):
        return exponent.denominator != 1
    base = constant_of(node[1])
    return base is None or not base > 0
