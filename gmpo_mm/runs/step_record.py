"""A training step on file: what was asked, sampled, graded and trained on, in one format for all engines.

    rollouts/step_N.safetensors   the tensors, one row of tokens after another, without padding
    rollouts/step_N.json          everything else, and the size and the SHA-256 of the tensors' file
    rollouts/pictures/HASH.png    each picture once a run, under the hash of its pixels

The JSON is written last and removed first, so a record is whole or absent. docs/reference/step_records.md lists the fields.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.nn.utils.rnn import pad_sequence
from typing_extensions import NotRequired, TypedDict

from gmpo_mm.config.loss import untrained_loss_keys
from gmpo_mm.config.recording import is_recorded, records_steps
from gmpo_mm.config.schema import Config
from gmpo_mm.errors import DataError
from gmpo_mm.machine_errors import writing
from gmpo_mm.runs.files import make_own_folder, open_new, sha256, write_atomically
from gmpo_mm.runs.reading import read_json
from gmpo_mm.runs.run_config import FREE_KEYS, flatten
from gmpo_mm.runs.safetensors_file import SafetensorsWriter

FOLDER, PICTURES = "rollouts", "pictures"
FORMAT = 1
"""Raised when the meaning of a field changes."""
OF_THE_MACHINE = ("timing_s/", "timing_per_token_ms/", "perf/", "memory/")
"""Beginnings of metrics that a record leaves out: they differ from run to run."""
TOKEN_TENSORS = ("response_mask", "sampler_log_probs", "old_log_probs", "ref_log_probs", "log_probs", "advantages")
"""Names in the file of tensors with one value for each response token; `response_ids` is the first of them."""
_HASHED_A_SECOND, _WRITTEN_A_SECOND = 1e9, 1e8
"""Bytes, of one core with SHA instructions and of a disk; for an estimate."""
_ADVICE = "record the step again (trainer.record_steps), or take another"


@dataclass(frozen=True, eq=False)
class RecordedPrompt:
    """A prompt as the model read it.

    `text` is the chat text, `input_ids_S` (int64) has one placeholder for each image token. `images` are the names in
    `rollouts/pictures`, in order; `image_grid_thw_N3` their patches in time, height and width.
    """

    id: str
    text: str
    problem: str
    answer: str
    input_ids_S: torch.Tensor
    images: tuple[str, ...] = ()
    image_grid_thw_N3: torch.Tensor | None = None


@dataclass(eq=False)
class StepRecord:
    """A step with P prompts and B responses, padded on the right to T tokens; group by group.

    Log-probabilities are in nats at the sampling temperature and 0 where the mask is False. A tensor is None where the
    step had none: `old_log_probs_BT` where the sampler's serve as old ones or the only update makes them itself,
    `ref_log_probs_BT` without KL, `log_probs_BT` (those of the last epoch's forward pass) on engines that do not return them.
    """

    step: int
    engine: str
    prompts: Sequence[RecordedPrompt]
    group_ids_B: torch.Tensor
    """The prompt's number of each response."""
    response_ids_BT: torch.Tensor
    mask_BT: torch.Tensor
    """bool, True on the tokens that are trained on."""
    texts: Sequence[str]
    stop_reasons: Sequence[str | None]
    rewards_B: torch.Tensor
    """float64."""
    advantages_BT: torch.Tensor
    updates: Sequence[Sequence[int]]
    """The rows of each optimizer step, in the order of the steps; of all epochs."""
    reward_parts: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Name -> (B,) float64, NaN where the reward function did not give it."""
    left_out: frozenset[int] = frozenset()
    """Rows without a part in the loss."""
    sampler_log_probs_BT: torch.Tensor | None = None
    old_log_probs_BT: torch.Tensor | None = None
    ref_log_probs_BT: torch.Tensor | None = None
    log_probs_BT: torch.Tensor | None = None
    temperature: float = 1.0
    learning_rate: float | None = None
    kl_coef: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    """The step's metrics, without times and memory."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The run's configuration as it is saved."""
    versions: Mapping[str, Any] = field(default_factory=dict)
    weights_before: str = ""
    """SHA-256 of the trained weights (`weights_sha256`) before the step's first update."""
    weights_after: str = ""
    lengths_B: Sequence[int] = ()
    """Tokens of each response; where it is empty, they are taken from the mask when the record is made."""

    def __post_init__(self) -> None:
        if not len(self.lengths_B):
            places_T = torch.arange(1, self.mask_BT.shape[1] + 1)
            self.lengths_B = (self.mask_BT.long().cpu() * places_T).amax(1).tolist() if self.mask_BT.numel() else []

    def __len__(self) -> int:
        return len(self.lengths_B)

    @property
    def config_sha256(self) -> str:
        """Hash of what decides the training: equal for two runs that differ only in where and how often they write."""
        return config_sha256(self.config)

    @property
    def behaviour_log_probs_BT(self) -> torch.Tensor | None:
        """Those of the old policy: recomputed ones, else the sampler's."""
        return self.sampler_log_probs_BT if self.old_log_probs_BT is None else self.old_log_probs_BT


class _Prompt(TypedDict):
    id: str
    text: str
    problem: str
    answer: str
    images: list[str]


class _Response(TypedDict):
    text: str
    stop_reason: str | None


class _Weights(TypedDict):
    before: str
    after: str


class _Header(TypedDict):
    format: int
    step: int
    engine: str
    temperature: float
    learning_rate: float | None
    kl_coef: float | None
    left_out: list[int]
    prompts: list[_Prompt]
    responses: list[_Response]
    weights_sha256: _Weights
    config_sha256: str
    config: dict[str, Any]
    versions: dict[str, Any]
    metrics: dict[str, float | None]
    bytes: int
    sha256: str
    note: NotRequired[str]


def config_sha256(config: Mapping[str, Any]) -> str:
    """Hash of a saved configuration without the keys that may differ when a run is resumed."""
    flat = flatten(dict(config))
    loss_type = str(flat.get("worker.actor.loss_type", ""))
    # which keys a loss of a file reads is in its code, which a record of somebody else must not run
    compared = frozenset() if ".py:" in loss_type else untrained_loss_keys(loss_type)
    decides = {key: value for key, value in flat.items() if key not in FREE_KEYS and key not in compared}
    return hashlib.sha256(json.dumps(decides, sort_keys=True, default=str).encode()).hexdigest()


def picture_name(image: Image.Image) -> str:
    """Hash of an RGB picture's size and pixels."""
    rgb = image.convert("RGB")
    return hashlib.sha256(f"{rgb.width} x {rgb.height} RGB\n".encode() + rgb.tobytes()).hexdigest()


def write_picture(run_dir: Path, image: Image.Image) -> str:
    """Keep a picture of a run, if it is not there yet; returns its name."""
    name = picture_name(image)
    folder = run_dir / FOLDER / PICTURES
    target = folder / f"{name}.png"
    if not target.exists():
        temporary = folder / f".{name}.tmp"
        with writing(target):
            make_own_folder(run_dir / FOLDER)
            make_own_folder(folder)
            with open_new(temporary, "wb") as file:
                image.convert("RGB").save(file, "PNG", compress_level=1)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
    return name


def remove_leftovers(run_dir: Path) -> None:
    """Remove what a killed write left."""
    for path in (*(run_dir / FOLDER).glob(".*.tmp"), *(run_dir / FOLDER / PICTURES).glob(".*.tmp")):
        path.unlink(missing_ok=True)


def write_step(run_dir: Path, record: StepRecord) -> Path:
    """Write a record, whole or not at all; one of the same step is replaced. TrainingError when the disk refuses."""
    folder = run_dir / FOLDER
    tensors_path, json_path = folder / f"step_{record.step}.safetensors", folder / f"step_{record.step}.json"
    temporary = folder / f".{tensors_path.name}.tmp"
    with writing(tensors_path):
        make_own_folder(folder)
        temporary.unlink(missing_ok=True)
        writer = SafetensorsWriter()
        writer.save_file(_tensors(record), temporary)
        json_path.unlink(missing_ok=True)
        temporary.replace(tensors_path)
    header = _header(record, tensors_path.stat().st_size, writer.sha256[temporary])
    write_atomically(json_path, json.dumps(header, ensure_ascii=False, indent=1) + "\n")
    return json_path


def load_step(run: str | Path, step: int | None = None) -> StepRecord:
    """Read a record: of a run directory and a step, or of the path of either of its files.

    Raises DataError for a step without a record, and for files that are damaged or of a newer format.
    """
    path = Path(run)
    if path.is_dir():
        found = recorded_steps(path)
        if step is None and len(found) == 1:
            step = found[0]
        if step not in found:
            listed = f"there are {', '.join(map(str, found))}" if found else "there is none"
            asked = "name a step" if step is None else f"step {step} has no record"
            raise DataError(f"{path}: {asked}; {listed}. trainer.record_steps says which steps a run records")
        path = path / FOLDER / f"step_{step}.json"
    if path.suffix not in (".json", ".safetensors"):
        raise DataError(f"{path}: there is no such run directory; give one, or a record as {FOLDER}/step_1.json")
    path = path.with_suffix(".json")
    header = read_json(path, _Header, _ADVICE)
    if header["format"] > FORMAT:
        raise DataError(f"{path} has format {header['format']}, and this version reads {FORMAT}; use a newer gmpo_mm")
    tensors_path = path.with_suffix(".safetensors")
    try:
        if tensors_path.stat().st_size != header["bytes"] or sha256(tensors_path) != header["sha256"]:
            raise DataError(f"{tensors_path} is not the file that {path.name} was written for; {_ADVICE}")
        tensors = load_file(tensors_path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{tensors_path} can't be read ({error}); {_ADVICE}") from None
    try:
        return _record(header, tensors)
    except (KeyError, IndexError, ValueError, RuntimeError) as error:
        raise DataError(f"{tensors_path} is no record of a step ({error!r}); {_ADVICE}") from None


def recorded_steps(run_dir: str | Path) -> list[int]:
    """The steps of a run that have a record."""
    names = (path.stem.removeprefix("step_") for path in (Path(run_dir) / FOLDER).glob("step_*.json"))
    return sorted(int(name) for name in names if name.isdigit())


def record_bytes(responses: int, response_tokens: int, prompts: int, prompt_tokens: int) -> int:
    """Largest size of a record in bytes, without its pictures: tokens as numbers and as text."""
    token = 4 + 1 + 5 * 4 + 5  # id, mask, five float32, and about five bytes of text
    return responses * (response_tokens * token + 100) + prompts * (prompt_tokens * (4 + 5) + 500) + 20_000


def announcement(config: Config, total_steps: int, trained_bytes: int) -> str | None:
    """What a run says of its records before it starts: how many, how large, how long; None where it writes none.

    `trained_bytes`: of the trained weights, which are hashed twice a record.
    """
    if not records_steps(config):
        return None
    wanted = config.trainer.record_steps
    beyond = [step for step in wanted if step > total_steps] if isinstance(wanted, list) else []
    count = sum(is_recorded(config, step) for step in range(1, total_steps + 1))
    data = config.data
    responses = data.rollout_batch_size * config.worker.rollout.n
    size = record_bytes(responses, data.max_response_length, data.rollout_batch_size, data.max_prompt_length)
    seconds = 2 * trained_bytes / _HASHED_A_SECOND + size / _WRITTEN_A_SECOND
    text = (
        f"step records: {count} of {total_steps} steps, each at most {size / 1e6:,.1f} MB and about {seconds:,.1f} s; "
        f"{count * size / 1e6:,.1f} MB in all at most, and each picture once, in {FOLDER}/"
    )
    if beyond:
        text += f". There is no step {', '.join(map(str, beyond))}: the run has {total_steps}"
    return text


# ---- between the record and its files ---------------------------------------------------------------------------------


def _tensors(record: StepRecord) -> dict[str, torch.Tensor]:
    starts = torch.tensor([0, *record.lengths_B]).cumsum(0)
    mask_BT = record.mask_BT.cpu()
    valid_BT = torch.arange(mask_BT.shape[1])[None] < torch.tensor(record.lengths_B)[:, None]
    values: dict[str, torch.Tensor | None] = {
        "response_mask": mask_BT,
        "sampler_log_probs": record.sampler_log_probs_BT,
        "old_log_probs": record.old_log_probs_BT,
        "ref_log_probs": record.ref_log_probs_BT,
        "log_probs": record.log_probs_BT,
        "advantages": record.advantages_BT,
    }
    grids = [p.image_grid_thw_N3 for p in record.prompts]
    found = {
        "prompt_ids": torch.cat([p.input_ids_S.cpu() for p in record.prompts]).int(),
        "prompt_starts": torch.tensor([0, *(len(p.input_ids_S) for p in record.prompts)]).cumsum(0),
        "response_ids": record.response_ids_BT.cpu()[valid_BT].int(),
        "response_starts": starts,
        "group_ids": record.group_ids_B.cpu().long(),
        "rewards": record.rewards_B.cpu().double(),
        "update_rows": torch.tensor([row for rows in record.updates for row in rows], dtype=torch.int64),
        "update_starts": torch.tensor([0, *(len(rows) for rows in record.updates)]).cumsum(0),
    }
    if any(grid is not None for grid in grids):
        found["image_grid_thw"] = torch.cat([grid.cpu().long() for grid in grids if grid is not None])
        found["image_starts"] = torch.tensor([0, *(0 if grid is None else len(grid) for grid in grids)]).cumsum(0)
    for name, tensor in values.items():
        if tensor is not None:
            flat = tensor.detach().cpu()[valid_BT]
            found[name] = flat if flat.dtype == torch.bool else flat.float()
    for name, part_B in record.reward_parts.items():
        found[f"rewards/{name}"] = part_B.cpu().double()
    return found


def _header(record: StepRecord, size: int, digest: str) -> _Header:
    return {
        "format": FORMAT,
        "step": record.step,
        "engine": record.engine,
        "temperature": record.temperature,
        "learning_rate": record.learning_rate,
        "kl_coef": record.kl_coef,
        "left_out": sorted(record.left_out),
        "prompts": [
            {"id": p.id, "text": p.text, "problem": p.problem, "answer": p.answer, "images": list(p.images)}
            for p in record.prompts
        ],
        "responses": [
            {"text": text, "stop_reason": reason} for text, reason in zip(record.texts, record.stop_reasons, strict=True)
        ],
        "weights_sha256": {"before": record.weights_before, "after": record.weights_after},
        "config_sha256": record.config_sha256,
        "config": dict(record.config),
        "versions": dict(record.versions),
        "metrics": {name: value if math.isfinite(value) else None for name, value in record.metrics.items()},
        "bytes": size,
        "sha256": digest,
    }


def _record(header: _Header, tensors: dict[str, torch.Tensor]) -> StepRecord:
    prompt_ids = _cut(tensors["prompt_ids"].long(), tensors["prompt_starts"])
    if "image_grid_thw" in tensors:
        grids: Sequence[torch.Tensor | None] = _cut(tensors["image_grid_thw"], tensors["image_starts"])
    else:
        grids = [None] * len(prompt_ids)
    prompts = [
        RecordedPrompt(p["id"], p["text"], p["problem"], p["answer"], ids, tuple(p["images"]), grid if p["images"] else None)
        for p, ids, grid in zip(header["prompts"], prompt_ids, grids, strict=True)
    ]
    for name in (name for prompt in prompts for name in prompt.images):
        if not re.fullmatch("[0-9a-f]{64}", name):  # it becomes part of a path
            raise ValueError(f"{name!r} is no picture's name")
    starts = tensors["response_starts"]

    def padded(name: str) -> torch.Tensor | None:
        return pad_sequence(_cut(tensors[name], starts), batch_first=True) if name in tensors else None

    ids_BT, mask_BT, advantages_BT = padded("response_ids"), padded("response_mask"), padded("advantages")
    if ids_BT is None or mask_BT is None or advantages_BT is None:
        raise KeyError("response_ids, response_mask or advantages")
    return StepRecord(
        step=header["step"],
        engine=header["engine"],
        prompts=prompts,
        group_ids_B=tensors["group_ids"],
        response_ids_BT=ids_BT.long(),
        mask_BT=mask_BT,
        texts=[r["text"] for r in header["responses"]],
        stop_reasons=[r["stop_reason"] for r in header["responses"]],
        rewards_B=tensors["rewards"],
        advantages_BT=advantages_BT,
        updates=[rows.tolist() for rows in _cut(tensors["update_rows"], tensors["update_starts"])],
        reward_parts={
            name.removeprefix("rewards/"): tensor for name, tensor in tensors.items() if name.startswith("rewards/")
        },
        left_out=frozenset(header["left_out"]),
        sampler_log_probs_BT=padded("sampler_log_probs"),
        old_log_probs_BT=padded("old_log_probs"),
        ref_log_probs_BT=padded("ref_log_probs"),
        log_probs_BT=padded("log_probs"),
        temperature=header["temperature"],
        learning_rate=header["learning_rate"],
        kl_coef=header["kl_coef"],
        metrics={name: math.nan if value is None else value for name, value in header["metrics"].items()},
        config=header["config"],
        versions=header["versions"],
        weights_before=header["weights_sha256"]["before"],
        weights_after=header["weights_sha256"]["after"],
        lengths_B=starts.diff().tolist(),
    )


def _cut(values: torch.Tensor, starts: torch.Tensor) -> list[torch.Tensor]:
    return list(values.split(starts.diff().tolist()))
