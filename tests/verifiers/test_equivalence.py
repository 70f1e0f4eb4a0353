"""Which answers count as the gold, at each stage."""

import subprocess
import sys
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gmpo_mm.verifiers import Grade, grade_batch
from gmpo_mm.verifiers.equivalence import decide
from gmpo_mm.verifiers.expressions import NotExpression
from gmpo_mm.verifiers.quantities import evaluate

CHEAP_EQUAL = [
    # Geometry3K's forms
    (r"5\sqrt5", r"5 \sqrt { 5 }"), (r"5√5", r"5 \sqrt { 5 }"), (r"\sqrt{125}", r"5 \sqrt { 5 }"),
    ("120°", "120"), (r"120^\circ", "120"), (r"120^{\circ}", "120"), (r"120\text{ degrees}", "120"),
    ("2:3", "2:3"), ("4 : 6", "2:3"), ("2/3", "2:3"), (r"\frac{\sqrt 3}{4}", r"\frac { \sqrt 3 } { 4 } : 1"),
    ("x<60", "x < 60"), ("60 > x", "x < 60"), (r"x \lt 60^\circ", "x < 60"), ("x < 120/2", "x < 60"),
    (r"\frac{4}{2}", "2"), ("4/2", "2"), (r"\sqrt{4}", "2"), ("-8", "- 8"), ("−8", "- 8"), (r"\frac12", "0.5"),
    ("angles 2, 3, 6 and 7", "angles 2,3, 6, and 7"), ("Angles 2,3,6,7.", "angles 2,3, 6, and 7"),
    ("AD and BE", "A D and B E"), (r"\overline{AD} \text{ and } \overline{BE}", "A D and B E"),
    ("∠3 ≅ ∠Z", r"\angle 3 \cong \angle Z"), ("Not enough information.", "not enough information"),
    (r"\frac{48}{11}", r"4 \frac { 4 } { 11 }"), ("4 4/11", r"4 \frac { 4 } { 11 }"),
    (r"\frac{12}{5}\sqrt{11}", r"\frac { 12 } { 5 } \sqrt { 11 }"), (r"\frac{12\sqrt{11}}{5}", r"12 \sqrt {11} / 5"),
    (r"9\pi\sqrt 2", r"9 \sqrt 2 \pi"), (r"-16\pi + 64", r"64 - 16 \pi"),
    (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}"),
    (r"4(6 + 2\sqrt{3})", r"24 + 8 \sqrt { 3 }"), ("a+b = 90°", "a + b = 90"),
    # common dressings
    ("x = 60", "60"), (r"m\angle ABC = 60", "60"), ("60 cm", "60"), ("60 square units", "60"), ("$60$", "60"),
    (r"\(60\)", "60"), ("1,234", "1234"), (r"1{,}234", "1234"), ("60.0", "60"), ("6\u200b0", "60"), ("５", "5"),
    (r"50\%", "0.5"), (r"50\%", "50"), (r"\sqrt[3]{8}", "2"), ("2^{10}", "1024"), (r"1.2 \times 10^{3}", "1200"),
    ("4^{1/2}", "2"), ("1e3", "1000"), ("2(3)", "6"), (r"\boxed{5}", "5"), ("025", "25"), ("½", "0.5"),
]  # fmt: skip
CHEAP_DIFFERENT = [
    ("61", "60"), ("x < 61", "x < 60"), (r"\angle 2 \cong \angle Z", r"\angle 3 \cong \angle Z"),
    ("7", "angles 2,3, 6, and 7"), ("angles 2, 3 and 6", "angles 2,3, 6, and 7"), ("3:2", "2:3"), ("2:3:4", "2:3:5"),
    ("1/2^99", "1/2^98"), ("1 2", "12.5"), ("41/2", "4 1/2"), ("11.18", r"5 \sqrt { 5 }"), ("y = 5", "x = 5"),
    ("60 cm", "60 m^2 cm"), ("5 cm", "5 inches"), (r"\frac{1}{23}", r"\frac{12}{3}"), ("-5", "5"), ("3.14", r"\pi"),
    ("0.333333333333", "1/3"), (r"2\frac{1}{2}", "1"),
]  # fmt: skip
FORMULAS = [
    ("b + a = 90", "a + b = 90", True), ("10y(2y - 1)", "20 y^2 - 10 y", True), ("20y^2 - 9y", "20 y^2 - 10 y", False),
    ("n + m - 180", "m + n - 180", True), ("m - n - 180", "m + n - 180", False), (r"\frac{x+1}{2}", "(1 + x)/2", True),
    ("60 or 120", "60", False), ("c + a", "a + c", True), ("a + d", "a + c", False),
]  # fmt: skip


SYMBOLIC = [
    (r"\sum_{k=1}^{1} (2k-1)", "1", True), (r"\sum_{k=1}^{1} (2k-1)", "2", False), (r"\sum_{k=1}^{3} k", "6", True),
    (r"\prod_{k=1}^{3} k", "5", False),
]  # fmt: skip


@pytest.mark.parametrize(("prediction", "gold"), CHEAP_EQUAL)
def test_equal_answers_are_equal_both_ways_without_a_process(prediction: str, gold: str) -> None:
    assert decide(prediction, gold).equal is True
    assert decide(gold, prediction).equal is True


@pytest.mark.parametrize(("prediction", "gold"), CHEAP_DIFFERENT)
def test_different_answers_are_not_equal(prediction: str, gold: str) -> None:
    assert not decide(prediction, gold).equal
    assert not grade_batch([prediction], [gold])[0].correct


def test_formulas_are_compared_without_a_process() -> None:
    assert [decide(prediction, gold).equal for prediction, gold, _ in FORMULAS] == [equal for _, _, equal in FORMULAS]
    assert [decide(gold, prediction).equal for prediction, gold, _ in FORMULAS] == [equal for _, _, equal in FORMULAS]


def test_symbolic_answers_go_to_computer_algebra() -> None:
    assert [decide(prediction, gold).equal for prediction, gold, _ in SYMBOLIC] == [None] * len(SYMBOLIC)
    grades = grade_batch([p for p, _, _ in SYMBOLIC], [g for _, g, _ in SYMBOLIC])
    assert [(grade.correct, grade.status) for grade in grades] == [(equal, "graded") for _, _, equal in SYMBOLIC]


def test_cheap_pairs_start_no_process() -> None:
    code = (
        "from gmpo_mm.verifiers import grade_batch, pool; import sys\n"
        "assert grade_batch(['120°', '7', None], ['120', '8', '9'])[0].correct\n"
        "assert pool.shared_pool().connection is None and 'sympy' not in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_any_of_several_golds_counts() -> None:
    golds = [["5", "b + a"], ("6",), ["1", "2"], []]
    grades = grade_batch(["a + b", "6", "3", "3"], golds)
    assert [grade.correct for grade in grades] == [True, True, False, False]


def test_a_missing_answer_is_no_answer_and_never_the_text_none() -> None:
    assert grade_batch([None, "", " \u200b "], ["None", "", "5"]) == [Grade(False, "no_answer", None)] * 3
    response = "I do not know. None of them."
    assert grade_batch([response], ["None"], kind="response") == [Grade(False, "no_answer", None)]


def test_the_grade_carries_the_text_that_was_compared() -> None:
    assert grade_batch([r"so \boxed{ 120° }"], ["120"], kind="response") == [Grade(True, "graded", "120°")]


def test_wrong_use_is_named() -> None:
    with pytest.raises(ValueError, match="2 responses for 1 golds"):
        grade_batch(["1", "2"], ["1"])
    with pytest.raises(ValueError, match="kind='text'"):
        grade_batch(["1"], ["1"], kind="text")  # type: ignore[arg-type]
    for timeout in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="timeout"):
            grade_batch(["1"], ["1"], timeout=timeout)


@settings(max_examples=200, deadline=None)
@given(st.integers(-9999, 9999), st.integers(1, 999), st.integers(-9999, 9999), st.integers(1, 999))
def test_fractions_are_equal_exactly_when_their_values_are(a: int, b: int, c: int, d: int) -> None:
    assert decide(rf"\frac{{{a}}}{{{b}}}", f"{c}/{d}").equal is (Fraction(a, b) == Fraction(c, d))
    assert decide(rf"\frac{{{a}}}{{{b}}}", str(Fraction(a, b))).equal is True


@example("0", "0<Ai")
@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=r"0123456789.+-*/^(){}[] \sqrtfacpi°:%,xe=<>", max_size=60), st.text(max_size=20))
def test_no_text_makes_the_cheap_stages_raise_and_they_are_symmetric(a: str, b: str) -> None:
    assert decide(a, b).equal in (True, False, None)
    assert (decide(a, b).equal is True) == (decide(b, a).equal is True)


@pytest.mark.parametrize(
    "text",
    ["9**9**9**9", "2^{2^{2^{2^{9}}}}", "1000000000!", "9^{999999999}", "1e999", "9" * 300, "1/0",
     "((((" * 20 + "1" + "))))" * 20, r"\frac{" * 60, r"\sqrt{-1}", "0^0", "1 2", r"\pi^{-200}^2", "", "()", "x"],
)  # fmt: skip
def test_arithmetic_beyond_its_bounds_is_refused_not_computed(text: str) -> None:
    with pytest.raises(NotExpression):
        evaluate(text)


NUMBERS = st.one_of(
    st.integers(-99, 999).map(str),
    st.tuples(st.integers(-9, 9), st.integers(1, 9)).map(lambda ab: rf"\frac{{{ab[0]}}}{{{ab[1]}}}"),
    st.sampled_from(
        ["0.5", r"\sqrt{2}", r"2\pi", "50\\%", "x", "2x + 1", "(x+1)^2", "3 cm", "30^\\circ", "A", "yes", r"\pm 2", "1,234"]
    ),
)
ANSWERS = st.recursive(
    NUMBERS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=3).map(", ".join),
        st.lists(inner, min_size=2, max_size=2).map(" or ".join),
        st.tuples(inner, st.sampled_from(["x = ", "y = ", "x < ", r"x \in ", "f(x) = ", "-"])).map(lambda ab: ab[1] + ab[0]),
        st.tuples(st.sampled_from(["()", "[)", "(]", "[]", "{}", ("\\{", "\\}")]), inner, inner).map(
            lambda abc: f"{abc[0][0]}{abc[1]}, {abc[2]}{abc[0][1]}"
        ),
        st.tuples(inner, inner).map(lambda ab: rf"\begin{{pmatrix}} {ab[0]} \\ {ab[1]} \end{{pmatrix}}"),
        st.tuples(inner, inner).map(lambda ab: rf"({ab[0]}, 9) \cup [10, {ab[1]})"),
    ),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None)
@given(ANSWERS, ANSWERS)
def test_structured_answers_are_compared_the_same_both_ways_and_equal_themselves(a: str, b: str) -> None:
    assert decide(a, b).equal == decide(b, a).equal
    assert decide(a, f"$ {a} $").equal is True


def test_the_grade_says_how_it_was_decided() -> None:
    decided = {
        ("5", "5"): "equal as text", ("0.5", r"\frac12"): "equal as numbers", ("x + 1", "1 + x"): "equal as formulas",
        ("(1, 4/2)", "(1, 2)"): "equal as tuples", ("2x < 6", "x < 3"): "equal as relations", ("5", "6"): "different",
        (r"\sum_{k=1}^{1} (2k-1)", "1"): "algebra: equal", (r"\sum_{k=1}^{1} (2k-1)", "2"): "algebra: different",
    }  # fmt: skip
    grades = grade_batch([prediction for prediction, _ in decided], [gold for _, gold in decided])
    assert [grade.why for grade in grades] == list(decided.values())
    assert grade_batch([None], ["5"])[0].why == "no answer found"


@pytest.mark.parametrize(
    ("prediction", "gold", "equal"),
    [
        ("**42**", "42", True),
        (r"\color{blue}{42}", "42", True),
        ("\u221b8", "2", True),
        (r"\frac{1}{2006!}", r"\frac{1}{2004!}", False),  # to math-verify both are 0
        ("10^{10}", "10^{10^{10^{10}}}", False),
        ("2^{2^{100}}", "2^{2^{101}}", False),
        ("3000!", "2999!", False),
    ],
)
def test_wrappers_are_read_and_numbers_beyond_computing_are_decided_at_once(prediction: str, gold: str, equal: bool) -> None:
    assert decide(prediction, gold).equal is equal
    assert decide(gold, prediction).equal is equal
