"""Checkpoints that EasyR1 and verl write: whether training can go on from one, and its shards merged into safetensors.

    RUN/global_step_N/actor/model_world_size_W_rank_R.pt   one file a process, with its shard of every weight
    RUN/global_step_N/actor/huggingface/            configuration, tokenizer and processor; weights once merged
    RUN/global_step_N/actor/lora_adapter/           the adapter, for LoRA

Shards are read as tensors only (`weights_only`): a checkpoint can't run code.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from gmpo_mm.config.checkpoint_paths import shard_files
from gmpo_mm.config.json_text import read_mapping
from gmpo_mm.errors import ConfigError, TrainingError
from gmpo_mm.runs.files import fsync, remove_tree
from gmpo_mm.runs.lock import DirectoryLock

MAX_FILE_BYTES = 5 * 10**9
_MERGER = (
    "EasyR1's own merger (scripts/model_merger.py), or verl's (python -m verl.model_merger merge --backend fsdp): --local_dir"
)


def check_resumable(checkpoint: Path, processes: int) -> None:
    """ConfigError when training can't go on from it: another number of processes wrote it, or without the optimizer."""
    actor = checkpoint / "actor"
    wrote = len(shard_files(actor))
    fix = f"or start a new run from its weights with worker.actor.model.model_path={checkpoint}"
    if wrote != processes:  # both load shard R into process R
        raise ConfigError(
            f"{checkpoint} was written by {wrote} processes, and trainer.nnodes x trainer.n_gpus_per_node = {processes} now; "
            f"go on with as many, {fix}"
        )
    if not all((actor / f"optim_world_size_{wrote}_rank_{rank}.pt").is_file() for rank in range(wrote)):
        raise ConfigError(
            f"{checkpoint} holds no optimizer state (trainer.save_model_only=true), so training can't go on from it; name "
            f"another checkpoint, {fix}"
        )


def merged_model(checkpoint: Path, note: Callable[[str], None] = lambda text: None) -> Path:
    """The folder with a checkpoint's weights in safetensors, merged now if they are not yet (`actor/huggingface`).

    Weights keep the type they were trained in. A LoRA adapter is merged: W + alpha / rank * B A. One output file of
    weights is in memory at a time. Raises ConfigError for shards that can't be read as tensors, TrainingError when the
    disk refuses.
    """
    actor = checkpoint / "actor"
    target = actor / "huggingface"
    if _is_merged(target) and not any(target.glob(".merging-*")):
        return target
    if not (target / "config.json").is_file():
        raise ConfigError(f"{target} has no config.json; the checkpoint is not whole")
    with DirectoryLock(target / ".lock", wait=True):
        for leftover in target.glob(".merging-*"):  # of a merge that was killed: the lock is ours
            remove_tree(leftover)
        if not _is_merged(target):
            shards = shard_files(actor)
            note(f"merging {len(shards)} shards of {actor} into {target}")
            with torch.no_grad():
                tensors = _merged_tensors(actor, [_load(path) for path in shards], _tied(target))
                _write(tensors, target)
    return target


def _load(path: Path) -> dict[str, Any]:
    import torch.distributed.tensor  # registers sharded tensors with the reader that takes tensors only

    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(f"{path} can't be read as tensors only ({first}); merge it with {_MERGER} {path.parent}") from error


def _merge(name: str, parts: list[Any]) -> torch.Tensor:
    """One weight from its parts, rank by rank."""
    first = parts[0]
    if not hasattr(first, "placements"):  # not sharded: every process holds the same
        return first
    rows = first.device_mesh.mesh.shape[-1]  # with replicas (HSDP) the first row of the mesh holds all shards
    placement = first.placements[-1]
    locals_ = [part.to_local() for part in parts[:rows]]
    whole = locals_[0] if placement.is_replicate() else torch.cat(locals_, dim=placement.dim)
    if whole.shape != first.shape:
        raise ConfigError(f"{name}: the shards give the shape {tuple(whole.shape)}, not {tuple(first.shape)}; one is damaged")
    return whole


_ANOTHER = "restore it, or give another checkpoint"


def _merged_tensors(actor: Path, shards: list[dict[str, Any]], tied: bool) -> dict[str, Callable[[], torch.Tensor]]:
    """Name in the model's own checkpoint -> a function that builds the weight."""
    names = [name for name in shards[0] if ".lora_" not in name]

    def build(name: str) -> Callable[[], torch.Tensor]:
        return lambda: _merge(name, [shard[name] for shard in shards])

    if not any(".lora_" in name for name in shards[0]):
        return {name: build(name) for name in names if not (tied and name == "lm_head.weight")}
    file = actor / "lora_adapter" / "adapter_config.json"
    adapter = read_mapping(file, _ANOTHER)
    try:
        scale = adapter["lora_alpha"] / adapter["r"]
    except (KeyError, TypeError, ZeroDivisionError):
        raise ConfigError(f"{file}: lora_alpha and r have to be numbers, r above 0; {_ANOTHER}") from None

    def build_lora(name: str) -> Callable[[], torch.Tensor]:
        stem = name.removesuffix("base_layer.weight")
        a, b = f"{stem}lora_A.default.weight", f"{stem}lora_B.default.weight"

        def weight() -> torch.Tensor:
            base = build(name)()
            if stem == name or a not in shards[0]:
                return base
            return (base.float() + scale * (build(b)().float() @ build(a)().float())).to(base.dtype)

        return weight

    plain = {name.removeprefix("base_model.model.").replace(".base_layer.", "."): name for name in names}
    return {short: build_lora(name) for short, name in plain.items() if not (tied and short == "lm_head.weight")}


def _tied(folder: Path) -> bool:
    config = read_mapping(folder / "config.json", _ANOTHER)
    of_text = config.get("text_config")
    return bool(config.get("tie_word_embeddings") or (isinstance(of_text, dict) and of_text.get("tie_word_embeddings")))


def _is_merged(folder: Path) -> bool:
    """Whether the weights are there; several files without their index are those of a merge that was killed."""
    several = any(folder.glob("model-*-of-*.safetensors"))
    unfinished = several and not (folder / "model.safetensors.index.json").is_file()
    return any(folder.glob("*.safetensors")) and not unfinished


def _files(tensors: dict[str, Callable[[], torch.Tensor]]) -> Iterator[dict[str, torch.Tensor]]:
    """The weights, as many at a time as one file holds."""
    held: dict[str, torch.Tensor] = {}
    size = 0
    for name, weight in tensors.items():
        tensor = weight().contiguous()
        own = tensor.numel() * tensor.element_size()
        if held and size + own > MAX_FILE_BYTES:
            yield held
            held, size = {}, 0
        held[name] = tensor
        size += own
    yield held


def _write(tensors: dict[str, Callable[[], torch.Tensor]], target: Path) -> None:
    """Written aside, flushed, renamed; the index comes last, so that a killed merge is told from a whole one."""
    aside = target / f".merging-{os.getpid()}"
    try:
        aside.mkdir()
        places: dict[str, int] = {}
        total = count = 0
        for count, held in enumerate(_files(tensors), start=1):
            save_file(held, aside / f"{count}.safetensors", metadata={"format": "pt"})
            fsync(aside / f"{count}.safetensors")
            places |= dict.fromkeys(held, count)
            total += sum(tensor.numel() * tensor.element_size() for tensor in held.values())
        names = {number: f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)}
        if count == 1:
            (aside / "1.safetensors").replace(target / "model.safetensors")
        else:
            for number, name in names.items():
                (aside / f"{number}.safetensors").replace(target / name)
            index = {
                "metadata": {"total_size": total},
                "weight_map": {name: names[number] for name, number in places.items()},
            }
            (aside / "index").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
            fsync(aside / "index")
            (aside / "index").replace(target / "model.safetensors.index.json")
        fsync(target)
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"could not write the merged weights into {target} ({error}); free some space or make it writable, then run the "
            "same command again"
        ) from error
    finally:
        remove_tree(aside)
