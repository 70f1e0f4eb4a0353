"""A real sweep from beginning to end: a failed run among good ones, evaluations, and what the same command does again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from gmpo_mm.errors import ConfigError
from gmpo_mm.evaluation.results import read_result
from gmpo_mm.sweeps.sweep import sweep
from tests.engine.runs import ROOT, file_bytes, metrics_without_times, run_here
from tests.sweeps.sweeps import GMPO, NO_CLIP, STUB, run_sweep, runs_of, states_of, write_bad_reward, write_sweep

STEPS = 3
EVALUATION = {"benchmarks": ["synthetic_pictures"], "limit": 3, "n": 2, "threads": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="module")
def file(folder: Path, data: Path) -> Path:
    """Two good variants with a bad one between them, and an evaluation."""
    (folder / "evaluation.yaml").write_text(yaml.safe_dump(EVALUATION))
    variants = {"gmpo": {"label": "GMPO"}, "bad": {"overrides": [write_bad_reward(folder)]}, **NO_CLIP}
    return write_sweep(
        folder, data, variants, f"trainer.max_steps={STEPS}", "trainer.val_freq=1",
        title="A small sweep", evaluation="evaluation.yaml", target_score=0.5, paper={"table": 4},
    )  # fmt: skip


@pytest.fixture(scope="module")
def done(folder: Path, file: Path) -> tuple[Path, str]:
    """Its directory and output after one call."""
    code, output = run_sweep(file, folder / "out")
    assert code == 1, output
    return folder / "out", output


def test_a_failed_run_is_reported_with_the_end_of_its_log_while_the_rest_go_on(done: tuple[Path, str]) -> None:
    out, output = done
    assert states_of(out) == {"gmpo": "finished", "bad": "failed", "no_clip": "finished"}
    reason = runs_of(out)["bad", 1]["reason"]
    assert "no reward [red]today[/red]" in reason
    assert f"bad, seed 1: failed: {reason}; the end of {out}/logs/bad_seed_1.log:" in output
    assert "in compute_score" in output  # the traceback of the user's file
    assert "2 finished, 1 failed" in output and "Traceback" not in output.split("bad, seed 1: failed")[0]


def test_sweep_json_says_what_the_sweep_is_and_how_each_run_stands(done: tuple[Path, str], file: Path) -> None:
    out, _ = done
    content = json.loads((out / "sweep.json").read_text())
    assert content["format"] == 1 and content["name"] == "small" and content["title"] == "A small sweep"
    assert content["base"] == str(ROOT / "configs/quickstart.yaml") and content["seeds"] == [1]
    assert content["target_score"] == 0.5 and content["paper"] == {"table": 4}
    assert content["command"] == ["gmpo-mm", "sweep", str(file), "--out", str(out)]
    assert [variant["name"] for variant in content["variants"]] == ["gmpo", "bad", "no_clip"]
    assert content["variants"][0]["label"] == "GMPO" and content["variants"][2]["label"] == "no_clip"
    assert content["variants"][2]["overrides"] == ["worker.actor.gmpo.clip=none"]
    run = runs_of(out)["gmpo", 1]
    assert run["directory"] == "runs/gmpo/seed_1" and run["log"] == "logs/gmpo_seed_1.log"
    assert run["evaluations"] == {"synthetic_pictures[:3]": "evaluations/gmpo/seed_1/synthetic_pictures-3"}
    assert run["seconds"] > 0 and run["evaluation_seconds"] > 0 and run["reason"] is None
    assert (out / run["log"]).is_file() and (out / run["directory"] / "run.json").is_file()
    assert yaml.safe_load((out / "sweep.yaml").read_text())["variants"]["gmpo"] == {"label": "GMPO"}


def test_its_runs_are_the_runs_that_train_makes(done: tuple[Path, str], file: Path, tmp_path: Path) -> None:
    out, _ = done
    content = yaml.safe_load(file.read_text())
    overrides = [*content["overrides"], *content["variants"]["no_clip"]["overrides"]]
    single = run_here([content["base"], *overrides, f"trainer.run_dir={tmp_path / 'run'}"])  # its seeds are 1 by default
    assert metrics_without_times(out / "runs/no_clip/seed_1") == metrics_without_times(single)
    assert file_bytes(out / "runs/no_clip/seed_1", STEPS) == file_bytes(single, STEPS)


def test_a_finished_run_is_evaluated_on_its_last_checkpoint(done: tuple[Path, str]) -> None:
    out, _ = done
    for variant in ("gmpo", "no_clip"):
        result = read_result(out / runs_of(out)[variant, 1]["evaluations"]["synthetic_pictures[:3]"])
        assert len(result.samples) == 6
        assert result.spec.model == str(out / f"runs/{variant}/seed_1/checkpoints/step_{STEPS}/huggingface")
    assert runs_of(out)["bad", 1]["evaluations"] == {}


def test_a_dry_run_tells_the_states_and_the_time_from_the_measured_steps(
    done: tuple[Path, str], file: Path, tmp_path: Path
) -> None:
    out, _ = done
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    code, output = run_sweep(file, out, "--dry-run", "seeds=[1,2]")
    assert code == 0, output
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in output.splitlines() if line.startswith("│")]
    rows = [row for row in rows if len(row) == 7]
    assert [row[:3] for row in rows] == [
        ["gmpo", "1", "finished, kept"], ["bad", "1", "failed: step 0, saved 0"], ["no_clip", "1", "finished, kept"],
        ["gmpo", "2", "new"], ["bad", "2", "new"], ["no_clip", "2", "new"],
    ]  # fmt: skip
    assert [row[3] for row in rows] == ["3/3", "0/3", "3/3", "0/3", "0/3", "0/3"]
    lines = [json.loads(line) for line in (out / "runs/gmpo/seed_1/metrics.jsonl").read_text().splitlines()]
    steps = sorted(line["timing_s/step"] for line in lines if line.get("kind") == "train")
    assert rows[0][5] == f"{steps[1]:.2f} s"
    assert rows[0][6] == "" and rows[3][6].endswith(" s") and float(rows[3][6].split()[0]) > 3 * steps[1]
    assert "about " in output and "measured seconds a step" in output
    assert "Dry run: nothing was started or written." in output
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_a_dry_run_of_a_new_sweep_says_that_the_time_is_unknown(file: Path, tmp_path: Path) -> None:
    code, output = run_sweep(file, tmp_path / "new", "--dry-run")
    assert code == 0, output
    assert "3 runs in" in output and "the time is unknown until the first steps" in output
    assert "worker.actor.gmpo.clip" in output  # in what the variants differ
    assert not (tmp_path / "new").exists()


def test_finished_runs_are_kept_variants_are_added_and_a_repaired_run_is_trained(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    file = write_sweep(tmp_path, data, {**GMPO, "bad": {"overrides": [write_bad_reward(tmp_path)]}, **NO_CLIP})
    code, output = run_sweep(file, out, program=STUB)
    assert code == 1 and states_of(out) == {"gmpo": "finished", "bad": "failed", "no_clip": "finished"}, output
    kept = {name: (out / f"runs/{name}/seed_1/metrics.jsonl").read_bytes() for name in ("gmpo", "no_clip")}
    (tmp_path / "bad.py").write_text("from gmpo_mm.rewards.math import compute_score\n")
    added = "variants.only.overrides=[worker.actor.gmpo.clip=sequence]"
    code, output = run_sweep(file, out, added, "--jobs", "2", program=STUB)
    assert code == 0, output
    assert "4 runs in" in output and "2 at once; 2 are finished and kept" in output
    assert states_of(out) == dict.fromkeys(("gmpo", "bad", "no_clip", "only"), "finished")
    assert {name: (out / f"runs/{name}/seed_1/metrics.jsonl").read_bytes() for name in kept} == kept


def refusal(file: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The error of a sweep that may not start, in this process."""
    monkeypatch.chdir(file.parent)
    with pytest.raises(ConfigError) as caught:
        sweep(str(file), [], jobs=None, out=str(out), dry_run=False, command=[])
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "state"), [("sweep.json", "finished"), ("runs/gmpo/seed_1/run.json", "waiting")], ids=["sweep", "run"]
)
def test_a_state_file_that_a_power_cut_left_empty_stops_no_sweep(
    done: tuple[Path, str], folder: Path, file: Path, name: str, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    whole, told = (done[0] / name).read_bytes(), []
    (done[0] / name).write_bytes(b"")
    try:
        sweep(str(file), [], jobs=1, out=str(done[0]), dry_run=True, command=["x"], tell=told.append)
    finally:
        (done[0] / name).write_bytes(whole)
    assert {run["variant"]: run["state"] for run in told[0]["runs"]} == {"gmpo": state, "bad": "waiting", "no_clip": "finished"}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seeds": [2]}, "seeds: [1] there, [2] now"),
        ({"base": "copy.yaml"}, "quickstart.yaml' there, 'copy.yaml' now"),
        ({"evaluation": None}, "evaluation: 'evaluation.yaml' there, '(not set)' now"),
        ({"overrides": "trainer.max_steps=4"}, "'trainer.max_steps=4'] now"),
        (
            {"gmpo": {"overrides": ["worker.actor.gmpo.log_clip_low=0.3"]}},
            "variants.gmpo.overrides: '(not set)' there, ['worker.",
        ),
        ({"gmpo": None}, "variants.gmpo: "),
    ],
)
def test_a_changed_sweep_is_refused_with_what_differs(
    done: tuple[Path, str], folder: Path, file: Path, change: dict[str, Any], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _ = done
    before = (out / "sweep.json").read_bytes()
    (folder / "copy.yaml").write_text((ROOT / "configs/quickstart.yaml").read_text())
    content = yaml.safe_load(file.read_text())
    for key, value in change.items():
        if key == "overrides":
            content[key].append(value)
        elif key == "gmpo":
            content["variants"][key] = value
        else:
            content[key] = value
    content["variants"] = {name: value for name, value in content["variants"].items() if value is not None}
    changed = folder / "changed.yaml"
    changed.write_text(yaml.safe_dump(content, sort_keys=False))
    message = refusal(changed, out, monkeypatch)
    assert "holds another sweep" in message and named in message
    assert "Seeds and variants may be added" in message
    assert (out / "sweep.json").read_bytes() == before


def test_an_edited_base_is_refused_with_the_keys_that_differ(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "base.yaml"
    base.write_text((ROOT / "configs/quickstart.yaml").read_text())
    file = write_sweep(tmp_path, data, GMPO, "trainer.max_steps=1", base=str(base))
    code, output = run_sweep(file, tmp_path / "out", program=STUB)
    assert code == 0, output
    base.write_text(base.read_text().replace("lr: 6.0e-5", "lr: 7.0e-5"))
    message = refusal(file, tmp_path / "out", monkeypatch)
    assert "worker.actor.optim.lr: 6e-05 there, 7e-05 now" in message
    assert "begun with another configuration (was" in message and "base.yaml edited since?" in message


def test_an_edited_evaluation_is_refused(
    done: tuple[Path, str], folder: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = (folder / "evaluation.yaml").read_text()
    try:
        (folder / "evaluation.yaml").write_text(yaml.safe_dump({**EVALUATION, "temperature": 0.7}))
        message = refusal(file, done[0], monkeypatch)
    finally:
        (folder / "evaluation.yaml").write_text(evaluation)
    assert "was evaluated in another way" in message and "0.7 now" in message


def test_a_folder_of_something_else_is_refused(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").write_text("mine")
    assert "holds thesis.tex and no sweep" in refusal(file, tmp_path / "out", monkeypatch)
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {"thesis.tex", ".lock"}


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="needs an evaluation that fails, here for want of a GPU")
def test_a_failed_evaluation_is_reported_and_made_up_for_without_training_again(data: Path, tmp_path: Path) -> None:
    file = write_sweep(tmp_path, data, GMPO, "trainer.max_steps=1", evaluation="evaluation.yaml")
    (tmp_path / "evaluation.yaml").write_text(yaml.safe_dump({**EVALUATION, "device": "cuda"}))
    code, output = run_sweep(file, tmp_path / "out")
    run = runs_of(tmp_path / "out")["gmpo", 1]
    assert code == 1 and run["state"] == "failed" and run["evaluations"] == {}, output
    assert "trained, but the evaluation failed: exit code 2: " in run["reason"] and "cuda" in run["reason"]
    (tmp_path / "evaluation.yaml").write_text(yaml.safe_dump(EVALUATION))
    metrics = (tmp_path / "out/runs/gmpo/seed_1/metrics.jsonl").read_bytes()
    code, output = run_sweep(file, tmp_path / "out")
    assert code == 0 and "training started" not in output, output
    run = runs_of(tmp_path / "out")["gmpo", 1]
    assert (
        run["state"] == "finished" and (tmp_path / "out" / run["evaluations"]["synthetic_pictures[:3]"] / "page.html").is_file()
    )
    assert (tmp_path / "out/runs/gmpo/seed_1/metrics.jsonl").read_bytes() == metrics
