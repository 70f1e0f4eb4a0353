"""The numbers of a result, against brute force, exact sums and scipy."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from gmpo_mm.errors import DataError
from gmpo_mm.evaluation.resampling import mean_interval, standard_error
from gmpo_mm.evaluation.results import Problem
from gmpo_mm.evaluation.statistics import answer_form, majority_score, pass_at_k, summarise
from tests.evaluation.made_results import make_result, make_sample

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


# Pass@1 and its interval


def test_thirty_problems_at_four_tenths_have_a_standard_error_of_about_nine_hundredths() -> None:
    """AIME24 at one sample a problem: 0.400 +- 0.091."""
    summary = summarise(make_result([[i < 12] for i in range(30)]))["pass_at_1"]
    assert summary["value"] == pytest.approx(0.4, abs=1e-15)
    assert summary["standard_error"] == pytest.approx(math.sqrt(0.4 * 0.6 / 29), rel=1e-12)
    assert summary["standard_error"] == pytest.approx(0.091, abs=5e-4)
    assert 0.2 <= summary["low"] <= 0.25
    assert 0.56 <= summary["high"] <= 0.62


def test_pass_at_1_is_the_mean_over_problems_of_the_mean_over_samples() -> None:
    grades = [[True, False, False, True], [False] * 4, [True] * 4, [True, True, True, False]]
    assert summarise(make_result(grades))["pass_at_1"]["value"] == pytest.approx((0.5 + 0 + 1 + 0.75) / 4, abs=1e-15)


@pytest.mark.parametrize("right", range(31))
def test_every_interval_of_thirty_holds_its_value_and_stays_between_0_and_1(right: int) -> None:
    interval = mean_interval([1.0] * right + [0.0] * (30 - right))
    assert 0 <= interval.low <= right / 30 <= interval.high <= 1
    assert interval.low < interval.high


@pytest.mark.parametrize("problems", [30, 83])
def test_intervals_cover_the_truth_as_often_as_they_say(problems: int) -> None:
    """Exact: every count of right answers weighted by its chance, for accuracies from 1 to 99 in 100."""
    intervals = [mean_interval([1.0] * k + [0.0] * (problems - k)) for k in range(problems + 1)]
    counts = np.arange(problems + 1)
    for accuracy in np.arange(0.01, 1.0, 0.01):
        inside = [interval.low <= accuracy <= interval.high for interval in intervals]
        assert stats.binom.pmf(counts[inside], problems, accuracy).sum() >= 0.92, accuracy
    middle = [
        stats.binom.pmf(counts[[x.low <= p <= x.high for x in intervals]], problems, p).sum()
        for p in np.arange(0.2, 0.801, 0.01)
    ]
    assert 0.935 <= np.mean(middle) <= 0.975


def test_intervals_over_problems_of_unlike_difficulty_cover_the_truth() -> None:
    """Four samples each of 60 problems whose difficulty follows a beta distribution with mean 0.3."""
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(400):
        chances = generator.beta(0.6, 1.4, size=60)
        interval = mean_interval(generator.binomial(4, chances) / 4, resamples=1000, seed=seed)
        covered += interval.low <= 0.3 <= interval.high
    assert 0.91 <= covered / 400 <= 0.98


@pytest.mark.parametrize(
    "scores",
    [[0.0] * 190 + [1.0] * 10, [0.25] * 90 + [1.0] * 200 + [0.0] * 10, [0.0, 0.5, 1.0, 0.75, 0.5] * 30, [1 / 3, 2 / 3] * 50],
)
def test_the_bootstrap_is_scipys(scores: list[float]) -> None:
    theirs = stats.bootstrap((scores,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(1))
    ours = mean_interval(scores, resamples=20_000)
    assert ours.method.startswith("BCa")
    # Means of resamples lie on a grid, and a bound may fall one step aside: 1 / 200 at most here, of widths above 0.05.
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.0051)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.0051)


def test_skewed_scores_are_corrected_as_scipy_corrects_them() -> None:
    """Few problems, most near 0, on a fine grid: without bias or acceleration a bound is off by more than the tolerance."""
    scores = [k / 16 for k in [0] * 24 + [1] * 6 + [2, 2, 3, 4, 9, 12, 14, 15, 16, 16]]
    theirs = stats.bootstrap((scores,), np.mean, n_resamples=100_000, method="BCa", rng=np.random.default_rng(1))
    ours = mean_interval(scores, resamples=100_000)
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.0017)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.0017)


@pytest.mark.parametrize(("right", "of"), [(30, 30), (0, 30), (1, 1), (0, 1), (500, 500)])
def test_where_all_problems_agree_the_interval_is_exact_and_says_so(right: int, of: int) -> None:
    interval = mean_interval([right / of] * of)
    exact = stats.binomtest(right, of).proportion_ci(method="exact")
    assert (interval.low, interval.high) == pytest.approx((exact.low, exact.high), abs=1e-12)
    assert interval.low < interval.high
    assert "Clopper-Pearson" in interval.method


def test_half_right_everywhere_is_not_certain_to_be_a_half() -> None:
    interval = mean_interval([0.5] * 20)
    exact = stats.binomtest(10, 20).proportion_ci(method="exact")
    assert (interval.low, interval.high) == pytest.approx((exact.low, exact.high), abs=1e-12)


def test_a_wider_level_is_a_wider_interval_and_a_seed_gives_the_same_one() -> None:
    scores = [0.0] * 40 + [1.0] * 20
    narrow, wide = mean_interval(scores, level=0.8), mean_interval(scores, level=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high
    assert mean_interval(scores, seed=3) == mean_interval(scores, seed=3)
    spread = [mean_interval(scores, seed=seed).low for seed in range(8)]
    assert max(spread) - min(spread) <= 2 / 60


@pytest.mark.parametrize("scores", [[], [0.5, 1.5], [0.5, -0.1], [float("nan"), 0.5]])
def test_what_is_no_score_is_refused(scores: list[float]) -> None:
    with pytest.raises(ValueError, match="must lie in|at least one"):
        mean_interval(scores)


def test_one_problem_has_no_standard_error() -> None:
    assert standard_error([1.0]) is None
    assert summarise(make_result([[True]]))["pass_at_1"]["standard_error"] is None


# Pass@k


@pytest.mark.parametrize("n", range(1, 8))
def test_pass_at_k_is_the_share_of_all_choices_of_k_samples_that_hold_a_right_one(n: int) -> None:
    for right, k in itertools.product(range(n + 1), range(1, n + 1)):
        samples = [True] * right + [False] * (n - right)
        choices = list(itertools.combinations(samples, k))
        assert Fraction(pass_at_k(n, right, k)).limit_denominator(10**6) == Fraction(sum(map(any, choices)), len(choices))


def test_pass_at_k_is_unbiased_where_a_bootstrap_with_replacement_is_low() -> None:
    """Over all outcomes of 8 samples with chance 0.2, the mean of the estimate of Pass@4 is 1 - 0.8^4."""
    chances = stats.binom.pmf(np.arange(9), 8, 0.2)
    estimates = [pass_at_k(8, right, 4) for right in range(9)]
    with_replacement = [1 - (1 - right / 8) ** 4 for right in range(9)]
    assert chances @ estimates == pytest.approx(1 - 0.8**4, abs=1e-12)
    assert chances @ with_replacement < 1 - 0.8**4 - 0.02


def test_pass_at_k_of_many_samples_stays_a_number() -> None:
    values = [pass_at_k(5000, 3, k) for k in (1, 10, 2500, 4998, 5000)]
    assert values == sorted(values)
    assert values[0] == pytest.approx(3 / 5000, rel=1e-12)
    assert values[-1] == 1.0


@pytest.mark.parametrize(("n", "right", "k"), [(4, 5, 1), (4, 2, 5), (4, 2, 0), (4, -1, 1)])
def test_pass_at_k_refuses_what_has_no_meaning(n: int, right: int, k: int) -> None:
    with pytest.raises(ValueError, match=f"n={n}"):
        pass_at_k(n, right, k)


@pytest.mark.parametrize(
    ("n", "keys"), [(1, ["1"]), (2, ["1", "2"]), (5, ["1", "2", "4", "5"]), (16, ["1", "2", "4", "8", "16"])]
)
def test_pass_at_k_is_given_for_powers_of_two_up_to_n(n: int, keys: list[str]) -> None:
    summary = summarise(make_result([[True] * n, [False] * n]))
    assert list(summary["pass_at_k"]) == keys
    assert summary["pass_at_k"]["1"] == summary["pass_at_1"]["value"] == 0.5


# majority@n


def _votes(*answers: tuple[str | None, bool]) -> float:
    return majority_score([make_sample(correct, text, sample=i) for i, (text, correct) in enumerate(answers)])


def test_right_answers_are_one_class_however_they_are_spelled() -> None:
    assert _votes((r"\frac{1}{2}", True), ("0.5", True), ("3", False), ("4", False)) == 1.0


def test_wrong_answers_are_one_class_where_they_are_the_same_number_or_text() -> None:
    assert _votes(("1/2", False), (r"\frac{1}{2}", False), ("0.5", False), ("7", True), ("7.0", True)) == 0.0
    assert _votes(("1,000", False), ("1000", False), (r"1000^\circ", False), ("7", True), ("7", True)) == 0.0
    assert _votes((r"2\sqrt{2}", False), (r"\sqrt{8}", False), ("7", True)) == 0.0
    assert _votes((r"\text{Monday}", False), ("monday", False), ("Tuesday", True)) == 0.0


def test_different_wrong_answers_are_not_added_up() -> None:
    assert _votes(("1", False), ("2", False), ("3", False), ("7", True), ("7", True)) == 1.0
    assert _votes(("4 1/2", False), ("41/2", False), ("7", True), ("7", True)) == 1.0


@pytest.mark.parametrize(("wrong", "expected"), [(["1"], 1 / 2), (["1", "2"], 1 / 3), (["1", "1"], 0.0), ([], 1.0)])
def test_a_tie_counts_the_share_of_its_classes_that_is_right(wrong: list[str], expected: float) -> None:
    assert _votes(("7", True), *((text, False) for text in wrong)) == expected


def test_samples_without_an_answer_do_not_vote() -> None:
    assert _votes((None, False), (None, False), (None, False), ("7", True)) == 1.0
    assert _votes((None, False), (None, False)) == 0.0


def test_a_hostile_answer_is_a_vote_like_any_other() -> None:
    hostile = ["9**9**9**9", "1000000000!", "{" * 100_000, "\\frac" * 400, "__import__('os')", "\u200b" * 600]
    assert _votes(*((text, False) for text in hostile), ("7", True), ("7", True)) == 1.0
    assert _votes(*((hostile[2], False) for _ in range(3)), ("7", True), ("7", True)) == 0.0


def test_majority_is_what_drawing_a_tied_class_at_random_gives_on_average() -> None:
    """All 3^4 answers of four samples, of which `a` is right, against the plain definition."""
    for answers in itertools.product("abc", repeat=4):
        tallies = {text: answers.count(text) for text in set(answers)}
        tied = [text for text, count in tallies.items() if count == max(tallies.values())]
        assert _votes(*((text, text == "a") for text in answers)) == tied.count("a") / len(tied)


# The summary


def test_the_summary_is_json_and_the_same_each_time() -> None:
    generator = np.random.default_rng(0)
    result = make_result((generator.random((50, 4)) < 0.4).tolist())
    summary = summarise(result)
    assert json.loads(json.dumps(summary)) == summary
    assert summarise(result) == summary == summarise(result, seed=result.spec.seed)
    assert (summary["problems"], summary["samples"], summary["n"], summary["missing"]) == (50, 200, 4, 0)


def test_shares_and_lengths_count_samples() -> None:
    result = make_result([[True, False], [False, False]])
    samples = (
        replace(result.samples[0], status="not_evaluated", tokens=4),
        replace(result.samples[1], status="timeout", tokens=7),
        replace(result.samples[2], status="no_answer", extracted=None, stop_reason="length", tokens=100),
        replace(result.samples[3], status="error", stop_reason="length", tokens=1),
    )
    summary = summarise(replace(result, samples=samples))
    assert [summary[key] for key in ("truncated", "no_answer", "timeout", "error")] == [0.5, 0.25, 0.25, 0.25]
    assert summary["not_evaluated"] == 0.25
    assert summary["tokens"] == {"mean": 28.0, "median": 5.5, "max": 100, "total": 112}


def test_breakdowns_add_up_to_the_whole() -> None:
    golds = ["7", "7.5", r"\frac{1}{2}", "8", "9", r"2\sqrt{3}"]
    problems = tuple(Problem(i, f"p{i}", "q", (gold,), type="Angle" if i < 4 else None) for i, gold in enumerate(golds))
    summary = summarise(make_result([[True], [False], [True], [False], [True], [True]], problems_are=problems))
    assert {name: (row["problems"], row["value"]) for name, row in summary["by_type"].items()} == {"Angle": (4, 0.5)}
    forms = summary["by_form"]
    assert list(forms) == ["integer", "decimal", "fraction", "surd"]
    assert sum(row["problems"] * row["value"] for row in forms.values()) == pytest.approx(4)
    assert "Clopper-Pearson" in forms["surd"]["method"]


def test_missing_samples_are_counted_and_refused() -> None:
    result = make_result([[True, False], [False, True], [True, True]])
    killed = replace(result, samples=result.samples[:3])
    with pytest.raises(DataError, match="3 of 6 samples are missing"):
        summarise(killed)
    partial = summarise(killed, partial=True)
    assert (partial["problems"], partial["missing"], partial["pass_at_1"]["value"]) == (1, 3, 0.5)
    with pytest.raises(DataError, match="nothing to sum up"):
        summarise(replace(result, samples=()), partial=True)


def test_files_that_do_not_belong_together_are_refused() -> None:
    result = make_result([[True], [False]])
    with pytest.raises(DataError, match="1 samples more than once"):
        summarise(replace(result, samples=(*result.samples, result.samples[0])))
    with pytest.raises(DataError, match="1 samples of no problem"):
        summarise(replace(result, samples=(*result.samples, make_sample(True, index=2))))
    with pytest.raises(DataError, match=r"2 problems and evaluation\.json says 3"):
        summarise(replace(result, spec=replace(result.spec, problems=3)))


# Answer forms

FORMS = {
    "integer": ["7", "-12", "025", r"76^\circ", "120°", "1,234", r"\$32,\!348", r"5 \text{ cm}", "18 square units"],
    "decimal": ["0.5", ".0000672", r"\$18.90", "7.5 feet", "18.8^{\\circ}"],
    "scientific": ["3.3e12", r"2.26 \times 10^{-10}", "10^{5}"],
    "fraction": [r"\frac{11}{2}", r"-\frac { 4 } { 5 }", "3/4", r"1\frac12", r"\dfrac{3}{4}"],
    "percent": [r"8 \%", "62.5%"],
    "surd": [r"6 \sqrt { 2 }", r"\frac { 28 \sqrt 3 } { 3 }", r"10+2\sqrt{2}"],
    "with pi": [r"\frac{3 \pi}{4}", "12π"],
    "power": ["2^{1009}", r"\frac{100!}{2^{50}}"],
    "ratio": ["3:4", "1:2:3"],
    "complex number": ["6+9i", r"1 + i\sqrt{3}", "-i"],
    "expression": ["p - q", "$2 n^{2}-2 n+1$", r"\frac{1}{LCs^2 + RCs + 1}", "2k"],
    "equation": ["y = 2x + 3", "x=5"],
    "inequality": [r"k \geqslant 2", "1 < x < 60"],
    "interval": ["(3,4]", r"(-\infty, 2) \cup (3, \infty)", "[2,3]", r"\left(\frac{3}{5},\frac{8}{3}\right]"],
    "tuple": ["(15,-29)", r"\left( 3, \frac{\pi}{2} \right)", "(6,31,-1)"],
    "set": [r"x \in [-2,7]", r"\{1\pm\sqrt{5},-2\}"],
    "list": ["1,-2", "3, 5, 7", r"1 \pm \sqrt{19}", "$(6,3),(9,3)$", "$6764$,$10945$", "2 or 3"],
    "matrix": [r"\begin{pmatrix} -1 & 0 \\ 0 & -1 \end{pmatrix}"],
    "letter": [r"\text{(C)}", "B"],
    "text": [r"\text{ellipse}", "Evelyn", "A D and B E", r"\angle 3 \cong \angle Z", "z" * 5000],
    "puzzle": ['{"numbers": [3, 5, 7], "target": 22}'],
}


@pytest.mark.parametrize(("form", "gold"), [(form, gold) for form, golds in FORMS.items() for gold in golds])
def test_a_gold_has_the_form_it_is_written_in(form: str, gold: str) -> None:
    assert answer_form(gold) == form


@pytest.mark.parametrize(
    ("file", "counts"),
    [
        ("geometry3k_test", {"integer": 417, "decimal": 124, "surd": 41, "fraction": 12, "with pi": 4}),
        ("eval_aime24", {"integer": 30}),
        ("eval_amc", {"integer": 83}),
    ],
)
def test_real_golds_have_known_forms(file: str, counts: dict[str, int]) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    if not (DATA / f"{file}.parquet").is_file():
        pytest.skip(f"{file}.parquet is not beside this repository (../shared/data)")
    forms = [answer_form(gold) for gold in parquet.read_table(DATA / f"{file}.parquet")["answer"].to_pylist()]
    assert {form: forms.count(form) for form in counts} == counts
