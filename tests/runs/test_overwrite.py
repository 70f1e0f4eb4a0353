"""--overwrite: killed anywhere, the directory holds the former run or the new one, whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gmpo_mm.errors import ConfigError
from gmpo_mm.runs.overwrite import FormerRun
from gmpo_mm.runs.run_directory import RunDirectory


def open_run(path: Path, **options: Any) -> RunDirectory:
    return RunDirectory.open(
        path, **{"resume": "auto", "config": {"trainer": {"n": 1}}, "command": ["x"], **options}
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run with a checkpoint, a note of the user's beside it."""
    path = tmp_path / "run"
    with open_run(path) as opened:
        opened.begin(1)
        opened.log_metrics(1, "train", {"a": 1})
        (path / "checkpoints/step_1").mkdir()
        opened.finish()
    (path / "notes.txt").write_text("mine")
    return path


def names(path: Path) -> set[str]:
    return {item.name for item in path.iterdir()} - {".lock"}


def test_the_former_run_goes_when_the_new_one_begins(run: Path) -> None:
    with open_run(run, overwrite=True, config={"trainer": {"n": 2}}) as opened:
        assert not opened.resuming and "notes.txt" in names(run)
        opened.begin(1)
        assert names(run) == {
            "config.yaml",
            "environment.json",
            "run.json",
            "samples",
            "checkpoints",
            "notes.txt",
        }
        assert list((run / "checkpoints").iterdir()) == []


def test_it_is_back_when_the_new_one_does_not_begin(run: Path) -> None:
    before = names(run)
    with open_run(run, overwrite=True):
        (run / "tensorboard").mkdir()
    assert (
        names(run) - {"tensorboard"} == before
        and json.loads((run / "run.json").read_text())["state"] == "finished"
    )
    with pytest.raises(ConfigError, match="another configuration"):
        open_run(run, config={"trainer": {"n": 2}})


@pytest.mark.parametrize("moved", range(5))
def test_a_kill_while_it_is_set_aside_loses_nothing(run: Path, moved: int) -> None:
    before = names(run)
    FormerRun(run).set_aside()
    aside = sorted((run / ".replaced").iterdir(), key=lambda item: item.name == "run.json")
    for item in aside[moved:]:  # as if only `moved` of them had been moved when it was killed
        item.rename(run / item.name)
    with open_run(run) as opened:
        assert opened.resuming
    assert names(run) == before


def test_a_kill_before_the_new_one_begins_brings_it_back(run: Path) -> None:
    FormerRun(run).set_aside()
    (run / "run.json").write_text(json.dumps({"state": "created", "begun": False}))
    with open_run(run) as opened:
        assert opened.resuming and opened.from_step == 1
    assert (run / "metrics.jsonl").is_file()


def test_a_kill_after_the_new_one_began_leaves_the_new_one(run: Path) -> None:
    FormerRun(run).set_aside()
    (run / "run.json").write_text(json.dumps({"state": "running", "begun": True, "step": 0}))
    (run / "config.yaml").write_text("trainer: {n: 1}\n")
    with open_run(run):
        assert not (run / ".replaced").exists() and not (run / "metrics.jsonl").exists()


def test_what_overwrite_can_not_mean_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="contradict each other"):
        open_run(run, overwrite=True, resume="must")
    with pytest.raises(ConfigError, match="would start from it"):
        open_run(run, overwrite=True, resume=str(run / "checkpoints/step_1"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other/samples").mkdir()
    with pytest.raises(ConfigError, match=r"no run.json, but already holds samples"):
        open_run(tmp_path / "other", overwrite=True)
    assert (tmp_path / "other/samples").is_dir()
