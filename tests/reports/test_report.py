"""Whole reports of real runs: the numbers against the runs' own files, what is missing, names that mean harm."""

from __future__ import annotations

import io
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure as Canvas
from PIL import Image
from scipy import stats

from gmpo_mm.errors import DataError
from gmpo_mm.evaluation.compare import compare
from gmpo_mm.evaluation.results import read_result
from gmpo_mm.reports.figure_style import LIGHT_THEME, to_svg
from gmpo_mm.reports.figures import report_figures
from gmpo_mm.reports.page import make_page
from gmpo_mm.reports.paper_table import paper_table
from gmpo_mm.reports.report import Report, default_folder, write_report
from gmpo_mm.reports.report_tables import training_report_table
from gmpo_mm.reports.scores import problem_difference, score_tables
from gmpo_mm.reports.sources import read_study
from gmpo_mm.reports.study import CLIP_SHARE
from gmpo_mm.runs.metrics_file import read_metrics
from gmpo_mm.training import router
from tests.evaluation.pages import HOSTILE
from tests.reports.made import SEEDS, VARIANTS, change_sweep, write_easyr1_log, write_run

FIGURES = (
    "final_score", "validation", "training_reward", "response_length", "ratio_range", "sequence_ratio", "clip_share", "entropy",
    "kl_ref", "grad_norm",
)  # fmt: skip


@pytest.fixture(scope="module")
def report(sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    return write_report([sweep], tmp_path_factory.mktemp("report"))


def column(sweep: Path, variant: str, metric: str) -> dict[int, list[float]]:
    """Seed -> the metric's values, as the metrics files have them."""
    runs = {seed: read_metrics(sweep / f"runs/{variant}/seed_{seed}") for seed in SEEDS}
    return {seed: [line[metric] for line in lines if metric in line] for seed, lines in runs.items()}


def score(report: Report, key: str) -> dict:  # type: ignore[type-arg]
    return next(table for table in report.numbers["scores"] if table["key"] == key)


def test_everything_is_written(report: Report) -> None:
    for name in FIGURES:
        for theme in ("", "_dark"):
            with Image.open(report.folder / "figures" / f"{name}{theme}.png") as picture:
                assert picture.width > 600
                corner = picture.convert("L").getpixel((0, 0))
                assert (corner < 64) == (theme == "_dark")
    assert json.loads((report.folder / "report.json").read_text()) == json.loads(json.dumps(report.numbers))
    assert (report.folder / "report.html").stat().st_size < 1_500_000


def test_final_and_best_scores_are_the_runs_own(report: Report, sweep: Path) -> None:
    for key, choose in (("final", lambda values: values[-1]), ("best", max)):
        table = score(report, key)
        finals = {
            name: {seed: choose(v) for seed, v in column(sweep, name, "val/accuracy_reward").items()} for name in VARIANTS
        }
        for row in table["rows"]:
            assert row["by_seed"] == {str(seed): value for seed, value in finals[row["variant"]].items()}
            assert row["mean"]["mean"] == pytest.approx(np.mean(list(finals[row["variant"]].values())))
        gaps = [finals["gmpo"][seed] - finals["grpo"][seed] for seed in SEEDS]
        found = table["rows"][1]["difference"]
        assert found["values"] == pytest.approx(gaps)
        if np.ptp(gaps) > 1e-12:  # as the report: what is left below it is rounding
            assert found["p_value"] == pytest.approx(float(stats.ttest_1samp(gaps, 0.0).pvalue))


def test_evaluations_come_first_with_differences_over_problems(report: Report, sweep: Path) -> None:
    table = report.numbers["scores"][0]
    assert table["key"] == "evaluation/synthetic_pictures"
    rights = {}
    for name in VARIANTS:
        results = [read_result(next(sweep.glob(f"evaluations/{name}/seed_{seed}/*/evaluation.json")).parent) for seed in SEEDS]
        assert {seed: result.summary["pass_at_1"]["value"] for seed, result in zip(map(str, SEEDS), results)} == (
            next(row for row in table["rows"] if row["variant"] == name)["by_seed"]
        )
        rights[name] = np.array([[s.correct for s in result.samples] for result in results]).mean()
    found = table["rows"][1]["over_problems"]
    assert found["difference"] == pytest.approx(rights["gmpo"] - rights["grpo"])
    assert (found["problems"], found["seeds"]) == (12, 2)


def test_one_pair_of_evaluations_is_compared_as_gmpo_mm_compare_does(sweep: Path) -> None:
    a, b = (next(sweep.glob(f"evaluations/{name}/seed_1/*/evaluation.json")).parent for name in VARIANTS)
    found, (theirs,) = problem_difference([(read_result(a), read_result(b))]), compare(a, b)
    assert (found.difference, found.interval, found.p_value) == (theirs.difference, theirs.interval, theirs.p_value)


def test_evaluations_on_other_problems_are_no_pair(sweep: Path, sweep_copy: Callable[[], Path]) -> None:
    folder = sweep_copy()
    a, b = (next(folder.glob(f"evaluations/{name}/seed_1/*/evaluation.json")).parent for name in VARIANTS)
    spec = json.loads((b / "evaluation.json").read_text())
    spec["protocol"]["temperature"] = 1.0
    (b / "evaluation.json").write_text(json.dumps(spec))
    with pytest.raises(DataError, match="not on the same problems under one protocol"):
        problem_difference([(read_result(a), read_result(b))])
    table = score_tables(read_study([folder]))[0]
    assert [len(row.by_seed) for row in table.rows] == [2, 1]
    assert "protocol.temperature is 1.0, not 0.5" in table.notes[0]


def test_a_metric_that_a_run_lacks_is_told_and_not_drawn_as_zero(report: Report) -> None:
    figure = report.numbers["figures"]["kl_ref"]
    assert figure["drawn"]
    (note,) = figure["notes"]
    assert note.startswith("Not drawn: GRPO. No actor/kl_ref or actor/kl_loss is logged there.")
    page = (report.folder / "report.html").read_text()
    section = page[page.index('id="kl_ref"') :]
    section = section[: section.index("</section>")]
    assert "var(--series-1)" in section
    assert "var(--series-0)" not in section
    assert note in section


def test_reward_length_and_clip_share_are_curves_of_the_runs_own_numbers(sweep: Path) -> None:
    study = read_study([sweep])
    figures = {figure.name: figure for figure in report_figures(study, score_tables(study))}
    for name, metrics, factor in (
        ("training_reward", ["reward/overall"], 1.0),
        ("response_length", ["response_length/mean"], 1.0),
        ("clip_share", ["clip/high_frac", "clip/low_frac"], 100.0),
    ):
        figure = figures[name]
        assert figure.draw is not None and not figure.notes
        canvas = Canvas()
        figure.draw(canvas, LIGHT_THEME)
        lines = [line.get_ydata() for line in canvas.axes[0].lines]
        for variant, drawn in zip(VARIANTS, lines, strict=True):
            parts = [list(column(sweep, variant, metric).values()) for metric in metrics]
            assert drawn == pytest.approx(factor * np.mean(np.sum(parts, axis=0), axis=0))


def test_a_loss_without_a_clip_is_said_to_have_no_clip_share(tmp_path: Path) -> None:
    clips = {"clip/high_frac": 0.1, "clip/low_frac": 0.2}
    runs = [write_run(tmp_path / "clipped", [0.1] * 3, metrics=clips), write_run(tmp_path / "free", [0.1] * 3)]
    study = read_study(runs)
    assert study.variants[0].runs[0].series[CLIP_SHARE].values == pytest.approx([0.3, 0.3])
    figure = next(one for one in report_figures(study, score_tables(study)) if one.name == "clip_share")
    assert figure.notes[0].startswith("Not drawn: free.") and "A loss without a clip has no such share" in figure.notes[0]


@pytest.mark.parametrize(
    ("actor", "lines", "said"),
    [
        ("loss_type: default, clip_ratio_low: 0.2, clip_ratio_high: 0.25", [0.8, 1.25], "clip 0.8 to 1.25"),
        ("loss_type: default, clip_ratio_low: 1.0, clip_ratio_high: 0.25", [1.25], "clip above 1.25"),
        ("loss_type: cispo, clip_ratio_low: 1.0, clip_ratio_high: 1.0", [2.0], "clip above 2"),
        ("loss_type: cispo, clip_ratio_low: 0.5, clip_ratio_high: 1.0", [0.5, 2.0], "clip 0.5 to 2"),
        ("loss_type: gspo, clip_ratio_low: 1.0, clip_ratio_high: 0.25", [], "no clip by tokens"),
    ],
)
def test_the_range_of_ratios_shows_the_bounds_that_a_clip_has(
    tmp_path: Path, actor: str, lines: list[float], said: str
) -> None:
    ratios = {"ratio/token_min": 0.5, "ratio/token_max": 2.0}
    run = write_run(tmp_path / "run", [0.1] * 3, config=f"worker: {{actor: {{{actor}}}}}", metrics=ratios)
    study = read_study([run])
    figure = next(one for one in report_figures(study, score_tables(study)) if one.name == "ratio_range")
    canvas = Canvas(figsize=figure.size)
    assert figure.draw is not None
    figure.draw(canvas, LIGHT_THEME)
    canvas.savefig(io.BytesIO())
    (ax,) = canvas.axes
    drawn = [float(line.get_ydata()[0]) for line in ax.lines if list(line.get_xdata()) == [0, 1]]
    assert drawn == pytest.approx([math.log10(bound) for bound in lines])
    assert ax.get_title(loc="left").endswith(f"\n{said}")


def test_a_headline_and_the_commands_stand_at_the_top(report: Report, sweep: Path) -> None:
    page, markdown = ((report.folder / name).read_text() for name in ("report.html", "report.md"))
    headline = report.numbers["headline"]
    assert headline.startswith("Pass@1, synthetic_pictures: GRPO ") and "between GMPO and GRPO" in headline
    made_by = f"gmpo-mm report {sweep} --out {report.folder}"
    assert report.numbers["commands"] == ["gmpo-mm sweep small.yaml", made_by]
    header = page[page.index("<header>") : page.index("</header>")].replace("<wbr>", "")
    for text in (headline, "gmpo-mm sweep small.yaml", made_by):
        assert text in header
        assert text.replace("_", r"\_") in markdown[: markdown.index("## In words")]


def test_runs_by_themselves_show_the_command_of_each_variant_once(sweep: Path, tmp_path: Path) -> None:
    runs = [sweep / f"runs/{name}/seed_{seed}" for name in VARIANTS for seed in SEEDS]
    commands = read_study(runs).commands
    assert [f"runs/{name}/seed_1" in command for name, command in zip(VARIANTS, commands, strict=True)] == [True, True]
    assert all(command.startswith("gmpo-mm train ") for command in commands)
    assert len(write_report(runs, tmp_path / "out").numbers["commands"]) == 3


def test_where_no_run_has_a_metric_there_is_no_picture(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [0.1, 0.2])
    out = tmp_path / "out"
    (out / "figures").mkdir(parents=True)
    (out / "figures" / "entropy.png").write_bytes(b"of an earlier report")
    report = write_report([run], out)
    drawn = {name for name, figure in report.numbers["figures"].items() if figure["drawn"]}
    assert drawn == {"final_score", "validation", "grad_norm"}
    assert {path.stem for path in (out / "figures").glob("*.png") if "_dark" not in path.stem} == drawn
    assert "No ratio/token_min or ratio/token_max is logged there." in (out / "report.html").read_text()


def test_training_facts_are_those_of_the_files(report: Report, sweep: Path) -> None:
    for fact in report.numbers["training"]:
        name = fact["variant"]
        assert fact["ratio_low"] == min(min(v) for v in column(sweep, name, "ratio/token_min").values())
        assert fact["ratio_high"] == max(max(v) for v in column(sweep, name, "ratio/token_max").values())
        assert fact["grad_norm_max"] == max(max(v) for v in column(sweep, name, "actor/grad_norm").values())
        assert (fact["skipped"], fact["updates"]) == (0, 2 * 3 * 2)  # seeds x steps x mini-batches
        assert fact["seconds"]["mean"] == pytest.approx(101.5)
        assert fact["whole_process"]
    assert report.numbers["training"][0]["kl"] is None
    kl = [values[-1] for values in column(sweep, "gmpo", "actor/kl_ref").values()]
    assert report.numbers["training"][1]["kl"]["mean"] == pytest.approx(np.mean(kl))


def test_steps_to_the_target_are_counted_seed_by_seed(report: Report, sweep: Path) -> None:
    for name in VARIANTS:
        expected = [
            next((step for step, value in enumerate(values) if value >= 0.3), None)
            for values in column(sweep, name, "val/accuracy_reward").values()
        ]
        assert report.numbers["steps_to_target"][name] == expected


def test_skipped_updates_are_a_share_of_all_that_were_tried(tmp_path: Path) -> None:
    metrics = {"actor/skipped_updates": 1.0, "actor/updates": 3.0}
    table = training_report_table(read_study([write_run(tmp_path / "run", [0.1] * 5, metrics=metrics)]))
    assert table.rows[0].cells[table.columns.index("updates skipped")] == "25 % (4 of 16)"


def test_a_partial_sweep_makes_a_report_that_says_so(sweep_copy: Callable[[], Path], tmp_path: Path) -> None:
    folder = sweep_copy()

    def change(data: dict) -> None:  # type: ignore[type-arg]
        for run in data["runs"][1:]:
            run |= {"state": "waiting", "directory": "runs/none", "evaluations": {}}

    change_sweep(folder, change)
    report = write_report([folder], tmp_path / "out")
    text = " ".join(line for part in report.summary for line in part.lines)
    assert "GMPO can't be compared with GRPO: no finished run of GMPO has this score." in text
    assert "Not everything is here" in (report.folder / "report.html").read_text()
    change_sweep(folder, lambda data: [run.update(state="waiting", directory="runs/none") for run in data["runs"]])
    nothing = write_report([folder], tmp_path / "nothing")
    assert nothing.summary[0].lines == ("No run has a validation score, so nothing can be said of which is better.",)


def test_what_is_logged_of_experts_is_drawn(tmp_path: Path) -> None:
    moe = {"moe/expert_share_max": 0.4, "moe/load_entropy": 0.9, "moe/of_another_tool": 1.0}
    runs = [write_run(tmp_path / "moe", [0.1] * 4, metrics=moe), write_run(tmp_path / "dense", [0.1] * 4)]
    study = read_study(runs)
    figure = next(figure for figure in report_figures(study, score_tables(study)) if figure.name == "experts")
    assert figure.draw is not None
    svg = to_svg(figure.draw, figure.size, "experts")
    for title in ("Evenness of the load", "Most used expert", "share of tokens", "Of another tool"):
        assert f">{title}</text>" in svg
    assert "moe/" not in svg + figure.about + "".join(figure.notes) and "_" not in re.sub(r"<[^>]*>", "", svg)
    assert figure.notes == ("Not drawn: dense. Nothing of experts is logged there.",)


def test_every_metric_of_experts_has_a_name_for_people(tmp_path: Path) -> None:
    from gmpo_mm.reports.expert_figures import NAMES

    source = (Path(router.__file__)).read_text(encoding="utf-8")
    logged = set(re.findall(r'"(moe/\w+)"', source)) | {f"moe/{name}" for name in re.findall(r'"(rollout_\w+)"', source)}
    assert logged and logged <= NAMES.keys()


def test_a_long_sweep_s_page_stays_small(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    names = ("ratio/token_min", "ratio/token_max", "ratio/seq_geo_mean_min", "ratio/seq_geo_mean_max", "actor/entropy")
    for name in "abcde":
        for seed in range(2):
            folder = tmp_path / f"{name}{seed}"
            write_run(folder, [0.5], config=f"worker: {{rollout: {{seed: {seed}}}, x: {name}}}\ndata: {{seed: {seed}}}\n")
            lines = [{"step": t, "kind": "train", **dict(zip(names, generator.lognormal(size=5)))} for t in range(1, 1001)]
            with (folder / "metrics.jsonl").open("a") as file:
                file.writelines(json.dumps(line) + "\n" for line in lines)
    study = read_study(sorted(path for path in tmp_path.iterdir()))
    assert [len(variant.runs) for variant in study.variants] == [2] * 5
    page = make_page(study, "", "", (), (), (), report_figures(study, score_tables(study)))
    assert len(page) < 600_000
    assert "Curves of more than 240 points" in page


def test_runs_in_the_middle_of_training_have_curves_and_no_score(tmp_path: Path) -> None:
    done = write_run(tmp_path / "done", [0.1, 0.2, 0.3])
    going = write_run(tmp_path / "going", [0.1, 0.9], state="running")
    study = read_study([done, going])
    final = next(table for table in score_tables(study) if table.key == "final")
    assert [dict(row.by_seed) for row in final.rows] == [{"run 1": 0.3}, {}]
    validation = next(figure for figure in report_figures(study, score_tables(study)) if figure.name == "validation")
    assert validation.draw is not None and not validation.notes


def test_another_tool_s_log_stands_beside_ours(sweep: Path, tmp_path: Path) -> None:
    log = write_easyr1_log(tmp_path / "stock", sweep / "runs/grpo/seed_1")
    report = write_report([log, sweep / "runs/gmpo/seed_1"], tmp_path / "out")
    notes = report.numbers["figures"]
    assert notes["entropy"]["notes"] == [
        "stock: actor/entropy_loss, minus the mean log-probability of the sampled tokens, which estimates it."
    ]
    assert "EasyR1 itself logs no ratios" in notes["ratio_range"]["notes"][0]
    assert "stock" in report.summary[0].lines[0]


def test_the_paper_s_lines_stand_beside_the_variants_and_are_marked(sweep_copy: Callable[[], Path]) -> None:
    folder = sweep_copy()

    def change(data: dict) -> None:  # type: ignore[type-arg]
        data["paper"] = {"table": 4, "model": "Qwen2.5-Math-7B"}
        data["variants"][0]["paper_line"], data["variants"][1]["paper_line"] = 1, 5

    change_sweep(folder, change)
    study = read_study([folder])
    table = paper_table(study, score_tables(study))
    assert table is not None
    assert [row.cells[2:] for row in table.rows] == [
        ("GRPO", "40.0", "59.0", "83.4", "32.4", "41.3", "51.2"),
        ("GMPO", "43.3", "61.4", "82.0", "33.5", "43.6", "52.7"),
    ]
    assert all(name.startswith("paper: ") for name in table.columns[2:])
    assert "the paper's, Table 4 of arXiv 2507.20673" in table.about
    assert "the heights can't be compared" in table.about
    change_sweep(folder, lambda data: data.update(paper={"table": 5}) or data["variants"][1].update(paper_line=2))
    study = read_study([folder])
    table = paper_table(study, score_tables(study))
    assert table is not None
    assert table.rows[1].cells[2] == "GMPO, clip (e^-0.4, e^0.4)"
    change_sweep(folder, lambda data: data.update(paper=None))
    study = read_study([folder])
    assert paper_table(study, score_tables(study)) is None


def test_ours_stand_by_the_paper_s_benchmark_where_the_protocol_is_the_paper_s(sweep: Path) -> None:
    study = read_study([sweep])
    study = replace(
        study, paper={"table": 1}, variants=tuple(replace(v, paper_line=i + 3) for i, v in enumerate(study.variants))
    )
    table = score_tables(study)[0]
    assert table.spec is not None
    greedy = replace(table.spec.protocol, name="language", temperature=0.0, n=1, max_tokens=3000)
    fitting = replace(table, spec=replace(table.spec, benchmark="math500", protocol=greedy))
    found = paper_table(study, [fitting])
    assert found is not None
    at = found.columns.index("ours: math500")
    assert found.columns[at + 1] == "paper: math500"
    assert [row.cells[at] for row in found.rows] == [f"{100 * row.mean.mean:.1f}" for row in table.rows if row.mean]
    assert [row.cells[at + 1] for row in found.rows] == ["83.4", "82.0"]
    sampled = replace(table, spec=replace(table.spec, benchmark="math500", protocol=replace(greedy, temperature=0.6)))
    other = paper_table(study, [sampled])
    assert other is not None and other.columns[1] == f"ours: {table.title}"


def test_names_from_files_change_neither_page_nor_markdown(sweep_copy: Callable[[], Path], tmp_path: Path) -> None:
    folder = sweep_copy()

    def change(data: dict) -> None:  # type: ignore[type-arg]
        data |= {"title": HOSTILE, "command": [HOSTILE]}
        data["variants"][0] |= {"label": HOSTILE, "overrides": [HOSTILE]}
        data["variants"][1]["label"] = "_a | b #fe02ff\n$x^2$ [click](http://example.invalid) `code` *bold*"
        data["runs"][0] |= {"state": "failed", "reason": HOSTILE}

    change_sweep(folder, change)
    report = write_report([folder], tmp_path / "out")
    page = (report.folder / "report.html").read_text()
    assert "<script" not in page and "<img" not in page and "&lt;script" in page
    markdown = (report.folder / "report.md").read_text()
    assert "<" not in markdown
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    widths = {len(re.findall(r"(?<!\\)\|", row)) for row in rows if "mean (%)" in row or "_a" in row or "click" in row}
    assert r"\_a \| b \#fe02ff $x^2$ \[click\](http" in markdown
    assert max(widths) <= 13


def test_the_page_refers_to_nothing_outside_itself(report: Report) -> None:
    page = (report.folder / "report.html").read_text()
    assert not re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?\s*(?:https?:|//|file:)", page)
    assert "http:" not in page and "https:" not in page and "@import" not in page
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))


def test_the_default_folder_is_inside_what_was_given(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [0.1])
    assert default_folder([run]) == run / "report"
    assert default_folder([run, Path("runs/other run")]) == Path("reports/run_other-run")


def test_a_folder_that_can_t_be_written_is_an_error_that_names_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [0.1])
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="--out"):
        write_report([run], tmp_path / "file")


def test_numbers_without_a_value_are_null(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [0.1, math.nan, 0.3], metrics={"actor/grad_norm": math.inf})
    text = (write_report([run], tmp_path / "out").folder / "report.json").read_text()
    assert "NaN" not in text and "Infinity" not in text


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gmpo_mm.cli", "report", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def test_the_command_prints_words_or_json_and_names_what_it_can_t_read(sweep: Path, tmp_path: Path) -> None:
    done = cli(str(sweep), "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert "Pass@1, synthetic_pictures" in done.stdout
    assert f"The page: {tmp_path / 'out' / 'report.html'}" in done.stdout
    done = cli(str(sweep / "runs/grpo/seed_1"), "--out", str(tmp_path / "one"), "--json", "--target-score", "0.5")
    numbers = json.loads(done.stdout)
    assert (numbers["target_score"], [variant["label"] for variant in numbers["variants"]]) == (0.5, ["grpo"])
    done = cli(str(tmp_path / "nothing"))
    assert done.returncode == 2
    assert "does not exist" in done.stderr and "Traceback" not in done.stderr
