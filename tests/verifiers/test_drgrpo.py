"""Dr. GRPO's grader beside verdicts recorded from the original, and what must not happen to the process that grades."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmpo_mm.verifiers import pool
from gmpo_mm.verifiers.drgrpo import grade_drgrpo
from gmpo_mm.verifiers.drgrpo_symbolic import OPERATORS, is_zero
from gmpo_mm.verifiers.drgrpo_text import is_repetitive, math_form

pytest.importorskip("pylatexenc", reason="the drgrpo extra is not installed")
HEADER, *RECORDED = [json.loads(line) for line in Path(__file__).with_name("drgrpo_pairs.jsonl").read_text().splitlines()]
TIMEOUT = 20.0  # of a pair that is expected to end: a busy machine must not fail the test


def grade_recorded(pairs: list[dict[str, Any]], fast: bool) -> list[float]:
    """Ours for each recorded pair, in the file's order."""
    grades: dict[int, float] = {}
    for extraction in ("boxed", "answer_tags"):
        rows = [i for i, pair in enumerate(pairs) if pair["extraction"] == extraction]
        responses, golds = [pairs[i]["response"] for i in rows], [pairs[i]["gold"] for i in rows]
        for i, grade in zip(rows, grade_drgrpo(responses, golds, fast=fast, extraction=extraction, timeout=TIMEOUT)):  # type: ignore[arg-type]
            grades[i] = float(grade.correct)
    return [grades[i] for i in range(len(pairs))]


def verdict(answer: str, gold: Any, *, fast: bool = True, timeout: float = TIMEOUT) -> tuple[bool, str]:
    (grade,) = grade_drgrpo([f"\\boxed{{{answer}}}"], [gold], fast=fast, extraction="boxed", timeout=timeout)
    return grade.correct, grade.status


@pytest.mark.parametrize("mode", ["fast", "slow"])
def test_the_originals_recorded_verdicts_are_reproduced(mode: str) -> None:
    if mode == "slow" and version("math-verify") != HEADER["math-verify"]:
        pytest.skip(f"slow verdicts were recorded with math-verify {HEADER['math-verify']}")
    assert len(RECORDED) >= 300 and len({pair[mode] for pair in RECORDED}) == 2
    ours = grade_recorded(RECORDED, fast=mode == "fast")
    differing = [pair for pair, grade in zip(RECORDED, ours, strict=True) if grade != pair[mode]]
    assert differing == [pair for pair in RECORDED if pair.get("ours") == 0.0 and pair[mode] == 1.0]
    assert len(differing) <= 8, "known differences are few"


def test_a_response_that_is_not_formatted_has_no_answer() -> None:
    responses = ["", "5", "\\boxed 5", "\\boxed{5", "\\boxed{5} and \\boxed", "\\fbox{5}", "\\boxed{4} \\boxed{5}", None]
    grades = grade_drgrpo(responses, ["5"] * len(responses), fast=True, extraction="boxed")
    assert [grade.status for grade in grades] == ["no_answer"] * 6 + ["graded", "no_answer"]
    assert grades[6].correct and grades[6].extracted == "5"


@pytest.mark.parametrize(
    "response, status, correct",
    [
        ("so </think> <answer>5</answer>", "graded", True),
        ("so </think> <answer>The answer is \\boxed{5}.</answer>", "graded", True),
        ("so </think><answer>5</answer>", "no_answer", False),
        ("so </think>\n<answer>5</answer>", "no_answer", False),
        ("so </think> <answer>5", "no_answer", False),
        ("so </think> <answer>\\boxed{5</answer>", "no_answer", False),
        ("so </think> <answer>4</answer> or <answer>5</answer>", "graded", True),
        ("so </think> <answer>5</answer> I hope", "graded", False),
        ("so \\boxed{5}", "no_answer", False),
    ],
)
def test_answer_tags_count_in_their_exact_format_only(response: str, status: str, correct: bool) -> None:
    (grade,) = grade_drgrpo([response], ["5"], fast=True, extraction="answer_tags")
    assert (grade.status, grade.correct) == (status, correct)


@pytest.mark.parametrize(
    "gold, right",
    [(["7", "5"], True), ([7.0, 5.0], True), (5, True), (5.0, True), (["7"], False), ([], False), (["7", "\\boxed{5}"], True)],
)
def test_any_gold_of_a_list_counts_and_numbers_are_golds(gold: Any, right: bool) -> None:
    assert verdict("5", gold) == (right, "graded")


def test_slow_mode_finds_what_fast_mode_misses() -> None:
    assert verdict("\\{2, 1\\}", "\\{1,2\\}") == (False, "graded")
    assert verdict("\\{2, 1\\}", "\\{1,2\\}", fast=False) == (True, "graded")


@pytest.mark.parametrize("fast", [pytest.param(True, marks=pytest.mark.slow), False])
def test_hostile_answers_end_at_the_limit_and_the_answers_beside_them_are_graded_right(fast: bool) -> None:
    hostile = [
        "1000000000!",
        "9**9**9**9",
        "x" + "**9**9" * 50,
        "(x+1)" * 4000,
        "{" * 50_000 + "}" * 50_000,
        "\\frac{1}{" * 3000 + "1" + "}" * 3000,
        "(" * 5000 + "x" + ")" * 5000,
        "1" + "+1" * 20_000,
        "-" * 20_000 + "x",
        "1," * 30_000,
        "__import__('os').system('true')",
        "\u200b" * 1000,
        "\ud800",
    ]
    responses = [text for bad in hostile for text in (f"\\boxed{{{bad}}}", "\\boxed{x + x}")]
    golds = ["y", "2x"] * len(hostile)
    grades = grade_drgrpo(responses, golds, fast=fast, extraction="boxed", timeout=3.0)
    assert not any(grade.correct for grade in grades[::2])
    assert grades[0].status == "timeout"
    assert all(grade.correct for grade in grades[1::2])


@pytest.mark.parametrize("answer, gold", [("x==5", "x==6"), ("x!=5", "x!=6")])
def test_text_is_not_evaluated_as_python(answer: str, gold: str) -> None:
    """The original finds these equal: for Python `x==5` and `x==6` are both false, and their difference is 0."""
    assert verdict(answer, gold) == (False, "graded")


@pytest.mark.parametrize(
    "text", ["id(x)", "x.e", "x[0]", "'x'", "(x,x)", "[x]", "x if x else x", "x<x", "x@x", "~x", "lambda:x"]
)
def test_the_walk_carries_out_arithmetic_and_nothing_else(text: str) -> None:
    with pytest.raises((NotImplementedError, SyntaxError)):
        is_zero(text)
    assert all(function.__module__ == "_operator" for function in OPERATORS.values())


@given(st.text(alphabet="ab", max_size=40) | st.text(max_size=20))
@settings(deadline=None)
def test_repetition_is_the_share_of_repeated_substrings(text: str) -> None:
    substrings = [text[i:j] for i in range(len(text)) for j in range(i + 1, len(text) + 1)]
    repeated = len(substrings) - len(set(substrings))
    assert is_repetitive(text) == (len(text) > 1 and repeated / len(substrings) > 0.2)


@given(st.text(alphabet="\\frac{}sqrt 12.=/text", max_size=30) | st.text())
@settings(deadline=None)
def test_every_text_has_a_form(text: str) -> None:
    assert isinstance(math_form(text), str)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"extraction": "tags"}, "boxed, answer_tags"),
        ({"timeout": 0.0}, "positive"),
        ({"golds": []}, "1 responses for 0 golds"),
    ],
)
def test_wrong_arguments_name_the_fix(change: dict[str, Any], said: str) -> None:
    arguments: dict[str, Any] = {"responses": ["\\boxed{1}"], "golds": ["1"], "fast": True, "extraction": "boxed", **change}
    with pytest.raises(ValueError, match=said):
        grade_drgrpo(**arguments)


def test_an_unknown_method_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="math, minerva, olympiadbench, drgrpo_fast, drgrpo_slow"):
        pool.shared_pool().check([("1", "1")], 1.0, method="drgrpo")
