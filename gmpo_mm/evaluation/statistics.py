"""The numbers of one result: Pass@1 with interval, Pass@k, majority, what went wrong, lengths, breakdowns."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmpo_mm.errors import DataError
from gmpo_mm.evaluation.answer_forms import answer_form
from gmpo_mm.evaluation.confidence_sequence import sequence_interval
from gmpo_mm.evaluation.early_stop import used_problems
from gmpo_mm.evaluation.resampling import RESAMPLES, mean_interval, standard_error
from gmpo_mm.evaluation.results import Problem, Result, Sample
from gmpo_mm.verifiers.expressions import NotExpression
from gmpo_mm.verifiers.normalize import normalise, text_key
from gmpo_mm.verifiers.quantities import evaluate

__all__ = [
    "answer_form",
    "check_complete",
    "majority",
    "majority_score",
    "missing_samples",
    "pass_at_k",
    "powers_of_two",
    "problem_scores",
    "summarise",
]

SUMMARY_FORMAT = 1
"""Raised when a key of a summary changes its meaning."""

MAX_VOTE_LENGTH = 512
"""Characters; a longer answer is a vote for its own text, as the graders too compare it as text only."""

_THOUSANDS = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?")


def summarise(
    result: Result, seed: int | None = None, *, level: float = 0.95, resamples: int = RESAMPLES, partial: bool = False
) -> dict[str, Any]:
    """Everything that summary.json holds; the same result and seed give the same numbers. Shares are between 0 and 1.

    format            SUMMARY_FORMAT
    problems, samples how many there are; `n` samples a problem
    missing           samples that are not there (0 unless `partial`)
    pass_at_1         value: mean over problems of the mean over samples; low, high, method, level: interval by bootstrap over
                      problems (see `mean_interval`); standard_error: from the spread between problems, null for one problem
    pass_at_k         {"1": .., "2": .., "4": .., ...}: unbiased, for the powers of 2 up to n, and n
    majority          majority@n (see `majority_score`)
    truncated, no_answer, timeout, error, not_evaluated
                      shares of the samples: stopped at max_tokens; with nothing to grade; grading took too long; grader failed;
                      right only as a copy out of the problem (with `unevaluated: reject`)
    tokens            mean, median, max and total length of the responses
    stopped_early     only where the evaluation stopped before its last problem: {problems, of, width}. All numbers are then
                      over those `problems`, and intervals are of what all would give, by `sequence_interval`
    by_type, by_form  {name: {problems, value, low, high, method, level, standard_error}}, the most frequent first: Pass@1 by
                      the problems' type and by the form of the first gold (`answer_form`)

    `seed` is the result's own when None. DataError says how many samples are missing; with `partial` the numbers are over
    those problems whose samples are all there.
    """
    seed = result.spec.seed if seed is None else seed
    n, missing = result.spec.protocol.n, missing_samples(result)
    if missing and not partial and result.spec.stop_when_decided is None:
        check_complete(result)
    used = used_problems(result, partial=partial)
    early: dict[str, Any] | None = None
    if used is not None and len(used) < len(result.problems):
        early, missing = {"problems": len(used), "of": len(result.problems), "width": result.spec.stop_when_decided}, 0
    indices = range(len(result.problems)) if used is None or early is None else used
    kept = [(result.problems[index], result.by_problem[index]) for index in indices if len(result.by_problem[index]) == n]
    if not kept:
        raise DataError(f"{result.path}: no problem has all its samples, so there is nothing to sum up; evaluate first")
    problems, groups = [problem for problem, _ in kept], [group for _, group in kept]
    samples = [sample for group in groups for sample in group]
    scores = problem_scores(groups)
    right = [sum(sample.correct for sample in group) for group in groups]

    def score(values: NDArray[np.float64], total: int) -> dict[str, Any]:
        if early is None:
            interval = mean_interval(values, level=level, resamples=resamples, seed=seed)
        else:  # the values are in a random order, those of one type or form too
            interval = sequence_interval(values, total, early["width"], level)
        return {"value": float(values.mean()), **asdict(interval), "standard_error": standard_error(values)}

    def breakdown(name_of: Callable[[Problem], str | None]) -> dict[str, Any]:
        names, totals = [name_of(problem) for problem in problems], Counter(map(name_of, result.problems))
        return {
            name: {"problems": count, **score(scores[[other == name for other in names]], totals[name])}
            for name, count in sorted(Counter(filter(None, names)).items(), key=lambda item: (-item[1], item[0]))
        }

    return {
        "format": SUMMARY_FORMAT,
        "problems": len(problems),
        "samples": len(samples),
        "n": n,
        "missing": missing,
        **({} if early is None else {"stopped_early": early}),
        "pass_at_1": score(scores, len(result.problems)),
        "pass_at_k": {str(k): float(np.mean([pass_at_k(n, c, k) for c in right])) for k in powers_of_two(n)},
        "majority": majority(groups),
        **_shares(samples),
        "tokens": _lengths(samples),
        "by_type": breakdown(lambda problem: problem.type),
        "by_form": breakdown(lambda problem: answer_form(problem.golds[0]) if problem.golds else None),
    }


def check_complete(result: Result) -> None:
    """DataError unless every problem has each of its samples exactly once; says how many are missing."""
    missing = missing_samples(result)
    if missing and (used := used_problems(result)) is not None:
        raise DataError(
            f"{result.path}: stopped early, after {len(used)} of {len(result.problems)} problems, and all are needed here; "
            "evaluate without stop_when_decided, in another out=FOLDER"
        )
    if missing:
        expected = len(result.problems) * result.spec.protocol.n
        raise DataError(
            f"{result.path}: {missing} of {expected} samples are missing; run the same `gmpo-mm evaluate` again, it goes on "
            "where it was"
        )


def missing_samples(result: Result) -> int:
    """How many samples are not there. DataError for files that don't belong together or hold a sample twice."""
    n, problems = result.spec.protocol.n, len(result.problems)
    if problems != result.spec.problems:
        raise DataError(
            f"{result.path}: problems.jsonl has {problems} problems and evaluation.json says {result.spec.problems}; "
            "evaluate again with overwrite=true"
        )
    there = Counter((sample.index, sample.sample) for sample in result.samples)
    foreign = sum(not (0 <= index < problems and 0 <= sample < n) for index, sample in there)
    repeated = sum(count > 1 for count in there.values())
    if foreign or repeated:
        what = f"{foreign} samples of no problem" if foreign else f"{repeated} samples more than once"
        raise DataError(f"{result.path}: samples.jsonl has {what}; evaluate again with overwrite=true")
    return problems * n - len(there)


def problem_scores(groups: Iterable[Sequence[Sample]]) -> NDArray[np.float64]:
    """Share of right samples of each problem."""
    return np.array([sum(sample.correct for sample in group) / len(group) for group in groups], dtype=np.float64)


def pass_at_k(n: int, right: int, k: int) -> float:
    """Chance that k of a problem's n samples, drawn without replacement, hold a right one: 1 - C(n - right, k) / C(n, k).

    Unbiased for any k <= n (Chen et al. 2021, arXiv 2107.03374, equation 1); whole numbers, so nothing overflows or cancels.
    """
    if not (0 <= right <= n and 1 <= k <= n):
        raise ValueError(f"pass_at_k needs 0 <= right <= n and 1 <= k <= n, and got n={n}, right={right}, k={k}")
    every = math.comb(n, k)
    return (every - math.comb(n - right, k)) / every


def majority(groups: Iterable[Sequence[Sample]]) -> float:
    """majority@n: mean over problems of `majority_score`."""
    return float(np.mean([majority_score(group) for group in groups]))


def majority_score(samples: Sequence[Sample]) -> float:
    """Whether the most frequent answer of one problem's samples is right; of several as frequent, the share that is.

    Answers graded correct are one answer, however they are spelled. Wrong ones are the same where they are the same number or
    the same text once normalised: the grader's equivalence between wrong answers isn't known, so a wrong answer in two
    spellings that only algebra could equate counts as two. A sample without an answer doesn't vote; without votes it is 0.
    """
    votes = Counter(_vote(sample) for sample in samples if sample.correct or sample.extracted is not None)
    most = max(votes.values(), default=0)
    winners = [answer for answer, count in votes.items() if count == most]
    return 1 / len(winners) if _RIGHT in winners else 0.0


_RIGHT = ("right",)


def _vote(sample: Sample) -> Hashable:
    """What a sample votes for."""
    return _RIGHT if sample.correct else _answer_key(sample.extracted or "")


@lru_cache(maxsize=4096)
def _answer_key(text: str) -> Hashable:
    """Key under which two wrong answers are the same."""
    if len(text) > MAX_VOTE_LENGTH:
        return ("text", text.strip())
    key = text_key(normalise(text))
    try:
        number = evaluate(key.replace(",", "") if _THOUSANDS.fullmatch(key) else key)
    except NotExpression:
        return ("text", key)
    # 40 of the 60 digits that roots and pi are known to: rounding errors in the last ones separate nothing.
    return ("number", number.exact if number.exact is not None else f"{number.digits:.40e}")


def powers_of_two(n: int) -> list[int]:
    """1, 2, 4, ... below n, and n."""
    return [1 << i for i in range((n - 1).bit_length())] + [n]


def _shares(samples: Sequence[Sample]) -> dict[str, float]:
    """Shares of the samples that were cut off, or came to no grade."""
    statuses = Counter(sample.status for sample in samples)
    truncated = sum(sample.stop_reason == "length" for sample in samples)
    return {
        "truncated": truncated / len(samples),
        **{status: statuses[status] / len(samples) for status in ("no_answer", "timeout", "error", "not_evaluated")},
    }


def _lengths(samples: Sequence[Sample]) -> dict[str, float | int]:
    tokens = [sample.tokens for sample in samples]
    return {"mean": float(np.mean(tokens)), "median": float(np.median(tokens)), "max": max(tokens), "total": sum(tokens)}
