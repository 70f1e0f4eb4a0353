"""Structures as sets of real numbers: unions, inequalities, memberships, the reals, intervals."""

from functools import lru_cache

from gmpo_mm.verifiers import intervals
from gmpo_mm.verifiers.intervals import RealSet
from gmpo_mm.verifiers.structure import Node


def clearly_a_set(node: Node) -> bool:
    if node.kind in ("union", "intersection", "without") or (
        node.kind == "special" and node.connector in ("reals", "empty")
    ):
        return True
    if node.kind == "sequence":
        return len(node.items) == 2 and (
            node.brackets != "()" or any("\\infty" in item.text for item in node.items)
        )
    if node.kind == "list":
        return bool(node.items) and all(
            clearly_a_set(item) and item.kind == "relation" for item in node.items
        )
    return node.kind == "member" or (
        node.kind == "relation" and any(operator != "=" for operator in node.operators)
    )


@lru_cache(maxsize=1024)
def real_set(node: Node) -> tuple[RealSet, str | None] | None:
    """The set of reals that a structure describes and the variable it names; None where it describes none."""
    if node.kind == "special":
        return {"reals": (intervals.EVERYTHING, None), "empty": ((), None)}.get(node.connector)
    if node.kind == "sequence" and len(node.items) == 2:
        found = intervals.interval(node.brackets[0], node.items[0].text, node.items[1].text, node.brackets[1])
        return None if found is None else (found, None)
    if node.kind == "set":
        found = intervals.points([item.text for item in node.items])
        return None if found is None else (found, None)
    if node.kind == "relation" and "\\approx" not in node.operators:
        return intervals.from_inequality([item.text for item in node.items], node.operators)
    if node.kind == "member":
        inside = real_set(node.items[1])
        name = node.items[0].text.replace(" ", "")
        return None if inside is None or inside[1] not in (None, name) else (inside[0], name)
    if node.kind not in ("union", "intersection", "without", "list"):
        return None
    parts = [real_set(item) for item in node.items]
    known = [part for part in parts if part is not None]
    names = {name for _, name in known if name is not None}
    if len(known) < len(parts) or len(names) > 1:
        return None
    sets = [one for one, _ in known]
    variable = next(iter(names), None)
    if node.kind == "without":
        return intervals.intersection(sets[0], intervals.complement(sets[1])), variable
    if node.kind == "union" or node.connector == "or":
        return intervals.union(sets), variable
    if node.kind == "list" and any(item.kind != "relation" for item in node.items):
        return None
    result = intervals.EVERYTHING
    for one in sets:
        result = intervals.intersection(result, one)
    return result, variable
