"""`gmpo-mm regrade`: the same responses under several rules, and causes of each difference that add up."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gmpo_mm.cli import app
from gmpo_mm.errors import ConfigError, DataError
from gmpo_mm.evaluation.page import write_page
from gmpo_mm.evaluation.regrade import Regrade, Waterfall, regrade
from gmpo_mm.evaluation.regrade_words import to_html, to_markdown
from gmpo_mm.verifiers.rules import RULES
from tests.evaluation.evaluations import evaluate_one
from tests.evaluation.made_results import make_result, write_result

pytest.importorskip("pylatexenc", reason="the drgrpo extra is not installed")
pytest.importorskip("math_verify", reason="the drgrpo extra is not installed")
THINK = "<think>a</think> "
ROWS: list[dict[str, Any]] = [
    {
        "id": "a",
        "response": [THINK + r"\boxed{5}", r"\boxed{5}"],
        "answer": "5",
        "letter": "B",
        "choices": ["4", "5", "6", "7"],
    },
    {
        "id": "b",
        "response": r"\boxed{3}",
        "answer": r"\frac { 1 } { 3 }",
        "letter": "A",
        "choices": ["1", "2", "3", "4"],
    },
    {"id": "c", "response": "so [12]", "answer": "12", "letter": "D", "choices": ["9", "10", "11", "12"]},
    {
        "id": "d",
        "response": THINK + r"\boxed{2\sqrt{2}}",
        "answer": r"\sqrt{8}",
        "letter": "C",
        "choices": ["1", "2", "8", "4"],
    },
    {"id": "e", "response": None, "answer": "1", "letter": "C", "choices": ["3", "2", "1", "4"]},
]


def write(folder: Path, rows: list[dict[str, Any]] = ROWS) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def of(report: Regrade, name: str) -> Waterfall:
    return next(fall for fall in report.waterfalls if fall.b == name)


def steps(fall: Waterfall) -> dict[str, tuple[float, int, int]]:
    return {step.name: (round(step.change, 6), step.gained, step.lost) for step in fall.steps}


def test_causes_of_every_changed_verdict_add_up_to_the_difference_of_the_scores(tmp_path: Path) -> None:
    report = regrade(write(tmp_path), timeout=20.0)
    assert [score.rule for score in report.scores] == list(RULES)
    assert (report.rows, report.responses) == (5, 6)
    for fall in report.waterfalls:
        assert fall.end - fall.start == pytest.approx(sum(step.change for step in fall.steps), abs=1e-12)
        verdicts = [step for step in fall.steps if not step.name.startswith("format")]
        assert sum(step.gained + step.lost for step in verdicts) == fall.changed
    # 5 (twice), and the root; verl pays 0.1 of each row for its format: a (half of its two), d
    assert report.scores[0].overall == pytest.approx(2 / 5)
    assert steps(of(report, "verl")) == {"format of verl": (round(0.1 * ((0.5 + 1) - (1 + 1)) / 5, 6), 0, 1)}
    assert steps(of(report, "areal")) == {
        "extraction": (0.2, 1, 0),  # [12]
        "equivalence": (0.2, 1, 0),  # of the gold 1/3 the last number is 3
        "both": (-0.2, 0, 1),  # 2 of the answer and 8 of the gold
    }
    assert steps(of(report, "trl")) == {
        "equivalence": (0.0, 1, 1)
    }  # it reads 3 in the gold 1/3, and 8 in the root
    assert steps(of(report, "nemo_rl"))["extraction"] == (-0.4, 0, 3)
    assert set(steps(of(report, "lmms_eval"))) == {"choice"}


def test_from_one_rule_to_another_and_back_the_causes_are_the_same_with_signs_turned(tmp_path: Path) -> None:
    file = write(tmp_path)
    there = steps(of(regrade(file, ["easyr1", "areal"], timeout=20.0), "areal"))
    back = steps(of(regrade(file, ["areal", "easyr1"], timeout=20.0), "easyr1"))
    assert there == {name: (-change, lost, gained) for name, (change, gained, lost) in back.items()}


def test_an_evaluation_and_a_run_are_read_and_choices_come_from_a_data_file(tmp_path: Path) -> None:
    result = make_result([[True, True], [False, True]], tmp_path / "made")
    samples = tuple(
        replace(sample, response=text, sample=i % 2)
        for i, (sample, text) in enumerate(
            zip(result.samples, [r"\boxed{0}", "Answer: B", "Answer: C", r"\boxed{1}"], strict=True)
        )
    )
    write_result(replace(result, samples=samples))
    choices = [{"id": f"p{i}", "letter": "BC"[i], "choices": ["8", "0", "1", "9"]} for i in range(2)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in choices))
    report = regrade(str(tmp_path / "made"), ["ours", "lmms_eval"], choices=str(tmp_path / "data.jsonl"))
    assert [score.overall for score in report.scores] == [0.5, 1.0]
    without = regrade(str(tmp_path / "made"), ["ours", "verl"])
    assert (without.rows, without.responses, without.scores[0].overall) == (2, 4, 0.5)

    run = tmp_path / "run"
    (run / "samples").mkdir(parents=True)
    (run / "run.json").write_text("{}")
    for step, answer in ((9, 4), (10, 5)):
        rows = [
            {"id": "v", "sample": i, "ground_truth": "5", "response": f"\\boxed{{{answer + i}}}"}
            for i in range(2)
        ]
        (run / f"samples/step_{step}_validation.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows)
        )
    report = regrade(str(run), ["ours"])
    assert (report.rows, report.responses, report.scores[0].overall) == (1, 2, 0.5)
    assert report.notes == (f"the run's last validation, {run / 'samples/step_10_validation.jsonl'}",)


def test_another_tools_file_is_read(tmp_path: Path) -> None:
    report = regrade(
        str(Path(__file__).with_name("response_files") / "20261101_samples_geometry3k.jsonl"),
        ["lmms_eval", "ours"],
    )
    assert [score.overall for score in report.scores] == [
        0.75,
        0.25,
    ]  # ours takes a bare A, which is one of the golds
    assert report.notes == ("read as a file of lmms_eval",)


def test_the_pages_show_hostile_text_and_run_none_of_it(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script> `` | [x](javascript:y) \ud800"
    rows = [{"id": bad, "response": bad + r" \boxed{5} " + "[7]", "answer": "5"}]
    report = regrade(write(tmp_path, rows), ["ours", "areal"])
    page, words = to_html(report), to_markdown(report)
    assert "<think>" not in to_markdown(regrade(write(tmp_path, rows), ["verl"]))  # in the rule's description
    assert "<script>" not in page and "&lt;script&gt;alert(1)" in page
    assert "default-src 'none'" in page
    (line,) = [line for line in words.splitlines() if "alert(1)" in line]
    assert re.fullmatch(r"- extraction: ``` .* ```", line)


def test_an_evaluations_own_page_shows_the_report_and_goes_without_it(tmp_path: Path) -> None:
    folder = evaluate_one(tmp_path / "out", limit=2, n=2).path
    before = (folder / "page.html").read_bytes()
    done = CliRunner().invoke(app, ["regrade", str(folder), "--rules", "ours,verl", "--in-page"])
    assert done.exit_code == 0, done.output
    page = (folder / "page.html").read_text()
    assert "<h3>From ours to verl: 0 verdicts differ</h3>" in page
    (folder / "regrade.json").unlink()
    assert write_page(folder).read_bytes() == before
    wrong = CliRunner().invoke(app, ["regrade", str(tmp_path), "--in-page"])
    assert wrong.exit_code != 0 and "is no evaluation's folder" in str(wrong.exception)


def test_the_command_prints_json_alone_and_writes_the_pages(tmp_path: Path) -> None:
    file, runner = write(tmp_path), CliRunner()
    command = ["regrade", file, "--rules", "ours, verl,areal"]
    done = runner.invoke(app, [*command, "--json", "--page", str(tmp_path / "page.md")])
    assert done.exit_code == 0, done.output
    read = json.loads(done.stdout)
    assert read["format"] == 1 and [score["rule"] for score in read["scores"]] == ["ours", "verl", "areal"]
    assert read["scores"][1]["version"] and read["scores"][1]["source"].startswith("github.com/")
    assert "From ours to areal: 3 verdicts differ" in (tmp_path / "page.md").read_text()
    done = runner.invoke(app, [*command, "--page", str(tmp_path / "page.html"), "--examples", "0"])
    assert done.exit_code == 0 and "From ours to verl: 0 verdicts differ" in done.stdout
    assert "<li>extraction" not in (tmp_path / "page.html").read_text()
    assert sorted(os.listdir(tmp_path)) == ["page.html", "page.md", "rows.jsonl"]


@pytest.mark.parametrize(
    "arguments, error, said",
    [
        ({"rules": ["vrl"]}, ConfigError, "--rules: rule 'vrl' is not known .did you mean 'verl'.*areal"),
        (
            {"rules": ["lmms_eval"], "rows": [{"response": "A", "answer": "5"}]},
            ConfigError,
            "not every row has `letter`.*--choices",
        ),
        ({"rows": []}, DataError, "no rows in it"),
        (
            {"rows": [{"text": "A", "answer": "5"}]},
            DataError,
            "no column 'response'; give --response-key, there are text, answer",
        ),
        ({"choices": "rows.jsonl"}, DataError, "--choices .*no column id, letter, choices"),
        (
            {"rows": [{"id": 1, "response": "a", "answer": "5"}, {"id": 1, "response": "a", "answer": "6"}]},
            DataError,
            "different golds",
        ),
    ],
)
def test_what_can_t_be_meant_is_an_error_before_anything_is_graded(
    tmp_path: Path,
    arguments: dict[str, Any],
    error: type[Exception],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    file = write(tmp_path, arguments.pop("rows", [{"response": "A", "answer": "5"}]))
    with pytest.raises(error, match=said):
        regrade(file, **arguments)


def test_rules_without_their_letters_are_left_out_of_all_rules_with_a_note(tmp_path: Path) -> None:
    report = regrade(write(tmp_path, [{"response": r"\boxed{5}", "answer": "5"}]), timeout=20.0)
    assert [score.rule for score in report.scores] == [name for name in RULES if name != "lmms_eval"]
    assert report.notes[0].startswith("left out: lmms_eval asks for a letter")
