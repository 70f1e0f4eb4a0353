"""CountDown: the grammar, each number exactly once, exact values, and texts that would break an evaluator."""

import ast
import json
import operator
import random
import re
from fractions import Fraction

import pytest

from gmpo_mm.verifiers.countdown import (
    MAX_LENGTH,
    Problem,
    check_expression,
    extract_expression,
    grade_countdown,
    parse,
    read_problem,
)
from gmpo_mm.verifiers.expressions import MAX_DEPTH, NotExpression
from gmpo_mm.verifiers.quantities import real
from gmpo_mm.verifiers.trees import subtrees

GOLD = json.dumps({"numbers": [2, 3, 4, 6], "target": 24})


def check(answer: str, numbers: tuple[int, ...], target: int) -> tuple[bool, bool]:
    verdict = check_expression(answer, Problem(numbers, target))
    return verdict.correct, verdict.is_expression


@pytest.mark.parametrize(
    ("answer", "numbers", "target"),
    [
        ("3 * (4 + 6) - 2 * 3", (2, 3, 3, 4, 6), 24),
        ("(6-4)*(3*4)", (3, 4, 4, 6), 24),
        ("6/(1-3/4)", (1, 3, 4, 6), 24),  # needs fractions: in floats it is 24.000000000000004 or so
        ("8/(3-8/3)", (3, 3, 8, 8), 24),
        ("((((1+2))))", (1, 2), 3),
        ("-2 + 5", (2, 5), 3),
        ("5 - -2", (2, 5), 7),
        ("2 - 5", (2, 5), -3),
        ("10", (10,), 10),
        ("1+2.", (1, 2), 3),
        ("0*7+5", (0, 5, 7), 5),
        ("44 + 19 - 35 = 28", (19, 35, 44), 28),
        ("28 = 44 + 19 - 35", (19, 35, 44), 28),
        ("2 - 5 = -3", (2, 5), -3),
        (r"$44 + 19 - 35$", (19, 35, 44), 28),
        (r"\(44 + 19 - 35\)", (19, 35, 44), 28),
        (r"2 \times 3 \cdot 4", (2, 3, 4), 24),
        (r"\frac{6 \times 8}{2} \div 1", (1, 2, 6, 8), 24),
        (r"\dfrac{48}{2}", (2, 48), 24),
        (r"\frac{1}{2} + \frac{1}{2}", (1, 1, 2, 2), 1),
        (r"\frac12 + \frac12", (1, 1, 2, 2), 1),
        (r"\frac{48}2", (2, 48), 24),
        (r"\left( 2 + 4 \right) \times 4", (2, 4, 4), 24),
        (r"\left(2 + 4\right)\,\times\,{4}", (2, 4, 4), 24),
        ("(2 + 4) × 8 ÷ 2", (2, 2, 4, 8), 24),
        ("２＋３", (2, 3), 5),
        ("7 − 3", (3, 7), 4),
        ("\u200b7\u200b-3", (3, 7), 4),
    ],
)
def test_a_right_expression_in_any_spelling_is_right(answer: str, numbers: tuple[int, ...], target: int) -> None:
    assert check(answer, numbers, target) == (True, True)


@pytest.mark.parametrize(
    ("answer", "numbers", "target", "why"),
    [
        ("3+4", (2, 3, 4), 7, r"uses \[3, 4\] where \[2, 3, 4\]"),
        ("3+4+3-3", (3, 4), 7, "must each be used once"),
        ("3+5", (3, 4), 8, "uses"),
        ("34-1", (1, 3, 4), 33, "uses"),  # digits are not numbers
        ("3*5", (3, 5), 8, "gives 15, not 8"),
        ("3/5", (3, 5), 1, "gives 3/5, not 1"),
        ("1000000000*3-2999999999*1", (1, 3, 1000000000, 2999999999), 0, "gives 1, not 0"),
        ("5/(3-3)", (3, 3, 5), 5, "divides by zero"),
        (r"\frac{5}{3-3}", (3, 3, 5), 5, "divides by zero"),
        ("3+5 = 9", (3, 5), 8, "says that the result is 9"),
        ("9 = 3+5", (3, 5), 8, "says that the result is 9"),
        ("3+5 = 9", (3, 5), 9, "gives 8, not 9"),
    ],
)
def test_a_wrong_expression_is_wrong_and_still_an_expression(
    answer: str, numbers: tuple[int, ...], target: int, why: str
) -> None:
    verdict = check_expression(answer, Problem(numbers, target))
    assert (verdict.correct, verdict.is_expression) == (False, True)
    assert re.search(why, verdict.why)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        " ",
        "none",
        "24",
        "x = 3+5",
        "3 5",
        "3(5)",
        "(3)(5)",
        "2**3",
        "2^3",
        "7//2",
        "3+",
        "+",
        "(3+5",
        "3+5)",
        "()",
        "{}",
        "[3+5]",
    ]
    + [
        "3.0+5",
        "1e3",
        "3,5",
        "3+5=8=8",
        "3+5=4+4",
        "=",
        "3+5=",
        r"\sqrt{9}",
        "3!",
        "3%5",
        "3+5 is 8",
        "abs(3)",
        "3 if 1 else 5",
    ]
    + ["__import__('os').system('true')", "(3+5", r"\frac{3}", r"\frac 3 +", "(3}", "{3)", "³", "٣+٥", "1" * 19 + "+5", "0x10"],
)
def test_everything_else_is_no_expression(answer: str) -> None:
    is_expression = answer == "24"  # one number alone is an expression
    assert check(answer, (3, 5), 8) == (False, is_expression)


OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def python_value(node: ast.expr) -> Fraction:
    """An independent reference: Python's own grammar, and exact fractions."""
    if isinstance(node, ast.Constant):
        return Fraction(node.value)  # type: ignore[arg-type]
    if isinstance(node, ast.UnaryOp):
        return -python_value(node.operand)
    assert isinstance(node, ast.BinOp)
    return OPERATORS[type(node.op)](python_value(node.left), python_value(node.right))


def random_expression(rng: random.Random, numbers: list[int]) -> str:
    if len(numbers) == 1:
        return f"{'-' if rng.random() < 0.1 else ''}{numbers[0]}"
    cut = rng.randrange(1, len(numbers))
    left, right = random_expression(rng, numbers[:cut]), random_expression(rng, numbers[cut:])
    sign = rng.choice("+-*/")
    bare = rng.random() < 0.5
    return f"{left}{sign}{right}" if bare and not right.startswith("-") else f"({left}) {sign} ({right})"


def test_values_are_those_of_exact_arithmetic() -> None:
    rng, compared = random.Random(0), 0
    for _ in range(3000):
        numbers = [rng.randrange(0, 100) for _ in range(rng.randrange(1, 7))]
        text = random_expression(rng, numbers)
        tree, stated = parse(text)
        assert stated is None
        assert sorted(node[1] for node in subtrees(tree) if node[0] == "num") == sorted(numbers)
        try:
            expected = python_value(ast.parse(text, mode="eval").body)
        except ZeroDivisionError:
            with pytest.raises(NotExpression):
                real(tree)
            continue
        assert real(tree).exact == expected, text
        compared += 1
    assert compared > 2000


def test_length_and_depth_are_bounded() -> None:
    at_bound = "(" * (MAX_DEPTH - 1) + "1" + ")" * (MAX_DEPTH - 1)
    assert check(at_bound, (1,), 1) == (True, True)
    with pytest.raises(NotExpression, match="nested too deep"):
        parse(f"({at_bound})")
    longest = "1" + "+1" * 140
    assert check_expression(longest, Problem((1,), 1)).is_expression
    with pytest.raises(NotExpression, match="longer than"):
        parse("1" + "+1" * (MAX_LENGTH // 2 + 1))
    assert check_expression("-" * (MAX_LENGTH - 1) + "1", Problem((1,), -1)).correct
    assert not check_expression("9" * 10**6, Problem((1,), 1)).is_expression


@pytest.mark.parametrize(
    ("response", "extraction", "answer"),
    [
        ("<answer>1+2</answer> no, <answer> 3+4 </answer>", "auto", "3+4"),
        (r"\boxed{1+2} and <answer>3+4</answer>", "auto", "3+4"),
        (r"<answer>\boxed{3+4}</answer>", "auto", "3+4"),
        (r"so \boxed{1+2}", "auto", "1+2"),
        (r"so \boxed{1+2}", "answer_tags", None),
        (r"\boxed{1+2} and <answer>3+4</answer>", "boxed", "1+2"),
        ("<answer></answer>", "auto", None),
        ("3+4", "auto", None),
    ],
)
def test_the_answer_stands_in_the_last_tags_or_else_in_the_box(response: str, extraction: str, answer: str | None) -> None:
    assert extract_expression(response, extraction) == answer  # type: ignore[arg-type]


def test_grades_tell_right_wrong_and_missing_apart() -> None:
    responses = ["<answer>6*4/(3-2)</answer>", "<answer>6*4</answer>", "6*4/(3-2)", None]
    grades = grade_countdown(responses, [GOLD] * 4)
    assert [(grade.correct, grade.status, grade.extracted) for grade in grades] == [
        (True, "graded", "6*4/(3-2)"),
        (False, "graded", "6*4"),
        (False, "no_answer", None),
        (False, "no_answer", None),
    ]
    assert grade_countdown(["6*4/(3-2)"], [GOLD], "answer")[0].correct
    assert grade_countdown(["1+1"], [[GOLD, '{"numbers": [1, 1], "target": 2}']], "answer")[0].correct


@pytest.mark.parametrize(
    "gold",
    [
        "",
        "24",
        "null",
        "[]",
        "{}",
        '{"numbers": [1], "t": 1}',
        '{"numbers": [], "target": 1}',
        '{"numbers": ["1"], "target": 1}',
    ]
    + ['{"numbers": [1.5], "target": 1}', '{"numbers": [-1], "target": 1}', '{"numbers": 5, "target": 1}', "[" * 100_000]
    + ['{"numbers": [1], "target": true}', '{"numbers": [1], "target": NaN}', '{"numbers": [1], "target": Infinity}'],
)
def test_a_gold_that_can_not_be_read_is_an_error_and_never_right(gold: str) -> None:
    with pytest.raises(ValueError, match="CountDown gold"):
        read_problem(gold)
    grade = grade_countdown(["<answer>1</answer>"], [gold])[0]
    assert (grade.correct, grade.status) == (False, "error")
    assert "CountDown gold" in grade.why


def test_a_gold_may_be_a_mapping_or_have_whole_floats() -> None:
    numpy = pytest.importorskip("numpy")
    assert read_problem({"numbers": numpy.array([1, 2]), "target": numpy.int64(3)}) == Problem((1, 2), 3)
    assert read_problem('{"numbers": [1.0, 2], "target": 3.0}') == Problem((1, 2), 3)
