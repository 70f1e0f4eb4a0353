"""Checkpoints that are complete or absent: written aside, flushed to disk, renamed; older ones go only afterwards.

A checkpoint is a folder `step_N`:

    huggingface/            the model, tokenizer and processor, as stock transformers loads them
    <name>.safetensors      one file per tensor group; `optimizer.safetensors` holds the optimizer's state by parameter name
                            (and `past_weights.safetensors` former weights, with worker.rollout.staleness)
    trainer_state.json      everything else: sampler, KL controller, scheduler, best score
    manifest.json           size and SHA-256 of each file above, so that damage is found when loading, not while training

Nothing is pickled. Files of tensors are hashed while they are written. The final name is the proof of completeness: a
process killed at any instant leaves either the former checkpoints alone, or the former ones and the new one, never a half
of either.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import with_config
from safetensors.torch import load_file
from typing_extensions import TypedDict

from gmpo_mm.config.checkpoint_paths import MANIFEST_FILE, MODEL_FOLDER, checkpoint_steps, latest_checkpoint
from gmpo_mm.errors import TrainingError
from gmpo_mm.runs.files import folder_bytes, fsync, make_own_folder, remove_tree, sha256
from gmpo_mm.runs.reading import read_json
from gmpo_mm.runs.safetensors_file import SafetensorsWriter

STATE_FILE = "trainer_state.json"
FORMAT = 1

_IS_MERGED = re.compile(rf"{MODEL_FOLDER}/(merged|\.merged-\d+)/")
"""What `gmpo-mm merge` writes into a checkpoint afterwards, and what it leaves there when it is killed."""
_LEFTOVER_NAME = re.compile(r"\.step_(\d+)\.(tmp|old|removing)-\d+\Z")


@dataclass(frozen=True)
class CheckpointData:
    """A checkpoint whose files were checked against its manifest."""

    path: Path
    step: int
    state: dict[str, Any]

    @property
    def model_dir(self) -> Path:
        """The folder for `from_pretrained`."""
        return self.path / MODEL_FOLDER

    def damaged(self, what: str) -> TrainingError:
        """The error for a trainer state that is whole, and yet can't be gone on from."""
        return _damaged(self.path, f"{STATE_FILE}: {what}")

    def has_tensors(self, name: str) -> bool:
        """Whether the group was saved (`trainer.save_model_only` leaves the optimizer out)."""
        return (self.path / f"{name}.safetensors").is_file()

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        """The tensors of one group, on the CPU, bit for bit as saved; TrainingError when the group was not saved."""
        if not self.has_tensors(name):
            raise TrainingError(
                f"{self.path} holds no {name}.safetensors (was it saved with trainer.save_model_only=true?), so training can't "
                f"go on from it; start a new run from its weights with worker.actor.model.model_path={self.model_dir}"
            )
        return load_file(self.path / f"{name}.safetensors")


def save_checkpoint(
    directory: Path,
    step: int,
    *,
    model_files: Callable[[Path], None],
    tensors: Mapping[str, Mapping[str, torch.Tensor]],
    state: Mapping[str, Any],
    keep: int = -1,
    protect: Iterable[int] = (),
    writer: SafetensorsWriter | None = None,
) -> Path:
    """Write `directory/step_N` whole or not at all, then prune; returns its path.

    `model_files(folder)` writes the model, tokenizer and processor. `tensors` maps a group's name to its tensors. `state`
    has to survive JSON. `keep` is EasyR1's `save_limit`: how many checkpoints to hold, this one and the protected ones
    included, -1 or 0 for all; this one and those in `protect` are never pruned. `writer` is what `model_files` writes its
    weights with, if it does: files that it wrote are not read again for their hash.

    Raises TrainingError when the disk is full or fails, WriteStopped when the writer was stopped before the checkpoint had
    its name; the former checkpoints are then untouched.
    """
    writer = writer or SafetensorsWriter()
    make_own_folder(directory)
    temporary = directory / f".step_{step}.tmp-{os.getpid()}"
    final = directory / f"step_{step}"
    remove_tree(temporary)
    free_before = shutil.disk_usage(directory).free
    try:
        _write_files(temporary, step, model_files, tensors, state, writer)
        writer.check()
        _rename_into_place(temporary, final)
    except BaseException as error:
        written = folder_bytes(temporary)
        remove_tree(temporary)
        if not isinstance(error, OSError):
            raise
        needed = max(written, _tensor_bytes(tensors), _largest_checkpoint_bytes(directory))
        raise TrainingError(_disk_message(error, final, needed, free_before, latest_checkpoint(directory))) from error
    try:
        prune_checkpoints(directory, keep, protect={step, *protect})
    except OSError as error:
        raise TrainingError(
            f"saved {final}, but could not remove an older checkpoint ({error}); remove it by hand, then run the same "
            "command again to go on"
        ) from error
    return final


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, named_parameters: Iterable[tuple[str, torch.nn.Parameter]]
) -> dict[str, torch.Tensor]:
    """The optimizer's state as `exp_avg/<parameter name>`, `exp_avg_sq/<...>`, `step/<...>`, ready for safetensors.

    Parameters that never had a gradient have no state and are left out. So are float32 masters: the model's files hold
    them. Learning rates and the like are not state: they come from the configuration and the scheduler.
    """
    names = {id(parameter): name for name, parameter in named_parameters}
    tensors: dict[str, torch.Tensor] = {}
    for parameter, state in optimizer.state.items():
        assert id(parameter) in names, "the optimizer trains a parameter that named_parameters doesn't name"
        for key, value in state.items():
            if key == "master":
                continue
            assert isinstance(value, torch.Tensor), f"optimizer state {key!r} is a {type(value).__name__}, not a tensor"
            tensors[f"{key}/{names[id(parameter)]}"] = value
    return tensors


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer,
    named_parameters: Iterable[tuple[str, torch.nn.Parameter]],
    tensors: Mapping[str, torch.Tensor],
    weights: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Put the state that `optimizer_tensors` took back, bit for bit; TrainingError when it belongs to other parameters.

    `weights` are the model's files' (name -> tensor): a 16-bit parameter gets its float32 `master` from them.
    """
    optimized = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    parameters = {name: parameter for name, parameter in named_parameters if id(parameter) in optimized}
    states: dict[torch.Tensor, dict[str, torch.Tensor]] = {}
    for flat_name, value in tensors.items():
        key, _, name = flat_name.partition("/")
        parameter = parameters.get(name)
        if parameter is None:
            raise TrainingError(
                f"the optimizer state of the checkpoint names the parameter {name!r}, which this run doesn't train; "
                "resume with the configuration that made the checkpoint (worker.actor.model, LoRA and freezing included)"
            )
        if value.dim() and value.shape != parameter.shape:
            raise TrainingError(
                f"the optimizer state of {name!r} has the shape {tuple(value.shape)}, the parameter {tuple(parameter.shape)}; "
                "resume with the configuration that made the checkpoint"
            )
        group = optimized[id(parameter)]
        # torch keeps the step count on the CPU unless the kernel reads it on the device.
        on_device = key != "step" or group.get("fused") or group.get("capturable")
        device = parameter.device if on_device else torch.device("cpu")
        states.setdefault(parameter, {})[key] = value.to(device, copy=True)
    for name, parameter in parameters.items():
        if weights is not None and parameter.dtype in (torch.bfloat16, torch.float16):
            master = weights[name].to(parameter.device, torch.float32, copy=True)
            states.setdefault(parameter, {})["master"] = master
    optimizer.state.clear()
    optimizer.state.update(states)


def _write_files(
    folder: Path,
    step: int,
    model_files: Callable[[Path], None],
    tensors: Mapping[str, Mapping[str, torch.Tensor]],
    state: Mapping[str, Any],
    writer: SafetensorsWriter,
) -> None:
    folder.mkdir()
    (folder / MODEL_FOLDER).mkdir()
    model_files(folder / MODEL_FOLDER)
    for name, group in tensors.items():
        writer.save_file(group, folder / f"{name}.safetensors")
    (folder / STATE_FILE).write_text(json.dumps({**state, "step": step}, indent=2) + "\n", encoding="utf-8")
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if (digest := writer.sha256.get(path)) is None:
            fsync(path)
            digest = sha256(path)
        files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": digest}
    manifest = {"format": FORMAT, "step": step, "files": files}
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    fsync(folder / MANIFEST_FILE)
    for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        fsync(path)


def _rename_into_place(temporary: Path, final: Path) -> None:
    """Give the checkpoint its final name; a former one of the same step stays until the new one has it."""
    old = final.parent / f".{final.name}.old-{os.getpid()}"
    replacing = final.exists()
    if replacing:
        remove_tree(old)
        final.rename(old)
    try:
        temporary.rename(final)
    except OSError:
        if replacing:
            old.rename(final)
        raise
    fsync(final.parent)
    remove_tree(old)


def prune_checkpoints(directory: Path, keep: int, protect: Iterable[int]) -> list[int]:
    """Remove the oldest checkpoints beyond `keep` (protected ones count, but stay); returns the removed steps."""
    if keep <= 0:
        return []
    steps = sorted(checkpoint_steps(directory), reverse=True)
    # The newest complete checkpoint is never removed, whoever calls this.
    kept = [step for step in steps if step in set(protect) or step == steps[0]]
    removed = []
    for step in steps:
        if step in kept:
            continue
        if len(kept) < keep:
            kept.append(step)
            continue
        # Renamed first: a kill in the middle of the removal must not leave a `step_N` without some of its files.
        doomed = directory / f".step_{step}.removing-{os.getpid()}"
        remove_tree(doomed)
        (directory / f"step_{step}").rename(doomed)
        remove_tree(doomed)
        removed.append(step)
    return removed


def remove_leftovers(directory: Path) -> list[str]:
    """Clear what killed processes left half written or half removed; returns the names.

    Only for the holder of the run directory's lock: nobody else may be writing there. Process numbers say nothing about
    who is alive (a container gives the same number again), the lock does.
    """
    removed = []
    for path in sorted(directory.iterdir()) if directory.is_dir() else []:
        match = _LEFTOVER_NAME.match(path.name)
        if match is None:
            continue
        final = directory / f"step_{match.group(1)}"
        if match.group(2) == "old" and not final.exists():
            path.rename(final)  # killed between the two renames of a replacement: the former one is still whole
            continue
        remove_tree(path)
        removed.append(path.name)
    return removed


@with_config(extra="allow")
class _State(TypedDict):
    step: int


class _FileFacts(TypedDict):
    bytes: int
    sha256: str


class _Manifest(TypedDict):
    format: int
    step: int
    files: dict[str, _FileFacts]


def load_checkpoint(path: Path) -> CheckpointData:
    """Check every file against the manifest and read the state; TrainingError names what is damaged and what to do."""
    path = Path(path)
    check_files(path)
    try:
        state = cast("dict[str, Any]", read_json(path / STATE_FILE, _State, "", TrainingError))
    except TrainingError as error:
        raise _damaged(path, str(error).removesuffix("; ")) from None
    if state["step"] != _read_manifest(path)["step"]:
        raise _damaged(path, f"{STATE_FILE} is of step {state['step']}, {MANIFEST_FILE} of another")
    return CheckpointData(path=path, step=state["step"], state=state)


def check_files(path: Path, below: str = "") -> None:
    """Check the files of a checkpoint whose names begin with `below` against its manifest; TrainingError where one differs.

    A file that the manifest leaves out counts as damage: it was written after the checkpoint, or the manifest was cut.
    """
    files = _read_manifest(path)["files"]
    there = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()} - {MANIFEST_FILE}
    unknown = sorted(name for name in there - files.keys() if name.endswith((".safetensors", ".json")))
    if STATE_FILE not in files or not any(name.startswith(f"{MODEL_FOLDER}/") for name in files):
        raise _damaged(path, f"{MANIFEST_FILE} does not name all of its files")
    if unknown := [name for name in unknown if not _IS_MERGED.match(name)]:
        raise _damaged(path, f"{MANIFEST_FILE} does not name {', '.join(unknown[:3])}")
    for name, facts in files.items():
        if not name.startswith(below):
            continue
        file = path / name
        if not file.is_file():
            raise _damaged(path, f"{name} is missing")
        size = file.stat().st_size
        if size != facts["bytes"]:
            raise _damaged(path, f"{name} has {size:,} bytes, {facts['bytes']:,} were written")
        if sha256(file) != facts["sha256"]:
            raise _damaged(path, f"{name} has other contents than were written (SHA-256 differs)")


def _read_manifest(path: Path) -> _Manifest:
    file = path / MANIFEST_FILE
    try:
        found = read_json(file, dict[str, Any], "", TrainingError).get("format")
        if isinstance(found, int) and found != FORMAT:
            raise TrainingError(
                f"{path} has checkpoint format {found!r}, this version reads {FORMAT}; "
                "load it with the version of gmpo-mm that its run's environment.json names"
            )
        return read_json(file, _Manifest, "", TrainingError)
    except TrainingError as error:
        if "checkpoint format" in str(error):
            raise
        raise _damaged(path, str(error).removesuffix("; ")) from None


def _damaged(checkpoint: Path, what: str) -> TrainingError:
    others = [step for step in checkpoint_steps(checkpoint.parent) if checkpoint.name != f"step_{step}"]
    fix = (
        f"remove {checkpoint} and run again to go on from step {others[-1]}"
        if others
        else f"there is no other checkpoint beside it: remove {checkpoint} and run again to start from step 0"
    )
    return TrainingError(f"the checkpoint {checkpoint} is damaged: {what}; {fix}")


def _disk_message(error: OSError, final: Path, needed: int, free: int, former: Path | None) -> str:
    kept = f"the former checkpoint {former} is whole" if former else "there is no former checkpoint"
    what = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else f"the file system refused ({error})"
    return (
        f"could not save the checkpoint {final}: {what}. It needs at least {needed:,} bytes; {free:,} bytes were free before "
        f"the write. Nothing of it was left behind, and {kept}. Free some space, or set trainer.save_limit lower or "
        "trainer.save_model_only=true, or another trainer.run_dir; then run the same command again"
        + (" to go on from there" if former else "")
    )


def _tensor_bytes(tensors: Mapping[str, Mapping[str, torch.Tensor]]) -> int:
    return sum(value.numel() * value.element_size() for group in tensors.values() for value in group.values())


def _largest_checkpoint_bytes(directory: Path) -> int:
    return max((folder_bytes(directory / f"step_{step}") for step in checkpoint_steps(directory)), default=0)
