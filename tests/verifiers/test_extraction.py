"""Where the answer stands in a response, and that no response makes finding it slow."""

import pytest

from gmpo_mm.verifiers import extract_answer, last_boxed


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"so \boxed{5}", "5"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed {7} and done", "7"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{3} but then \boxed{4 + ", "3"),
        (r"{ { \boxed{9}", "9"),
        (r"\boxed{ 6 } } }", " 6 "),
        (r"line\\\boxed{8}", "8"),
        (r"\boxed{a} and \boxed{b}", "a, b"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\fbox{12}", "12"),
        (r"so $\boxed 5$.", "5"),
        (r"\boxed 5", "5"),
        (r"\boxed5.", "5"),
        (r"\boxed \frac{1}{2} holds", r"\frac{1}{2}"),
        (r"\boxed{\text{None}}", r"\text{None}"),
        (r"\boxed{3} but then \boxed", "3"),
    ],
)
def test_the_last_complete_box_is_found_with_its_nested_braces(response: str, answer: str) -> None:
    assert last_boxed(response) == answer


@pytest.mark.parametrize(
    "response", ["", "5", r"\boxed{5", r"\boxed", r"\boxed{\frac{1}{2}", r"\boxed \frac{1", "boxed{5}", "None"]
)
def test_a_response_without_a_complete_box_has_no_answer(response: str) -> None:
    assert last_boxed(response) is None


@pytest.mark.parametrize(
    "response",
    [r"\boxed{}", r"\boxed{   }", "\\boxed{\u200b}", "<answer> </answer>", "<answer>5", "</answer><answer>", "None"],
)
def test_an_empty_answer_is_no_answer(response: str) -> None:
    assert extract_answer(response) is None


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"Step 1. So x = 4.<|im_end|>", None),
        (r"Let me see.\n\nThe answer is $\boxed{4}$.<|im_end|>", "4"),
        ("I add them. </think> <answer> 4 </answer>", "4"),
        (r"It may be \boxed{3}. </think> <answer> 4 </answer>", "4"),
        (r"It may be \boxed{3}. </think> <answer> \boxed{4} </answer>", "4"),
        (r"It is \boxed{3}. </think> I am sure.", "3"),
        ("<think> <answer>3</answer> </think> <answer>4</answer>", "4"),
        ("I add them. </think> <answer> 4", None),
        ("None </think> None", None),
    ],
)
def test_the_templates_of_qwen_math_and_r1(response: str, answer: str | None) -> None:
    assert extract_answer(response) == answer


def test_answer_tags_and_a_box_within_them() -> None:
    assert extract_answer("<answer>1</answer> <answer> 2 </answer>", "answer_tags") == "2"
    assert extract_answer(r"<answer>so \boxed{3}</answer>", "answer_tags") == "3"
    assert extract_answer(r"\boxed{4}", "answer_tags") is None
    assert extract_answer("<answer>4</answer>", "boxed") is None
    assert extract_answer(r"\boxed{4} <answer>5</answer>", "auto") == "4"
    assert extract_answer("<answer>5</answer>", "auto") == "5"
    with pytest.raises(ValueError, match="auto, boxed, answer_tags"):
        extract_answer("5", "box")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "unit",
    [
        "{",
        "}",
        "{}",
        "\\boxed{",
        "\\boxed{}",
        "<answer>",
        "</answer>",
        "\\boxed {",
        "\\",
        "\\\\ \\boxed{",
        " ",
        "\\boxed{ \\{",
        "\\boxed 5",
        "</think>",
    ],
)
@pytest.mark.parametrize("ending", ["", r"\boxed{", "</answer>"])
@pytest.mark.timeout(60)
def test_a_response_of_a_megabyte_is_read_in_linear_time(unit: str, ending: str) -> None:
    """A scan that starts again at each brace needs about 10^11 steps here: it ends at the time limit, not before."""
    response = unit * (1_000_000 // len(unit)) + ending
    assert extract_answer(response, "auto") in (None, "5", unit * (1_000_000 // len(unit)))
