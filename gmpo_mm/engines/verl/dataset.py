"""Our data set as verl's data loader wants it: chat messages with loaded pictures, and what the reward needs."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import Dataset

from gmpo_mm.config.schema import Config
from gmpo_mm.data import PromptDataset, Records
from gmpo_mm.data.prompts import build_messages, load_format_prompt
from gmpo_mm.errors import ConfigError
from gmpo_mm.models.processing import Processor
from gmpo_mm.runs.progress import Progress


class GMPODataset(Dataset):
    """Rows of a `PromptDataset`, so that the same prompts are kept, dropped or refused as on every engine.

    verl asks for `GMPODataset(data_files, tokenizer, config, processor, max_samples)`; our trainer builds it with
    `from_config`, and verl's sampling workers use only `process_multi_modal_info`.
    """

    def __init__(
        self, *args: Any, prompts: PromptDataset | None = None, config: Any = None, is_training: bool = False, **others: Any
    ) -> None:
        if prompts is None:
            raise ConfigError("data.custom_cls: GMPODataset is made by gmpo-mm train with engine=verl, not by verl's own start")
        self.prompts = prompts
        self._is_training = is_training
        self._format_prompt = load_format_prompt(config.format_prompt)

    @classmethod
    def from_config(
        cls, config: Config, processor: Processor, records: Records, training: bool, progress: Progress
    ) -> GMPODataset:
        """Measure checked training or validation records; DataError names prompts that are too long."""
        data = config.data
        what = "training" if training else "validation"
        with progress.stage(f"measuring {what} prompts", len(records), "prompts") as stage:
            prompts = PromptDataset(records, processor, data, training, progress=lambda done, _: stage.update(done))
        return cls(prompts=prompts, config=data, is_training=training)

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """What verl carries to its workers for one prompt."""
        record = self.prompts.record(index)
        messages = build_messages(record, self._format_prompt)
        pictures = iter(self.prompts.images(index))  # no patches: verl's sampling workers cut them themselves
        for message in messages:
            for part in message["content"] if isinstance(message["content"], list) else []:
                if part["type"] == "image":
                    part["image"] = next(pictures)
        truth = record.answer if len(record.answers) == 1 else list(record.answers)
        return {
            "raw_prompt": messages,
            "reward_model": {"ground_truth": truth},
            "data_source": str(record.source or "gmpo_mm"),
            "extra_info": {
                "index": index, "id": record.id, "problem": record.problem, "is_training": self._is_training,
            },
            "index": index,
            "dummy_tensor": torch.zeros(1, dtype=torch.uint8),  # verl's batches want one tensor at least
        }

    @classmethod
    async def process_multi_modal_info(
        cls, messages: list[dict[str, Any]], image_patch_size: int, config: Any
    ) -> tuple[list[Any] | None, None, None]:
        """The pictures of the messages, loaded and sized by us; no videos, no sounds."""
        parts = [part for message in messages if isinstance(message["content"], list) for part in message["content"]]
        return [part["image"] for part in parts if part["type"] == "image"] or None, None, None
