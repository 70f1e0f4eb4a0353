"""The tables of `docs/results/paper_tables_power.md`: the simulation is right, and the page is what it makes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import stats

from gmpo_mm.evaluation.paper import paper_comparisons, paper_problems

SCRIPT = Path(__file__).parents[2] / "environments/docs/paper_power.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("paper_power", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def exact_power(a: float, b: float, problems: int) -> float:
    """Of McNemar's exact test, summed over all (better, worse): independent answers, all problems equally hard."""
    better, worse = b * (1 - a), a * (1 - b)
    total = 0.0
    for discordant in range(problems + 1):
        weight = stats.binom.pmf(discordant, problems, better + worse)
        for more in range(discordant + 1):
            if more != discordant - more and stats.binomtest(more, discordant, 0.5).pvalue < 0.05:
                total += weight * stats.binom.pmf(more, discordant, better / (better + worse))
    return total


def test_simulated_power_is_the_exact_sum(script: ModuleType) -> None:
    for difference in (0.2, 0.36):
        exact = exact_power(0.4 - difference / 2, 0.4 + difference / 2, 30)
        error = (exact * (1 - exact) / script.SIMULATIONS) ** 0.5
        assert script.power(0.4, difference, 30, 1, 0.0) == pytest.approx(exact, abs=4 * error)


def test_problems_share_what_the_page_says_and_keep_the_mean(script: ModuleType) -> None:
    chances = script.chances(0.4, 2000, 0.5)
    assert chances.mean() == pytest.approx(0.4, abs=0.001)
    assert chances.var() == pytest.approx(0.5 * 0.4 * 0.6, rel=0.01)  # half of the variance of one answer
    assert np.ptp(script.chances(0.4, 50, 0.0)) == 0


def test_the_smallest_difference_is_the_first_that_is_found(script: ModuleType) -> None:
    assert script.least_difference(lambda size: 0.9 if size >= 0.1234 else 0.1) == pytest.approx(0.124)
    assert script.least_difference(lambda size: 0.5) is None


def test_the_page_has_a_row_for_each_difference_that_the_paper_speaks_of() -> None:
    page = (SCRIPT.parents[2] / "docs/results/paper_tables_power.md").read_text(encoding="utf-8")
    rows = [
        line.strip("| ").split(" | ")
        for line in page.splitlines()
        if line.startswith(("| 1", "| 2", "| 4", "| 5"))
    ]
    cells = [row for row in rows if len(row) == 8]
    wanted = [
        (
            str(found.table),
            a.benchmark,
            f"{paper_problems(a.benchmark)} x {a.protocol.n}",
            f"{b.value - a.value:+.1f}",
        )
        for found in paper_comparisons()
        for a, b in zip(found.a.numbers, found.b.numbers, strict=True)
    ]
    assert [(row[0], *row[2:5]) for row in cells] == wanted and len(wanted) == 52
    averages = {row[1]: float(row[2]) for row in rows if len(row) == 5}
    assert len(averages) == 10 and averages["GMPO-7B (R1-Distill) minus GRPO-7B (R1-Distill)"] == 4.1


@pytest.mark.slow
def test_the_page_is_what_the_script_makes(script: ModuleType) -> None:
    assert script.main(["--check"]) == 0
