"""Advantage estimators: the naive reference, the cases and their inputs, as for the losses."""

from __future__ import annotations

import math
import random
from typing import Any

Config = dict[str, Any]
Batch = dict[str, Any]
SOURCE = (
    "arXiv 2402.03300 (grpo), 2503.20783 (dr_grpo), 2402.14740 (rloo), 2505.23585 (opo), "
    "2503.19595 (grpo_passk), 2310.10505 (remax), 2501.03262 (reinforce_plus_plus), 2602.02710 (max_rl), "
    "2601.05242 (gdpo)"
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
    "max_rl": {"advantages": "max_rl"},
    "gdpo": {"advantages": "gdpo", "weights": [1.0, 1.0]},
    "gdpo weights=1,0.25": {"advantages": "gdpo", "weights": [1.0, 0.25]},
}
ONLY_IN = {"max_rl": ("rates", "parts"), "gdpo": ("parts",)}
"""Batches that an estimator is defined for, where not all: rewards of at least 0; several rewards."""
EPSILON = 1e-6  # added to a group's standard deviation
VARIANCE_EPSILON = 1e-8  # added to the variance of returns
# group, reward, length: two groups that learn something, one of equal rewards, one with an empty response
RESPONSES = (
    (7, 1.0, 4), (2, 0.25, 6), (7, 0.0, 1), (5, 0.1, 3), (2, 1.0, 2), (7, 0.0, 5),
    (5, 0.1, 6), (2, -0.5, 3), (9, 1.0, 0), (7, 0.75, 2), (5, 0.1, 1), (9, 0.0, 4),
)  # fmt: skip
RATES = (1.0, 0.0, 1.0, 0.0, 1.0, 0.5, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0)
"""Rewards of the same responses, none below 0: in group 5 all are 0, in group 9 all are 1."""
PARTS = (
    (1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0),
    (0.2, 0.9, 0.4, 0.1, 0.3, 0.0, 0.6, 0.3, 0.5, 0.7, 0.2, 0.5),
)
"""Two rewards of each response: in group 5 the first is the same for all, in group 9 the second."""
WIDTH = 6


def make_batches(rng: random.Random) -> dict[str, Batch]:
    """`groups`: responses of four prompts in mixed order. `shifted`: each reward times -3, plus 1. `rates`:
    rewards from 0 to 1. `parts`: two rewards, and their sum as the reward."""
    batch: Batch = {
        "groups": [group for group, _, _ in RESPONSES],
        "rewards": [reward for _, reward, _ in RESPONSES],
        "baselines": [round(rng.uniform(-1, 1), 2) for _ in RESPONSES],
        "mask": [[int(t < length) for t in range(WIDTH)] for _, _, length in RESPONSES],
    }
    return {
        "groups": batch,
        "shifted": batch | {"rewards": [round(1 - 3 * reward, 2) for reward in batch["rewards"]]},
        "rates": batch | {"rewards": list(RATES)},
        "parts": batch
        | {"parts": [list(part) for part in PARTS], "rewards": [round(sum(pair), 2) for pair in zip(*PARTS)]},
    }


def evaluate(config: Config, batch: Batch) -> list[list[float]]:
    """Advantages of all tokens, B x T, 0 where the mask is 0. A reward is that of a response's last token."""
    name, mask = config["advantages"], batch["mask"]
    if name == "reinforce_plus_plus":
        return _reinforce_plus_plus(batch["rewards"], mask, config["gamma"])
    if name == "gdpo":
        return [[a * valid for valid in row] for a, row in zip(_gdpo(config, batch), mask, strict=True)]
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
    if name == "max_rl":
        return (rewards[k] - mean) / mean
    if name == "rloo":
        others = rewards[:k] + rewards[k + 1 :]
        return rewards[k] - sum(others) / len(others)
    if name == "opo":
        return rewards[k] - sum(n * r for n, r in zip(lengths, rewards, strict=True)) / sum(lengths)
    assert name == "grpo_passk"
    best, second = sorted(rewards, reverse=True)[:2]
    return (best - second) / (std + EPSILON) if rewards[k] == best else 0.0


def _gdpo(config: Config, batch: Batch) -> list[float]:
    """Each reward through `grpo` by itself, their weighted sum, normalised over all responses of the batch,
    which count once each."""
    sums = [0.0] * len(batch["groups"])
    for weight, rewards in zip(config["weights"], batch["parts"], strict=True):
        for i, group in enumerate(batch["groups"]):
            same = [j for j, other in enumerate(batch["groups"]) if other == group]
            sums[i] += weight * _in_group("grpo", [rewards[j] for j in same], [], same.index(i))
    mean = sum(sums) / len(sums)
    std = math.sqrt(sum((s - mean) ** 2 for s in sums) / (len(sums) - 1))
    return [(s - mean) / (std + EPSILON) for s in sums]


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
