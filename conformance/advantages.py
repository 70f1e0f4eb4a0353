"""Advantage estimators: the naive reference, the cases and their inputs, as for the losses."""

from __future__ import annotations

import math
import random
from typing import Any

Config = dict[str, Any]
Batch = dict[str, Any]
SOURCE = (
    "arXiv 2402.03300 (grpo), 2503.20783 (dr_grpo), 2402.14740 (rloo), 2505.23585 (opo), "
    "2503.19595 (grpo_passk), 2310.10505 (remax), 2501.03262 (reinforce_plus_plus)"
)
CASES: dict[str, Config] = {
    "grpo": {"advantages": "grpo"},
    "dr_grpo": {"advantages": "dr_grpo"},
    "rloo": {"advantages": "rloo"},
    "opo": {"advantages": "opo"},
    "grpo_passk": {"advantages": "grpo_passk"},
    "remax": {"advantages": "remax"},
    "reinforce_plus_plus": {"advantages": "reinforce_plus_plus", "gamma": 1.0},
    "reinforce_plus_plus gamma=0.9": {"advantages": "reinforce_plus_plus", "gamma": 0.9},
}
EPSILON = 1e-6  # added to a group's standard deviation
VARIANCE_EPSILON = 1e-8  # added to the variance of returns
# group, reward, length: two groups that learn something, one of equal rewards, one with an empty response
RESPONSES = (
    (7, 1.0, 4), (2, 0.25, 6), (7, 0.0, 1), (5, 0.1, 3), (2, 1.0, 2), (7, 0.0, 5),
    (5, 0.1, 6), (2, -0.5, 3), (9, 1.0, 0), (7, 0.75, 2), (5, 0.1, 1), (9, 0.0, 4),
)  # fmt: skip
WIDTH = 6


def make_batches(rng: random.Random) -> dict[str, Batch]:
    """`groups`: responses of four prompts in mixed order. `shifted`: each reward times -3, plus 1."""
    batch: Batch = {
        "groups": [group for group, _, _ in RESPONSES],
        "rewards": [reward for _, reward, _ in RESPONSES],
        "baselines": [round(rng.uniform(-1, 1), 2) for _ in RESPONSES],
        "mask": [[int(t < length) for t in range(WIDTH)] for _, _, length in RESPONSES],
    }
    return {
        "groups": batch,
        "shifted": batch | {"rewards": [round(1 - 3 * reward, 2) for reward in batch["rewards"]]},
    }


def evaluate(config: Config, batch: Batch) -> list[list[float]]:
    """Advantages of all tokens, B x T, 0 where the mask is 0. A reward is that of a response's last token."""
    name, mask = config["advantages"], batch["mask"]
    if name == "reinforce_plus_plus":
        return _reinforce_plus_plus(batch["rewards"], mask, config["gamma"])
    result = []
    for i, reward in enumerate(batch["rewards"]):
        if name == "remax":
            advantage = reward - batch["baselines"][i]
        else:
            group = [j for j, other in enumerate(batch["groups"]) if other == batch["groups"][i]]
            lengths = [sum(mask[j]) for j in group]
            advantage = _in_group(name, [batch["rewards"][j] for j in group], lengths, group.index(i))
        result.append([advantage * valid for valid in mask[i]])
    return result


def _in_group(name: str, rewards: list[float], lengths: list[int], k: int) -> float:
    """The advantage of the k-th response of a group. Equal rewards give 0, whatever a mean is rounded to."""
    if len(set(rewards)) == 1:
        return 0.0
    mean = sum(rewards) / len(rewards)
    std = math.sqrt(sum((r - mean) ** 2 for r in rewards) / (len(rewards) - 1))
    if name == "grpo":
        return (rewards[k] - mean) / (std + EPSILON)
    if name == "dr_grpo":
        return rewards[k] - mean
    if name == "rloo":
        others = rewards[:k] + rewards[k + 1 :]
        return rewards[k] - sum(others) / len(others)
    if name == "opo":
        return rewards[k] - sum(n * r for n, r in zip(lengths, rewards, strict=True)) / sum(lengths)
    assert name == "grpo_passk"
    best, second = sorted(rewards, reverse=True)[:2]
    return (best - second) / (std + EPSILON) if rewards[k] == best else 0.0


def _reinforce_plus_plus(rewards: list[float], mask: list[list[int]], gamma: float) -> list[list[float]]:
    """Discounted returns, less their mean over all valid tokens, by their (unbiased) standard deviation."""
    returns = []
    for reward, row in zip(rewards, mask, strict=True):
        length = sum(row)
        returns.append([gamma ** (length - 1 - t) * reward if valid else 0.0 for t, valid in enumerate(row)])
    valid = [r for row, m in zip(returns, mask, strict=True) for r, v in zip(row, m, strict=True) if v]
    mean = sum(valid) / len(valid)
    variance = sum((r - mean) ** 2 for r in valid) / (len(valid) - 1)
    scale = math.sqrt(variance + VARIANCE_EPSILON)
    return [
        [(r - mean) / scale if v else 0.0 for r, v in zip(row, m, strict=True)]
        for row, m in zip(returns, mask, strict=True)
    ]
