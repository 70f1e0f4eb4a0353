"""What the training of each variant looked like, in numbers: ratios, entropy, KL, gradients, skipped updates, time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gmpo_mm.reports.study import Run, Series, Study, Variant


@dataclass(frozen=True)
class Spread:
    """A number over seeds: mean, lowest and highest."""

    mean: float
    low: float
    high: float
    seeds: int


@dataclass(frozen=True)
class TrainingFacts:
    """One variant's training. Each is None where no run has the metric."""

    variant: Variant
    steps: tuple[int, ...]
    """Last step with a metric, of each run that has begun."""
    ratio_low: float | None
    ratio_high: float | None
    """The outermost token ratios of all steps and seeds."""
    entropy: Spread | None
    """At the last step."""
    kl: Spread | None
    """To the reference, at the last step."""
    grad_norm: Spread | None
    """Median over steps."""
    grad_norm_max: float | None
    skipped: int | None
    updates: int | None
    """Optimizer updates that were skipped for a gradient that wasn't finite, of all that were tried."""
    seconds: Spread | None
    """Wall time of a finished run; `whole_process` says of what."""
    whole_process: bool


def training_facts(study: Study) -> list[TrainingFacts]:
    """One entry a variant."""
    return [_facts(variant) for variant in study.variants]


def _facts(variant: Variant) -> TrainingFacts:
    begun = [run for run in variant.runs if run.series]
    lows, highs = (_all(begun, name) for name in ("ratio/token_min", "ratio/token_max"))
    norms = _all(begun, "actor/grad_norm")
    skipped, done = _all(begun, "actor/skipped_updates"), _all(begun, "actor/updates")
    times = [wall_seconds(run) for run in variant.counted]
    known = [seconds for seconds, _ in times if seconds is not None]
    return TrainingFacts(
        variant=variant,
        steps=tuple(max(int(series.steps[-1]) for series in run.series.values()) for run in begun),
        ratio_low=float(lows.min()) if len(lows) else None,
        ratio_high=float(highs.max()) if len(highs) else None,
        entropy=_spread(begun, "actor/entropy", _last),
        kl=_spread(begun, "actor/kl_ref", _last),
        grad_norm=_spread(begun, "actor/grad_norm", lambda series: float(np.median(series.values))),
        grad_norm_max=float(norms.max()) if len(norms) else None,
        skipped=round(float(skipped.sum())) if len(skipped) else None,
        updates=round(float(skipped.sum() + done.sum())) if len(skipped) else None,
        seconds=_spread_of(known),
        whole_process=bool(times) and all(whole for _, whole in times),
    )


def wall_seconds(run: Run) -> tuple[float | None, bool]:
    """(seconds, of the whole process): the sweep's clock, else the sum of the steps' and validations' own times."""
    if run.seconds is not None:
        return run.seconds, True
    steps = run.series.get("timing_s/step", run.series.get("perf/time_per_step"))
    if steps is None:
        return None, False
    validation = run.series.get("timing_s/validation")
    return float(steps.values.sum()) + (float(validation.values.sum()) if validation is not None else 0.0), False


def _all(runs: Sequence[Run], name: str) -> np.ndarray:
    values = [run.series[name].values for run in runs if name in run.series]
    return np.concatenate(values) if values else np.array([])


def _last(series: Series) -> float:
    return float(series.values[-1])


def _spread(runs: Sequence[Run], name: str, number: Callable[[Series], float]) -> Spread | None:
    return _spread_of([number(run.series[name]) for run in runs if name in run.series])


def _spread_of(values: Sequence[float]) -> Spread | None:
    return Spread(float(np.mean(values)), min(values), max(values), len(values)) if values else None
