"""The map of a sweep: which runs count as collapsed, its numbers against naive loops, cells without runs, its pictures."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from gmpo_mm.errors import DataError, TrainingError
from gmpo_mm.reports.map_report import MapReport, map_report
from gmpo_mm.reports.report import Report, write_report
from gmpo_mm.reports.sources import read_study
from gmpo_mm.reports.study_map import collapse_of, ended_by_guard
from gmpo_mm.runs.metrics_file import MetricsFile
from tests.engine.runs import arguments, run_here, write_data

ROWS, COLUMNS, SEEDS = {"grpo": "GRPO", "gmpo": "GMPO"}, {"k0": "0", "k8": "8"}, (1, 2, 3)
BOUND = 1.0
GUARD = "step 7: after the update 3 of 40 weights hold NaN or infinity (lm_head.weight); lower worker.actor.optim.lr"


def write_map_run(
    folder: Path,
    scores: Sequence[float],
    kl: float = 0.1,
    *,
    state: str = "finished",
    reason: str | None = None,
) -> None:
    """A validation at steps 0, 10, ...; training metrics at step 1 and at the last one, where KL and entropy are other ones."""
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"state": state, "exit_reason": reason}))
    file = MetricsFile(folder / "metrics.jsonl")
    for i, score in enumerate(scores):
        if i == 1:
            file.log_metrics(1, "train", {"actor/kl_ref": 7.0, "actor/ppo_kl": 9.0, "actor/entropy": 3.0})
        if i == len(scores) - 1 and i:
            file.log_metrics(
                10 * i, "train", {"actor/kl_ref": kl, "actor/ppo_kl": 9.0, "actor/entropy": 2 * kl}
            )
        file.log_metrics(10 * i, "validation", {"val/accuracy_reward": score})


def write_map_sweep(
    folder: Path, runs: Mapping[tuple[str, str, int], Mapping[str, Any]], **changes: Any
) -> Path:
    """sweep.json and its runs. (row, column, seed) -> arguments of `write_map_run`; a run without any is waiting."""
    entries = []
    for (row, column, seed), given in runs.items():
        variant = f"{row}_{column}"
        if given:
            write_map_run(folder / f"runs/{variant}/seed_{seed}", **given)
        state = given.get("state", "finished") if given else "waiting"
        entries.append({
            "variant": variant, "seed": seed, "directory": f"runs/{variant}/seed_{seed}", "log": "x.log", "evaluations": {},
            "state": state, "reason": given.get("reason"), "seconds": 1.0,
        })  # fmt: skip
    grid = {
        "axis": "staleness (steps)", "collapse_kl": BOUND, "exponents": {"gmpo": 0.0, "grpo": 1.0}, "panels": [],
        "rows": [{"name": name, "label": label} for name, label in ROWS.items()],
        "columns": [{"name": name, "label": label} for name, label in COLUMNS.items()],
        "cells": {f"{row}_{column}": ["", row, column] for row in ROWS for column in COLUMNS},
    }  # fmt: skip
    variants = [
        {"name": f"{row}_{column}", "label": f"{ROWS[row]}, {COLUMNS[column]}", "overrides": []}
        for row in ROWS for column in COLUMNS
    ]  # fmt: skip
    data = {"format": 1, "name": "m", "title": "A map", "command": ["gmpo-mm", "sweep", "m.yaml"], "target_score": None,
            "paper": None, "variants": variants, "runs": entries, "map": grid}  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sweep.json").write_text(json.dumps(data | changes))
    return folder


FINISHED: dict[tuple[str, str, int], dict[str, Any]] = {
    ("grpo", "k0", 1): {"scores": [0.2, 0.5, 0.6]},
    ("grpo", "k0", 2): {"scores": [0.2, 0.5, 0.5], "kl": 0.3},
    ("grpo", "k0", 3): {"scores": [0.2, 0.1, 0.7]},  # a low between is no collapse
    ("grpo", "k8", 1): {"scores": [0.3, 0.5, 0.2]},  # below its start
    ("grpo", "k8", 2): {"scores": [0.3, 0.5, 0.9], "kl": 1.5},  # far from its start
    ("grpo", "k8", 3): {"scores": [0.3, 0.5], "state": "failed", "reason": GUARD},
    ("gmpo", "k0", 1): {"scores": [0.2, 0.5, 0.65], "kl": 1.0},  # at the bound, not above it
    ("gmpo", "k0", 2): {"scores": [0.6, 0.5, 0.6]},  # as high as its start, not below it
    ("gmpo", "k0", 3): {"scores": [0.2, 0.4], "kl": 5.0, "state": "running"},  # a large KL on the way is no end
    ("gmpo", "k8", 1): {"scores": [0.3, 0.1], "state": "failed", "reason": "exit code 1: out of memory"},
    ("gmpo", "k8", 2): {},
    ("gmpo", "k8", 3): {},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_map_sweep(tmp_path_factory.mktemp("map") / "m", FINISHED)


@pytest.fixture(scope="module")
def report(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    return write_report([folder], tmp_path_factory.mktemp("report"))


def numbers(folder: Path) -> MapReport:
    """A report's parts, with nothing drawn or written."""
    study = read_study([folder])
    assert study.map is not None
    return map_report(study, study.map)


def cell(found: MapReport, row: str, column: str) -> dict[str, Any]:
    return next(one for one in found.numbers["cells"] if (one["row"], one["column"]) == (row, column))


def test_means_and_intervals_are_those_of_a_naive_loop(folder: Path) -> None:
    parts = numbers(folder)
    for (row, column), scores, kls in (
        (("grpo", "k0"), [0.6, 0.5, 0.7], [0.1, 0.3, 0.1]),
        (("gmpo", "k0"), [0.65, 0.6], [1.0, 0.1]),
        (
            ("grpo", "k8"),
            [0.2, 0.9],
            [0.1, 1.5, 0.1],
        ),  # the guard's run has no final score, and a KL at its last step
    ):
        found = cell(parts, row, column)
        assert found["score"]["mean"] == pytest.approx(sum(scores) / len(scores))
        spread = math.sqrt(
            sum((x - sum(scores) / len(scores)) ** 2 for x in scores) / (len(scores) - 1) / len(scores)
        )
        half = stats.t.ppf(0.975, len(scores) - 1) * spread
        assert found["score"]["low"] == pytest.approx(max(0.0, np.mean(scores) - half))
        assert found["score"]["high"] == pytest.approx(min(1.0, np.mean(scores) + half))
        assert list(found["kl"]["values"]) == kls
        assert found["entropy"]["mean"] == pytest.approx(2 * sum(kls) / len(kls))


def test_a_run_collapses_by_its_score_its_kl_or_the_guard_and_by_nothing_else(folder: Path) -> None:
    parts = numbers(folder)
    lines = csv.DictReader(io.StringIO(parts.csv))
    why = {(line["row"], line["column"], line["seed"]): line["collapse"] for line in lines}
    assert why.pop(("grpo", "k8", "1")) == "score 0.2 below its start 0.3"
    assert why.pop(("grpo", "k8", "2")) == "KL 1.5 above 1"
    assert why.pop(("grpo", "k8", "3")) == "weights or gradients not finite"
    assert set(why.values()) == {""}
    found = cell(parts, "grpo", "k8")
    assert (found["collapsed"], found["ended"], found["beyond"]) == (3, 3, True)
    assert not cell(parts, "grpo", "k0")["beyond"]


def test_runs_that_have_not_ended_or_ended_by_an_error_are_missing_and_not_collapsed(
    folder: Path, report: Report
) -> None:
    parts = numbers(folder)
    found = cell(parts, "gmpo", "k0")
    assert (found["runs"], found["ended"], found["collapsed"], found["score"]["values"]) == (
        3,
        2,
        0,
        (0.65, 0.6),
    )
    found = cell(parts, "gmpo", "k8")
    assert (found["runs"], found["ended"], found["collapsed"], found["beyond"], found["score"]) == (
        3,
        0,
        0,
        False,
        None,
    )
    text = (report.folder / "report.md").read_text()
    assert "1 run running, 2 runs waiting." in text and "seed 2: waiting" not in text
    assert "Runs that ended by an error" in text and "GMPO, 8, seed 1: exit code 1: out of memory" in text
    assert "- GMPO: no run collapsed; nothing has ended at 8." in text
    notes = report.numbers["figures"]["map"]["notes"]
    assert notes == ["Not all runs of 2 of the 4 cells have ended."]


def test_half_of_the_runs_is_not_beyond_the_boundary(tmp_path: Path) -> None:
    runs = {key: value for key, value in FINISHED.items() if key[2] != 3}
    runs["grpo", "k8", 2] = {"scores": [0.3, 0.5, 0.9]}
    found = cell(numbers(write_map_sweep(tmp_path / "m", runs)), "grpo", "k8")
    assert (found["collapsed"], found["ended"], found["beyond"]) == (1, 2, False)


def test_a_score_that_is_no_number_is_a_collapse(tmp_path: Path) -> None:
    runs = {**FINISHED, ("grpo", "k0", 1): {"scores": [0.2, 0.5, math.nan]}}
    found = cell(numbers(write_map_sweep(tmp_path / "m", runs)), "grpo", "k0")
    assert found["collapsed"] == 1


def test_one_seed_has_a_mean_and_no_interval(tmp_path: Path) -> None:
    runs = {key: value for key, value in FINISHED.items() if key[2] == 1}
    parts = numbers(write_map_sweep(tmp_path / "m", runs))
    found = cell(parts, "grpo", "k0")["score"]
    assert (found["mean"], found["low"], found["high"]) == (0.6, None, None)
    assert "one seed" in parts.table.rows[0].cells


def test_a_map_whose_runs_have_not_begun_says_so(tmp_path: Path) -> None:
    report = write_report([write_map_sweep(tmp_path / "m", {key: {} for key in FINISHED})], tmp_path / "r")
    assert "0 of 12 runs ended" in report.headline
    assert not report.numbers["figures"]["map"]["drawn"] and not (report.folder / "figures/map.png").exists()


def test_the_bound_is_the_sweeps_and_is_said_with_the_picture(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "m"))
    data = json.loads((copy / "sweep.json").read_text())
    data["map"]["collapse_kl"] = 2.0
    (copy / "sweep.json").write_text(json.dumps(data))
    parts = numbers(copy)
    assert cell(parts, "grpo", "k8")["collapsed"] == 2
    assert "is above 2 nats a token" in parts.figures[0].about


def test_without_a_reference_the_kl_is_that_to_the_old_policy_and_is_called_so(
    folder: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "m"))
    for file in copy.rglob("metrics.jsonl"):
        file.write_text(file.read_text().replace("actor/kl_ref", "x/kl_ref"))
    parts = numbers(copy)
    assert parts.numbers["kl"] == "actor/ppo_kl"
    assert "its KL to the old policy" in parts.figures[0].about
    assert cell(parts, "grpo", "k0")["collapsed"] == 3  # 9 nats


def test_pictures_are_there_and_the_same_each_time(report: Report, folder: Path, tmp_path: Path) -> None:
    again = write_report([folder], tmp_path / "again")
    for name in ("map", "curves", "atlas"):
        for theme in ("", "_dark"):
            first, second = (one.folder / f"figures/{name}{theme}.png" for one in (report, again))
            with Image.open(first) as picture:
                assert picture.width > 1000
            assert first.read_bytes() == second.read_bytes()
    assert (report.folder / "map.csv").read_bytes() == (again.folder / "map.csv").read_bytes()
    assert again.numbers["map"] == report.numbers["map"]


def test_a_sweep_whose_variants_have_no_place_in_its_map_is_an_error(folder: Path, tmp_path: Path) -> None:
    data = json.loads((folder / "sweep.json").read_text())
    del data["map"]["cells"]["grpo_k8"]
    (tmp_path / "sweep.json").write_text(json.dumps(data | {"runs": []}))
    with pytest.raises(DataError, match="without a place in its map: grpo_k8"):
        read_study([tmp_path])


@pytest.mark.slow
def test_a_run_that_the_guard_ended_is_known_by_its_own_words(tmp_path: Path) -> None:
    """The words are the trainer's own, of a real run with a loss that is no number."""
    (tmp_path / "loss.py").write_text(
        "from gmpo_mm.algorithms import register_policy_loss\n\n\n"
        "@register_policy_loss('broken')\n"
        "def broken(log_probs_BT, old_BT, advantages_BT, mask_BT, config):\n"
        "    return log_probs_BT * float('nan')\n"
    )
    data, run = write_data(tmp_path / "data"), tmp_path / "run"
    with pytest.raises(TrainingError):
        run_here(arguments(data, run, f"worker.actor.loss_type={tmp_path}/loss.py:broken"))
    [variant] = read_study([run]).variants
    assert variant.runs[0].state == "failed" and ended_by_guard(variant.runs[0])
    assert collapse_of(variant.runs[0], None, None, None, BOUND, []) == "weights or gradients not finite"
