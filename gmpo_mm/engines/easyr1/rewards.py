"""EasyR1's reward actor around our loading: the same contract, and errors that name the row and the file."""

from __future__ import annotations

from typing import Any

from verl.protocol import DataProto
from verl.workers.reward import AutoRewardManager

from gmpo_mm.rewards.loading import load_reward_function
from gmpo_mm.rewards.overlong import OverlongBuffer


class GMPORewardManager(AutoRewardManager):
    """Decoding and the layout of rewards are EasyR1's; the function is loaded, called and checked as on every engine.

    EasyR1's reward inputs are response, response_length and ground_truth. Ours have the prompt's text as `problem` too, the
    words of its template included, so that an expression copied out of the problem can be told from an answer.
    """

    def __init__(self, config: Any, tokenizer: Any, overlong: OverlongBuffer | None = None) -> None:
        """`config` is EasyR1's section, `overlong` DAPO's punishment of long responses, in training."""
        spec = f"{config.reward_function}:{config.reward_function_name}"
        self.function = load_reward_function(spec, config.reward_function_kwargs)
        self.reward_fn = self._graded
        self.overlong = overlong
        self.prompts: list[str] = []
        self.reward_type = "batch"  # a sequential function is called row by row inside
        self.config = config
        self.tokenizer = tokenizer

    def compute_reward(self, data: DataProto) -> Any:
        """EasyR1's, with the prompts at hand; the responses of one group have one prompt, which is decoded once."""
        texts: dict[bytes, str] = {}
        self.prompts = []
        for ids in data.batch["prompts"]:
            key = ids.cpu().numpy().tobytes()
            if key not in texts:
                texts[key] = self.tokenizer.decode(ids, skip_special_tokens=True)
            self.prompts.append(texts[key])
        return super().compute_reward(data)

    def _graded(self, rows: list[dict[str, Any]]) -> list[dict[str, float]]:
        """Called by EasyR1 with a whole batch, in its order."""
        scores = self.function(
            [{**row, "problem": prompt} for row, prompt in zip(rows, self.prompts, strict=True)]
        )
        if self.overlong is None:
            return scores
        return [self.overlong.shaped(score, row["response_length"]) for score, row in zip(scores, rows, strict=True)]
