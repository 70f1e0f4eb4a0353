"""EasyR1's reward actor around our loading: the same contract, and errors that name the row and the file."""

from __future__ import annotations

from typing import Any

from verl.workers.reward import AutoRewardManager

from gmpo_mm.rewards.loading import load_reward_function


class GMPORewardManager(AutoRewardManager):
    """Decoding and the layout of rewards are EasyR1's; the function is loaded, called and checked as on every engine."""

    def __init__(self, config: Any, tokenizer: Any) -> None:
        spec = f"{config.reward_function}:{config.reward_function_name}"
        self.reward_fn = load_reward_function(spec, config.reward_function_kwargs)
        self.reward_type = "batch"  # a sequential function is called row by row inside
        self.config = config
        self.tokenizer = tokenizer
