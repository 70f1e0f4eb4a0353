"""Files that a report reads, written as their programs write them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gmpo_mm.runs.metrics_file import MetricsFile, read_metrics

VARIANTS = {"grpo": "GRPO", "gmpo": "GMPO"}
SEEDS = (1, 2)


def write_sweep_file(folder: Path, **changes: Any) -> None:
    """sweep.json of a sweep whose runs have all finished; `changes` are its keys."""
    runs = [
        {
            "variant": name, "seed": seed, "directory": f"runs/{name}/seed_{seed}", "log": f"logs/{name}_seed_{seed}.log",
            "evaluations": {
                file.parent.name.split("-")[0]: str(file.parent.relative_to(folder))
                for file in folder.glob(f"evaluations/{name}/seed_{seed}/*/evaluation.json")
            },
            "state": "finished", "reason": None, "seconds": 100.0 + seed,
        }
        for seed in SEEDS for name in VARIANTS
    ]  # fmt: skip
    variants = [
        {"name": name, "label": label, "overrides": [f"worker.actor.loss_type={name}"], "paper_line": None}
        for name, label in VARIANTS.items()
    ]
    data = {
        "format": 1, "name": "small", "title": "GRPO and GMPO, small", "base": "configs/quickstart.yaml",
        "command": ["gmpo-mm", "sweep", "small.yaml"], "seeds": list(SEEDS), "target_score": 0.3, "paper": None,
        "variants": variants, "runs": runs,
    }  # fmt: skip
    (folder / "sweep.json").write_text(json.dumps(data | changes, indent=1), encoding="utf-8")


def change_sweep(folder: Path, change: Any) -> None:
    """Let `change` edit the parsed sweep.json."""
    data = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    change(data)
    (folder / "sweep.json").write_text(json.dumps(data), encoding="utf-8")


def write_run(
    folder: Path,
    scores: Sequence[float],
    *,
    config: str = "",
    state: str = "finished",
    metrics: Mapping[str, float] | None = None,
) -> Path:
    """A run directory with a validation score at steps 0, 1, ... and equal training metrics at each step."""
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"state": state, "exit_reason": None}), encoding="utf-8")
    if config:
        (folder / "config.yaml").write_text(config, encoding="utf-8")
    file = MetricsFile(folder / "metrics.jsonl")
    for step, score in enumerate(scores):
        if step:
            file.log_metrics(step, "train", metrics or {"actor/grad_norm": 1.0})
        file.log_metrics(step, "validation", {"val/accuracy_reward": score})
    return folder


def nested(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Names split at `/`, as EasyR1 writes them into its log."""
    tree: dict[str, Any] = {}
    for name, value in metrics.items():
        *parents, last = name.split("/")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return tree


def write_easyr1_log(folder: Path, run: Path, seed: int = 1) -> Path:
    """experiment_log.jsonl and experiment_config.json, with EasyR1's share of the metrics of a run of ours."""
    folder.mkdir(parents=True)
    lines: dict[int, dict[str, Any]] = {}
    for entry in read_metrics(run):
        kept = {
            k: v
            for k, v in entry.items()
            if k.startswith(("actor/entropy_loss", "actor/grad_norm", "val/", "perf/", "timing_s/"))
        }
        lines.setdefault(entry["step"], {}).update(kept)
    text = "".join(json.dumps({"step": step, **nested(metrics)}) + "\n" for step, metrics in lines.items())
    (folder / "experiment_log.jsonl").write_text(text, encoding="utf-8")
    config = {"worker": {"rollout": {"seed": seed}, "actor": {"clip_ratio_low": 0.2}}, "data": {"seed": seed},
              "trainer": {"experiment_name": "stock"}}  # fmt: skip
    (folder / "experiment_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    return folder / "experiment_log.jsonl"
