"""What a report is about: variants, each with runs that differ in their seed only, and the numbers that each run left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmpo_mm.reports.compare_lines import CompareStep
from gmpo_mm.reports.stop_rule import StopRule

FINISHED = "finished"
CLIP_SHARE = "clip/high_frac + clip/low_frac"
"""A run's own sum of both: no token is clipped at both bounds."""
UNKNOWN = "not said"
"""The state of another tool's run: its log doesn't tell whether it went on to its end."""


@dataclass(frozen=True)
class Series:
    """One metric of one run over steps, finite values only; `dropped` counts those that were not."""

    steps: NDArray[np.int64]
    values: NDArray[np.float64]
    dropped: int = 0

    @classmethod
    def of(cls, pairs: Iterable[tuple[int, float]]) -> Series:
        """From (step, value) pairs; of two values at one step the later counts."""
        found = dict(pairs)
        steps = np.array(sorted(found), dtype=np.int64)
        values = np.array([found[step] for step in steps.tolist()], dtype=np.float64)
        finite = np.isfinite(values)
        return cls(steps[finite], values[finite], int((~finite).sum()))


@dataclass(frozen=True)
class Run:
    """One run, read from the disk. `seed` is None where the source doesn't tell it."""

    path: Path
    seed: str | None
    series: Mapping[str, Series]
    """Metric name -> values; see `gmpo_mm.training` for the names. EasyR1's names are kept as they are."""
    source: str
    """gmpo-mm, EasyR1 or TensorBoard."""
    state: str
    """finished, running, interrupted, failed, waiting, out_of_budget or `UNKNOWN`."""
    reason: str | None = None
    seconds: float | None = None
    """Wall time of the whole process; None where only the steps' own times are known."""
    evaluations: Mapping[str, Path] = field(default_factory=dict)
    """Benchmark -> directory that `gmpo-mm evaluate` left."""
    config: Mapping[str, Any] | None = None
    """The resolved configuration; None where the source has none."""
    place: str = ""
    """The directory within its sweep; empty for a run that was given by itself."""
    command: tuple[str, ...] = ()
    """The words of the command that trains it; empty where the source has none."""
    compare: tuple[CompareStep, ...] = ()
    """What other losses would have done, step by step (trainer.compare_losses)."""

    @property
    def where(self) -> str:
        """Where it is, for a reader: within its sweep, else as it was given."""
        return self.place or str(self.path)

    @property
    def counts(self) -> bool:
        """Whether its last score is a final one."""
        return self.state in (FINISHED, UNKNOWN)

    @property
    def name(self) -> str:
        """How it is called in a message."""
        return self.where if self.seed is None else f"seed {self.seed}"


@dataclass(frozen=True)
class Variant:
    """Runs that differ in their seed only. `label` is free text from a file: escape it wherever it is shown."""

    name: str
    label: str
    runs: tuple[Run, ...]
    settings: tuple[str, ...] = ()
    """What sets it apart from the others, as `key=value`."""
    paper_line: int | None = None

    @property
    def counted(self) -> tuple[Run, ...]:
        """The runs whose last score is a final one."""
        return tuple(run for run in self.runs if run.counts)

    def has(self, metric: str) -> bool:
        """Whether any run has a value of it."""
        return any(metric in run.series for run in self.runs)


@dataclass(frozen=True)
class Named:
    """A row, column or panel; `label` is free text from a file."""

    name: str
    label: str


@dataclass(frozen=True)
class StudyMap:
    """The grid, as sweep.json has it."""

    axis: str
    rows: tuple[Named, ...]
    columns: tuple[Named, ...]
    panels: tuple[Named, ...]
    """One with an empty name where the sweep has none."""
    cells: Mapping[str, tuple[str, str, str]]
    """Variant -> names of its panel, row and column."""
    collapse_kl: float
    exponents: Mapping[str, float] = field(default_factory=dict)
    """Row -> p of the power mean that it is."""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> StudyMap:
        """What a sweep wrote. KeyError, TypeError or ValueError for anything else."""

        def named(key: str) -> tuple[Named, ...]:
            return tuple(Named(str(one["name"]), str(one["label"])) for one in data[key])

        cells = {str(name): (str(panel), str(row), str(column)) for name, (panel, row, column) in data["cells"].items()}
        return cls(
            axis=str(data["axis"]), rows=named("rows"), columns=named("columns"), panels=named("panels") or (Named("", ""),),
            cells=cells, collapse_kl=float(data["collapse_kl"]),
            exponents={str(row): float(p) for row, p in data["exponents"].items()},
        )  # fmt: skip


@dataclass(frozen=True)
class Study:
    """Everything that one report shows. The first variant is the one that the others are compared with."""

    title: str
    variants: tuple[Variant, ...]
    sources: tuple[str, ...]
    """The paths that the report was asked for."""
    target_score: float | None = None
    paper: Mapping[str, Any] | None = None
    """{"table": 4, "model": ...} where the runs are those of one of the paper's tables, else None."""
    commands: tuple[str, ...] = ()
    seeds: tuple[str, ...] = ()
    """A sweep's list, in its order; empty for runs that were given by themselves."""
    stop_rule: StopRule | None = None
    """When the sweep stops to add seeds; None where all of its seeds are trained."""
    notes: tuple[str, ...] = ()
    """What is missing or was left out, a sentence each."""
    map: StudyMap | None = None
    """Of one sweep whose variants form a grid."""
