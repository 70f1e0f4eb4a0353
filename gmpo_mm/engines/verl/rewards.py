"""verl's reward manager around our loading: EasyR1's contract, our killable verifiers, errors that name row and file."""

from __future__ import annotations

import asyncio
from typing import Any

from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase

from gmpo_mm.errors import RewardError
from gmpo_mm.rewards.loading import load_reward_function
from gmpo_mm.rewards.overlong import OverlongBuffer

ERROR = "gmpo_mm_error"
"""Under this name the text of a failure travels to the trainer, which stops; verl itself would train on without the row."""


class GMPORewardManager(RewardManagerBase):
    """verl grades response by response; what is waiting when the last call returned is graded in one call.

    A reward function sees the rows that happen to wait together, so it must not compare rows with each other.
    """

    def __init__(self, config: Any, tokenizer: Any, compute_score: Any, **others: Any) -> None:
        super().__init__(config, tokenizer, compute_score)
        options = config.gmpo_mm_reward
        self._function = load_reward_function(options.function, dict(options.kwargs))
        self._skip_special_tokens = bool(options.skip_special_tokens)
        self._overlong = OverlongBuffer(**options.overlong) if options.get("overlong") else None
        self._waiting: list[tuple[dict[str, Any], asyncio.Future[dict[str, Any]]]] = []
        self._grading: asyncio.Task[None] | None = None

    async def run_single(self, data: Any) -> dict[str, Any]:
        """verl's contract: the reward of one response, and what else is known of it."""
        item = data[-1]
        ids = item.batch["responses"]
        length = int(item.batch["attention_mask"][-ids.shape[-1] :].sum())
        text = self.tokenizer.decode(ids[:length], skip_special_tokens=self._skip_special_tokens)
        row = {
            "response": text,
            "response_length": length,
            "ground_truth": item.non_tensor_batch["reward_model"]["ground_truth"],
            "problem": item.non_tensor_batch["extra_info"].get("problem"),
        }
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting.append((row, future))
        if self._grading is None or self._grading.done():
            self._grading = asyncio.create_task(self._grade())
        scores = await future
        if self._overlong is not None and item.non_tensor_batch["extra_info"].get("is_training") and ERROR not in scores:
            try:
                scores = self._overlong.shaped(scores, length)
            except RewardError as error:
                scores = {ERROR: str(error)}
        facts = {"id": item.non_tensor_batch["extra_info"].get("id"), "response": text, "tokens": length}
        return {"reward_score": float(scores.get("overall", 0.0)), "reward_extra_info": facts | {"scores": scores}}

    async def _grade(self) -> None:
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            try:
                scores: list[dict[str, Any]] = await asyncio.to_thread(self._function, [row for row, _ in waiting])
            except Exception as error:  # whatever it is, nobody may wait for a grade that does not come
                scores = [{ERROR: f"{type(error).__name__}: {error}"} for _ in waiting]
            for (_, future), score in zip(waiting, scores, strict=True):
                future.set_result(score)
