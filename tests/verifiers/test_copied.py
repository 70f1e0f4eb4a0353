"""An expression that is copied out of the problem is equal to the answer, and no answer."""

import json
from pathlib import Path

import pytest

from gmpo_mm.verifiers import grade_responses
from gmpo_mm.verifiers.copied import stands_unevaluated

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
COPIES = [
    ("99^2+99+1", "9901", "What is $99^2+99+1$?"),
    ("1+99+99^2", "9901", "What is $99^2+99+1$?"),
    ("(99^2 + 99 + 1)", "9901", "Compute 99^2 + 99 + 1 without a calculator."),
    ("N = 99^2+99+1", "9901", "What is $99^2+99+1$?"),
    ("99^2+99+1+0", "9901", "What is $99^2+99+1$?"),
    ("1 \\cdot (99^2+99+1)", "9901", "What is $99^2+99+1$?"),
    (r"\binom{31}{28}", "4495", r"Compute $\dbinom{31}{28}$."),
    ("C(31, 28)", "4495", r"Compute $\dbinom{31}{28}$."),
    (r"{31 \choose 28}", "4495", r"Compute \[\binom{31}{28}.\]"),
    (r"\sqrt{50}", r"5\sqrt{2}", r"Simplify $\sqrt{50}$."),
    (r"\frac{4}{8}", r"\frac{1}{2}", r"Simplify $\frac48$."),
    ("4/8", "0.5", r"Simplify $\frac48$."),
    ("x^2+5x+6", "(x+2)(x+3)", "Factor $x^2 + 5x + 6$."),
    ("6+5x+x^2", "(x+3)(x+2)", "Factor $x^2 + 5x + 6$."),
    ("(x+2)(x+3)", "x^2+5x+6", "Expand $(x+2)(x+3)$."),
    (r"\sin 30^\circ", "0.5", r"What is $\sin 30^\circ$?"),
    (r"\log_2 8", "3", r"Evaluate $\log_2 8 + 1 - 1$."),
    ("20 + 30", "50", r"Evaluate \begin{align*} 10 + 20 + 30 - 10 \end{align*}"),
    (r"\frac{57}{160}", "0.35625", r"Express $\frac{57}{160}$ as a decimal."),
    (r"0.\overline{73}", r"\frac{73}{99}", r"Express $0.\overline{73}$ as a common fraction."),
    ("3x - 2 = 2x - 12", "x = -10", "Solve $3x - 2 = 2x - 12$."),
    ("3x + 2 > 4(x - 1)", r"(-\infty, 6)", "Solve $3x+2>4(x-1)$."),
    ("x + 12 = 2", "x = -10", "Solve $3x - 2 = 2x - 12$."),
    ("2x < 12", "x < 6", "Solve $3x+2>4(x-1)$."),
    ("(2^3, 5)", "(8, 5)", "Find the point $(2^3, b)$."),
    (r"1 \cdot 0.\overline{73}", r"\frac{73}{99}", r"Express $0.\overline{73}$ as a common fraction."),
    ("x^2 + 5x + 6 + 1 - 1", "(x+2)(x+3)", "Factor $x^2 + 5x + 6$."),
    ("x^2 + 5x + 6 = 6 + 5x + x^2", "(x+2)(x+3)", "Factor $x^2 + 5x + 6$."),
    (r"\frac{2 + 2\sqrt{5}}{4}", r"\frac{1+\sqrt5}{2}", r"Simplify $\frac{2+2\sqrt5}{4}$."),
    (r"\sum_{n=1}^{9} n", "45", r"Compute $\sum_{n=1}^{9} n.$"),
    (r"2 \cdot 3", "6", r"Compute $2 \cdot 3$."),
    (r"-i^2 \cdot 2^5 \cdot (-27)", "-864", r"Compute $2^5 \cdot (-27)$."),
    ("2x - 2y = 2", "x - y = 1", "Simplify the equation $2x - 2y = 2$."),
    (r"\max(12, 18)", "18", r"Find $\max(12, 18)$."),
    (r"2^{10} \text{ cm}", "1024", "A cable is $2^{10}$ cm long. How long is it?"),
]
ANSWERS = [
    ("9901", "9901", "What is $99^2+99+1$?"),
    ("99^2+99+1 = 9901", "9901", "What is $99^2+99+1$?"),
    ("9901 = 99^2+99+1", "9901", "What is $99^2+99+1$? (A) 9901"),
    ("99^2+99+1 = 9901", "9901", "What is $99^2+99+1$? (A) $9901$ (B) $9900$"),
    (r"0.\overline{73} = \frac{73}{99}", r"\frac{73}{99}", r"Express $0.\overline{73}$ as a common fraction."),
    ("x^2 + 5x + 6 = (x+2)(x+3)", "(x+2)(x+3)", "Factor $x^2 + 5x + 6$."),
    ("x^2 + 5x + 6 = (x+2)(x+3)", "(x+2)(x+3)", "Is $x^2+5x+6$ equal to $(x+2)(x+3)$ or to $(x+1)(x+6)$?"),
    ("2x - 2y = 2", "x - y = 1", "A line has slope 1."),
    ("2y = x - 1", "x - 1 = 2y", "The line $x - 1 = 2y$ is reflected twice."),
    ("10^2 - 99^0", "99", "Let $a = 10^2$."),
    ("9901 + 7 - 7", "9901", "What is $99^2+99+1$? (A) $9901$"),
    ("-10 = x", "x = -10", "Let $x = -10$ or not."),
    (r"\frac{1+\sqrt{5}}{2}", r"\frac12 + \frac{\sqrt5}{2}", r"The golden ratio is $\frac{1+\sqrt5}{2}$."),
    (r"\frac{\pi^2}{6}", r"\pi^2/6", r"Is $\frac{\pi^2}{6}$ it?"),
    (r"25\%", "25", r"It grew by $25\%$."),
    (r"60^\circ", "60", r"The angle is $60^\circ$."),
    (r"\frac{x}{2}", r"\frac12 x", r"Is it $\frac{x}{2}$?"),
    ("100^2-99", "9901", "What is $99^2+99+1$?"),
    (r"\frac12", "0.5", r"A stick is $\frac12$ m long ..."),
    (r"2\sqrt{13}", r"\sqrt{52}", r"The side is $2\sqrt{13}$. Find the other side."),
    (r"\frac{\sqrt{3}}{2}", r"\sqrt{3}/2", r"Is it $\frac{\sqrt3}{2}$ or more?"),
    (r"3\pi", r"\pi \cdot 3", r"An arc of length $3\pi$ ..."),
    ("5", "x = 5", "Let $x = 5$ and $y = 5$."),
    ("2^{10}", "2^{10}", "Which is larger, $2^{10}$ or $10^3$?"),
    ("x^2-1", "-1+x^2", "Let $f(x) = x^2-1$. What is $f(x)$?"),
    ("x", "x", "Let $x$ be a number."),
    ("B", "B", "Is it A, B or $C$?"),
    ("1, 2", "2, 1", "The pairs 1, 2 and $2, 1$ ..."),
]
WRAPPINGS = [
    "({})", "N = {}", "= {}", "{} + 0", r"1 \cdot ({})", r"\frac{{{}}}{{1}}", "({})^1", r"\text{{The answer is }} {}",
    "{0} = {0}", r"{0} \approx {0}", "-(-({}))", r"\frac{{2({})}}{{2}}", "5 + {} - 5", r"\sqrt{{({})^2}}", "|{}|",
    r"\lfloor {} \rfloor", "2^0 ({})", "(2 - 1)({})", r"\{{ {} \}}", r"\max({0}, {0})", "({0} + {0})/2",
    r"\sum_{{k=1}}^{{1}} ({})", "-i^2({})", r"({})^{{\sin 90^\circ}}",
]  # fmt: skip
WRAPPED = [
    ("99^2 + 99 + 1", "9901", "What is $99^2+99+1$?"),
    (r"\sum_{n=1}^{9} n", "45", r"Compute $\sum_{n=1}^{9} n.$"),
    (r"\max(12, 18)", "x = 18", r"Solve $x = \max(12, 18)$."),
]
POSSIBLE = {"accept": True, "reject": False}


@pytest.mark.parametrize(("prediction", "gold", "problem"), COPIES)
@pytest.mark.parametrize("grader", ["math", "olympiadbench", "minerva", "geometry3k"])
def test_a_copy_of_the_problems_own_expression_is_not_evaluated(
    prediction: str, gold: str, problem: str, grader: str
) -> None:
    for unevaluated, correct in POSSIBLE.items():
        options = {"problems": [problem], "unevaluated": unevaluated, "kind": "answer"}
        (grade,) = grade_responses(grader, [prediction], [gold], **options)  # type: ignore[arg-type]
        assert (grade.correct, grade.status) == (correct, "graded" if correct else "not_evaluated")
    assert grade_responses(grader, [prediction], [gold], kind="answer")[0].correct, (
        "without a problem nothing changes"
    )


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_copy_in_what_changes_nothing_is_a_copy(wrapping: str) -> None:
    copies = [wrapping.format(copy) for copy, _, _ in WRAPPED]
    golds, problems = [gold for _, gold, _ in WRAPPED], [problem for _, _, problem in WRAPPED]
    accepted = grade_responses("math", copies, golds, kind="answer", problems=problems, unevaluated="accept")
    rejected = grade_responses("math", copies, golds, kind="answer", problems=problems)
    assert accepted[0].correct and not any(grade.correct for grade in rejected)
    assert [grade.correct for grade in accepted] == [grade.status == "not_evaluated" for grade in rejected]


@pytest.mark.parametrize(("prediction", "gold", "problem"), ANSWERS)
def test_what_is_worked_out_or_not_from_the_problem_is_an_answer(
    prediction: str, gold: str, problem: str
) -> None:
    assert not stands_unevaluated(prediction, gold, problem)
    assert grade_responses("math", [prediction], [gold], kind="answer", problems=[problem])[0].correct


def test_a_copy_that_is_one_of_several_golds_is_an_answer() -> None:
    problem = "What is $99^2+99+1$?"
    golds = [["9901", "99^2+99+1"], ["9901", "9901.0"]]
    grades = grade_responses("minerva", ["99^2+99+1"] * 2, golds, kind="answer", problems=[problem] * 2)
    assert [grade.status for grade in grades] == ["graded", "not_evaluated"]


def test_graders_that_reproduce_another_project_do_not_look_at_the_problem() -> None:
    pytest.importorskip("pylatexenc")
    grades = grade_responses("drgrpo_fast", [r"\boxed{x^2+5x+6}"], ["(x+2)(x+3)"], problems=["Factor $x^2+5x+6$."])
    assert grades[0].correct


def test_a_problem_for_each_response_and_a_known_option_are_asked_for() -> None:
    with pytest.raises(ValueError, match="1 problems for 2 predictions"):
        grade_responses("math", ["1", "2"], ["1", "2"], problems=["one"])
    with pytest.raises(ValueError, match="unevaluated='maybe'"):
        grade_responses("math", ["1"], ["1"], problems=["one"], unevaluated="maybe")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["", "$" * 5000, "$" + "(" * 3000, "\\frac{" * 500, "a" * 30_000, "1+" * 9000]
)
def test_no_problem_is_too_much(text: str) -> None:
    assert not stands_unevaluated("2+2", "4", text)


@pytest.mark.parametrize("name", ["aime24", "amc", "math500", "minerva", "olympiadbench"])
def test_every_gold_of_the_suites_is_right_beside_its_own_problem(name: str) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    if not (DATA / f"eval_{name}.parquet").is_file():
        pytest.skip("the suites' parquet files are not beside this repository (../shared/data)")
    table = parquet.read_table(DATA / f"eval_{name}.parquet")
    golds, problems = table.column("answer").to_pylist(), table.column("problem").to_pylist()
    grades = grade_responses("math", golds, golds, kind="answer", problems=problems)
    assert json.dumps([gold for gold, grade in zip(golds, grades, strict=True) if not grade.correct]) == "[]"
