"""Sets of real numbers as unions of intervals: from interval notation, from inequalities in one variable."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cmp_to_key

from gmpo_mm.verifiers.arithmetic import NotArithmetic, Real, evaluate, real
from gmpo_mm.verifiers.expressions import NotExpression, parse_expression
from gmpo_mm.verifiers.identity import same_trees
from gmpo_mm.verifiers.trees import Tree, contains, replaced, variables

_COMPLEX = frozenset({"i"})
_INFINITE = re.compile(r"(\+|-)? ?\\infty")
_FUNCTION_VALUE = re.compile(r"[A-Za-z] ?\( ?[a-z] ?\)")
_MIRRORED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "!=": "!=", "=": "="}


@dataclass(frozen=True)
class End:
    """An end of an interval: a real number, or an infinity by its sign."""

    value: Real | None
    infinite: int = 0

    def same(self, other: "End") -> bool:
        """Exactly the same."""
        if self.value is None or other.value is None:
            return self.infinite == other.infinite and self.value is other.value
        return self.value.equals(other.value)

    def less(self, other: "End") -> bool:
        if self.value is None or other.value is None:
            return self.infinite < other.infinite
        return self.value.less(other.value)


INFINITY, MINUS_INFINITY = End(None, 1), End(None, -1)


@dataclass(frozen=True)
class Interval:
    """From `low` to `high`, each end in it or not."""

    low: End
    low_in: bool
    high: End
    high_in: bool


RealSet = tuple[Interval, ...]  # in order, without overlap
EVERYTHING: RealSet = (Interval(MINUS_INFINITY, False, INFINITY, False),)


def endpoint(text: str) -> End | None:
    """An interval's end; None where it is not a constant."""
    match = _INFINITE.fullmatch(text.strip())
    if match:
        return MINUS_INFINITY if match.group(1) == "-" else INFINITY
    try:
        return End(evaluate(text.strip().replace("°", "")))
    except NotArithmetic:
        return None


def interval(opening: str, low_text: str, high_text: str, closing: str) -> RealSet | None:
    """Interval notation; `[a, a]` is one number. None where an end is no constant or the order is wrong."""
    low, high = endpoint(low_text), endpoint(high_text)
    low_in, high_in = opening == "[", closing == "]"
    if low is None or high is None or (low_in and low.value is None) or (high_in and high.value is None):
        return None
    if not low.less(high) and not (low_in and high_in and low.same(high)):
        return None
    return (Interval(low, low_in, high, high_in),)


def points(texts: Sequence[str]) -> RealSet | None:
    """A finite set of constants."""
    ends = [endpoint(text) for text in texts]
    known = [end for end in ends if end is not None and end.value is not None]
    return union([_point(end) for end in known]) if len(known) == len(ends) else None


def _point(end: End) -> RealSet:
    return (Interval(end, True, end, True),)


def _order(a: Interval, b: Interval) -> int:
    if a.low.same(b.low):
        return int(b.low_in) - int(a.low_in)
    return -1 if a.low.less(b.low) else 1


def union(sets: Sequence[RealSet]) -> RealSet:
    """Union, with intervals that touch joined."""
    merged: list[Interval] = []
    for piece in sorted((piece for one in sets for piece in one), key=cmp_to_key(_order)):
        last = merged[-1] if merged else None
        meet = last is not None and piece.low.same(last.high)
        if last is None or not ((piece.low_in or last.high_in) if meet else piece.low.less(last.high)):
            merged.append(piece)
        elif piece.high.same(last.high):
            merged[-1] = Interval(last.low, last.low_in, last.high, last.high_in or piece.high_in)
        elif last.high.less(piece.high):
            merged[-1] = Interval(last.low, last.low_in, piece.high, piece.high_in)
    return tuple(merged)


def complement(one: RealSet) -> RealSet:
    """All other real numbers."""
    result, low, low_in = [], MINUS_INFINITY, False
    for piece in one:
        if low.less(piece.low) or (low.same(piece.low) and low_in and not piece.low_in):
            result.append(Interval(low, low_in, piece.low, not piece.low_in))
        low, low_in = piece.high, not piece.high_in
    if low.less(INFINITY):
        result.append(Interval(low, low_in, INFINITY, False))
    return tuple(result)


def intersection(a: RealSet, b: RealSet) -> RealSet:
    """What both hold."""
    return complement(union([complement(a), complement(b)]))


def same_set(a: RealSet, b: RealSet) -> bool:
    """Same intervals with the same ends."""
    return len(a) == len(b) and all(
        x.low.same(y.low) and x.high.same(y.high) and (x.low_in, x.high_in) == (y.low_in, y.high_in)
        for x, y in zip(a, b, strict=True)
    )


def from_inequality(sides: Sequence[str], operators: Sequence[str]) -> tuple[RealSet, str] | None:
    """Solutions of a chain of linear inequalities in one variable, and its name; None for anything else."""
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
    slope, bound, name = line
    return _half_line(operator if slope > 0 else _MIRRORED[operator], End(bound)), name


def _half_line(operator: str, bound: End) -> RealSet:
    below = (Interval(MINUS_INFINITY, False, bound, operator == "<="),)
    above = (Interval(bound, operator == ">=", INFINITY, False),)
    here = _point(bound)
    return {"<": below, "<=": below, ">": above, ">=": above, "=": here, "!=": complement(here)}[operator]


def _solve_absolute(inside: str, operator: str, bound_text: str) -> tuple[RealSet, str] | None:
    bound = endpoint(bound_text)
    if bound is None or bound.value is None or operator in ("=", "!="):
        return None
    minus = f"-({bound_text})"
    if operator in ("<", "<="):
        return from_inequality([minus, inside, bound_text], [operator, operator])
    lower, upper = _solve(inside, _MIRRORED[operator], minus), _solve(inside, operator, bound_text)
    return None if lower is None or upper is None else (union([lower[0], upper[0]]), upper[1])


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


def _line(left: str, right: str) -> tuple[int, Real, str] | None:
    """Sign of the slope, and zero, of `left - right` where that is linear in its one variable."""
    first, second = _parsed(left), _parsed(right)
    if first is None or second is None:
        return None
    difference: Tree = ("add", first, ("neg", second))
    names = variables(difference)
    if len(names) != 1 or contains(difference, _COMPLEX):
        return None
    (name,) = names
    at_0, at_1 = (replaced(difference, {name: ("num", Fraction(x))}) for x in (0, 1))
    slope: Tree = ("add", at_1, ("neg", at_0))
    try:
        sign, zero = real(slope).sign(), real(("neg", ("div", at_0, slope)))
    except NotArithmetic:
        return None
    straight = same_trees(difference, ("add", at_0, ("mul", slope, ("var", name))))
    return (sign, zero, name) if straight and sign else None
