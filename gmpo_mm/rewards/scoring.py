"""Accuracy plus format, the reward that the answer-graded data sets share, in EasyR1's contract."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from gmpo_mm.errors import ConfigError
from gmpo_mm.rewards.formats import FORMATS, RULES
from gmpo_mm.verifiers import DEFAULT_TIMEOUT, GRADERS, check_grader, grade_responses, warm_up

Score = dict[str, float]
TEXT_GRADERS = tuple(name for name, grader in GRADERS.items() if grader.check_gold is None)
"""Graders that this reward takes: every text is a gold for them. CountDown has its own (`gmpo_mm.rewards.countdown`)."""


def check_arguments(
    format_weight: float,
    accuracy_weight: float | None,
    format: str,
    timeout: float,
    grader: str = "math",
    unevaluated: str = "reject",
    format_rule: str = "strict",
) -> None:
    """ConfigError for a value that the reward can't mean."""
    check_choice(grader)
    for name, value, known in (
        ("format", format, tuple(FORMATS)),
        ("unevaluated", unevaluated, ("reject", "accept")),
        ("format_rule", format_rule, RULES),
    ):
        if value not in known:
            raise ConfigError(f"reward argument {name}={value!r} is not known; use one of {', '.join(known)}")
    weights = {"format_weight": format_weight, "accuracy_weight": accuracy_weight}
    for name, weight in weights.items():
        if weight is not None and not (_is_number(weight) and 0 <= weight < math.inf):
            raise ConfigError(f"reward argument {name}={weight!r} must be a number of at least 0")
    if accuracy_weight is None and format_weight > 1:
        raise ConfigError(
            f"reward argument format_weight={format_weight!r} leaves accuracy the weight {1 - format_weight:g}; "
            "give a format_weight of at most 1, or an accuracy_weight"
        )
    check_timeout(timeout)


def check_choice(grader: str) -> None:
    """ConfigError for a grader that is not known, or not this reward's."""
    try:
        check_grader(grader)
    except ValueError as error:
        raise ConfigError(f"reward argument {error}") from None
    if grader not in TEXT_GRADERS:
        raise ConfigError(
            f"reward argument grader={grader!r} has a reward of its own, gmpo_mm/rewards/{grader}.py; "
            f"here use one of {', '.join(TEXT_GRADERS)}"
        )


def check_timeout(timeout: float) -> None:
    """ConfigError for a limit that is no positive number."""
    if not (_is_number(timeout) and 0 < timeout < math.inf):
        raise ConfigError(f"reward argument timeout={timeout!r} must be a positive number of seconds")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def prepare(
    format_weight: float = 0.1,
    accuracy_weight: float | None = None,
    format: str = "think_boxed",
    timeout: float = DEFAULT_TIMEOUT,
    grader: str = "math",
    unevaluated: str = "reject",
    format_rule: str = "strict",
) -> None:
    """Check the arguments before a run and start importing computer algebra in the background."""
    check_arguments(format_weight, accuracy_weight, format, timeout, grader, unevaluated, format_rule)
    warm_up(wait=False)


def score_answers(
    reward_inputs: Sequence[Mapping[str, Any]],
    format_weight: float = 0.1,
    accuracy_weight: float | None = None,
    format: str = "think_boxed",
    timeout: float = DEFAULT_TIMEOUT,
    grader: str = "math",
    unevaluated: str = "reject",
    format_rule: str = "strict",
) -> list[Score]:
    """Scores of a batch: overall = accuracy_weight * accuracy + format_weight * format.

    `accuracy_weight` is 1 - format_weight when not given. `format` is think_boxed, answer_tags or qwen_math and also
    says where the answer stands; with `format_rule="easyr1"` an empty thought and an empty box count as form, as in EasyR1.
    `grader` is one of TEXT_GRADERS. A comparison beyond `timeout` seconds is 0 with verifier_timeout 1. Where a row has a
    `problem`, an expression that is only copied out of it is 0 with not_evaluated 1, unless `unevaluated="accept"`. No
    response can make this raise.
    """
    check_arguments(format_weight, accuracy_weight, format, timeout, grader, unevaluated, format_rule)
    weight = 1.0 - format_weight if accuracy_weight is None else accuracy_weight
    has_format, extraction = FORMATS[format]
    responses = [response_text(row["response"]) for row in reward_inputs]
    golds = [_gold(row["ground_truth"]) for row in reward_inputs]
    problems = [problem_text(row) for row in reward_inputs]
    grades = grade_responses(
        grader,
        responses,
        golds,
        extraction=extraction,
        timeout=timeout,
        problems=problems,
        unevaluated=unevaluated,
    )
    scores = []
    for response, grade in zip(responses, grades, strict=True):
        accuracy, form = float(grade.correct), float(has_format(response, format_rule == "strict"))
        scores.append(
            {
                "overall": weight * accuracy + format_weight * form,
                "format": form,
                "accuracy": accuracy,
                "no_answer": float(grade.status == "no_answer"),
                "verifier_timeout": float(grade.status == "timeout"),
                "verifier_error": float(grade.status == "error"),
                "not_evaluated": float(grade.status == "not_evaluated"),
            }
        )
    return scores


def response_text(response: object) -> str:
    """The response; no text where it is anything else."""
    return response if isinstance(response, str) else ""


def problem_text(row: Mapping[str, Any]) -> str | None:
    """The problem that a row carries, where it carries one."""
    problem = row.get("problem")
    return problem if isinstance(problem, str) else None


def _gold(ground_truth: Any) -> str | list[str]:
    """Text, a number, or a list (also a NumPy array) of them."""
    if hasattr(ground_truth, "tolist"):
        ground_truth = ground_truth.tolist()
    if isinstance(ground_truth, (list, tuple)):
        return [str(text) for text in ground_truth]
    return str(ground_truth)
