"""`gmpo-mm power`: from the variances of a real evaluation to the smallest difference that a comparison would detect.

Sample k of problem i by the model of training seed s is right (1) or not (0):

    y_isk = mean + a_i + b_s + c_is + e_isk

with variances problem (a: problems are easy or hard), seed (b: a training run is lucky or not), interaction (c: which
problems a run learns) and sampling (e: p (1 - p), on average over problems and runs). Given runs of several seeds on the same
problems with the same number of samples, each is estimated without bias from the mean squares of the two-way layout (Searle,
Casella and McCulloch 1992, "Variance Components", section 4.3). Estimates below 0 happen, and count as 0 in what follows.

Two methods A and B, each with S seeds, I problems, K samples a problem and these variances, differ in their means with

    paired (the same problems):      SE^2 = 2/S (seed + (interaction + sampling / K) / I)
    unpaired (problems of its own):  SE^2 = 2/S (seed + (problem + interaction + sampling / K) / I)

and a two-sided t-test over the S seeds (for S = 1 over the I problems, without `seed`: then it is about these two models)
detects with chance `power` the difference at which the non-central t distribution says so. Left out, as evaluations of one
method can't tell: that a method may do better on some problems than on others (with S = 1 it widens the interval), and that
runs with equal seeds may be correlated (`gmpo-mm report` measures it).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmpo_mm.errors import ConfigError, DataError
from gmpo_mm.evaluation.compare import spec_differences
from gmpo_mm.evaluation.results import Result, Spec, read_result
from gmpo_mm.evaluation.statistics import check_complete
from gmpo_mm.reports.seed_statistics import POWER, detectable_by_degrees

FORMAT = 1
"""Raised when a key of the JSON changes its meaning."""
ALPHA = 0.05
MOST = 10_000_000
"""Beyond so many problems, samples or seeds nothing is looked for."""


@dataclass(frozen=True)
class Components:
    """Unbiased estimates of the variances; None where the evaluations can't tell them apart."""

    mean: float
    problem: float | None
    """With one evaluation it holds the interaction too, with one sample a problem the sampling too."""
    seed: float | None
    interaction: float | None
    """With one sample a problem it holds the sampling too."""
    sampling: float | None


@dataclass(frozen=True)
class Design:
    """A comparison of two methods: problems, samples a problem and training seeds of each."""

    problems: int
    samples: int
    seeds: int
    paired: bool = True

    @property
    def test(self) -> str:
        """The test whose power is meant."""
        unit = "seeds" if self.seeds > 1 else "problems"
        return f"two-sided {'paired' if self.paired else 'two-sample'} t-test over {unit}"


@dataclass(frozen=True)
class Needed:
    """What shows a difference when one number is changed and the others stay; None where no number does, or is known to."""

    difference: float
    problems: int | None
    samples: int | None
    seeds: int | None


@dataclass(frozen=True)
class PowerReport:
    """What `gmpo-mm power` found."""

    spec: Spec
    evaluations: tuple[str, ...]
    components: Components
    design: Design
    detectable: float
    variations: tuple[tuple[Design, float], ...]
    """Designs with one number doubled, and what they detect."""
    needed: Needed | None
    notes: tuple[str, ...]
    alpha: float = ALPHA
    power: float = POWER

    def to_json(self) -> dict[str, Any]:
        """All of it for programs; scores and differences are shares between 0 and 1."""
        return {
            "format": FORMAT, "benchmark": self.spec.name, "evaluations": list(self.evaluations),
            "components": asdict(self.components), "design": asdict(self.design) | {"test": self.design.test},
            "alpha": self.alpha, "power": self.power, "detectable": self.detectable,
            "variations": [asdict(design) | {"detectable": found} for design, found in self.variations],
            "needed": None if self.needed is None else asdict(self.needed), "notes": list(self.notes),
        }  # fmt: skip


def variance_components(right_SIK: NDArray[Any]) -> Components:
    """Estimates from the samples (seeds, problems, samples a problem), 1 where right, by analysis of variance."""
    y = np.asarray(right_SIK, dtype=np.float64)
    seeds, problems, samples = y.shape
    if problems < 2:
        raise ValueError("variances between problems need two problems")
    cell_SI, mean = y.mean(axis=2), float(y.mean())
    problem_I, seed_S = cell_SI.mean(axis=0), cell_SI.mean(axis=1)
    ms_problem = seeds * samples * float(((problem_I - mean) ** 2).sum()) / (problems - 1)
    sampling = None
    if samples > 1:
        sampling = float(((y - cell_SI[..., None]) ** 2).sum()) / (seeds * problems * (samples - 1))
    if seeds == 1:
        return Components(mean, (ms_problem - (sampling or 0.0)) / samples, None, None, sampling)
    rest_SI = cell_SI - problem_I - seed_S[:, None] + mean
    ms_rest = samples * float((rest_SI**2).sum()) / ((problems - 1) * (seeds - 1))
    ms_seed = problems * samples * float(((seed_S - mean) ** 2).sum()) / (seeds - 1)
    return Components(
        mean,
        problem=(ms_problem - ms_rest) / (seeds * samples),
        seed=(ms_seed - ms_rest) / (problems * samples),
        interaction=(ms_rest - (sampling or 0.0)) / samples,
        sampling=sampling,
    )


def standard_error(components: Components, design: Design) -> float:
    """Of B - A, by the formulas above. ValueError where the design needs a variance that isn't known."""
    problem, interaction, sampling = (max(0.0, value or 0.0) for value in (
        components.problem, components.interaction, components.sampling,
    ))  # fmt: skip
    per_problem = interaction + sampling / design.samples + (0.0 if design.paired else problem)
    if design.seeds == 1:
        return float(np.sqrt(2 * per_problem / design.problems))
    if components.seed is None:
        raise ValueError("the variance between seeds is not known from one evaluation")
    return float(np.sqrt(2 / design.seeds * (max(0.0, components.seed) + per_problem / design.problems)))


def detectable(
    components: Components, design: Design, *, alpha: float = ALPHA, power: float = POWER
) -> float:
    """The true difference that the design's test finds with chance `power`."""
    units = design.seeds if design.seeds > 1 else design.problems
    degrees = (units - 1) * (1 if design.paired else 2)
    return standard_error(components, design) * detectable_by_degrees(degrees, level=1 - alpha, power=power)


def needed_for(
    components: Components, design: Design, difference: float, fixed_samples: bool = False
) -> Needed:
    """What each number has to be for `difference`, with the other two as the design has them."""

    def least(first: int, changed: Callable[[int], Design]) -> int | None:
        return _least(first, lambda number: detectable(components, changed(number)) <= difference)

    return Needed(
        difference,
        problems=least(2, lambda number: replace(design, problems=number)),
        samples=None if fixed_samples else least(1, lambda number: replace(design, samples=number)),
        seeds=None if components.seed is None else least(2, lambda number: replace(design, seeds=number)),
    )


def _least(first: int, enough: Callable[[int], bool]) -> int | None:
    """The smallest number from `first` that is enough; None where `MOST` is not."""
    if not enough(MOST):
        return None
    low, high = first - 1, first
    while not enough(high):
        low, high = high, min(2 * high, MOST)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def power_of(
    paths: Sequence[Path], *, problems: int | None = None, samples: int | None = None, seeds: int | None = None,
    paired: bool = True, difference: float | None = None,
) -> PowerReport:  # fmt: skip
    """Read evaluations of one method's seeds and say what a comparison detects; the design is theirs where not given.

    DataError for evaluations that don't belong together; ConfigError for a design that they say nothing about.
    """
    results = _read(paths)
    right_SIK = np.array([[[s.correct for s in group] for group in result.by_problem] for result in results])
    there_seeds, there_problems, there_samples = right_SIK.shape
    if there_problems < 2:
        raise DataError(f"{results[0].path} has one problem; a spread between problems needs two")
    design = Design(problems or there_problems, samples or there_samples, seeds or there_seeds, paired)
    if difference is not None and not 0 < difference < 1:
        raise ConfigError(
            f"--difference {difference:g}: a share above 0 and below 1 is expected, as 0.02 for two points"
        )
    components = variance_components(right_SIK)
    _check(design, components, there_samples, there_seeds)
    variations = [replace(design, problems=2 * design.problems)]
    variations += [] if there_samples == 1 else [replace(design, samples=2 * design.samples)]
    variations += [] if there_seeds == 1 else [replace(design, seeds=2 * design.seeds)]
    return PowerReport(
        results[0].spec, tuple(str(result.path) for result in results), components, design, detectable(components, design),
        tuple((other, detectable(components, other)) for other in variations),
        None if difference is None else needed_for(components, design, difference, fixed_samples=there_samples == 1),
        tuple(_notes(components, design, there_seeds, there_samples)),
    )  # fmt: skip


def _read(paths: Sequence[Path]) -> list[Result]:
    if len({path.resolve() for path in paths}) != len(paths):
        raise DataError(
            "an evaluation is given twice; give each seed's once, as a copy would look like a seed without spread"
        )
    results = [read_result(path) for path in paths]
    first = results[0]
    for result in results:
        check_complete(result)
        if changed := spec_differences(first.spec, result.spec):
            said = "; ".join(f"{key} is {theirs!r}, not {ours!r}" for key, ours, theirs in changed)
            raise DataError(f"{result.path} is no other seed's evaluation beside {first.path}: {said}")
    hashes = [result.spec.model_hash for result in results if result.spec.model_hash]
    if len(set(hashes)) != len(hashes):
        raise DataError(
            "two of the evaluations are of the same weights; give evaluations of runs with different seeds"
        )
    return results


def _check(design: Design, components: Components, there_samples: int, there_seeds: int) -> None:
    """ConfigError for a design whose variance the evaluations don't tell."""
    if design.problems < 2:
        raise ConfigError(f"--problems {design.problems}: at least 2 are needed")
    if design.seeds > 1 and components.seed is None:
        raise ConfigError(
            f"--seeds {design.seeds}: one evaluation says nothing about how much training runs differ by their seed; give the "
            "evaluations of two or more runs of the method that differ in their seed only"
        )
    if there_samples > 1:
        return
    if design.samples != 1:
        raise ConfigError(
            f"--samples {design.samples}: with one sample a problem, the spread of sampling can't be told from that of "
            "problems; give evaluations with two samples or more"
        )
    if there_seeds == 1 and design.paired:
        raise ConfigError(
            "one evaluation with one sample a problem does not tell how often a second model would be right on the same "
            "problems; give two samples a problem or more, the evaluations of several seeds, or --unpaired"
        )


def _notes(components: Components, design: Design, there_seeds: int, there_samples: int) -> list[str]:
    notes = []
    if design.seeds == 1:
        notes.append(
            "One training run of each: this is about two models, not two methods; another seed may turn it round"
        )
        notes.append(
            "Taken: B is better by as much on each problem. Where it is not, more is needed; compare finds it out"
        )
    elif there_seeds < 5:
        notes.append(
            f"The variance between seeds is from {there_seeds} runs, and so is a rough number itself"
        )
    named = ((name, getattr(components, name)) for name in ("problem", "seed", "interaction", "sampling"))
    if below := [name for name, value in named if value is not None and value < 0]:
        notes.append(f"Estimated below 0, which chance does, and taken as 0: {', '.join(below)}")
    if there_samples == 1 and there_seeds > 1:
        notes.append("With one sample a problem, the interaction holds the sampling too")
    return notes
