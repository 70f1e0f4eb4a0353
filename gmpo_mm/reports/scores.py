"""The scores of a study: final and best Pass@1 over seeds, and each variant's difference to the first."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gmpo_mm.errors import DataError
from gmpo_mm.evaluation.compare import spec_differences
from gmpo_mm.evaluation.resampling import Interval, difference_interval, holm, sign_flip_test
from gmpo_mm.evaluation.results import Result, Spec, read_result, read_spec
from gmpo_mm.evaluation.statistics import check_complete
from gmpo_mm.reports.seed_statistics import SeedDifference, SeedMean, seed_difference, seed_mean, steps_to
from gmpo_mm.reports.study import Run, Series, Study, Variant
from gmpo_mm.runs.accuracy import accuracy_of

REWARD = "val/reward_score"


@dataclass(frozen=True)
class StudyScore:
    """The validation score that a report is about. `percent`: it is a share of right answers, which is called Pass@1."""

    metric: str
    percent: bool
    words: str


@dataclass(frozen=True)
class ProblemDifference:
    """B - A over problems, all common seeds' samples together: what other problems would show for these trained models."""

    problems: int
    seeds: int
    difference: float
    interval: Interval
    p_value: float
    p_method: str
    p_holm: float


@dataclass(frozen=True)
class ScoreRow:
    """One variant: its mean over seeds, and its paired difference to the first variant."""

    variant: Variant
    mean: SeedMean | None
    """None where no run has a final score."""
    by_seed: Mapping[str, float]
    difference: SeedDifference | None = None
    """None for the first variant, and where `note` says why."""
    p_holm: float | None = None
    problems: ProblemDifference | None = None
    note: str = ""


@dataclass(frozen=True)
class ScoreTable:
    """One score of every variant. `percent`: a share of right answers, else a number of any size."""

    key: str
    title: str
    about: str
    percent: bool
    rows: tuple[ScoreRow, ...]
    notes: tuple[str, ...] = ()
    spec: Spec | None = None
    """The evaluation's, where the scores are from one."""


def study_score(study: Study) -> StudyScore | None:
    """The accuracy where any run has one, else the reward; None where no run was ever validated."""
    runs = [run for variant in study.variants for run in variant.runs]
    pooled: dict[str, list[float]] = {}
    for name, series in (item for run in runs for item in run.series.items()):
        pooled.setdefault(name, []).extend(series.values.tolist())
    found = accuracy_of(pooled)
    if found is not None:
        return StudyScore(found.name, found.is_share, "Pass@1" if found.is_share else "mean accuracy")
    return StudyScore(REWARD, False, "reward") if REWARD in pooled else None


def score_tables(study: Study) -> list[ScoreTable]:
    """Evaluations first, one table a benchmark; then the last and the best validation."""
    tables = [_evaluation_table(study, benchmark) for benchmark in _benchmarks(study)]
    score = study_score(study)
    if score is None:
        return tables
    metric, percent, name = score.metric, score.percent, score.words
    what = f"{metric} of finished runs" + (
        "; it is not 0 or 1 for each response, so it is no share of right answers" if name == "mean accuracy" else ""
    )
    return [
        *tables,
        _table(study, "final", f"Final {name}, validation", f"{what}, at their last validation", percent,
               lambda run: _last(run.series.get(metric))),
        _table(study, "best", f"Best {name}, validation",
               f"{what}, at the validation that was their best: chosen with the same problems, and so too good", percent,
               lambda run: _best(run.series.get(metric))),
    ]  # fmt: skip


def scores_by_seed(study: Study, score: str) -> dict[str, Mapping[str, float]]:
    """Variant -> seed -> its score: `final`, the last validation's, or a benchmark's. DataError where no run has it."""
    if score in _benchmarks(study):
        return {row.variant.name: row.by_seed for row in _evaluation_table(study, score, over_problems=False).rows}
    found = study_score(study) if score == "final" else None
    if found is None:
        raise DataError(f"budget.score = {score!r}: no finished run has it; set it to final, or to a benchmark")
    table = _table(study, "final", "", "", found.percent, lambda run: _last(run.series.get(found.metric)))
    return {row.variant.name: row.by_seed for row in table.rows}


def steps_to_score(study: Study, target: float) -> dict[str, list[int | None]]:
    """Variant -> for each run (unfinished ones that got there included) the first validated step with the score."""
    score = study_score(study)
    metric = None if score is None else score.metric
    found: dict[str, list[int | None]] = {}
    for variant in study.variants:
        scores = [(run, run.series[metric]) for run in variant.runs if metric is not None and metric in run.series]
        steps = [(run, steps_to(series.steps.tolist(), series.values.tolist(), target)) for run, series in scores]
        found[variant.name] = [step for run, step in steps if run.counts or step is not None]
    return found


def _last(series: Series | None) -> float | None:
    return None if series is None else float(series.values[-1])


def _best(series: Series | None) -> float | None:
    return None if series is None else float(series.values.max())


def _benchmarks(study: Study) -> list[str]:
    runs = [run for variant in study.variants for run in variant.counted]
    return list(dict.fromkeys(name for run in runs for name in run.evaluations))


def _table(
    study: Study, key: str, title: str, about: str, percent: bool, value_of: Callable[[Run], float | None]
) -> ScoreTable:
    rows = [
        _row(variant, {seed: value for seed, run in _by_seed(variant).items() if (value := value_of(run)) is not None}, percent)
        for variant in study.variants
    ]
    return ScoreTable(key, title, about, percent, tuple(compare_rows(rows, percent)))


def _by_seed(variant: Variant) -> dict[str, Run]:
    """Finished runs by seed; runs whose seed isn't known are numbered."""
    return {run.seed if run.seed is not None else f"run {i}": run for i, run in enumerate(variant.counted, start=1)}


def _row(variant: Variant, by_seed: Mapping[str, float], percent: bool) -> ScoreRow:
    mean = seed_mean(list(by_seed.values()), bounds=(0.0, 1.0) if percent else None) if by_seed else None
    return ScoreRow(variant, mean, by_seed)


def compare_rows(rows: Sequence[ScoreRow], percent: bool) -> list[ScoreRow]:
    """Each row with its difference to the first, paired by seed; Holm's p-values over all of them."""
    first, *others = rows
    compared = [_with_difference(row, first, 1.0 if percent else math.inf) for row in others]
    tested = [row.difference.p_value for row in compared if row.difference and row.difference.p_value is not None]
    adjusted = iter(holm(tested))
    return [
        first,
        *(
            replace(row, p_holm=next(adjusted)) if row.difference and row.difference.p_value is not None else row
            for row in compared
        ),
    ]


def _with_difference(row: ScoreRow, first: ScoreRow, bound: float) -> ScoreRow:
    common = _common_seeds(first.by_seed, row.by_seed)
    if not row.by_seed or not first.by_seed:
        return replace(row, note=f"no finished run of {(first if row.by_seed else row).variant.label} has this score")
    if not common:
        return replace(row, note=f"no seed in common with {first.variant.label}")
    ours, theirs = [row.by_seed[b] for _, b in common], [first.by_seed[a] for a, _ in common]
    return replace(row, difference=seed_difference(ours, theirs, bound=bound))


def _common_seeds(a: Mapping[str, float], b: Mapping[str, float]) -> list[tuple[str, str]]:
    """(seed of A, seed of B): equal ones; a single run of each may be set side by side whatever its seed."""
    if len(a) == len(b) == 1:
        return [(next(iter(a)), next(iter(b)))]
    return [(seed, seed) for seed in a if seed in b and not seed.startswith("run ")]


# ---- evaluations -------------------------------------------------------------------------------------------------------


def _evaluation_table(study: Study, benchmark: str, *, over_problems: bool = True) -> ScoreTable:
    """Pass@1 of finished evaluations under one protocol, with differences over problems."""
    specs: dict[str, Spec] = {}
    notes: list[str] = []

    def value_of(run: Run) -> float | None:
        if benchmark not in run.evaluations:
            return None
        result = Result(run.evaluations[benchmark], read_spec(run.evaluations[benchmark]), (), ())
        reference = specs.setdefault("first", result.spec)
        differences = spec_differences(reference, result.spec)
        if differences:
            said = "; ".join(f"{key} is {theirs!r}, not {ours!r}" for key, ours, theirs in differences)
            notes.append(f"{result.path} is left out, as its numbers mean something else: {said}.")
        elif not result.summary:
            notes.append(f"{result.path} is left out, as that evaluation has not finished.")
        else:
            return float(result.summary["pass_at_1"]["value"])
        return None

    table = _table(study, f"evaluation/{benchmark}", "", "", True, value_of)
    spec = specs["first"]
    samples = "" if spec.protocol.n == 1 else f" x {spec.protocol.n} samples"
    return replace(
        table,
        title=f"Pass@1, {benchmark}",
        about=f"evaluation of the last checkpoints: {spec.problems:,} problems{samples}, {spec.protocol.describe()}",
        rows=tuple(_with_problem_differences(table.rows, benchmark)) if over_problems else table.rows,
        notes=tuple(notes),
        spec=spec,
    )


def _with_problem_differences(rows: Sequence[ScoreRow], benchmark: str) -> list[ScoreRow]:
    first, *others = rows
    results: dict[str, Result] = {}

    def result_of(row: ScoreRow, seed: str) -> Result:
        path = _by_seed(row.variant)[seed].evaluations[benchmark]
        return results.setdefault(str(path), read_result(path))

    found = [
        problem_difference([(result_of(first, a), result_of(row, b)) for a, b in common])
        if (common := _common_seeds(first.by_seed, row.by_seed)) else None
        for row in others
    ]  # fmt: skip
    adjusted = iter(holm([difference.p_value for difference in found if difference]))
    return [
        first,
        *(
            replace(row, problems=replace(difference, p_holm=next(adjusted))) if difference else row
            for row, difference in zip(others, found)
        ),
    ]


def problem_difference(pairs: Sequence[tuple[Result, Result]]) -> ProblemDifference:
    """B - A for (A, B) of each seed, problem by problem, the seeds' samples added up.

    The interval and test are `gmpo_mm.evaluation`'s: bootstrap over problems, and sign flips. They say what other problems
    would show for these very models; what other seeds would train is said by the difference over seeds. DataError for
    results that are not on the same problems, or not complete.
    """
    first = pairs[0][0]
    for result in (result for pair in pairs for result in pair):
        check_complete(result)
        ours, theirs = ([(p.id, p.text, p.golds) for p in r.problems] for r in (first, result))
        if spec_differences(first.spec, result.spec) or ours != theirs:
            raise DataError(
                f"{first.path} and {result.path} are not on the same problems under one protocol; evaluate one of them again "
                "as the other"
            )
    right_a, right_b = (np.sum([_right(pair[side]) for pair in pairs], axis=0) for side in (0, 1))
    gaps, samples = right_b - right_a, first.spec.protocol.n * len(pairs)
    p_value, method = sign_flip_test(gaps.tolist())
    return ProblemDifference(
        problems=len(gaps), seeds=len(pairs), difference=float(gaps.sum() / (samples * len(gaps))),
        interval=difference_interval(gaps / samples), p_value=p_value, p_method=method, p_holm=p_value,
    )  # fmt: skip


def _right(result: Result) -> list[int]:
    """Right samples of each problem."""
    return [sum(sample.correct for sample in group) for group in result.by_problem]
