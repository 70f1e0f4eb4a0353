"""The CountDown reward: TinyZero's scores in EasyR1's contract."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gmpo_mm.errors import ConfigError, RewardError
from gmpo_mm.rewards import load_reward_function

FILE = Path(__file__).resolve().parents[2] / "gmpo_mm" / "rewards" / "countdown.py"
PROBLEM = {"numbers": [44, 19, 35], "target": 28}
GOLD = json.dumps(PROBLEM)


def load_as_easyr1_does() -> ModuleType:
    """By path, without a package, under EasyR1's module name."""
    spec = importlib.util.spec_from_file_location("custom_reward_fn", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["custom_reward_fn"] = module
    spec.loader.exec_module(module)
    return module


def score(response: Any, gold: Any = GOLD, **kwargs: Any) -> dict[str, float]:
    row = {"response": response, "response_length": 1, "ground_truth": gold}
    scores: list[dict[str, float]] = load_as_easyr1_does().compute_score([row], **kwargs)
    assert len(scores) == 1 and all(type(value) is float for value in scores[0].values())
    return scores[0]


def test_the_file_works_by_path_as_easyr1_uses_it() -> None:
    module = load_as_easyr1_does()
    assert (module.REWARD_NAME, module.REWARD_TYPE) == ("countdown", "batch")
    assert module.main is module.compute_score
    reward = load_reward_function(str(FILE))
    assert (
        reward([{"response": "<answer>44 + 19 - 35</answer>", "response_length": 9, "ground_truth": GOLD}])[0]["overall"] == 1.0
    )


@pytest.mark.parametrize(
    ("response", "overall", "form", "accuracy", "no_answer"),
    [
        ("<think>a</think> <answer>44 + 19 - 35</answer>", 1.0, 1.0, 1.0, 0.0),
        ("<answer>44 + 19 - 35 = 28</answer>", 1.0, 1.0, 1.0, 0.0),
        (r"so \boxed{44 + 19 - 35}", 1.0, 1.0, 1.0, 0.0),
        ("<answer>44 + 35 - 19</answer>", 0.1, 1.0, 0.0, 0.0),  # another value
        ("<answer>28</answer>", 0.1, 1.0, 0.0, 0.0),  # not the given numbers
        ("<answer>44 + 19 - 35 + 0</answer>", 0.1, 1.0, 0.0, 0.0),
        ("<answer>44 / (19 - 19)</answer>", 0.1, 1.0, 0.0, 0.0),
        ("<answer>I do not know</answer>", 0.0, 0.0, 0.0, 0.0),
        ("<answer>__import__('os')</answer>", 0.0, 0.0, 0.0, 0.0),
        ("<answer>44 + 19 - 35</answer> or <answer>44</answer>", 0.1, 1.0, 0.0, 0.0),  # the last pair
        ("44 + 19 - 35", 0.0, 0.0, 0.0, 1.0),
        ("<answer></answer>", 0.0, 0.0, 0.0, 1.0),
        ("", 0.0, 0.0, 0.0, 1.0),
        (None, 0.0, 0.0, 0.0, 1.0),
    ],
)
def test_right_is_one_an_expression_a_tenth_and_the_rest_nothing(
    response: Any, overall: float, form: float, accuracy: float, no_answer: float
) -> None:
    assert score(response) == {"overall": overall, "format": form, "accuracy": accuracy, "no_answer": no_answer}


def test_scores_and_extraction_are_arguments() -> None:
    right, wrong, box = "<answer>44+19-35</answer>", "<answer>44</answer>", r"\boxed{44+19-35}"
    assert [score(text, score=2, format_score=0.5)["overall"] for text in (right, wrong)] == [2.0, 0.5]
    assert score(wrong, format_score=0)["overall"] == 0.0
    assert [score(text, extraction="answer_tags")["overall"] for text in (right, box)] == [1.0, 0.0]
    assert [score(text, extraction="boxed")["overall"] for text in (right, box)] == [0.0, 1.0]


def test_the_ground_truth_may_be_a_mapping_as_in_tinyzeros_files() -> None:
    numpy = pytest.importorskip("numpy")
    for gold in (PROBLEM, {"numbers": numpy.array([44, 19, 35]), "target": 28}, {"numbers": (44, 19, 35), "target": 28.0}):
        assert score("<answer>44+19-35</answer>", gold)["overall"] == 1.0


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"score": "1"}, "score='1' must be a finite number"),
        ({"format_score": float("nan")}, "format_score=nan"),
        ({"score": 1, "format_score": 2}, "format_score=2 is above score=1"),
        ({"extraction": "tags"}, "extraction='tags' is not known; use one of auto, boxed, answer_tags"),
        ({"formatscore": 1}, "does not know 'formatscore'.*did you mean 'format_score'"),
    ],
)
def test_a_wrong_argument_is_an_error_already_when_loaded(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_reward_function(f"{FILE}:compute_score", kwargs)


def test_a_broken_ground_truth_is_an_error_that_names_its_row() -> None:
    rows = [{"response": "", "response_length": 0, "ground_truth": gold} for gold in (GOLD, GOLD, "28")]
    with pytest.raises(RewardError, match="row 2: CountDown gold '28' must be"):
        load_as_easyr1_does().compute_score(rows)
    with pytest.raises(RewardError, match=r"(?s)compute_score raised .*row 2, ground truth '28'"):
        load_reward_function(f"{FILE}:compute_score")(rows)


def test_no_response_makes_the_reward_raise() -> None:
    hostile = [
        "(" * 100_000,
        "9**9**9**9",
        "1+" * 100_000 + "1",
        "<answer>" * 10_000,
        "\ud800",
        "\x00",
        "-" * 50_000 + "1",
        "1/0",
    ]
    rows = [{"response": f"<answer>{text}</answer>", "ground_truth": GOLD} for text in hostile]
    scores = load_as_easyr1_does().compute_score(rows)
    assert [entry["accuracy"] for entry in scores] == [0.0] * len(hostile)
