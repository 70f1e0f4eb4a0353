"""`--overwrite`: the run in a directory is set aside; it is removed when the new one begins, or else put back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gmpo_mm.config.engine_facts import TRACKERS
from gmpo_mm.errors import ConfigError, DataError
from gmpo_mm.runs.files import remove_tree
from gmpo_mm.runs.reading import read_json

ASIDE, GOING = ".replaced", ".removing"
WRITTEN = (
    "config.yaml", "environment.json", "run.json", "metrics.jsonl", "trackers.json", "samples", "rollouts", "checkpoints",
    "tensorboard", "wandb", "mlflow", "swanlog", "report", "*.log", "log.txt", "global_step_*",
    *(tracker.file for tracker in TRACKERS),
)  # fmt: skip
"""What a run, its trackers and its report write into a run directory, on any engine; nothing else is ever touched."""

FOLDERS = ("samples", "rollouts", "checkpoints", "tensorboard", "wandb", "mlflow", "swanlog", ASIDE, GOING)
"""Folders that a run writes into, or removes from."""


class FormerRun:
    """A run that another one replaces; the directory is locked by the caller."""

    def __init__(self, path: Path) -> None:
        self._path, self._aside = path, path / ASIDE

    def set_aside(self) -> None:
        """Move everything of the run into a folder beside it; run.json goes last, so that a kill leaves a run here or there."""
        try:
            self._aside.mkdir()
            for item in _written(self._path):
                item.rename(self._aside / item.name)
        except OSError as error:
            raise ConfigError(
                f"--overwrite: {error.filename or self._path} can't be moved ({error.strerror}); give another trainer.run_dir"
            ) from error

    def put_back(self) -> None:
        """The new run has not begun: what it wrote goes, the former one is where it was."""
        if not self._aside.is_dir():
            return
        for item in list(_written(self._aside)):
            _remove(self._path / item.name)
            item.rename(self._path / item.name)
        self._aside.rmdir()

    def remove(self) -> None:
        """The new run has begun: the former one is deleted."""
        going = self._path / GOING
        self._aside.rename(going)  # from here on a kill leaves nothing that could be taken for a run
        remove_tree(going)


def recover(path: Path) -> None:
    """Finish what a killed `--overwrite` left: a run that had not begun gives way to the former one, else that one goes."""
    remove_tree(path / GOING)
    if not (path / ASIDE).is_dir():
        return
    try:
        begun = bool(read_json(path / "run.json", dict[str, Any], "").get("begun"))
    except DataError:
        begun = False
    moved_whole = (path / ASIDE / "run.json").exists()
    FormerRun(path).remove() if begun and moved_whole else FormerRun(path).put_back()


def _written(folder: Path) -> Iterator[Path]:
    """What a run wrote into a folder, run.json last."""
    found = {item for pattern in WRITTEN for item in folder.glob(pattern)}
    yield from sorted(found, key=lambda item: (item.name == "run.json", item.name))


def _remove(item: Path) -> None:
    if item.is_dir() and not item.is_symlink():
        remove_tree(item)
    else:
        item.unlink(missing_ok=True)
