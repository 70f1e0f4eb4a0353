"""EasyR1's reward actor with our loading: what a reward function is given."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from verl.protocol import DataProto

from gmpo_mm.engines.easyr1.rewards import GMPORewardManager
from gmpo_mm.rewards.overlong import OverlongBuffer

REWARD = Path(__file__).parents[2] / "gmpo_mm" / "rewards" / "math.py"
TEXTS = {1: "What is $2^{10}$?", 2: "What is $3^4$?", 3: "\\boxed{2^{10}}", 4: "\\boxed{1024}"}


class Tokenizer:
    """A token is a text; 0 is padding."""

    def decode(self, ids: Any, skip_special_tokens: bool) -> str:
        """The texts of the tokens in a row."""
        return "".join(TEXTS[int(token)] for token in ids if int(token))


def test_a_long_response_is_punished_where_the_actor_was_made_for_training() -> None:
    config = SimpleNamespace(
        reward_function=str(REWARD), reward_function_name="compute_score", reward_function_kwargs={},
        skip_special_tokens=True,
    )  # fmt: skip
    data = DataProto.from_single_dict(
        {
            "prompts": torch.tensor([[0, 2], [0, 2]]),
            "responses": torch.tensor([[4, 0], [4, 4]]),
            "response_mask": torch.tensor([[1, 0], [1, 1]]),
            "ground_truth": np.array(["1024"] * 2, dtype=object),
        }
    )
    plain, _ = GMPORewardManager(config, Tokenizer()).compute_reward(data)
    shaped, metrics = GMPORewardManager(config, Tokenizer(), OverlongBuffer(1, 2, 0.5)).compute_reward(data)
    assert metrics["overlong_reward"] == [0.0, -0.5]
    assert (plain - shaped).sum(1).tolist() == pytest.approx([0.0, 0.5])


def test_the_reward_function_is_given_each_rows_own_prompt_as_its_problem() -> None:
    config = SimpleNamespace(
        reward_function=str(REWARD), reward_function_name="compute_score", reward_function_kwargs={},
        skip_special_tokens=True,
    )  # fmt: skip
    manager = GMPORewardManager(config, Tokenizer())
    data = DataProto.from_single_dict(
        {
            "prompts": torch.tensor([[0, 1], [0, 1], [0, 2]]),
            "responses": torch.tensor([[3], [4], [3]]),
            "response_mask": torch.ones(3, 1, dtype=torch.long),
            "ground_truth": np.array(["1024"] * 3, dtype=object),
        }
    )
    rewards, metrics = manager.compute_reward(data)
    assert metrics["not_evaluated"] == [1.0, 0.0, 0.0]  # the third row's problem has no 2^{10} in it
    assert rewards[:, -1].tolist() == pytest.approx([0.0, 0.9, 0.9])
