"""Do two equations or inequalities say the same? By a constant factor between them, or by their solutions.

Solutions are compared in every variable: `x(y-1) = 0` and `x(y-2) = 0` agree in x. For that, both must be
rational in all their variables.
"""

import itertools
import random
from collections.abc import Sequence
from fractions import Fraction
from functools import reduce

from gmpo_mm.verifiers.budget import spend
from gmpo_mm.verifiers.evaluation import FIRST_BITS, Evaluator, OutsideDomain
from gmpo_mm.verifiers.expressions import NotExpression, parse_expression
from gmpo_mm.verifiers.identity import MAX_VARIABLES, same_trees
from gmpo_mm.verifiers.points import sample_points
from gmpo_mm.verifiers.structure import Node
from gmpo_mm.verifiers.trees import Tree, contains, replaced, variables
from gmpo_mm.verifiers.values import constant_of
from gmpo_mm.verifiers.words import has_words

MAX_DEGREE = 24
MAX_BITS = 1 << 13  # of a coefficient
_SETTINGS = 3  # of the other variables, at which the solutions in one are compared
_COMPLEX = frozenset({"i"})
_RATIONAL = frozenset({"num", "neg", "add", "mul", "div"})

Polynomial = Sequence[int | Fraction]  # coefficients from the constant on, the last one not 0


class _NotRational(ArithmeticError):
    """Not a rational function of the variable, or too large a one."""


def same_relation(a: Sequence[Node], b: Sequence[Node], operator: str) -> bool:
    """Whether two equations or inequalities, each by its two sides, are shown to have the same solutions."""
    if any(has_words(side.text) for side in (*a, *b)):
        return False
    try:
        first, second = (
            ("add", parse_expression(left.text), ("neg", parse_expression(right.text)))
            for left, right in (a, b)
        )
    except NotExpression:
        return False
    in_complex = contains(first, _COMPLEX) or contains(second, _COMPLEX)
    if _proportional(first, second, in_complex, positive=operator not in ("=", "!=")):
        return True
    if operator != "=" or in_complex:
        return False
    try:
        return _same_solutions(_named_constants(first), _named_constants(second))
    except _NotRational:
        return False


def _proportional(first: Tree, second: Tree, in_complex: bool, positive: bool) -> bool:
    """Whether one is a constant times the other; a positive one, as an inequality needs, if asked for."""
    names = variables(first)
    if names != variables(second) or not names or len(names) > MAX_VARIABLES:
        return False
    for environment in sample_points(first, second):
        try:
            x, y = (Evaluator(environment, in_complex, FIRST_BITS).evaluate(tree) for tree in (first, second))
        except OutsideDomain:
            continue
        if any(abs(one) < 1e-30 and (one == 0 or not isinstance(one, Fraction)) for one in (x, y)):
            continue
        if positive and (in_complex or (x > 0) != (y > 0)):
            return False
        # first * y - second * x vanishes everywhere where the ratio x / y is that of the whole formulas.
        here: dict[str, Tree] = {name: ("num", value) for name, value in environment.items()}
        return bool(
            same_trees(("mul", first, replaced(second, here)), ("mul", second, replaced(first, here)))
        )
    return False


# Solutions in one variable


def _named_constants(tree: Tree) -> Tree:
    r"""The tree with a name for each irrational constant: `x = a/y` and `xy = a` agree for any number a."""
    if tree[0] not in _RATIONAL and not variables(tree):
        value = constant_of(tree)
        if isinstance(value, Fraction):
            return ("num", value)
        return tree if value is None else ("var", f"constant {tree!r}")
    return (tree[0], *(_named_constants(child) if isinstance(child, tuple) else child for child in tree[1:]))


def _same_solutions(first: Tree, second: Tree) -> bool:
    """Whether both have the same in each variable, at some values of the others, and there are any."""
    names = sorted(variables(first) | variables(second))
    found = False
    for name in names if len(names) <= MAX_VARIABLES else ():
        rng = random.Random(len(names) - 1)
        for _ in range(_SETTINGS if len(names) > 1 else 1):
            values = {other: [rng.randint(-500, 500) * 2 + 1] for other in names if other != name}
            zeros = [_zeros(tree, {**values, name: [0, 1]}) for tree in (first, second)]
            if zeros[0] != zeros[1]:
                return False
            found |= len(zeros[0]) > 1
    return found


def _zeros(tree: Tree, values: dict[str, list[int]]) -> Polynomial:
    """The polynomial with the solutions, each once; empty where every number is one."""
    top, bottom = _quotient(tree, values)
    if not bottom:
        raise _NotRational("division by zero")
    slope = [k * coefficient for k, coefficient in enumerate(top)][1:]
    common: Polynomial = top  # holds the zeros of the denominator, and the others once less than the top
    rest: Polynomial = _times(slope, bottom)
    while rest:
        common, rest = rest, _divided(common, rest)[1]
    zeros = _divided(top, common)[0] if top else []
    return [coefficient / zeros[-1] for coefficient in zeros]


def _quotient(tree: Tree, values: dict[str, list[int]]) -> tuple[list[int], list[int]]:
    """A quotient of polynomials in the one variable that has no number, not reduced."""
    kind = tree[0]
    if kind == "num":
        return _trimmed([tree[1].numerator]), [tree[1].denominator]
    if kind == "var":
        return _trimmed(values[tree[1]]), [1]
    if kind == "neg":
        top, bottom = _quotient(tree[1], values)
        return [-coefficient for coefficient in top], bottom
    if kind == "pow":
        exponent = constant_of(tree[2])
        if not isinstance(exponent, Fraction) or exponent.denominator != 1 or abs(exponent) > MAX_DEGREE:
            raise _NotRational("power")
        factors = abs(int(exponent))
        top, bottom = (reduce(_times, [part] * factors, [1]) for part in _quotient(tree[1], values))
        return (top, bottom) if exponent > 0 else (bottom, top)
    if kind not in ("add", "mul", "div"):
        raise _NotRational(kind)
    (a, b), (c, d) = (_quotient(child, values) for child in tree[1:])
    if kind == "add":
        terms = itertools.zip_longest(_times(a, d), _times(c, b), fillvalue=0)
        return _trimmed([x + y for x, y in terms]), _times(b, d)
    return (_times(a, c), _times(b, d)) if kind == "mul" else (_times(a, d), _times(b, c))


def _trimmed(polynomial: list[int]) -> list[int]:
    while polynomial and polynomial[-1] == 0:
        polynomial = polynomial[:-1]
    return polynomial


def _times(a: list[int], b: list[int]) -> list[int]:
    spend(1 + len(a) * len(b))
    result = [0] * (len(a) + len(b) - 1) if a and b else []
    if len(result) > MAX_DEGREE + 1:
        raise _NotRational("degree")
    for (j, x), (k, y) in itertools.product(enumerate(a), enumerate(b)):
        result[j + k] += x * y
    if any(coefficient.bit_length() > MAX_BITS for coefficient in result):
        raise _NotRational("too large")
    return result


def _divided(a: Polynomial, b: Polynomial) -> tuple[list[Fraction], list[Fraction]]:
    """Quotient and remainder."""
    rest, quotient = list(map(Fraction, a)), list[Fraction]()
    for shift in range(len(a) - len(b), -1, -1):
        factor = rest.pop() / b[-1]
        spend(len(b) * (1 + factor.denominator.bit_length() // 64))
        quotient.insert(0, factor)
        for k, coefficient in enumerate(b[:-1]):
            rest[shift + k] -= factor * coefficient
    while rest and rest[-1] == 0:
        rest.pop()
    return quotient, rest
