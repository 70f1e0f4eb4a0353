"""Compare scalars: numbers with units, times, formulas; and what the graders do not share."""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from gmpo_mm.verifiers.expressions import NotExpression, parse_expression
from gmpo_mm.verifiers.identity import same_trees
from gmpo_mm.verifiers.names import renamings
from gmpo_mm.verifiers.normalize import DOLLAR, text_key
from gmpo_mm.verifiers.quantities import Quantity, percent_readings, quantities_equal, quantity, times_equal
from gmpo_mm.verifiers.structure import Node
from gmpo_mm.verifiers.trees import variables
from gmpo_mm.verifiers.units import same_unit, split_unit
from gmpo_mm.verifiers.words import has_words


@dataclass(frozen=True)
class Rules:
    """What differs between the graders. `decimal_tolerance`: how far two numbers may be apart where either is a decimal."""

    decimal_tolerance: Decimal | None = None  # absolute, and relative for numbers below 1
    share: Decimal | None = None  # numbers are equal where they differ by less than this share of their mean
    bare_units: bool = False  # whether `5 m` behind a plain number has a unit without being set upright
    algebra: Callable[[str, str], bool] | None = None  # decides formulas that have no value at sample points
    indices: frozenset[str] = frozenset()  # names that a condition declares as integers


EXACT = Rules()
ABOUT = Decimal("0.01")
r"""How far `\approx` may be off: within this share it contradicts nothing, and beyond it the answer has two values."""


def compare_scalars(a: str, b: str, rules: Rules = EXACT) -> bool | None:
    """Numbers with units, times, formulas, words."""
    if text_key(a) == text_key(b):
        return True
    time = times_equal(a, b)
    if time is not None:
        return time
    x, y = quantity(a, rules.bare_units), quantity(b, rules.bare_units)
    if x is not None and y is not None:
        return quantities_equal(x, y) or _within_tolerance(x, y, rules)
    if not has_words(a) and not has_words(b):
        verdict = _same_formula(a.replace(DOLLAR, ""), b.replace(DOLLAR, ""), rules)
        if verdict is not False:
            return verdict
    first, second = split_unit(a, rules.bare_units), split_unit(b, rules.bare_units)
    if (
        not (first[1] or second[1])
        or not same_unit(first[1], second[1])
        or has_words(first[0])
        or has_words(second[0])
    ):
        return False
    return _same_formula(first[0].strip(), second[0].strip(), rules)


def _within_tolerance(a: Quantity, b: Quantity, rules: Rules) -> bool:
    """Numbers of which one is a decimal, within the grader's tolerance; exact ones are compared exactly."""
    if rules.decimal_tolerance is None or not (a.decimal or b.decimal) or len(a.values) != len(b.values):
        return False
    pairs = [*zip(a.values, b.values, strict=True), *percent_readings(a, b)]
    return same_unit(a.unit, b.unit) and any(
        _near(x.digits, y.digits, rules.decimal_tolerance) for x, y in pairs
    )


def _near(x: Decimal, y: Decimal, tolerance: Decimal) -> bool:
    return abs(x - y) <= tolerance * min(Decimal(1), max(abs(x), abs(y)))


def _same_formula(a: str, b: str, rules: Rules) -> bool | None:
    try:
        first, second = parse_expression(a), parse_expression(b)
    except NotExpression:  # what is not read whole is equal as text only
        return False
    verdict = same_trees(first, second)
    if verdict is False and any(
        same_trees(first, renamed) for renamed in renamings(first, second, rules.indices)
    ):
        return True
    if verdict is None and rules.algebra is not None:
        return rules.algebra(a, b)
    return verdict


def within_share(a: Node, b: Node, rules: Rules, share: Decimal) -> bool:
    """Two numbers of one unit that differ by less than a share of their mean; opposite signs never do."""
    x, y = quantity(a.text, rules.bare_units), quantity(b.text, rules.bare_units)
    if x is None or y is None or not same_unit(x.unit, y.unit) or len(x.values) != 1 or len(y.values) != 1:
        return False
    pairs = [(x.values[0], y.values[0]), *percent_readings(x, y)]
    return any(abs(u.digits - v.digits) < share * abs(u.digits + v.digits) / 2 for u, v in pairs)


def is_constant(node: Node) -> bool:
    """Whether a node is a number or a formula without variables."""
    if node.kind != "scalar":
        return False
    if quantity(node.text) is not None:
        return True
    try:
        return not variables(parse_expression(node.text))
    except NotExpression:
        return False
