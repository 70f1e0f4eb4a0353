"""What a run directory says in the end, for programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gmpo_mm.training.metrics_file import FILE_NAME, read_metrics


def run_results(path: Path) -> dict[str, Any]:
    """State, steps, the last checkpoint, and the last metrics of training and validation (null where there are none)."""
    run = json.loads((path / "run.json").read_text(encoding="utf-8"))
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
