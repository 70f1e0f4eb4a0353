"""The math and Geometry3K rewards: EasyR1's contract, formats, weights, and responses that would stop a run."""

import importlib.util
import re
import sys
from functools import partial
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import pytest

from gmpo_mm.errors import ConfigError
from gmpo_mm.rewards import load_reward_function
from gmpo_mm.rewards.formats import answer_tags, qwen_math, think_boxed

FOLDER = Path(__file__).resolve().parents[2] / "gmpo_mm" / "rewards"
FILES = ["math", "geometry3k"]


def load_as_easyr1_does(name: str) -> ModuleType:
    """By path, without a package, under EasyR1's module name."""
    spec = importlib.util.spec_from_file_location("custom_reward_fn", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["custom_reward_fn"] = module
    spec.loader.exec_module(module)
    return module


def row(response: Any, ground_truth: Any = "60") -> dict[str, Any]:
    return {"response": response, "response_length": len(str(response)), "ground_truth": ground_truth}


@pytest.mark.parametrize("name", FILES)
def test_the_file_works_by_path_as_easyr1_uses_it(name: str) -> None:
    module = load_as_easyr1_does(name)
    label, kind = module.REWARD_NAME, module.REWARD_TYPE
    assert (label, kind) == (name, "batch")
    assert module.main is module.compute_score
    reward = partial(module.compute_score, format_weight=0.5)
    scores = reward([row(r"<think>a</think> \boxed{60}"), row(r"\boxed{60}"), row(r"<think>a</think>\boxed{61}"), row("60")])
    assert [score["overall"] for score in scores] == [1.0, 0.5, 0.5, 0.0]
    assert [score["accuracy"] for score in scores] == [1.0, 1.0, 0.0, 0.0]
    assert [score["format"] for score in scores] == [1.0, 0.0, 1.0, 0.0]
    assert [score["no_answer"] for score in scores] == [0.0, 0.0, 0.0, 1.0]
    assert all(type(value) is float for score in scores for value in score.values())


def test_the_default_weights_are_easyr1s() -> None:
    scores = load_as_easyr1_does("math").compute_score([row(r"\boxed{60}"), row(r"<think>a</think>\boxed{1}")])
    assert [score["overall"] for score in scores] == pytest.approx([0.9, 0.1])


def test_weights_are_arguments() -> None:
    compute_score = load_as_easyr1_does("math").compute_score
    right = [row(r"<think>a</think>\boxed{60}")]
    assert compute_score(right, format_weight=0.25, accuracy_weight=2.0)[0]["overall"] == 2.25
    assert compute_score(right, format_weight=0.0)[0]["overall"] == 1.0
    assert compute_score(right, format_weight=3.0, accuracy_weight=1.0)[0]["overall"] == 4.0


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"format": "r1"}, "format='r1' is not known; use one of think_boxed, answer_tags, qwen_math"),
        ({"format_weight": -0.1}, "format_weight=-0.1"),
        ({"format_weight": "0.1"}, "format_weight='0.1'"),
        ({"format_weight": float("nan")}, "format_weight=nan"),
        ({"format_weight": 1.5}, "leaves accuracy the weight -0.5"),
        ({"accuracy_weight": float("inf")}, "accuracy_weight=inf"),
        ({"timeout": 0}, "timeout=0"),
    ],
)
def test_a_wrong_argument_is_an_error_when_called_and_already_when_loaded(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_as_easyr1_does("math").compute_score([row("60")], **kwargs)
    with pytest.raises(ConfigError, match=message):
        load_reward_function(f"{FOLDER / 'math.py'}:compute_score", kwargs)


def test_several_ground_truths_of_any_kind_count() -> None:
    numpy = pytest.importorskip("numpy")
    golds = [["1", "60"], ("60",), numpy.array(["2", "60"], dtype=object), 60, 60.0, "60", ["1"], []]
    scores = load_as_easyr1_does("geometry3k").compute_score([row(r"\boxed{60^\circ}", gold) for gold in golds])
    assert [score["accuracy"] for score in scores] == [1.0] * 6 + [0.0] * 2


def test_the_answer_stands_where_the_format_says() -> None:
    compute_score = load_as_easyr1_does("math").compute_score
    tags, box = row("<think>a</think> <answer>60</answer>"), row(r"the answer is \boxed{60}")
    assert [s["accuracy"] for s in compute_score([tags, box], format="answer_tags")] == [1.0, 0.0]
    assert [s["accuracy"] for s in compute_score([tags, box], format="qwen_math")] == [0.0, 1.0]
    assert [s["format"] for s in compute_score([tags, box], format="answer_tags")] == [1.0, 0.0]
    assert [s["format"] for s in compute_score([tags, box], format="qwen_math")] == [0.0, 1.0]
    assert [s["format"] for s in compute_score([tags, box], format="think_boxed")] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("response", "kept"),
    [
        (r"<think>a</think>\boxed{1}", True),
        ("<think>\na\n</think>\nso \\boxed{\\frac{1}{2}}.\n", True),
        ("\n< think >a< / think > \\boxed{1}", True),
        (r"<think></think>\boxed{1}", False),
        (r"<think> . </think>\boxed{1}", False),
        (r"<think>a</think>\boxed{}", False),
        (r"<think>a</think>\boxed{ \text{ } }", False),
        (r"<think>a</think>\boxed{$\,$}", False),
        ("<think>a</think>\\boxed{\u200b}", False),
        (r"<think></think> <think>a</think>\boxed{1}", False),
        (r"<think>\quad\,</think>\boxed{1}", False),
        (r"<think>a</think><think>b</think>\boxed{1}", False),
        (r"<think>a<think>b</think></think>\boxed{1}", False),
        (r"<think>a</think>\boxed{1}</think>", False),
        (r"<think>a</think>\boxed{\text{}}", False),
        (r"<think>a</think>\boxed{{}}", False),
        (r"<think>a</think>\boxed{1} so \boxed{}", False),
        (r"<think>\frac{a}{b}</think>\boxed{0}", True),
        (r"<think>思考</think>\boxed{\pi}", True),
        (r"<think>a \boxed{1}</think>", False),
        (r"a <think>b</think>\boxed{1}", False),
        (r"<think>a\boxed{1}", False),
        (r"<think>a</think>\boxed{1", False),
        (r"</think><think>\boxed{1}", False),
        ("<think>a</think> 1", False),
        ("", False),
    ],
)
def test_think_boxed_wants_a_complete_box_after_the_thought(response: str, kept: bool) -> None:
    assert think_boxed(response) is kept


@pytest.mark.parametrize(
    ("response", "kept"),
    [
        ("<think>a</think><answer>1</answer>", True),
        ("\n<think>a\nb</think>\n\n<answer>\n1</answer>\n", True),
        ("<think>a</think> so <answer>1</answer>", False),
        ("<think>a</think><answer>1</answer> done", False),
        ("<think>a</think><answer>1</answer><answer>2</answer>", False),
        ("<answer>1</answer><think>a</think>", False),
        ("<think></think><answer>1</answer>", False),
        ("<think>a</think><answer> </answer>", False),
        (r"<think>a</think><answer>\boxed{ }</answer>", False),
        (r"<think>a</think><answer>\boxed{1}</answer>", True),
        ("<think>a<think>b</think></think><answer>1</answer>", False),
        ("<think>a<answer></think><answer>1</answer>", False),
        ("<think>a<answer>1</answer></think>", False),
        ("<answer>1</answer>", False),
        ("", False),
    ],
)
def test_answer_tags_wants_each_tag_once_in_order_and_nothing_else(response: str, kept: bool) -> None:
    assert answer_tags(response) is kept


def test_qwen_math_wants_a_complete_box_anywhere() -> None:
    assert qwen_math(r"so \boxed{1} indeed")
    assert not qwen_math(r"so \boxed{1")
    assert not qwen_math("so 1")


LONG = 1_000_000
HOSTILE = [
    "", " ", "\x00", "\ud800", "{" * 100_000, r"\boxed{" * 20_000, r"\boxed{" + "{" * 100_000 + "}" * 100_000 + "}",
    r"\boxed{9**9**9**9}", r"\boxed{(9**9)**(9**9)}", r"\boxed{1000000000!}", r"\boxed{\sum_{k=1}^{2} (10^8)!}",
    r"\boxed{2^{2^{2^{2^{9}}}}}",
    r"\boxed{" + r"\frac{1}{" * 50 + "2" + "}" * 51, "\\boxed{\u200b\u200b}", "a" * LONG, " " * LONG, "<" * LONG,
    "< " * (LONG // 2), "<think>" * (LONG // 7), "<think>" + "</think>" * (LONG // 8), "< think >" + " " * LONG + "</",
    "<think></think>" + "<answer>" * (LONG // 8), "<answer>" + " " * LONG + "</answer>", r"\boxed{" + "7" * LONG + "}",
    "<" + " " * LONG + "/think>", None, 3.5,
]  # fmt: skip


@pytest.mark.timeout(120)
@pytest.mark.parametrize("format", ["think_boxed", "answer_tags", "qwen_math"])
def test_no_response_makes_the_reward_raise_or_hang(format: str) -> None:
    rows = [row(response) for response in HOSTILE]
    good = row(r"<think>a</think><answer>\boxed{120/2}</answer>")
    scores = load_as_easyr1_does("geometry3k").compute_score([good, *rows, good], format=format, timeout=1.0)
    assert len(scores) == len(rows) + 2
    assert [score["accuracy"] for score in scores] == [1.0] + [0.0] * len(rows) + [1.0]
    assert not any(score["verifier_error"] for score in scores)


def test_a_timeout_is_counted_apart_from_a_wrong_answer() -> None:
    responses = [r"\boxed{\sum_{k=1}^{2} (10^8)!}", r"\boxed{7}", "none"]
    scores = load_as_easyr1_does("math").compute_score([row(response) for response in responses], timeout=0.5)
    assert [score["verifier_timeout"] for score in scores] == [1.0, 0.0, 0.0]
    assert [score["no_answer"] for score in scores] == [0.0, 0.0, 1.0]
    assert [score["accuracy"] for score in scores] == [0.0] * 3


def test_easyr1s_rule_says_what_its_own_patterns_say() -> None:
    pieces = [
        "<think>", "</think>", "<answer>", "</answer>", "\\boxed{", "}", "{", " ", "\n", "a", "<", "/", "think", ">",
        "< / think >",
    ]  # fmt: skip
    random, found = Random(15), [0, 0]
    good = [r"<think>a</think>\boxed{1}", "<think>a</think><answer>1</answer>", r"<think></think>\boxed{}"]
    for i in range(20_000):
        text = "".join(random.choices(pieces, k=random.randint(1, 9)))
        if i % 2:  # close to a form: one piece put in
            place = random.randrange(30)
            text = good[i % 3][:place] + random.choice(pieces) + good[i % 3][place:]
        spaces_removed = re.sub(r"\s*(<|>|/)\s*", r"\1", text)
        boxed = re.fullmatch(r"<think>.*</think>.*\\boxed\{.*\}.*", spaces_removed, re.DOTALL) is not None
        tags = re.fullmatch(r"<think>.*?</think>\s*<answer>.*?</answer>", text, re.DOTALL) is not None
        assert think_boxed(text, strict=False) is boxed, text
        assert answer_tags(text, strict=False) is tags, text
        found = [found[0] + boxed, found[1] + tags]
    assert min(found) > 300


def test_easyr1s_own_rule_takes_an_empty_thought_and_an_empty_box_for_a_form() -> None:
    compute_score = load_as_easyr1_does("math").compute_score
    rows = [row(r"<think></think>\boxed{}"), row(r"<think>a</think>\boxed{1}")]
    assert [score["format"] for score in compute_score(rows)] == [0.0, 1.0]
    assert [score["format"] for score in compute_score(rows, format_rule="easyr1")] == [1.0, 1.0]
    tags = [row("<think> </think> <answer> </answer>"), row("<think>a</think><answer>5</answer>")]
    assert compute_score([row("{}")], format="qwen_math", format_rule="easyr1")[0]["format"] == 0.0
    assert [score["format"] for score in compute_score(tags, format="answer_tags")] == [0.0, 1.0]
    assert [score["format"] for score in compute_score(tags, format="answer_tags", format_rule="easyr1")] == [1.0, 1.0]
    with pytest.raises(ConfigError, match="format_rule='loose' is not known; use one of strict, easyr1"):
        compute_score(rows, format_rule="loose")


def test_an_expression_that_is_copied_out_of_its_problem_earns_no_accuracy_and_is_counted_apart() -> None:
    compute_score = load_as_easyr1_does("math").compute_score
    problem = "What is $99^2+99+1$?"
    rows = [
        {**row(f"<think>a</think>\\boxed{{{text}}}", "9901"), "problem": problem}
        for text in ("99^2+99+1", "1 + 99 + 99^2", "N = (99^2 + 99 + 1)", "9901", "99^2+99+1 = 9901", "100^2 - 99")
    ]
    assert [score["accuracy"] for score in compute_score(rows)] == [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    assert [score["not_evaluated"] for score in compute_score(rows)] == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    assert [score["accuracy"] for score in compute_score(rows, unevaluated="accept")] == [1.0] * 6
    without = [{key: value for key, value in one.items() if key != "problem"} for one in rows]
    assert [score["accuracy"] for score in compute_score(without)] == [1.0] * 6
    with pytest.raises(ConfigError, match="unevaluated='maybe' is not known"):
        compute_score(rows, unevaluated="maybe")
