"""The report's section Why: its numbers by plain loops, its words, damaged lines, names that mean harm."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure as Canvas
from scipy import stats

from gmpo_mm.errors import DataError
from gmpo_mm.reports.figure_style import LIGHT_THEME
from gmpo_mm.reports.print_report import print_report
from gmpo_mm.reports.ratio_axis import SymmetricAxis
from gmpo_mm.reports.report import Report, write_report
from gmpo_mm.reports.sources import read_study
from gmpo_mm.reports.study import Study
from gmpo_mm.reports.why import Why, why_section
from gmpo_mm.reports.why_numbers import study_why
from gmpo_mm.runs.metrics_file import read_metrics
from tests.evaluation.pages import HOSTILE
from tests.reports.compared import line, write_compared_run
from tests.reports.made import change_sweep, write_run, write_sweep_file

STEPS, SEEDS = range(1, 6), (1, 2)
FIGURES = ("why_weight", "why_ess", "why_cosine", "why_clipped")


def with_gradients(metrics: dict[str, Any], cosine: float, norm: float) -> dict[str, Any]:
    gradients = {"gmpo/gradient_cosine": 1.0, "gmpo/gradient_norm": 2.0, "default/gradient_cosine": cosine,
                 "default/gradient_norm": 2.0 * norm}  # fmt: skip
    return metrics | {f"compare/{key}": value for key, value in gradients.items()}


@pytest.fixture(scope="module")
def lines() -> dict[int, list[dict[str, Any]]]:
    """Seed -> a line for each step; the last two steps have gradients."""
    found = {seed: [line(step, seed, 0.1 * step) for step in STEPS] for seed in SEEDS}
    for seed in SEEDS:
        for step in (3, 4):
            found[seed][step] = with_gradients(found[seed][step], 0.9 - 0.1 * seed, 1.5)
    return found


@pytest.fixture(scope="module")
def study(lines: dict[int, list[dict[str, Any]]], tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("compared")
    return read_study([write_compared_run(folder / f"gmpo_{seed}", lines[seed], seed=seed) for seed in SEEDS])


def found_in(study: Study) -> Why:
    why = why_section(study)
    assert why is not None
    return why


def words_of(why: Why) -> str:
    return "\n".join(text for part in why.section.parts for text in part.lines)


def values(lines: Sequence[dict[str, Any]], key: str) -> list[float]:
    return [metrics[f"compare/{key}"] for metrics in lines if f"compare/{key}" in metrics]


def mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)


def test_numbers_are_means_over_steps_then_over_runs(
    study: Study, lines: dict[int, list[dict[str, Any]]]
) -> None:
    (one,) = study_why(study)
    assert (one.trained, [facts.loss for facts in one.losses], one.steps) == (
        "gmpo",
        ["gmpo", "default"],
        (1, 5),
    )
    for loss in ("gmpo", "default"):
        facts = one.of(loss)
        for name, key in (("ess", "ess_frac"), ("clipped", "clipped_frac"), ("cosine", "cosine")):
            by_seed = [mean(values(lines[seed], f"{loss}/{key}")) for seed in SEEDS]
            assert getattr(facts, name).values == pytest.approx(by_seed, rel=1e-12)
        positive = [
            mean(
                [
                    m[f"compare/{loss}/clipped_frac"] * m.get(f"compare/{loss}/clipped_positive_frac", 0)
                    for m in lines[seed]
                ]
            )
            for seed in SEEDS
        ]
        assert (
            facts.clipped_positive is not None
            and facts.clipped is not None
            and facts.clipped_negative is not None
        )
        assert facts.clipped_positive.values == pytest.approx(positive, rel=1e-12)
        total = facts.clipped_positive.mean + facts.clipped_negative.mean
        assert total == pytest.approx(facts.clipped.mean, rel=1e-12)
    default = one.of("default")
    assert default.gradient_cosine is not None and default.gradient_cosine.values == pytest.approx((0.8, 0.7))
    assert default.relative_norm is not None and default.relative_norm.values == pytest.approx((1.5, 1.5))
    assert default.gradient_steps == 4
    lowest = min((m["compare/default/cosine"], step) for seed in SEEDS for step, m in zip(STEPS, lines[seed]))
    assert default.lowest_cosine == lowest
    assert default.lowest_ess == min(
        (m["compare/default/ess_frac"], step) for seed in SEEDS for step, m in zip(STEPS, lines[seed])
    )


def test_weights_by_ratio_are_means_and_deviations_over_all_steps(
    study: Study, lines: dict[int, list[dict[str, Any]]]
) -> None:
    (one,) = study_why(study)
    every = [metrics for seed in SEEDS for metrics in lines[seed]]
    for loss in ("gmpo", "default"):
        for part in range(10):
            means = [metrics[f"compare/{loss}/weight_by_ratio"][part] for metrics in every]
            inside = [metrics[f"compare/{loss}/spread_by_ratio"][part] ** 2 for metrics in every]
            between = [(value - mean(means)) ** 2 for value in means]
            assert one.of(loss).weight[part] == pytest.approx(mean(means), rel=1e-12)
            assert one.of(loss).spread[part] == pytest.approx(
                math.sqrt(mean(inside) + mean(between)), rel=1e-9
            )
    first = []
    for metrics in every:
        ratios = metrics["compare/points"]["ratio"]
        first += ratios[: round(len(ratios) / 10)]
        assert ratios[0] == metrics["compare/ratio_edges"][0]
    assert one.ratio[0] == pytest.approx(float(np.median(first)), rel=0.01)
    assert list(one.ratio) == sorted(one.ratio)


def test_points_are_tokens_of_the_lines(study: Study, lines: dict[int, list[dict[str, Any]]]) -> None:
    (one,) = study_why(study)
    known = {
        (ratio, metrics["compare/points"]["gmpo"][i], metrics["compare/points"]["default"][i])
        for seed in SEEDS for metrics in lines[seed]
        for i, ratio in enumerate(metrics["compare/points"]["ratio"])
    }  # fmt: skip
    drawn = set(
        zip(one.point_ratios.tolist(), one.of("gmpo").points.tolist(), one.of("default").points.tolist())
    )
    assert drawn <= known and len(drawn) > 250
    # the real thing: GRPO's weight is the ratio or 0 (equation 5)
    assert all(weight in (0, pytest.approx(ratio, rel=1e-6)) for ratio, _, weight in drawn)


def test_shares_by_position_and_entropy_are_the_lines_own(
    study: Study, lines: dict[int, list[dict[str, Any]]]
) -> None:
    (one,) = study_why(study)
    for key, tenths in (
        ("position", one.of("default").by_position),
        ("entropy", one.of("default").by_entropy),
    ):
        assert tenths is not None
        for part in range(10):
            by_run = [
                mean([m[f"compare/default/clipped_by_{key}"][part] for m in lines[seed]]) for seed in SEEDS
            ]
            shown = (tenths.mean[part], tenths.low[part], tenths.high[part])
            assert shown == pytest.approx((mean(by_run), min(by_run), max(by_run)), rel=1e-12)


def test_figures_draw_these_numbers(study: Study) -> None:
    (one,) = study_why(study)
    drawn: dict[str, list[np.ndarray]] = {}
    for figure in found_in(study).section.figures:
        assert figure.draw is not None
        canvas = Canvas(figsize=figure.size)
        figure.draw(canvas, LIGHT_THEME)
        drawn[figure.name] = [
            np.asarray(ax_line.get_ydata(), float) for ax in canvas.axes for ax_line in ax.lines
        ]
        canvas.savefig(io.BytesIO(), format="png")
    assert tuple(drawn) == FIGURES

    def is_drawn(name: str, expected: Any) -> bool:
        return any(len(y) == len(expected) and np.allclose(y, expected, equal_nan=True) for y in drawn[name])

    for loss in ("gmpo", "default"):
        assert is_drawn("why_weight", one.of(loss).weight) and is_drawn("why_weight", one.of(loss).points)
        band = np.mean([series.values for series in one.series(loss, lambda found: found.ess)], axis=0)
        assert is_drawn("why_ess", 100 * band)
        assert is_drawn("why_clipped", 100 * one.of(loss).by_position.mean)
        by_entropy = one.of(loss).by_entropy
        assert by_entropy is not None and is_drawn("why_clipped", 100 * by_entropy.mean)
    assert is_drawn(
        "why_cosine", np.mean([s.values for s in one.series("default", lambda found: found.cosine)], axis=0)
    )
    assert is_drawn("why_cosine", [0.75, 0.75])  # the two steps' gradients, mean of both seeds


def test_intervals_and_p_values_are_paired_t_tests_over_runs(
    study: Study, lines: dict[int, list[dict[str, Any]]]
) -> None:
    facts = study_why(study)[0].of("default")
    p_values = []
    for gap, key in ((facts.ess_gap, "ess_frac"), (facts.clipped_gap, "clipped_frac")):
        a, b = (
            [mean(values(lines[seed], f"{loss}/{key}")) for seed in SEEDS] for loss in ("default", "gmpo")
        )
        assert gap is not None and gap.values == pytest.approx([x - y for x, y in zip(a, b)])
        p_values.append(float(stats.ttest_rel(a, b).pvalue))
    smaller, larger = sorted(p_values)
    corrected = sorted(filter(None, (facts.ess_p, facts.clipped_p)))
    assert corrected == pytest.approx([min(2 * smaller, 1), min(max(2 * smaller, larger), 1)])


def shifted(lines: list[dict[str, Any]], key: str, by: float) -> list[dict[str, Any]]:
    """With the other loss's number at that distance from the trained loss's, in each line."""
    return [m | {f"compare/default/{key}": m[f"compare/gmpo/{key}"] + by} for m in lines]


def made_study(folder: Path, by_seed: dict[int, list[dict[str, Any]]]) -> Study:
    return read_study(
        [write_compared_run(folder / f"run_{seed}", by_seed[seed], seed=seed) for seed in by_seed]
    )


def test_words_claim_a_difference_only_where_the_seeds_agree(tmp_path: Path) -> None:
    base = {seed: [line(step, seed) for step in STEPS] for seed in (1, 2, 3)}
    for name, gaps, expected in (
        ("agree", (-0.20, -0.21, -0.19), "GRPO is lower (−20.0 points"),
        ("higher", (0.10, 0.11, 0.09), "GRPO is higher (+10.0 points"),
        ("scatter", (-0.20, 0.15, 0.02), "No difference is shown (−1.0 points"),
        ("too many", (0.10, 0.14, 0.07), "Undecided (+10.3 points"),
    ):
        lines = {seed: shifted(base[seed], "ess_frac", gap) for seed, gap in zip(base, gaps)}
        for seed in base:
            for metrics in lines[seed]:
                metrics |= {"compare/gmpo/ess_frac": 0.7, "compare/default/ess_frac": 0.7 + gaps[seed - 1]}
                metrics |= {
                    "compare/gmpo/clipped_frac": 0.1,
                    "compare/default/clipped_frac": 0.1 + seed % 2 / 50,
                }
        words = words_of(found_in(made_study(tmp_path / name, lines)))
        assert expected in words
        claims = [text for text in words.splitlines() if text.startswith("Shown")]
        side = "lower" if gaps[0] < 0 else "higher"
        assert any(f"a {side} effective sample size" in text for text in claims) == (
            name in ("agree", "higher")
        )


def test_one_run_claims_nothing_of_other_seeds(tmp_path: Path) -> None:
    study = made_study(tmp_path, {1: [line(step) for step in STEPS]})
    words = words_of(found_in(study))
    assert "in one run." in words and "nothing is claimed of other seeds" in words
    assert "interval over" not in words and "is higher" not in words and "Shown" not in words
    assert "gradients were not measured" in words


def test_losses_that_would_have_done_the_same_are_said_to(tmp_path: Path) -> None:
    lines = [line(step, losses=("power_mean",), spread=1e-9) for step in STEPS]
    words = words_of(found_in(made_study(tmp_path, {1: lines})))
    assert "power_mean and GMPO would have made the same update on these tokens" in words
    assert "explain no difference here" in words and "have ratios within 1 % of 1" in words
    lines[-1]["compare/power_mean/cosine"] = 0.9  # one step that differs is enough
    assert "the same update" not in words_of(found_in(made_study(tmp_path / "other", {1: lines})))


def test_a_run_without_such_lines_has_no_section(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = write_report([write_run(tmp_path / "run", [0.2, 0.4])])
    assert report.why is None and "why" not in report.numbers
    print_report(report)
    assert "Why" not in capsys.readouterr().out
    assert 'id="why"' not in (report.folder / "report.html").read_text()
    assert "## Why" not in (report.folder / "report.md").read_text()


@pytest.fixture(scope="module")
def sweep_report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A sweep: GRPO compared with seed 1 only, GMPO with both, at a label that means harm."""
    folder = tmp_path_factory.mktemp("sweep")
    for seed in SEEDS:
        grpo = [line(step, seed, losses=("gmpo",), trained="default") for step in STEPS] if seed == 1 else []
        write_compared_run(folder / f"runs/grpo/seed_{seed}", grpo, trained="default", seed=seed)
        lines = [line(step, seed) for step in STEPS]
        for metrics in lines:  # a loss of a user's file may have any name
            for key in [key for key in metrics if key.startswith("compare/default/")]:
                metrics[key.replace("compare/default/", f"compare/{HOSTILE}/")] = metrics.pop(key)
            metrics["compare/losses"] = ["gmpo", HOSTILE]
            metrics["compare/points"][HOSTILE] = metrics["compare/points"].pop("default")
        write_compared_run(folder / f"runs/gmpo/seed_{seed}", lines, seed=seed)
    write_sweep_file(folder)
    change_sweep(folder, lambda data: data["variants"][1].update(label=HOSTILE))
    return write_report([folder])


def test_a_sweep_says_which_runs_lack_lines_and_shows_the_others(sweep_report: Report) -> None:
    why = sweep_report.why
    assert why is not None
    assert why.notes == (
        "Not in this section: GRPO (seed 2). No losses were compared there (trainer.compare_losses).",
    )
    assert [(entry["variant"], len(entry["runs"])) for entry in sweep_report.numbers["why"]] == [
        ("grpo", 1),
        ("gmpo", 2),
    ]
    assert [row.cells[:3] for row in why.table.rows][:2] == [
        ("GRPO", "GRPO (default)", "1"),
        ("GRPO", "GMPO", "1"),
    ]
    assert "One run each: GRPO." in words_of(Why(why, []))
    assert "That the weights cause a difference of the scores is not shown" in words_of(Why(why, []))


def test_the_section_is_in_all_files_and_on_the_console(
    sweep_report: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in FIGURES:
        for theme in ("", "_dark"):
            assert (sweep_report.folder / "figures" / f"{name}{theme}.png").stat().st_size > 5_000
        assert sweep_report.numbers["figures"][name] == {"drawn": True, "notes": []}
    assert json.loads((sweep_report.folder / "report.json").read_text())["why"] == sweep_report.numbers["why"]
    page, markdown = ((sweep_report.folder / f"report.{kind}").read_text() for kind in ("html", "md"))
    assert 'id="why"' in page and all(f'id="{name}"' in page for name in FIGURES)
    assert "\n## Why\n" in markdown and "\n## Losses on the same tokens\n" in markdown
    assert "\n### What can be claimed\n\n- " in markdown and "<h3>What can be claimed</h3>" in page
    assert "**Not everything is here:** Not in this section: GRPO (seed 2)." in markdown
    print_report(sweep_report)
    shown = capsys.readouterr().out
    assert "Why: GRPO\n" in shown and "Why: What can be claimed\n" in shown
    assert "Note: Not in this section: GRPO (seed 2)." in " ".join(shown.split())
    assert HOSTILE in shown  # not read as markup


def test_names_of_losses_are_escaped(sweep_report: Report) -> None:
    page, markdown = ((sweep_report.folder / f"report.{kind}").read_text() for kind in ("html", "md"))
    assert "<script>alert" not in page and "<img" not in page
    assert "<script>" not in markdown and "<img" not in markdown


def write_lines(folder: Path, change: Any, steps: int = 2) -> Path:
    lines = [line(step) for step in range(1, steps + 1)]
    change(lines[-1])
    return write_compared_run(folder, lines)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "compare/gmpo/weight_by_ratio",
            [1.0] * 9,
            "compare/gmpo/weight_by_ratio has 9 numbers, and 10 are expected",
        ),
        ("compare/ratio_edges", None, "compare/ratio_edges is missing"),
        ("compare/default/ess_frac", 1.5, "compare/default/ess_frac is 1.5, and lies between 0 and 1"),
        ("compare/default/ess_frac", "much", "compare/default/ess_frac is not a number"),
        ("compare/default/cosine", 1.2, "compare/default/cosine is 1.2, and lies between -1 and 1"),
        ("compare/default/clipped_by_position", {"0": 1}, "clipped_by_position is not a list of numbers"),
        ("compare/points", [1.0], "compare/points is not a mapping"),
        ("compare/points", {"ratio": [1.0], "default": [1.0]}, "compare/points/gmpo is missing"),
        (
            "compare/points",
            {"ratio": [1.0], "default": [1.0], "gmpo": []},
            "points/gmpo has 0 numbers, and 1 are expected",
        ),
        ("compare/losses", "gmpo", "compare/losses is not a list of names"),
        ("compare/losses", ["gmpo", "cispo"], "compare/cispo/clipped_frac is missing"),
        ("compare/trained", 3, "compare/trained is not a name"),
        ("compare/trained", "default", "one run trains one loss"),
    ],
)
def test_a_damaged_line_is_an_error_that_names_file_step_and_key(
    tmp_path: Path, key: str, value: Any, message: str
) -> None:
    def damage(metrics: dict[str, Any]) -> None:
        metrics.pop(key) if value is None else metrics.update({key: value})

    run = write_lines(tmp_path / "run", damage)
    with pytest.raises(DataError) as error:
        read_study([run])
    text = str(error.value)
    assert (
        message in text
        and "metrics.jsonl" in text
        and "step 2" in text
        and text.endswith("leave this run out")
    )


def test_steps_whose_tokens_have_no_advantage_count_for_nothing(tmp_path: Path) -> None:
    whole = [line(step) for step in STEPS]
    empty = {"compare/trained": "gmpo", "compare/losses": ["gmpo", "default"]}
    no_gradient = {"compare/gmpo/gradient_norm": 0.0, "compare/default/gradient_norm": 0.0}
    with_gap = [*whole[:2], empty, empty | no_gradient, *whole[2:]]
    a, b = (
        study_why(made_study(tmp_path / str(i), {1: found}))[0] for i, found in enumerate((whole, with_gap))
    )
    assert a.of("default").ess == b.of("default").ess and list(a.ratio) == list(b.ratio)
    words = words_of(found_in(made_study(tmp_path / "none", {1: [empty]})))
    assert "No token had an advantage" in words or "only GMPO" in words


def test_numbers_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    def some(metrics: dict[str, Any]) -> None:
        metrics["compare/gmpo/weight_by_ratio"][3] = math.nan
        metrics["compare/default/clipped_by_entropy"] = [math.nan] * 10
        metrics["compare/points"]["gmpo"][0] = "nan"

    report = write_report([write_lines(tmp_path / "run", some)])
    (entry,) = report.numbers["why"]
    first = read_metrics(tmp_path / "run")[-2]
    assert entry["losses"][0]["weight"][3] == pytest.approx(first["compare/gmpo/weight_by_ratio"][3])


def test_losses_may_change_within_a_run_and_without_entropies_that_panel_says_so(tmp_path: Path) -> None:
    lines = [line(1), line(2, losses=("default", "gspo"))]
    for metrics in lines:
        for key in [key for key in metrics if key.endswith("clipped_by_entropy")]:
            del metrics[key]
    why = found_in(made_study(tmp_path, {1: lines}))
    (one,) = study_why(made_study(tmp_path / "again", {1: lines}))
    assert [facts.loss for facts in one.losses] == ["gmpo", "default", "gspo"]
    assert one.of("gspo").ess == one.of("gspo").ess
    ess = one.of("gspo").ess
    assert ess is not None and ess.values == (lines[1]["compare/gspo/ess_frac"],)
    notes = next(figure.notes for figure in why.section.figures if figure.name == "why_clipped")
    assert any("no entropies of tokens are logged" in note for note in notes)


def test_words_say_whom_each_loss_clips(tmp_path: Path) -> None:
    metrics = line(1)
    metrics["compare/default/clipped_frac"], metrics["compare/default/clipped_positive_frac"] = 0.1, 0.25
    metrics["compare/default/clipped_by_position"] = [0.0, 0.3, math.nan, *[0.05] * 7]
    metrics["compare/default/clipped_by_entropy"] = [0.01, *[0.05] * 8, 0.42]
    metrics["compare/gmpo/clipped_frac"] = 0.0
    words = words_of(found_in(made_study(tmp_path, {1: [metrics]})))
    assert (
        "clips, 25.0 % have a positive advantage; it clips most in tenth 2 of 10 of the response (30.0 %"
        in words
    )
    assert "1.0 % of the decile with the lowest entropy and 42.0 % of that with the highest." in words
    assert "Of the tokens that GMPO clips" not in words


@pytest.mark.parametrize(("low", "high"), [(-0.01, 0.01), (-0.3, 0.3), (-5.0, 0.4), (-0.001, 30.0)])
def test_the_ratio_s_axis_has_labels_that_can_be_read_wherever_it_ends(low: float, high: float) -> None:
    canvas = Canvas(figsize=(4, 3))
    ax = canvas.subplots()
    SymmetricAxis.around((), (low, high)).apply_x(ax, low, high)
    places = sorted(ax.get_xticks())
    drawn = [
        float(ax.transAxes.inverted().transform(ax.transData.transform((place, 0)))[0]) for place in places
    ]
    assert 0.0 in places and len(places) >= 3
    assert all(0 <= place <= 1 for place in drawn)
    assert min(b - a for a, b in pairwise(drawn)) > 0.1
    assert len({label.get_text() for label in ax.get_xticklabels()}) == len(places)


def test_a_run_that_goes_on_is_left_out_beside_finished_ones(tmp_path: Path) -> None:
    for seed, state in ((1, "finished"), (2, "running")):
        run = write_compared_run(tmp_path / f"run_{seed}", [line(step, seed) for step in STEPS], seed=seed)
        (run / "run.json").write_text(json.dumps({"state": state, "exit_reason": None}))
    why = found_in(read_study([tmp_path / "run_1", tmp_path / "run_2"]))
    assert [entry["runs"] for entry in why.numbers] == [[str(tmp_path / "run_1")]]
    assert why.section.notes == ("run_1: not finished, and left out of this section: seed 2.",)
    alone = found_in(read_study([tmp_path / "run_2"]))
    assert len(alone.numbers[0]["runs"]) == 1 and not alone.section.notes
