"""Answers that are one number (or a ratio) with the unit that people give it; compared exactly."""

import re
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import Any

from gmpo_mm.verifiers.expressions import NotExpression, parse_expression
from gmpo_mm.verifiers.identity import same_trees
from gmpo_mm.verifiers.trees import Tree
from gmpo_mm.verifiers.units import Unit, same_unit, split_unit
from gmpo_mm.verifiers.values import constant_of
from gmpo_mm.verifiers.words import number_in_words, split_multiplier

_THOUSANDS = re.compile(r"(?<![\d.,])(\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+)(?![\d,]| \d)")
# Whole part and decimals; three decimals behind one to three digits may be thousands.
_DECIMAL_COMMA = re.compile(r"(?!-?[1-9]\d{0,2},\d{3}$)(-?\d+),(\d+)")
_DECIMAL = re.compile(
    r"[-+]?([\d,]*)(?:\.(\d+))?(?: ?\* ?10 ?\^ ?\{? ?([-+]?\d{1,3}) ?\}?|[eE]([-+]?\d{1,3}))?"
)
_TIME = re.compile(r"(\d{1,2}):([0-5]\d)(?::([0-5]\d))? ?(?:([ap])\.? ?m\.?)?", re.IGNORECASE)
PRINTED_DIGITS = 13  # from which on a decimal is a computed value's print-out, right to its last place
_CONTEXT = Context(prec=60, Emax=100_000, Emin=-100_000)


@dataclass(frozen=True)
class Real:
    """A real number: its formula, and its value, a Fraction where it is rational and known."""

    tree: Tree
    value: Any

    @property
    def exact(self) -> Fraction | None:
        """The value where it is rational and known."""
        return self.value if isinstance(self.value, Fraction) else None

    @cached_property
    def digits(self) -> Decimal:
        """The value to 60 digits."""
        if isinstance(self.value, Fraction):
            return _CONTEXT.divide(Decimal(self.value.numerator), Decimal(self.value.denominator))
        return _CONTEXT.create_decimal(self.value.context.nstr(self.value, 62))

    def equals(self, other: "Real") -> bool:
        """Equality of values, exact for rationals (see `values.values_equal`)."""
        if self.exact is not None and other.exact is not None:
            return self.exact == other.exact
        return same_trees(self.tree, other.tree) is True

    def sign(self) -> int:
        """-1, 0 or 1."""
        return int(self.value > 0) - int(self.value < 0)

    def over(self, divisor: "Real | Fraction") -> "Real":
        """The quotient; NotExpression where the divisor is 0."""
        return real(("div", self.tree, divisor.tree if isinstance(divisor, Real) else ("num", divisor)))


def evaluate(text: str) -> Real:
    """Value of a canonical text; NotExpression when it is anything else, or beyond the bounds."""
    return real(parse_expression(text))


def real(tree: Tree) -> Real:
    """Value of a tree without names; NotExpression where it has none."""
    value = tree[1] if tree[0] == "num" else constant_of(tree)
    if value is None:
        raise NotExpression("not a real number")
    return Real(("num", value) if isinstance(value, Fraction) else tree, value)


@dataclass(frozen=True)
class Quantity:
    """A number, or a ratio of three or more, and its unit where it has one."""

    values: tuple[Real, ...]
    unit: Unit | None
    last_place: Decimal | None = None  # of a decimal with at least PRINTED_DIGITS digits
    decimal: bool = False  # written with a decimal point or in scientific notation, and so maybe rounded


@lru_cache(maxsize=8192)
def quantity(text: str, bare_units: bool = False) -> Quantity | None:
    """The canonical text as a number with its unit, or None when it is anything else."""
    number, unit = split_unit(text, bare_units)
    number = re.sub(r"(?<=\d) ?(?:\^ ?\{? ?)?(?:st|nd|rd|th)(?: ?\})?$", "", number)
    number, multiplier = split_multiplier(number)
    if number[-1:].isalpha() and (in_words := number_in_words(number)) is not None:
        number = str(in_words)
    if "(" not in number and "[" not in number:
        number = _THOUSANDS.sub(lambda match: re.sub("[, ]", "", match.group()), number)
    try:
        values = [evaluate(part) for part in re.split(r":|(?<=\d) to (?=\d)", number)]
        if len(values) > 1 and multiplier != 1:
            return None
        if len(values) == 2:  # a ratio of two is their quotient: 4:6 is 2:3 is 2/3
            values = [values[0].over(values[1])]
        elif len(values) > 2 or multiplier != 1:
            values = [value.over(1 / multiplier if multiplier != 1 else values[0]) for value in values]
    except NotExpression:
        return None
    digits = re.sub(r"[eE*].*|\D", "", number).lstrip("0")
    place = last_place(number) if "." in number and len(digits) >= PRINTED_DIGITS else None
    return Quantity(tuple(values), unit, place, bool(re.search(r"\.\d|\d[eE][-+]?\d", number)))


def last_place(text: str) -> Decimal | None:
    """Value of one unit in the last digit of a decimal, its unit of measure aside; None for anything else."""
    match = _DECIMAL.fullmatch(split_unit(text)[0].strip())
    return Decimal(1).scaleb(int(match[3] or match[4] or 0) - len(match[2] or "")) if match else None


def quantities_equal(a: Quantity, b: Quantity) -> bool:
    """Same numbers; a unit on one side only does not count, two different ones do."""
    if not same_unit(a.unit, b.unit) or len(a.values) != len(b.values):
        return False
    if all(x.equals(y) for x, y in zip(a.values, b.values, strict=True)):
        return True
    for printed, exact in ((a, b), (b, a)):
        if printed.last_place is not None and exact.last_place is None and len(a.values) == 1:
            x, y = a.values[0].digits, b.values[0].digits
            if abs(x - y) < printed.last_place or (exact.values[0].exact is None and float(x) == float(y)):
                return True
    return any(x.equals(y) for x, y in percent_readings(a, b))


def percent_readings(a: Quantity, b: Quantity) -> list[tuple[Real, Real]]:
    """60 % is 0.6, and a gold of 60 is 60 %: where one side has the sign, its hundredth beside the other."""
    percent = (("%", 1),)
    if {a.unit, b.unit} != {percent, None}:
        return []
    x, y = (one.values[0].over(Fraction(100 if one.unit else 1)) for one in (a, b))
    return [(x, y)]


def decimal_comma(text: str) -> Quantity | None:
    """`3,25` read as 3.25, as much of the world writes it; None where the comma may part thousands."""
    match = _DECIMAL_COMMA.fullmatch(text)
    return quantity(f"{match[1]}.{match[2]}") if match else None


def times_equal(a: str, b: str) -> bool | None:
    """Two times of day; None unless both are, and a.m., seconds or `00` say that they are no ratio."""
    first, second = _TIME.fullmatch(a), _TIME.fullmatch(b)
    if first is None or second is None:
        return None
    marked = bool(first[4]) + bool(second[4])
    if not marked and bool(first[3]) == bool(second[3]) and "00" not in (first[2], second[2]):
        return None
    same = _seconds(first, first[4]) == _seconds(second, second[4])
    return same or (marked == 1 and _seconds(first, None) == _seconds(second, None))


def _seconds(time: "re.Match[str]", half: str | None) -> int:
    hour = int(time[1]) % 12 + 12 * (half in ("p", "P")) if half else int(time[1])
    return hour * 3600 + int(time[2]) * 60 + int(time[3] or 0)
