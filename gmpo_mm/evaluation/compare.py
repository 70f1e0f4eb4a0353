"""Two results on the same problems: the paired difference, what it proves, and what it would take to prove more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from gmpo_mm.errors import DataError
from gmpo_mm.evaluation.confidence_sequence import BETTING_TEST, sequence_difference, sequence_p_value
from gmpo_mm.evaluation.early_stop import common_problems, used_problems
from gmpo_mm.evaluation.resampling import (
    Interval,
    difference_interval,
    holm,
    needed_problems,
    sign_flip_test,
    smallest_difference,
)
from gmpo_mm.evaluation.results import Problem, Result, Spec, read_result, read_spec
from gmpo_mm.evaluation.statistics import check_complete, problem_scores

FORMAT = 1
"""Raised when a key of the JSON changes its meaning."""

COMPARED = ("benchmark", "protocol", "grader", "problems", "problem_set")
"""What two results must share; models, seeds, backends and environments may differ."""


@dataclass(frozen=True)
class Change:
    """One problem that the two models did not do equally well on; `a` and `b` are shares of right samples."""

    id: str
    index: int
    a: float
    b: float


@dataclass(frozen=True)
class Comparison:
    """B against A on one benchmark. Scores are Pass@1 between 0 and 1; `difference` is B - A, above 0 where B is better."""

    name: str
    a: str
    b: str
    model_a: str
    model_b: str
    problems: int
    n: int
    score_a: float
    score_b: float
    difference: float
    interval: Interval
    p_value: float
    p_method: str
    p_holm: float
    """Holm's p-value over all benchmarks of this comparison; `p_value` where there is one."""
    wins: tuple[Change, ...]
    """Problems that B did better on, the largest difference first."""
    losses: tuple[Change, ...]
    """Problems that A did better on."""
    ties: int
    counts: dict[str, int] | None
    """With one sample a problem: how many both, only A, only B and neither got right."""
    needed: int | None
    """Problems that show a difference of this size (power 0.8, alpha 0.05, two-sided); None where the difference is 0."""
    smallest: float | None
    """The difference that this many problems would show; None where the set is too small or its spread unknown."""
    notes: tuple[str, ...]
    of_problems: int | None = None
    """Problems of the benchmark, where a result stopped early and only `problems` of them are compared."""

    @property
    def shown(self) -> bool:
        """Whether interval and test both say that the models differ."""
        return self._interval_excludes_zero and self.p_holm < self.alpha

    @property
    def alpha(self) -> float:
        """The chance of a false alarm that goes with the interval's level."""
        return round(1 - self.interval.level, 12)

    @property
    def _interval_excludes_zero(self) -> bool:
        return self.interval.low > 0 or self.interval.high < 0

    @property
    def _on(self) -> str:
        """What the interval speaks of."""
        if self.of_problems is None:
            return "on problems like these"
        return f"on the benchmark's {self.of_problems:,} problems"

    @property
    def verdict(self) -> str:
        """What the numbers allow one to say, in words."""
        low, high, size = self.interval.low, self.interval.high, abs(self.difference)
        if self.shown:
            better = "B" if self.difference > 0 else "A"
            least, most = sorted((abs(low), abs(high)))
            return (
                f"{better} is better {self._on}, by {size:.3f} ({self.interval.level * 100:g} % interval over the "
                f"choice of problems: {least:.3f} to {most:.3f})."
            )
        if self.difference == 0 and not self.wins and not self.losses:
            return f"No difference: A and B did equally well on each problem. A true difference up to {high:.3f} would fit too."
        says = "No difference is shown"
        if self._interval_excludes_zero:
            says = "Undecided, as the interval shows a difference and the test does not"
        elif self.p_holm < self.alpha:
            says = "Undecided, as the test shows a difference and the interval does not"
        return f"{says}: B may be worse by {max(0.0, -low):.3f} or better by {max(0.0, high):.3f}. {self._outlook}".rstrip()

    @property
    def _outlook(self) -> str:
        """How many problems it would take, and what these could show."""
        room = f"these {self.problems:,} could hardly show any"
        if self.smallest is not None:
            room = f"these {self.problems:,} could show one of {self.smallest:.3f}"
        if self.needed is None:
            return f"{room[0].upper()}{room[1:]} (80 % power)."
        size = f"A difference of {abs(self.difference):.3f} takes about {self.needed:,} problems to show"
        return f"{size}; {room} (80 % power)."

    def to_json(self) -> dict[str, Any]:
        """All of it, with the verdict, as JSON takes it."""
        return {**asdict(self), "verdict": self.verdict, "shown": self.shown}


def compare(a: Path, b: Path, *, seed: int = 0) -> list[Comparison]:
    """Compare two results, or the results of each benchmark that two folders of results both hold.

    DataError names every difference in protocol, grader or problem set with both values, missing samples, and a folder that
    holds no result. Nothing is averaged over benchmarks.
    """
    if a.resolve() == b.resolve():
        raise DataError(f"{a} and {b} are the same folder; give two results")
    pairs, notes = _find_pairs(a, b)
    refusals = [text for left, right in pairs if (text := _refusal(read_spec(left), read_spec(right), left, right))]
    if refusals:
        raise DataError("\n".join(refusals))
    found = [compare_results(read_result(left), read_result(right), seed=seed, notes=notes) for left, right in pairs]
    adjusted = holm([comparison.p_value for comparison in found])
    return [replace(comparison, p_holm=p) for comparison, p in zip(found, adjusted)]


def compare_results(a: Result, b: Result, *, seed: int = 0, notes: Sequence[str] = ()) -> Comparison:
    """B against A, paired by problem. Raises DataError as `compare` does."""
    refusal = _refusal(a.spec, b.spec, a.path, b.path) or _problem_refusal(a, b)
    if refusal:
        raise DataError(refusal)
    common = common_problems(a, b)
    for result in (a, b):
        if common is None or result.spec.stop_when_decided is None:
            check_complete(result)
    indices = range(len(a.problems)) if common is None else common
    groups_a, groups_b = ([result.by_problem[index] for index in indices] for result in (a, b))
    n = a.spec.protocol.n
    right = np.array([[sum(sample.correct for sample in group) for group in groups] for groups in (groups_a, groups_b)])
    scores_a, scores_b = problem_scores(groups_a), problem_scores(groups_b)
    differences = (right[1] - right[0]) / n
    if common is None:
        interval = difference_interval(differences, seed=seed)
        p_value, p_method = sign_flip_test(right[1] - right[0], seed=seed)
    else:
        width = max(result.spec.stop_when_decided or 0.0 for result in (a, b))
        interval = sequence_difference(differences, len(a.problems), width)
        p_value, p_method = sequence_p_value(differences, len(a.problems), width), BETTING_TEST
        notes = [*notes, *_early_notes(a, b, len(common))]
    changes = [
        Change(a.problems[index].id, a.problems[index].index, float(x), float(y))
        for index, x, y in zip(indices, scores_a, scores_b) if x != y
    ]  # fmt: skip
    changes.sort(key=lambda change: (-abs(change.b - change.a), change.index))
    return Comparison(
        name=a.spec.name, a=str(a.path), b=str(b.path), model_a=a.spec.model, model_b=b.spec.model,
        problems=len(indices), n=n, score_a=float(scores_a.mean()), score_b=float(scores_b.mean()),
        difference=float((right[1] - right[0]).sum() / (n * len(indices))),
        interval=interval, p_value=p_value, p_method=p_method, p_holm=p_value,
        wins=tuple(change for change in changes if change.b > change.a),
        losses=tuple(change for change in changes if change.b < change.a),
        ties=len(indices) - len(changes), counts=_counts(right) if n == 1 else None,
        needed=needed_problems(differences), smallest=smallest_difference(differences),
        notes=(*notes, *_notes(a.spec, b.spec)), of_problems=None if common is None else len(a.problems),
    )  # fmt: skip


def _counts(right: np.ndarray) -> dict[str, int]:
    """McNemar's table."""
    a, b = right.astype(bool)
    cells = {"both": a & b, "only_a": a & ~b, "only_b": ~a & b, "neither": ~a & ~b}
    return {name: int(cell.sum()) for name, cell in cells.items()}


def _notes(a: Spec, b: Spec) -> list[str]:
    """What a reader should know before believing the difference."""
    notes = []
    if a.backend != b.backend:
        notes.append(f"sampled by different backends: {a.backend} (A) and {b.backend} (B)")
    if a.model_hash and a.model_hash == b.model_hash:
        notes.append("A and B are the same model files, so a difference here is chance or the sampler's")
    return notes


def _early_notes(a: Result, b: Result, common: int) -> list[str]:
    """That a result stopped early, and on what the two are compared."""
    notes = [
        f"{name} stopped early, after {len(used):,} of {len(result.problems):,} problems in a random order (the interval of "
        f"Pass@1 is narrower than {result.spec.stop_when_decided:g})"
        for name, result in (("A", a), ("B", b))
        if (used := used_problems(result)) is not None and len(used) < len(result.problems)
    ]
    return [
        *notes, f"compared are the {common} problems that both have; interval and p allow for the early stop, and so are "
        "wider than those of as many problems chosen in advance",
    ]  # fmt: skip


def _find_pairs(a: Path, b: Path) -> tuple[list[tuple[Path, Path]], list[str]]:
    """The results to compare: the two folders themselves, or those inside them by benchmark; and what has no partner."""
    single = [(path / "evaluation.json").is_file() for path in (a, b)]
    if all(single):
        return [(a, b)], []
    if any(single):
        result, other = (a, b) if single[0] else (b, a)
        raise DataError(f"{result} is a result and {other} is not; give two results, or two folders that hold results")
    inside_a, inside_b = _results_inside(a), _results_inside(b)
    common = [name for name in inside_a if name in inside_b]
    if not common:
        raise DataError(
            f"no benchmark in common: {a} has {', '.join(inside_a)}, and {b} has {', '.join(inside_b)}; evaluate both models "
            "on the same benchmark"
        )
    alone = [f"{name} is only in A" for name in inside_a if name not in inside_b]
    alone += [f"{name} is only in B" for name in inside_b if name not in inside_a]
    return [(inside_a[name], inside_b[name]) for name in common], alone


def _results_inside(folder: Path) -> dict[str, Path]:
    """Results in a folder by benchmark."""
    paths = sorted(file.parent for file in folder.glob("*/evaluation.json")) if folder.is_dir() else []
    if not paths:
        raise DataError(f"{folder}: no evaluation.json there nor one folder below; give a folder that `gmpo-mm evaluate` wrote")
    found: dict[str, Path] = {}
    for path in paths:
        name = read_spec(path).benchmark
        if name in found:
            raise DataError(f"{folder} holds two results of {name}: {found[name].name} and {path.name}; give the folder of one")
        found[name] = path
    return found


def spec_differences(a: Spec, b: Spec) -> list[tuple[str, Any, Any]]:
    """(key, A's value, B's value) of everything that makes two results incomparable."""
    left, right = _flat(a), _flat(b)
    return [(key, left.get(key), right.get(key)) for key in {**left, **right} if left.get(key) != right.get(key)]


def _flat(spec: Spec) -> dict[str, Any]:
    """`protocol.temperature`, `grader.packages.sympy` and so on."""
    flat: dict[str, Any] = {}
    for key in COMPARED:
        value = getattr(spec, key)
        if key in ("protocol", "grader"):
            flat |= {f"{key}.{item.name}": getattr(value, item.name) for item in fields(value)}
        else:
            flat[key] = value
    packages = flat.pop("grader.packages")
    return flat | {f"grader.packages.{name}": version for name, version in packages.items()}


def _refusal(a: Spec, b: Spec, path_a: Path, path_b: Path) -> str | None:
    """Why two results can't be compared; None where they can."""
    differences = spec_differences(a, b)
    if not differences:
        return None
    lines = [f"  {key}: {_short(x)} in A, {_short(y)} in B" for key, x, y in differences]
    if any(key == "problem_set" for key, _, _ in differences):
        lines.append(f"  {_set_difference(read_result(path_a).problems, read_result(path_b).problems)}")
    return (
        f"{path_a} and {path_b} can't be compared, because their numbers don't mean the same:\n"
        + "\n".join(lines)
        + "\nEvaluate one of them again as the other"
    )


def _short(value: Any) -> str:
    return "not there" if value is None else str(value) if not isinstance(value, str) else repr(value)


def _set_difference(a: Sequence[Problem], b: Sequence[Problem]) -> str:
    """How two sets of problems differ, in words."""
    left, right = ({problem.id: (problem.text, problem.golds) for problem in problems} for problems in (a, b))
    only_a, only_b = [key for key in left if key not in right], [key for key in right if key not in left]
    changed = [key for key in left if key in right and left[key] != right[key]]
    parts = [
        f"{len(keys)} {what} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for keys, what in ((only_a, "only in A"), (only_b, "only in B"), (changed, "with another text or gold"))
        if keys
    ]
    return "problems: " + (", ".join(parts) or "the same ids, texts and golds; their order or their pictures differ")


def _problem_refusal(a: Result, b: Result) -> str | None:
    """Results that say they have the same problems and don't, because a file was changed since."""
    left, right = ([(problem.id, problem.text, problem.golds) for problem in result.problems] for result in (a, b))
    if left == right:
        return None
    return (
        f"{a.path} and {b.path} say that they have the same problems, and their problems.jsonl differ:\n"
        f"  {_set_difference(a.problems, b.problems)}\nRestore the file that was changed, or evaluate again"
    )
