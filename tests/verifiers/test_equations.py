"""Equations and inequalities say the same where their solutions agree in every variable."""

import pytest

from gmpo_mm.verifiers.equivalence import decide

SAME = [
    ("2x + 4y = 6", "x + 2y = 3"),
    ("y = 2x", "2y = 4x"),
    ("3x = 12", "x = 4"),
    ("x = 0", "x^2 = 0"),
    ("(x-1)^2 + y^2 = 4", "x^2 - 2x + y^2 = 3"),
    ("y = 1/x", "xy = 1"),
    ("x^2 = 2", "2x^2 - 4 = 0"),
    ("(x-1)(x-2)(x-3)=0", "x^3-6x^2+11x-6=0"),
    ("x^2y = 0", "xy = 0"),
    (r"x^2+y^2=\pi", r"\frac{x^2}{\pi}+\frac{y^2}{\pi}=1"),
    (r"\frac{x^2}{4}+\frac{y^2}{9}=1", "9x^2+4y^2=36"),
    ("y = 2x + 3", "2x - y + 3 = 0"),
    ("2x < 6", "x < 3"),
    ("-x < 1", "x > -1"),
    ("x > 0", "2x > 0"),
    ("a + b >= 2", "2 <= b + a"),
    ("1 < x < 4", "4 > x > 1"),
    ("|x| < 3", "-3 < x < 3"),
    (r"x < 2 \text{ or } x > 3", r"(-\infty,2) \cup (3,\infty)"),
    (r"\{1\} \cup (1,2]", "[1,2]"),
    ("x^2+y < 1", "2x^2+2y < 2"),
]
DIFFERENT = [
    ("x(y-1)=0", "x(y-2)=0"),
    ("x^2+1=0", "x^2+2=0"),
    ("(x-1)(x-2)(x-3)=0", "(x-1)(x-2)=0"),
    ("xy = 0", "x = 0"),
    ("x^2 = 4", "x = 2"),
    (r"\sqrt{x} = -1", r"\sqrt{x} = -2"),
    ("0 = 0", "1 = 1"),
    ("y = 2x", "y = 3x"),
    ("y = 2x", "x = 2y"),
    ("SRAC = LRAC", "-SRAC = LRAC"),
    ("x^2 < 4", "x < 2"),
    ("xy > 0", "x > 0"),
    ("x > 0", "-x > 0"),
    ("x < 3", r"x \leq 3"),
    ("x < 3", "y < 3"),
    ("x + y = 1", "x + z = 1"),
    ("(x-y)(x+y)=0", "(x-y)(x+2y)=0"),
    ("x^2+y^2=1", "x^2+y^2=1+10^{-40}"),
    ("x < 1", "x < 1-10^{-40}"),
    ("[0,1]", "[0,1-10^{-100}]"),
    ("[4, \\infty]", "[4, \\infty)"),
    ("(2,1)", "(1,2)"),
    ("[10,8,6)", "(10,8,6)"),
    ("5x - y = 0 wrong", "5x - y = 0"),
    ("x = 5", "y = 5"),
    (r"\sin x = \frac{42}{59}", r"\cos x = \frac{42}{59}"),
    ("x^3 = 8", "x = 2"),
    ("f(x] = 2", "f(x) = 1"),
    ("x y z = 0", "x y = 0"),
]


@pytest.mark.parametrize(("a", "b"), SAME)
def test_the_same_solutions_in_another_form_are_equal(a: str, b: str) -> None:
    assert decide(a, b).equal is True
    assert decide(b, a).equal is True


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_other_solutions_are_different(a: str, b: str) -> None:
    assert decide(a, b).equal is False
    assert decide(b, a).equal is False
