"""A LoRA run is a model like every other run: evaluated, trained on, gone on from, by its directory or a checkpoint's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gmpo_mm.cli import app
from gmpo_mm.config import load_config
from gmpo_mm.models.loading import load_model
from gmpo_mm.runs.usable_model import usable_model
from tests.engine.runs import arguments, run_here
from tests.evaluation.evaluations import evaluate_one

MODEL = "worker.actor.model.model_path"
LORA = ("worker.actor.model.lora.rank=2", "worker.actor.optim.lr=1e-2")


@pytest.fixture(scope="module")
def lora_run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_here(arguments(data, tmp_path_factory.mktemp("lora") / "run", *LORA, "trainer.max_steps=1"))


def test_every_name_of_a_lora_run_is_its_model_and_evaluates(lora_run: Path, tmp_path: Path) -> None:
    step = lora_run / "checkpoints/step_1"
    names = [lora_run, lora_run / "checkpoints", step, step / "huggingface"]
    assert {usable_model(str(name), "model") for name in names} == {str(step / "huggingface")}
    trained = evaluate_one(tmp_path / "run", model=str(lora_run), limit=4)
    whole = evaluate_one(tmp_path / "whole", model=usable_model(str(step), "model", whole=True), limit=4)
    assert [s.response for s in trained.samples] == [s.response for s in whole.samples]
    start = evaluate_one(tmp_path / "start", limit=4)
    assert [s.response for s in trained.samples] != [s.response for s in start.samples]
    assert (
        trained.spec.model == str(step / "huggingface") and trained.spec.model_hash != start.spec.model_hash
    )


@pytest.mark.parametrize("overrides", [(), LORA], ids=["all weights", "lora again"])
def test_a_run_starts_from_a_lora_run_and_keeps_the_checkpoint_that_it_started_from(
    data: Path, lora_run: Path, tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    step = lora_run / "checkpoints/step_1/huggingface"
    args = arguments(data, tmp_path / "next", f"{MODEL}={lora_run}", *overrides, "trainer.max_steps=1")
    args += ["worker.actor.optim.lr=0"]
    run = run_here(args)
    assert load_config(run / "config.yaml").config.worker.actor.model.model_path == str(step)
    before, after = (load_model(usable_model(str(each), "model")).state_dict() for each in (lora_run, run))
    assert all(torch.allclose(after[name], weight, atol=1e-6) for name, weight in before.items())
    assert run_here(args) == run, "the same command again goes on"


def test_a_lora_run_is_planned_and_merged_by_the_command_line(
    data: Path, lora_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app(["merge", str(lora_run)], standalone_mode=False)
    merged = Path(capsys.readouterr().out.splitlines()[-1])
    assert json.loads((merged / "config.json").read_text())["model_type"] == "qwen2_5_vl"
    app(
        ["train", *arguments(data, tmp_path / "next", f"{MODEL}={lora_run}"), "--dry-run"],
        standalone_mode=False,
    )
    assert "Plan for cpu" in capsys.readouterr().out
