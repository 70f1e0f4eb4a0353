"""A step of EasyR1 as a record (`runs/step_record.py`): its padded, reordered rows as they were sampled, group by group."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from verl.protocol import DataProto
from verl.utils import dataset as easyr1_dataset
from verl.utils.dataset import RLHFDataset, process_image

from gmpo_mm.config.recording import is_recorded
from gmpo_mm.config.schema import Config
from gmpo_mm.engines.batch_metrics import truncated_rows
from gmpo_mm.engines.easyr1.rows_seen import StepSeen
from gmpo_mm.runs.run_directory import RunDirectory
from gmpo_mm.runs.step_record import (
    OF_THE_MACHINE,
    RecordedPrompt,
    StepRecord,
    announcement,
    remove_leftovers,
    write_picture,
    write_step,
)

ID, PROBLEM = KEPT = ("gmpo_id", "gmpo_problem")
"""Columns with a row's name and the text of its problem, which EasyR1's data set takes out of its rows."""


@contextmanager
def problems_kept(prompt_key: str) -> Iterator[None]:
    """Data sets that EasyR1 loads inside have `KEPT` as well; a row without an id has its number in place of one."""
    stock: Callable[..., Any] = easyr1_dataset.load_dataset

    def load(*args: Any, **kwargs: Any) -> Any:
        found = stock(*args, **kwargs)
        given = found["id"] if "id" in found.column_names else [None] * len(found)
        ids = [str(number if id_ is None else id_) for number, id_ in enumerate(given)]
        return found.add_column(ID, ids).add_column(PROBLEM, list(found[prompt_key]))

    easyr1_dataset.load_dataset = load
    try:
        yield
    finally:
        easyr1_dataset.load_dataset = stock


class StepRecorder:
    """Writes the steps that `trainer.record_steps` asks for."""

    def __init__(
        self, config: Config, run: RunDirectory, dataset: RLHFDataset, processor: Any, tokenizer: Any, end_tokens: list[int]
    ) -> None:  # fmt: skip
        """`dataset` is EasyR1's for training, loaded within `problems_kept`; `end_tokens` end a response."""
        self.config, self.run, self.dataset = config, run, dataset
        self.processor, self.tokenizer, self.end_tokens = processor, tokenizer, end_tokens
        remove_leftovers(run.path)

    def announcement(self, steps: int, trained_bytes: int) -> str:
        """What a run of `steps` says of its records before it trains weights of that size."""
        return announcement(self.config, steps, trained_bytes) or ""

    def is_due(self, step: int) -> bool:
        """Whether a step is recorded."""
        return is_recorded(self.config, step)

    def record(
        self, step: int, batch: DataProto, scores: Sequence[Mapping[str, float]], seen: StepSeen, weights: tuple[str, str]
    ) -> StepRecord:
        """The record of a step, but for its metrics.

        `batch` are the trained rows as they were sampled, `scores` what the reward function gave for each, `seen` numbers
        the rows as `batch` does, `weights` are the hashes before and after the update.
        """
        tensors, algorithm = batch.batch, self.config.algorithm
        mask_BT = tensors["response_mask"].bool()
        lengths = mask_BT.sum(1).tolist()
        groups = [str(uid) for uid in batch.non_tensor_batch["uid"]]
        first_rows = {uid: groups.index(uid) for uid in dict.fromkeys(groups)}
        numbers = {uid: number for number, uid in enumerate(first_rows)}
        truncated_B = truncated_rows(tensors["responses"], mask_BT, self.end_tokens)
        ids = [ids_T[:length] for ids_T, length in zip(tensors["responses"], lengths, strict=True)]

        def masked(name: str) -> torch.Tensor | None:
            return tensors[name].float().masked_fill(~mask_BT, 0.0) if name in tensors else None

        advantages_BT = masked("advantages")
        assert advantages_BT is not None
        parts = dict.fromkeys(name for score in scores for name in score if name != "overall")
        return StepRecord(
            step=step,
            engine="easyr1",
            prompts=[self._prompt(batch, row, seen.grids.get(row)) for row in first_rows.values()],
            group_ids_B=torch.tensor([numbers[uid] for uid in groups]),
            response_ids_BT=tensors["responses"].masked_fill(~mask_BT, 0),
            mask_BT=mask_BT,
            texts=self.tokenizer.batch_decode(ids, skip_special_tokens=self.config.worker.reward.skip_special_tokens),
            stop_reasons=["length" if cut else "stop" for cut in truncated_B.tolist()],
            rewards_B=_column(scores, "overall"),
            advantages_BT=advantages_BT,
            updates=seen.updates,
            reward_parts={name: _column(scores, name) for name in parts},
            left_out=frozenset(truncated_B.nonzero()[:, 0].tolist() if algorithm.mask_truncated_completions else ()),
            sampler_log_probs_BT=masked("sampler_log_probs"),
            old_log_probs_BT=masked("old_log_probs"),
            ref_log_probs_BT=masked("ref_log_probs"),
            log_probs_BT=seen.log_probs_BT.masked_fill(~mask_BT, 0.0),
            temperature=self.config.worker.rollout.temperature,
            config=self.run.config,
            versions=self.run.environment,
            weights_before=weights[0],
            weights_after=weights[1],
            lengths_B=lengths,
        )

    def write(self, record: StepRecord, metrics: Mapping[str, float]) -> None:
        """Put a record with the metrics of its step onto the disk."""
        record.learning_rate, record.kl_coef = metrics.get("actor/lr"), metrics.get("actor/kl_coef")
        record.metrics = {name: value for name, value in metrics.items() if not name.startswith(OF_THE_MACHINE)}
        write_step(self.run.path, record)

    def _prompt(self, batch: DataProto, row: int, grid_N3: torch.Tensor | None) -> RecordedPrompt:
        padded_S, others = batch.batch["prompts"][row], {name: each[row] for name, each in batch.non_tensor_batch.items()}
        is_token_S = batch.batch["attention_mask"][row, : len(padded_S)].bool()
        data = self.config.data
        pictures = [
            process_image(image, data.min_pixels, data.max_pixels)
            for image in others.get("multi_modal_data", {}).get("images", ())
        ]
        return RecordedPrompt(
            id=others[ID],
            text=self._chat_text(others[PROBLEM]),
            problem=others[PROBLEM],
            answer=str(others["ground_truth"]),
            input_ids_S=padded_S[is_token_S],
            images=tuple(write_picture(self.run.path, picture) for picture in pictures),
            image_grid_thw_N3=grid_N3,
        )

    def _chat_text(self, problem: str) -> str:
        """As `RLHFDataset.__getitem__` builds it."""
        dataset = self.dataset
        example = {dataset.prompt_key: problem}
        pictured = dataset.image_key in dataset.dataset.column_names
        messages = dataset._build_messages(example | ({dataset.image_key: []} if pictured else {}))
        builder = self.processor if pictured else self.tokenizer
        return str(builder.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))


def _column(scores: Sequence[Mapping[str, float]], name: str) -> torch.Tensor:
    return torch.tensor([score.get(name, np.nan) for score in scores], dtype=torch.float64)
