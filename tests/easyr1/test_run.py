"""Whole runs of EasyR1's `RayPPOTrainer` on CPUs: real Ray, real FSDP, the bundled vision-language model and its pictures.

Each run is a process of its own, as a user starts it: this file, with the number of GPUs to declare and overrides.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.ray_nodes import NO_TOKEN, two_ray_nodes

ROOT = Path(__file__).resolve().parents[2]
STEP_LIMIT = 400


def overrides(data: Path, run: Path, gpus: int, *more: str) -> list[str]:
    """Two steps of GMPO with the reference model and KL in the loss; validation at T 0.5, n 16; a checkpoint each step."""
    return [
        "engine=easyr1", f"trainer.n_gpus_per_node={gpus}", f"trainer.run_dir={run}", f"data.train_files={data}/train.parquet",
        f"data.val_files={data}/test_pictures.parquet@train[:6]", "data.rollout_batch_size=4", "data.prompt_key=problem",
        "data.max_prompt_length=64", "data.max_response_length=24", "data.min_pixels=null", "data.max_pixels=null",
        "data.filter_overlong_prompts_workers=1", "algorithm.use_kl_loss=true", "algorithm.kl_penalty=low_var_kl",
        "algorithm.kl_coef=0.01", "worker.actor.loss_type=gmpo", "worker.actor.global_batch_size=4",
        "worker.actor.micro_batch_size_per_device_for_update=2", "worker.actor.micro_batch_size_per_device_for_experience=4",
        "worker.actor.padding_free=false", "worker.actor.dynamic_batching=false", "worker.actor.use_torch_compile=false",
        "worker.actor.model.model_path=bundled:qwen2_5_vl_tiny", "worker.actor.model.enable_gradient_checkpointing=false",
        "worker.actor.optim.lr=1e-4", "worker.actor.fsdp.enable_rank0_init=false", "worker.actor.fsdp.mp_param_dtype=fp32",
        "worker.ref.fsdp.enable_rank0_init=false", "worker.ref.fsdp.mp_param_dtype=fp32", "worker.ref.fsdp.torch_dtype=fp32",
        "worker.rollout.n=4", "worker.rollout.tensor_parallel_size=1",
        "worker.rollout.val_override_config={temperature: 0.5, n: 16}",
        "worker.reward.reward_function=gmpo_mm/rewards/math.py:compute_score", "trainer.max_steps=2", "trainer.val_freq=2",
        "trainer.save_freq=1", "trainer.logger=[console]", *more,
    ]  # fmt: skip


def main(gpus: str, dump: str, *texts: str) -> None:
    """What the test's process does: the launch of a user, with the CPU worker and the batches of the updates kept."""
    import ray

    from gmpo_mm.config import load_config
    from gmpo_mm.engines.easyr1 import trainer
    from gmpo_mm.engines.easyr1.launch import train
    from gmpo_mm.engines.easyr1.preflight import REQUIREMENTS
    from tests.easyr1.cpu_worker import CPUWorker, ray_options, stand_in_for_cuda

    stand_in_for_cuda()
    if gpus != "join":
        ray.init(**ray_options(int(gpus)))
    if dump:
        measure = trainer.batch_metrics

        def keep(batch: Any, end_tokens: list[int]) -> dict[str, float]:
            names = ("prompts", "responses", "response_mask", "advantages", "old_log_probs", "ref_log_probs", "attention_mask")
            kept = {name: batch.batch[name] for name in (*names, "sampler_log_probs") if name in batch.batch}
            if not Path(dump).exists():
                torch.save({**kept, "id": list(batch.non_tensor_batch["id"])}, dump)
            return measure(batch, end_tokens)

        trainer.batch_metrics = keep
    prune = trainer.remove_obsolete_ckpt

    def watched(path: str, step: int, best: int, limit: int) -> None:
        saved = json.loads((Path(path) / "checkpoint_tracker.json").read_text())["last_global_step"]
        print(f"pruning after step {step}; the tracker says {saved}", flush=True)
        prune(path, step, best, limit)

    trainer.remove_obsolete_ckpt = watched
    train(load_config(None, list(texts)), ["a", "test"], requirements=REQUIREMENTS, worker_class=CPUWorker)


def start(gpus: int | str, texts: list[str], dump: str = "", **environment: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, __file__, str(gpus), dump, *texts], cwd=ROOT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=STEP_LIMIT)
    assert process.returncode == 0, output[-6000:]
    return output


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    sizes = ["--train-size", "64", "--test-size", "16"]
    command = [sys.executable, "data_tools/synthetic_geometry.py", "--out", str(folder), *sizes]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module", params=[1, 2], ids=["1 rank", "2 ranks"])
def finished(request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    """A run of two steps: its directory, the ranks, its output; `batch.pt` holds the first step's batch."""
    folder = tmp_path_factory.mktemp(f"ranks_{request.param}")
    texts = overrides(data, folder / "run", request.param)
    output = finish(start(request.param, texts, str(folder / "batch.pt")))
    return folder / "run", request.param, output


def lines(run: Path, kind: str) -> list[dict[str, Any]]:
    from gmpo_mm.runs.metrics_file import read_metrics

    return [line for line in read_metrics(run) if line["kind"] == kind]


@pytest.mark.timeout(STEP_LIMIT)
def test_a_run_writes_everything_of_a_run_directory(finished: tuple[Path, int, str]) -> None:
    run, _, output = finished
    state = json.loads((run / "run.json").read_text())
    assert (state["state"], state["step"], state["total_steps"], state["last_checkpoint"]) == ("finished", 2, 2, 2)
    environment = json.loads((run / "environment.json").read_text())
    assert environment["engine"] == "easyr1" and environment["easyr1"].startswith("0.3.")
    assert environment["transformers"].startswith("4.") and environment["ray"]
    assert "engine: easyr1" in (run / "config.yaml").read_text()
    assert "mean over the sequences of the whole mini-batch" in output
    assert {f"global_step_{n}" for n in (1, 2)} <= {path.name for path in run.iterdir()}


@pytest.mark.timeout(STEP_LIMIT)
def test_a_runs_metrics_have_our_names_beside_easyr1s(finished: tuple[Path, int, str]) -> None:
    run, _, _ = finished
    train, validation, updates = (lines(run, kind) for kind in ("train", "validation", "updates"))
    assert [line["step"] for line in train] == [1, 2] and [line["step"] for line in validation] == [0, 2]
    for line in train:
        assert line["actor/kl_ref"] >= 0 and line["actor/entropy"] > 0 and line["actor/grad_norm"] > 0
        assert 0 < line["ratio/token_min"] <= 1 <= line["ratio/token_max"]
        assert line["ratio/token_min"] == min(updates[line["step"] - 1]["ratio/token_min"])
        assert 0 <= line["group/zero_advantage_frac"] <= 1 and 0 <= line["response/truncated_frac"] <= 1
        assert line["verifier/timeout_frac"] == 0 and "critic/score/mean" in line and "timing_s/gen" in line
    assert train[0]["ratio/token_max"] == pytest.approx(1, abs=1e-4), "on-policy: one update a step, from the same weights"
    assert train[0]["actor/kl_ref"] == pytest.approx(0, abs=1e-6), "the reference is the model that training starts from"
    assert all(0 <= line["val/accuracy_reward"] <= 1 for line in validation)
    rows = [json.loads(text) for text in (run / "samples" / "step_0_validation.jsonl").read_text().splitlines()]
    assert len(rows) == 6 * 16
    assert {"id", "prompt", "ground_truth", "response", "tokens", "overall", "accuracy", "format"} <= rows[0].keys()
    assert sum(row["accuracy"] for row in rows) / len(rows) == pytest.approx(validation[0]["val/accuracy_reward"])
    assert len({row["response"] for row in rows if row["id"] == rows[0]["id"]}) > 1, "sampled, not greedy"


@pytest.mark.timeout(STEP_LIMIT)
def test_the_local_engine_makes_the_same_update_from_the_same_batch(finished: tuple[Path, int, str], data: Path) -> None:
    """The whole chain: EasyR1's data, rollout, reference, dispatch to ranks, FSDP, checkpoint and our merge."""
    run, _, _ = finished
    from tests.easyr1.same_update import local_weights

    before, expected, prompt_tokens_equal = local_weights(run, run.parent / "batch.pt", data / "train.parquet")
    assert prompt_tokens_equal, "both engines build the same prompt"
    from gmpo_mm.runs.fsdp_checkpoint import merged_model

    found = load_file(merged_model(run / "global_step_1") / "model.safetensors")
    assert found.keys() == expected.keys() == before.keys()
    moved = max(float((expected[name] - weight).abs().max()) for name, weight in before.items())
    apart = max(float((expected[name] - weight).abs().max()) for name, weight in found.items())
    assert moved > 5e-5
    assert apart < 1e-5


@pytest.mark.timeout(STEP_LIMIT)
def test_one_evaluator_judges_its_checkpoints(finished: tuple[Path, int, str]) -> None:
    run, _, _ = finished
    command = [sys.executable, "-m", "gmpo_mm.cli", "evaluate", "--model", str(run), "--benchmark", "synthetic_pictures"]
    out = run.parent / "evaluation"
    done = subprocess.run(
        [*command, "limit=4", "n=2", "threads=1", "--out", str(out)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(next(out.rglob("evaluation.json")).read_text())
    assert result["model"] == str(run / "global_step_2" / "actor" / "huggingface") and result["model_hash"]


@pytest.mark.timeout(STEP_LIMIT)
def test_more_steps_go_on_from_the_last_checkpoint(finished: tuple[Path, int, str], data: Path, tmp_path: Path) -> None:
    run, ranks, _ = finished
    shutil.copytree(run, tmp_path / "run")
    more = ("trainer.max_steps=3", "trainer.val_freq=-1", "worker.rollout.val_override_config.n=16")
    output = finish(start(ranks, overrides(data, tmp_path / "run", ranks, *more)))
    assert "finished at step 2; only more steps would be trained" in output
    assert [line["step"] for line in lines(tmp_path / "run", "train")] == [1, 2, 3]
    assert [line["step"] for line in lines(tmp_path / "run", "validation")] == [0, 2, 3]
    assert lines(tmp_path / "run", "train")[2]["actor/kl_ref"] > 1e-7, "the weights of step 2, not those of the start"
    assert (tmp_path / "run" / "global_step_3").is_dir()


@pytest.mark.timeout(3 * STEP_LIMIT)
def test_a_killed_run_goes_on_where_it_was(data: Path, tmp_path: Path) -> None:
    texts = overrides(data, tmp_path / "run", 1, "trainer.max_steps=3", "worker.rollout.val_override_config.n=1")
    process = start(1, texts)
    deadline = time.monotonic() + STEP_LIMIT
    while not (tmp_path / "run" / "checkpoint_tracker.json").is_file():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(process.communicate()[0][-6000:])
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert next(line["step"] for line in lines(tmp_path / "run", "train")) == 1, "no checkpoint is ahead of its metrics"
    process.communicate()
    time.sleep(2)
    done = json.loads((tmp_path / "run" / "checkpoint_tracker.json").read_text())["last_global_step"]
    output = finish(start(1, texts))
    assert f"resuming the run in {tmp_path / 'run'} (killed at step" in output
    assert f"global_step_{done}" in output
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "finished"
    assert [line["step"] for line in lines(tmp_path / "run", "train")] == [1, 2, 3]
    assert [line["step"] for line in lines(tmp_path / "run", "validation")] == [0, 2, 3]
    again = finish(start(1, texts))
    assert "nothing to train: the run in" in again
    changed = start(1, [*texts, "worker.actor.gmpo.log_clip_low=0.2"])
    output, _ = changed.communicate(timeout=STEP_LIMIT)
    assert changed.returncode != 0 and "holds a run of another configuration" in output


@pytest.mark.timeout(STEP_LIMIT)
def test_a_reward_function_that_raises_ends_the_run_with_its_row(data: Path, tmp_path: Path) -> None:
    reward = tmp_path / "broken.py"
    reward.write_text("def compute_score(rows):\n    return [{'overall': 1.0 / (i - 3)} for i, _ in enumerate(rows)]\n")
    texts = overrides(data, tmp_path / "run", 1, f"worker.reward.reward_function={reward}:compute_score")
    process = start(1, texts)
    output, _ = process.communicate(timeout=STEP_LIMIT)
    assert process.returncode != 0
    assert "TrainingError" in output and "broken.py" in output and "ZeroDivisionError" in output
    state = json.loads((tmp_path / "run" / "run.json").read_text())
    assert state["state"] == "failed" and "ZeroDivisionError" in state["exit_reason"]


REWARD_THAT_FAILS_IN_STEP_2 = """
from pathlib import Path

def compute_score(rows):
    written = Path({run!r}, "metrics.jsonl")
    steps = written.read_text().count('"kind": "train"') if written.exists() else 0
    with Path({seen!r}).open("a") as file:
        file.write("".join(f"{{steps}} {{row['ground_truth']}}\\n" for row in rows))
    broken = Path({broken!r}).exists()
    return [{{"overall": len(row["response"]) % 3 / ((1 - steps) if broken else 1)}} for row in rows]
"""


@pytest.mark.timeout(2 * STEP_LIMIT)
def test_a_reward_function_that_raises_in_step_2_leaves_step_1_saved_and_the_same_command_goes_on(
    data: Path, tmp_path: Path
) -> None:
    run, reward, seen, broken = (tmp_path / name for name in ("run", "reward.py", "seen", "broken"))
    reward.write_text(REWARD_THAT_FAILS_IN_STEP_2.format(run=str(run), seen=str(seen), broken=str(broken)))
    broken.touch()
    more = ("data.val_files=", "trainer.val_freq=-1", "trainer.val_before_train=false", "trainer.save_freq=-1")
    texts = overrides(data, run, 2, f"worker.reward.reward_function={reward}:compute_score", *more)
    process = start(2, texts)
    output, _ = process.communicate(timeout=STEP_LIMIT)
    assert process.returncode != 0 and "ZeroDivisionError" in output
    state = json.loads((run / "run.json").read_text())
    assert (state["state"], state["last_checkpoint"]) == ("failed", 1), output[-6000:]
    assert "saved step 1 first" in output

    def asked() -> set[str]:  # after an error each is graded once more to find the row
        return {row for row in seen.read_text().splitlines() if row.startswith("1 ")}

    failed = asked()
    broken.unlink()
    seen.unlink()
    finish(start(2, texts))
    train = lines(run, "train")
    assert [line["step"] for line in train] == [1, 2] and train[1]["actor/kl_ref"] > 1e-7, "the weights of step 1"
    assert asked() == failed and failed, "the step that failed has its prompts again"


@pytest.mark.timeout(STEP_LIMIT)
def test_older_checkpoints_go_after_the_new_one_is_whole(data: Path, tmp_path: Path) -> None:
    few = ("trainer.save_limit=2", "trainer.max_steps=3", "trainer.val_before_train=false", "trainer.val_freq=-1")
    texts = overrides(data, tmp_path / "run", 1, *few, "worker.rollout.val_override_config.n=1")
    output = finish(start(1, texts))
    kept = {path.name for path in (tmp_path / "run").glob("global_step_*")}
    assert kept == {"global_step_1", "global_step_3"}, "the newest, and what EasyR1 takes for the best without a validation"
    for step in (1, 2, 3):
        assert f"pruning after step {step}; the tracker says {step}" in output


@pytest.fixture
def two_nodes(tmp_path: Path) -> Iterator[str]:
    """The address of a Ray cluster of two nodes."""
    with two_ray_nodes(tmp_path, cores=4) as (address, _):
        yield address


@pytest.mark.timeout(2 * STEP_LIMIT)
def test_two_ray_nodes_train_together(two_nodes: str, data: Path, tmp_path: Path) -> None:
    """The multi-node walk-through on one machine: one worker on each node, joined by `ray_address`."""
    texts = overrides(
        data, tmp_path / "run", 1, "trainer.nnodes=2", f"ray_address={two_nodes}", "trainer.max_steps=1", "trainer.val_freq=-1",
        "trainer.val_before_train=false", "worker.rollout.val_override_config.n=1",
    )  # fmt: skip
    output = finish(start("join", texts, **NO_TOKEN))
    assert "2 node(s)" in output
    shards = {path.name for path in (tmp_path / "run" / "global_step_1" / "actor").glob("model_*.pt")}
    assert shards == {"model_world_size_2_rank_0.pt", "model_world_size_2_rank_1.pt"}
    three = ["trainer.nnodes=3", f"trainer.run_dir={tmp_path / 'other'}", "data.rollout_batch_size=6"]
    process = start("join", [*texts, *three, "worker.actor.global_batch_size=6"], **NO_TOKEN)
    output, _ = process.communicate(timeout=STEP_LIMIT)
    assert process.returncode != 0
    assert "so 2 of 3 groups fit" in output and "trainer.nnodes=2" in output


if __name__ == "__main__":
    main(*sys.argv[1:])
