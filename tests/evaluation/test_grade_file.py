"""`gmpo-mm grade FILE`: rows from anywhere, grades beside them, and errors that name the row."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from gmpo_mm.cli import app
from gmpo_mm.errors import ConfigError, DataError
from gmpo_mm.evaluation import grade_file as module
from gmpo_mm.evaluation.grade_file import GradeFileReport, GradeFileSettings, grade_file, print_report
from gmpo_mm.verifiers import grader_info

ROWS: list[dict[str, Any]] = [
    {"id": 7, "response": r"so \boxed{\frac{1}{2}}", "answer": "0.5", "subject": "algebra"},
    {"id": 8, "response": r"so \boxed{3}", "answer": "4", "subject": "geometry"},
    {"id": 9, "response": "no box", "answer": "4", "subject": "geometry"},
    {"id": 10, "response": r"<answer>60</answer>", "answer": 60, "subject": "algebra"},
]


def write(folder: Path, rows: list[dict[str, Any]], name: str = "rows.jsonl") -> str:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def grade(folder: Path, rows: list[dict[str, Any]] = ROWS, **settings: Any) -> GradeFileReport:
    return grade_file(GradeFileSettings(write(folder, rows), **settings))


def test_every_row_is_written_with_its_grade_and_the_graders_stamp(tmp_path: Path) -> None:
    out = tmp_path / "deeper" / "graded.jsonl"
    report = grade(tmp_path, out=str(out), timeout=2.0)
    written = lines(out)
    assert [{key: row[key] for key in ROWS[0]} for row in written] == ROWS
    assert [row["correct"] for row in written] == [True, False, False, True]
    assert [row["status"] for row in written] == ["graded", "graded", "no_answer", "graded"]
    assert [row["extracted"] for row in written] == [r"\frac{1}{2}", "3", None, "60"]
    assert all(isinstance(row["why"], str) for row in written)
    assert all(row["grader"] == grader_info("math", "auto", 2.0) for row in written)
    assert (report.total.rows, report.total.samples, report.total.accuracy) == (4, 4, 0.5)
    assert report.total.share("no_answer") == 0.25
    assert [path.name for path in out.parent.iterdir()] == ["graded.jsonl"]


def test_parquet_gives_the_same_grades_and_bytes_are_left_out_and_named(tmp_path: Path) -> None:
    pq.write_table(
        pa.Table.from_pylist([{**row, "answer": str(row["answer"]), "image": b"\xff"} for row in ROWS]),
        tmp_path / "rows.parquet",
    )
    out = tmp_path / "graded.jsonl"
    report = grade_file(GradeFileSettings(str(tmp_path / "rows.parquet"), out=str(out)))
    assert [row["correct"] for row in lines(out)] == [True, False, False, True]
    assert all("image" not in row for row in lines(out))
    assert report.notes == (f"left out of {out}, as JSON can't hold bytes: image",)


def test_a_row_may_hold_several_samples(tmp_path: Path) -> None:
    rows = [
        {"response": [r"\boxed{1}", r"\boxed{2}", "none", r"\boxed{2}"], "gold": "2"},
        {"response": [r"\boxed{5}"], "gold": "5"},
        {"response": r"\boxed{5}", "gold": "6"},
    ]
    out = tmp_path / "graded.jsonl"
    report = grade(tmp_path, rows, out=str(out))
    assert [row["correct"] for row in lines(out)] == [[False, True, False, True], [True], False]
    assert [row["status"] for row in lines(out)] == [["graded", "graded", "no_answer", "graded"], ["graded"], "graded"]
    assert (report.total.rows, report.total.samples) == (3, 6)
    assert report.total.accuracy == pytest.approx((0.5 + 1 + 0) / 3)  # mean over rows of the mean over samples


def test_the_gold_is_found_in_the_usual_columns_or_where_the_key_says(tmp_path: Path) -> None:
    response = {"response": r"\boxed{2}"}
    rows = [
        {**response, "answers": ["1", "2\n"], "answer": "7"},
        {**response, "answers": None, "answer": "2"},
        {**response, "ground_truth": 2},
        {**response, "gold": 2.0},
    ]
    assert grade(tmp_path, rows).total.accuracy == 1.0
    assert grade(tmp_path, rows[:1], gold_key="answer").total.accuracy == 0.0
    nested = [{"out": {"text": r"\boxed{2}"}, "reward_model": {"ground_truth": "2"}}]
    assert grade(tmp_path, nested, response_key="out.text", gold_key="reward_model.ground_truth").total.accuracy == 1.0


def test_grader_extraction_kind_and_groups_are_options(tmp_path: Path) -> None:
    rows = [
        {"response": "9.65", "answers": ["9.6\n"], "source": "b"},
        {"response": "9.8", "answers": ["9.6\n"], "source": "b"},
        {"response": "9.6", "answers": ["9.6\n"], "source": "a"},
    ]
    report = grade(tmp_path, rows, grader="minerva", kind="answer", by="source")
    assert {name: (tally.rows, tally.accuracy) for name, tally in report.groups.items()} == {"a": (1, 1.0), "b": (2, 0.5)}
    assert list(report.groups) == ["a", "b"]
    tagged = [{"response": r"\boxed{1} <answer>2</answer>", "answer": "2"}]
    assert grade(tmp_path, tagged, extraction="answer_tags").total.accuracy == 1.0
    assert grade(tmp_path, tagged, extraction="boxed").total.accuracy == 0.0
    problem = [{"response": "<answer>1+2</answer>", "answer": {"numbers": [1, 2], "target": 3}}]
    assert grade(tmp_path, problem, grader="countdown").total.accuracy == 1.0


def test_a_response_that_is_null_is_no_answer_and_the_rest_is_graded(tmp_path: Path) -> None:
    right = r"\boxed{3}"
    rows = [{"response": None}, {"response": right}, {}, {"response": [None, right]}, {"response": []}]
    rows += [{"response": float("nan")}, {"response": 3}]
    out = tmp_path / "graded.jsonl"
    report = grade(tmp_path, [{"answer": "3", **row} for row in rows], out=str(out))
    statuses = [row["status"] for row in lines(out)]
    assert statuses == ["no_answer", "graded", "no_answer", ["no_answer", "graded"], ["no_answer"], "no_answer", "graded"]
    assert report.total.accuracy == pytest.approx(2.5 / 7)
    assert report.notes == ("5 of 8 responses are missing (null); each counts as no answer",)
    assert grade(tmp_path, [{"response": None, "answer": "3"}]).total.accuracy == 0.0


@pytest.mark.parametrize(("key", "message"), [("out", "no column 'out'"), ("response.text", "no row has a response in")])
def test_a_column_of_responses_that_is_not_there_is_an_error(tmp_path: Path, key: str, message: str) -> None:
    with pytest.raises(DataError, match=f"{message}.*give --response-key, there are response, answer"):
        grade(tmp_path, [{"response": {"x": "3"}, "answer": "3"}], response_key=key)


def test_golds_that_hold_a_solution_are_read_and_sentences_are_told(tmp_path: Path) -> None:
    rows = [{"response": r"\boxed{72}", "answer": "48+24 = 72\n#### 72"}, {"response": "x", "answer": "a\nb"}]
    report = grade(tmp_path, rows)
    assert report.total.accuracy == 0.5
    assert report.notes == (r"1 of 2 rows have golds that no short answer can equal, such as 'a\nb', several lines",)


@pytest.mark.parametrize(
    ("row", "settings", "message"),
    [
        ({"response": True, "answer": "1"}, {}, "row 2 of rows.jsonl: 'response' must be a text, null or a list .* got bool"),
        ({"response": {"a": 1}, "answer": "1"}, {}, "row 2 of rows.jsonl: 'response' must be a text, null or a list"),
        ({"response": "x"}, {}, "row 2 of rows.jsonl: no 'answers' or 'answer' or 'ground_truth' or 'gold'; give --gold-key"),
        ({"response": "x", "gold": "1"}, {"gold_key": "answer"}, "row 2 of rows.jsonl: no 'answer'; give --gold-key"),
        ({"response": "x", "answer": []}, {}, "row 2 of rows.jsonl: the gold must be a text, a number, or a list"),
        ({"response": "x", "answer": [["1"]]}, {}, "row 2 of rows.jsonl: the gold must be"),
        ({"response": "x", "answer": "24"}, {"grader": "countdown"}, "of rows.jsonl: CountDown gold"),
    ],
)
def test_a_row_that_can_not_be_graded_is_an_error_that_names_it_and_nothing_is_written(
    tmp_path: Path, row: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    out = tmp_path / "graded.jsonl"
    rows = [{"response": "x", "answer": '{"numbers": [1], "target": 1}'}] * 2 + [row]
    with pytest.raises(DataError, match=message):
        grade(tmp_path, rows, out=str(out), **settings)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"grader": "minerve"}, r"--grader='minerve' is not known \(did you mean 'minerva'\?\); use one of math, geometry3k"),
        ({"extraction": "tags"}, "--extraction='tags' is not known; use one of auto, boxed, answer_tags"),
        ({"kind": "text"}, "--kind='text' is not known; use one of response, answer"),
        ({"timeout": 0.0}, "--timeout=0.0 must be a positive number"),
        ({"by": "level"}, "no column 'level' for --by; there are id, response, answer, subject"),
        ({"out": "."}, "is a folder; name a file"),
    ],
)
def test_an_argument_that_can_not_be_meant_is_an_error(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        grade(tmp_path, **settings)


def test_a_file_that_is_there_is_kept_unless_told_and_the_input_always(tmp_path: Path) -> None:
    out = tmp_path / "graded.jsonl"
    out.write_text("mine\n")
    with pytest.raises(ConfigError, match="exists; give --overwrite"):
        grade(tmp_path, out=str(out))
    assert out.read_text() == "mine\n"
    with pytest.raises(DataError):  # a later row is broken: the old file stays whole
        grade(tmp_path, [*ROWS, {"response": "x"}], out=str(out), overwrite=True)
    assert out.read_text() == "mine\n"
    grade(tmp_path, out=str(out), overwrite=True)
    assert len(lines(out)) == len(ROWS)
    with pytest.raises(ConfigError, match="is the file to grade"):
        grade(tmp_path, out=str(tmp_path / "rows.jsonl"), overwrite=True)


def test_grading_a_graded_file_again_replaces_its_grades_and_says_so(tmp_path: Path) -> None:
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    grade(tmp_path, out=str(first))
    report = grade_file(GradeFileSettings(str(first), grader="olympiadbench", out=str(second)))
    assert [row["grader"]["name"] for row in lines(second)] == ["olympiadbench"] * 4
    assert report.notes == (f"replaced in {second} by these grades: correct, status, extracted, why, grader",)


def test_no_rows_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rows in it"):
        grade(tmp_path, [])


def test_chunks_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"response": [rf"\boxed{{{i % 5}}}"] * (1 + i % 3), "answer": "2"} for i in range(50)]
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    first = grade(tmp_path, rows, out=str(whole))
    sizes: list[int] = []
    real = module.grade_responses

    def recorded(grader: str, responses: list[str], *args: Any, **kwargs: Any) -> Any:
        sizes.append(len(responses))
        return real(grader, responses, *args, **kwargs)

    monkeypatch.setattr(module, "CHUNK", 7)
    monkeypatch.setattr(module, "grade_responses", recorded)
    second = grade(tmp_path, rows, out=str(cut))
    assert whole.read_bytes() == cut.read_bytes() and first.total == second.total
    assert len(sizes) > 5 and max(sizes) < 7 + 3 and sum(sizes) == first.total.samples


def test_text_that_is_no_utf8_and_hostile_text_are_graded_and_written(tmp_path: Path) -> None:
    rows = [{"response": "\ud800\x00\u202e \\boxed{7}", "answer": "7"}, {"response": "\\boxed{" * 5000, "answer": "7"}]
    out = tmp_path / "graded.jsonl"
    grade(tmp_path, rows, out=str(out))
    assert [row["correct"] for row in lines(out)] == [True, False]
    assert lines(out)[0]["response"] == rows[0]["response"]


def test_the_command_prints_the_table_and_the_versions(tmp_path: Path) -> None:
    path, out = write(tmp_path, ROWS), tmp_path / "graded.jsonl"
    result = CliRunner().invoke(app, ["grade", path, "--by", "subject", "--out", str(out), "--timeout", "2"])
    assert result.exit_code == 0, result.output
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in result.output.splitlines() if "│" in line]
    assert cells == [
        ["algebra", "2", "2", "1.0000", "0.0%", "0.0%", "0.0%"],
        ["geometry", "2", "2", "0.0000", "50.0%", "0.0%", "0.0%"],
        ["all", "4", "4", "0.5000", "25.0%", "0.0%", "0.0%"],
    ]
    assert "grader math, version" in result.output and "sympy" in result.output
    assert str(out) in result.output.replace("\n", "")


def test_a_users_error_at_the_command_is_exit_code_2_and_one_paragraph(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gmpo_mm.cli", "grade", write(tmp_path, ROWS), "--grader", "nobody"]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert result.returncode == 2
    assert result.stderr.startswith("--grader='nobody' is not known; use one of math") and "Traceback" not in result.stderr


def test_the_report_shows_untrusted_group_names_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"response": "x", "answer": "1", "kind": "[red]\x1b[31mA"}]
    print_report(grade(tmp_path, rows, by="kind"))
    printed = capsys.readouterr().out
    assert "[red]" in printed and "\x1b[31m" not in printed


def test_copies_of_the_problem_are_counted_apart_where_they_are_rejected(tmp_path: Path) -> None:
    rows = [
        {"response": rf"\boxed{{{text}}}", "answer": "9901", "problem": "What is $99^2+99+1$?"}
        for text in ("99^2+99+1", "9901")
    ]
    path = write(tmp_path, rows)
    settings = GradeFileSettings(path, problem_key="problem", unevaluated="reject")
    report = grade_file(settings)
    assert (report.total.accuracy, report.total.share("not_evaluated")) == (0.5, 0.5)
    assert grade_file(replace(settings, unevaluated="accept")).total.accuracy == 1.0
    with pytest.raises(ConfigError, match="--unevaluated reject needs the problems: name their column with --problem-key"):
        grade_file(GradeFileSettings(path, unevaluated="reject"))
    with pytest.raises(DataError, match="row 0 .*'question' must be the problem's text"):
        grade_file(replace(settings, problem_key="question"))
    result = CliRunner().invoke(app, ["grade", path, "--problem-key", "problem", "--unevaluated", "reject"])
    assert result.exit_code == 0 and "copied" in result.output and "50.0%" in result.output, result.output
