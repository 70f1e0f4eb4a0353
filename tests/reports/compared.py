"""Runs with lines of kind `compare`, made as the engines make them, from tokens that a test knows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from gmpo_mm.algorithms import GMPOConfig, PolicyLossConfig
from gmpo_mm.algorithms.compared_losses import StepTokens, UpdateRows, compare_losses, compared_configs
from gmpo_mm.runs.metrics_file import MetricsFile
from tests.reports.made import write_run

CONFIG = PolicyLossConfig("gmpo", clip_ratio_low=0.2, clip_ratio_high=0.2, gmpo=GMPOConfig())


def tokens(seed: int, spread: float, *, rows: int = 8, length: int = 40) -> StepTokens:
    """A step's tokens: log-ratios of that standard deviation at most, larger where the entropy is."""
    random = torch.Generator().manual_seed(seed)
    entropy_BT = torch.rand(rows, length, generator=random, dtype=torch.float64)
    old_BT = -torch.rand(rows, length, generator=random, dtype=torch.float64)
    log_ratio_BT = spread * entropy_BT * torch.randn(rows, length, generator=random, dtype=torch.float64)
    advantages_B = torch.where(torch.arange(rows) % 2 == 0, 1.0, -0.5).double()
    mask_BT = torch.arange(length) < torch.randint(10, length + 1, (rows, 1), generator=random)
    updates = [UpdateRows.counted(part, mask_BT) for part in (range(rows // 2), range(rows // 2, rows))]
    return StepTokens(old_BT + log_ratio_BT, old_BT, advantages_B, mask_BT, updates, entropy_BT)


def line(
    step: int = 1,
    seed: int = 1,
    spread: float = 0.3,
    losses: Sequence[str] = ("default",),
    trained: str = "gmpo",
    **extra: Any,
) -> dict[str, Any]:
    """One line's metrics."""
    config = PolicyLossConfig(trained, clip_ratio_low=0.2, clip_ratio_high=0.2)
    seen = tokens(1000 * seed + step, spread)
    return compare_losses(seen, compared_configs(config, losses), trained) | {
        f"compare/{k}": v for k, v in extra.items()
    }


def write_compared_run(
    folder: Path,
    lines: Sequence[dict[str, Any]],
    *,
    trained: str = "gmpo",
    seed: int = 1,
    scores: Sequence[float] = (0.2, 0.4),
) -> Path:
    """A finished run with these lines at steps 1, 2, ..."""
    config = (
        f"worker:\n  actor:\n    loss_type: {trained}\n  rollout: {{seed: {seed}}}\ndata:\n  seed: "
        f"{seed}\nalgorithm:\n"
        "  adv_estimator: grpo\n"
    )
    write_run(folder, scores, config=config)
    file = MetricsFile(folder / "metrics.jsonl")
    for step, metrics in enumerate(lines, start=1):
        file.log_metrics(step, "compare", metrics)
    return folder
