"""The real lm-eval runs what `gmpo-mm export-task` wrote, and its numbers are those of `gmpo-mm evaluate`.

Where lm-eval is not installed every test here is skipped: `make test-lm-eval` makes an environment with it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gmpo_mm.errors import DataError
from gmpo_mm.evaluation.evaluate import evaluate
from gmpo_mm.evaluation.export_task import ExportedTask, export_task
from gmpo_mm.evaluation.grade_file import GradeFileSettings, grade_file
from gmpo_mm.evaluation.results import Result
from gmpo_mm.evaluation.settings import load_settings
from gmpo_mm.evaluation.statistics import summarise
from gmpo_mm.toys.countdown import TINY, make_rows, make_splits
from tests.evaluation.evaluations import DATA, ROOT

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None,
    reason="lm-eval is not installed here; run `make test-lm-eval`",
)
BUNDLED = ROOT / "gmpo_mm/toys/bundled"
GREEDY = ["n=1", "temperature=0"]


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def run_lm_eval(task: ExportedTask, model: str, **options: Any) -> dict[str, Any]:
    """lm-eval's results and samples of an exported task, in this process."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    results = simple_evaluate(
        model="hf-multimodal" if task.has_pictures else "hf",
        model_args={"pretrained": str(BUNDLED / model), "dtype": "float32"},
        tasks=[task.name],
        task_manager=TaskManager(include_path=str(task.path), include_defaults=False),
        device="cpu",
        bootstrap_iters=0,
        **{"apply_chat_template": task.chat} | options,
    )
    assert results is not None
    return dict(results)


def run_ours(benchmark: str, changes: list[str], model: str, out: Path) -> Result:
    changes = [*changes, "threads=1"]
    settings = load_settings(
        None, changes, {"model": f"bundled:{model}", "benchmarks": [benchmark], "out": str(out)}
    )
    (result,) = evaluate(settings)
    return result


def compare_greedy(benchmark: str, changes: list[str], model: str, folder: Path) -> tuple[list[str], str]:
    """Both tools' greedy responses and Pass@1 have to be equal; returns the responses and lm-eval's first prompt."""
    task = export_task(benchmark, [*changes, *GREEDY], out=str(folder / "task"))
    ours = run_ours(benchmark, [*changes, *GREEDY], model, folder / "ours")
    theirs = run_lm_eval(task, model)
    samples = theirs["samples"][task.name]
    assert [sample["resps"] for sample in samples] == [[[sample.response]] for sample in ours.samples]
    assert [sample["pass@1"] for sample in samples] == [float(sample.correct) for sample in ours.samples]
    assert theirs["results"][task.name]["pass@1,all"] == summarise(ours)["pass_at_1"]["value"]
    return [sample.response for sample in ours.samples], samples[0]["arguments"][0][0]


def test_greedy_responses_to_pictures_and_pass_at_1_are_those_of_gmpo_mm_evaluate(tmp_path: Path) -> None:
    responses, _ = compare_greedy("synthetic_pictures", ["limit=12"], "qwen2_5_vl_tiny", tmp_path)
    assert all("\\boxed{" in text for text in responses)


def test_greedy_responses_to_text_and_pass_at_1_are_those_of_gmpo_mm_evaluate(tmp_path: Path) -> None:
    rows = make_rows(make_splits(TINY, 4, 24)["test"], "test", 0, "short")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "test.parquet")
    changes = [f"records.countdown={tmp_path / 'test.parquet'}", "max_tokens=24"]
    responses, _ = compare_greedy("countdown", changes, "qwen2_tiny", tmp_path)
    assert len(set(responses)) > 12


def test_geometry3ks_protocol_on_its_real_pictures_gives_the_same_prompts_and_pass_at_1(
    tmp_path: Path,
) -> None:
    file = DATA / "geometry3k_test.parquet"
    if not file.is_file():
        pytest.skip(f"no {file.name}: the project's shared data is not here")
    changes = [f"records.geometry3k_small={file}", "limit=8", "template=geometry3k"]
    _, prompt = compare_greedy("benchmarks/geometry3k_small", changes, "qwen2_5_vl_tiny", tmp_path)
    assert prompt.startswith("<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>")
    assert "\n\nWork through the figure" in prompt and prompt.endswith("<|im_start|>assistant\n")


def test_sampled_responses_get_the_grades_that_gmpo_mm_grade_gives_lm_evals_own_log(tmp_path: Path) -> None:
    task = export_task("synthetic_pictures", ["limit=8", "n=4", "temperature=1"], out=str(tmp_path / "task"))
    command = (
        task.command()
        .replace("MODEL", f"{BUNDLED / 'qwen2_5_vl_tiny'},dtype=float32")
        .replace("OUT", str(tmp_path / "out"))
    )
    process = subprocess.run(
        [sys.executable, "-m", "lm_eval", *command.split()[1:], "--device", "cpu", "--batch_size", "32"],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.returncode == 0, process.stdout + process.stderr
    (log,) = (tmp_path / "out").glob("*/samples_*.jsonl")
    (file,) = (tmp_path / "out").glob("*/results_*.json")
    printed = json.loads(file.read_text())["results"][task.name]
    report = grade_file(GradeFileSettings(str(log), grader="math", extraction="boxed"))
    assert (report.total.rows, report.total.samples) == (8, 32)
    assert printed["pass@1,all"] == pytest.approx(report.total.accuracy, abs=1e-12)
    assert 0 < printed["pass@1,all"] <= printed["pass@2,all"] <= printed["pass@4,all"] <= 1
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert any(len(set(row["resps"][0])) > 1 for row in rows)


def test_a_prompt_that_is_not_the_protocols_is_refused_before_the_sampling(tmp_path: Path) -> None:
    task = export_task("synthetic_pictures", ["limit=2", *GREEDY], out=str(tmp_path / "task"))
    with pytest.raises(DataError, match="add --apply_chat_template"):
        run_lm_eval(task, "qwen2_5_vl_tiny", apply_chat_template=False)
    with pytest.raises(DataError, match="--system_instruction would change"):
        run_lm_eval(task, "qwen2_5_vl_tiny", system_instruction="Be brief.")
