"""Small sweeps, started as a user starts them: of the bundled model, or of stubs where only processes matter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.engine.runs import ROOT, SMALL

GMPO: Mapping[str, Any] = {"gmpo": {}}
NO_CLIP: Mapping[str, Any] = {"no_clip": {"overrides": ["worker.actor.gmpo.clip=none"]}}


def write_sweep(folder: Path, data: Path, variants: Mapping[str, Any], *overrides: str, **keys: Any) -> Path:
    """A sweep file over the small quickstart; `keys` are further keys of the file."""
    content = {
        "name": "small",
        "base": str(ROOT / "configs/quickstart.yaml"),
        "overrides": [
            f"data.train_files={data}/train.parquet", f"data.val_files={data}/test_pictures.parquet", *SMALL, *overrides,
        ],
        "variants": dict(variants), "seeds": [1], **keys,
    }  # fmt: skip
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def write_bad_reward(folder: Path) -> str:
    """A reward function that raises for real rows, not for the one of a dry run, and the override that names it."""
    (folder / "bad.py").write_text(
        "def compute_score(inputs):\n"
        "    if len(inputs) == 1:\n"
        "        return [{'overall': 0.0, 'format': 0.0, 'accuracy': 0.0}]\n"
        "    raise ValueError('no reward [red]today[/red]')\n"
    )
    return f"worker.reward.reward_function={folder / 'bad.py'}:compute_score"


REAL, STUB = "gmpo_mm.cli", "tests.sweeps.stub_sweep"
"""Programs of `start_sweep`."""


def start_sweep(
    file: Path, out: Path, *arguments: str, program: str = REAL, **environment: str
) -> subprocess.Popen[str]:
    """`gmpo-mm sweep` in a process group of its own; its working directory is the file's folder."""
    return subprocess.Popen(
        [sys.executable, "-m", program, "sweep", str(file), *arguments, "--out", str(out)], text=True, cwd=file.parent,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "200", **environment},
    )  # fmt: skip


def run_sweep(
    file: Path, out: Path, *arguments: str, program: str = REAL, **environment: str
) -> tuple[int, str]:
    """Run to the end; returns exit code and output."""
    process = start_sweep(file, out, *arguments, program=program, **environment)
    output, _ = process.communicate(timeout=280)
    return process.returncode, output


def wait_for(process: subprocess.Popen[str], is_time: Callable[[], bool]) -> None:
    """Until `is_time()`; fails with the output when the process ends before."""
    deadline = time.monotonic() + 200
    while not is_time():
        if process.poll() is not None:
            assert process.stdout is not None
            raise AssertionError(process.stdout.read())
        assert time.monotonic() < deadline
        time.sleep(0.005)


def trained(out: Path, variant: str, step: int, seed: int = 1) -> bool:
    """Whether the run has written the metrics of a step."""
    file = out / f"runs/{variant}/seed_{seed}/metrics.jsonl"
    return file.exists() and f'"step": {step}, "kind": "train"' in file.read_text()


def runs_of(out: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """(variant, seed) -> its entry in sweep.json."""
    return {(run["variant"], run["seed"]): run for run in json.loads((out / "sweep.json").read_text())["runs"]}


def states_of(out: Path) -> dict[str, str]:
    """Variant -> state of its run, of a sweep with one seed."""
    return {variant: run["state"] for (variant, _), run in runs_of(out).items()}


def children_of(pid: int) -> list[int]:
    """The processes that a process has started and that are alive."""
    import psutil

    return [child.pid for child in psutil.Process(pid).children() if child.status() != psutil.STATUS_ZOMBIE]


def are_gone(pids: Sequence[int], seconds: float = 200.0) -> bool:
    """Whether all processes end; the bound only ends a test that has failed."""
    import psutil

    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        alive = [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]
        if not alive:
            return True
        time.sleep(0.05)
    return False
