r"""A gold that holds a whole solution is read in the known forms, and only a gold; what is no answer is told."""

from __future__ import annotations

import pytest

from gmpo_mm.verifiers import grade_responses
from gmpo_mm.verifiers.golds import gold_answer, gold_fault

SOLUTIONS = {
    "48/2 = 24\n48+24 = 72\n#### 72": "72",
    "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\n#### 1,072": "1072",
    "He has 5 left. #### 5": "5",
    "She has 5.\n#### 5\nThe answer is: 5": "5",
    "<answer> 145° </answer>": "145",
    "We add.\n<Final_Answer>145</Final_Answer>": "145",
    "< ans > 145 </ ans >": "145",
    "<think> Either \\boxed{3} or 5. </think> <answer> \\boxed{5} </answer>": "5",
    "First 1 + 1 = 2.\nSo we get $\\boxed{\\frac{1}{2}}$.": "\\frac12",
    "From \\boxed{7} we see that it fails.\nThus the length is \\boxed{5} cm. As required.": "5 cm",
    "We factor.\nThe roots are \\boxed{1} and \\boxed{2}.": "1, 2",
    "Work.\nThe final answer is $72$. I hope it is correct.": "72",
    "Work.\nAnswer: C": "C",
    "Work.\n\n### Final Answer\n\n**72**": "72",
    "We add. The answer is 72.": "72",
    "因为 1+1=2\n答案:2": "2",
    "line one\n\\begin{aligned} x &= \\boxed{\\begin{pmatrix} 1\\\\ 2 \\end{pmatrix}}\n\\end{aligned}": (
        "\\begin{pmatrix} 1\\\\ 2 \\end{pmatrix}"
    ),
}
PLAIN = ["72", " 5 \\sqrt { 5 }\n", "Evelyn", "\\text{(A)}", "x = 2", "90\\text{ square\nunits}"]
PLAIN += ["\\begin{cases} 1 \\\\\n 2 \\end{cases}", "(1, 2)", "no solution", "7:30 p.m."]
PLAIN += ["not enough information", "5 square units"]


@pytest.mark.parametrize(("gold", "answer"), SOLUTIONS.items())
def test_the_answer_of_a_solution_is_the_gold_for_every_grader_of_text(gold: str, answer: str) -> None:
    for grader in ("math", "geometry3k", "minerva", "olympiadbench"):
        right, wrong = grade_responses(grader, [f"\\boxed{{{answer}}}", "\\boxed{24}"], [gold, gold])
        assert right.correct and not wrong.correct, grader
    assert gold_fault(gold) is None


@pytest.mark.parametrize("gold", PLAIN)
def test_a_short_answer_is_left_as_it_is(gold: str) -> None:
    assert gold_answer(gold) == gold and gold_fault(gold) is None


def test_a_response_is_never_read_as_a_gold_is() -> None:
    texts = ["#### 72", "Answer: 72\n#### 72", "72 = 70 + 2\n#### 72"]
    assert not any(grade.correct for grade in grade_responses("math", texts, ["work\n#### 72"] * 3))


@pytest.mark.parametrize(
    ("gold", "fault"),
    [
        ("48/2 = 24\n48+24 = 72", "several lines"),
        ("#### Step 1\nWe add.\n#### Step 2\nWe stop here.", "several lines"),
        ("Natalia sold forty eight clips and then half as many, so she has many", "sentence"),
        ("She sold 72 clips.", "sentence"),
        ("The answer is that the train arrives late in the city of Paris.", "sentence"),
        ("因为这个三角形的两条边相等而且它们之间的角是直角所以答案显然很大", "sentence"),
        ("}{", "not readable"),
        ("\\text{}", "not readable"),
        ("\\frac{1}{2", "not readable"),
        ("x" * 10_000, "not readable"),
    ],
)
def test_a_gold_that_no_short_answer_can_equal_says_why(gold: str, fault: str) -> None:
    assert gold_fault(gold) == fault


HOSTILE = [
    "{",
    "answer is ",
    "<answer>",
    "</answer>",
    "\\boxed{",
    "####",
    "#### ",
    "####  x\n",
    "answer:",
    "\n",
    " ",
]


@pytest.mark.parametrize("piece", HOSTILE)
def test_no_gold_makes_its_reading_hang(piece: str) -> None:
    gold_answer(piece * (200_000 // len(piece)))
    gold_fault(piece * (200_000 // len(piece)))
