"""Evaluations of the bundled model, for real: what is written, that batches change nothing, that nothing is mixed up."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from gmpo_mm.data import picture_loader
from gmpo_mm.data.prompts import Pictures, load_pictures
from gmpo_mm.errors import ConfigError, DataError
from gmpo_mm.evaluation import generators
from gmpo_mm.evaluation.evaluate import evaluate
from gmpo_mm.evaluation.results import Result, read_result
from gmpo_mm.runs.metrics_file import read_metrics
from gmpo_mm.runs.usable_model import usable_model
from tests.engine.runs import arguments, run_here, write_data
from tests.evaluation.evaluations import BUNDLED_FOLDER, evaluate_one, settings


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return evaluate_one(tmp_path_factory.mktemp("finished") / "out")


def test_every_sample_is_written_with_a_grade_that_its_text_bears_out(finished: Result) -> None:
    assert [(s.index, s.sample) for s in finished.samples] == [(i, j) for i in range(12) for j in range(4)]
    for sample in finished.samples:
        boxes = re.findall(r"\\boxed\{([^{}]*)\}", sample.response)
        gold = int(finished.problems[sample.index].golds[0])
        right = bool(boxes) and boxes[-1].strip().isdigit() and int(boxes[-1]) == gold
        assert sample.correct == right, sample
        assert sample.status == ("graded" if boxes and boxes[-1].strip() else "no_answer"), sample
        assert sample.stop_reason in ("stop", "length") and 1 <= sample.tokens <= 24
    assert {s.correct for s in finished.samples} == {True, False}  # or the checks above would see one kind only


def test_pass_at_1_is_the_mean_over_problems_of_the_mean_over_samples(finished: Result) -> None:
    means = [sum(s.correct for s in group) / 4 for group in finished.by_problem]
    assert finished.summary["pass_at_1"]["value"] == pytest.approx(sum(means) / 12, abs=1e-12)


def test_protocol_grader_and_origin_are_written_into_the_result(finished: Result) -> None:
    spec = json.loads((finished.path / "evaluation.json").read_text())
    assert spec["benchmark"] == "synthetic_pictures[:12]"
    assert spec["protocol"]["name"] == "synthetic(n=4)" and spec["protocol"]["temperature"] == 0.5
    assert spec["grader"]["name"] == "math" and spec["grader"]["extraction"] == "boxed" and spec["grader"]["packages"]
    assert spec["backend"] == "hf float32" and len(spec["model_hash"]) == 64 and spec["environment"]["torch"]
    assert finished.spec.name == "synthetic_pictures[:12] [synthetic(n=4)]"


def test_the_page_and_its_pictures_are_there(finished: Result) -> None:
    assert "<html" in (finished.path / "page.html").read_text(encoding="utf-8")
    assert all((finished.path / name).stat().st_size > 0 for p in finished.problems for name in p.pictures)


def test_the_number_of_responses_in_a_batch_changes_no_byte(finished: Result, tmp_path: Path) -> None:
    for batch in (1, 12):
        other = evaluate_one(tmp_path / str(batch), batch=batch)
        for name in ("samples.jsonl", "summary.json", "problems.jsonl"):
            assert (other.path / name).read_bytes() == (finished.path / name).read_bytes(), name


def test_pictures_prepared_ahead_in_threads_change_no_byte(
    finished: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaders: set[str] = set()

    def noted(*args: Any, **options: Any) -> Pictures:
        loaders.add(threading.current_thread().name)
        return load_pictures(*args, **options)

    monkeypatch.setattr(picture_loader, "THREADED_PATCHES", 0)
    monkeypatch.setattr(generators, "load_pictures", noted)
    other = evaluate_one(tmp_path / "ahead", batch=8)  # two problems a call
    assert (other.path / "samples.jsonl").read_bytes() == (finished.path / "samples.jsonl").read_bytes()
    assert any(name.startswith("gmpo-pictures") for name in loaders)
    assert not any(thread.name.startswith("gmpo-pictures") for thread in threading.enumerate())


def test_the_first_problems_get_the_same_samples_with_and_without_the_rest(finished: Result, tmp_path: Path) -> None:
    fewer = evaluate_one(tmp_path / "fewer", limit=5)
    assert fewer.samples == finished.samples[: 5 * 4]
    more_samples = evaluate_one(tmp_path / "more", limit=5, n=6)
    assert [group[:4] for group in more_samples.by_problem] == fewer.by_problem


def test_another_seed_gives_other_samples(finished: Result, tmp_path: Path) -> None:
    other = evaluate_one(tmp_path / "out", seed=2)
    assert [s.response for s in other.samples] != [s.response for s in finished.samples]


@pytest.mark.parametrize("keep", [0, 1, 700, 0.3, 0.77, 0.999])
def test_an_evaluation_cut_off_at_any_byte_ends_with_the_same_bytes(finished: Result, tmp_path: Path, keep: float) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished.path.parent, out)
    folder = out / finished.path.name
    whole = (folder / "samples.jsonl").read_bytes()
    (folder / "samples.jsonl").write_bytes(whole[: int(keep if isinstance(keep, int) else keep * len(whole))])
    for name in ("summary.json", "page.html"):
        (folder / name).unlink()
    evaluate(settings(out))
    for name in ("samples.jsonl", "summary.json", "page.html"):
        assert (folder / name).read_bytes() == (finished.path / name).read_bytes(), name


def test_a_finished_evaluation_is_not_sampled_again(finished: Result) -> None:
    before = (finished.path / "samples.jsonl").stat().st_mtime_ns
    (again,) = evaluate(settings(finished.path.parent))
    assert again.samples == finished.samples
    assert (finished.path / "samples.jsonl").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 9}, "seed: 1 there, 9 now"),
        ({"n": 5}, "protocol.n: 4 there, 5 now"),
        ({"grader": "minerva"}, "grader.name: 'math' there, 'minerva' now"),
        ({"model": str(BUNDLED_FOLDER)}, "model: 'bundled:qwen2_5_vl_tiny' there"),
    ],
)
def test_a_directory_of_another_evaluation_is_refused_with_what_differs(finished: Result, changes: dict, named: str) -> None:
    with pytest.raises(ConfigError, match="holds another evaluation") as caught:
        evaluate(settings(finished.path.parent, **changes))
    assert named in str(caught.value)


def test_overwrite_starts_again(finished: Result, tmp_path: Path) -> None:
    shutil.copytree(finished.path.parent, tmp_path / "out")
    again = evaluate_one(tmp_path / "out", seed=2, overwrite=True)
    assert again.spec.seed == 2 and again.complete


@pytest.mark.parametrize("finished_before", [True, False])
def test_other_weights_under_the_same_path_are_noticed(tmp_path: Path, finished_before: bool) -> None:
    model = tmp_path / "model"
    shutil.copytree(BUNDLED_FOLDER, model)
    first = evaluate_one(tmp_path / "out", model=str(model), limit=2)
    if not finished_before:
        (first.path / "summary.json").unlink()
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    with pytest.raises(ConfigError, match="model_hash: '[0-9a-f]{64}' there, '[0-9a-f]{64}' now"):
        evaluate_one(tmp_path / "out", model=str(model), limit=2)


def test_a_foreign_directory_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "synthetic_pictures-12"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"notes.txt and no evaluation.json; restore it, or give another out"):
        evaluate(settings(tmp_path))


def test_two_benchmarks_share_one_loaded_model_and_keep_apart(tmp_path: Path) -> None:
    both = evaluate(settings(tmp_path / "both", benchmarks=["synthetic_pictures", "synthetic_combinations"], limit=3))
    alone = evaluate_one(tmp_path / "alone", benchmarks=["synthetic_combinations"], limit=3)
    assert [r.spec.benchmark for r in both] == ["synthetic_pictures[:3]", "synthetic_combinations[:3]"]
    assert both[1].samples == alone.samples


def test_a_response_longer_than_the_context_is_an_error_before_sampling(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"max_tokens=100000: with the longest prompt .* set max_tokens to at most \d+"):
        evaluate(settings(tmp_path / "out", max_tokens=100000))
    assert not list((tmp_path / "out").rglob("samples.jsonl"))


def test_a_run_directory_without_a_checkpoint_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ConfigError, match="no complete checkpoint"):
        usable_model(str(tmp_path), "model")


def test_results_read_back_are_what_was_written(finished: Result) -> None:
    assert read_result(finished.path).samples == finished.samples
    assert read_result(finished.path).spec == finished.spec


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"records": {"amc": "x.parquet"}}, "amc is not among the benchmarks synthetic_pictures"),
        ({"benchmarks": ["synthetic_pictures", "synthetic_pictures"]}, "synthetic_pictures is named twice"),
    ],
)
def test_names_that_would_be_mixed_up_are_refused(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate(settings(tmp_path / "out", **changes))


def test_auto_does_not_sample_long_answers_on_a_gpu_without_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gmpo_mm.evaluation import generators

    monkeypatch.setattr(generators, "resolve_device", lambda name: torch.device("cuda:0"))
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "vllm" else real(name, *rest))
    with pytest.raises(ConfigError, match=r"backend = 'auto'.*responses of 2048 tokens.*set backend=hf"):
        evaluate_one(tmp_path / "long", max_tokens=2048)


def test_a_validation_gives_the_number_of_an_evaluation_by_the_same_protocol(tmp_path: Path) -> None:
    """The quickstart prints both; `worker.rollout.seed` is the training's alone."""
    data = write_data(tmp_path / "data", train_size=4, test_size=24)
    overrides = ("trainer.val_only=true", "trainer.val_before_train=true", "worker.rollout.seed=7", "data.train_files=''")
    protocol = "worker.rollout.val_override_config={n: 8, temperature: 0.5}"
    run_dir = run_here(arguments(data, tmp_path / "run", *overrides, protocol))
    (line,) = read_metrics(run_dir / "metrics.jsonl")
    result = evaluate_one(tmp_path / "out", limit=24, n=8)
    assert 0.1 < line["val/accuracy_reward"] == pytest.approx(result.summary["pass_at_1"]["value"], abs=1e-12)


def test_a_number_that_was_changed_in_a_summary_is_noticed(tmp_path: Path, finished: Result) -> None:
    shutil.copytree(finished.path, tmp_path / "out")
    file = tmp_path / "out" / "summary.json"
    whole = file.read_text()
    file.write_text(whole.replace('"n": ', '"n": 1'))
    with pytest.raises(DataError, match=r"summary.json has other numbers than were written"):
        read_result(file.parent)
