r"""Are two answers the same? Each is read once, to one value (`reading`, `structure`), and the values are compared.

`None` leaves the pair to computer algebra. The conventions, where two readings are possible, are in docs/graders.md.
"""

import re
from dataclasses import dataclass, replace
from decimal import Decimal

from gmpo_mm.verifiers.budget import OverBudget, budget
from gmpo_mm.verifiers.comparison import compare, settle
from gmpo_mm.verifiers.normalize import canonical, text_key
from gmpo_mm.verifiers.quantities import decimal_comma, quantities_equal, quantity
from gmpo_mm.verifiers.reading import Reading, read
from gmpo_mm.verifiers.scalars import EXACT, Rules, within_share
from gmpo_mm.verifiers.structure import Node, balanced, parse

MAX_STEPS = (
    40_000  # evaluations of a part of a formula for one pair, some 0.2 s; a longer comparison is for a worker
)
MAX_LENGTH = 2000  # characters; a longer answer is compared as text only and never parsed

_PLAIN = re.compile(r"0|-?[1-9]\d{0,30}")  # an integer in its one spelling
_BASE = re.compile(
    r"([0-9A-Fa-f]+) ?_ ?\{? ?([0-9]{1,2}|two|three|four|five|six|seven|eight|nine|ten|twelve|sixteen) ?\}?"
)
_BASES = {
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
}
_BASES |= {"ten": "10", "twelve": "12", "sixteen": "16"}


@dataclass(frozen=True)
class Decision:
    """`equal` is None where only computer algebra can tell; `why` says in a few words what decided."""

    equal: bool | None
    why: str


RULES = {
    "math": EXACT,
    "minerva": Rules(share=Decimal("0.01"), bare_units=True),
    "olympiadbench": Rules(decimal_tolerance=Decimal("1.01e-8")),
}
NEAR = "numbers within 1 %"
DIFFERENT = Decision(False, "different")


def cheap_equal(prediction: str, gold: str) -> bool | None:
    """True or False where this module decides; None where only computer algebra can."""
    return decide(prediction, gold).equal


def decide(prediction: str, gold: str, rules: Rules = EXACT) -> Decision:
    """Compare two answers without computer algebra (unless `rules` bring it); in bounded time for any two texts."""
    if prediction == gold:
        return Decision(True, "equal as text")
    if rules.share is None and _PLAIN.fullmatch(prediction) and _PLAIN.fullmatch(gold):
        return DIFFERENT
    if len(prediction) > MAX_LENGTH or len(gold) > MAX_LENGTH:
        return Decision(False, "different; too long to be compared as mathematics")
    text, gold_text = canonical(prediction), canonical(gold)
    if not text or not gold_text:
        return DIFFERENT
    if text_key(text) == text_key(gold_text):
        return Decision(True, "equal as text")
    try:
        with budget(MAX_STEPS if rules.algebra is None else None):  # a worker has its limit of CPU time
            return _compare(read(prediction), read(gold), rules)
    except OverBudget:
        return Decision(None, "undecided")


def _compare(a: Reading, b: Reading, rules: Rules) -> Decision:
    if a.letter is not None and b.letter is not None:
        same = a.letter == b.letter and (len(a.text) == 1 or len(b.text) == 1)
        return Decision(same, "equal as choices" if same else "different")
    if not a.text or not b.text or not (balanced(a.text) and balanced(b.text)):
        return DIFFERENT
    if text_key(a.text) == text_key(b.text):
        equal: bool | None = True
        why = "text"
    else:
        first, second = quantity(a.text, rules.bare_units), quantity(b.text, rules.bare_units)
        if (
            first is not None and second is not None and quantities_equal(first, second)
        ) or _same_decimal_comma(a.text, b.text):
            equal, why = True, "numbers"
        elif (based := _bases(a.text, b.text)) is not None:
            equal, why = based, "numbers of a base"
        else:
            nodes = parse(a.text), parse(b.text)
            equal = compare(
                *nodes, replace(rules, indices=a.indices | b.indices) if a.indices or b.indices else rules
            )
            why = _what({node.kind for node in nodes})
            if equal is False and rules.share is not None and _within_share(nodes, rules):
                equal, why = True, NEAR
    if equal and a.conditions and b.conditions:
        equal = _same_conditions(a, b, rules)
    if not equal:
        return Decision(equal, "undecided" if equal is None else "different")
    return Decision(True, why if why == NEAR else f"equal as {why}")


def _within_share(nodes: tuple[Node, Node], rules: Rules) -> bool:
    first, second = (settle(node, rules) for node in nodes)
    if first.kind == second.kind == "named" and first.name != second.name:
        return False
    assert rules.share is not None
    return any(within_share(x, y, rules, rules.share) for x in first.forms for y in second.forms)


def _same_conditions(a: Reading, b: Reading, rules: Rules) -> bool:
    conditions = [parse(", ".join(reading.conditions)) for reading in (a, b)]
    return compare(conditions[0], conditions[1], rules) is True


def _same_decimal_comma(a: str, b: str) -> bool:
    for text, other in ((a, b), (b, a)):
        comma = decimal_comma(text)
        number = quantity(other) if comma is not None else None
        if comma is not None and number is not None and quantities_equal(number, comma):
            return True
    return False


def _what(kinds: set[str]) -> str:
    for kind, what in (
        ("matrix", "matrices"),
        ("relation", "relations"),
        ("sequence", "tuples"),
        ("scalar", "formulas"),
    ):
        if kind in kinds:
            return what
    return "sets"


def _bases(prediction: str, gold: str) -> bool | None:
    """`1010_2` and `1010_{two}`; a base that only the gold writes is what the problem asked for, and does not count."""
    first, second = _BASE.fullmatch(prediction), _BASE.fullmatch(gold)
    if first is not None and second is not None:
        bases = [_BASES.get(match.group(2), match.group(2)) for match in (first, second)]
        return bases[0] == bases[1] and first.group(1).upper() == second.group(1).upper()
    if second is None or first is not None:
        return None
    return True if second.group(1).upper() == prediction.replace(" ", "").upper() else None
