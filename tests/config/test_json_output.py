"""`--json`: every command that has results prints one JSON document, and nothing else, on its standard output."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from gmpo_mm.cli import app
from gmpo_mm.json_output import print_json
from tests.engine.runs import arguments, run_here, write_data
from tests.evaluation.made_results import make_result, write_result
from tests.sweeps.sweeps import GMPO, NO_CLIP, write_sweep

RIGHT, WRONG = [True], [False]
WITH_RESULTS = {"train", "plan", "sweep", "evaluate", "grade", "regrade", "compare", "report", "power", "doctor"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"), test_size=4)


def run_json(*command: str) -> Any:
    ran = CliRunner().invoke(app, [*command, "--json"])
    assert ran.exit_code == 0, ran.output + ran.stderr
    return json.loads(ran.stdout)


def test_every_command_that_has_results_takes_json() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for name in WITH_RESULTS:
        assert any("--json" in parameter.opts for parameter in commands[name].params), name


def test_train_prints_where_it_is_how_it_ended_and_its_last_numbers(data: Path, tmp_path: Path) -> None:
    results = run_json("train", *arguments(data, tmp_path / "run", "trainer.val_freq=1"))
    assert results["run_directory"] == str(tmp_path / "run") and results["state"] == "finished"
    assert results["step"] == results["total_steps"] == results["last_checkpoint"] == 2
    assert results["train"]["step"] == results["validation"]["step"] == 2
    assert 0 <= results["validation"]["val/accuracy_reward"] <= 1


def test_an_interrupted_run_prints_its_results_too_and_keeps_its_status(data: Path, tmp_path: Path) -> None:
    (tmp_path / "reward.py").write_text(
        "import os, signal\ndef compute_score(rows):\n    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return [{'overall': float(i % 2)} for i, _ in enumerate(rows)]\n"
    )
    reward = f"worker.reward.reward_function={tmp_path}/reward.py:compute_score"
    # one order a run: the second would stop it at once
    args = arguments(data, tmp_path / "run", reward, "trainer.max_steps=3")
    ran = CliRunner().invoke(app, ["train", *args, "--json"])
    assert ran.exit_code == 143, ran.output
    results = json.loads(ran.stdout)
    assert (results["state"], results["last_checkpoint"]) == ("interrupted", 1)


def test_a_dry_run_of_train_names_the_command_that_has_numbers(data: Path, tmp_path: Path) -> None:
    ran = CliRunner().invoke(app, ["train", *arguments(data, tmp_path / "run"), "--dry-run", "--json"])
    assert ran.exit_code != 0 and "plan CONFIG --json" in str(ran.exception)


def test_plan_prints_bytes_and_seconds(data: Path, tmp_path: Path) -> None:
    results = run_json("plan", *arguments(data, tmp_path / "run"), "--gpu", "h100")
    assert results["fits"] is True and results["counts"]["steps"] == 2
    assert results["step_seconds"] == pytest.approx(sum(results["seconds"].values()))
    assert results["memory_bytes"][results["peak_phase"]] == max(results["memory_bytes"].values())


def test_evaluate_prints_each_results_numbers(tmp_path: Path) -> None:
    (result,) = run_json(
        "evaluate", "--benchmark", "synthetic_pictures", "--model", "bundled:qwen2_5_vl_tiny", "n=1", "limit=2",
        "--out", str(tmp_path / "out"),
    )  # fmt: skip
    assert result["spec"]["benchmark"].startswith("synthetic_pictures") and Path(result["path"]).is_dir()
    assert 0 <= result["summary"]["pass_at_1"]["value"] <= 1


def test_grade_prints_all_rows_and_groups(tmp_path: Path) -> None:
    rows = [{"response": "\\boxed{1}", "answer": "1", "kind": "a"}, {"response": "\\boxed{2}", "answer": "1", "kind": "b"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    results = run_json("grade", str(tmp_path / "rows.jsonl"), "--by", "kind")
    assert (results["rows"], results["accuracy"]) == (2, 0.5)
    assert {name: group["accuracy"] for name, group in results["groups"].items()} == {"a": 1.0, "b": 0.0}
    assert results["grader"]["name"] == "math"


def test_compare_prints_json_or_writes_it_into_a_file_beside_the_words(tmp_path: Path) -> None:
    a = write_result(make_result([WRONG] * 12 + [RIGHT] * 28, tmp_path / "a"))
    b = write_result(make_result([RIGHT] * 40, tmp_path / "b"))
    printed = run_json("compare", str(a), str(b))
    assert printed["comparisons"][0]["difference"] == pytest.approx(0.3)
    ran = CliRunner().invoke(app, ["compare", str(a), str(b), "--json", str(tmp_path / "c.json")])
    assert "B is better" in ran.stdout and json.loads((tmp_path / "c.json").read_text()) == printed
    forgotten = CliRunner().invoke(app, ["compare", str(a), str(b), str(tmp_path / "d.json")])
    assert forgotten.exit_code != 0 and "--json" in str(forgotten.exception) and not (tmp_path / "d.json").exists()


def test_report_and_doctor_print_json_alone(data: Path, tmp_path: Path) -> None:
    run = run_here(arguments(data, tmp_path / "run", "trainer.val_freq=1"))
    assert "scores" in run_json("report", str(run))
    assert "versions" in json.dumps(run_json("doctor")) or run_json("doctor")


def test_a_dry_run_of_a_sweep_prints_how_its_runs_stand(data: Path, tmp_path: Path) -> None:
    file = write_sweep(tmp_path, data, {**GMPO, **NO_CLIP}, seeds=[1, 2])
    results = run_json("sweep", str(file), "--dry-run", "--out", str(tmp_path / "out"))
    assert [(run["variant"], run["seed"], run["state"]) for run in results["runs"]] == [
        ("gmpo", 1, "waiting"), ("no_clip", 1, "waiting"), ("gmpo", 2, "waiting"), ("no_clip", 2, "waiting"),
    ]  # fmt: skip


def test_numbers_that_json_does_not_have_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": math.nan, "b": [math.inf, 1.0], "c": Path("x"), 1: True})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, 1.0], "c": "x", "1": True}
