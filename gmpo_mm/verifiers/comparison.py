"""Compare two answers part by part: structures as `structure` reads them, scalars as numbers or formulas.

Every verdict is True, False or None, where None leaves the pair to computer algebra. All are symmetric.
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from string import ascii_lowercase

from gmpo_mm.verifiers.equations import same_relation
from gmpo_mm.verifiers.intervals import MIRRORED, same_reals
from gmpo_mm.verifiers.normalize import text_key
from gmpo_mm.verifiers.quantities import last_place, quantity
from gmpo_mm.verifiers.scalars import ABOUT, EXACT, Rules, compare_scalars, is_constant, within_share
from gmpo_mm.verifiers.structure import Node, asks_for, assigned_name, is_name, matrix_sum

MAX_UNORDERED = 48  # items matched one by one; longer lists are matched by their texts


def all_of(verdicts: Iterable[bool | None]) -> bool | None:
    """False where one is, True where all are, else None."""
    return min(verdicts, key=(False, None, True).index, default=True)


def any_of(verdicts: Iterable[bool | None]) -> bool | None:
    """True where one is, False where all are, else None."""
    return max(verdicts, key=(False, None, True).index, default=False)


def compare(a: Node, b: Node, rules: Rules = EXACT) -> bool | None:
    """Whether two structures are the same answer."""
    first, second = settle(a, rules), settle(b, rules)
    kinds = {first.kind, second.kind}
    if "broken" in kinds:
        return False
    if _same_text(a, b):
        return True
    if "undecided" in kinds:
        return None
    if "equation" in kinds or kinds == {"named"}:
        return _compare_equations(first, second, rules)
    return any_of(_compare_values(x, y, rules) for x in first.forms for y in second.forms)


def _same_text(a: Node, b: Node) -> bool:
    return a.kind == b.kind != "special" and text_key(a.text) == text_key(b.text)


def _compare_values(a: Node, b: Node, rules: Rules) -> bool | None:
    if _same_text(a, b):
        return True
    if a.kind == b.kind == "scalar":
        return compare_scalars(a.text, b.text, rules)
    for verdict in (same_reals(a, b), same_reals(b, a)):
        if verdict is not None:
            return verdict
    for kind, (first, second) in itertools.product(_HANDLERS, ((a, b), (b, a))):
        if first.kind == kind:
            return _HANDLERS[kind](first, second, rules)
    return False


@dataclass(frozen=True)
class Settled:
    r"""`forms` are forms of one value, such as `\frac13` and the 0.33 that it is about.

    `kind` is value, named (`x = 5`), equation (`x + 2y = 3`), broken (a link of a chain does not hold), or
    undecided. `sides` are those of an equation, or the name and the value.
    """

    kind: str
    forms: tuple[Node, ...] = ()
    name: str = ""
    sides: tuple[Node, ...] = ()


@lru_cache(maxsize=4096)
def settle(node: Node, rules: Rules) -> Settled:
    r"""Read chains: `x = 2 + 3 = 5` is 5, named x, `\frac52 \text{ or } 2.5` one number, `1 = 2` broken."""
    first, *others = node.items or (node,)
    if node.kind == "relation" and set(node.operators) <= {"=", "\\approx"}:
        return _settle_chain(node, rules)
    if node.kind == "list" and node.connector == "or" and first.kind == "scalar":
        node = first if all(compare(first, item, rules) for item in others) else node
    elif node.kind == "scalar" and "\\begin" in node.text:
        node = matrix_sum(node) or node
    return Settled("broken" if node.kind == "broken" else "value", (node,))


def _settle_chain(node: Node, rules: Rules) -> Settled:
    items, named = node.items, 0
    if len(items) == 2 and is_constant(items[0]) and is_name(items[1].text):  # `5 = x`
        items = items[::-1]
    assigns = len(items) > 2 or is_name(items[0].text) or (asks_for(items[0].text) and is_constant(items[1]))
    while assigns and named < len(items) - 1 and asks_for(items[named].text):
        named += 1
    parts = list(zip(("=", *node.operators[named:]), items[named:], strict=True))
    holds = all_of(_link(operator, x, y, rules) for (_, x), (operator, y) in itertools.pairwise(parts))
    if not holds:
        equation = not assigns and not all(map(is_constant, items))
        kind = "equation" if equation else "undecided" if holds is None else "broken"
        return Settled(kind, sides=node.items)
    exact = [value for operator, value in parts if operator == "="][-1]
    rounded = [value for operator, value in parts if operator != "=" and _is_rounded(exact, value, rules)]
    name = items[0].text.strip() if named else ""
    sides = (Node("scalar", name), exact)
    return Settled("named" if named else "value", (exact, *rounded), name, sides)


def _link(operator: str, x: Node, y: Node, rules: Rules) -> bool | None:
    """Whether two neighbours in a chain are equal, or the second is the first rounded."""
    verdict = compare(x, y, rules)
    if verdict or (operator == "=" and rules.share is None):
        return verdict
    return within_share(x, y, rules, rules.share or ABOUT)


def _is_rounded(exact: Node, node: Node, rules: Rules) -> bool:
    """Whether a number is another with fewer digits, but two at least: 4.6 is not 5, but about 5."""
    x, y = quantity(exact.text, rules.bare_units), quantity(node.text, rules.bare_units)
    place, digits = last_place(node.text), re.sub(r"[eE*].*|\D", "", node.text).lstrip("0")
    if x is None or y is None or place is None or len(digits) < 2:
        return False
    return abs(x.values[0].digits - y.values[0].digits) < place


def _compare_equations(a: Settled, b: Settled, rules: Rules) -> bool | None:
    """Equations with the same solutions, or the same name with the same value; an equation is no value."""
    if "value" in (a.kind, b.kind):
        return False
    if a.kind == b.kind == "named" and _same_name(a.name, b.name, a.forms[0], b.forms[0]):
        return any_of(compare(x, y, rules) for x in a.forms for y in b.forms)
    alike = _in_order(a.sides, b.sides, rules)
    if any(side.kind != "scalar" for side in (*a.sides, *b.sides)):
        return any_of([alike, _in_order(a.sides, b.sides[::-1], rules)])
    return bool(alike) or same_relation(a.sides, b.sides, "=")


def _same_name(first: str, second: str, *values: Node) -> bool:
    """The same name, also where `f(x) = 2x + 3` is `y = 2x + 3` and the constant `W(n) = 1` is `W(x) = 1`."""
    if text_key(first) == text_key(second):
        return True
    (f, opened, x), (g, also_opened, y) = first.partition("("), second.partition("(")
    constant = [is_constant(value) for value in values]
    if opened and also_opened:
        letters = [part.strip(" )") for part in (f, g, x, y)]
        return letters[0] == letters[1] and all(constant) and all(len(letter) == 1 for letter in letters)
    return "y" in (first, second) and (x or y).rstrip(") ") == "x" and not any(constant)


def _relations(a: Node, b: Node, rules: Rules) -> bool | None:
    if b.kind != "relation" or "\\approx" in (*a.operators, *b.operators):
        return False
    mirrored = a.items[::-1], tuple(MIRRORED[operator] for operator in a.operators[::-1])
    return any(
        _in_order(sides, b.items, rules) or (len(sides) == 2 and same_relation(sides, b.items, operators[0]))
        for sides, operators in ((a.items, a.operators), mirrored)
        if operators == b.operators
    )


def _members(a: Node, b: Node, rules: Rules) -> bool | None:
    r"""`x \in S` beside another or the set itself."""
    if b.kind != "member":
        return compare(a.items[1], b, rules)
    return text_key(a.items[0].text) == text_key(b.items[0].text) and compare(a.items[1], b.items[1], rules)


def _lists(a: Node, b: Node, rules: Rules) -> bool | None:
    if b.kind == "scalar":
        return a.kind == "set" and len(a.items) == 1 and compare(a.items[0], b, rules)
    if b.kind == "sequence":
        pairs_off = a.kind == "list" and b.brackets == "()" and len(a.items) > 1
        return pairs_off and _in_order(_values(a, rules), b.items, rules)
    if b.kind not in ("list", "set"):
        return False
    first, second = a.items, b.items
    bare_lists = a.kind == b.kind == "list"
    if not bare_lists or any(item.kind != "scalar" for item in (*first, *second)):
        first, second = _distinct(first, rules), _distinct(second, rules)
    if len(first) != len(second):
        return False
    for named, bare in ((a, b), (b, a)) if bare_lists else ():
        names = {assigned_name(item) for item in named.items} - {None}
        if len(names) == len(named.items) and all(item.kind != "relation" for item in bare.items):
            return _in_order(_values(a, rules), _values(b, rules), rules)  # `x = 1, y = 2` and `1, 2`
    return _in_any_order(first, second, rules)


def _values(node: Node, rules: Rules) -> list[Node]:
    """Values in the order of their names where these follow each other: `y = 2, x = 1` is `1, 2`."""
    items = list(node.items)
    names = [assigned_name(item) or "" for item in items]
    if all(names) and "".join(sorted(names)) in ascii_lowercase:
        items = [item for _, item in sorted(zip(names, items, strict=True), key=itemgetter(0))]
    return [(settle(item, rules).forms or (item,))[0] for item in items]


def _in_order(a: Sequence[Node], b: Sequence[Node], rules: Rules) -> bool | None:
    return len(a) == len(b) and all_of(compare(x, y, rules) for x, y in zip(a, b, strict=True))


def _distinct(items: Sequence[Node], rules: Rules) -> tuple[Node, ...]:
    if len(items) > MAX_UNORDERED:
        return tuple({item.text: item for item in items}.values())
    kept: list[Node] = []
    for item in items:
        if not any(compare(item, other, rules) for other in kept):
            kept.append(item)
    return tuple(kept)


def _in_any_order(a: Sequence[Node], b: Sequence[Node], rules: Rules) -> bool | None:
    r"""Whether the items pair off, the surely equal ones first; `\{\{5\}\}` is not `\{5\}`."""
    left, right = list(a), list(b)
    if len(left) > MAX_UNORDERED:
        return Counter(text_key(item.text) for item in a) == Counter(text_key(item.text) for item in b)
    for accepted in (True, None):
        for item in tuple(left):
            for other in right:
                alike = (item.kind == "set") == (other.kind == "set")
                if alike and compare(item, other, rules) is accepted:
                    left.remove(item)
                    right.remove(other)
                    break
        if not left:
            return accepted
    return False


def _matrices(a: Node, b: Node, rules: Rules) -> bool | None:
    if b.kind == "sequence" and any(item.kind != "sequence" for item in b.items):  # a vector
        column = [row.items[0] for row in a.items if len(row.items) == 1]
        return len(column) == len(a.items) and _in_order(column, b.items, rules)
    if b.kind not in ("matrix", "sequence") or len(a.items) != len(b.items):
        return False
    return all_of(_in_order(x.items, y.items, rules) for x, y in zip(a.items, b.items, strict=True))


def _sequences(a: Node, b: Node, rules: Rules) -> bool | None:
    as_tuples = len(a.items) != 2 and {a.brackets, b.brackets} == {"()", "[]"}
    same_kind = b.kind == "sequence" and (a.brackets == b.brackets or as_tuples)
    return same_kind and _in_order(a.items, b.items, rules)


# The first of these kinds that one of two values has decides.
_HANDLERS = {
    "member": _members, "list": _lists, "set": _lists, "matrix": _matrices,
    "sequence": _sequences, "relation": _relations, "special": lambda a, b, _: a.connector == b.connector,
}  # fmt: skip
