"""Reward functions in EasyR1's contract, and the loader for a user's own."""

from gmpo_mm.rewards.loading import RewardFunction, load_reward_function

__all__ = ["RewardFunction", "load_reward_function"]
