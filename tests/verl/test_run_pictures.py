"""A whole run of verl on the CPU, one worker: the bundled vision-language model and its pictures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import gmpo_mm
from gmpo_mm.data.prompts import load_images
from tests.verl.runs import LIMIT, ROOT, finish, lines, pictures, start

RECORDED = "trainer.record_steps=[1]"


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run of two steps: its directory and its output; `batch.pt` beside it holds the first step's batch."""
    folder = tmp_path_factory.mktemp("pictures")
    return folder / "run", finish(start(pictures(data, folder / "run", RECORDED), str(folder / "batch.pt")))


@pytest.mark.timeout(LIMIT)
def test_a_run_writes_everything_of_a_run_directory(finished: tuple[Path, str]) -> None:
    run, output = finished
    state = json.loads((run / "run.json").read_text())
    assert (state["state"], state["step"], state["total_steps"], state["last_checkpoint"]) == ("finished", 2, 2, 2)
    environment = json.loads((run / "environment.json").read_text())
    assert environment["engine"] == "verl" and environment["verl"] == "0.9.1" and environment["TransferQueue"]
    assert "engine: verl" in (run / "config.yaml").read_text()
    assert "It does not exercise vLLM" in " ".join(output.split())
    assert (run / "latest_checkpointed_iteration.txt").read_text() == "2"
    assert {"global_step_1", "global_step_2"} <= {path.name for path in run.iterdir()}


@pytest.mark.timeout(LIMIT)
def test_sampler_and_trainer_are_the_same_model_before_and_after_the_weights_moved(finished: tuple[Path, str]) -> None:
    train = lines(finished[0], "train")
    assert [line["step"] for line in train] == [1, 2]
    for line in train:
        assert line["rollout/kl"] < 1e-5 and line["rollout/log_prob_gap_max"] < 1e-3
        assert line["actor/grad_norm"] > 0 and line["actor/updates"] == 1
    assert train[0]["actor/kl_ref"] == pytest.approx(0, abs=1e-6), "the reference is the model that training starts from"
    assert train[1]["actor/kl_ref"] > 1e-7, "the weights moved, and the sampler with them"


@pytest.mark.timeout(LIMIT)
def test_metrics_and_samples_are_those_of_every_engine(finished: tuple[Path, str]) -> None:
    run, _ = finished
    train, validation, updates = (lines(run, kind) for kind in ("train", "validation", "updates"))
    for line, update in zip(train, updates, strict=True):
        assert 0 < line["ratio/token_min"] <= 1 <= line["ratio/token_max"]
        assert [line["ratio/token_min"]] == update["ratio/token_min"]
        assert line["actor/entropy"] > 0 and 0 <= line["response/truncated_frac"] <= 1
        assert 0 <= line["group/zero_advantage_frac"] <= 1 and line["verifier/timeout_frac"] == 0
        assert 0 <= line["reward/accuracy"] <= 1 and "critic/score/mean" in line and "timing_s/gen" in line
    assert [line["step"] for line in validation] == [0, 2]
    rows = [json.loads(text) for text in (run / "samples" / "step_0_validation.jsonl").read_text().splitlines()]
    assert len(rows) == 6 * 4
    assert {"id", "prompt", "ground_truth", "response", "tokens", "overall", "accuracy", "format"} <= rows[0].keys()
    assert sum(row["accuracy"] for row in rows) / len(rows) == pytest.approx(validation[0]["val/accuracy_reward"])
    by_problem = {row["id"]: [other["response"] for other in rows if other["id"] == row["id"]] for row in rows}
    assert len(by_problem) == 6 and any(len(set(responses)) > 1 for responses in by_problem.values()), "sampled, not greedy"


@pytest.mark.timeout(LIMIT)
def test_the_local_engine_makes_the_same_update_from_the_same_batch(finished: tuple[Path, str], data: Path) -> None:
    """The whole chain: our data in verl's loader, its agents, reference, queue, FSDP2, checkpoint and our merge."""
    from gmpo_mm.runs.fsdp_checkpoint import merged_model
    from tests.verl.same_update import local_weights

    run, _ = finished
    before, expected, prompts_agree = local_weights(run, run.parent / "batch.pt", data / "geometry" / "train.parquet")
    assert prompts_agree, "both engines build the same prompt"
    found = load_file(merged_model(run / "global_step_1") / "model.safetensors")
    assert found.keys() == expected.keys() == before.keys()
    moved = torch.cat([(expected[name] - weight).flatten() for name, weight in before.items()])
    apart = torch.cat([(expected[name] - weight).flatten() for name, weight in found.items()])
    assert moved.abs().max() > 1e-5
    # AdamW's first step is the sign of the gradient nearly everywhere, so a few weights with almost none differ most
    assert apart.abs().max() < 1e-5 and apart.norm() < 1e-3 * moved.norm()


@pytest.mark.timeout(LIMIT)
def test_a_record_has_the_pictures_and_the_local_engine_repeats_it(finished: tuple[Path, str], data: Path) -> None:
    from gmpo_mm.config import load_config
    from gmpo_mm.data import RecordKeys, load_records
    from gmpo_mm.runs.step_record import picture_name
    from tests.verl.repeated import hash_of, repeated_on_local

    run, _ = finished
    records = load_records(
        str(data / "geometry" / "train.parquet"), RecordKeys.from_data_config(load_config(run / "config.yaml").config.data)
    )
    by_id = {str(record.id): record for record in records}
    kept = torch.load(run.parent / "batch.pt", weights_only=True)
    record = gmpo_mm.load_step(run, 1)
    for prompt in record.prompts:
        source = by_id[prompt.id]
        pictures = load_images(source)
        assert prompt.images == tuple(map(picture_name, pictures)) and len(prompt.images) == 1
        assert all((run / "rollouts" / "pictures" / f"{name}.png").is_file() for name in prompt.images)
        patches = int(prompt.image_grid_thw_N3.prod())
        assert (prompt.input_ids_S == 334).sum() * 4 == patches, "one token for four patches"
        assert prompt.problem == source.problem and prompt.answer == source.answer
        assert prompt.text.count("<|image_pad|>") == 1 and source.problem.removeprefix("<image>") in prompt.text
        assert torch.equal(prompt.input_ids_S, kept["prompts"][kept["id"].index(prompt.id)])
    assert record.weights_after == hash_of(run / "global_step_1")
    rewards = lines(run, "train")[0]
    assert record.rewards_B.mean().item() == pytest.approx(rewards["reward/overall"])
    assert record.reward_parts["accuracy"].mean().item() == pytest.approx(rewards["reward/accuracy"])
    repeated_on_local(run, 1)


@pytest.mark.timeout(LIMIT)
def test_one_evaluator_judges_its_checkpoints(finished: tuple[Path, str]) -> None:
    run, _ = finished
    command = [sys.executable, "-m", "gmpo_mm.cli", "evaluate", "--model", str(run), "--benchmark", "synthetic_pictures"]
    out = run.parent / "evaluation"
    done = subprocess.run(
        [*command, "limit=4", "n=2", "threads=1", "--out", str(out)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(next(out.rglob("evaluation.json")).read_text())
    assert result["model"] == str(run / "global_step_2" / "actor" / "huggingface") and result["model_hash"]


@pytest.mark.timeout(LIMIT)
def test_a_finished_run_and_a_changed_one_end_before_ray_starts(finished: tuple[Path, str], data: Path) -> None:
    texts = pictures(data, finished[0])
    assert "nothing to train: the run in" in finish(start(texts))
    changed = start([*texts, "worker.actor.gmpo.log_clip_low=0.2"])
    output, _ = changed.communicate(timeout=LIMIT)
    assert changed.returncode != 0 and "holds a run of another configuration" in output
    assert "Ray " not in output.split("holds a run")[0].replace("Raylet", "")
