"""The cheap stages of equivalence: text, then exact numbers; `None` leaves the pair to math-verify."""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from gmpo_mm.verifiers.arithmetic import NotArithmetic, Real, divide, evaluate, rational
from gmpo_mm.verifiers.normalize import has_words, normalise, text_key

MAX_LENGTH = 512  # characters; a longer answer is compared as text only and never parsed

_RELATION = re.compile(r"(<=|>=|!=|<|>|=|\\approx(?![A-Za-z]))")
_MIRRORED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}
# `x`, `AB`, `x_1`, `\theta`, `\angle ABC`, `m \angle 1`: what may stand before `=` without being part of the answer.
_NAME = re.compile(
    r"(?:m ?)?(?:\\angle ?\w{1,3}|[A-Za-z] ?[A-Za-z]?'?(?:_ ?\{? ?\w{1,3} ?\}?)?|\\[a-z]+(?:_ ?\{? ?\w{1,3} ?\}?)?)"
)
_NOT_A_NAME = frozenset({"\\pi", "\\frac", "\\sqrt", "\\infty"})
_THOUSANDS = re.compile(r"(?<![\d.,])(\d{1,3}(?:,\d{3})+)(?![\d,])")
_UNIT = re.compile(r"(?<=[\d)}°%\s])((?:[A-Za-z]{2,}\.?[ /]?){1,4}(?:\^ ?\{? ?[23] ?\}?)?)$")
_NOT_A_UNIT = re.compile(
    r"(?<![A-Za-z])(?:and|or|pi|sqrt|sin|cos|tan|log|ln|exp|hundred|thousand|million|billion|trillion|dozen|to|is|by|half|"
    r"percent)(?![A-Za-z])",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Quantity:
    """A number or a ratio of three or more, with the name it was given and its unit, where it has them."""

    values: tuple[Real, ...]
    unit: str | None
    name: str | None


def cheap_equal(prediction: str, gold: str) -> bool | None:
    """True or False where text or exact arithmetic decides; None where only symbolic algebra can.

    A degree sign, a unit or a name that only one side writes does not count; two different ones do.
    """
    if prediction == gold:
        return True
    if len(prediction) > MAX_LENGTH or len(gold) > MAX_LENGTH:
        return False
    text, gold_text = _normalised(prediction), _normalised(gold)
    if not text or not gold_text:
        return False
    if _key(text) == _key(gold_text):
        return True
    quantity, gold_quantity = _quantity(text), _quantity(gold_text)
    if quantity is not None and gold_quantity is not None:
        return _quantities_equal(quantity, gold_quantity)
    relation, gold_relation = _relation(text), _relation(gold_text)
    if relation is not None and gold_relation is not None and _relations_equal(relation, gold_relation):
        return True
    if has_words(gold_text):
        return False
    return None


_normalised = lru_cache(maxsize=8192)(normalise)
_key = lru_cache(maxsize=8192)(text_key)


@lru_cache(maxsize=8192)
def _quantity(text: str) -> Quantity | None:
    """The answer as a number with name and unit, or None when it is anything else."""
    name, value_text = _split_name(text)
    value_text, unit = _split_unit(value_text)
    if "(" not in value_text and "[" not in value_text:
        value_text = _THOUSANDS.sub(lambda match: match.group().replace(",", ""), value_text)
    try:
        parts = [evaluate(part) for part in value_text.split(":")]
        if len(parts) == 2:  # a ratio of two is their quotient: 4:6 is 2:3 is 2/3
            parts = [divide(parts[0], parts[1])]
        elif len(parts) > 2:
            parts = [divide(part, parts[0]) for part in parts]
    except NotArithmetic:
        return None
    return Quantity(tuple(parts), unit, name)


def _split_name(text: str) -> tuple[str | None, str]:
    pieces = _RELATION.split(text)
    if len(pieces) == 3 and pieces[1] in ("=", "\\approx"):
        left = pieces[0].strip()
        if not left and pieces[1] == "\\approx":
            return None, pieces[2]
        if _NAME.fullmatch(left) and left not in _NOT_A_NAME:
            return text_key(left), pieces[2]
    return None, text


def _split_unit(text: str) -> tuple[str, str | None]:
    text = text.strip()
    if text.endswith(("%", " percent")):
        return text.removesuffix("percent").removesuffix("%"), "%"
    if text.endswith("°"):
        return text[:-1], "°"
    if "°" in text:
        text = text.replace("°", "")
    unit = _UNIT.search(text)
    if unit is None or _NOT_A_UNIT.search(unit.group()) or not any(c.isdigit() for c in text[: unit.start()]):
        return text, None
    spelling = re.sub(r"[\s{}.]", "", unit.group().lower())
    return text[: unit.start()], re.sub(r"s(?=\^|$)", "", spelling)


def _quantities_equal(a: Quantity, b: Quantity) -> bool:
    if a.name is not None and b.name is not None and a.name != b.name:
        return False
    if a.unit is not None and b.unit is not None and a.unit != b.unit:
        return False
    if len(a.values) != len(b.values):
        return False
    if all(x.equals(y) for x, y in zip(a.values, b.values, strict=True)):
        return True
    # 60 % is written for 0.6 as well as for a gold of 60.
    percent = rational(Fraction(100))
    if a.unit == "%" and b.unit is None:
        return divide(a.values[0], percent).equals(b.values[0])
    if b.unit == "%" and a.unit is None:
        return divide(b.values[0], percent).equals(a.values[0])
    return False


@lru_cache(maxsize=8192)
def _relation(text: str) -> tuple[str, ...] | None:
    """`1 < x < 60` as (side, operator, side, ...), or None without a relation or with an empty side."""
    pieces = tuple(piece.strip() for piece in _RELATION.split(text))
    if len(pieces) < 3 or not all(pieces) or any(operator not in _MIRRORED for operator in pieces[1::2]):
        return None
    return pieces


def _relations_equal(a: tuple[str, ...], b: tuple[str, ...]) -> bool:
    """Same sides in the same order, or all mirrored: `x < 60` and `60 > x`."""
    if len(a) != len(b):
        return False
    mirrored = tuple(_MIRRORED[piece] if i % 2 else piece for i, piece in enumerate(a))[::-1]
    return any(
        all(x == y if i % 2 else _sides_equal(x, y) for i, (x, y) in enumerate(zip(pieces, b, strict=True)))
        for pieces in (a, mirrored)
    )


def _sides_equal(a: str, b: str) -> bool:
    if _key(a) == _key(b):
        return True
    x, y = _quantity(a), _quantity(b)
    return x is not None and y is not None and _quantities_equal(x, y)
