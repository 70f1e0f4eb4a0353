"""Whole runs of verl on CPUs: real Ray, TransferQueue, FSDP2, weight sync, reward workers; text and pictures.

Each run is a process of its own, as a user starts it: this file, with a path for the first step's batch and overrides.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 420
NO_TOKEN = {"RAY_AUTH_MODE": "disabled"}  # else the second node could not join without the first one's token
SILENT_TROUBLE = ("dtype mismatch", "Failed to load plugin", "Failed to create processor", "Error in _run_prompt")
"""Lines with which verl and TransferQueue go on where something is wrong."""

COMMON = [
    "engine=verl", "trainer.device=cpu", "data.prompt_key=problem", "data.max_prompt_length=64", "data.max_response_length=24",
    "data.rollout_batch_size=4", "worker.actor.global_batch_size=4", "worker.actor.micro_batch_size_per_device_for_update=2",
    "worker.actor.micro_batch_size_per_device_for_experience=4", "worker.actor.dynamic_batching=false",
    "worker.actor.model.enable_gradient_checkpointing=false", "worker.actor.optim.lr=1e-4", "worker.rollout.n=4",
    "worker.actor.loss_type=gmpo", "algorithm.use_kl_loss=true", "algorithm.kl_penalty=low_var_kl", "algorithm.kl_coef=0.01",
    "trainer.save_freq=1", "trainer.logger=[console]",
]  # fmt: skip


def pictures(data: Path, run: Path, *more: str) -> list[str]:
    """Two steps of GMPO on the bundled vision-language model; reference model, KL in the loss, validation, checkpoints."""
    return [
        *COMMON, f"trainer.run_dir={run}", f"data.train_files={data}/geometry/train.parquet", "trainer.n_gpus_per_node=1",
        f"data.val_files={data}/geometry/test_pictures.parquet@train[:6]", "data.min_pixels=null", "data.max_pixels=null",
        "worker.actor.model.model_path=bundled:qwen2_5_vl_tiny", "worker.rollout.val_override_config={temperature: 0.5, n: 4}",
        "worker.reward.reward_function=gmpo_mm/rewards/math.py:compute_score", "trainer.max_steps=2", "trainer.val_freq=2",
        "worker.actor.optim.lr=2e-5", *more,
    ]  # fmt: skip


def text(data: Path, run: Path, *more: str) -> list[str]:
    """The bundled Qwen2 on CountDown, two workers, reference model and KL in the loss."""
    return [
        *COMMON, f"trainer.run_dir={run}", f"data.train_files={data}/countdown/train.parquet", "trainer.n_gpus_per_node=2",
        "worker.actor.model.model_path=bundled:qwen2_tiny", "trainer.max_steps=3", "trainer.val_freq=-1",
        "trainer.val_before_train=false", "worker.reward.reward_function=gmpo_mm/rewards/countdown.py:compute_score", *more,
    ]  # fmt: skip


def main(dump: str, *texts: str) -> None:
    """What the test's process does: the launch of a user, with the batch of the first update kept."""
    from gmpo_mm.config import load_config
    from gmpo_mm.engines.verl import launch

    if dump:
        started = launch._train

        def keeping(*args: Any) -> None:
            import transfer_queue as tq

            from gmpo_mm.engines.verl.trainer import GMPOTrainer

            advantages = GMPOTrainer._compute_advantage
            names = ["prompts", "responses", "response_mask", "advantages", "old_log_probs", "ref_log_prob"]

            def keep(self: Any, batch: Any, metrics: Any) -> Any:
                done = advantages(self, batch, metrics)
                if not Path(dump).exists():
                    kept = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=names)
                    rows = {name: [row.clone() for row in kept[name].unbind()] for name in names}
                    torch.save({**rows, "id": [fact["id"] for fact in self._facts(batch)]}, dump)
                return done

            GMPOTrainer._compute_advantage = keep
            started(*args)

        launch._train = keeping
    launch.train(load_config(None, list(texts)), ["a", "test"])


def start(texts: list[str], dump: str = "", **environment: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    mine = {name: value for name, value in os.environ.items() if not name.startswith("VERL_")}
    return subprocess.Popen(
        [sys.executable, __file__, dump, *texts], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**mine, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, output[-8000:]
    for line in SILENT_TROUBLE:
        assert line not in output
    return output


def lines(run: Path, kind: str) -> list[dict[str, Any]]:
    from gmpo_mm.training.metrics_file import read_metrics

    return [line for line in read_metrics(run) if line["kind"] == kind]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for command in (
        ["data_tools/synthetic_geometry.py", "--out", f"{folder}/geometry", "--train-size", "64", "--test-size", "16"],
        ["data_tools/countdown.py", "--tiny", "--out", f"{folder}/countdown"],
    ):
        subprocess.run([sys.executable, *command], cwd=ROOT, check=True, capture_output=True)
    return folder


# ---- one worker, the bundled vision-language model and its pictures ----------------------------------------------------------

with_pictures = pytest.mark.xdist_group("pictures")


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run of two steps: its directory and its output; `batch.pt` beside it holds the first step's batch."""
    folder = tmp_path_factory.mktemp("pictures")
    return folder / "run", finish(start(pictures(data, folder / "run"), str(folder / "batch.pt")))


@with_pictures
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


@with_pictures
@pytest.mark.timeout(LIMIT)
def test_sampler_and_trainer_are_the_same_model_before_and_after_the_weights_moved(finished: tuple[Path, str]) -> None:
    train = lines(finished[0], "train")
    assert [line["step"] for line in train] == [1, 2]
    for line in train:
        assert line["rollout/kl"] < 1e-5 and line["rollout/log_prob_gap_max"] < 1e-3
        assert line["actor/grad_norm"] > 0 and line["actor/updates"] == 1
    assert train[0]["actor/kl_ref"] == pytest.approx(0, abs=1e-6), "the reference is the model that training starts from"
    assert train[1]["actor/kl_ref"] > 1e-7, "the weights moved, and the sampler with them"


@with_pictures
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


@with_pictures
@pytest.mark.timeout(LIMIT)
def test_the_local_engine_makes_the_same_update_from_the_same_batch(finished: tuple[Path, str], data: Path) -> None:
    """The whole chain: our data in verl's loader, its agents, reference, queue, FSDP2, checkpoint and our merge."""
    from gmpo_mm.training.fsdp_checkpoint import merged_model
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


@with_pictures
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


@with_pictures
@pytest.mark.timeout(LIMIT)
def test_a_finished_run_and_a_changed_one_end_before_ray_starts(finished: tuple[Path, str], data: Path) -> None:
    texts = pictures(data, finished[0])
    assert "nothing to train: the run in" in finish(start(texts))
    changed = start([*texts, "worker.actor.gmpo.log_clip_low=0.2"])
    output, _ = changed.communicate(timeout=LIMIT)
    assert changed.returncode != 0 and "holds a run of another configuration" in output
    assert "Ray " not in output.split("holds a run")[0].replace("Raylet", "")


# ---- the bundled Qwen2 on one worker ----------------------------------------------------------------------------------------


@pytest.mark.xdist_group("one worker")
@pytest.mark.timeout(LIMIT)
def test_text_trains_on_one_worker_until_a_reward_function_that_raises_ends_the_run_with_its_row(
    data: Path, tmp_path: Path
) -> None:
    run, reward = tmp_path / "run", tmp_path / "broken.py"
    reward.write_text(
        "from pathlib import Path\n"
        "def compute_score(rows):\n"
        f"    written = Path('{run}/metrics.jsonl')\n"
        "    steps = written.read_text().count('\"kind\": \"train\"') if written.exists() else 0\n"
        "    return [{'overall': len(row['response']) % 3 / (2 - steps)} for row in rows]\n"
    )
    more = ("trainer.n_gpus_per_node=1", f"worker.reward.reward_function={reward}:compute_score", "trainer.save_freq=2")
    process = start(text(data, run, *more))
    output, _ = process.communicate(timeout=LIMIT)
    assert process.returncode != 0
    train = lines(run, "train")
    assert [line["step"] for line in train] == [1, 2], output[-8000:]
    assert all(line["rollout/kl"] < 1e-5 and line["actor/grad_norm"] > 0 for line in train)
    assert train[0]["actor/kl_ref"] == pytest.approx(0, abs=1e-6) and train[1]["actor/kl_ref"] > 1e-7, "the weights moved"
    assert not any(trouble in output for trouble in SILENT_TROUBLE)
    assert "TrainingError" in output and "broken.py" in output and "ZeroDivisionError" in output
    state = json.loads((run / "run.json").read_text())
    assert state["state"] == "failed" and "ZeroDivisionError" in state["exit_reason"] and state["last_checkpoint"] == 2


# ---- two workers ------------------------------------------------------------------------------------------------------------


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + LIMIT
    while not path.is_file():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(process.communicate()[0][-8000:])
        time.sleep(0.05)


@pytest.mark.xdist_group("two workers")
@pytest.mark.timeout(3 * LIMIT)
def test_two_workers_save_are_killed_and_go_on_where_they_were(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(text(data, run))
    wait_for(run / "latest_checkpointed_iteration.txt", process)
    process.send_signal(signal.SIGKILL)
    assert next(line["step"] for line in lines(run, "train")) == 1, "no checkpoint is ahead of its metrics"
    process.communicate()
    time.sleep(2)
    done = int((run / "latest_checkpointed_iteration.txt").read_text())
    output = finish(start(text(data, run, "trainer.save_limit=1")))
    assert f"resuming the run in {run} (killed at step" in output and f"global_step_{done}" in output
    assert json.loads((run / "run.json").read_text())["state"] == "finished"
    train = lines(run, "train")
    assert [line["step"] for line in train] == [1, 2, 3]
    assert all(line["rollout/kl"] < 1e-5 for line in train)
    assert train[0]["actor/kl_loss"] == pytest.approx(0, abs=1e-6) and train[2]["actor/kl_ref"] > 1e-7
    assert [path.name for path in run.glob("global_step_*")] == ["global_step_3"], "older ones go after the new one is whole"
    shards = {path.name for path in (run / "global_step_3" / "actor").glob("model_*.pt")}
    assert shards == {"model_world_size_2_rank_0.pt", "model_world_size_2_rank_1.pt"}


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.fixture
def two_nodes(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A Ray cluster of a head and a second node on this machine, one declared GPU each: address, and the nodes' processes."""
    ray = str(Path(sys.executable).with_name("ray"))
    port = next(port for port in range(20_000 + os.getpid() % 5_000, 30_000) if _is_free(port))  # below Ray's own default ports
    short = tempfile.mkdtemp(prefix="r")  # Ray puts sockets there, whose paths may not be long
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("VERL_")},
        "OMP_NUM_THREADS": "1", "RAY_TMPDIR": short, **NO_TOKEN,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }  # fmt: skip
    common = ["--block", "--num-cpus=6", "--num-gpus=1", "--disable-usage-stats", "--object-store-memory=200000000"]
    processes = []
    try:
        for role in (["--head", f"--port={port}", "--include-dashboard=false"], [f"--address=127.0.0.1:{port}"]):
            log = (tmp_path / f"ray_{len(processes)}.log").open("w")
            command = [ray, "start", *role, *common]
            processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True))
            deadline = time.monotonic() + 120
            while "Ray runtime started" not in (tmp_path / f"ray_{len(processes) - 1}.log").read_text():
                assert processes[-1].poll() is None and time.monotonic() < deadline, Path(log.name).read_text()
                time.sleep(0.2)
        yield f"127.0.0.1:{port}", processes
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(short, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.timeout(2 * LIMIT)
def test_two_ray_nodes_train_together_and_a_killed_worker_ends_the_run_with_a_checkpoint(
    two_nodes: tuple[str, list[subprocess.Popen[bytes]]], data: Path, tmp_path: Path
) -> None:
    address, nodes = two_nodes
    run = tmp_path / "run"
    spread = ["trainer.nnodes=2", "trainer.n_gpus_per_node=1", f"ray_address={address}", "trainer.max_steps=500"]
    process = start(text(data, run, *spread), **NO_TOKEN)
    wait_for(run / "latest_checkpointed_iteration.txt", process)
    workers = [p for p in psutil.Process(nodes[1].pid).children(recursive=True) if "WorkerDict" in " ".join(p.cmdline())]
    assert len(workers) == 1, "one worker on each node"
    workers[0].send_signal(signal.SIGKILL)
    output, _ = process.communicate(timeout=LIMIT)
    assert process.returncode != 0
    assert "2 node(s)" in output
    assert "a worker process died" in output and "with the same command" in " ".join(output.split())
    assert json.loads((run / "run.json").read_text())["state"] == "failed"
    saved = int((run / "latest_checkpointed_iteration.txt").read_text())
    shards = {path.name for path in (run / f"global_step_{saved}" / "actor").glob("model_*.pt")}
    assert shards == {"model_world_size_2_rank_0.pt", "model_world_size_2_rank_1.pt"}
    three = text(data, tmp_path / "other", *spread, "trainer.nnodes=3", "data.rollout_batch_size=6")
    refused = start([*three, "worker.actor.global_batch_size=6"], **NO_TOKEN)
    output, _ = refused.communicate(timeout=LIMIT)
    assert refused.returncode != 0 and "so 2 of 3 groups fit" in " ".join(output.split())


if __name__ == "__main__":
    main(*sys.argv[1:])
