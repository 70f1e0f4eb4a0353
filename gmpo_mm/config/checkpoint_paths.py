"""Where checkpoints lie in a run directory, for each engine; paths only, nothing is loaded.

RUN/checkpoints/step_N/huggingface/             local: a complete checkpoint, and the model in it
RUN/checkpoint_tracker.json                     EasyR1: names the last step; written after everything else of it
RUN/latest_checkpointed_iteration.txt           verl: the same
RUN/global_step_N/actor/model_world_size_W_rank_R.pt   one file a process, with its shard of every weight
RUN/global_step_N/actor/huggingface/            configuration, tokenizer and processor; weights once merged
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from gmpo_mm.config.engine_facts import TRACKERS
from gmpo_mm.errors import ConfigError

MODEL_FOLDER = "huggingface"
MANIFEST_FILE = "manifest.json"

_LOCAL_STEP = re.compile(r"step_(\d+)\Z")
_STEP = re.compile(r"global_step_(\d+)\Z")
_SHARD = re.compile(r"model_world_size_(\d+)_rank_(\d+)\.pt\Z")


def checkpoint_steps(directory: Path) -> list[int]:
    """Steps of the complete checkpoints in a `checkpoints` folder, ascending; empty when the folder is missing."""
    if not directory.is_dir():
        return []
    matches = ((path, _LOCAL_STEP.match(path.name)) for path in directory.iterdir() if path.is_dir())
    return sorted(int(match.group(1)) for _, match in matches if match)


def latest_checkpoint(directory: Path) -> Path | None:
    """The complete checkpoint of the highest step in a `checkpoints` folder, or None."""
    steps = checkpoint_steps(directory)
    return directory / f"step_{steps[-1]}" if steps else None


def find_checkpoint(path: Path) -> Path | None:
    """The local engine's checkpoint that a path means: a `step_N` folder, the newest of a `checkpoints` folder, or that of
    a run directory.
    """
    if (path / MANIFEST_FILE).is_file():
        return path
    return latest_checkpoint(path / "checkpoints") or latest_checkpoint(path)


def latest_fsdp_checkpoint(run: Path) -> Path | None:
    """The checkpoint `global_step_N` that the tracker of EasyR1 or verl names; None when nothing was saved yet.

    Raises ConfigError for a tracker that a kill cut off, or that names a checkpoint which is not whole.
    """
    found = next((tracker for tracker in TRACKERS if (run / tracker.file).is_file()), None)
    if found is None:
        return None
    tracker = run / found.file
    whole = [folder for folder in _step_folders(run) if (folder / found.loader_state).is_file()]
    fix = (
        f"set trainer.resume={whole[-1]} with a new trainer.run_dir"
        if whole
        else "give another trainer.run_dir"
    )
    try:
        text = tracker.read_text(encoding="utf-8")
        step = int(text if found.key is None else json.loads(text)[found.key])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ConfigError(
            f"{tracker} can't be read ({error}), as after a kill while it was written; {fix}"
        ) from None
    folder = run / f"global_step_{step}"
    if not is_fsdp_checkpoint(folder):
        raise ConfigError(
            f"{tracker} names {folder}, which is not there as a whole, so there is nothing to go on from. {fix}"
        )
    return folder


def find_fsdp_checkpoint(path: Path) -> Path | None:
    """The `global_step_N` folder that a path means: itself, its `actor` folder, or a run directory with a tracker."""
    if path.name == "actor":
        path = path.parent
    return path if is_fsdp_checkpoint(path) else latest_fsdp_checkpoint(path)


def is_fsdp_checkpoint(path: Path) -> bool:
    """Whether a folder is a `global_step_N` with the shards of all of its processes."""
    return bool(_STEP.match(path.name)) and bool(shard_files(path / "actor"))


def _step_folders(run: Path) -> list[Path]:
    found = (
        [path for path in run.iterdir() if path.is_dir() and _STEP.match(path.name)] if run.is_dir() else []
    )
    return sorted(found, key=lambda path: int(path.name.rpartition("_")[2]))


def shard_files(actor: Path) -> list[Path]:
    """The weights' files in the order of their ranks; [] unless all are there."""
    names = [match for path in actor.glob("model_world_size_*.pt") if (match := _SHARD.match(path.name))]
    sizes = {int(match.group(1)) for match in names}
    if len(sizes) != 1:
        return []
    ranks = sorted(names, key=lambda match: int(match.group(2)))
    complete = [int(match.group(2)) for match in ranks] == list(range(sizes.pop()))
    return [actor / match.group(0) for match in ranks] if complete else []
