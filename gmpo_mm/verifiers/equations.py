"""Do two equations or inequalities say the same? By a constant factor between them, or by their solutions in every variable."""

import random
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from gmpo_mm.verifiers.evaluation import Environment, Evaluator, OutsideDomain
from gmpo_mm.verifiers.expressions import NotExpression, parse_expression
from gmpo_mm.verifiers.identity import MAX_VARIABLES, PRECISION, same_trees, sample_points
from gmpo_mm.verifiers.trees import Tree, contains, replaced, variables

MAX_DEGREE = 8
_ENOUGH_POINTS = 4
_SETTINGS = 3  # of the other variables, at which the solutions in one are compared
_COMPLEX = frozenset({"i"})

Polynomial = list[Fraction]  # coefficients from the constant on, the last one not 0


def difference(sides: tuple[str, str]) -> Tree:
    """Left less right side; NotExpression where one is no formula."""
    return ("add", parse_expression(sides[0]), ("neg", parse_expression(sides[1])))


def same_equation(a: tuple[str, str], b: tuple[str, str]) -> bool:
    """Whether two equations, each as left and right side, have the same solutions, as far as that can be shown here."""
    try:
        first, second = difference(a), difference(b)
    except NotExpression:
        return False
    if proportional(a, b):
        return True
    names = sorted(variables(first) | variables(second))
    if not names or len(names) > MAX_VARIABLES or contains(first, _COMPLEX) or contains(second, _COMPLEX):
        return False
    verdicts = [_same_solutions(first, second, name, [other for other in names if other != name]) for name in names]
    return False not in verdicts and True in verdicts


def proportional(a: tuple[str, str], b: tuple[str, str], positive: bool = False) -> bool:
    """Whether `a[0] - a[1]` is a constant times `b[0] - b[1]`; `positive`: a positive one, as an inequality needs."""
    try:
        first, second = difference(a), difference(b)
    except NotExpression:
        return False
    names = variables(first)
    if names != variables(second) or not names or len(names) > MAX_VARIABLES:
        return False
    in_complex = contains(first, _COMPLEX) or contains(second, _COMPLEX)
    for environment in sample_points(first, second):
        try:
            x = Evaluator(environment, in_complex, PRECISION).evaluate(first)
            y = Evaluator(environment, in_complex, PRECISION).evaluate(second)
        except OutsideDomain:
            continue
        if _small(x) or _small(y):
            continue
        # first * y - second * x vanishes everywhere where the ratio x / y is that of the whole formulas.
        there = [replaced(tree, {name: ("num", value) for name, value in environment.items()}) for tree in (first, second)]
        if in_complex:
            return False
        same = same_trees(("mul", first, there[1]), ("mul", second, there[0]))
        return bool(same) and (not positive or (x > 0) == (y > 0))
    return False


def _small(value: Any) -> bool:
    return bool(value == 0 if isinstance(value, Fraction) else abs(value) < 1e-30)


# Solutions in one variable


def _same_solutions(first: Tree, second: Tree, name: str, others: list[str]) -> bool | None:
    """Whether both have the same solutions in one variable at several values of the others; None where one is no polynomial."""
    found = False
    for environment in _settings(others):
        polynomials = [_polynomial(tree, name, environment) for tree in (first, second)]
        if polynomials[0] is None or polynomials[1] is None:
            return None
        free = [_square_free(polynomial) for polynomial in polynomials if polynomial is not None]
        if free[0] != free[1]:
            return False
        found |= len(free[0]) > 1
    return found or None


def _settings(names: list[str]) -> Iterator[Environment]:
    rng = random.Random(len(names))
    for _ in range(_SETTINGS if names else 1):
        yield {name: Fraction(rng.randint(-40, 40) * 2 + 1, rng.choice([3, 7, 11, 13])) for name in names}


def _polynomial(tree: Tree, name: str, environment: Environment) -> Polynomial | None:
    """Coefficients in one variable, by interpolation at more points than the degree; None where it is no such polynomial."""
    nodes = [Fraction(k - MAX_DEGREE // 2, 3) for k in range(MAX_DEGREE + 4)]
    values = []
    for node in nodes:
        try:
            value = Evaluator({**environment, name: node}, False, PRECISION).evaluate(tree)
        except OutsideDomain:
            return None
        if not isinstance(value, Fraction):
            return None
        values.append(value)
    for step in range(1, len(nodes)):  # Newton's divided differences
        for k in range(len(nodes) - 1, step - 1, -1):
            values[k] = (values[k] - values[k - 1]) / (nodes[k] - nodes[k - step])
    if any(values[MAX_DEGREE + 1 :]):
        return None
    result: Polynomial = []
    for value, node in zip(values[::-1], nodes[::-1], strict=True):  # result * (x - node) + value
        shifted = [Fraction(0), *result]
        for k, coefficient in enumerate(result):
            shifted[k] -= node * coefficient
        shifted[0] += value
        result = shifted
    return _trimmed(result)


def _trimmed(polynomial: Polynomial) -> Polynomial:
    while polynomial and polynomial[-1] == 0:
        polynomial = polynomial[:-1]
    return polynomial


def _square_free(polynomial: Polynomial) -> Polynomial:
    """The monic polynomial with the same solutions, each once; empty for 0."""
    if len(polynomial) < 2:
        return [Fraction(1)] if polynomial else []
    slope = [k * coefficient for k, coefficient in enumerate(polynomial)][1:]
    a, b = polynomial, slope
    while b:
        a, b = b, _divided(a, b)[1]
    quotient = _divided(polynomial, a)[0]
    return [coefficient / quotient[-1] for coefficient in quotient]


def _divided(a: Polynomial, b: Polynomial) -> tuple[Polynomial, Polynomial]:
    """Quotient and remainder."""
    quotient = [Fraction(0)] * max(1, len(a) - len(b) + 1)
    rest = list(a)
    while len(rest) >= len(b):
        factor, shift = rest[-1] / b[-1], len(rest) - len(b)
        quotient[shift] = factor
        rest = _trimmed([c - (factor * b[k - shift] if k >= shift else 0) for k, c in enumerate(rest)][:-1])
    return quotient, rest
