"""Compare two answers part by part: structures as `structure` reads them, scalars as numbers or formulas.

Every function answers True, False or None, where None leaves the pair to computer algebra. All are symmetric.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from gmpo_mm.verifiers.equations import proportional, same_equation
from gmpo_mm.verifiers.intervals import MIRRORED, same_reals
from gmpo_mm.verifiers.matrices import matrix_sum
from gmpo_mm.verifiers.normalize import text_key
from gmpo_mm.verifiers.quantities import last_place, quantity
from gmpo_mm.verifiers.scalars import ABOUT, EXACT, Rules, compare_scalars, is_constant, within_share
from gmpo_mm.verifiers.structure import Node, asks_for, assigned_name, is_name
from gmpo_mm.verifiers.words import has_words

MAX_UNORDERED = 48  # items matched one by one; longer lists are matched by their texts


def all_of(verdicts: Iterable[bool | None]) -> bool | None:
    """False where one is, True where all are, else None."""
    undecided = False
    for verdict in verdicts:
        if verdict is False:
            return False
        undecided |= verdict is None
    return None if undecided else True


def compare(a: Node, b: Node, rules: Rules = EXACT) -> bool | None:
    """Whether two structures are the same answer."""
    first, second = settle(a, rules), settle(b, rules)
    if "broken" in (first.kind, second.kind):
        return False
    if text_key(a.text) == text_key(b.text) and a.kind == b.kind:
        return True if a.kind != "special" else a.connector == b.connector
    if "undecided" in (first.kind, second.kind):
        return None
    if "equation" in (first.kind, second.kind) or (first.kind == second.kind == "named"):
        return _compare_equations(first, second, rules)
    return any_of(_compare_values(x, y, rules) for x in first.forms for y in second.forms)


def any_of(verdicts: Iterable[bool | None]) -> bool | None:
    """True where one is, False where all are, else None."""
    found = set(verdicts)
    return True if True in found else None if None in found else False


def _compare_values(a: Node, b: Node, rules: Rules) -> bool | None:
    if text_key(a.text) == text_key(b.text) and a.kind == b.kind != "special":
        return True
    if a.kind == b.kind == "scalar":
        return compare_scalars(a.text, b.text, rules)
    if a.kind == b.kind == "special":
        return a.connector == b.connector
    for handler in (_sets, _members, _inequalities, _lists, _sequences):
        for first, second in ((a, b), (b, a)):
            verdict = handler(first, second, rules)
            if verdict != UNTOLD:
                return verdict  # type: ignore[return-value]
    return False


UNTOLD = "untold"  # a handler's answer where the pair is not of its kinds
Verdict = bool | str | None


# Values: an answer has one


@dataclass(frozen=True)
class Settled:
    r"""What a node says once chains are read: `forms` are forms of one value, such as `\frac13` and the 0.33 that it is about.

    `kind` is value, named (`x = 5`), equation (`x + 2y = 3`), broken (a chain whose links do not hold), or undecided.
    """

    kind: str
    forms: tuple[Node, ...] = ()
    name: str = ""
    node: Node | None = None


@lru_cache(maxsize=4096)
def settle(node: Node, rules: Rules) -> Settled:
    r"""Read chains: `x = 2 + 3 = 5` is 5 by the name of x, `\frac52 \text{ or } 2.5` one number, `17 = 23` broken."""
    if node.kind == "list" and node.connector == "or" and node.items[0].kind == "scalar":
        first = node.items[0]
        if all(compare(first, item, rules) for item in node.items[1:]):
            return Settled("value", (first,), node=node)
    if node.kind == "scalar" and "\\begin" in node.text:
        return Settled("value", (matrix_sum(node) or node,), node=node)
    if node.kind == "relation" and set(node.operators) <= {"=", "\\approx"}:
        return _settle_chain(node, rules)
    return Settled("broken" if node.kind == "broken" else "value", (node,), node=node)


def _settle_chain(node: Node, rules: Rules) -> Settled:
    items, operators = node.items, node.operators
    if len(items) == 2 and is_constant(items[0]) and is_name(items[1].text):  # `5 = x`
        items = items[::-1]
    if (
        len(items) == 2
        and not is_name(items[0].text)
        and not (asks_for(items[0].text) and is_constant(items[1]))
    ):
        holds = _link(operators[0], items[0], items[1], rules)
        if not holds and not all(is_constant(item) for item in items):
            return Settled("equation", node=node)
        return _of_links([holds], items, operators, "", node, rules)
    named = 0
    while named < len(items) - 1 and asks_for(items[named].text):
        named += 1
    values, between = items[named:], operators[named:]
    links = [
        _link(operator, x, y, rules) for operator, x, y in zip(between, values[:-1], values[1:], strict=True)
    ]
    return _of_links(links, values, between, items[0].text if named else "", node, rules)


def _of_links(
    links: Sequence[bool | None],
    values: Sequence[Node],
    operators: Sequence[str],
    name: str,
    node: Node,
    rules: Rules,
) -> Settled:
    verdict = all_of(links)
    if not verdict:
        return Settled("undecided" if verdict is None else "broken", node=node)
    exact = [value for operator, value in zip(("=", *operators), values, strict=True) if operator == "="]
    about = [value for operator, value in zip(operators, values[1:], strict=True) if operator != "="]
    rounded = [value for value in about if _is_rounded(exact[-1], value, rules)]
    return Settled("named" if name else "value", (exact[-1], *rounded), name.strip(), node)


def _link(operator: str, x: Node, y: Node, rules: Rules) -> bool | None:
    """Whether two neighbours in a chain are equal, or the second is the first rounded."""
    verdict = compare(x, y, rules)
    if verdict or (operator == "=" and rules.share is None):
        return verdict
    return within_share(x, y, rules, rules.share or ABOUT)


def _is_rounded(exact: Node, node: Node, rules: Rules) -> bool:
    """Whether a number is another with fewer digits, two significant ones at least: 4.6 is not 5, but about 5."""
    x, y, place = (
        quantity(exact.text, rules.bare_units),
        quantity(node.text, rules.bare_units),
        last_place(node.text),
    )
    if x is None or y is None or place is None or len(re.sub(r"[eE*].*|\D", "", node.text).lstrip("0")) < 2:
        return False
    return abs(x.values[0].digits - y.values[0].digits) < place


# Sets of real numbers


def _sets(a: Node, b: Node, rules: Rules) -> Verdict:
    """`a` is clearly a set of reals (a union, an inequality, the reals, a half-open interval), `b` can be read as one."""
    verdict = same_reals(a, b)
    return UNTOLD if verdict is None else verdict


def _members(a: Node, b: Node, rules: Rules) -> Verdict:
    r"""`x \in S` beside `x \in S` or the set itself; `\{2x : x > 3\}` beside another of its kind."""
    if a.kind not in ("member", "builder"):
        return UNTOLD
    if b.kind == a.kind:
        names = [text_key(node.items[0].text) for node in (a, b)]
        same = names[0] == names[1] if a.kind == "member" else compare(a.items[0], b.items[0], rules)
        return all_of([same, compare(a.items[1], b.items[1], rules)])
    return compare(a.items[1], b, rules) if a.kind == "member" else False


# Equations and inequalities


def _inequalities(a: Node, b: Node, rules: Rules) -> Verdict:
    if a.kind != "relation" or b.kind != "relation":
        return UNTOLD
    if len(a.items) != len(b.items):
        return False
    if "\\approx" in (*a.operators, *b.operators):
        return False
    for items, operators in (
        (a.items, a.operators),
        (a.items[::-1], tuple(MIRRORED[op] for op in a.operators[::-1])),
    ):
        if operators == b.operators and all_of(
            compare(x, y, rules) for x, y in zip(items, b.items, strict=True)
        ):
            return True
    if len(a.operators) != 1 or any(has_words(item.text) for node in (a, b) for item in node.items):
        return False
    left = (a.items[0].text, a.items[1].text)
    if a.operators[0] != b.operators[0]:
        left = (left[1], left[0])
        if MIRRORED[a.operators[0]] != b.operators[0]:
            return False
    return proportional(left, (b.items[0].text, b.items[1].text), positive=a.operators[0] != "!=")


def _compare_equations(a: Settled, b: Settled, rules: Rules) -> bool | None:
    """Equations with the same solutions, or the same name with the same value; an equation is no value."""
    if a.kind == "value" or b.kind == "value":
        return False
    if a.kind == b.kind == "named" and _same_name(a.name, b.name, a.forms[0], b.forms[0]):
        return any_of(compare(x, y, rules) for x in a.forms for y in b.forms)
    ends = [_ends(settled) for settled in (a, b)]
    if any(item.kind != "scalar" for sides in ends for item in sides):
        swapped = all_of(compare(x, y, rules) for x, y in zip(ends[0], ends[1][::-1], strict=True))
        return any_of([all_of(compare(x, y, rules) for x, y in zip(*ends, strict=True)), swapped])
    texts = [side.text for sides in ends for side in sides]
    if not any(has_words(text) for text in texts) and same_equation(
        *((left.text, right.text) for left, right in ends)
    ):
        return True
    return bool(all_of(compare(x, y, rules) for x, y in zip(*ends, strict=True)))


def _ends(settled: Settled) -> tuple[Node, Node]:
    """Both sides of an equation; of a chain, its name and its value."""
    assert settled.node is not None
    if settled.kind == "named":
        return Node("scalar", settled.name), settled.forms[0]
    return settled.node.items[0], settled.node.items[-1]


def _same_name(first: str, second: str, *values: Node) -> bool:
    """The same name; `f(x) = 2x + 3` and `y = 2x + 3` are the same function; `W(n) = 1` and `W(x) = 1` one constant."""
    if text_key(first) == text_key(second):
        return True
    heads = [name.partition("(") for name in (first, second)]
    if heads[0][1] and heads[1][1]:
        plain = all(len(head.strip()) == 1 and len(argument.strip(" )")) == 1 for head, _, argument in heads)
        return (
            plain
            and heads[0][0].strip() == heads[1][0].strip()
            and all(is_constant(value) for value in values)
        )
    if not (heads[0][1] or heads[1][1]):
        return False
    argument = (heads[0][2] or heads[1][2]).rstrip(") ")
    return "y" in (first, second) and argument == "x" and not any(is_constant(value) for value in values)


# Lists, sets, tuples, matrices


def _lists(a: Node, b: Node, rules: Rules) -> Verdict:
    if a.kind not in ("list", "set"):
        return UNTOLD
    if b.kind not in ("list", "set", "sequence"):
        return (
            compare(a.items[0], b, rules)
            if a.kind == "set" and len(a.items) == 1 and b.kind == "scalar"
            else False
        )
    if b.kind == "sequence":
        if a.kind == "list" and b.brackets == "()" and len(a.items) == len(b.items) > 1:
            return _in_order(_values(a, rules), b.items, rules)
        return False
    first, second = a.items, b.items
    if "set" in (a.kind, b.kind) or any(item.kind != "scalar" for item in (*first, *second)):
        first, second = _distinct(first, rules), _distinct(second, rules)
    if len(first) != len(second):
        return False
    named = [_names(node) for node in (a, b)]
    if (named[0] is None) != (named[1] is None) and "set" not in (a.kind, b.kind):
        given, bare = (named[0], b) if named[0] is not None else (named[1] or [], a)
        if len(set(given)) == len(given) and not any(
            item.kind == "relation" for item in bare.items
        ):  # `x = 1, y = 2` and `1, 2`
            return _in_order(_values(a, rules), _values(b, rules), rules)
    return _in_any_order(first, second, rules)


def _names(node: Node) -> list[str] | None:
    """Names of a list's items where each has one."""
    names = [assigned_name(item) for item in node.items]
    return None if None in names else [name for name in names if name is not None]


def _values(node: Node, rules: Rules) -> Sequence[Node]:
    settled = [settle(item, rules) for item in node.items]
    return [one.forms[0] if one.forms else item for one, item in zip(settled, node.items, strict=True)]


def _same_item(x: Node, y: Node, rules: Rules) -> bool | None:
    r"""As `compare`; a set within a set stays one: `\\{\\{5\\}\\}` is not `\\{5\\}`."""
    return False if (x.kind == "set") != (y.kind == "set") else compare(x, y, rules)


def _in_order(a: Sequence[Node], b: Sequence[Node], rules: Rules) -> bool | None:
    if len(a) != len(b):
        return False
    return all_of(compare(x, y, rules) for x, y in zip(a, b, strict=True))


def _distinct(items: Sequence[Node], rules: Rules) -> tuple[Node, ...]:
    kept: list[Node] = []
    for item in items:
        if len(items) > MAX_UNORDERED:
            if item.text not in [other.text for other in kept]:
                kept.append(item)
        elif not any(compare(item, other, rules) for other in kept):
            kept.append(item)
    return tuple(kept)


def _in_any_order(a: Sequence[Node], b: Sequence[Node], rules: Rules) -> bool | None:
    """Whether the items pair off one to one, by augmenting paths: with a tolerance, equality is not transitive."""
    remaining = dict(enumerate(b))
    by_text: dict[str, list[int]] = {}
    for i, item in remaining.items():
        by_text.setdefault(text_key(item.text), []).append(i)
    unmatched = []
    for item in a:
        same = by_text.get(text_key(item.text))
        if same and item.kind != "broken":
            del remaining[same.pop()]
        else:
            unmatched.append(item)
    if len(unmatched) > MAX_UNORDERED:
        return False
    verdicts: list[dict[int, bool | None]] = []
    taken: set[int] = set()
    for item in unmatched:  # most lists pair off as they come
        row: dict[int, bool | None] = {}
        for j in sorted(remaining, key=lambda j: j in taken):
            row[j] = _same_item(item, remaining[j], rules)
            if row[j] and j not in taken:
                taken.add(j)
                break
        if not any(verdict is not False for verdict in row.values()):
            return False
        verdicts.append(row)
    if len(taken) == len(unmatched):
        return True
    verdicts = [{j: _same_item(item, other, rules) for j, other in remaining.items()} for item in unmatched]
    if _pair_off(verdicts, (True,)):
        return True
    return None if _pair_off(verdicts, (True, None)) else False


def _pair_off(verdicts: Sequence[dict[int, bool | None]], accepted: tuple[bool | None, ...]) -> bool:
    partner: dict[int, int] = {}

    def place(i: int, seen: set[int]) -> bool:
        for j, verdict in verdicts[i].items():
            if verdict in accepted and j not in seen:
                seen.add(j)
                if j not in partner or place(partner[j], seen):
                    partner[j] = i
                    return True
        return False

    return all(place(i, set()) for i in range(len(verdicts)))


def _sequences(a: Node, b: Node, rules: Rules) -> Verdict:
    if a.kind == "matrix":
        if b.kind == "sequence":
            if b.items and all(item.kind == "sequence" for item in b.items):
                return _in_order_of_rows(a.items, b.items, rules)
            column = [row.items[0] for row in a.items if len(row.items) == 1]
            return _in_order(column, b.items, rules) if len(column) == len(a.items) else False
        return _in_order_of_rows(a.items, b.items, rules) if b.kind == "matrix" else UNTOLD
    if a.kind != "sequence" or b.kind != "sequence":
        return UNTOLD
    if a.brackets != b.brackets and (len(a.items) == 2 or not {a.brackets, b.brackets} <= {"()", "[]"}):
        return False
    return _in_order(a.items, b.items, rules)


def _in_order_of_rows(a: Sequence[Node], b: Sequence[Node], rules: Rules) -> bool | None:
    if len(a) != len(b):
        return False
    return all_of(_in_order(x.items, y.items, rules) for x, y in zip(a, b, strict=True))
