"""Our local engine as a user runs it, with its phases timed from outside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

import gmpo_mm
from benchmarks.reporter import Reporter
from benchmarks.workload import REPOSITORY, Workload
from gmpo_mm.config import LoadedConfig, load_config
from gmpo_mm.engines.local import launch as local
from gmpo_mm.rewards import RewardFunction
from gmpo_mm.rollout.hf import HFRollout
from gmpo_mm.training.actor import Actor
from gmpo_mm.training.batch import Batch
from gmpo_mm.training.trainer import Trainer


def build_config(workload: Workload, folder: Path) -> LoadedConfig:
    """The same update as TRL's, in our keys."""
    least, most = workload.image_pixels
    settings: dict[str, Any] = {
        "engine": "local",
        "data.train_files": folder / "problems.jsonl",
        "data.prompt_key": "problem",
        "data.image_dir": folder,
        "data.shuffle": "false",
        "data.rollout_batch_size": workload.prompts,
        "data.max_prompt_length": 1024,
        "data.max_response_length": workload.new_tokens,
        "data.min_pixels": least,
        "data.max_pixels": most,
        "algorithm.adv_estimator": "grpo",
        "algorithm.disable_kl": "true",
        "algorithm.drop_zero_advantage": str(workload.drop_zero_advantage).lower(),
        "worker.actor.loss_type": "gmpo",
        "worker.actor.global_batch_size": workload.prompts // workload.mini_batches,
        "worker.actor.micro_batch_size_per_device_for_update": workload.samples_per_mini_batch,
        "worker.actor.model.model_path": workload.model,
        "worker.actor.model.enable_gradient_checkpointing": "false",
        "worker.actor.model.freeze_vision_tower": str(workload.freeze_vision).lower(),
        "worker.actor.optim.lr": workload.learning_rate,
        "worker.actor.optim.weight_decay": 0.0,
        "worker.rollout.name": "hf",
        "worker.rollout.n": workload.samples,
        "worker.rollout.temperature": 1.0,
        "worker.rollout.seed": workload.seed,
        "worker.rollout.ignore_eos": str(workload.exact_length).lower(),
        "worker.reward.reward_function": REPOSITORY / workload.reward_function,
        "trainer.max_steps": workload.total_rounds,
        "trainer.val_before_train": "false",
        "trainer.run_dir": folder / "run",
        "trainer.resume": "never",
        "trainer.device": "cpu",
        "trainer.dtype": "float32",
        "trainer.threads": workload.threads,
    }
    return load_config(None, [f"{key}={value}" for key, value in settings.items()])


def time_phases(reporter: Reporter) -> None:
    """Sampling, rewards, old log-probabilities and update, with the clock of the TRL side."""
    clock = reporter.clock
    clock.wrap(HFRollout, "generate", "sampling")
    clock.wrap(RewardFunction, "__call__", "rewards")
    clock.wrap(Actor, "log_probs", "old log-probs")
    clock.wrap(Actor, "update", "update")


def report_rounds(workload: Workload, reporter: Reporter) -> None:
    """A round is one step of the trainer, with everything it writes about it."""
    fit, step, update = Trainer.fit, Trainer._step, Actor.update
    facts: dict[str, Any] = {}

    def reporting_fit(self: Trainer) -> None:
        prompts = [self.batches.dataset[index].input_ids_S.tolist() for index in range(workload.prompts)]
        trainable = sum(p.numel() for p in self.policy.module.parameters() if p.requires_grad)
        versions = {
            "gmpo_mm": gmpo_mm.__version__,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
        }
        reporter.ready(prompts, versions, trainable)
        fit(self)

    def reporting_step(self: Trainer, *args: Any) -> None:
        reporter.start()
        step(self, *args)
        reporter.finish(**facts)

    def reporting_update(self: Actor, batch: Batch, *args: Any, **kwargs: Any) -> dict[str, float]:
        facts["reward"] = batch.rewards_B.mean().item()
        facts["response_tokens"] = int(batch.mask_BT.sum())
        facts["samples"] = len(batch)
        facts["distinct"] = sum(len({tuple(r.token_ids_T.tolist()) for r in g.responses}) for g in batch.groups)
        return update(self, batch, *args, **kwargs)

    Trainer.fit, Trainer._step, Actor.update = reporting_fit, reporting_step, reporting_update  # type: ignore[method-assign]


def run(workload: Workload, folder: Path, reporter: Reporter) -> None:
    """Train with the engine for the asked-for rounds."""
    report_rounds(workload, reporter)
    time_phases(reporter)
    local.train(build_config(workload, folder))
