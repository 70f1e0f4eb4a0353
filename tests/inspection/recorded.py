"""A real record to inject faults into: step 2 of a short run of the bundled vision-language model."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import gmpo_mm
from gmpo_mm.datasets import synthetic_geometry
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.runs.step_record import StepRecord, load_step, write_step
from gmpo_mm.training.actor import Actor

STEP = 2


@dataclass(frozen=True)
class Recorded:
    """The run, and (B, T) log-probabilities that its policy gives otherwise, by name."""

    run: Path
    otherwise: dict[str, torch.Tensor]

    def record(self) -> StepRecord:
        """A copy to change."""
        return load_step(self.run, STEP)

    def write(self, folder: Path, change: Callable[[StepRecord], Any] = lambda record: None) -> Path:
        """A run with a changed record in `folder`; returns the record's path."""
        shutil.copytree(
            self.run / "rollouts" / "pictures", folder / "rollouts" / "pictures", dirs_exist_ok=True
        )
        record = self.record()
        change(record)
        return write_step(folder, record)


def train_and_record(folder: Path) -> Recorded:
    """Two steps with recomputed old log-probs, a reference model, truncated responses and a warm-up."""
    synthetic_geometry.main(folder / "data", train_size=32, test_size=4)
    kept: dict[str, torch.Tensor] = {}
    update = Actor.update

    def keeping(actor: Actor, batch: Any, *arguments: Any, **options: Any) -> dict[str, float]:
        kept.clear()
        for name, temperature in (("temperature 0.5", 0.5), ("temperature 1", 1.0)):
            other = Actor(actor.policy, actor.optimizer, replace(actor.config, temperature=temperature))
            kept[name] = other.log_probs(batch)
        policies = {
            "bfloat16": PolicyModel(
                copy.deepcopy(actor.policy.module).bfloat16(),
                forbidden_token_ids=actor.policy.forbidden_token_ids,
            ),
            "all tokens": PolicyModel(actor.policy.module),
        }
        for name, policy in policies.items():
            kept[name] = Actor(policy, actor.optimizer, actor.config).log_probs(batch)
        return update(actor, batch, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Actor, "update", keeping)
        run = gmpo_mm.train(
            "quickstart",
            {
                "data.train_files": str(folder / "data" / "train.parquet"),
                "data.val_files": str(folder / "data" / "test_pictures.parquet"),
                "data.rollout_batch_size": 8, "data.max_response_length": 17, "worker.rollout.n": 4,
                "worker.rollout.temperature": 0.8, "worker.actor.old_log_probs": "recompute",
                "worker.rollout.emulate.weights": "bfloat16", "algorithm.disable_kl": False,
                "algorithm.use_kl_loss": True, "worker.actor.optim.lr": 1.2e-3,
                "worker.actor.optim.lr_warmup_steps": 2, "trainer.max_steps": STEP,
                "trainer.record_steps": [STEP], "trainer.val_freq": -1, "trainer.val_before_train": False,
                "trainer.save_freq": -1, "trainer.logger": [], "trainer.run_dir": str(folder / "run"),
                "algorithm.drop_zero_advantage": False,
            },
        )  # fmt: skip
    return Recorded(run.path, dict(kept))
