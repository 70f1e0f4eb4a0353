"""One call of a reward function on a made row, before a model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gmpo_mm.errors import RewardError
from gmpo_mm.rewards.loading import RewardFunction


def try_reward(function: RewardFunction, problem: str | None, golds: Sequence[str]) -> tuple[str, dict[str, float]]:
    """Call `function` once on a made response that holds the first gold; returns what came of it, in words and numbers.

    Problem and golds are those of the first record. Without any (data that isn't here yet) they are made up too, and a
    function that raises then may only want golds of another form, which is said and no error. Raises RewardError for what
    is wrong in any case: raising on a real gold, or returning something other than the contract.
    """
    made_up = not golds
    problem, golds = ("What is 1 + 1?", ("2",)) if made_up else (problem or "", golds)
    response = f"<think>A row made by the dry run.</think> <answer>{golds[0]}</answer> \\boxed{{{golds[0]}}}"
    truth = golds[0] if len(golds) == 1 else list(golds)
    row: dict[str, Any] = {"response": response, "response_length": 16, "ground_truth": truth, "problem": problem}
    try:
        (score,) = function([row])
    except RewardError as error:
        if made_up and error.__cause__ is not None:
            cause = f"{type(error.__cause__).__name__}: {error.__cause__}"
            words = f"imported; raised {cause} on a made row with the gold '2', which is no fault where the data's golds differ"
            return words, {}
        raise
    numbers = ", ".join(f"{key} {value:g}" for key, value in score.items())
    return f"a made row with {'the gold 2' if made_up else 'the first gold'} as its answer scores {numbers}", score
