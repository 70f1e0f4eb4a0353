"""Reward for mathematics with text answers (MATH, AIME, AMC and alike): accuracy plus format.

In an EasyR1 config: `worker.reward.reward_function: PATH/gmpo_mm/rewards/math.py:compute_score`. The `grader` under
`reward_function_kwargs` is math (the default), minerva, olympiadbench, drgrpo_fast, drgrpo_slow or geometry3k.

Whether a copy of the problem's own expression can be told depends on who calls: rows of `gmpo-mm train` carry the problem on
every engine; those that EasyR1 itself hands to a reward function hold no problem, and nothing is `not_evaluated` there.
"""

from typing import Any

from gmpo_mm.rewards.scoring import prepare, score_answers
from gmpo_mm.verifiers import DEFAULT_TIMEOUT
from gmpo_mm.verifiers.golds import gold_fault

REWARD_NAME = "math"
REWARD_TYPE = "batch"

__all__ = ["REWARD_NAME", "REWARD_TYPE", "compute_score", "gold_fault", "main", "prepare"]


def compute_score(
    reward_inputs: list[dict[str, Any]],
    format_weight: float = 0.1,
    accuracy_weight: float | None = None,
    format: str = "think_boxed",
    timeout: float = DEFAULT_TIMEOUT,
    grader: str = "math",
    unevaluated: str = "reject",
    format_rule: str = "strict",
) -> list[dict[str, float]]:
    """Scores with overall, format, accuracy, no_answer, verifier_timeout, verifier_error and not_evaluated.

    The arguments are those of `score_answers`.
    """
    return score_answers(
        reward_inputs, format_weight, accuracy_weight, format, timeout, grader, unevaluated, format_rule
    )


main = compute_score  # the name that EasyR1 looks for when the config gives only the path
