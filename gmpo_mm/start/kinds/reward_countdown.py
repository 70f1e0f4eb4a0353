"""The reward: how good each response is. Change it as you like; `gmpo-mm train ... --dry-run` calls it once."""

from typing import Any

from gmpo_mm.verifiers.countdown import check_expression, extract_expression, read_problem

REWARD_NAME = "mine"
REWARD_TYPE = "batch"  # all responses of a step at once; "sequential" gets one row and returns one dict


def compute_score(reward_inputs: list[dict[str, Any]]) -> list[dict[str, float]]:
    """One dict a row; `overall` is the reward, whatever else is in it is averaged and logged.

    A row holds `response` (text), `ground_truth` (the data's answer: numbers and target), `response_length` (tokens) and
    more. Here: 1 for an expression that reaches the target, 0.1 for another expression, 0 for none.
    """
    scores = []
    for row in reward_inputs:
        answer = extract_expression(row["response"], "auto")
        verdict = None if answer is None else check_expression(answer, read_problem(row["ground_truth"]))
        right, expression = bool(verdict and verdict.correct), bool(verdict and verdict.is_expression)
        scores.append({"overall": 1.0 if right else 0.1 * expression, "accuracy": float(right), "format": float(expression)})
    return scores
