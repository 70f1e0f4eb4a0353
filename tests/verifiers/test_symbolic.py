"""What computer algebra proves equal on our own trees, and what it must never."""

from collections.abc import Callable

import pytest

from gmpo_mm.verifiers.normalize import canonical
from gmpo_mm.verifiers.symbolic import load_compare


@pytest.fixture(scope="module")
def equal() -> Callable[[str, str], bool]:
    compare = load_compare()

    def both_ways(a: str, b: str) -> bool:
        verdicts = {compare(canonical(a), canonical(b)), compare(canonical(b), canonical(a))}
        assert len(verdicts) == 1, "the order of the two must not count"
        return verdicts.pop()

    return both_ways


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("\\sum_{k=1}^{3} k", "6"), ("\\sum_{i=1}^{n} i^2", "\\frac{n(n+1)(2n+1)}{6}"),
        ("\\sum_{k=1}^\\infty \\frac{1}{k^2}", "\\frac{\\pi^2}{6}"),
        ("\\sum_{k=1}^{0} k", "0"), ("\\prod_{k=1}^{n} k", "n!"),
        ("\\binom{2n}{n}", "\\frac{(2n)!}{(n!)^2}"),
        ("\\sin 2x", "2 \\sin x \\cos x"), ("e^{i\\pi}", "-1"), ("\\sqrt[3]{-8}", "-2"), ("(-8)^{1/3}", "-2"),
        ("|x|", "\\sqrt{x^2}"), ("\\max(1, 2)", "2"),
        ("f(x) + 1", "1 + f(x)"), ("\\log_2 8", "3"),
        ("\\log 100", "2"),
        ("\\dot x (x+1)", "x \\dot x + \\dot x"),
    ],
)  # fmt: skip
def test_it_proves_what_is_equal(equal: Callable[[str, str], bool], a: str, b: str) -> None:
    assert equal(a, b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("\\sum_{k=1}^{n} k", "n"), ("\\sum_{k=1}^{n} k", "\\frac{n(n-1)}{2}"),
        ("f(x)", "f(y)"),
        ("f(x)", "g(x)"), ("x", "|x|"), ("\\sqrt{x^2}", "x"), ("\\max(a, b)", "a"),
        ("\\sum_{k=1}^{n/2} k", "\\frac{n(n+2)}{8}"), ("\\sum_{k=5}^{2} k", "-7"),
        ("145 3", "148"), ("\\log 8", "\\ln 8"), ("100! - 1", "100!"), ("10^{-40}", "2 \\cdot 10^{-40}"),
        ("\\dot x", "\\ddot x"),
        ("\\lfloor x \\rfloor", "\\lceil x \\rceil - 1"),
    ],
)  # fmt: skip
def test_it_proves_nothing_that_is_different(equal: Callable[[str, str], bool], a: str, b: str) -> None:
    assert not equal(a, b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("1/0", "2/0"),
        ("2 \\sum_{k=1}^\\infty (-1)^k", "\\sum_{k=1}^\\infty 2(-1)^k"), ("\\log_{((x+1)^2-x^2-2x)} 1", "0"),
        ("1/(1/0)", "0"), ("0^0", "1"), ("\\frac{0}{x-x}", "0"), ("\\log_1 5", "1"),
        ("(-1)!", "1"),
        ("\\infty", "\\infty + 1"), ("\\infty - \\infty", "0"),
        ("\\sum_{k=1}^\\infty \\frac1k", "\\sum_{k=1}^\\infty \\frac{1}{k+1}"),
        ("\\sum_{k=0}^\\infty (-1)^k", "\\frac12"), ("\\sum_{k=0}^\\infty 2^k", "-1"),
        ("\\sum_{k=1}^{3} \\frac{1}{k-k}", "0"), ("\\sum_{k=0}^{3} \\frac{k}{k}", "4"),
        ("\\prod_{k=0}^{2} \\frac{k+1}{k}", "0"),
        ("\\prod_{k=1}^\\infty \\frac12", "0"),
    ],
)  # fmt: skip
def test_what_has_no_value_equals_nothing(equal: Callable[[str, str], bool], a: str, b: str) -> None:
    assert not equal(a, b)


HIDDEN_ZERO = "((x+1)^2 - x^2 - 2x - 1)"
HIDDEN_CONSTANT = "(\\sqrt{2}\\sqrt{3} - \\sqrt{6})"


@pytest.mark.parametrize("gold", ["1", "7", "x + 1", "0"])
@pytest.mark.parametrize(
    "prediction",
    [f"\\frac{{{HIDDEN_ZERO}}}{{{HIDDEN_ZERO.replace('x', 'y')}}}", f"\\frac{{{HIDDEN_ZERO}(x+1)}}{{{HIDDEN_ZERO}}}",
     f"\\frac{{{HIDDEN_CONSTANT}}}{{{HIDDEN_CONSTANT}}}", f"7 {HIDDEN_ZERO} {HIDDEN_ZERO}^{{-1}}",
     f"\\frac{{{HIDDEN_ZERO} f(x)}}{{{HIDDEN_ZERO}}}"],
)  # fmt: skip
def test_a_zero_over_a_zero_that_nobody_sees_equals_nothing(
    equal: Callable[[str, str], bool], prediction: str, gold: str
) -> None:
    assert not equal(prediction, gold)
