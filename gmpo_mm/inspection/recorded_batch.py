"""A recorded step as the batch that an update of the local engine takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from gmpo_mm.data.prompts import EncodedPrompt
from gmpo_mm.data.records import Record
from gmpo_mm.errors import DataError
from gmpo_mm.inspection.stages import Stage
from gmpo_mm.models.processing import Processor
from gmpo_mm.rollout.protocol import Response
from gmpo_mm.runs.step_record import PICTURES, RecordedPrompt, StepRecord, picture_name
from gmpo_mm.training.batch import Batch, SampledGroup


def recorded_prompts(
    record: StepRecord, processor: Processor, folder: Path
) -> tuple[list[EncodedPrompt], list[Stage]]:
    """The prompts with the pictures of `folder` (a run's `rollouts`), encoded again.

    Ids are those of the record, whatever the tokenizer here makes of the text; the stages say whether it
    makes the same. Raises DataError for a picture that is missing, changed, or cut into other patches than
    the run's.
    """
    prompts, other_ids, pictures = [], [], 0
    for number, recorded in enumerate(record.prompts):
        images = tuple(_picture(folder, name) for name in recorded.images)
        patches, grid_thw_N3 = processor.cut(images) if images else (None, None)
        pictures += len(images)
        if grid_thw_N3 is not None and not torch.equal(grid_thw_N3, _grid(recorded)):
            raise DataError(
                f"step {record.step}, prompt {number} (id {recorded.id}): the image processor here cuts its "
                f"pictures into {grid_thw_N3.tolist()} patches (time, height, width), the record has "
                f"{_grid(recorded).tolist()}; use the model that the run trained, and its version of "
                "transformers"
            )
        try:
            input_ids_S, unexpanded = processor.tokenize(recorded.text, grid_thw_N3)
        except DataError:
            input_ids_S, unexpanded = torch.zeros(0, dtype=torch.int64), []
        if not torch.equal(input_ids_S, recorded.input_ids_S):
            other_ids.append(number)
        source = Record(recorded.problem, (), recorded.answer, (recorded.answer,), recorded.id)
        prompts.append(
            EncodedPrompt(
                source, recorded.text, recorded.input_ids_S, unexpanded, images, patches, grid_thw_N3
            )
        )
    if other_ids:
        count = f"{len(other_ids)} of {len(prompts)}"
        found = f"the tokenizer here makes other ids of {count} texts, first of prompt {other_ids[0]}"
        stages = [Stage("prompts", False, found)]
    else:
        stages = [Stage("prompts", True, f"the same ids for all {len(prompts)} texts")]
    if pictures:
        stages.append(Stage("pictures", True, f"the same pixels and patches for all {pictures}"))
    return prompts, stages


def recorded_batch(record: StepRecord, prompts: Sequence[EncodedPrompt]) -> Batch:
    """The batch of a record. Raises DataError for what an update of the local engine can't take."""
    lengths, size = list(record.lengths_B), _group_size(record)
    sampler_BT = record.sampler_log_probs_BT
    if sampler_BT is None:
        sampler_BT = (
            record.old_log_probs_BT
            if record.old_log_probs_BT is not None
            else torch.zeros_like(record.advantages_BT)
        )
    valid_BT = torch.arange(record.mask_BT.shape[1])[None] < torch.tensor(lengths)[:, None]
    masked_rows = {row for row, any_ in enumerate(record.mask_BT.any(1).tolist()) if not any_}
    holes = (valid_BT != record.mask_BT).any(1).nonzero().flatten().tolist()
    if holes := [row for row in holes if row not in masked_rows]:
        raise DataError(
            f"step {record.step}: response {holes[0]} has tokens that are not trained on; the local engine "
            "trains on all tokens of a response or on none, so it can't do this update again"
        )
    responses = [
        Response(
            record.response_ids_BT[row, :length], sampler_BT[row, :length], record.stop_reasons[row] or "stop"
        )
        for row, length in enumerate(lengths)
    ]
    scores = [
        {"overall": float(record.rewards_B[row])}
        | {
            name: float(part_B[row])
            for name, part_B in record.reward_parts.items()
            if not part_B[row].isnan()
        }
        for row in range(len(record))
    ]
    groups = [
        SampledGroup(
            prompt,
            responses[start : start + size],
            record.texts[start : start + size],
            scores[start : start + size],
        )
        for prompt, start in zip(prompts, range(0, len(record), size), strict=True)
    ]
    batch = Batch(groups)
    batch.old_log_probs_BT = _copy(record.old_log_probs_BT)
    batch.ref_log_probs_BT = _copy(record.ref_log_probs_BT)
    batch.advantages_BT = record.advantages_BT.clone()
    batch.left_out = record.left_out | masked_rows
    rows = sorted(batch.left_out)
    batch.host_mask_BT = batch.host_mask_BT.clone()
    batch.host_mask_BT[rows] = False
    return batch


def _group_size(record: StepRecord) -> int:
    sizes = torch.bincount(record.group_ids_B, minlength=len(record.prompts)).tolist()
    in_order = record.group_ids_B.tolist() == [g for g, size in enumerate(sizes) for _ in range(size)]
    if not sizes or len(set(sizes)) != 1 or not in_order:
        raise DataError(
            f"step {record.step}: its groups have {min(sizes, default=0)} to {max(sizes, default=0)} "
            f"responses{'' if in_order else ', not group by group'}; the local engine takes groups of one "
            "size, one after another"
        )
    return sizes[0]


def _picture(folder: Path, name: str) -> Image.Image:
    path = folder / PICTURES / f"{name}.png"
    try:
        with Image.open(path) as image:
            picture = image.convert("RGB")
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} can't be read ({error}); a record needs its run's folder {folder.name}/{PICTURES}"
        ) from None
    if picture_name(picture) != name:
        raise DataError(f"{path} holds other pixels than its name says; restore it, or record the step again")
    return picture


def _grid(recorded: RecordedPrompt) -> torch.Tensor:
    return torch.zeros(0, 3) if recorded.image_grid_thw_N3 is None else recorded.image_grid_thw_N3


def _copy(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else tensor.clone()
