"""Run directories of EasyR1 and verl themselves, which an engine would go on from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gmpo_mm.errors import ConfigError


def check_no_foreign_run(path: Path, title: str, files: Sequence[str], harm: str) -> None:
    """ConfigError for a directory that holds a run of `title` itself; `files` are what it writes beside its checkpoints.

    `harm` goes on after "which EasyR1 would".
    """
    if not path.is_dir() or (path / "run.json").is_file():
        return  # a run of ours is the run directory's own business
    checkpoints = sorted(path.glob("global_step_*"), key=lambda folder: (len(folder.name), folder.name))
    found = [name for name in files if (path / name).exists()] + [folder.name for folder in checkpoints[-1:]]
    if found:
        start = f"; to train on from its weights, add trainer.resume={checkpoints[-1]}" if checkpoints else ""
        raise ConfigError(
            f"trainer.run_dir (or save_checkpoint_path) = {path}: it holds a run of {title} ({', '.join(found)}), which "
            f"{title} would {harm}; give another trainer.run_dir{start}"
        )
