"""A trained step's rows out of verl's queue, group by group again: verl orders them for its ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transfer_queue as tq
from torch.nn.utils.rnn import pad_sequence
from transfer_queue import KVBatchMeta

from gmpo_mm.engines.verl.seen import Seen

FIELDS = (
    "prompts", "responses", "response_mask", "rollout_log_probs", "old_log_probs", "ref_log_prob",
    "advantages", "entropy", "rollout_is_weights",
)  # fmt: skip


@dataclass(frozen=True)
class StepRows:
    """The rows of a step in the order of its prompts and of their samples."""

    keys: list[str]
    """In verl's queue, PROMPT_SAMPLE_PART."""
    partition: str
    columns: dict[str, list[torch.Tensor]]
    """Those of `FIELDS` that the step has, a tensor for each row."""
    seen: Seen
    """With the rows' numbers here."""

    @classmethod
    def of(cls, batch: KVBatchMeta, asked: Sequence[str], seen: Seen) -> StepRows:
        """`asked` are the step's prompts in the loader's order; `seen` numbers rows as `batch` does."""
        number = {name: i for i, name in enumerate(asked)}

        def place(row: int) -> tuple[int, ...]:
            name, *others = batch.keys[row].split("_")
            return (number[name], *map(int, others))

        order = sorted(range(len(batch.keys)), key=place)
        new = {row: i for i, row in enumerate(order)}
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=list(FIELDS))
        columns = {name: data[name].unbind() for name in FIELDS if name in data}
        return cls(
            [batch.keys[row] for row in order],
            batch.partition_id,
            {name: [column[row] for row in order] for name, column in columns.items()},
            Seen(
                [[[new[row] for row in rows] for rows in calls] for calls in seen.calls],
                [seen.log_probs[row] for row in order],
            ),
        )

    def padded(self, name: str) -> torch.Tensor:
        """A column (B, T), with zeros on the right."""
        return pad_sequence(self.columns[name], batch_first=True)

    def padded_if_any(self, name: str) -> torch.Tensor | None:
        """The same, None where the step has no such column."""
        return self.padded(name) if name in self.columns else None

    @property
    def prompts(self) -> list[str]:
        """The name of each row's prompt."""
        return [key.split("_")[0] for key in self.keys]

    def fetch(self, rows: Sequence[int], field: str) -> list[Any]:
        """A field that is no tensor, of some rows."""
        keys = [self.keys[row] for row in rows]
        data = tq.kv_batch_get(keys=keys, partition_id=self.partition, select_fields=[field])
        return [getattr(value, "data", value) for value in data[field]]
