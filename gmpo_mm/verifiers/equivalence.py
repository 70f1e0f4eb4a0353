r"""Are two answers the same? Each is read once, to one value (`reading`, `structure`), and compared.

`None` leaves the pair to computer algebra. The conventions are in docs/reference/graders.md.
"""

import re
from dataclasses import replace
from decimal import Decimal
from typing import NamedTuple

from gmpo_mm.verifiers.budget import OverBudget, budget
from gmpo_mm.verifiers.comparison import compare, settle
from gmpo_mm.verifiers.normalize import canonical, text_key
from gmpo_mm.verifiers.quantities import decimal_comma, quantities_equal, quantity
from gmpo_mm.verifiers.reading import Reading, read
from gmpo_mm.verifiers.scalars import EXACT, Rules, within_share
from gmpo_mm.verifiers.structure import Node, balanced, parse
from gmpo_mm.verifiers.words import number_in_words

MAX_STEPS = 40_000  # evaluations of parts of formulas for one pair, some 0.2 s; the rest is for a worker
MAX_LENGTH = 2000  # characters; a longer answer is compared as text only and never parsed
RULES = {
    "math": EXACT,
    "minerva": Rules(share=Decimal("0.01"), bare_units=True),
    "olympiadbench": Rules(decimal_tolerance=Decimal("1.01e-8")),
}

_PLAIN = re.compile(r"0|-?[1-9]\d{0,30}")  # an integer in its one spelling
_BASE_WORDS = "two|three|four|five|six|seven|eight|nine|ten|twelve|sixteen"
_BASE = re.compile(rf"([0-9A-Fa-f]+) ?_ ?\{{? ?([0-9]{{1,2}}|{_BASE_WORDS}) ?\}}?")
_KINDS = {"matrix": "matrices", "relation": "relations", "sequence": "tuples", "scalar": "formulas"}


class Decision(NamedTuple):
    """`equal` is None where only computer algebra can tell; `why` says in a few words what decided."""

    equal: bool | None
    why: str


def decide(prediction: str, gold: str, rules: Rules = EXACT) -> Decision:
    """Compare two answers without computer algebra (unless `rules` bring it), in bounded time."""
    if prediction == gold:
        return Decision(True, "equal as text")
    if rules.share is None and _PLAIN.fullmatch(prediction) and _PLAIN.fullmatch(gold):
        return Decision(False, "different")
    if len(prediction) > MAX_LENGTH or len(gold) > MAX_LENGTH:
        return Decision(False, "different; too long to be compared as mathematics")
    texts = canonical(prediction), canonical(gold)
    if not all(texts):
        return Decision(False, "different")
    if text_key(texts[0]) == text_key(texts[1]):
        return Decision(True, "equal as text")
    try:
        with budget(MAX_STEPS if rules.algebra is None else None):  # a worker has its limit of CPU time
            equal, why = _compare(read(prediction), read(gold), rules)
    except OverBudget:
        equal, why = None, ""
    return Decision(equal, why if equal else "undecided" if equal is None else "different")


def _compare(a: Reading, b: Reading, rules: Rules) -> tuple[bool | None, str]:
    if a.letter is not None and b.letter is not None:
        return a.letter == b.letter and 1 in (len(a.text), len(b.text)), "equal as choices"
    if not all(one.text and balanced(one.text) for one in (a, b)):
        return False, ""
    equal, why = _compare_texts(a.text, b.text, replace(rules, indices=a.indices | b.indices))
    if equal and a.conditions and b.conditions:
        first, second = (parse(", ".join(one.conditions)) for one in (a, b))
        equal = bool(compare(first, second, rules))
    return equal, why


def _compare_texts(a: str, b: str, rules: Rules) -> tuple[bool | None, str]:
    if text_key(a) == text_key(b):
        return True, "equal as text"
    first, second = quantity(a, rules.bare_units), quantity(b, rules.bare_units)
    if first and second and quantities_equal(first, second):
        return True, "equal as numbers"
    for text, other in ((a, b), (b, a)):
        if (comma := decimal_comma(text)) and (number := quantity(other)) and quantities_equal(number, comma):
            return True, "equal as numbers"
    if (based := _bases(a, b)) is not None:
        return based, "equal as numbers of a base"
    nodes = parse(a), parse(b)
    equal = compare(*nodes, rules)
    if equal is False and rules.share is not None and _within_share(*nodes, rules, rules.share):
        return True, "numbers within 1 %"
    kinds = {node.kind for node in nodes}
    return equal, f"equal as {next((what for kind, what in _KINDS.items() if kind in kinds), 'sets')}"


def _within_share(a: Node, b: Node, rules: Rules, share: Decimal) -> bool:
    first, second = settle(a, rules), settle(b, rules)
    if first.kind == second.kind == "named" and first.name != second.name:
        return False
    return any(within_share(x, y, rules, share) for x in first.forms for y in second.forms)


def _bases(prediction: str, gold: str) -> bool | None:
    """`1010_2` and `1010_{two}`; a base that only the gold writes was asked for, and does not count."""
    first, second = _BASE.fullmatch(prediction), _BASE.fullmatch(gold)
    if second is None:
        return None
    if first is None:
        return second[1].upper() == prediction.replace(" ", "").upper() or None
    bases = [str(number_in_words(match[2]) or match[2]) for match in (first, second)]
    return bases[0] == bases[1] and first[1].upper() == second[1].upper()
