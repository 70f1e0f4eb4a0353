"""Which runs a sweep starts next: all at once, or with `budget.stop_when: decided` one seed after the other.

Each seed is trained with every variant, until `decide` says that the difference of two is decided. What it says depends on
the scores and on the order of the seeds alone, so a sweep that is killed and goes on trains the same runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from gmpo_mm.errors import ConfigError
from gmpo_mm.reports.scores import scores_by_seed
from gmpo_mm.reports.sources import read_study
from gmpo_mm.reports.stop_rule import FINAL, Decision, StopRule, decide, e_value_text
from gmpo_mm.sweeps.directory import SweepDirectory
from gmpo_mm.sweeps.planning import PlannedRun


def check_stop_rule(
    rule: StopRule, seeds: Sequence[int], runs: Sequence[PlannedRun], benchmarks: Sequence[str]
) -> None:
    """ConfigError where no run would have the score, or where so few seeds can decide nothing."""
    if rule.score == FINAL:
        for run in runs:
            if not run.config.data.val_files:
                raise ConfigError(
                    f"budget.score = final: variant {run.variant.name} is never validated, as data.val_files is empty; "
                    "name the file, or set budget.score to a benchmark of the evaluation"
                )
    elif rule.score not in benchmarks:
        there = f"the evaluation has {', '.join(benchmarks)}" if benchmarks else "the sweep has no evaluation"
        raise ConfigError(f"budget.score = {rule.score!r}: {there}; use one of its benchmarks, or final")
    if (least := least_seeds(rule.alpha)) > len(seeds):
        raise ConfigError(
            f"seeds = {list(seeds)}: {len(seeds)} can't decide anything with budget.alpha = {rule.alpha:g}; give at least "
            f"{least}, or remove budget.stop_when"
        )


def least_seeds(alpha: float) -> int:
    """Fewer differences decide nothing: even if each bet on one sign doubles, t of them give an e-value of 2^(t - 1)."""
    return 1 + math.ceil(math.log2(1 / alpha))


def decision_of(directory: SweepDirectory) -> Decision | None:
    """What the finished runs decide; None without a rule, or before any run has finished."""
    rule = directory.sweep.stop_rule
    if rule is None or all(record.state != "finished" for record in directory.records.values()):
        return None
    study = read_study([directory.path])
    a, b = (scores_by_seed(study, rule.score)[name] for name in rule.between)
    return decide(rule, a, b, study.seeds)


class Rounds:
    """Hands out the runs of a sweep: all that are not finished, or with a stop rule one seed after the other."""

    def __init__(self, directory: SweepDirectory, say: Callable[[str], None]) -> None:
        self._directory = directory
        self._say = say
        self._given: set[tuple[str, int]] = set()

    def next(self) -> list[PlannedRun]:
        """The runs to start now; [] at the end, when what was handed out before has ended."""
        directory = self._directory
        unfinished = [run for run in directory.planned if directory.record(run).state != "finished"]
        if directory.sweep.stop_rule is None:
            return self._handed_out(unfinished)
        decision = decision_of(directory)
        if decision is not None and decision.seeds:
            self._say(decision_words(decision))
        if decision is not None and decision.decided:
            for run in unfinished:
                directory.record(run).state = "not_needed"
            return []
        seed = next((run.seed for run in unfinished), None)
        return self._handed_out([run for run in unfinished if run.seed == seed])

    def _handed_out(self, runs: list[PlannedRun]) -> list[PlannedRun]:
        """`runs`, or [] where one of them was handed out already and didn't finish: nothing is tried twice."""
        keys = {(run.variant.name, run.seed) for run in runs}
        if keys & self._given:
            return []
        self._given |= keys
        return runs


def decision_words(decision: Decision) -> str:
    """One line for the terminal."""
    a, b = decision.rule.between
    seeds = f"after {decision.seeds} of at most {decision.budget} seeds"
    said = f"{b} - {a} = {decision.mean:+.4g} on average, {e_value_text(decision.log_e_value)} {seeds}"
    needed = f"decided at {1 / decision.rule.alpha:g}"
    return (
        f"{said}: decided, {decision.better} is better"
        if decision.decided
        else f"{said}: not decided ({needed})"
    )
