"""The samples of a validation, where an engine hands on their rows alone: one on the terminal, a table for trackers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gmpo_mm.runs.progress import Progress
from gmpo_mm.runs.shown_samples import choose_rows, choose_sample, table_rows
from gmpo_mm.runs.trackers import Trackers


def show_validation(
    trackers: Trackers,
    progress: Progress,
    step: int,
    rows: Sequence[Mapping[str, Any]],
    log_samples: int,
    val_generations: int,
) -> None:
    """Show rows of `samples/` as `trainer.log_samples` and `trainer.val_generations_to_log` say."""
    if trackers.console and log_samples > 0 and rows:
        progress.sample(step, choose_sample(rows, step + 1, 1))
    chosen = choose_rows(rows, step, table_rows(step, "validation", log_samples, val_generations)) if rows else []
    trackers.log_samples(step, "validation", [rows[i] for i in chosen], [() for _ in chosen])
