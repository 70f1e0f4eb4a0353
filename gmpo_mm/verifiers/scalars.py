"""Compare scalars: numbers with units, times, formulas; and what the graders do not share."""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from gmpo_mm.verifiers.expressions import NotExpression, parse_expression
from gmpo_mm.verifiers.identity import same_trees
from gmpo_mm.verifiers.names import renamings, with_subscripts
from gmpo_mm.verifiers.normalize import DOLLAR, text_key
from gmpo_mm.verifiers.quantities import Quantity, percent_readings, quantities_equal, quantity, times_equal
from gmpo_mm.verifiers.structure import Node
from gmpo_mm.verifiers.trees import variables
from gmpo_mm.verifiers.units import same_unit, split_unit
from gmpo_mm.verifiers.words import has_words


@dataclass(frozen=True)
class Rules:
    """What differs between the graders."""

    decimal_tolerance: Decimal | None = None  # of numbers of which one is a decimal; relative below 1
    share: Decimal | None = None  # numbers are equal where they differ by less than this share of their mean
    bare_units: bool = False  # whether `5 m` behind a plain number has a unit without being set upright
    algebra: Callable[[str, str], bool] | None = None  # decides formulas that have no value at sample points
    indices: frozenset[str] = frozenset()  # names that a condition declares as integers


EXACT = Rules()
ABOUT = Decimal("0.01")  # the share within which `\approx` contradicts nothing


def compare_scalars(a: str, b: str, rules: Rules = EXACT) -> bool | None:
    """Numbers with units, times, formulas, words."""
    if text_key(a) == text_key(b):
        return True
    time = times_equal(a, b)
    if time is not None:
        return time
    x, y = quantity(a, rules.bare_units), quantity(b, rules.bare_units)
    if x is not None and y is not None:
        return quantities_equal(x, y) or _within_tolerance(x, y, rules.decimal_tolerance)
    verdict = _same_formula(a.replace(DOLLAR, ""), b.replace(DOLLAR, ""), rules)
    if verdict is not False:
        return verdict
    (a, unit), (b, other) = split_unit(a, rules.bare_units), split_unit(b, rules.bare_units)
    return bool(unit or other) and same_unit(unit, other) and _same_formula(a.strip(), b.strip(), rules)


def _readings(x: Quantity | None, y: Quantity | None) -> list[tuple[Decimal, Decimal]]:
    """Digits of two numbers of one unit, in each way to read their percent signs."""
    if x is None or y is None or not same_unit(x.unit, y.unit) or not len(x.values) == len(y.values) == 1:
        return []
    return [(u.digits, v.digits) for u, v in (x.values + y.values, *percent_readings(x, y))]


def _within_tolerance(x: Quantity, y: Quantity, tolerance: Decimal | None) -> bool:
    if tolerance is None or not (x.decimal or y.decimal):
        return False
    return any(abs(u - v) <= tolerance * min(Decimal(1), max(abs(u), abs(v))) for u, v in _readings(x, y))


def within_share(a: Node, b: Node, rules: Rules, share: Decimal) -> bool:
    """Two numbers of one unit that differ by less than a share of their mean; opposite signs never do."""
    readings = _readings(quantity(a.text, rules.bare_units), quantity(b.text, rules.bare_units))
    return any(abs(u - v) < share * abs(u + v) / 2 for u, v in readings)


def _same_formula(a: str, b: str, rules: Rules) -> bool | None:
    if has_words(a) or has_words(b):
        return False
    try:
        first, second = parse_expression(a), parse_expression(b)
    except NotExpression:  # what is not read whole is equal as text only
        return False
    verdict = same_trees(first, second)
    if verdict is False:
        first, second = with_subscripts(a, first, second), with_subscripts(b, second, first)
        versions = (second, *renamings(first, second, rules.indices))
        return any(same_trees(first, version) for version in versions)
    return rules.algebra(a, b) if verdict is None and rules.algebra else verdict


def is_constant(node: Node) -> bool:
    """Whether a node is a number or a formula without variables."""
    if node.kind != "scalar" or quantity(node.text) is not None:
        return node.kind == "scalar"
    try:
        return not variables(parse_expression(node.text))
    except NotExpression:
        return False
