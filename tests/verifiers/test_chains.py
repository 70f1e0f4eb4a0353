"""An answer has one value: chains of equations hold link by link, and a name stands for what it names."""

import pytest

from gmpo_mm.verifiers.equivalence import RULES, decide

RIGHT = [
    ("x = 5", "5"),
    ("5 = x", "5"),
    ("x = 2 + 3 = 5", "5"),
    ("2^{10} = 1024", "1024"),
    ("x = y = 2", "2"),
    ("g(1)=18", "18"),
    ("m+n = 77", "77"),
    (r"\sin A = \frac35", "0.6"),
    (r"P(X=2)=\frac14", "0.25"),
    ("BC^2 = 19", "19"),
    ("AB = 7", "7"),
    ("a - b = 5 - 5 = 0", "0"),
    ("Area of triangle ABC = 12", "12"),
    (r"\frac52 \text{ or } 2.5", "2.5"),
    (r"x = \frac13 \approx 0.333", r"\frac13"),
    (r"2.2831853 \approx 2.3", "2.3"),
    (r"\approx 3.14", "3.14"),
    ("= 5", "5"),
    ("y = 2x + 3", "2x+3"),
    ("E = mc^2", "mc^2"),
    (r"\{x : x > 3\}", "x > 3"),
    (r"x \in [1,2]", "[1,2]"),
    (r"[0,2] \cap (1,3)", "(1,2]"),
    (r"-\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} -1 \\ -2 \end{pmatrix}"),
    (
        r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} \begin{pmatrix} 1 \\ 1 \end{pmatrix}",
        r"\begin{pmatrix} 3 \\ 7 \end{pmatrix}",
    ),
    (
        r"2\begin{pmatrix} 1 \\ 2 \end{pmatrix} - \begin{pmatrix} 1 \\ 1 \end{pmatrix}",
        r"\begin{pmatrix} 1 \\ 3 \end{pmatrix}",
    ),
    (r"(0, \pm 2)", "(0,2), (0,-2)"),
]
WRONG = [
    ("x = 9973 = 12", ("12", "9973")),
    ("17 = 23", ("17", "23")),
    (r"17 \approx 23", ("17", "23")),
    ("x=17 x=23", ("17", "23")),
    (r"x = 17 \quad x = 23", ("17", "23")),
    ("x = 5 + 6 = 12", ("12", "11")),
    (r"\neq 5", ("5",)),
    (r"x \neq 5", ("5", "x = 5")),
    (r"7 \in 5", ("5", "7")),
    (r"x = 17 \approx 23", ("17", "23")),
    ("> 5", ("5", "x > 5")),
    ("5 =", ("5",)),
    ("x = = 5", ("5",)),
    ("7 or the answer is 5", ("5", "7")),
    (r"17 \text{ or } 23", ("17", "23")),
    ("y = 5", ("x = 5",)),
    ("x - 5 = 0", ("0", "5")),
    ("2x + z = 1", ("1",)),
    ("a^2 + b = 0", ("0",)),
    (r"\{2x : x>3\}", ("x>3",)),
    (r"Y \in [1,2]", (r"x \in [1,2]",)),
    (r"|x| \in [1,2]", (r"x \in [1,2]", "[1,2]")),
    (r"2.2831853 \approx 3.3", ("3.3",)),
    ("4.6 \\approx 5", ("5",)),
    (
        r"\begin{pmatrix} 1 & 2 \end{pmatrix} + \begin{pmatrix} 1 \\ 1 \end{pmatrix}",
        (r"\begin{pmatrix} 2 & 3 \end{pmatrix}",),
    ),
]


@pytest.mark.parametrize(("prediction", "gold"), RIGHT)
def test_a_value_with_its_name_or_its_working_is_the_value(prediction: str, gold: str) -> None:
    assert decide(prediction, gold).equal is True
    assert decide(gold, prediction).equal is True


@pytest.mark.parametrize(("prediction", "golds"), WRONG)
@pytest.mark.parametrize("grader", RULES)
def test_a_text_that_says_two_things_or_no_value_equals_neither(
    prediction: str, golds: tuple[str, ...], grader: str
) -> None:
    for gold in golds:
        assert decide(prediction, gold, RULES[grader]).equal is False
        assert decide(gold, prediction, RULES[grader]).equal is False


def test_minerva_lets_a_link_be_off_by_one_per_cent() -> None:
    assert decide(r"\lambda = \frac{hc}{E} = \frac{19.878}{5} = 3.98", "3.98", RULES["minerva"]).equal is True
    assert decide(r"\lambda = \frac{hc}{E} = \frac{19.878}{5} = 3.98", "3.98").equal is False
    assert decide("9.6 = 12", "12", RULES["minerva"]).equal is False


def test_a_tuple_answers_a_bare_list_and_a_list_no_interval() -> None:
    from gmpo_mm.verifiers.olympiadbench import grade_olympiadbench

    grades = grade_olympiadbench(
        ["(1000, 10)", "(x, y) = (1000, 10)", "(10, 1000)", "1,2"], ["1000, 10"] * 3 + ["(1,2)"], "answer"
    )
    assert [grade.correct for grade in grades] == [True, True, False, False]
