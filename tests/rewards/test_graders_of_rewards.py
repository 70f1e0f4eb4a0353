"""The math reward with another grader, and the same rewards in verl's contract."""

import importlib.util
import inspect
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gmpo_mm.errors import ConfigError
from gmpo_mm.rewards import load_reward_function
from gmpo_mm.rewards.scoring import TEXT_GRADERS, score_answers

FOLDER = Path(__file__).resolve().parents[2] / "gmpo_mm" / "rewards"
BOX = r"<think>a</think> \boxed{%s}"


def load_by_path(name: str) -> ModuleType:
    """As verl and EasyR1 load a reward's file: by path, under a name of their own."""
    spec = importlib.util.spec_from_file_location("custom_module", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["custom_module"] = module
    spec.loader.exec_module(module)
    return module


def accuracies(grader: str, pairs: list[tuple[str, Any]]) -> list[float]:
    rows = [{"response": BOX % answer, "response_length": 1, "ground_truth": gold} for answer, gold in pairs]
    return [score["accuracy"] for score in load_by_path("math").compute_score(rows, grader=grader)]


def test_the_math_reward_grades_by_the_named_grader() -> None:
    pairs = [("9.65", ["9.6\n", "7"]), ("-2, 2", "$2,-2$"), (r"\frac{1}{2}", "0.5")]
    assert accuracies("minerva", pairs)[0] == 1.0 and accuracies("math", pairs)[0] == 0.0
    assert accuracies("olympiadbench", pairs) == [0.0, 1.0, 1.0]
    for grader in TEXT_GRADERS:
        assert accuracies(grader, [(r"\frac{1}{2}", r"\frac{1}{2}"), ("3", r"\frac{1}{2}")]) == [1.0, 0.0], grader


def test_the_grader_is_a_keyword_of_the_config_and_checked_when_loaded() -> None:
    path = f"{FOLDER / 'math.py'}:compute_score"
    reward = load_reward_function(path, {"grader": "minerva", "format_weight": 0.0})
    assert reward([{"response": r"\boxed{9.65}", "response_length": 1, "ground_truth": "9.6"}])[0]["overall"] == 1.0
    with pytest.raises(
        ConfigError, match=r"grader='minerve' is not known \(did you mean 'minerva'\?\); use one of math, geometry3k"
    ):
        load_reward_function(path, {"grader": "minerve"})
    with pytest.raises(ConfigError, match=r"grader='countdown' has a reward of its own, gmpo_mm/rewards/countdown.py"):
        load_reward_function(path, {"grader": "countdown"})


def test_verl_gets_a_dict_with_its_score_and_plain_floats() -> None:
    """Called as verl's NaiveRewardManager calls it: by keyword, with `reward_kwargs` merged in."""
    module = load_by_path("verl")
    compute_score = partial(module.compute_score, grader="math", format_weight=0.5)
    right = compute_score(data_source="any", solution_str=BOX % "60", ground_truth="60", extra_info={"num_turns": None})
    assert right == {
        "score": 1.0, "acc": 1.0, "format": 1.0, "no_answer": 0.0, "verifier_timeout": 0.0, "verifier_error": 0.0,
        "not_evaluated": 0.0,
    }  # fmt: skip
    assert all(type(value) is float for value in right.values())
    wrong = compute_score(data_source="any", solution_str="60", ground_truth="60", extra_info=None)
    assert (wrong["score"], wrong["acc"], wrong["no_answer"]) == (0.0, 0.0, 1.0)
    assert list(wrong) == list(right)


def test_verls_signature_is_the_one_that_verl_calls() -> None:
    module = load_by_path("verl")
    names = list(inspect.signature(module.compute_score).parameters)
    assert names[:4] == ["data_source", "solution_str", "ground_truth", "extra_info"]
    names = list(inspect.signature(module.compute_score_batch).parameters)
    assert names[:4] == ["data_sources", "solution_strs", "ground_truths", "extra_infos"]


def test_verls_batch_is_the_easyr1_reward_of_the_same_rows() -> None:
    numpy = pytest.importorskip("numpy")
    answers, golds = ["9.65", "9.8", r"\frac{1}{2}", ""], ["9.6", "9.6", "0.5", "1"]
    responses = [BOX % answer for answer in answers]
    batch = load_by_path("verl").compute_score_batch(
        data_sources=numpy.array(["minerva", "x", "y", "z"], dtype=object),
        solution_strs=responses,
        ground_truths=golds,
        extra_infos=numpy.array([None] * 4, dtype=object),
        grader="minerva",
        format_weight=0.2,
        reward_router_address=None,
        reward_model_tokenizer=None,
    )
    rows = [{"response": response, "ground_truth": gold} for response, gold in zip(responses, golds, strict=True)]
    expected = score_answers(rows, format_weight=0.2, grader="minerva")
    assert [score["score"] for score in batch] == [score["overall"] for score in expected]
    assert [score["acc"] for score in batch] == [1.0, 0.0, 1.0, 0.0]


def test_verls_extra_info_may_hold_the_problem() -> None:
    compute_score = load_by_path("verl").compute_score
    problem = "What is $2^{10}$?"
    for extra_info, told in (
        ({"problem": problem}, 1.0), ({"question": problem}, 1.0), ({"question": "Which one?"}, 0.0), ({"question": None}, 0.0),
        ({}, 0.0), (None, 0.0),
    ):  # fmt: skip
        score = compute_score("any", BOX % "2^{10}", "1024", extra_info)
        assert (score["not_evaluated"], score["acc"]) == (told, 1.0 - told)
    accepted = compute_score("any", BOX % "2^{10}", "1024", {"problem": problem}, unevaluated="accept")
    assert (accepted["not_evaluated"], accepted["acc"]) == (0.0, 1.0)


def test_the_grader_is_never_guessed_from_the_data_source() -> None:
    module = load_by_path("verl")
    assert module.compute_score("minerva", r"\boxed{9.65}", "9.6", None)["acc"] == 0.0
    assert module.compute_score("math", r"\boxed{9.65}", "9.6", None, grader="minerva")["acc"] == 1.0


def test_countdown_in_verl_has_countdowns_scores() -> None:
    compute_score = partial(load_by_path("verl").compute_score, grader="countdown", format_score=0.2)
    gold = {"numbers": [1, 2], "target": 3}
    scores = [compute_score("x", f"<answer>{text}</answer>", gold)["score"] for text in ("1+2", "1*2", "three")]
    assert scores == [1.0, 0.2, 0.0]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"grader": "nobody"}, "grader='nobody' is not known; use one of"),
        ({"weight": 1}, r"reward_kwargs.weight=1 is not known with grader='math'; known: format_weight"),
        ({"grader": "countdown", "timeout": 1}, r"reward_kwargs.timeout=1 is not known with grader='countdown'; known: score"),
        ({"format": "r1"}, "format='r1' is not known"),
    ],
)
def test_a_wrong_keyword_is_an_error_in_verl_too(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_by_path("verl").compute_score("x", "y", "z", None, **kwargs)
