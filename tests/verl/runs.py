"""Whole runs of verl on CPUs, each a process of its own, as a user starts it: this file, with a path and overrides."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 420
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
    """What the test's process does: the launch of a user, with the batch of the first update kept, and its masks."""
    from gmpo_mm.config import load_config
    from gmpo_mm.engines.verl import launch

    if dump:
        started = launch._train

        def keeping(*args: Any) -> None:
            import transfer_queue as tq
            from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

            from gmpo_mm.engines.verl.trainer import GMPOTrainer

            advantages, update = GMPOTrainer._compute_advantage, PPOTrainerSync._update_actor
            names = ["prompts", "responses", "response_mask", "advantages", "old_log_probs", "ref_log_prob"]

            def keep(self: Any, batch: Any, metrics: Any) -> Any:
                done = advantages(self, batch, metrics)
                if not Path(dump).exists():
                    if self.correction is not None:
                        names.extend(["rollout_log_probs", "rollout_is_weights"])
                    kept = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=names)
                    rows = {name: [row.clone() for row in kept[name].unbind()] for name in names}
                    torch.save({**rows, "id": [fact["id"] for fact in self._facts(batch)]}, dump)
                return done

            def keep_masks(self: Any, batch: Any, metrics: Any) -> Any:
                if not Path(f"{dump}.masks").exists():
                    names = ["response_mask", "loss_mask"]
                    kept = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=names)
                    torch.save({name: [row.clone() for row in kept[name].unbind()] for name in names}, f"{dump}.masks")
                return update(self, batch, metrics)

            GMPOTrainer._compute_advantage, PPOTrainerSync._update_actor = keep, keep_masks
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
    from gmpo_mm.runs.metrics_file import read_metrics

    return [line for line in read_metrics(run) if line["kind"] == kind]


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + LIMIT
    while not path.is_file():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(process.communicate()[0][-8000:])
        time.sleep(0.05)


if __name__ == "__main__":
    main(*sys.argv[1:])
