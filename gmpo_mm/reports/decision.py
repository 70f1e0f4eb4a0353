"""What a report says of a sweep that stops when a difference is decided."""

from __future__ import annotations

import math
from typing import Any

from gmpo_mm.errors import DataError
from gmpo_mm.reports.page import Part
from gmpo_mm.reports.scores import scores_by_seed
from gmpo_mm.reports.stop_rule import FINAL, Decision, decide, e_value_text
from gmpo_mm.reports.study import Study
from gmpo_mm.reports.words import plural

FIXED_SEEDS = (
    "The t-intervals and p-values below take the number of seeds as fixed before; here the scores chose it. This "
    "e-value holds, and those intervals are too narrow."
)


def study_decision(study: Study) -> Decision | None:
    """What the sweep's seeds decide; None for runs without a stop rule, or before any has the score."""
    if study.stop_rule is None:
        return None
    try:
        scores = scores_by_seed(study, study.stop_rule.score)
    except DataError:
        return None
    a, b = (scores.get(name, {}) for name in study.stop_rule.between)
    return decide(study.stop_rule, a, b, study.seeds)


def decision_part(study: Study, decision: Decision) -> Part:
    """In words: decided or not, the e-value, what it saved, and what holds after a stop."""
    labels = {variant.name: variant.label for variant in study.variants}
    a, b = (labels.get(name, name) for name in decision.rule.between)
    score = "the last validation" if decision.rule.score == FINAL else decision.rule.score
    needed = f"1 / alpha = {1 / decision.rule.alpha:g}"
    evidence = f"{e_value_text(decision.log_e_value)}, decided from {needed} on; {b} minus {a} is {decision.mean:+.4g}"
    if decision.decided:
        first = (
            f"Decided after {plural(decision.seeds, 'seed')} of at most {decision.budget}: "
            f"{labels.get(str(decision.better))} is better by {score} ({evidence})."
        )
    else:
        first = f"Not decided after {plural(decision.seeds, 'seed')} of at most {decision.budget}, by {score} ({evidence})."
    lines = [first]
    if decision.interval is not None:
        low, high = decision.interval
        lines.append(
            f"{100 * (1 - decision.rule.alpha):g} % confidence sequence of the difference: {low:+.4g} to {high:+.4g} "
            "(the centre of the differences, which are taken as symmetric about it)."
        )
    if decision.decided:
        lines.append(saved_words(study, decision))
    return Part("Stopped when decided" if decision.decided else "Stop when decided", (*lines, FIXED_SEEDS))


def saved_runs(study: Study, decision: Decision) -> int:
    """Runs of the budget that were never trained."""
    trained = sum(run.counts for variant in study.variants for run in variant.runs)
    return decision.budget * len(study.variants) - trained if decision.decided else 0


def saved_words(study: Study, decision: Decision) -> str:
    """How many runs the stop saved, against the whole budget."""
    whole = decision.budget * len(study.variants)
    return f"The stop saved {saved_runs(study, decision)} of {whole} runs."


def decision_json(study: Study, decision: Decision) -> dict[str, Any]:
    """The entry of report.json."""
    return {
        **decision.rule.to_dict(), "decided": decision.decided, "better": decision.better, "seeds": decision.seeds,
        "budget_seeds": decision.budget, "runs_saved": saved_runs(study, decision), "mean": decision.mean,
        "log_e_value": decision.log_e_value, "e_value": math.exp(min(decision.log_e_value, 700.0)),
        "interval": None if decision.interval is None else list(decision.interval),
        "differences": list(decision.differences),
    }  # fmt: skip
