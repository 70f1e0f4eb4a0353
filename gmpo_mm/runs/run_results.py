"""What a run directory says in the end, for programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gmpo_mm.runs.metrics_file import FILE_NAME, read_metrics
from gmpo_mm.runs.reading import read_json


def run_results(path: Path) -> dict[str, Any]:
    """State, steps, the last checkpoint, and the last metrics of training and validation (null where there are none)."""
    run = read_json(path / "run.json", dict[str, Any], "restore it; `gmpo-mm train` with the run's configuration goes on")
    lines = read_metrics(path) if (path / FILE_NAME).is_file() else []
    last = {line["kind"]: line for line in lines}
    saved = run.get("last_checkpoint")
    return {
        "run_directory": str(path),
        "state": run.get("state"),
        "reason": run.get("exit_reason"),
        "step": run.get("step"),
        "total_steps": run.get("total_steps"),
        "last_checkpoint": saved,
        "train": last.get("train"),
        "validation": last.get("validation"),
    }
