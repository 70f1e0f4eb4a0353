"""A reward for a model of random weights: 0 or 1 by a hash of the response, so that every group has something to learn."""

import zlib
from typing import Any

REWARD_NAME = "noise"
REWARD_TYPE = "batch"


def compute_score(reward_inputs: list[dict[str, Any]]) -> list[dict[str, float]]:
    """`overall` 0 or 1 for each response."""
    return [{"overall": float(zlib.crc32(row["response"].encode()) % 2)} for row in reward_inputs]
