"""What counts as a unit behind a number, and that nothing else does."""

import pytest

from gmpo_mm.verifiers.equivalence import RULES, decide
from gmpo_mm.verifiers.normalize import canonical
from gmpo_mm.verifiers.units import split_unit


@pytest.mark.parametrize(
    ("text", "rest", "unit"),
    [
        ("60 cm", "60", {"centim": 1}),
        ("60cm", "60", {"centim": 1}),
        (r"5 \text{ m}", "5", {"m": 1}),
        (r"9.8\ \mathrm{m}/\mathrm{s}^2", "9.8", {"m": 1, "s": -2}),
        ("9.8 m/s^2", "9.8", {"m": 1, "s": -2}),
        (r"15000 \text{ kcal m}^{-2} \text{yr}^{-1}", "15000", {"kilocal": 1, "m": -2, "yr": -1}),
        ("15000 kcal/(m^2 yr)", "15000", {"kilocal": 1, "m": -2, "yr": -1}),
        ("60 miles per hour", "60", {"mi": 1, "h": -1}),
        ("60 mph", "60", {"mi": 1, "h": -1}),
        ("12 square centimeters", "12", {"centim": 2}),
        ("865 inches squared", "865", {"in": 2}),
        (r"\$32", "32", {"USD": 1}),
        ("17 students", "17", {"student": 1}),
        (r"12 \pi \text{ cm}^3", r"12 \pi", {"centim": 3}),
        ("3 μm", "3", {"microm": 1}),
        (r"3\,\mu\text{m}", "3", {"microm": 1}),
        (r"5\,\Omega", "5", {"Ω": 1}),
        ("50%", "50", {"%": 1}),
        ("1950° C", "1950", {"°C": 1}),
        ("0.003''", "0.003", {"arcsec": 1}),
        (r"M = 1.75 M_\odot", "M = 1.75", {"M_\\odot": 1}),
    ],
)
def test_units_and_their_exponents(text: str, rest: str, unit: dict[str, int]) -> None:
    assert split_unit(canonical(text)) == (rest, tuple(sorted(unit.items())))


@pytest.mark.parametrize(
    "text",
    [
        r"2\pi h",
        "3 k",
        "5 m",
        "5 wrong",
        "5 never",
        "3 x",
        "7 squared",
        "5 mod 7",
        "x cm",
        "cm",
        "5 cm wrong",
        "12 pi",
        "5 or",
    ],
)
def test_variables_and_other_words_are_no_units(text: str) -> None:
    assert split_unit(canonical(text))[1] is None


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        ("5 cm", "5", True),
        ("5 cm", "5 inches", False),
        ("100 cm", "1 m", False),
        ("5 m^2", r"5 \text{ m}", False),
        ("3 fourths", "0.75", True),
        ("3 fourths", "3", False),
        ("5 dozens", "60", True),
        ("5 dozens", "5", False),
        ("twenty-one", "21", True),
        ("5 million", "5000000", True),
        ("5 million", "5", False),
        ("12th", "12", True),
        (r"12^{\text{th}}", "12", True),
        (r"2\pi h", r"2\pi", False),
        ("5 apples", "5 oranges", False),
        ("30°", "30", True),
        ("30° C", "30 K", False),
        ("12 square units", "12", True),
        ("145 3", "148", False),
        ("17 23", "17", False),
    ],
)
def test_a_unit_that_one_side_writes_does_not_count_and_number_words_are_numbers(
    a: str, b: str, equal: bool
) -> None:
    assert decide(a, b).equal is equal
    assert decide(b, a).equal is equal


def test_a_single_letter_behind_a_plain_number_is_a_unit_for_minerva_only() -> None:
    assert decide("5 m", "5", RULES["minerva"]).equal is True
    assert decide("5 m", "5", RULES["math"]).equal is False
    assert decide(r"2\pi h", r"2\pi", RULES["minerva"]).equal is False
