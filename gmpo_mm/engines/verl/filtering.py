"""Online filtering with the keys and the meaning of the local engine, as a sampler of verl's replay buffer.

verl's own filter drops groups whose rewards are all equal; `algorithm.filter_low` and `filter_high` bound a group's mean.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from gmpo_mm.algorithms import filter_groups
from gmpo_mm.rewards.parts import reward_part

Scores = dict[str, float]


class FilteredGroups(ReplayBuffer):
    """verl's `trainer.v1.sampler.custom_sampler`: asks for prompts until a step has its number of groups that teach.

    The trainer sets `may_go_on` and `group_scores` before the first step, and notes the prompts that it hands out in `asked`.
    """

    def __init__(
        self, *args: Any, sampler_kwargs: Any, refill_fn: Callable[[int], int], **others: Any
    ) -> None:
        super().__init__(*args, sampler_kwargs=sampler_kwargs, refill_fn=refill_fn, **others)
        self.options, self._ask = sampler_kwargs, refill_fn
        self.asked: list[str] = []
        """Names of the prompts of this step in verl's queue, in the order of the data loader."""
        self.facts: dict[str, float] = {}
        """What the last step's filtering has to say in the metrics."""
        self.may_go_on: Callable[[int, int, int], None] = lambda tries, kept, dropped_in_a_row: None
        """Called before each try but the first; raises where there may be none."""
        self.group_scores: Callable[[KVBatchMeta], list[Scores]] = lambda batch: []
        """All numbers of the reward function, row by row; raises for a group that is not whole."""

    def sample(
        self, global_steps: int, partition_id: str, batch_size: int
    ) -> tuple[KVBatchMeta, dict[str, Any]]:
        """verl's contract: `batch_size` groups and metrics. Validation is verl's own."""
        if partition_id == "val":
            return super().sample(global_steps, partition_id, batch_size)
        kept: list[str] = []
        self.asked.clear()
        tries = dropped_in_a_row = 0
        while len(kept) < batch_size:
            if tries:
                self.may_go_on(tries, len(kept), dropped_in_a_row)
            before = len(self.asked)
            self._ask(self.options.prompts_a_try)
            self._wait_for_all(partition_id)
            new = self.asked[before:]
            teaching = self._teaching(partition_id, new)
            self._clear_groups(partition_id, set(new) - set(teaching))
            kept += teaching
            tries += 1
            dropped_in_a_row = 0 if teaching else dropped_in_a_row + len(new)
        self.facts = {"filter/tries": float(tries), "filter/kept_frac": len(kept) / len(self.asked)}
        self._clear_groups(partition_id, set(kept[batch_size:]))
        return self._materialize_batch(
            partition_id, kept[:batch_size], dict(self.partitions[partition_id])
        ), {}

    def _wait_for_all(self, partition_id: str) -> None:
        while True:
            self._sync_metadata_from_transfer_queue()
            if not self.pending_keys[partition_id] and not self.running_keys[partition_id]:
                return
            time.sleep(self.poll_interval)

    def _teaching(self, partition_id: str, prompts: Sequence[str]) -> list[str]:
        """Those of the prompts whose group's mean lies between the bounds."""
        number = {prompt: i for i, prompt in enumerate(prompts)}
        keys = [key for key in self.partitions[partition_id] if key.split("_")[0] in number]
        tags = [self.partitions[partition_id][key] for key in keys]
        scores = self.group_scores(KVBatchMeta(partition_id=partition_id, keys=keys, tags=tags))
        scores_B = reward_part(scores, self.options.filter_key, "algorithm.filter_key")
        ids_B = torch.tensor([number[key.split("_")[0]] for key in keys])
        keep_B = filter_groups(scores_B, ids_B, self.options.filter_low, self.options.filter_high)
        found = set(ids_B[keep_B].tolist())
        return [prompt for prompt in prompts if number[prompt] in found]
