"""Make the tables of docs/results/paper_tables_power.md: what the numbers of problems in the paper's tables can show.

    python environments/docs/paper_power.py            # rewrites the page's tables, a minute
    python environments/docs/paper_power.py --check    # says whether they are as this makes them

The model: problem i has a chance of a right answer, the Beta distribution's quantile at (i + 1/2) / n, for A and B alike with
the means of A and B; answers are drawn independently with these chances. `shared` is the share of the variance p (1 - p) of
one greedy answer that lies between problems: at 0 all problems are equally hard, at 1/2 half of it is which problem it is.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import special

from gmpo_mm.evaluation.paper import PaperComparison, paper_comparisons, paper_problems

PAGE = Path(__file__).parents[2] / "docs/results/paper_tables_power.md"
ALPHA, POWER = 0.05, 0.8
SIMULATIONS = 2000
SHARED = (0.5, 0.0)
"""A share that two models of one base may have in common, and none."""
STEP = 0.001


def chances(mean: float, problems: int, shared: float) -> NDArray[np.float64]:
    """Chance of a right answer of each problem (problems,), easy ones last."""
    if shared == 0:
        return np.full(problems, mean)
    size = 1 / shared - 1
    quantiles = (np.arange(problems) + 0.5) / problems
    return np.asarray(special.betaincinv(mean * size, (1 - mean) * size, quantiles))


def drawn_gaps(
    a: float, b: float, problems: int, samples: int, shared: float, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Right answers of B minus those of A, (simulations, problems)."""
    right = [
        generator.binomial(samples, chances(mean, problems, shared), (SIMULATIONS, problems)).astype(np.int16)
        for mean in (a, b)
    ]
    return np.asarray(right[1] - right[0], dtype=np.int64)


def rejects(gaps: NDArray[np.int64], samples: int) -> NDArray[np.bool_]:
    """Which simulations (simulations,) a two-sided test at 0.05 rejects: McNemar's exact test, for samples a paired t-test."""
    count = gaps.shape[1]
    if samples == 1:
        better, worse = (gaps > 0).sum(axis=1), (gaps < 0).sum(axis=1)
        fewer = np.minimum(better, worse)
        return np.asarray(2 * special.bdtr(fewer, better + worse, 0.5) < ALPHA) & (better != worse)
    error = gaps.std(axis=1, ddof=1) / np.sqrt(count)
    return np.asarray(np.abs(gaps.mean(axis=1)) > special.stdtrit(count - 1, 1 - ALPHA / 2) * error)


@cache
def power(middle: float, difference: float, problems: int, samples: int, shared: float) -> float:
    """Share of simulations that show a true difference, around a mean score of `middle`."""
    a, b = middle - difference / 2, middle + difference / 2
    if not 0 < a < b < 1:
        return 0.0 if b <= a else 1.0
    generator = np.random.default_rng([problems, samples, round(1e6 * middle), round(1e6 * difference)])
    return float(rejects(drawn_gaps(a, b, problems, samples, shared, generator), samples).mean())


def average_power(
    scores: Sequence[float], difference: float, problems: Sequence[int], shared: float
) -> float:
    """The same for the plain average over benchmarks with one answer a problem, where B gains as much on each of them."""
    generator = np.random.default_rng([len(scores), round(1e6 * difference), *problems])
    mean, variance = np.zeros(SIMULATIONS), np.zeros(SIMULATIONS)
    for score, count in zip(scores, problems, strict=True):
        a, b = (min(max(score + side * difference / 2, 1e-6), 1 - 1e-6) for side in (-1, 1))
        gaps = drawn_gaps(a, b, count, 1, shared, generator)
        mean += gaps.mean(axis=1) / len(scores)
        variance += gaps.var(axis=1, ddof=1) / count / len(scores) ** 2
    return float((np.abs(mean) > special.ndtri(1 - ALPHA / 2) * np.sqrt(variance)).mean())


def least_difference(found_by: Callable[[float], float]) -> float | None:
    """By halving steps of 0.1 points; the chance grows with the difference."""
    low, high = 0, 500
    if found_by(high * STEP) < POWER:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if found_by(middle * STEP) >= POWER:
            high = middle
        else:
            low = middle
    return high * STEP


def label(comparison: PaperComparison) -> str:
    """`GMPO-7B - GRPO-7B`."""
    return f"{comparison.b.numbers[0].model} minus {comparison.a.numbers[0].model}"


def averages() -> list[tuple[str, ...]]:
    """A row for each average over five benchmarks that the paper compares."""
    rows = []
    for found in paper_comparisons():
        if found.a.average is None or found.b.average is None:
            continue
        problems = [paper_problems(number.benchmark) for number in found.a.numbers]
        middles = [(a.value + b.value) / 200 for a, b in zip(found.a.numbers, found.b.numbers, strict=True)]
        least = [_least_average(tuple(middles), tuple(problems), shared) for shared in SHARED]
        rows.append(
            (f"{found.table}", label(found), f"{found.b.average - found.a.average:+.1f}", *map(points, least))
        )
    return rows


@cache
def _least_average(middles: tuple[float, ...], problems: tuple[int, ...], shared: float) -> float | None:
    return least_difference(lambda size: average_power(middles, size, problems, shared))


def cells() -> list[tuple[str, ...]]:
    """A row for each benchmark of each comparison."""
    rows = []
    for found in paper_comparisons():
        for a, b in zip(found.a.numbers, found.b.numbers, strict=True):
            count, samples = paper_problems(a.benchmark), a.protocol.n
            middle, gap = (a.value + b.value) / 200, (b.value - a.value) / 100
            least = [_least(middle, count, samples, shared) for shared in SHARED]
            chance = power(middle, abs(round(gap, 6)), count, samples, SHARED[0])
            answers = f"{count} x {samples}"
            shown = "below 5 %" if chance < ALPHA else f"{100 * chance:.0f} %"
            rows.append((
                f"{found.table}", label(found), a.benchmark, answers, f"{100 * gap:+.1f}", *map(points, least), shown,
            ))  # fmt: skip
    return rows


def _least(middle: float, problems: int, samples: int, shared: float) -> float | None:
    return least_difference(lambda size: power(middle, size, problems, samples, shared))


def points(share: float | None) -> str:
    """In percentage points."""
    return "above 50" if share is None else f"{100 * share:.1f}"


LEAST = ("smallest shown, half shared", "smallest shown, nothing shared")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """As Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


PARTS: dict[str, Callable[[], str]] = {
    "averages": lambda: table(("table", "difference", "published", *LEAST), averages()),
    "benchmarks": lambda: table(
        (
            "table",
            "difference",
            "benchmark",
            "problems x samples",
            "published",
            *LEAST,
            "chance to show the published one",
        ),
        cells(),
    ),
}
_PART = re.compile(r"(<!-- simulated: (?P<name>\w+) -->\n).*?(<!-- end of simulated -->)", re.DOTALL)


def main(arguments: list[str]) -> int:
    """Rewrite the page, or with `--check` say whether it is as made."""
    text = PAGE.read_text(encoding="utf-8")
    made = _PART.sub(lambda found: f"{found[1]}\n{PARTS[found['name']]()}\n\n{found[3]}", text)
    if "--check" not in arguments:
        PAGE.write_text(made, encoding="utf-8")
    elif made != text:
        print(f"{PAGE.name} is not as the code makes it; run python environments/docs/paper_power.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
