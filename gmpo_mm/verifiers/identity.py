r"""Are two formulas the same function? Decided by their values at points where they could differ.

Rational values are compared exactly. Others are compared at two precisions that follow the sizes of what occurs in the formulas, so
that `e^{100} + 1` and `\sqrt2 + 10^{-100}` differ from what they are near. Formulas of functions that are analytic where they are
defined need a few points; where absolute values, even roots, floors, factorials, logarithms or powers of negative numbers
occur, the points cover both signs, every order of two names, both parities, zero, small and large numbers, and the neighbours of the
numbers in the formulas. Sizes are bounded, so that every input costs milliseconds.
"""

import itertools
import random
import zlib
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from typing import Any

from gmpo_mm.verifiers.evaluation import Environment, Evaluator, OutsideDomain, TooLarge, context
from gmpo_mm.verifiers.expressions import NotExpression, parse_expression
from gmpo_mm.verifiers.trees import Tree, canonical_tree, contains, subtrees, variables

PRECISION = 192  # bits, and twice the spread of the values
MAX_PRECISION = 1 << 16
MAX_VARIABLES = 12
_MANY = 48  # points for formulas that are not analytic, in three names or more
_FEW = 5
_ENOUGH = 3  # points at which both formulas have a value
_SHARE = 10  # one in so many points where one of them has a value must be such a point
_COMPLEX = frozenset({"i"})
_CALCULUS = frozenset({"sum", "product", "integral", "limit", "derivative", "index", "infinity", "residue"})
_INTEGER_NAMES = frozenset("nmN")
_NEED_INTEGERS = frozenset({"factorial", "binom", "gcd", "lcm"})


def values_equal(first: Tree, second: Tree, environment: Environment, in_complex: bool) -> bool:
    """Whether both have the same value at a point; OutsideDomain where one has none."""
    bits = PRECISION
    for _ in range(2):
        one, other = Evaluator(environment, in_complex, bits), Evaluator(environment, in_complex, bits)
        x, y = one.evaluate(first), other.evaluate(second)
        if isinstance(x, Fraction) and isinstance(y, Fraction):
            return x == y
        gap = abs(one.number(x) - other.number(y))
        spread = max(one.spread, other.spread)
        wanted = PRECISION + 2 * spread
        if wanted <= bits or spread <= 64:
            break
        if wanted > MAX_PRECISION:
            raise TooLarge("too many digits")
        bits = wanted
    if gap > context(bits).mpf(2) ** (spread - bits // 2):
        return False
    x, y = (Evaluator(environment, in_complex, 2 * bits).evaluate(tree) for tree in (first, second))
    fine = Evaluator(environment, in_complex, 2 * bits)
    return bool(abs(fine.number(x) - fine.number(y)) <= fine.context.mpf(2) ** (spread - bits * 3 // 2))


@lru_cache(maxsize=4096)
def same_function(a: str, b: str) -> bool | None:
    """Whether two canonical texts are the same formula; None where only computer algebra could tell, or one is no formula."""
    try:
        return same_trees(parse_expression(a), parse_expression(b))
    except NotExpression:
        return None


def same_trees(first: Tree, second: Tree) -> bool | None:
    """`same_function` of two trees that were read already."""
    if first == second:
        return None if _never_defined(first) else True
    if contains(first, _CALCULUS) or contains(second, _CALCULUS):
        return canonical_tree(first) == canonical_tree(second) or None
    names = variables(first) | variables(second)
    if len(names) > MAX_VARIABLES:
        return False
    in_complex = contains(first, _COMPLEX) or contains(second, _COMPLEX)
    if not names:
        return _same_constant(first, second, in_complex)
    informative = lopsided = 0
    beyond = False
    for environment in sample_points(first, second):
        defined = [_is_defined(tree, environment, in_complex) for tree in (first, second)]
        lopsided += any(defined) and not all(defined)
        if not all(defined):
            continue
        try:
            if not values_equal(first, second, environment, in_complex):
                return False
        except OutsideDomain as error:
            beyond |= isinstance(error, TooLarge)
            continue
        informative += 1
    if informative >= _ENOUGH and informative * _SHARE >= informative + lopsided:
        return True
    return False if beyond or any(not variables(tree) and _is_beyond(tree) for tree in (first, second)) else None


def _same_constant(first: Tree, second: Tree, in_complex: bool) -> bool:
    try:
        return values_equal(first, second, {}, in_complex)
    except TooLarge:
        return _same_shape(first, second)
    except OutsideDomain:
        if in_complex:
            return False
        return _same_constant(first, second, True)


def _same_shape(first: Tree, second: Tree) -> bool:
    """Whether two constants beyond computing are built in the same way of parts that are equal."""
    if first[0] != second[0] or len(first) != len(second):
        return False
    for a, b in zip(first[1:], second[1:], strict=True):
        if isinstance(a, tuple) and isinstance(b, tuple):
            if a != b and not (_same_constant(a, b, False) or _same_constant(b, a, False)):
                return False
        elif a != b:
            return False
    return True


def _is_defined(tree: Tree, environment: Environment, in_complex: bool) -> bool:
    try:
        Evaluator(environment, in_complex, 64).evaluate(tree)
    except OutsideDomain:
        return False
    return True


def _never_defined(tree: Tree) -> bool:
    """Whether a constant has no value: `1/0` is not equal to itself written otherwise."""
    return not variables(tree) and not contains(tree, _CALCULUS) and constant_of(tree) is None and not _is_beyond(tree)


def _is_beyond(tree: Tree) -> bool:
    try:
        Evaluator({}, contains(tree, _COMPLEX), 64).evaluate(tree)
    except TooLarge:
        return True
    except OutsideDomain:
        return False
    return False


# Points


def sample_points(first: Tree, second: Tree) -> Iterator[Environment]:
    """Points that depend on the names, the numbers and the functions of the two formulas alone."""
    names = sorted(variables(first) | variables(second))
    if not names:
        return
    rng = random.Random(zlib.crc32(" ".join(names).encode()))
    if not (_is_critical(first) or _is_critical(second)):
        for index in range(_FEW):
            signs = [1 if index == 0 or rng.random() < 0.5 else -1 for _ in names]
            yield {name: sign * Fraction(rng.randint(71, 1051), 331) for name, sign in zip(names, signs, strict=True)}
        yield {name: Fraction(rng.randint(2, 29)) for name in names}
        return
    values = {name: _critical_values(name, first, second) for name in names}
    if len(names) == 1:
        yield from ({names[0]: value} for value in values[names[0]])
        return
    if len(names) == 2:
        short = [values[name][:10] for name in names]
        yield from (dict(zip(names, pair, strict=True)) for pair in itertools.product(*short))
    for _ in range(_MANY):
        yield {name: rng.choice(values[name]) for name in names}
    for _ in range(_MANY // 4):  # where all are positive, which roots and logarithms may ask for
        yield {name: abs(rng.choice(values[name])) or Fraction(1) for name in names}
    if any(contains(tree, _NEED_INTEGERS) for tree in (first, second)):
        for _ in range(_MANY):
            yield {name: Fraction(rng.randint(0, 12)) for name in names}


def _critical_values(name: str, first: Tree, second: Tree) -> list[Fraction]:
    """Values for a name; radii and resistances, which begin with r or R, are taken to be positive."""
    values = _values_of_both_signs(name, first, second)
    return [value for value in values if value > 0] if name[:1] in "rR" else values


def _values_of_both_signs(name: str, first: Tree, second: Tree) -> list[Fraction]:
    """Both signs and parities, zero, small, large, between, and the neighbours of the numbers in the formulas."""
    base = [Fraction(v) for v in (2, -3, 1, 0, -1, 5, -8, 12, 7, -2, 3, 4, 6, -15, 100, 101, -1000, 9973, 10**7 + 1)]
    between = [Fraction(5, 2), Fraction(-7, 3), Fraction(1, 3), Fraction(-2, 7), Fraction(9, 4), Fraction(1, 1000), Fraction(123457, 7)]
    constants = {constant_of(t) for tree in (first, second) for t in subtrees(tree) if t[0] in ("num", "pow", "mul", "div")}
    numbers = sorted({abs(v) for v in constants if isinstance(v, Fraction) and 1 < abs(v) <= 10**12})
    near = [v for c in numbers[:6] for v in (c, -c, c + 1, c - 1, 2 * c + 1, c / 2, c * c, c * c + 1, -c * c - 2, c + Fraction(1, 3))]
    integers_only = name[:1] in _INTEGER_NAMES and any(
        contains(tree, frozenset({"factorial", "binom", "floor", "ceil"})) or _has_power_of_negative(tree) for tree in (first, second)
    )
    if integers_only:
        return [value for value in base + near if value.denominator == 1]
    return base[:5] + between[:5] + base[5:] + between[5:] + near


@lru_cache(maxsize=2048)
def _is_critical(tree: Tree) -> bool:
    """Whether a formula has parts that are not analytic, or are defined for some values of its names only."""
    return any(_is_critical_node(node) for node in subtrees(tree))


def _is_critical_node(node: Tree) -> bool:
    if node[0] in ("factorial", "binom", "max", "min", "mod", "gcd", "lcm"):
        return True
    if node[0] == "fn":
        return node[1] in ("floor", "ceil", "abs", "ln", "arcsin", "arccos") and bool(variables(node))
    if node[0] in ("log", "root"):
        return bool(variables(node))
    if node[0] != "pow" or not variables(node):
        return False
    exponent = constant_of(node[2])
    if isinstance(exponent, Fraction):
        return exponent.denominator != 1
    base = constant_of(node[1])
    return base is None or isinstance(base, complex) or not base > 0


def _has_power_of_negative(tree: Tree) -> bool:
    return any(node[0] == "pow" and variables(node[2]) and _is_negative(node[1]) for node in subtrees(tree))


def _is_negative(tree: Tree) -> bool:
    value = constant_of(tree)
    return value is not None and value < 0


# Constants


@lru_cache(maxsize=4096)
def constant_of(tree: Tree) -> Any | None:
    """Real value of a tree without variables, a Fraction where it is rational; None for anything else."""
    if variables(tree) or contains(tree, _COMPLEX):
        return None
    try:
        return Evaluator({}, False, 2 * PRECISION).evaluate(tree)
    except OutsideDomain:
        return None


def constant_value(text: str) -> Any | None:
    """Real value of a formula without variables (see `constant_of`); None for anything else."""
    try:
        return constant_of(parse_expression(text))
    except NotExpression:
        return None
