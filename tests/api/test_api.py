"""The Python API does what the commands do, with their checks, and shows its numbers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import gmpo_mm
from gmpo_mm.api import Rows, Run
from gmpo_mm.errors import ConfigError, DataError
from tests.data.tools import run_tool


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two steps of the bundled text model."""
    folder = tmp_path_factory.mktemp("api")
    run_tool("countdown.py", "--tiny", "--out", folder / "data")
    return gmpo_mm.train(
        "countdown/gmpo_moe_tiny",
        {
            "data": {
                "train_files": folder / "data/train.parquet@train[:32]", "val_files": folder / "data/test.parquet@train[:8]"
            },
            "data.rollout_batch_size": 4, "worker.actor.global_batch_size": 2, "worker.rollout.n": 4,
            "trainer.max_steps": 2, "trainer.val_freq": 2, "trainer.save_freq": 2, "trainer.logger": ["console"],
            "trainer.run_dir": folder / "run",
        },
    )  # fmt: skip


def test_importing_the_package_imports_no_library() -> None:
    code = "import sys, gmpo_mm; print([name for name in ('torch', 'omegaconf', 'typer') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
    assert {"train", "evaluate", "load_config"} <= set(dir(gmpo_mm))
    with pytest.raises(AttributeError, match="nothing"):
        gmpo_mm.nothing  # noqa: B018


def test_a_configuration_is_a_name_a_file_or_a_mapping_and_overrides_win(tmp_path: Path) -> None:
    named = gmpo_mm.load_config("quickstart", {"worker.rollout.n": 4, "worker.actor.optim.lr": 1e-7})
    assert (named.config.worker.rollout.n, named.config.worker.actor.optim.lr) == (4, 1e-7)
    made = gmpo_mm.load_config({"data": {"train_files": "no"}, "worker.rollout.n": 2}, ["worker.rollout.n=3"])
    assert (made.config.data.train_files, made.config.worker.rollout.n) == ("no", 3)
    with pytest.raises(ConfigError, match=r"worker\.rollout\.m = 4 .*there is no such key"):
        gmpo_mm.load_config("quickstart", {"worker.rollout.m": 4})
    with pytest.raises(ConfigError, match="Did you mean quickstart"):
        gmpo_mm.load_config("quickstar")
    with pytest.raises(ConfigError, match="list"):
        gmpo_mm.load_config("quickstart", "worker.rollout.n=4")


def test_a_run_gives_its_metrics_and_shows_them(run: Run) -> None:
    metrics = run.metrics("train")
    assert [row["step"] for row in metrics] == [1, 2] and list(metrics.frame()["step"]) == [1, 2]
    assert run.results["state"] == "finished" and gmpo_mm.load_run(run.path) == run
    accuracy = f"val/accuracy_reward {run.metrics('validation')[-1]['val/accuracy_reward']:.3f}"
    assert "step 2 of 2" in repr(run) and accuracy in repr(run)
    assert "<table>" in run._repr_html_() and "val/accuracy_reward" in run._repr_html_()
    with pytest.raises(DataError, match=r"run\.json"):
        gmpo_mm.load_run(run.path.parent)


def test_training_has_the_checks_of_the_command(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gmpo-mm data countdown"):
        gmpo_mm.train("countdown/gmpo_moe_tiny", {"data.train_files": "data/countdown_short/train.parquet"})
    with pytest.raises(ConfigError, match="loaded already"):
        gmpo_mm.train(gmpo_mm.load_config("quickstart"), {"worker.rollout.n": 4})


def test_without_pandas_frame_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match="pip install pandas"):
        Rows([{"a": 1}]).frame()
    assert Rows([{"a": "<b>"}])._repr_html_().count("&lt;b&gt;") == 1


def test_evaluations_are_made_compared_and_shown(tmp_path: Path) -> None:
    asked = {"limit": 3, "n": 2, "max_tokens": 8, "threads": 1}
    a, b = (
        gmpo_mm.evaluate("bundled:qwen2_5_vl_tiny", "synthetic_pictures", seed=seed, out=tmp_path / str(seed), **asked)
        for seed in (1, 2)
    )
    assert f"pass_at_1 {a.rows[0]['pass_at_1']:.3f}" in repr(a) and len(a) == 1
    found = gmpo_mm.compare(a, tmp_path / "2")
    assert found[0].score_a == a.rows[0]["pass_at_1"] and found[0].score_b == b.rows[0]["pass_at_1"]
    assert "difference" in repr(found) and list(found.frame()["problems"]) == [3]
    with pytest.raises(ConfigError, match="there is no such key"):
        gmpo_mm.evaluate("bundled:qwen2_5_vl_tiny", "synthetic_pictures", samples=3)


def test_responses_are_graded_in_memory(tmp_path: Path) -> None:
    grades = gmpo_mm.grade([r"It is \boxed{1/2}", r"\boxed{3}", None], ["0.5", "4", "1"])
    assert [grade.correct for grade in grades] == [True, False, False]
    assert repr(grades) == "Grades: 1 of 3 right" and grades.accuracy == 1 / 3
    for wrong in ({"grader": "maths"}, {"extraction": "box"}):
        with pytest.raises(ConfigError):
            gmpo_mm.grade(["1"], ["1"], **wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="lists"):
        gmpo_mm.grade("1", ["1"])
    with pytest.raises(ConfigError, match="golden"):
        gmpo_mm.grade_file(tmp_path / "x.jsonl", golden="a")


def test_a_report_is_written_and_shows_its_headline(run: Run, tmp_path: Path) -> None:
    written = gmpo_mm.report(run, out=tmp_path / "report")
    assert written.html.is_file() and str(written.html) in repr(written)
    assert {row["variant"] for row in written.rows} and "<table>" in written._repr_html_()
