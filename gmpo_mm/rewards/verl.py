"""The same rewards in verl's contract: `compute_score` for one row, `compute_score_batch` for verl's batch reward manager.

In a verl config (in releases before it had a section `reward`, without that prefix):

    reward.custom_reward_function.path: PATH/gmpo_mm/rewards/verl.py
    reward.custom_reward_function.name: compute_score          # compute_score_batch where the reward manager is `batch`
    reward.custom_reward_function.reward_kwargs.grader: minerva

verl calls `compute_score(data_source=, solution_str=, ground_truth=, extra_info=, **reward_kwargs)` for each row
(`NaiveRewardManager`), or with the plural names for a batch (`BatchRewardManager`), and takes a float or a dict with `score`;
the dict's other entries become its metrics, so every row has the same keys. The grader is chosen by keyword and never guessed
from `data_source`. Grades and scores are those of `gmpo_mm/rewards/math.py` and, for `grader="countdown"`, `countdown.py`.
A problem's text in `extra_info` (`problem`, or `question` as in verl's own data sets) lets copied expressions be told.
"""

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from gmpo_mm.errors import ConfigError
from gmpo_mm.rewards import countdown
from gmpo_mm.rewards.scoring import score_answers

Score = dict[str, float]


def compute_score(
    data_source: Any,
    solution_str: Any,
    ground_truth: Any,
    extra_info: Any = None,
    *,
    grader: str = "math",
    **kwargs: Any,
) -> Score:
    """One row's score: `score` (what verl trains on), `acc` (1 when right), and the reward's other entries.

    `kwargs` are those of `score_answers`, or of the CountDown reward; what verl adds of its own accord is left alone.
    """
    return compute_score_batch(
        [data_source], [solution_str], [ground_truth], [extra_info], grader=grader, **kwargs
    )[0]


def compute_score_batch(
    data_sources: Sequence[Any],
    solution_strs: Sequence[Any],
    ground_truths: Sequence[Any],
    extra_infos: Sequence[Any] | None = None,
    *,
    grader: str = "math",
    **kwargs: Any,
) -> list[Score]:
    """Scores of a batch, one dict a row in the rows' order; faster than row by row, as equal comparisons are made once."""
    function = countdown.compute_score if grader == "countdown" else partial(score_answers, grader=grader)
    known = [
        name for name in inspect.signature(function).parameters if name not in ("reward_inputs", "grader")
    ]
    options = {key: value for key, value in kwargs.items() if key not in _ADDED_BY_VERL}
    for key, value in options.items():
        if key not in known:
            raise ConfigError(
                f"reward_kwargs.{key}={value!r} is not known with grader={grader!r}; known: {', '.join(known)}"
            )
    pairs = zip(solution_strs, ground_truths, strict=True)
    problems = [
        _problem(info) for info in (extra_infos if extra_infos is not None else [None] * len(solution_strs))
    ]
    rows = [
        {"response": solution, "ground_truth": truth, "problem": problem}
        for (solution, truth), problem in zip(pairs, problems, strict=True)
    ]
    scores = function(rows, **options)
    return [{"score": score["overall"], "acc": score["accuracy"], **_others(score)} for score in scores]


# verl hands these to every reward function when a reward model is there too.
_ADDED_BY_VERL = ("reward_router_address", "reward_model_tokenizer")


def _problem(extra_info: Any) -> str | None:
    """The problem's text, where the data set put it beside the row: `problem`, or verl's usual `question`."""
    if not isinstance(extra_info, Mapping):
        return None
    return next(
        (value for key in ("problem", "question") if isinstance(value := extra_info.get(key), str)), None
    )


def _others(score: Score) -> Score:
    return {key: value for key, value in score.items() if key not in ("overall", "accuracy")}
