"""Sets of real numbers: intervals, solutions of linear inequalities in one variable, and their unions."""

import contextlib
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cmp_to_key, lru_cache

from gmpo_mm.verifiers.expressions import NotExpression, parse_expression
from gmpo_mm.verifiers.identity import same_trees
from gmpo_mm.verifiers.quantities import Real, evaluate, real
from gmpo_mm.verifiers.structure import Node
from gmpo_mm.verifiers.trees import Tree, contains, replaced, variables

_COMPLEX = frozenset({"i"})
_INFINITE = re.compile(r"([+-]?) ?\\infty")
_FUNCTION_VALUE = re.compile(r"[A-Za-z] ?\( ?[a-z] ?\)")
_ABSOLUTE = re.compile(r"\|([^|]*)\|")
MIRRORED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}

Cut = tuple[Real | None, int]  # right below (-1) or above (1) a number; an infinity (None) by its sign
RealSet = tuple[Cut, ...]  # from the lowest on: a number is in it where an odd number of cuts is below
_Named = tuple[RealSet, str]  # with the variable that is said to be in it, "" for none
MINUS_INFINITY, INFINITY = (None, -1), (None, 1)
EVERYTHING: RealSet = (MINUS_INFINITY, INFINITY)


def _order(a: Cut, b: Cut) -> int:
    """Negative where the first is lower, 0 where both are the same."""
    if a[0] is None or b[0] is None:
        return a[1] * (a[0] is None) - b[1] * (b[0] is None)
    return a[1] - b[1] if a[0].equals(b[0]) else real(("add", a[0].tree, ("neg", b[0].tree))).sign()


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


def _end(text: str, side: int) -> Cut:
    if match := _INFINITE.fullmatch(text.strip()):
        return MINUS_INFINITY if match[1] == "-" else INFINITY
    return evaluate(text.strip().replace("°", "")), side


def interval(opening: str, low_text: str, high_text: str, closing: str) -> RealSet | None:
    """Interval notation; `[a, a]` is one number. None where an end is no constant or the order is wrong."""
    try:
        low, high = _end(low_text, -1 if opening == "[" else 1), _end(high_text, 1 if closing == "]" else -1)
    except NotExpression:
        return None
    closed = (opening == "[" and low[0] is None) or (closing == "]" and high[0] is None)
    return None if closed or _order(low, high) >= 0 else (low, high)


def same_reals(a: Node, b: Node) -> bool | None:
    """Whether two structures are the same set of reals; None unless the first clearly is one."""
    is_set = a.kind in ("special", "union", "intersection", "without", "member")
    is_set |= a.kind == "relation" and set(a.operators) != {"="}
    if not is_set or (first := _real_set(a)) is None or (second := _real_set(b)) is None:
        return None
    return len({first[1], second[1]} - {""}) < 2 and same_set(first[0], second[0])


def same_set(a: RealSet, b: RealSet) -> bool:
    """The same numbers."""
    return len(a) == len(b) and all(_order(x, y) == 0 for x, y in zip(a, b, strict=True))


@lru_cache(maxsize=1024)
def _real_set(node: Node) -> _Named | None:
    kind, items, operators = node.kind, node.items, node.operators
    found: list[_Named | None] = []
    if kind == "special":
        return {"reals": (EVERYTHING, ""), "empty": ((), "")}.get(node.connector)
    if kind == "sequence" and len(items) == 2:
        ends = interval(node.brackets[0], items[0].text, items[1].text, node.brackets[1])
        return None if ends is None else (ends, "")
    if kind == "set":
        found = [_real_set(Node("sequence", "", (item, item), "[]")) for item in items]
    elif kind == "member":
        found = [_real_set(items[1]), (EVERYTHING, items[0].text.replace(" ", ""))]
    elif kind == "relation" and (set(operators).isdisjoint(("=", "\\approx")) or operators == ("=",)):
        with contextlib.suppress(NotExpression):
            found = [_solve(x.text, sign, y.text) for x, sign, y in zip(items, operators, items[1:])]
    elif kind in ("union", "intersection", "without") or (
        kind == "list" and (node.connector == "or" or all(item.kind == "relation" for item in items))
    ):
        found = [_real_set(item) for item in items]
    if kind == "without":
        return _joined(found, lambda inside: inside[0] and not inside[1])
    return _joined(found, any if kind in ("set", "union") or node.connector == "or" else all)


def _joined(found: Sequence[_Named | None], keep: Callable[[list[bool]], bool]) -> _Named | None:
    parts = [part for part in found if part is not None]
    names = {name for _, name in parts} - {""}
    if not parts or len(parts) < len(found) or len(names) > 1:
        return None
    return combined([numbers for numbers, _ in parts], keep), "".join(names)


def _solve(left: str, operator: str, right: str) -> _Named | None:
    """Solutions of what is linear in its one variable, or such an absolute value; an error for no formula."""
    for one, other, facing in ((left.strip(), right, operator), (right.strip(), left, MIRRORED[operator])):
        if match := _ABSOLUTE.fullmatch(one):
            inside, (bound, _) = match.group(1), _end(other, 1)
            if bound is None or facing in ("=", "!="):
                return None
            halves = _solve(inside, facing, other), _solve(inside, MIRRORED[facing], f"-({other})")
            return _joined(halves, all if facing in ("<", "<=") else any)
    return _solve_linear(left, operator, right)


def _solve_linear(left: str, operator: str, right: str) -> _Named | None:
    difference: Tree = ("add", _parsed(left), ("neg", _parsed(right)))
    names = variables(difference)
    if len(names) != 1 or contains(difference, _COMPLEX):
        return None
    (name,) = names
    at_0, at_1 = (replaced(difference, {name: ("num", Fraction(x))}) for x in (0, 1))
    slope: Tree = ("add", at_1, ("neg", at_0))
    sign, zero = real(slope).sign(), real(("neg", ("div", at_0, slope)))
    if not sign or not same_trees(difference, ("add", at_0, ("mul", slope, ("var", name)))):
        return None
    below, above = (zero, -1), (zero, 1)
    parts: dict[str, RealSet] = {"<": (MINUS_INFINITY, below), "=": (below, above), ">": (above, INFINITY)}
    facing = operator if sign > 0 else MIRRORED[operator]
    return combined([parts[symbol] for symbol in facing.replace("!=", "<>")], any), name


def _parsed(text: str) -> Tree:
    if _FUNCTION_VALUE.fullmatch(text.strip()):
        return ("var", text.replace(" ", ""))
    return parse_expression(text.replace("°", ""))
