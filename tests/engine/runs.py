"""Short real runs of the bundled model, in this process or in one that can be killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from gmpo_mm.config import load_config
from gmpo_mm.engines.local import launch
from gmpo_mm.engines.local.launch import train
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.runs.metrics_file import read_metrics

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "data.rollout_batch_size=4",
    "worker.actor.global_batch_size=2",
    "worker.rollout.n=4",
    "worker.rollout.val_override_config={n: 2, temperature: 0.5}",
    "trainer.max_steps=2",
    "trainer.val_freq=-1",
    "trainer.val_before_train=false",
    "trainer.save_freq=-1",
    "trainer.logger=[console]",
    "trainer.threads=1",
]

SAVING = ("data.val_files=", "trainer.save_freq=1", "trainer.save_limit=-1")
"""No validation, and a checkpoint of each step."""


def write_data(folder: Path, train_size: int = 24, test_size: int = 6) -> Path:
    """The bundled task's splits, by its own tool."""
    subprocess.run(
        [sys.executable, str(ROOT / "data_tools/synthetic_geometry.py"), "--out", str(folder),
         "--train-size", str(train_size), "--test-size", str(test_size)],
        check=True, capture_output=True,
    )  # fmt: skip
    return folder


def arguments(data: Path, run_dir: Path, *overrides: str, config: str = "quickstart.yaml") -> list[str]:
    """CONFIG and overrides of a small run; later overrides win."""
    return [
        str(ROOT / "configs" / config), f"data.train_files={data}/train.parquet",
        f"data.val_files={data}/test_pictures.parquet", *SMALL, f"trainer.run_dir={run_dir}", *overrides,
    ]  # fmt: skip


def run_here(args: list[str]) -> Path:
    """Train in this process; returns the run directory."""
    return train(load_config(args[0], args[1:]), ["gmpo-mm", "train", *args])


CLI = ("-m", "gmpo_mm.cli")


def start_process(args: list[str], program: Sequence[str] = CLI, **environment: str) -> subprocess.Popen[str]:
    """`gmpo-mm train` as a user starts it, in its own process group."""
    return subprocess.Popen(
        [sys.executable, *program, "train", *args], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment}, start_new_session=True,
    )  # fmt: skip


def kill_when(args: list[str], is_time: Callable[[], bool]) -> None:
    """Start a training, and end it with signal 9 as soon as it is time."""
    process = start_process(args)
    while not is_time():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.0005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run_process(args: list[str], **environment: str) -> tuple[int, str]:
    """Run to the end; returns exit code and output."""
    process = start_process(args, **environment)
    output, _ = process.communicate(timeout=240)
    return process.returncode, output


def metrics_without_times(run_dir: Path) -> list[dict[str, Any]]:
    """All metric lines, without what a clock measured."""
    lines = read_metrics(run_dir / "metrics.jsonl")
    return [{k: v for k, v in line.items() if not k.startswith(("timing", "perf"))} for line in lines]


def train_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of training steps, without what a clock measured."""
    return [line for line in metrics_without_times(run_dir) if line["kind"] == "train"]


def weights(run_dir: Path, step: int) -> dict[str, Any]:
    """The weights of a checkpoint."""
    return load_file(run_dir / f"checkpoints/step_{step}/huggingface/model.safetensors")


def policy_of(data: Path, run_dir: Path, step: int) -> PolicyModel:
    """The policy of a checkpoint, in float32 on the CPU."""
    args = arguments(data, run_dir, f"worker.actor.model.model_path={run_dir}/checkpoints/step_{step}/huggingface")
    return launch.configured_policy(load_config(args[0], args[1:]).config, torch.device("cpu"), torch.float32)[0]


def file_bytes(run_dir: Path, step: int) -> dict[str, bytes]:
    """Every file of a checkpoint that training continues from."""
    folder = run_dir / f"checkpoints/step_{step}"
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def last_metrics(run_dir: Path) -> dict[str, Any]:
    """The last line of metrics.jsonl."""
    return json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[-1])
