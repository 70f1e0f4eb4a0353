"""Curves over steps: several seeds become a mean and a band, long runs fewer points, extremes kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gmpo_mm.reports.study import Series, Study, Variant

MAX_POINTS = 240
"""Points of a drawn curve: more than a half page's pixels would show nothing more."""


@dataclass(frozen=True)
class Band:
    """Mean, lowest and highest value over seeds at each step that any seed has; `counts` says how many have it."""

    steps: NDArray[np.float64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    counts: NDArray[np.int64]

    @property
    def seeds(self) -> int:
        """The most seeds at any step."""
        return int(self.counts.max())


def band_over_seeds(series: Sequence[Series]) -> Band:
    """Mean, minimum and maximum over the seeds that have a value at a step. At least one series with a value."""
    steps = np.unique(np.concatenate([one.steps for one in series]))
    table = np.full((len(series), len(steps)), np.nan)
    for row, one in zip(table, series):
        row[np.searchsorted(steps, one.steps)] = one.values
    counts = np.isfinite(table).sum(axis=0)
    return Band(steps.astype(np.float64), np.nanmean(table, 0), np.nanmin(table, 0), np.nanmax(table, 0), counts)


def thin(band: Band, most: int = MAX_POINTS) -> Band:
    """At most `most` points: neighbouring steps in one, with the mean of their means and the outermost of their bounds."""
    if len(band.steps) <= most:
        return band
    starts = np.linspace(0, len(band.steps), most, endpoint=False).astype(int)
    sizes = np.diff([*starts, len(band.steps)])
    return Band(
        steps=np.add.reduceat(band.steps, starts) / sizes,
        mean=np.add.reduceat(band.mean, starts) / sizes,
        low=np.minimum.reduceat(band.low, starts),
        high=np.maximum.reduceat(band.high, starts),
        counts=np.minimum.reduceat(band.counts, starts),
    )


Transform = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def variant_band(variant: Variant, metric: str, transform: Transform = np.asarray) -> Band | None:
    """The band of one metric over a variant's runs; None where no run has it. `transform` goes before the averaging."""
    found = [run.series[metric] for run in variant.runs if metric in run.series]
    return thin(band_over_seeds([replace(one, values=transform(one.values)) for one in found])) if found else None


def choose_metric(variant: Variant, names: Sequence[str]) -> str | None:
    """The first of several names that any of a variant's runs has."""
    return next((name for name in names if variant.has(name)), None)


def missing_notes(study: Study, names: Sequence[str], reason: str = "") -> list[str]:
    """Which runs have none of the metrics, or values that are not finite; runs that have not logged anything are not named."""
    who = []
    for variant in study.variants:
        begun = [run for run in variant.runs if run.series]
        lacking = [run for run in begun if not any(name in run.series for name in names)]
        if lacking:
            which = "" if len(lacking) == len(begun) else f" ({', '.join(run.name for run in lacking)})"
            who.append(f"{variant.label}{which}")
    notes = (
        [f"Not drawn: {'; '.join(who)}. No {' or '.join(names)} is logged there.{f' {reason}' if reason else ''}"]
        if who
        else []
    )
    for variant in study.variants:
        dropped = sum(run.series[name].dropped for run in variant.runs for name in names if name in run.series)
        if dropped:
            notes.append(
                f"{variant.label}: {dropped} value{'' if dropped == 1 else 's'} of {' or '.join(names)} not finite, left out."
            )
    return notes
