"""The summary's words: a claim where interval and test allow one, and nothing more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from gmpo_mm.evaluation.resampling import Interval
from gmpo_mm.reports.scores import ProblemDifference, ScoreRow, ScoreTable, compare_rows
from gmpo_mm.reports.seed_statistics import seed_mean
from gmpo_mm.reports.study import Run, Study, Variant
from gmpo_mm.reports.words import headline, summary_lines


def table(*scores: Sequence[float], percent: bool = True, problems: ProblemDifference | None = None) -> ScoreTable:
    """GRPO, GMPO, C, ... with a score for each seed."""
    rows = []
    for label, values in zip(("GRPO", "GMPO", "C", "D", "E"), scores):
        by_seed = {str(i): value for i, value in enumerate(values, start=1)}
        rows.append(ScoreRow(Variant(label, label, ()), seed_mean(values) if values else None, by_seed, problems=problems))
    return ScoreTable("final", "Final Pass@1", "", percent, tuple(compare_rows(rows, percent)))


def test_a_clear_difference_is_claimed_with_its_size_and_interval() -> None:
    (line,) = summary_lines(table([0.50, 0.52, 0.51], [0.60, 0.63, 0.61]))
    assert line == ("GMPO is better than GRPO by 10.3 points (95 % interval over 3 seeds: +8.9 to +11.8; p = 0.001).")
    (line,) = summary_lines(table([0.60, 0.63, 0.61], [0.50, 0.52, 0.51]))
    assert line.startswith("GMPO is worse than GRPO by 10.3 points (95 % interval over 3 seeds: −11.8 to −8.9")


def test_an_unclear_one_is_not_and_the_seeds_reach_is_told() -> None:
    (line,) = summary_lines(table([0.50, 0.56, 0.53], [0.56, 0.53, 0.52]))
    assert line == (
        "No difference between GMPO and GRPO is shown: +0.7 points (95 % interval over 3 seeds: −11.1 to +12.4; p = 0.83). "
        "The minimum detectable difference with 3 seeds and this spread is 15.4 points (80 % power)."
    )
    for word in ("better", "worse"):
        assert word not in line


def test_one_seed_claims_nothing() -> None:
    lines = summary_lines(table([0.50], [0.90]))
    assert lines[0] == "GMPO ended 40.0 points above GRPO."
    assert "can't tell a difference between methods from chance: nothing more is claimed" in lines[1]
    assert "better" not in " ".join(lines)


def test_equal_differences_are_no_proof() -> None:
    (line,) = summary_lines(table([1.0, 1.0, 1.0], [1.0, 1.0, 1.0]))
    assert "No difference between GMPO and GRPO can be tested: GMPO ended exactly as high with each of 3 seeds" in line
    (line,) = summary_lines(table([0.25, 0.5], [0.5, 0.75]))
    assert "can be tested: GMPO ended 25.0 points higher with each of 2 seeds" in line


def test_seeds_too_scattered_for_any_difference_say_so() -> None:
    (line,) = summary_lines(table([0.1, 0.9], [0.9, 0.2]))
    assert line.endswith("With this spread 2 seeds can detect no difference at all (80 % power).")


def test_among_many_comparisons_a_chance_find_is_undecided() -> None:
    """Alone p is 0.020; corrected for four comparisons it is 0.082."""
    base, near = [0.50, 0.52, 0.51], [0.525, 0.535, 0.53]
    alone = summary_lines(table(base, near))
    assert alone[0].startswith("GMPO is better than GRPO")
    among = summary_lines(table(base, near, [0.50, 0.53, 0.50], [0.51, 0.50, 0.52], [0.52, 0.50, 0.52]))
    assert among[0].startswith("Undecided: GMPO ended 2.0 points above GRPO")


def test_a_variant_without_a_finished_run_is_said_to_have_none() -> None:
    (line,) = summary_lines(table([0.5, 0.6], []))
    assert line == "GMPO can't be compared with GRPO: no finished run of GMPO has this score."


def test_a_reward_is_no_percentage() -> None:
    (line,) = summary_lines(table([10.0, 12.0, 11.0], [30.0, 33.0, 31.0], percent=False))
    assert "better than GRPO by 20.3 (95" in line and "point" not in line


@pytest.mark.parametrize(
    ("low", "high", "p", "said"),
    [
        (0.01, 0.05, 0.01, "a difference between these models, which other seeds need not repeat"),
        (-0.01, 0.05, 0.20, "no difference between these models is shown"),
        (0.01, 0.05, 0.20, "undecided, as the interval shows a difference and the test does not"),
        (-0.01, 0.05, 0.03, "undecided, as the test shows a difference and the interval does not"),
    ],
)
def test_problems_speak_of_these_models_only(low: float, high: float, p: float, said: str) -> None:
    found = ProblemDifference(64, 3, 0.02, Interval(low, high, "bootstrap"), p, "exact", p)
    lines = summary_lines(table([0.50, 0.56, 0.53], [0.56, 0.53, 0.52], problems=found))
    assert lines[1].endswith(f"{said}.")
    assert "over the choice of 64 problems" in lines[1]


def said(*tables: ScoreTable, variants: Sequence[Variant] = ()) -> str:
    return headline(Study("t", tuple(variants), ("x",)), tables)


def test_the_headline_is_one_score_and_what_it_shows() -> None:
    assert said(table([0.50, 0.52, 0.51], [0.60, 0.63, 0.61])) == (
        "Final Pass@1: GRPO 51.0 %, GMPO 61.3 %. GMPO is better than GRPO by 10.3 points (95 % interval over 3 seeds: +8.9 to "
        "+11.8; p = 0.001)."
    )
    unclear = said(table([0.50, 0.56, 0.53], [0.56, 0.53, 0.52]))
    assert unclear.endswith("p = 0.83).") and "No difference between GMPO and GRPO is shown" in unclear
    assert said(table([0.5, 0.6])) == "Final Pass@1: GRPO 55.0 % (2 seeds)."


def test_a_headline_of_many_variants_sorts_them_by_what_is_shown() -> None:
    low, near, high = [0.300, 0.306, 0.303], [0.50, 0.56, 0.53], [0.600, 0.601, 0.602]
    assert said(table([0.50, 0.52, 0.51], high, low, near, [])) == (
        "Final Pass@1: GRPO 51.0 %, GMPO 60.1 %, C 30.3 %, D 53.0 %. Beside GRPO, better: GMPO; worse: C; no difference "
        "shown: D; no score to compare: E."
    )
    assert "one seed, which shows nothing: GMPO, C" in said(table([0.5], [0.9], [0.1]))
    assert "undecided: GMPO" in said(
        table([0.50, 0.52, 0.51], [0.525, 0.535, 0.53], [0.50, 0.53, 0.50], [0.51, 0.50, 0.52], [0.52, 0.50, 0.52])
    )


def test_the_headline_takes_the_score_that_most_variants_have_and_never_the_best_validation() -> None:
    one = table([0.5, 0.6], [])
    all_of_them, best = table([0.1, 0.2], [0.3, 0.4]), table([0.9, 0.9], [0.9, 0.9])
    best = replace(best, key="best")
    assert said(one, replace(all_of_them, title="Final"), best).startswith("Final: GRPO 15.0 %, GMPO 35.0 %")
    assert said(one, best).startswith("Final Pass@1: GRPO 55.0 %. GMPO can't be compared")


def test_without_a_score_the_headline_says_how_the_runs_stand() -> None:
    runs = tuple(Run(Path(str(i)), None, {}, "gmpo-mm", state) for i, state in enumerate(("failed", "out_of_budget", "failed")))
    assert said(variants=[Variant("a", "A", runs)]) == "No score yet: 2 failed, 1 out of budget."
