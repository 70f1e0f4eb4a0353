"""The reward: how good each response is. Change it as you like; `gmpo-mm train ... --dry-run` calls it once."""

from typing import Any

from gmpo_mm.verifiers import grade_batch, last_boxed

REWARD_NAME = "mine"
REWARD_TYPE = "batch"  # all responses of a step at once; "sequential" gets one row and returns one dict


def compute_score(reward_inputs: list[dict[str, Any]]) -> list[dict[str, float]]:
    r"""One dict a row; `overall` is the reward, whatever else is in it is averaged and logged.

    A row holds `response` (text), `ground_truth` (the data's answer), `response_length` (tokens) and more. Here: 0.9 for
    the right answer in the last \boxed{}, compared as mathematics, and 0.1 for a box.
    """
    responses, golds = [row["response"] for row in reward_inputs], [row["ground_truth"] for row in reward_inputs]
    grades = grade_batch(responses, golds, kind="response", extraction="boxed")
    scores = []
    for row, grade in zip(reward_inputs, grades):
        accuracy, boxed = float(grade.correct), float(last_boxed(row["response"]) is not None)
        scores.append({"overall": 0.9 * accuracy + 0.1 * boxed, "accuracy": accuracy, "format": boxed})
    return scores
