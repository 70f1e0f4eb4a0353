"""Where the weights before a step are: a checkpoint, or the last one and the recorded steps since."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import with_config
from typing_extensions import NotRequired, TypedDict

from gmpo_mm.config.checkpoint_paths import checkpoint_steps, is_fsdp_checkpoint
from gmpo_mm.errors import DataError
from gmpo_mm.runs.checkpoint_layout import step_of
from gmpo_mm.runs.reading import read_json
from gmpo_mm.runs.step_record import recorded_steps


@dataclass(frozen=True)
class Start:
    """What a replay starts from. `checkpoint` is None for the model that the run began with.

    `between` are the recorded steps that are done first; `has_optimizer` is False where the optimizer's state
    is not known.
    """

    checkpoint: Path | None
    between: tuple[int, ...] = ()
    has_optimizer: bool = True


@with_config(extra="allow")
class _RunState(TypedDict):
    start_checkpoint: NotRequired[str]
    total_steps: NotRequired[int | None]


def find_start(run: Path, step: int) -> Start:
    """The nearest weights before a step; DataError names the steps that are missing and what would help."""
    start, checkpoint = 0, None
    state = run_state(run)
    if (given := state.get("start_checkpoint")) is not None and step_of(Path(given)) < step:
        start, checkpoint = step_of(Path(given)), Path(given)
    saved = [number for number in checkpoint_steps(run / "checkpoints") if number < step]
    model_only = []
    for number in saved:
        folder = run / "checkpoints" / f"step_{number}"
        if not (folder / "optimizer.safetensors").is_file():
            model_only.append(number)
        elif number >= start:
            start, checkpoint = number, folder
    missing = sorted(set(range(start + 1, step)) - set(recorded_steps(run)))
    if not missing:
        return Start(checkpoint, tuple(range(start + 1, step)))
    sharded = run / f"global_step_{step - 1}"
    if is_fsdp_checkpoint(sharded):
        return Start(sharded, has_optimizer=False)
    begins = f"the checkpoint of step {start}" if start else "the model that the run began with"
    without = (
        f" The checkpoints of steps {_listed(model_only)} hold no optimizer state (trainer.save_model_only)."
        if model_only
        else ""
    )
    raise DataError(
        f"{run}: the weights before step {step} are not there. They would be made from {begins} by doing the "
        f"steps {start + 1} to {step - 1} again, and {_listed(missing)} "
        f"{'has' if len(missing) == 1 else 'have'} no record.{without} Train with "
        f"trainer.record_steps=[{step}] and a checkpoint of step {step - 1} (trainer.save_freq), or with "
        "trainer.record_steps='every 1'; or give the weights with --weights PATH"
    )


def run_state(run: Path) -> dict[str, Any]:
    """run.json of a run; {} where there is none."""
    path = run / "run.json"
    return dict(read_json(path, _RunState, "restore the file")) if path.is_file() else {}


def _listed(steps: list[int]) -> str:
    shown = ", ".join(map(str, steps[:8]))
    return shown if len(steps) <= 8 else f"{shown} and {len(steps) - 8} more"
