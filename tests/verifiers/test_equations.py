"""Equations and inequalities say the same where their solutions agree in every variable."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmpo_mm.verifiers.equivalence import decide

SAME = [
    (r"\frac{1}{x}+\frac{1}{2x-1} = 1", "2x^2-4x+1 = 0"),
    ("2x + 4y = 6", "x + 2y = 3"), ("y = 2x", "2y = 4x"), ("3x = 12", "x = 4"),
    ("(x-1)^2 + y^2 = 4", "x^2 - 2x + y^2 = 3"), ("y = 1/x", "xy = 1"), ("x^2 = 2", "2x^2 - 4 = 0"),
    ("(x-1)(x-2)(x-3)=0", "x^3-6x^2+11x-6=0"),
    (r"x^2+y^2=\pi", r"\frac{x^2}{\pi}+\frac{y^2}{\pi}=1"),
    (r"\frac{x^2}{4}+\frac{y^2}{9}=1", "9x^2+4y^2=36"), ("y = 2x + 3", "2x - y + 3 = 0"),
    ("x+1/x = 2", "(x-1)^2 = 0"), ("0y + x = 1", "x = 1"), (r"x = \frac{\sqrt{2}}{y}", r"xy = \sqrt{2}"),
    ("y = |x|", "2y = 2|x|"), ("PV = nRT", r"P = \frac{nRT}{V}"), ("F = ma", r"a = \frac{F}{m}"),
    ("z = iw", "2z = 2iw"), ("x^{10} = 1024", "2x^{10} = 2048"), (r"y = \frac{x+1}{x-1}", "xy-y-x-1 = 0"),
    ("2x < 6", "x < 3"), ("-x < 1", "x > -1"), ("x > 0", "2x > 0"), ("a + b >= 2", "2 <= b + a"),
    ("1 < x < 4", "4 > x > 1"), ("|x| < 3", "-3 < x < 3"),
    (r"x < 2 \text{ or } x > 3", r"(-\infty,2) \cup (3,\infty)"), (r"\{1\} \cup (1,2]", "[1,2]"),
    ("x^2+y < 1", "2x^2+2y < 2"),
]  # fmt: skip
MANY = "".join(f"(x-{k})" for k in range(16))
DIFFERENT = [
    (f"y x {MANY} = 0", f"y {MANY} (x-99) = 0"), ("x+y < 1", "-x-y < -1"),
    ("x(y-1)=0", "x(y-2)=0"), ("x^2+1=0", "x^2+2=0"), ("(x-1)(x-2)(x-3)=0", "(x-1)(x-2)=0"),
    ("xy = 0", "x = 0"), ("x^2 = 4", "x = 2"), (r"\sqrt{x} = -1", r"\sqrt{x} = -2"), ("0 = 0", "1 = 1"),
    ("y = 2x", "y = 3x"), ("y = 2x", "x = 2y"), ("SRAC = LRAC", "-SRAC = LRAC"),
    (r"(x-1)\lfloor y/100 \rfloor = 0", "x-1 = 0"), ("(x-1)|y| = 0", "x-1 = 0"),
    ("(x-1)|y-50| = 0", "(x-1)|y-70| = 0"), ("(x-1)(y-2) = 0", "x-1 = 0"),
    (r"\frac{x(x-1)}{x} = 0", "x(x-1) = 0"), (r"(x-1)\sin y = 0", r"(x-1)\cos y = 0"),
    ("x^2+1 = 0", "(x^2+1)(x-3) = 0"), ("17 = 17", "18 = 18"), ("x = x", "y = y"), ("x = x", "x = x+1"),
    ("y = |x|", "y = x"), ("y = |x|", "y^2 = x^2"), ("x^2+y^2 = 1", r"y = \sqrt{1-x^2}"),
    ("x y z = 1", "xyz = 2"), ("z = iw", "z = -iw"), ("x^2 < 4", "x < 2"), ("xy > 0", "x > 0"),
    ("x > 0", "-x > 0"), ("x < 3", r"x \leq 3"), ("x < 3", "y < 3"), ("x + y = 1", "x + z = 1"),
    ("(x-y)(x+y)=0", "(x-y)(x+2y)=0"), ("x^2+y^2=1", "x^2+y^2=1+10^{-40}"), ("x < 1", "x < 1-10^{-40}"),
    ("[0,1]", "[0,1-10^{-100}]"), ("[4, \\infty]", "[4, \\infty)"), ("(2,1)", "(1,2)"),
    ("[10,8,6)", "(10,8,6)"), ("5x - y = 0 wrong", "5x - y = 0"), ("x = 5", "y = 5"),
    (r"\sin x = \frac{42}{59}", r"\cos x = \frac{42}{59}"), ("x^3 = 8", "x = 2"), ("f(x] = 2", "f(x) = 1"),
    ("x y z = 0", "x y = 0"),
]  # fmt: skip


@pytest.mark.parametrize(("a", "b"), SAME)
def test_the_same_solutions_in_another_form_are_equal(a: str, b: str) -> None:
    assert decide(a, b).equal is True
    assert decide(b, a).equal is True


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_other_solutions_are_different(a: str, b: str) -> None:
    assert decide(a, b).equal is False
    assert decide(b, a).equal is False


FACTORS = st.sampled_from(["x", "y", "(x-1)", "(x+y)", "(x-2y)", "(xy-1)", "(y+3)", "(x^2+y-5)"])


@settings(max_examples=60, deadline=None)
@given(*[st.lists(FACTORS, min_size=1, max_size=3, unique=True)] * 2)
def test_products_are_zero_at_the_same_points_exactly_when_their_factors_are_the_same(
    a: list[str], b: list[str]
) -> None:
    verdict = decide(" ".join(a) + " = 0", "0 = -2 " + " ".join(b)).equal
    assert verdict is (set(a) == set(b))
