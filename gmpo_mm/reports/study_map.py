"""The map of a sweep whose variants form a grid: its cells, and which runs collapsed.

A run collapsed when one of these holds (`collapse_of`):

- it was ended by the guard against weights or gradients that are not finite;
- a score or a KL of it is not finite;
- its last validation score is below the one before training;
- its KL, at its last step, is above the map's bound.

A run that has not ended, or that ended by another error, is missing: it counts on neither side.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gmpo_mm.reports.seed_statistics import SeedMean, seed_mean
from gmpo_mm.reports.study import Run, StudyMap, Variant

KL_TO_START, KL_TO_OLD = "actor/kl_ref", "actor/ppo_kl"
ENTROPY = ("actor/entropy", "actor/entropy_loss")
_GUARD = re.compile(r"updates in a row had a gradient norm of|after the update .* hold NaN or infinity")
"""Reasons of runs that the guards of gmpo_mm.training end."""


@dataclass(frozen=True)
class MapRun:
    """How one run of a cell ended."""

    run: Run
    score: float | None
    """The last validation's; None where the run has not finished."""
    start: float | None
    """The score before training; None where none was measured."""
    kl: float | None
    entropy: float | None
    collapse: str | None
    """Why it counts as collapsed; None where it does not, or where it has not ended."""
    ended: bool
    """Whether it counts: finished, or ended by the guard."""


@dataclass(frozen=True)
class Cell:
    """One loss at one value of the axis. `score`, `kl` and `entropy` are means over runs that have them."""

    runs: tuple[MapRun, ...]
    score: SeedMean | None
    kl: SeedMean | None
    entropy: SeedMean | None

    @property
    def ended(self) -> int:
        return sum(run.ended for run in self.runs)

    @property
    def collapsed(self) -> int:
        """How many of the runs that ended collapsed."""
        return sum(run.collapse is not None for run in self.runs)

    @property
    def beyond(self) -> bool:
        """Whether it lies beyond the collapse boundary: more than half of its runs collapsed."""
        return 2 * self.collapsed > self.ended


Grid = Mapping[tuple[str, str, str], Cell]
"""(panel, row, column) -> its cell."""


def kl_metric(variants: Sequence[Variant]) -> str | None:
    """The KL that the map goes by: to the model before training where any run logs it, else to the old policy."""
    return next(
        (name for name in (KL_TO_START, KL_TO_OLD) if any(variant.has(name) for variant in variants)), None
    )


def map_cells(study_map: StudyMap, variants: Sequence[Variant], metric: str | None, percent: bool) -> Grid:
    """All cells. `metric`: the validation score's name; `percent`: it is a share, so intervals end at 0 and 1."""
    kl_name = kl_metric(variants)
    return {
        study_map.cells[variant.name]: _cell(variant, metric, kl_name, study_map.collapse_kl, percent)
        for variant in variants
    }


def _cell(variant: Variant, metric: str | None, kl_name: str | None, bound: float, percent: bool) -> Cell:
    runs = tuple(_map_run(run, metric, kl_name, bound) for run in variant.runs)

    def mean(values: Sequence[float | None], bounds: tuple[float, float] | None = None) -> SeedMean | None:
        known = [value for value in values if value is not None]
        return seed_mean(known, bounds=bounds) if known else None

    ended = [run for run in runs if run.ended]
    return Cell(
        runs, mean([run.score for run in ended], (0.0, 1.0) if percent else None),
        mean([run.kl for run in ended], (0.0, math.inf) if kl_name == KL_TO_START else None),
        mean([run.entropy for run in ended], (0.0, math.inf)),
    )  # fmt: skip


def _map_run(run: Run, metric: str | None, kl_name: str | None, bound: float) -> MapRun:
    scores = None if metric is None else run.series.get(metric)
    start = None if scores is None or scores.steps[0] != 0 else float(scores.values[0])
    score = float(scores.values[-1]) if scores is not None and run.counts and scores.steps[-1] > 0 else None
    kl = _last(run, [] if kl_name is None else [kl_name])
    collapse = collapse_of(
        run, score, start, kl, bound, [name for name in (metric, kl_name) if name is not None]
    )
    return MapRun(run, score, start, kl, _last(run, ENTROPY), collapse, run.counts or ended_by_guard(run))


def collapse_of(
    run: Run, score: float | None, start: float | None, kl: float | None, bound: float, metrics: Sequence[str]
) -> str | None:
    """Why a run counts as collapsed, in words; None where it does not. `metrics`: names of its score and its KL."""
    if ended_by_guard(run):
        return "weights or gradients not finite"
    if not run.counts:
        return None
    broken = [name for name in metrics if name in run.series and run.series[name].dropped]
    if broken:
        return f"{' and '.join(broken)} not finite"
    if score is not None and start is not None and score < start:
        return f"score {score:.3g} below its start {start:.3g}"
    if kl is not None and kl > bound:
        return f"KL {kl:.3g} above {bound:g}"
    return None


def ended_by_guard(run: Run) -> bool:
    """Whether the run was ended because its weights or gradients were not finite."""
    return run.state == "failed" and bool(run.reason and _GUARD.search(run.reason))


def _last(run: Run, names: Sequence[str]) -> float | None:
    series = next((run.series[name] for name in names if name in run.series), None)
    return None if series is None else float(series.values[-1])
