"""The numbers of a report's section Why: what each loss would have done in one variant's runs.

A run's number is the mean over its steps. Spread and tests are over runs: a run's steps depend on each other.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gmpo_mm.evaluation.resampling import holm
from gmpo_mm.reports.compare_lines import TENTHS, CompareStep, Floats, LossLine
from gmpo_mm.reports.seed_statistics import SeedDifference, SeedMean, seed_difference, seed_mean
from gmpo_mm.reports.study import Run, Series, Study, Variant

MAX_POINTS = 300
"""Tokens of a loss that one panel shows."""
Number = Callable[[LossLine], float | None]


@dataclass(frozen=True)
class Tenths:
    """A number for each tenth of the tokens: mean over runs (of means over steps), lowest and highest run."""

    mean: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class LossFacts:
    """One loss on one variant's tokens. Each is None where no step has it."""

    loss: str
    ess: SeedMean | None
    clipped: SeedMean | None
    clipped_positive: SeedMean | None
    """Share of all tokens that is clipped and has a positive advantage (`clipped_negative`: a negative)."""
    clipped_negative: SeedMean | None
    cosine: SeedMean | None
    lowest_ess: tuple[float, int] | None
    """Of all runs' steps, and its step; `lowest_cosine` too."""
    lowest_cosine: tuple[float, int] | None
    gradient_cosine: SeedMean | None
    gradient_steps: int
    """Steps with a gradient, over all runs."""
    relative_norm: SeedMean | None
    """Norm of its gradient over that of the trained loss's."""
    weight: Floats
    """(10,) mean relative weight by decile of the ratio, over all runs' steps."""
    spread: Floats
    """(10,) standard deviation of a token's relative weight, over all runs' steps."""
    points: Floats
    """(P,) relative weights of some tokens, for `VariantWhy.point_ratios`."""
    by_position: Tenths
    by_entropy: Tenths | None
    ess_gap: SeedDifference | None = None
    """Minus the trained loss's, on the same tokens; None for the trained loss itself."""
    clipped_gap: SeedDifference | None = None
    ess_p: float | None = None
    """Corrected after Holm over all of one variant's comparisons, as `clipped_p`."""
    clipped_p: float | None = None


@dataclass(frozen=True)
class VariantWhy:
    """One variant's runs that have compared losses."""

    variant: Variant
    place: int
    """In the study."""
    trained: str
    runs: tuple[Run, ...]
    losses: tuple[LossFacts, ...]
    """The trained one first."""
    ratio: Floats
    """(10,) median ratio of the tokens in each decile."""
    point_ratios: Floats

    def of(self, loss: str) -> LossFacts:
        """The facts of one loss."""
        return next(facts for facts in self.losses if facts.loss == loss)

    @property
    def others(self) -> tuple[LossFacts, ...]:
        """All but the trained loss."""
        return self.losses[1:]

    @property
    def steps(self) -> tuple[int, int]:
        """First and last step with a line."""
        found = [step.step for run in self.runs for step in run.compare]
        return min(found), max(found)

    def series(self, loss: str, number: Number) -> list[Series]:
        """One number of one loss over steps, of each run that has it."""
        found = [_pairs(run, loss, number) for run in self.runs]
        return [Series.of(pairs) for pairs in found if pairs]


def study_why(study: Study) -> list[VariantWhy]:
    """Of each variant whose runs have lines of kind `compare`: of the finished ones, where there are any."""
    found = []
    for place, variant in enumerate(study.variants):
        runs = tuple(run for run in variant.runs if run.compare)
        runs = (
            tuple(run for run in runs if run.counts) or runs
        )  # a mean over half of the steps is another one
        if runs:
            found.append(_variant_why(variant, place, runs))
    return found


def _variant_why(variant: Variant, place: int, runs: tuple[Run, ...]) -> VariantWhy:
    trained = runs[0].compare[0].trained
    steps = [step for run in runs for step in run.compare if step.trained == trained]
    names = dict.fromkeys([trained, *(name for step in steps for name in step.losses)])
    shown = _drawn([(step, i) for step in steps for i in range(len(step.point_ratios))])
    losses = tuple(_loss_facts(name, trained, runs, steps, shown) for name in names)
    return VariantWhy(
        variant=variant, place=place, trained=trained, runs=runs, losses=_with_p_values(losses),
        ratio=_decile_ratios(steps), point_ratios=np.array([step.point_ratios[i] for step, i in shown]),
    )  # fmt: skip


def _loss_facts(
    loss: str,
    trained: str,
    runs: Sequence[Run],
    steps: Sequence[CompareStep],
    shown: Sequence[tuple[CompareStep, int]],
) -> LossFacts:
    def over_seeds(number: Number, low: float = 0.0, high: float = 1.0) -> SeedMean | None:
        means = [_run_mean(run, loss, number) for run in runs]
        known = [mean for mean in means if mean is not None]
        return seed_mean(known, bounds=(low, high)) if known else None

    def gap(number: Number) -> SeedDifference | None:
        pairs = [_paired_means(run, loss, trained, number) for run in runs] if loss != trained else []
        known = [pair for pair in pairs if pair is not None]
        return (
            seed_difference([one for one, _ in known], [other for _, other in known], bound=1.0)
            if known
            else None
        )

    lines = [step.losses[loss] for step in steps if loss in step.losses]
    weights, spreads = (
        _table([line.weight_by_ratio for line in lines]),
        _table([line.spread_by_ratio for line in lines]),
    )
    weight = _nanmean(weights)
    return LossFacts(
        loss=loss,
        ess=over_seeds(lambda line: line.ess),
        clipped=over_seeds(lambda line: line.clipped),
        clipped_positive=over_seeds(clipped_positive), clipped_negative=over_seeds(clipped_negative),
        cosine=over_seeds(lambda line: line.cosine, -1.0),
        lowest_ess=_lowest(runs, loss, lambda line: line.ess),
        lowest_cosine=_lowest(runs, loss, lambda line: line.cosine),
        gradient_cosine=over_seeds(lambda line: line.gradient_cosine, -1.0),
        gradient_steps=sum(line.gradient_cosine is not None for line in lines),
        relative_norm=_relative_norm(runs, loss, trained),
        weight=weight,
        # the variance of all tokens in a decile: within the steps and between them, steps counting alike
        spread=np.sqrt(_nanmean(spreads**2) + _nanmean((weights - weight) ** 2)),
        points=np.array([s.losses[loss].points[i] if loss in s.losses else math.nan for s, i in shown]),
        by_position=_tenths(runs, loss, lambda line: line.clipped_by_position),
        by_entropy=None if all(line.clipped_by_entropy is None for line in lines)
        else _tenths(runs, loss, lambda line: line.clipped_by_entropy),
        ess_gap=gap(lambda line: line.ess), clipped_gap=gap(lambda line: line.clipped),
    )  # fmt: skip


def clipped_positive(line: LossLine) -> float:
    """Share of all tokens that is clipped and has a positive advantage."""
    return line.clipped * line.clipped_positive if line.clipped else line.clipped


def clipped_negative(line: LossLine) -> float:
    """Share of all tokens that is clipped and has a negative advantage."""
    return line.clipped * (1 - line.clipped_positive) if line.clipped else line.clipped


def _with_p_values(losses: Sequence[LossFacts]) -> tuple[LossFacts, ...]:
    """Both tests of each loss, corrected for their number."""
    gaps = [
        (i, name, getattr(facts, f"{name}_gap"))
        for i, facts in enumerate(losses)
        for name in ("ess", "clipped")
    ]
    tested = [(i, name, gap.p_value) for i, name, gap in gaps if gap is not None and gap.p_value is not None]
    changes: dict[int, dict[str, Any]] = {i: {} for i in range(len(losses))}
    for (i, name, _), p in zip(tested, holm([p for _, _, p in tested])):
        changes[i][f"{name}_p"] = p
    return tuple(replace(facts, **changes[i]) for i, facts in enumerate(losses))


def _pairs(run: Run, loss: str, number: Number) -> list[tuple[int, float]]:
    """(step, value) where the value is a finite number."""
    found = [(step.step, number(step.losses[loss])) for step in run.compare if loss in step.losses]
    return [(step, value) for step, value in found if value is not None and math.isfinite(value)]


def _lowest(runs: Sequence[Run], loss: str, number: Number) -> tuple[float, int] | None:
    """(value, step) of the lowest of all steps."""
    return min(((value, step) for run in runs for step, value in _pairs(run, loss, number)), default=None)


def _run_mean(run: Run, loss: str, number: Number) -> float | None:
    values = [value for _, value in _pairs(run, loss, number)]
    return float(np.mean(values)) if values else None


def _paired_means(run: Run, loss: str, other: str, number: Number) -> tuple[float, float] | None:
    """Means of both losses over the steps that have both."""
    a, b = dict(_pairs(run, loss, number)), dict(_pairs(run, other, number))
    common = sorted(a.keys() & b.keys())
    if not common:
        return None
    return float(np.mean([a[step] for step in common])), float(np.mean([b[step] for step in common]))


def _relative_norm(runs: Sequence[Run], loss: str, trained: str) -> SeedMean | None:
    """Mean over a run's steps of norm / norm of the trained loss's, then over runs."""
    means = []
    for run in runs:
        mine, its = (dict(_pairs(run, name, lambda line: line.gradient_norm)) for name in (loss, trained))
        parts = [mine[step] / its[step] for step in mine.keys() & its.keys() if its[step] > 0]
        if parts:
            means.append(float(np.mean(parts)))
    return seed_mean(means, bounds=(0.0, math.inf)) if means else None


def _tenths(runs: Sequence[Run], loss: str, numbers: Callable[[LossLine], Floats | None]) -> Tenths:
    by_run = []
    for run in runs:
        found = [numbers(step.losses[loss]) for step in run.compare if loss in step.losses]
        by_run.append(_nanmean(_table([one for one in found if one is not None])))
    table = np.array(by_run)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a tenth without a token is NaN in all runs
        return Tenths(np.nanmean(table, 0), np.nanmin(table, 0), np.nanmax(table, 0))


def _decile_ratios(steps: Sequence[CompareStep]) -> Floats:
    """(10,) the median ratio of each decile's points, evenly spaced through a step's sorted tokens."""
    found: list[list[float]] = [[] for _ in range(TENTHS)]
    for step in steps:
        count = len(step.point_ratios)
        for i, ratio in enumerate(step.point_ratios.tolist()):
            found[TENTHS * (2 * i + 1) // (2 * count)].append(ratio)
    return np.array([float(np.median(ratios)) if ratios else math.nan for ratios in found])


def _drawn(points: list[Any]) -> list[Any]:
    """At most `MAX_POINTS`, by chance: at even distances they could have the same ranks in every step."""
    if len(points) <= MAX_POINTS:
        return points
    chosen = np.random.default_rng(0).choice(len(points), MAX_POINTS, replace=False)
    return [points[i] for i in sorted(chosen.tolist())]


def _table(rows: Sequence[Floats]) -> Floats:
    return np.array(rows, dtype=np.float64).reshape(-1, TENTHS)


def _nanmean(table: Floats) -> Floats:
    """Over the first axis; NaN where there is no number."""
    counts = np.isfinite(table).sum(0)
    sums = np.where(np.isfinite(table), table, 0.0).sum(0)
    return np.divide(sums, counts, out=np.full(len(counts), math.nan), where=counts > 0)
