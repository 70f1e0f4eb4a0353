"""Where each engine keeps its checkpoints, so that one run directory, and one evaluation, serves all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gmpo_mm.config import checkpoint_paths as paths
from gmpo_mm.runs import checkpoint as local
from gmpo_mm.runs import fsdp_checkpoint as fsdp


@dataclass(frozen=True)
class CheckpointLayout:
    """Checkpoints are folders whose names end in `_N`, the number of steps done.

    `folder`: where they lie in a run directory. `latest(run directory)`: its newest complete checkpoint. `find(path)`: the
    checkpoint that a path of the user means. `check(checkpoint)`: raise unless training can start from it.
    """

    folder: str
    latest: Callable[[Path], Path | None]
    find: Callable[[Path], Path | None]
    check: Callable[[Path], Any]


LOCAL_LAYOUT = CheckpointLayout(
    folder="checkpoints",
    latest=lambda run: paths.latest_checkpoint(run / "checkpoints"),
    find=paths.find_checkpoint,
    check=local.load_checkpoint,
)


def fsdp_layout(processes: int) -> CheckpointLayout:
    """EasyR1's and verl's: `global_step_N` in the run directory itself, for as many processes as wrote it."""

    def check(checkpoint: Path) -> None:
        fsdp.check_resumable(checkpoint, processes)

    def latest(run: Path) -> Path | None:
        found = paths.latest_fsdp_checkpoint(run)
        if found is not None:
            check(found)
        return found

    return CheckpointLayout(folder=".", latest=latest, find=paths.find_fsdp_checkpoint, check=check)


def step_of(checkpoint: Path) -> int:
    """Steps done, from the folder's name: `step_20`, `global_step_20`."""
    return int(checkpoint.name.rpartition("_")[2])
