"""How an answer's text is read: one value, whatever the gold is; what is not understood whole stays prose."""

import pytest

from gmpo_mm.verifiers import grade_responses
from gmpo_mm.verifiers.equivalence import RULES, decide
from gmpo_mm.verifiers.extraction import extract_answer
from gmpo_mm.verifiers.reading import read


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("the value of $x$ is 5", "5"),
        (r"\text{The answer is } 42", "42"),
        ("Thus, the area of triangle ABC is 12 cm", "12 cm"),
        ("Therefore $x \\geq 5$ is the solution.", "x >= 5"),
        ("Final Answer: The largest $n$ is 34.", "34"),
        (r"The matrix is $\begin{pmatrix} 1 \\ 2 \end{pmatrix}$", r"\begin{pmatrix} 1 ␞ 2 \end{pmatrix}"),
        (r"so $x = \boxed{3}$.", "3"),
        (r"$\boxed{28}$ pct", "28 pct"),
        (r"\boxed{1} and \boxed{2}", "1, 2"),
        (r"\boxed{5} and so on, \boxed{7}", "7"),
    ],
)
def test_words_that_only_say_that_an_answer_follows_are_left_out(text: str, value: str) -> None:
    assert read(text).text == value


@pytest.mark.parametrize(
    "text",
    [
        "at least 5",
        "everything except 5",
        "the wrong answer is 5",
        "not 5",
        "5 is not the answer",
        "5 is wrong",
        "twice the answer is 5",
        "the opposite of the answer is 5",
        "the last digit of the answer is 5",
        "either 5 or 7",
        "about 5",
        "more than 5",
        "5 or so",
        "5, I think",
        "answer: e, answer: 5",
        "the answer is A is 5",
        "5 if x > 3",
        "the answer is not 5",
        "maybe 5",
        "anything but 5",
        "5 thousand maniacs",
        "5 wrong",
        "5 never",
        "5 x wide",
    ],
)
@pytest.mark.parametrize("grader", RULES)
def test_prose_that_is_not_understood_whole_is_no_value(text: str, grader: str) -> None:
    for gold in ("5", "7", "5000", "A", "e"):
        assert decide(text, gold, RULES[grader]).equal is False
        assert decide(gold, text, RULES[grader]).equal is False
    assert decide(text, text, RULES[grader]).equal is True


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("(B)", "B"),
        ("B.", "B"),
        (r"\text{B}", "B"),
        ("b", "B"),
        ("Option A", "A"),
        ("The answer is C", "C"),
        ("(D) 12", "D"),
        (r"\textbf{(E)}\ 12", "E"),
        ("B. Angle X is acute", "B"),
        ("A. or B.", None),
        ("A) B) C) D)", None),
        ("A/B", None),
        ("B. The value $17$ is 23", None),
        ("B. not C", None),
        ("B. wrong", None),
        ("(d)^2", None),
        ("A:B=1", None),
        ("AB", None),
        ("not B", None),
        ("B or C", None),
        ("B, C", None),
    ],
)
def test_an_options_letter_may_have_brackets_and_one_options_text(text: str, letter: str | None) -> None:
    assert read(text).letter == letter


def test_an_option_with_its_text_is_the_letter_and_not_the_text() -> None:
    assert decide("B. 12", "B").equal is True
    assert decide("B. 12", "12").equal is False
    assert decide("B. 12", "C").equal is False


@pytest.mark.parametrize(
    ("text", "value", "conditions", "indices"),
    [
        (r"x + 1, x \neq 2", "x + 1", ("x != 2",), ""),
        (r"\frac{1}{s+a} \text{ for } s > -a", r"\frac{1}{s+a}", ("s > -a",), ""),
        (r"x = n\pi, n \in \mathbb{Z}", r"x = n\pi", (), "n"),
        (r"\frac{\pi}{4} + k\pi \text{ where } k \text{ is an integer}", r"\frac{\pi}{4} + k\pi", (), "k"),
        (r"k\pi \ (k \in \mathbb{Z})", r"k\pi", (), "k"),
        (r"f(n) = n \text{ for all } n", "f(n) = n", (), ""),
        ("x > 3, x < 5", "x > 3, x < 5", (), ""),
        ("5, x > 0", "5, x > 0", (), ""),
        ("5 for x = 1", "5 for x = 1", (), ""),
    ],
)
def test_a_condition_stands_behind_a_value_that_depends_on_it(
    text: str, value: str, conditions: object, indices: str
) -> None:
    reading = read(text)
    assert (reading.text, reading.conditions, "".join(reading.indices)) == (value, conditions, indices)


def test_two_different_conditions_make_two_different_answers() -> None:
    assert decide(r"x+1, x \neq 2", r"1+x, x \neq 2").equal is True
    assert decide(r"x+1, x \neq 2", "1+x").equal is True
    assert decide(r"x+1, x \neq 2", r"1+x, x \neq 3").equal is False


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("(b) h", "b", False),
        ("(B) h", "B", False),
        ("(b) x+1", "b", False),
        ("(b) 12", "b", True),
        ("(B) 7", "B", True),
        ("(b) both of these", "b", True),
        ("(A) or (B) or (C)", "A", False),
        ("30 sec", "30", True),
        ("5 m/sec", r"5 \text{ m/s}", True),
        (r"\sec x", r"\frac{1}{\cos x}", True),
        ("5厘米", "5", True),
        ("5厘米", r"5\text{ m}", False),
        ("5 或 -5", "5, -5", True),
        ("5 或 -5", "5", False),
        ("答案是5", "5", True),
        ("不是5", "5", False),
        (r"\begin{aligned} 5 \end{aligned}", "5", True),
        (r"\begin{aligned} x &= 2+3 \\ &= 5 \end{aligned}", "5", True),
        (r"\begin{aligned} x &= 2+3 \\ &= 6 \end{aligned}", "6", False),
        (r"\begin{align*} x &= 5 \\ y &= 3 \end{align*}", "(5,3)", True),
        ("y=2, x=1", "(1,2)", True),
        ("y=1, x=2", "(1,2)", False),
        ("x=-5, p=3", "-5, 3", True),
        (r"\frac13 \approx 0.333", "0.333", True),
        (r"\frac13 \approx 0.4", "0.4", False),
        ("x^2+1=0", "x^2+2=0", False),
    ],
)
def test_options_units_systems_and_names_say_one_thing(answer: str, gold: str, right: bool) -> None:
    (grade,) = grade_responses("math", [answer], [gold], kind="answer")
    assert grade.correct is right


@pytest.mark.parametrize(
    ("response", "extracted"),
    [
        (r"The roots are \boxed{1} and \boxed{2}.", "1, 2"),
        (r"$\boxed{1}$, $\boxed{2}$, and $\boxed{3}$", "1, 2, 3"),
        (r"\boxed{5} or \boxed{6}", "5, 6"),
        (r"\boxed{5}, so \boxed{5}", "5"),
        (r"\boxed{5}, \boxed{5}", "5"),
        ("first \\boxed{5}\n\\boxed{6}", "6"),
        (r"not \boxed{5}, but \boxed{6}", "6"),
    ],
)
def test_boxes_with_and_or_or_a_comma_between_them_are_one_answer(response: str, extracted: str) -> None:
    assert extract_answer(response) == extracted
