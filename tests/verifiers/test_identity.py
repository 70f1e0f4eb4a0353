"""Numbers are compared exactly, formulas where they could differ."""

import json
import os
import subprocess
import sys
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmpo_mm.verifiers.equivalence import decide
from gmpo_mm.verifiers.evaluation import MAX_BITS, Evaluator, OutsideDomain
from gmpo_mm.verifiers.expressions import parse_expression
from gmpo_mm.verifiers.identity import same_trees
from gmpo_mm.verifiers.normalize import canonical
from gmpo_mm.verifiers.points import sample_points
from gmpo_mm.verifiers.quantities import evaluate

EQUAL_CONSTANTS = [
    (r"\sqrt{2}\sqrt{3}", r"\sqrt{6}"), (r"\sqrt{3+2\sqrt{2}}", r"1+\sqrt{2}"),
    (r"2\cos(\pi/5)", r"\frac{1+\sqrt{5}}{2}"), (r"\frac{\ln 8}{\ln 2}", "3"),
    ("2^{1009}", r"4^{504} \cdot 2"), (r"\sqrt[3]{2+\sqrt{5}} + \sqrt[3]{2-\sqrt{5}}", "1"),
    ("2^{10^9}", "2^{1000000000}"), (r"e^{\ln 7}", "7"), (r"(1+i)^2", "2i"), (r"\sqrt{-4}", "2i"),
    (r"\lfloor \sqrt{2}^2 \rfloor", "2"), ("2^{10^9}+1", "1+2^{1000000000}"), (r"(-2)^{\ln 8/\ln 2}", "-8"),
    (r"\frac{1}{10^{-90}\sqrt{2}}", r"10^{90}\frac{\sqrt{2}}{2}"),
    (r"\sqrt{3+2\sqrt{2}-(1+\sqrt{2})^2}", "0"), (r"2^{1000}\sqrt{3}", r"\sqrt{3 \cdot 4^{1000}}"),
    (r"\lfloor 2-\sqrt{2} \cdot 10^{-80} \rfloor", "1"),
    (r"\cos\frac{\pi}{7}\cos\frac{2\pi}{7}\cos\frac{3\pi}{7}", r"\frac{1}{8}"),
    (r"\frac{10000!}{9999!}", "10000"), (r"\sin(30°)", r"\frac{1}{2}"), (r"\arctan 1", r"\frac{\pi}{4}"),
    (r"\binom{10}{3}", "120"), ("(-8)^{1/3}", "-2"),
]  # fmt: skip
DIFFERENT_CONSTANTS = [
    (r"\frac{17\sin\pi}{\sin\pi}", "17"), ("100!-1", "100!"), ("2^{1009}+1", "2^{1009}"),
    (r"\frac{3^{1008}-1}{3^{1009}}", r"\frac{1}{3}"), ("10^{-40}", r"2 \cdot 10^{-40}"),
    (r"\sqrt{10^{100}+1}", "10^{50}"), ("e^{100}+1", "e^{100}"), ("1-10^{-60}", "1"),
    (r"\sqrt{2}+10^{-100}", r"\sqrt{2}"), (r"\frac{1}{2006!}", r"\frac{1}{2004!}"),
    ("2^{10^9}", "2^{10^9}+1"), ("2^{2^{100}}", "2^{2^{101}}"), ("1/0", "2/0"), ("1/0", "0"),
    (r"\pi", r"\frac{355}{113}"), (r"e^{\pi\sqrt{163}}", "262537412640768744"),
    (r"\sqrt{2}+\sqrt{3}", r"\sqrt{10}"), ("3000!", "2999!"), (r"\sin(10^{-100})", "10^{-100}"),
    (r"\tan(10^{-60})", r"\sin(10^{-60})"), (r"\cos(10^{-60})", "1"), (r"\tanh(200)", "1"),
    (r"\ln(10^{-300}+1)", "0"), (r"e^{10^{-50}}", "1+10^{-50}"), (r"\sqrt{10^{2000}+1}-10^{1000}", "0"),
    (r"\arctan(10^{200})", r"\frac{\pi}{2}"), ("(1+10^{-30})^{1000}", "1"),
    (r"\lfloor 2-\sqrt{2} \cdot 10^{-80} \rfloor", "2"), (r"\arcsin(1-10^{-70})", r"\frac{\pi}{2}"),
    ("e^{-20000}", "0"), (r"\frac{1}{\sqrt{2}\sqrt{3}-\sqrt{6}}", r"\frac{2}{\sqrt{2}\sqrt{3}-\sqrt{6}}"),
    (r"\frac{17(\sqrt{2}\sqrt{3}-\sqrt{6})}{\sqrt{2}\sqrt{3}-\sqrt{6}}", "17"),
    (r"1-\frac{1}{2^{1000000}}", "1"), (r"\lfloor 10^{300}\sqrt{2} \rfloor / 10^{300}", r"\sqrt{2}"),
    ("10^{100!}", "10^{101!}"), (r"\sin(10^{-30})", "10^{-30}"), (r"\lfloor 2 - 10^{-80} \rfloor", "2"),
    ("9^{9^{9^{9}}}", "x+1"), ("10^{10}", "10^{10^{10^{10}}}"),
]  # fmt: skip
EQUAL_FORMULAS = [
    (r"\ln(x^2)", r"2\ln x"), (r"\frac{x^2-1}{x-1}", "x+1"), ("(-1)^{k}", "(-1)^{k+2}"),
    ("|x|", r"\sqrt{x^2}"), (r"\lfloor n/2 \rfloor", r"\frac{2n-1+(-1)^n}{4}"), (r"\cos(n\pi)", "(-1)^n"),
    (r"\sqrt{x}\sqrt{y}", r"\sqrt{xy}"), ("|x-y|", "|y-x|"), (r"\binom{n}{k}", r"\binom{n}{n-k}"),
    ("(n+1)!", "(n+1) n!"), (r"\frac{n!}{2!(n-2)!}", r"\binom{n}{2}"), ("x^{2009}-1", "-1+x^{2009}"),
    (r"\sin(2x)", r"2\sin x \cos x"), (r"e^{x+y}", r"e^x e^y"),
    (r"\frac{a}{b}+\frac{c}{d}", r"\frac{ad+bc}{bd}"), ("a^{m}a^{n}", "a^{m+n}"),
    (r"\lfloor k/2 \rfloor", r"\frac{2k-1+(-1)^k}{4}"), ("(-1)^{2k}", "1"),
    (r"\max(x,y)", r"\frac{x+y+|x-y|}{2}"), (r"\lfloor \log_2 n \rfloor + 1", r"\lceil \log_2(n+1) \rceil"),
    (r"\ln|x|", r"\ln x"), ("x^{2/3}", r"\sqrt[3]{x^2}"), (r"\ln(abcdx)", r"\ln a+\ln b+\ln c+\ln d+\ln x"),
    ("e^{-10^6x^2}", "e^{-1000000x^2}"), (r"e^{-10^{23}x}", r"e^{-x \cdot 10^{23}}"),
    ("x^{10^{10}}", "x^{10000000000}"), ("x^{a+b}", "x^a x^b"), ("(x^a)^b", "x^{ab}"),
    (r"\binom{n+1}{k}", r"\binom{n}{k}+\binom{n}{k-1}"),
    (r"\binom{n}{k}\binom{k}{j}", r"\binom{n}{j}\binom{n-j}{k-j}"),
    (r"\lceil n/3 \rceil", r"\lfloor (n+2)/3 \rfloor"),
    (r"\lfloor x \rfloor + \lfloor x+1/2 \rfloor", r"\lfloor 2x \rfloor"),
    (r"\cos^2\frac{n\pi}{2}", r"\frac{1+(-1)^n}{2}"), (r"\arcsin x+\arccos x", r"\frac{\pi}{2}"),
    ("+".join(f"a_{k}" for k in range(20)), "+".join(f"a_{k}" for k in reversed(range(20)))),
    (r"2\sqrt{\pi G \rho_0} r_0", r"\sqrt{4 \pi G \rho_0 r_0^2}"), ("(x-1000)^2", "x^2-2000x+1000000"),
    (r"\lfloor -x \rfloor", r"-\lceil x \rceil"),
]  # fmt: skip
DIFFERENT_FORMULAS = [
    (r"\ln a+\ln b+\ln c+\ln d+\ln x+2\ln y+3\ln z", r"\ln a+\ln b+\ln c+\ln d+\ln x+3\ln y+2\ln z"),
    (r"\ln(1+10^{-300}x)", "0"), (r"\arctan\frac{1}{x-100}+\arctan(x-100)", r"-\frac{\pi}{2}"),
    (r"\lfloor\sqrt{n}\rfloor", r"\lfloor\sqrt{n-1}\rfloor"), (r"\lfloor n/100\rfloor", "0"),
    (r"\lfloor n/10^6\rfloor", "0"), (r"\lceil x\rceil", r"\lfloor x\rfloor"), (r"\lceil x\rceil", "x"),
    ("(-1)^{k}", "-1"), ("(-1)^{k}", "1"), ("(-1)^{k}", "(-1)^{k+1}"), ("|x-y|", "y-x"), ("|x-y|", "x-y"),
    (r"\sqrt{x^2y^2}", "xy"), (r"\sqrt{x^2}", "x"), (r"|x-1000|", "1000-x"), (r"|x+10^5|", "x+10^5"),
    (r"\lfloor\frac{2n+1}{5}\rfloor", r"\lfloor\frac{2n-1}{5}\rfloor"), (r"\binom{n}{k}", r"\binom{n}{k+1}"),
    ("n!", "n"), ("x+10^{-40}", "x"), (r"\lfloor n/20! \rfloor", "0"),
    (r"\lfloor\frac{n+2-2+3-3+4-4+5-5+6-6+7-7}{10^9}\rfloor", "0"),
    (r"\lfloor\frac{\ln(n^2+1)}{60}\rfloor", "0"), (r"|x-10^9\pi|", r"10^9\pi-x"),
    (r"\sqrt{(x-e^{50})^2}", "e^{50}-x"), (r"\max(x, -10^{30})", "x"), (r"\min(n, 10^{90})", "n"),
    (r"\arctan x+\arctan\frac{1}{x}", r"\frac{\pi}{2}"), (r"\arctan(\tan x)", "x"), (r"\arcsin(\sin x)", "x"),
    (r"\frac{|x|}{x}", "1"), (r"\sqrt{1-\sin^2 x}", r"\cos x"), ("(-1)^{k(k+1)/2}", "1"),
    (r"(-1)^{nm}", "(-1)^{n+m}"), (r"\binom{n}{100}", "0"), (r"\cos(2\pi x)", "1"), ("x+e^{-10^6x^2}", "x"),
    ("x^{10^{10}}", "x^{10^{10}}+1"), (r"\lfloor x+y \rfloor", r"\lfloor x \rfloor+\lfloor y \rfloor"),
    (r"\sqrt{a^2b}", r"a\sqrt{b}"), (r"\frac{\sin x}{x}", r"\frac{\sin x}{x}+10^{-60}"),
    ("f(1,2)+f(3,4)", "f(1,4)+f(3,2)"), ("f(x,y)", "f(y,x)"), ("f(x+y)", "f(x)+f(y)"), ("f(f(x))", "f(x)"),
    ("f'(x)", "f(x)"), ("f(x)+1", "f(x)"), ("f(2x)", "f(x)"), ("f(x)", "g(x)"), ("|a|+|b|", "|a+b|"),
    ("|abc|", "abc"), (r"\lfloor n/2\rfloor+\lfloor n/3\rfloor", r"\lfloor 5n/6\rfloor"),
    ("|x|+|y|+|z|", "x+y+z"), (r"\ln|x|", r"\ln(x+1)"), ("x^{1/3}", "x"),
]  # fmt: skip


def check(a: str, b: str, equal: bool) -> None:
    assert decide(a, b).equal is equal
    assert decide(b, a).equal is equal


@pytest.mark.parametrize(("a", "b"), EQUAL_CONSTANTS + EQUAL_FORMULAS)
def test_the_same_value_in_another_form_is_equal(a: str, b: str) -> None:
    check(a, b, True)


@pytest.mark.parametrize(("a", "b"), DIFFERENT_CONSTANTS + DIFFERENT_FORMULAS)
def test_values_and_functions_that_differ_anywhere_are_different(a: str, b: str) -> None:
    check(a, b, False)


def test_a_formula_that_is_defined_at_one_point_is_not_the_function_through_it() -> None:
    assert decide(r"n^2+\sqrt{-(n-3)^2}", "n^2").equal is not True


@settings(max_examples=150, deadline=None)
@given(st.integers(2, 9), st.integers(2, 2000), st.integers(1, 9), st.sampled_from(["+", "-"]))
def test_a_large_power_and_its_neighbours_differ_however_they_are_written(
    base: int, power: int, by: int, sign: str
) -> None:
    check(f"{base}^{{{power}}}{sign}{by}", f"{base}^{{{power}}}", False)
    check(rf"\frac{{{base}^{{{power}}}{sign}{by}}}{{{base}^{{{power}}}}}", "1", False)
    check(rf"\sqrt{{{base}^{{{2 * power}}}}}", f"{base}^{{{power}}}", True)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(-9, 9), st.sampled_from(["x", "y", "1", "x^2", "xy"])), min_size=1, max_size=4
    ),
    st.integers(1, 9),
)
def test_polynomials_are_equal_exactly_when_their_difference_is_zero(
    terms: list[tuple[int, str]], by: int
) -> None:
    text = " + ".join(f"({c}) * {m}" for c, m in terms)
    backwards = " + ".join(f"{m} * ({c})" for c, m in reversed(terms))
    check(text, backwards, True)
    check(text, f"{backwards} + {by}", False)
    check(text, f"{backwards} + x^7 y / 10^{{{30 * by}}}", False)


def test_what_is_rational_is_exact_and_the_rest_has_the_digits_that_are_asked_for() -> None:
    assert evaluate(canonical(r"\frac{1}{3} + \frac{1}{6}")).exact == Fraction(1, 2)
    assert evaluate(r"\sqrt{\frac{9}{4}}").exact == Fraction(3, 2)
    assert str(evaluate(r"\sqrt{2}").digits).startswith(
        "1.41421356237309504880168872420969807856967187537694"
    )
    assert Evaluator({}, False, 64).evaluate(parse_expression("2^{1000}")) == 2**1000
    with pytest.raises(OutsideDomain):
        Evaluator({}, False, 64).evaluate(parse_expression(f"2^{{{MAX_BITS + 1}}}"))


def test_points_cover_both_signs_parities_and_orders_and_depend_on_the_formulas_alone() -> None:
    first, second = parse_expression("|x-y|"), parse_expression("y-x")
    points = list(sample_points(first, second))
    smooth = list(sample_points(parse_expression("xy"), parse_expression("yx")))
    assert {(p["x"] > 0, p["y"] > 0) for p in smooth} >= {(True, True), (False, False)}
    assert points == list(sample_points(first, second))
    assert {(p["x"] > 0, p["y"] > 0, p["x"] > p["y"]) for p in points} >= {
        (True, True, True), (True, True, False), (False, False, True), (False, False, False),
        (True, False, True), (False, True, False),
    }  # fmt: skip
    integers = [p["n"] for p in sample_points(parse_expression("(-1)^n"), parse_expression("1"))]
    assert {(v % 2, v > 0) for v in integers if v} == {
        (0, True),
        (1, True),
        (0, False),
        (1, False),
    } and 0 in integers
    assert all(v.denominator == 1 for v in integers)


def test_what_has_no_value_at_points_is_not_told() -> None:
    assert same_trees(parse_expression(r"\sum_{k=1}^{1} k"), parse_expression("1")) is None


UNDECIDED = [
    # The one is defined where the other's cases are all alike, so that points say nothing.
    (r"\sqrt{-(n-3)^2}+n", r"\sqrt{-(n-3)^2}+3"), (r"x+0\sqrt{x}", "|x|"),
    (r"\frac{x\sqrt{x}}{\sqrt{x}}", "|x|"), (r"\sqrt{x}^2", "|x|"), (r"\frac{x!}{x!}", r"\cos(2\pi x)"),
    ("|x^2+1|", "x^2+1"), (r"x+\sqrt{-(x-3)^2}", "3"),
]  # fmt: skip


@pytest.mark.parametrize(("a", "b"), UNDECIDED)
def test_points_that_show_one_case_only_decide_nothing(a: str, b: str) -> None:
    assert decide(a, b).equal is None
    assert decide(b, a).equal is None


@settings(max_examples=100, deadline=None)
@given(
    st.integers(2, 400),
    st.sampled_from([r"\lfloor n/{} \rfloor = 0", "|n-{0}| = {0}-n", r"\min(n, {}) = n"]),
)
def test_a_threshold_of_any_size_is_met_or_nothing_is_decided(exponent: int, pair: str) -> None:
    a, b = pair.format(f"10^{{{exponent}}}").split(" = ")
    assert decide(a, b).equal is not True
    assert decide(b, a).equal is not True


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 900),
    st.sampled_from([r"\sqrt{2}", r"\pi", r"\ln 3", r"e^{5}", r"\cos 1", r"\arctan 2"]),
    st.sampled_from("+-"),
)
def test_a_small_term_beside_an_irrational_number_always_shows(exponent: int, number: str, sign: str) -> None:
    check(f"{number}{sign}10^{{-{exponent}}}", number, False)
    check(f"{number} \\cdot (1{sign}10^{{-{exponent}}})", number, False)
    check(f"10^{{{exponent}}}{number}{sign}1", f"10^{{{exponent}}}{number}", False)


def test_verdicts_are_the_same_in_every_process() -> None:
    """Whatever the seed of Python's hashes is."""
    code = (
        "import json, sys; from gmpo_mm.verifiers.equivalence import decide; "
        "print(json.dumps([decide(a, b).equal for a, b in json.load(sys.stdin)]))"
    )
    pairs = EQUAL_FORMULAS + DIFFERENT_FORMULAS + UNDECIDED
    for seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", code], input=json.dumps(pairs), capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )  # fmt: skip
        assert json.loads(run.stdout) == [True] * len(EQUAL_FORMULAS) + [False] * len(DIFFERENT_FORMULAS) + [
            None
        ] * len(UNDECIDED)
