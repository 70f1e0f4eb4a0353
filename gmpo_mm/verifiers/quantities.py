"""Answers that are one number (or a ratio) with the unit that people give it; compared exactly."""

import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache

from gmpo_mm.verifiers.arithmetic import NotArithmetic, Real, divide, evaluate, rational
from gmpo_mm.verifiers.units import Unit, same_unit, split_unit
from gmpo_mm.verifiers.words import number_in_words, split_multiplier

_THOUSANDS = re.compile(r"(?<![\d.,])(\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+)(?![\d,]| \d)")
_DECIMAL_COMMA = re.compile(r"(-?)(\d+),(\d+)")
_LONG_DECIMAL = re.compile(r"-?(\d*)\.(\d+)(?: ?\* ?10 ?\^ ?\{? ?(-?\d{1,3}) ?\}?)?")
_WRITTEN_AS_DECIMAL = re.compile(r"\d?\.\d|\d[eE][-+]?\d")
_TIME = re.compile(r"(\d{1,2}):([0-5]\d)(?::([0-5]\d))? ?(?:([ap])\.? ?m\.?)?", re.IGNORECASE)
_RATIO = re.compile(r":|(?<=\d) to (?=\d)")
_ORDINAL = re.compile(r"(?<=\d) ?(?:\^ ?\{? ?)?(?:st|nd|rd|th)(?: ?\})?$")
PRINTED_DIGITS = 13
"""Significant digits from which on a decimal is taken for a computed value's print-out, right to its last place."""


@dataclass(frozen=True)
class Quantity:
    """A number, or a ratio of three or more, and its unit where it has one."""

    values: tuple[Real, ...]
    unit: Unit | None
    last_place: Decimal | None = None
    """Unit of the last digit of a decimal with at least PRINTED_DIGITS digits."""
    decimal: bool = False
    """Whether it is written with a decimal point or in scientific notation, and so may be rounded."""


@lru_cache(maxsize=8192)
def quantity(text: str, bare_units: bool = False) -> Quantity | None:
    """The canonical text as a number with its unit, or None when it is anything else."""
    value_text, unit = split_unit(text, bare_units)
    value_text, multiplier = split_multiplier(_ORDINAL.sub("", value_text))
    in_words = number_in_words(value_text) if value_text[-1:].isalpha() else None
    value_text = str(in_words) if in_words is not None else value_text
    if "(" not in value_text and "[" not in value_text:
        value_text = _THOUSANDS.sub(lambda match: re.sub("[, ]", "", match.group()), value_text)
    try:
        parts = [evaluate(part) for part in _RATIO.split(value_text)]
        if len(parts) > 1 and multiplier != 1:
            return None
        if len(parts) == 2:  # a ratio of two is their quotient: 4:6 is 2:3 is 2/3
            parts = [divide(parts[0], parts[1])]
        elif len(parts) > 2:
            parts = [divide(part, parts[0]) for part in parts]
        elif multiplier != 1:
            parts = [divide(parts[0], rational(1 / multiplier))]
    except NotArithmetic:
        return None
    return Quantity(
        tuple(parts), unit, _last_place(value_text.strip()), bool(_WRITTEN_AS_DECIMAL.search(value_text))
    )


_DECIMAL = re.compile(
    r"[-+]?[\d,]*(?:\.(\d+))?(?: ?\* ?10 ?\^ ?\{? ?([-+]?\d{1,3}) ?\}?|[eE]([-+]?\d{1,3}))?"
)


def last_place(text: str) -> Decimal | None:
    """Value of one unit in the last digit of a decimal, its unit of measure aside; None for anything else."""
    match = _DECIMAL.fullmatch(split_unit(text)[0].strip())
    return (
        Decimal(1).scaleb(int(match.group(2) or match.group(3) or 0) - len(match.group(1) or ""))
        if match
        else None
    )


def _last_place(text: str) -> Decimal | None:
    match = _LONG_DECIMAL.fullmatch(text)
    if match is None or len((match.group(1) + match.group(2)).lstrip("0")) < PRINTED_DIGITS:
        return None
    return Decimal(1).scaleb(int(match.group(3) or 0) - len(match.group(2)))


def quantities_equal(a: Quantity, b: Quantity) -> bool:
    """Same numbers; a unit on one side only does not count, two different ones do."""
    if not same_unit(a.unit, b.unit) or len(a.values) != len(b.values):
        return False
    if all(x.equals(y) for x, y in zip(a.values, b.values, strict=True)):
        return True
    if len(a.values) == 1 and (a.last_place is None) != (b.last_place is None):
        printed, exact = (a, b) if a.last_place is not None else (b, a)
        if (
            printed.last_place is not None
            and abs(a.values[0].digits - b.values[0].digits) < printed.last_place
        ):
            return True
        double = exact.values[0].exact is None and printed.last_place is not None  # all digits of a double
        if double and float(printed.values[0].digits) == float(exact.values[0].digits):
            return True
    return any(x.equals(y) for x, y in percent_readings(a, b))


def percent_readings(a: Quantity, b: Quantity) -> list[tuple[Real, Real]]:
    """60 % is written for 0.6 as well as for a gold of 60: where one side has the sign, its hundredth beside the other."""
    percent = (("%", 1),)
    hundred = rational(Fraction(100))
    if a.unit == percent and b.unit is None:
        return [(divide(a.values[0], hundred), b.values[0])]
    if b.unit == percent and a.unit is None:
        return [(a.values[0], divide(b.values[0], hundred))]
    return []


def decimal_comma(text: str) -> Quantity | None:
    """`3,25` read as 3.25, as much of the world writes it; None where the comma may part thousands."""
    match = _DECIMAL_COMMA.fullmatch(text)
    if match is None or (
        len(match.group(3)) == 3 and len(match.group(2)) <= 3 and not match.group(2).startswith("0")
    ):
        return None
    return quantity(f"{match.group(1)}{match.group(2)}.{match.group(3)}")


def times_equal(a: str, b: str) -> bool | None:
    """Two times of day; None unless both are, and one of them says a.m. or p.m. or seconds, or has no value as a ratio."""
    first, second = _TIME.fullmatch(a), _TIME.fullmatch(b)
    if first is None or second is None:
        return None
    marked_at_all = first.group(4) or second.group(4) or (first.group(3) is None) != (second.group(3) is None)
    if not marked_at_all and "00" not in (first.group(2), second.group(2)):
        return None
    exact = [_minutes(match) for match in (first, second)]
    if bool(first.group(4)) == bool(second.group(4)):
        return exact[0] == exact[1]
    bare, marked = (second, first) if first.group(4) else (first, second)
    as_written = int(bare.group(1)) * 3600 + int(bare.group(2)) * 60 + int(bare.group(3) or 0)
    half_day = int(marked.group(1)) * 3600 + int(marked.group(2)) * 60 + int(marked.group(3) or 0)
    return as_written in (half_day, _minutes(marked))


def _minutes(match: "re.Match[str]") -> int:
    hour = int(match.group(1)) % 12 if match.group(4) else int(match.group(1))
    if match.group(4) and match.group(4).lower() == "p":
        hour += 12
    return hour * 3600 + int(match.group(2)) * 60 + int(match.group(3) or 0)
