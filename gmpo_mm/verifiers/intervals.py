"""Sets of real numbers as unions of intervals: from interval notation, from inequalities in one variable."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from gmpo_mm.verifiers.expressions import NotExpression, parse_expression
from gmpo_mm.verifiers.identity import PRECISION, constant_of, constant_value, same_trees
from gmpo_mm.verifiers.trees import Tree, replaced, variables

_TOLERANCE = Fraction(1, 2 ** (2 * PRECISION - 40))  # of the values that `constant_of` gives
INFINITY = math.inf
_INFINITE = re.compile(r"(\+|-)? ?\\infty")
_FUNCTION_VALUE = re.compile(r"[A-Za-z] ?\( ?[a-z] ?\)")
_MIRRORED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "!=": "!=", "=": "="}


@dataclass(frozen=True)
class Interval:
    """From `low` to `high`, each end in it or not."""

    low: Any
    low_in: bool
    high: Any
    high_in: bool


RealSet = tuple[Interval, ...]  # in order, without overlap
EVERYTHING: RealSet = (Interval(-INFINITY, False, INFINITY, False),)


def endpoint(text: str) -> Any | None:
    """Value of an interval's end; None where it is not a constant."""
    match = _INFINITE.fullmatch(text.strip())
    if match:
        return -INFINITY if match.group(1) == "-" else INFINITY
    return _rational(constant_value(text.strip().replace("°", "")))


def _rational(value: Any) -> Fraction | None:
    """An irrational value as the rational number that its digits are."""
    if value is None or isinstance(value, Fraction):
        return value
    sign, mantissa, exponent, _ = value._mpf_
    return Fraction(-mantissa if sign else mantissa) * Fraction(2) ** exponent


def interval(opening: str, low_text: str, high_text: str, closing: str) -> RealSet | None:
    """Interval notation; None where an end is no constant or the ends are out of order."""
    low, high = endpoint(low_text), endpoint(high_text)
    if low is None or high is None or not low < high:
        return None
    if (opening == "[" and low == -INFINITY) or (closing == "]" and high == INFINITY):
        return None
    return (Interval(low, opening == "[", high, closing == "]"),)


def points(texts: Sequence[str]) -> RealSet | None:
    """A finite set of constants."""
    values = [endpoint(text) for text in texts]
    if any(value is None or abs(value) == INFINITY for value in values):
        return None
    return union([(Interval(value, True, value, True),) for value in values])


def _same(a: Any, b: Any) -> bool:
    """Exactly the same where both are rational, else to the digits that are known."""
    if a == b or INFINITY in (abs(a), abs(b)):
        return bool(a == b)
    return (_is_irrational(a) or _is_irrational(b)) and abs(a - b) <= max(abs(a), abs(b)) * _TOLERANCE


def _is_irrational(value: Fraction) -> bool:
    """Whether an end stands for an irrational number, by so many binary digits that no written number has them."""
    return value.denominator.bit_length() > PRECISION


def union(sets: Sequence[RealSet]) -> RealSet:
    """Union, with intervals that touch joined."""
    pieces = sorted((piece for one in sets for piece in one), key=lambda p: (p.low, not p.low_in))
    merged: list[Interval] = []
    for piece in pieces:
        last = merged[-1] if merged else None
        touches = last is not None and (
            (_same(piece.low, last.high) and (piece.low_in or last.high_in))
            or (piece.low < last.high and not _same(piece.low, last.high))
        )
        if last is None or not touches:
            merged.append(piece)
            continue
        low_in = last.low_in or (piece.low_in and _same(piece.low, last.low))
        if _same(piece.high, last.high):
            merged[-1] = Interval(last.low, low_in, last.high, last.high_in or piece.high_in)
        elif piece.high > last.high:
            merged[-1] = Interval(last.low, low_in, piece.high, piece.high_in)
        else:
            merged[-1] = Interval(last.low, low_in, last.high, last.high_in)
    return tuple(merged)


def complement(one: RealSet) -> RealSet:
    """All other real numbers."""
    result, low, low_in = [], -INFINITY, False
    for piece in one:
        if low < piece.low or (_same(low, piece.low) and low_in and not piece.low_in):
            result.append(Interval(low, low_in, piece.low, not piece.low_in))
        low, low_in = piece.high, not piece.high_in
    if low < INFINITY:
        result.append(Interval(low, low_in, INFINITY, False))
    return tuple(piece for piece in result if piece.low != INFINITY)


def intersection(a: RealSet, b: RealSet) -> RealSet:
    """What both hold."""
    return complement(union([complement(a), complement(b)]))


def same_set(a: RealSet, b: RealSet) -> bool:
    """Same intervals with the same ends."""
    return len(a) == len(b) and all(
        _same(x.low, y.low) and _same(x.high, y.high) and (x.low_in, x.high_in) == (y.low_in, y.high_in)
        for x, y in zip(a, b, strict=True)
    )


def from_inequality(sides: Sequence[str], operators: Sequence[str]) -> tuple[RealSet, str] | None:
    """Solutions of a chain of linear inequalities in one variable, and the variable; None for anything else."""
    result, name = EVERYTHING, None
    for left, operator, right in zip(sides[:-1], operators, sides[1:], strict=True):
        if operator == "=" and len(operators) > 1:
            return None
        solved = _solve(left, operator, right)
        if solved is None or (name is not None and solved[1] != name):
            return None
        result, name = intersection(result, solved[0]), solved[1]
    return None if name is None else (result, name)


def _solve(left: str, operator: str, right: str) -> tuple[RealSet, str] | None:
    if left.strip().startswith("|") and left.strip().endswith("|") and left.count("|") == 2:
        return _solve_absolute(left.strip()[1:-1], operator, right)
    if right.strip().startswith("|") and right.strip().endswith("|") and right.count("|") == 2:
        return _solve_absolute(right.strip()[1:-1], _MIRRORED[operator], left)
    for infinite, other, facing in ((left, right, operator), (right, left, _MIRRORED[operator])):
        match = _INFINITE.fullmatch(infinite.strip())
        if match and facing in ("<", "<=", ">", ">="):
            trivial = (match.group(1) == "-") == (facing in ("<", "<="))
            name = _only_variable(other)
            return (EVERYTHING if trivial else (), name) if name else None
    line = _line(left, right)
    if line is None:
        return None
    slope, offset, name = line
    bound = -offset / slope
    if slope < 0:
        operator = _MIRRORED[operator]
    return _half_line(operator, bound), name


def _half_line(operator: str, bound: Any) -> RealSet:
    below = (Interval(-INFINITY, False, bound, operator == "<="),)
    above = (Interval(bound, operator == ">=", INFINITY, False),)
    here = (Interval(bound, True, bound, True),)
    return {"<": below, "<=": below, ">": above, ">=": above, "=": here, "!=": complement(here)}[operator]


def _solve_absolute(inside: str, operator: str, bound_text: str) -> tuple[RealSet, str] | None:
    bound = endpoint(bound_text)
    if bound is None or not 0 < bound < INFINITY:
        return None
    minus = f"-({bound_text})"
    if operator in ("<", "<="):
        return from_inequality([minus, inside, bound_text], [operator, operator])
    lower, upper = _solve(inside, _MIRRORED[operator], minus), _solve(inside, operator, bound_text)
    if operator in ("=", "!=") or lower is None or upper is None:
        return None
    return union([lower[0], upper[0]]), upper[1]


def _parsed(text: str) -> Tree | None:
    if _FUNCTION_VALUE.fullmatch(text.strip()):
        return ("var", text.replace(" ", ""))
    try:
        return parse_expression(text.replace("°", ""))
    except NotExpression:
        return None


def _only_variable(text: str) -> str | None:
    tree = _parsed(text)
    return tree[1] if tree is not None and tree[0] == "var" else None


def _line(left: str, right: str) -> tuple[Any, Any, str] | None:
    """Slope and offset of `left - right` where that is linear in its one variable."""
    first, second = _parsed(left), _parsed(right)
    if first is None or second is None:
        return None
    difference: Tree = ("add", first, ("neg", second))
    names = variables(difference)
    if len(names) != 1:
        return None
    (name,) = names
    at_0, at_1 = (replaced(difference, {name: ("num", Fraction(x))}) for x in (0, 1))
    offset, slope = (_rational(constant_of(tree)) for tree in (at_0, ("add", at_1, ("neg", at_0))))
    if offset is None or slope is None or slope == 0:
        return None
    straight = same_trees(difference, ("add", at_0, ("mul", ("add", at_1, ("neg", at_0)), ("var", name))))
    return (slope, offset, name) if straight else None
