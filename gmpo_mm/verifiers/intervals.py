"""Sets of real numbers, from interval notation, from linear inequalities in one variable, and what joins such sets."""

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cmp_to_key, lru_cache

from gmpo_mm.verifiers.arithmetic import NotArithmetic, Real, evaluate, real
from gmpo_mm.verifiers.expressions import NotExpression, parse_expression
from gmpo_mm.verifiers.identity import same_trees
from gmpo_mm.verifiers.structure import Node
from gmpo_mm.verifiers.trees import Tree, contains, replaced, variables

_COMPLEX = frozenset({"i"})
_INFINITE = re.compile(r"([+-]?) ?\\infty")
_FUNCTION_VALUE = re.compile(r"[A-Za-z] ?\( ?[a-z] ?\)")
_ABSOLUTE = re.compile(r"\|([^|]*)\|")
MIRRORED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}

Cut = tuple[Real | None, int]  # right below (-1) or above (1) a number; an infinity (None) by its sign
RealSet = tuple[
    Cut, ...
]  # from the lowest on: a number is in the set where an odd number of cuts is below it
MINUS_INFINITY, INFINITY = (None, -1), (None, 1)
EVERYTHING: RealSet = (MINUS_INFINITY, INFINITY)


def _order(a: Cut, b: Cut) -> int:
    """Negative where the first is lower, 0 where both are the same."""
    if a[0] is None or b[0] is None:
        return a[1] * (a[0] is None) - b[1] * (b[0] is None)
    return a[1] - b[1] if a[0].equals(b[0]) else -1 if a[0].less(b[0]) else 1


def combined(sets: Sequence[RealSet], keep: Callable[[list[bool]], bool]) -> RealSet:
    """The numbers that are kept by which of the sets they are in."""
    inside = [False] * len(sets)
    result: list[Cut] = []
    order = cmp_to_key(_order)
    cuts = [(cut, which) for which, one in enumerate(sets) for cut in one]
    for cut, which in sorted(cuts, key=lambda entry: order(entry[0])):
        inside[which] = not inside[which]
        if keep(inside) != len(result) % 2:
            if result and _order(cut, result[-1]) == 0:
                result.pop()
            else:
                result.append(cut)
    return tuple(result)


def _end(text: str, side: int) -> Cut | None:
    if match := _INFINITE.fullmatch(text.strip()):
        return MINUS_INFINITY if match.group(1) == "-" else INFINITY
    try:
        return evaluate(text.strip().replace("°", "")), side
    except NotArithmetic:
        return None


def interval(opening: str, low_text: str, high_text: str, closing: str) -> RealSet | None:
    """Interval notation; `[a, a]` is one number. None where an end is no constant or the order is wrong."""
    low, high = _end(low_text, -1 if opening == "[" else 1), _end(high_text, 1 if closing == "]" else -1)
    if low is None or high is None or _order(low, high) >= 0:
        return None
    closed = (opening == "[" and low[0] is None) or (closing == "]" and high[0] is None)
    return None if closed else (low, high)


def same_reals(a: Node, b: Node) -> bool | None:
    """Whether two structures are the same set of reals; None unless the first clearly is one and both can be read so."""
    if not _clearly_a_set(a) or (first := _real_set(a)) is None or (second := _real_set(b)) is None:
        return None
    named_alike = first[1] is None or second[1] is None or first[1] == second[1]
    return named_alike and same_set(first[0], second[0])


def same_set(a: RealSet, b: RealSet) -> bool:
    """The same numbers."""
    return len(a) == len(b) and all(_order(x, y) == 0 for x, y in zip(a, b, strict=True))


def _clearly_a_set(node: Node) -> bool:
    if node.kind == "special":
        return node.connector in ("reals", "empty")
    if node.kind == "sequence":
        unlike_a_point = node.brackets != "()" or any("\\infty" in item.text for item in node.items)
        return len(node.items) == 2 and unlike_a_point
    if node.kind == "list":
        return all(item.kind == "relation" and _clearly_a_set(item) for item in node.items)
    if node.kind == "relation":
        return any(operator != "=" for operator in node.operators)
    return node.kind in ("union", "intersection", "without", "member")


@lru_cache(maxsize=1024)
def _real_set(node: Node) -> tuple[RealSet, str | None] | None:
    """The numbers and the variable that is named, if any; None where it is no set of reals."""
    items, operators = node.items, node.operators
    found: list[tuple[RealSet, str | None] | None]
    keep: Callable[[list[bool]], bool] = all
    if node.kind == "special":
        return {"reals": (EVERYTHING, None), "empty": ((), None)}.get(node.connector)
    if node.kind == "sequence" and len(items) == 2:
        ends = interval(node.brackets[0], items[0].text, items[1].text, node.brackets[1])
        return None if ends is None else (ends, None)
    if node.kind == "set":
        keep = any
        points = [interval("[", item.text, item.text, "]") for item in items]
        found = [None if point is None else (point, None) for point in points]
    elif node.kind == "relation":
        if "\\approx" in operators or ("=" in operators and len(operators) > 1):
            return None
        texts = [item.text for item in items]
        found = [_solve(*link) for link in zip(texts[:-1], operators, texts[1:], strict=True)]
    elif node.kind == "member":
        found = [_real_set(items[1]), (EVERYTHING, items[0].text.replace(" ", ""))]
    elif node.kind in ("union", "intersection", "without", "list"):
        if node.kind == "without":
            keep = _in_the_first_alone
        elif node.kind == "union" or node.connector == "or":
            keep = any
        elif node.kind == "list" and any(item.kind != "relation" for item in items):
            return None
        found = [_real_set(item) for item in items]
    else:
        return None
    parts = [part for part in found if part is not None]
    names = {name for _, name in parts if name is not None}
    if not parts or len(parts) < len(found) or len(names) > 1:
        return None
    return combined([numbers for numbers, _ in parts], keep), next(iter(names), None)


def _in_the_first_alone(inside: list[bool]) -> bool:
    return inside[0] and not inside[1]


# Inequalities


def _solve(left: str, operator: str, right: str) -> tuple[RealSet, str] | None:
    """Solutions where that is linear in its one variable or such an absolute value, and the variable."""
    for one, other, facing in ((left.strip(), right, operator), (right.strip(), left, MIRRORED[operator])):
        if match := _ABSOLUTE.fullmatch(one):
            return _solve_absolute(match.group(1), facing, other)
        match = _INFINITE.fullmatch(one)
        if match and facing not in ("=", "!="):
            tree = _parsed(other)
            trivial = (match.group(1) == "-") == (facing in ("<", "<="))
            return (EVERYTHING if trivial else (), tree[1]) if tree is not None and tree[0] == "var" else None
    return _solve_linear(left, operator, right)


def _solve_absolute(inside: str, operator: str, bound: str) -> tuple[RealSet, str] | None:
    end = _end(bound, 1)
    if end is None or end[0] is None or operator in ("=", "!="):
        return None
    above, below = _solve(inside, operator, bound), _solve(inside, MIRRORED[operator], f"-({bound})")
    if above is None or below is None:
        return None
    return combined([above[0], below[0]], all if operator in ("<", "<=") else any), above[1]


def _solve_linear(left: str, operator: str, right: str) -> tuple[RealSet, str] | None:
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
    if not sign or not same_trees(difference, ("add", at_0, ("mul", slope, ("var", name)))):
        return None
    below, above = (zero, -1), (zero, 1)
    solutions: dict[str, RealSet] = {
        "<": (MINUS_INFINITY, below),
        "<=": (MINUS_INFINITY, above),
        "=": (below, above),
        "!=": (MINUS_INFINITY, below, above, INFINITY),
        ">": (above, INFINITY),
        ">=": (below, INFINITY),
    }
    return solutions[operator if sign > 0 else MIRRORED[operator]], name


def _parsed(text: str) -> Tree | None:
    if _FUNCTION_VALUE.fullmatch(text.strip()):
        return ("var", text.replace(" ", ""))
    try:
        return parse_expression(text.replace("°", ""))
    except NotExpression:
        return None
