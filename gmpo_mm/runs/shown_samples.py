"""Which responses of a step are shown, one on the terminal and a few in a tracker's table: best, worst or random ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

KINDS = ("best", "worst", "random")
TABLE_ROWS = 8
"""Responses in a tracker's table."""


@dataclass(frozen=True)
class Sample:
    """A response that is shown. All text is untrusted: control characters and markup are shown, not obeyed."""

    kind: str
    problem: str
    response: str
    answer: str
    reward: float


def is_due(step: int, every: int) -> bool:
    """Whether step 1, 1 + every, ... shows samples; `every` is `trainer.log_samples`, 0 is never."""
    return every > 0 and (step - 1) % every == 0


def table_rows(step: int, kind: str, every: int, val_generations: int) -> int:
    """Rows of a tracker's table: every `every` steps and at each validation; `trainer.val_generations_to_log` says how many
    of a validation, whatever `every` is."""
    if kind == "validation" and val_generations > 0:
        return val_generations
    return TABLE_ROWS if every > 0 and (kind == "validation" or is_due(step, every)) else 0


def choose_sample(rows: Sequence[Mapping[str, Any]], step: int, every: int) -> Sample:
    """One row of `samples/`: in turn the best, the worst and a random one, the same ones in a resumed run."""
    kind = KINDS[(step - 1) // max(every, 1) % len(KINDS)]
    row = rows[_index(rows, kind, step)]
    problem = row.get("problem", row.get("prompt", ""))
    return Sample(kind, str(problem), str(row["response"]), str(row.get("ground_truth", "")), float(row["overall"]))


def choose_rows(rows: Sequence[Mapping[str, Any]], step: int, limit: int = TABLE_ROWS) -> list[int]:
    """Indices of the best, the worst and other, random rows, at most `limit`, in the order of the rows."""
    order = [_index(rows, "best", step), _index(rows, "worst", step), *_generator(step).permutation(len(rows)).tolist()]
    return list(dict.fromkeys(order))[:limit]


def _index(rows: Sequence[Mapping[str, Any]], kind: str, step: int) -> int:
    """The first of the best or worst reward, or one that the step's number draws; no global generator is touched."""
    if kind == "random":
        return int(_generator(step).integers(len(rows)))
    rewards = [float(row["overall"]) for row in rows]
    return rewards.index(max(rewards) if kind == "best" else min(rewards))


def _generator(step: int) -> np.random.Generator:
    return np.random.default_rng([step, 16])
