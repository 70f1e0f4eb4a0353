"""Real runs: does a model learn on the device, and how long does a step take?"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_check.parts import Context
from benchmarks.gpu_check.wheels import ROOT
from gmpo_mm.config import load_config
from gmpo_mm.engines.local.launch import train
from gmpo_mm.models.processing import load_processor
from gmpo_mm.toys import warm_start
from gmpo_mm.toys.countdown import TINY, make_splits
from gmpo_mm.toys.countdown_demonstrations import countdown_batches
from gmpo_mm.toys.tiny_text import new_text_model, save_text_model, text_config

ACCURACY = "val/accuracy_reward"
SECONDS_A_STEP = 1.5
"""What a step of the 200-million model may take; the number of steps follows from the time left."""


def learn_pictures(context: Context) -> None:
    """The quickstart, shortened: the bundled vision-language model reads numbers off pictures."""
    data = context.scratch / "synthetic_geometry"
    sizes = ["--train-size", "32", "--test-size", "4"] if context.tiny else ["--train-size", "512"]
    _run_tool("data_tools/synthetic_geometry.py", "--out", str(data), *sizes)
    steps = 1 if context.tiny else 40
    overrides = [
        f"data.train_files={data}/train.parquet", f"data.val_files={data}/test_pictures.parquet",
        *(_SMALL if context.tiny else []),
    ]  # fmt: skip
    metrics = _train(context, "configs/quickstart.yaml", "pictures", overrides, steps)
    _report(context, "qwen2_5_vl_tiny, GMPO", metrics, asked=0.0 if context.tiny else 0.1)


_FEW_PROBLEMS = [
    "--prompt",
    "short",
    "--numbers",
    "3",
    "--max-number",
    "20",
    "--train-size",
    "8",
    "--test-size",
    "4",
]
_SMALL = [
    "data.rollout_batch_size=2", "worker.actor.global_batch_size=2", "worker.rollout.n=2",
    "worker.rollout.val_override_config={n: 1, temperature: 0.5}",
]  # fmt: skip


def learn_countdown(context: Context) -> None:
    """A mixture of experts, warm-started here, on CountDown with three numbers: GRPO and GMPO from one
    start."""
    model = context.scratch / "moe"
    name = "qwen3_moe_tiny" if context.tiny else "qwen3_moe_200m"
    _warm_start(context, name, model, steps=2 if context.tiny else 400, batch_size=4 if context.tiny else 128)
    data = context.scratch / "countdown"
    _run_tool("data_tools/countdown.py", "--out", str(data), *(_FEW_PROBLEMS if context.tiny else ["--tiny"]))
    left = context.report.seconds_left - 15
    steps = 1 if context.tiny else max(4, min(60, int(left / 2 / SECONDS_A_STEP)))
    overrides = [
        f"data.train_files={data}/train.parquet", f"data.val_files={data}/test.parquet",
        f"worker.actor.model.model_path={model}", "worker.actor.optim.lr=3e-5", "algorithm.use_kl_loss=false",
        "algorithm.disable_kl=true", "worker.rollout.val_override_config={n: 1, temperature: 0}",
        *(_SMALL if context.tiny else []),
    ]  # fmt: skip
    for loss in ("gmpo", "grpo"):
        metrics = _train(
            context, f"configs/countdown/{loss}_moe_tiny.yaml", f"countdown_{loss}", overrides, steps
        )
        _report(context, f"{name}, {loss.upper()}", metrics, asked=None)


def _warm_start(context: Context, name: str, out: Path, steps: int, batch_size: int) -> None:
    """As `gmpo_mm.toys.warm_start`, shorter, and on the task of the small models: most demonstrations have
    one sign wrong."""
    config = warm_start.WarmStartConfig(
        steps=steps, batch_size=batch_size, learning_rate=5e-4, warmup_steps=30
    )
    timer = context.timer()
    torch.manual_seed(0)
    model = new_text_model(out, text_config(name), seed=0).to(context.device)
    processor = load_processor(str(out), is_vision=False, image_token_id=None)
    problems = (
        make_splits(TINY, 16, 1)["train"] if context.tiny else warm_start.training_problems("qwen3_moe_tiny")
    )
    batches = countdown_batches(problems, processor, batch_size, config.wrong_share, random.Random(0))
    losses: list[float] = []
    trained = warm_start.train(model, batches, config, lambda step, loss: losses.append(loss))
    save_text_model(trained, out, text_config(name))
    timer.stop()
    context.report.measured(
        f"{name}: warm start",
        timer.seconds(),
        "s",
        f"{steps} steps, loss {losses[0]:.2f} to {losses[-1]:.2f}",
    )


def _run_tool(*command: str) -> None:
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr[-500:]}")


def _train(context: Context, path: str, name: str, overrides: list[str], steps: int) -> list[dict[str, Any]]:
    """Run the local engine; returns the lines of metrics.jsonl."""
    options = [
        *overrides, f"trainer.max_steps={steps}", f"trainer.val_freq={steps}", "trainer.save_freq=-1",
        "trainer.logger=[console]", f"trainer.run_dir={context.scratch / name}", "worker.rollout.name=hf",
        f"trainer.device={context.device.type}",
    ]  # fmt: skip
    run = train(load_config(path, options))
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def _report(context: Context, name: str, metrics: list[dict[str, Any]], asked: float | None) -> None:
    """Held-out accuracy before and after, and seconds a step; with `asked` the accuracy has to rise by that
    much."""
    report = context.report
    accuracies = [line[ACCURACY] for line in metrics if ACCURACY in line]
    if len(accuracies) < 2:
        raise RuntimeError(f"{name}: metrics.jsonl holds {len(accuracies)} validations, 2 were asked for")
    before, after = accuracies[0], accuracies[-1]
    steps = [line for line in metrics if "timing_s/step" in line]
    note = f"{before:.3f} before, {after:.3f} after {len(steps)} steps"
    if asked is None or context.tiny:
        report.measured(f"{name}: held-out accuracy, gain", after - before, "", note)
    else:
        report.check(f"{name}: held-out accuracy, gain", after - before, least=asked, note=note)
    for key in ("step", "gen", "update_actor"):
        found = [line[f"timing_s/{key}"] for line in steps if f"timing_s/{key}" in line]
        if found:
            report.measured(f"{name}: {key}", statistics.median(found), "s", "median")
