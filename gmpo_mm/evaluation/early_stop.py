"""Evaluations that end when Pass@1 is known well enough: the problems' random order, and where it was left.

The order is drawn from the seed and the number of problems alone, so two models that are evaluated with one seed see the same
problems first. What is decided is read off the scores in that order, so that neither a kill, nor the batch, nor which response
was there first can change it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gmpo_mm.errors import DataError
from gmpo_mm.evaluation.confidence_sequence import decided_after
from gmpo_mm.evaluation.results import Result
from gmpo_mm.rollout.seeds import prompt_seed

ORDER = 3 << 32
"""Second part of the order's seed; `evaluation_seed` has 2 << 32 there."""


def problem_order(seed: int, problems: int) -> list[int]:
    """The order in which an evaluation that may stop early takes its problems."""
    return [int(i) for i in np.random.default_rng(prompt_seed(seed, ORDER)).permutation(problems)]


def batches_until_decided(
    seed: int, problems: int, width: float, scores: Mapping[int, float], at_once: int
) -> Iterator[list[int]]:
    """The problems to sample next, at most `at_once`, until the interval is narrower than `width`.

    `scores` holds those that are there; whoever takes a batch adds its scores before he asks for the next one.
    """
    order, looked_at = problem_order(seed, problems), 0
    while True:
        known = known_scores(order, scores)
        if decided_after(known, problems, width, first=looked_at + 1) is not None:
            return
        looked_at = len(known)
        yield [index for index in order[looked_at:] if index not in scores][:at_once]


def known_scores(order: Sequence[int], scores: Mapping[int, float]) -> list[float]:
    """The scores in this order, up to the first that is not there."""
    known = []
    for index in order:
        if index not in scores:
            break
        known.append(scores[index])
    return known


def used_problems(result: Result, *, partial: bool = False) -> list[int] | None:
    """The problems that the result is over, in their random order; None for one that takes all problems as they come.

    DataError where it was not decided, as its evaluation has not finished; with `partial` None.
    """
    width, n = result.spec.stop_when_decided, result.spec.protocol.n
    if width is None:
        return None
    groups = enumerate(result.by_problem)
    scores = {
        index: sum(sample.correct for sample in group) / n for index, group in groups if len(group) == n
    }
    order = problem_order(result.spec.seed, len(result.problems))
    count = decided_after(known_scores(order, scores), len(result.problems), width)
    if count is None and partial:
        return None
    if count is None:
        raise DataError(
            f"{result.path}: its interval is not narrower than {width:g} yet; run the same `gmpo-mm evaluate` again, it goes "
            "on where it was"
        )
    return order[:count]


def common_problems(a: Result, b: Result) -> list[int] | None:
    """The problems that both results are over, in their random order; None where both are over all.

    DataError for two that stopped early in different orders: what they share is no random part of the problems.
    """
    early = [used for used in map(used_problems, (a, b)) if used is not None and len(used) < len(a.problems)]
    if not early:
        return None
    shorter, longer = min(early, key=len), max(early, key=len)
    if longer[: len(shorter)] != shorter:
        raise DataError(
            f"{a.path} and {b.path} both stopped early, and took their problems in different orders (seed {a.spec.seed} in A, "
            f"{b.spec.seed} in B); evaluate one of them again with the other's seed, or without stop_when_decided"
        )
    return shorter


def stopping_words(summary: Mapping[str, Any]) -> str | None:
    """`stopped early, after 120 of 601 problems: ...` of a summary; None for one over all problems."""
    early = summary.get("stopped_early")
    if early is None:
        return None
    return (
        f"stopped early, after {early['problems']:,} of {early['of']:,} problems in a random order: the interval of Pass@1 is "
        f"narrower than {early['width']:g}"
    )
