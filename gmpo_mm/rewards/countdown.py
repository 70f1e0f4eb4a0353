"""Reward for CountDown with TinyZero's scores: 1.0 for a right expression, 0.1 for a wrong one, 0 for none.

In an EasyR1 config: `worker.reward.reward_function: PATH/gmpo_mm/rewards/countdown.py:compute_score`. The ground truth is
`{"numbers": [..], "target": ..}`, as JSON text or as a mapping. Unlike TinyZero's, a text in the answer tags
that is no expression earns nothing, and the expression is never evaluated as code (see `gmpo_mm/verifiers/countdown.py`).
"""

import math
from typing import Any

from gmpo_mm.errors import ConfigError, RewardError
from gmpo_mm.rewards.scoring import response_text
from gmpo_mm.verifiers.countdown import Problem, check_expression, extract_expression, read_problem
from gmpo_mm.verifiers.extraction import EXTRACTIONS, Extraction

REWARD_NAME = "countdown"
REWARD_TYPE = "batch"


def prepare(score: float = 1.0, format_score: float = 0.1, extraction: Extraction = "auto") -> None:
    """Check the arguments before a run."""
    for name, value in {"score": score, "format_score": format_score}.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ConfigError(f"reward argument {name}={value!r} must be a finite number")
    if format_score > score:
        raise ConfigError(
            f"reward argument format_score={format_score!r} is above score={score!r}; give at most the score"
        )
    if extraction not in EXTRACTIONS:
        raise ConfigError(
            f"reward argument extraction={extraction!r} is not known; use one of {', '.join(EXTRACTIONS)}"
        )


def compute_score(
    reward_inputs: list[dict[str, Any]],
    score: float = 1.0,
    format_score: float = 0.1,
    extraction: Extraction = "auto",
) -> list[dict[str, float]]:
    r"""Scores with overall, format, accuracy and no_answer, one dict a row; no response can make this raise.

    `format` is 1 when the answer is an expression, right or wrong. `extraction` says where the answer stands: `answer_tags`
    (the last pair), `boxed` (the last box), or `auto`: the tags, and the box where there are none.
    """
    prepare(score, format_score, extraction)
    return [_score(row, score, format_score, extraction, index) for index, row in enumerate(reward_inputs)]


def _score(
    row: dict[str, Any], score: float, format_score: float, extraction: Extraction, index: int
) -> dict[str, float]:
    problem = _problem(row["ground_truth"], index)
    answer = extract_expression(response_text(row["response"]), extraction)
    if answer is None:
        return {"overall": 0.0, "format": 0.0, "accuracy": 0.0, "no_answer": 1.0}
    verdict = check_expression(answer, problem)
    return {
        "overall": float(score) if verdict.correct else float(format_score) if verdict.is_expression else 0.0,
        "format": float(verdict.is_expression),
        "accuracy": float(verdict.correct),
        "no_answer": 0.0,
    }


def _problem(ground_truth: object, index: int) -> Problem:
    try:
        return read_problem(ground_truth)
    except ValueError as error:
        raise RewardError(f"row {index}: {error}") from None


check_gold = read_problem  # every gold passes it before a run

main = compute_score  # the name that EasyR1 looks for when the config gives only the path
