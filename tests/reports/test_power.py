"""`gmpo-mm power`: variances without bias, a detectable difference that is detected, and a reverse that fits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from typer.testing import CliRunner

from gmpo_mm.cli import app
from gmpo_mm.errors import ConfigError, DataError
from gmpo_mm.reports.power import (
    Components,
    Design,
    detectable,
    needed_for,
    power_of,
    standard_error,
    variance_components,
)
from tests.evaluation.made_results import make_result, write_result


def draw(
    generator: np.random.Generator, *shape: int, shift: float = 0.0, hard: NDArray[np.float64] | None = None
) -> NDArray[np.int64]:
    """Samples (comparisons..., seeds, problems, samples) of the model, and its variances are those of `TRUE`."""
    *many, seeds, problems, samples = shape
    chance = 0.5 + shift + (generator.choice([-0.2, 0.2], (*many, 1, problems)) if hard is None else hard)
    chance = chance + generator.choice([-0.05, 0.05], (*many, seeds, 1))
    chance = chance + generator.choice([-0.1, 0.1], (*many, seeds, problems))
    return generator.binomial(1, chance[..., None], (*many, seeds, problems, samples))


TRUE = Components(mean=0.5, problem=0.04, seed=0.0025, interaction=0.01, sampling=0.25 - 0.04 - 0.0025 - 0.01)


def naive_components(y: NDArray[np.int64]) -> Components:
    """Mean squares and their expectations, in loops."""
    seeds, problems, samples = y.shape
    every = [(s, i, k) for s in range(seeds) for i in range(problems) for k in range(samples)]
    mean = sum(float(y[e]) for e in every) / len(every)
    of_problem = [
        sum(float(y[s, i, k]) for s in range(seeds) for k in range(samples)) / (seeds * samples)
        for i in range(problems)
    ]
    of_seed = [
        sum(float(y[s, i, k]) for i in range(problems) for k in range(samples)) / (problems * samples)
        for s in range(seeds)
    ]
    cell = [
        [sum(float(y[s, i, k]) for k in range(samples)) / samples for i in range(problems)]
        for s in range(seeds)
    ]
    within = sum((float(y[s, i, k]) - cell[s][i]) ** 2 for s, i, k in every) / (
        seeds * problems * (samples - 1)
    )
    problem = sum(seeds * samples * (of_problem[i] - mean) ** 2 for i in range(problems)) / (problems - 1)
    seed = sum(problems * samples * (of_seed[s] - mean) ** 2 for s in range(seeds)) / (seeds - 1)
    rest = 0.0
    for s in range(seeds):
        for i in range(problems):
            rest += (
                samples
                * (cell[s][i] - of_problem[i] - of_seed[s] + mean) ** 2
                / ((problems - 1) * (seeds - 1))
            )
    # expectations: rest = within + K interaction; seed = rest + I K seed; problem = rest + S K problem
    return Components(
        mean,
        (problem - rest) / (seeds * samples),
        (seed - rest) / (problems * samples),
        (rest - within) / samples,
        within,
    )


def test_variances_are_those_of_the_equations_in_loops() -> None:
    y = draw(np.random.default_rng(1), 3, 7, 4)
    ours, theirs = variance_components(y), naive_components(y)
    for name in ("mean", "problem", "seed", "interaction", "sampling"):
        assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=1e-10, abs=1e-14), name


def test_variances_are_estimated_without_bias() -> None:
    generator = np.random.default_rng(2)
    found = [variance_components(y) for y in draw(generator, 1500, 3, 12, 4)]
    for name in ("problem", "seed", "interaction", "sampling"):
        values = [getattr(one, name) for one in found]
        error = np.std(values) / np.sqrt(len(values))
        assert np.mean(values) == pytest.approx(getattr(TRUE, name), abs=3.5 * error), name
    alone = [variance_components(y) for y in draw(generator, 1500, 1, 12, 4)]
    assert np.mean([one.problem for one in alone]) == pytest.approx(
        TRUE.problem + TRUE.interaction, abs=0.004
    )
    assert alone[0].seed is None and alone[0].interaction is None


@pytest.mark.parametrize("paired", [True, False])
def test_a_difference_of_the_detectable_size_is_detected_four_times_in_five(paired: bool) -> None:
    design = Design(problems=20, samples=4, seeds=5, paired=paired)
    shift = detectable(TRUE, design)
    generator, count = np.random.default_rng(4), 4000
    same = generator.choice([-0.2, 0.2], (count, 1, 20))
    runs = []
    for moved in (-shift / 2, shift / 2):
        # unpaired: each run is tried on problems of its own
        hard = same if paired else generator.choice([-0.2, 0.2], (count, 5, 20))
        runs.append(draw(generator, count, 5, 20, 4, shift=moved, hard=hard).mean(axis=(2, 3)))
    test = stats.ttest_rel if paired else stats.ttest_ind
    p_values = test(runs[1], runs[0], axis=1).pvalue
    assert np.mean(p_values < 0.05) == pytest.approx(0.8, abs=0.03)


def test_what_is_needed_is_the_least_that_detects_it() -> None:
    design = Design(problems=50, samples=4, seeds=5)
    needed = needed_for(TRUE, design, 0.1)
    for name in ("problems", "samples", "seeds"):
        number = getattr(needed, name)
        if number is None:  # the variance between seeds alone is too large
            assert detectable(TRUE, replace(design, **{name: 10_000_000})) > 0.1
            continue
        assert detectable(TRUE, replace(design, **{name: number})) <= 0.1
        assert detectable(TRUE, replace(design, **{name: number - 1})) > 0.1
    assert needed.problems is None and needed.samples is None and needed.seeds is not None


def test_standard_errors_are_the_formulas() -> None:
    per = 0.01 + TRUE.sampling / 4  # type: ignore[operator]
    assert standard_error(TRUE, Design(50, 4, 5)) == pytest.approx((2 / 5 * (0.0025 + per / 50)) ** 0.5)
    assert standard_error(TRUE, Design(50, 4, 5, paired=False)) == pytest.approx(
        (2 / 5 * (0.0025 + (0.04 + per) / 50)) ** 0.5
    )
    assert standard_error(TRUE, Design(50, 4, 1)) == pytest.approx((2 * per / 50) ** 0.5)


def write_seeds(folder: Path, seeds: int, problems: int = 30, samples: int = 4) -> list[Path]:
    grades = draw(np.random.default_rng(5), seeds, problems, samples).astype(bool)
    return [
        write_result(make_result(grades[s].tolist(), folder / f"seed_{s}", model=f"m{s}", model_hash=f"h{s}"))
        for s in range(seeds)
    ]


def test_the_command_prints_both_directions_and_json_says_the_same(tmp_path: Path) -> None:
    paths = [str(path) for path in write_seeds(tmp_path, 3)]
    words = CliRunner().invoke(app, ["power", *paths, "--difference", "0.1"])
    assert words.exit_code == 0, words.output
    for text in (
        "3 evaluations",
        "twice the seeds",
        "paired t-test over seeds",
        "To detect a difference of 0.1",
        "rough number",
    ):
        assert text in " ".join(words.output.split()), text
    ran = CliRunner().invoke(app, ["power", *paths, "--seeds", "10", "--json"])
    found = json.loads(ran.stdout)
    report = power_of(list(map(Path, paths)), seeds=10)
    assert (
        found["detectable"]
        == report.detectable
        == pytest.approx(detectable(report.components, Design(30, 4, 10)))
    )
    assert found["components"]["sampling"] == report.components.sampling and found["needed"] is None


def test_one_evaluation_is_about_two_models_and_says_nothing_of_seeds(tmp_path: Path) -> None:
    (path,) = write_seeds(tmp_path, 1)
    report = power_of([path])
    assert report.design.test == "two-sided paired t-test over problems" and "two models" in report.notes[0]
    with pytest.raises(ConfigError, match="--seeds 3: one evaluation says nothing"):
        power_of([path], seeds=3)


def test_what_can_t_be_told_is_an_error_that_says_what_to_give(tmp_path: Path) -> None:
    greedy = write_result(make_result([[True], [False], [True]], tmp_path / "greedy"))
    with pytest.raises(ConfigError, match="or --unpaired"):
        power_of([greedy])
    assert power_of([greedy], paired=False).detectable > 0
    with pytest.raises(ConfigError, match="--samples 4: with one sample"):
        power_of([greedy], samples=4, paired=False)
    paths = write_seeds(tmp_path, 2)
    with pytest.raises(DataError, match="given twice"):
        power_of([paths[0], paths[0]])
    same = write_result(make_result([[True, False, True, False]] * 30, tmp_path / "same", model_hash="h0"))
    with pytest.raises(DataError, match="of the same weights"):
        power_of([paths[0], same])
    other = write_result(make_result([[True, False]] * 30, tmp_path / "other"))
    with pytest.raises(DataError, match=r"protocol\.n is 2, not 4"):
        power_of([paths[0], other])
    with pytest.raises(ConfigError, match="--difference 2"):
        power_of(paths, difference=2)
