"""Do two equations or inequalities say the same? By a constant factor between them, or by their solutions.

Solutions are compared in every variable, not in the first one that tells: `x(y-1) = 0` and `x(y-2) = 0`
agree in x. For that, both must be rational in all their variables; others are the same only up to a
constant factor.
"""

import itertools
import random
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from gmpo_mm.verifiers.budget import spend
from gmpo_mm.verifiers.evaluation import FIRST_BITS, Evaluator, OutsideDomain
from gmpo_mm.verifiers.expressions import NotExpression, parse_expression
from gmpo_mm.verifiers.identity import MAX_VARIABLES, same_trees
from gmpo_mm.verifiers.points import sample_points
from gmpo_mm.verifiers.trees import Tree, contains, replaced, variables
from gmpo_mm.verifiers.values import constant_of

MAX_DEGREE = 12
MAX_BITS = 1 << 13  # of a value at a point
_SETTINGS = 3  # of the other variables, at which the solutions in one are compared
_COMPLEX = frozenset({"i"})
_RATIONAL = frozenset({"num", "neg", "add", "mul", "div"})
_SMALL = 1e-30

Polynomial = list[Fraction]  # coefficients from the constant on, the last one not 0


class _NotRational(ArithmeticError):
    """Not a rational function of the variable, or of too high a degree."""


def difference(sides: tuple[str, str]) -> Tree:
    """Left less right side; NotExpression where one is no formula."""
    return ("add", parse_expression(sides[0]), ("neg", parse_expression(sides[1])))


def same_equation(a: tuple[str, str], b: tuple[str, str]) -> bool:
    """Whether two equations, each as left and right side, are shown to have the same solutions."""
    try:
        first, second = difference(a), difference(b)
    except NotExpression:
        return False
    if _proportional(first, second):
        return True
    if contains(first, _COMPLEX) or contains(second, _COMPLEX):
        return False
    first, second = _named_constants(first), _named_constants(second)
    names = sorted(variables(first) | variables(second))
    if len(names) > MAX_VARIABLES:
        return False
    try:
        verdicts = [_same_solutions(first, second, name, [n for n in names if n != name]) for name in names]
    except (_NotRational, OutsideDomain):
        return False
    return False not in verdicts and True in verdicts


def proportional(a: tuple[str, str], b: tuple[str, str], positive: bool = False) -> bool:
    """Whether `a[0] - a[1]` is a constant times `b[0] - b[1]`.

    `positive` asks for a positive constant, as two forms of one inequality need.
    """
    try:
        return _proportional(difference(a), difference(b), positive)
    except NotExpression:
        return False


def _proportional(first: Tree, second: Tree, positive: bool = False) -> bool:
    names = variables(first)
    if names != variables(second) or not names or len(names) > MAX_VARIABLES:
        return False
    in_complex = contains(first, _COMPLEX) or contains(second, _COMPLEX)
    for environment in sample_points(first, second):
        try:
            x, y = (Evaluator(environment, in_complex, FIRST_BITS).evaluate(tree) for tree in (first, second))
        except OutsideDomain:
            continue
        if _small(x) or _small(y):
            continue
        if positive and (in_complex or (x > 0) != (y > 0)):
            return False
        # first * y - second * x vanishes everywhere where the ratio x / y is that of the whole formulas.
        here: dict[str, Tree] = {name: ("num", value) for name, value in environment.items()}
        return (
            same_trees(("mul", first, replaced(second, here)), ("mul", second, replaced(first, here))) is True
        )
    return False


def _small(value: Any) -> bool:
    return bool(value == 0 if isinstance(value, Fraction) else abs(value) < _SMALL)


# Solutions in one variable


def _named_constants(tree: Tree) -> Tree:
    r"""The tree with a name for each irrational constant: `x = a/y` and `xy = a` agree for any number a."""
    if tree[0] not in _RATIONAL and not variables(tree):
        value = constant_of(tree)
        if isinstance(value, Fraction):
            return ("num", value)
        return tree if value is None else ("var", f"constant {tree!r}")
    return (tree[0], *(_named_constants(child) if isinstance(child, tuple) else child for child in tree[1:]))


def _same_solutions(first: Tree, second: Tree, name: str, others: list[str]) -> bool | None:
    """Whether both have the same solutions in one variable at values of the others; None where none has."""
    found = False
    for environment in _settings(others):
        zeros = [_zeros(tree, name, environment) for tree in (first, second)]
        if zeros[0] != zeros[1]:
            return False
        found |= len(zeros[0]) > 1
    return found or None


def _settings(names: list[str]) -> Iterator[dict[str, int]]:
    rng = random.Random(len(names))
    for _ in range(_SETTINGS if names else 1):
        yield {name: rng.randint(-500, 500) * 2 + 1 for name in names}


def _zeros(tree: Tree, name: str, environment: dict[str, int]) -> Polynomial:
    """The polynomial with the solutions in one variable, each once; empty where every number is one."""
    degree = max(_degrees(tree, name))
    if degree > MAX_DEGREE:
        raise _NotRational("degree")
    pairs = [_quotient(tree, {**environment, name: node}) for node in range(degree + 1)]
    top, bottom = (_interpolated([pair[side] for pair in pairs]) for side in (0, 1))
    if not bottom:
        raise _NotRational("division by zero")
    solutions = _square_free(top)
    common = _common(solutions, bottom) if solutions else [Fraction(1)]
    return _monic(_divided(solutions, common)[0])  # without the zeros of a denominator


def _degrees(tree: Tree, name: str) -> tuple[int, int]:
    """Bounds for the degrees in one variable of the two parts of a quotient."""
    kind = tree[0]
    if kind in ("num", "var"):
        return int(kind == "var" and tree[1] == name), 0
    if kind == "neg":
        return _degrees(tree[1], name)
    if kind == "pow":
        n = _whole_exponent(tree)
        top, bottom = (degree * abs(n) for degree in _degrees(tree[1], name))
        return (top, bottom) if n > 0 else (bottom, top)
    if kind not in ("add", "mul", "div"):
        raise _NotRational(kind)
    (a, b), (c, d) = (_degrees(child, name) for child in tree[1:])
    if kind == "add":
        return max(a + d, c + b), b + d
    return (a + c, b + d) if kind == "mul" else (a + d, b + c)


def _whole_exponent(tree: Tree) -> int:
    exponent = constant_of(tree[2])
    if not isinstance(exponent, Fraction) or exponent.denominator != 1 or abs(exponent) > MAX_DEGREE:
        raise _NotRational("power")
    return exponent.numerator


def _quotient(tree: Tree, environment: dict[str, int]) -> tuple[int, int]:
    """Value at a point as a quotient that is not reduced: both parts are polynomials in every variable."""
    kind = tree[0]
    spend(1)
    if kind == "num":
        return tree[1].numerator, tree[1].denominator
    if kind == "var":
        return environment[tree[1]], 1
    if kind == "neg":
        top, bottom = _quotient(tree[1], environment)
        return -top, bottom
    if kind == "pow":
        exponent = _whole_exponent(tree)
        top, bottom = _quotient(tree[1], environment)
        n = abs(exponent)
        return _bounded(top**n, bottom**n) if exponent > 0 else _bounded(bottom**n, top**n)
    (a, b), (c, d) = (_quotient(child, environment) for child in tree[1:])
    if kind == "add":
        return _bounded(a * d + c * b, b * d)
    return _bounded(a * c, b * d) if kind == "mul" else _bounded(a * d, b * c)


def _bounded(top: int, bottom: int) -> tuple[int, int]:
    if max(top.bit_length(), bottom.bit_length()) > MAX_BITS:
        raise _NotRational("too large")
    return top, bottom


def _interpolated(values: list[int]) -> Polynomial:
    """Coefficients of the polynomial of smallest degree with these values at 0, 1, 2 ..."""
    steps = []  # Newton's forward differences
    while values:
        steps.append(values[0])
        values = [after - before for before, after in itertools.pairwise(values)]
    result: Polynomial = []
    for k in range(len(steps) - 1, -1, -1):  # result * (x - k) / (k + 1) + step
        shifted = [Fraction(0), *result]
        for place, coefficient in enumerate(result):
            shifted[place] -= k * coefficient
        result = _trimmed([coefficient / (k + 1) for coefficient in shifted] if result else [])
        result = [result[0] + steps[k], *result[1:]] if result else [Fraction(steps[k])] if steps[k] else []
    return result


def _trimmed(polynomial: Polynomial) -> Polynomial:
    while polynomial and polynomial[-1] == 0:
        polynomial = polynomial[:-1]
    return polynomial


def _monic(polynomial: Polynomial) -> Polynomial:
    return [coefficient / polynomial[-1] for coefficient in polynomial]


def _square_free(polynomial: Polynomial) -> Polynomial:
    """The polynomial with the same solutions, each once; empty for 0."""
    slope = [k * coefficient for k, coefficient in enumerate(polynomial)][1:]
    return _divided(polynomial, _common(polynomial, slope))[0] if polynomial else []


def _common(a: Polynomial, b: Polynomial) -> Polynomial:
    """The greatest common divisor."""
    while b:
        a, b = b, _divided(a, b)[1]
    return a


def _divided(a: Polynomial, b: Polynomial) -> tuple[Polynomial, Polynomial]:
    """Quotient and remainder."""
    quotient = [Fraction(0)] * max(1, len(a) - len(b) + 1)
    rest = list(a)
    while len(rest) >= len(b):
        factor, shift = rest[-1] / b[-1], len(rest) - len(b)
        spend(len(b) * (1 + factor.denominator.bit_length() // 64))
        quotient[shift] = factor
        rest = _trimmed([c - (factor * b[k - shift] if k >= shift else 0) for k, c in enumerate(rest)][:-1])
    return _trimmed(quotient), rest
