"""Reward for Geometry3K: accuracy plus format; degrees, ratios, relations and text choices are compared.

In an EasyR1 config: `worker.reward.reward_function: PATH/gmpo_mm/rewards/geometry3k.py:compute_score`. The scores are those of
`gmpo_mm/rewards/math.py`, whose verifier knows these forms; the name in the log is what differs.
"""

from gmpo_mm.rewards.math import compute_score, gold_fault, main, prepare

REWARD_NAME = "geometry3k"
REWARD_TYPE = "batch"

__all__ = ["REWARD_NAME", "REWARD_TYPE", "compute_score", "gold_fault", "main", "prepare"]
