"""The page of the run directory names every file and every field that a run, an evaluation and a sweep write."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from gmpo_mm.evaluation.evaluate import evaluate
from gmpo_mm.evaluation.results import GraderInfo, Problem, Protocol, Sample, Spec
from gmpo_mm.evaluation.settings import EvaluateSettings
from gmpo_mm.sweeps.directory import RunRecord, SweepDirectory
from gmpo_mm.sweeps.sweep_file import Sweep, Variant
from tests.docs.generator import REFERENCE, rows_below

PAGE = (REFERENCE / "run_directory.md").read_text(encoding="utf-8")


def named(heading: str, column: int = 0) -> set[str]:
    """What stands in backquotes in a column of a section's table."""
    return {name for row in rows_below(PAGE, heading) for name in re.findall(r"`([^`]+)`", row[column])}


def files_not_named(folder: Path, names: set[str]) -> list[str]:
    """Files of a folder that no name is for; a name that ends in / is for all in it."""
    patterns = [
        re.escape(name).replace("step_N", r"step_\d+") + (".*" if name.endswith("/") else "")
        for name in names
    ]
    paths = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return sorted(path for path in paths if not any(re.fullmatch(pattern, path) for pattern in patterns))


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_every_file_of_a_run_is_named(dense_run: Path) -> None:
    assert files_not_named(dense_run, named("## Directory of a run")) == []
    checkpoint = next((dense_run / "checkpoints").glob("step_*"))
    assert files_not_named(checkpoint, named("### Checkpoints")) == []
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    assert manifest.keys() | next(iter(manifest["files"].values())).keys() <= named("### Checkpoints", 1)


def test_every_field_of_run_json_and_the_samples_is_named(dense_run: Path) -> None:
    assert json.loads((dense_run / "run.json").read_text()).keys() <= named("### run.json")
    rewards = {"no_answer", "verifier_timeout", "verifier_error", "not_evaluated"}
    for file in (dense_run / "samples").iterdir():
        assert lines_of(file)[0].keys() <= named("### Samples") | rewards


def test_every_file_and_field_of_an_evaluation_is_named(tmp_path: Path) -> None:
    settings = EvaluateSettings(
        model="bundled:qwen2_5_vl_tiny",
        benchmarks=["synthetic_pictures"],
        limit=2,
        n=2,
        threads=1,
        out=str(tmp_path),
    )
    (result,) = evaluate(settings)
    assert files_not_named(result.path, named("## Evaluation directory")) == []
    assert result.summary.keys() <= named("### summary.json")
    assert result.summary["pass_at_1"].keys() | result.summary["tokens"].keys() <= named(
        "### summary.json", 1
    )
    assert lines_of(result.path / "samples.jsonl")[0].keys() == named("### samples.jsonl")
    assert {item.name for item in fields(Sample)} == named("### samples.jsonl")
    assert {item.name for item in fields(Problem)} <= named("## Evaluation directory", 1)
    assert json.loads((result.path / "evaluation.json").read_text()).keys() == named("### evaluation.json")
    assert {item.name for kind in (Protocol, GraderInfo) for item in fields(kind)} <= named(
        "### evaluation.json", 1
    )
    assert {item.name for item in fields(Spec)} == named("### evaluation.json")


def test_every_field_of_sweep_json_is_named(tmp_path: Path) -> None:
    sweep = Sweep(name="small", base="base.yaml", variants=(Variant("a", "A"),), seeds=(1,))
    directory = SweepDirectory(tmp_path, sweep, (), (), ("gmpo-mm",), {("a", 1): RunRecord("a", 1)})
    directory.save()
    content = json.loads((tmp_path / "sweep.json").read_text())
    assert content.keys() == named("### sweep.json")
    assert content["variants"][0].keys() == named("### sweep.json", 1)
    assert content["runs"][0].keys() == named("### Runs in sweep.json")
