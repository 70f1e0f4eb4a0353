"""Sets of reals are equal exactly when the same numbers are in them; ends are compared as values are."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmpo_mm.verifiers.equivalence import decide
from gmpo_mm.verifiers.intervals import EVERYTHING, RealSet, combined, interval, same_set

SAME = [
    (r"[0, \sqrt{4})", r"0 \leq x < 2"), ("|x| > -1", r"\mathbb{R}"),
    (r"[0, \sqrt{2}\sqrt{3})", r"[0, \sqrt{6})"), (r"\sqrt{2}x < \sqrt{6}", r"x < \sqrt{3}"),
    (r"\pi x < 1", r"x < \frac{1}{\pi}"), ("10^{-50}x < 10^{-50}", "x < 1"), (r"[1,2] \cup [2,3]", "[1,3]"),
    (r"[1,2) \cup [2,3]", "[1,3]"), (r"(1,2) \cup (2,3)", r"(1,3) \setminus \{2\}"),
    (r"\{1\} \cup \{1\}", r"\{1\}"), (r"(-\infty,0) \cup (0,\infty)", r"x \neq 0"),
    (r"[1,5] \cap [3,8]", "[3,5]"), (r"[1,2] \cap [2,3]", r"\{2\}"), (r"[1,2] \cap [3,4]", r"\emptyset"),
    (r"x > 5 \text{ and } x < 3", r"\emptyset"), (r"x < 2 \text{ or } x > 1", r"\mathbb{R}"),
    ("|x| < 0", r"\emptyset"), ("|x| < -1", r"\emptyset"), (r"|x| \leq 0", r"\{0\}"),
    (r"|x| \geq 0", r"\mathbb{R}"), ("|x| > 0", r"x \neq 0"),
    (r"|x-1| \geq 3", r"x \leq -2 \text{ or } x \geq 4"), ("|2x| < 4", "(-2,2)"), ("1 < x < 4", "(1,4)"),
]  # fmt: skip
DIFFERENT = [
    (r"(0, \sqrt{10^{200}+1})", "(0, 10^{100})"), (r"x < \sqrt{10^{200}+1}", "x < 10^{100}"),
    (r"[0, \sqrt{2}+10^{-120})", r"[0, \sqrt{2})"), ("[0, 1-10^{-200}]", "[0, 1]"),
    (r"[0, \frac{10^{120}}{10^{120}+1})", "[0, 1)"), (r"[0, 10^{-200}\pi)", r"[0, 2 \cdot 10^{-200}\pi)"),
    ("10^{-50}x < 1", "x < 1"), ("x < 10^{50}", "x < 10^{50}+1"), (r"[1,2) \cup (2,3]", "[1,3]"),
    (r"[1,2] \cap [2,3]", "[1,3]"), (r"[1,5] \cap [3,8]", "(3,5]"), ("x > 3", r"[3,\infty)"),
    ("(2,1)", "(1,2)"), (r"|x| \leq 0", r"\emptyset"), ("|x| < 0", r"\{0\}"),
    ("|x| > 0", r"\mathbb{R}"), ("1 < x < 4", "1 < x < 5"), (r"(-\infty, 1-10^{-40})", "x < 1"),
    ("|x| < 2", "|x| < 3"),
]  # fmt: skip


@pytest.mark.parametrize(("a", "b"), SAME)
def test_the_same_numbers_in_another_notation_are_the_same_set(a: str, b: str) -> None:
    assert decide(a, b).equal is True
    assert decide(b, a).equal is True


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_one_number_more_makes_another_set(a: str, b: str) -> None:
    assert decide(a, b).equal is False
    assert decide(b, a).equal is False


@pytest.mark.parametrize("ends", ["(1,1)", "[1,1)", "[2,1]", "(1,x)", r"[1,\infty]", r"[-\infty,1)"])
def test_ends_that_make_no_interval_are_refused(ends: str) -> None:
    low, high = ends[1:-1].split(",")
    assert interval(ends[0], low, high, ends[-1]) is None


def test_ends_that_agree_to_a_hundred_digits_still_have_an_order() -> None:
    near = r"\sqrt{2}", r"\sqrt{2}+10^{-100}"
    assert interval("(", *near, ")") is not None
    assert interval("(", *reversed(near), ")") is None


NUMBERS = [str(k) for k in range(4)] + [r"\sqrt{2}", r"\pi", r"\frac{5}{2}"]
VALUES = {**{str(k): Fraction(k) for k in range(4)}, r"\frac{5}{2}": Fraction(5, 2)}
VALUES |= {r"\sqrt{2}": Fraction(1414213562, 10**9), r"\pi": Fraction(3141592653, 10**9)}
PROBES = sorted(
    {value + shift for value in VALUES.values() for shift in (Fraction(-1, 9), Fraction(0), Fraction(1, 9))}
)
PIECES = st.one_of(
    st.tuples(
        st.sampled_from("(["), st.sampled_from(NUMBERS), st.sampled_from(NUMBERS), st.sampled_from(")]")
    ).map(lambda parts: interval(*parts)),
    st.sampled_from(NUMBERS).map(lambda point: interval("[", point, point, "]")),
    st.just(()),
).filter(lambda one: one is not None)


def holds(one: RealSet, probe: Fraction) -> bool:
    """Whether an odd number of cuts is below it; irrational values are as they are in VALUES."""
    below = 0
    for number, side in one:
        if number is None:
            below += side < 0
        else:
            value = min(VALUES.values(), key=lambda known: abs(known - Fraction(number.digits)))
            below += (value, side) < (probe, 0)
    return below % 2 == 1


@settings(max_examples=150, deadline=None)
@given(st.lists(PIECES, max_size=4), st.lists(PIECES, max_size=4))
def test_union_intersection_and_complement_hold_what_their_parts_say(
    a: list[RealSet], b: list[RealSet]
) -> None:
    first, second = combined(a, any), combined(b, any)
    for probe in PROBES:
        ins = any(holds(one, probe) for one in a), any(holds(one, probe) for one in b)
        assert holds(first, probe) is ins[0]
        assert holds(combined([first, second], all), probe) is (ins[0] and ins[1])
        assert holds(combined([EVERYTHING, first], lambda inside: not inside[1]), probe) is not ins[0]
    assert same_set(first, second) is all(holds(first, probe) == holds(second, probe) for probe in PROBES)
