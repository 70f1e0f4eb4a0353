"""`budget.stop_when: decided`: the keys of a sweep file's budget.

    seeds: [1, 2, ..., 20]      # the most that are trained, in this order
    budget: {stop_when: decided, between: [grpo, gmpo], alpha: 0.05, score: final}

What they do: `rounds`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gmpo_mm.errors import ConfigError
from gmpo_mm.reports.stop_rule import ALPHA, DECIDED, FINAL, StopRule

STOP_KEYS = ("stop_when", "between", "alpha", "score")
BUDGET_KEYS = ("hours", *STOP_KEYS)


def read_stop_rule(budget: Mapping[str, Any], variants: Sequence[str]) -> StopRule | None:
    """The rule of a sweep file's `budget`, checked by itself; None without `stop_when`. Raises ConfigError."""
    when = budget.get("stop_when")
    if when is None:
        if alone := [key for key in STOP_KEYS if budget.get(key) is not None]:
            raise ConfigError(
                f"budget.{alone[0]} = {budget[alone[0]]!r}: it is read with budget.stop_when=decided only; set that too"
            )
        return None
    if when != DECIDED:
        raise ConfigError(f"budget.stop_when = {when!r}: decided is the only rule; set it, or remove the key")
    alpha, score = budget.get("alpha", ALPHA), budget.get("score", FINAL)
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 1e-6 <= alpha <= 0.5:
        raise ConfigError(
            f"budget.alpha = {alpha!r}: the chance of a false decision is expected, from 1e-6 to 0.5"
        )
    if not isinstance(score, str) or not score:
        raise ConfigError(f"budget.score = {score!r}: final or the name of a benchmark is expected")
    return StopRule(_pair(budget.get("between"), variants), float(alpha), score)


def _pair(between: Any, variants: Sequence[str]) -> tuple[str, str]:
    if between is None and len(variants) == 2:
        return variants[0], variants[1]
    names = ", ".join(variants)
    if between is None:
        raise ConfigError(
            f"budget.between is not set, and there are {len(variants)} variants ({names}); name the two whose difference "
            "decides, between: [A, B]. The error is kept for one difference: the others are described, not tested"
        )
    if not isinstance(between, list) or len(between) != 2 or len(set(map(str, between))) != 2:
        raise ConfigError(
            f"budget.between = {between!r}: two different variants are expected, between: [A, B]"
        )
    for name in between:
        if name not in variants:
            raise ConfigError(f"budget.between: {name!r} is no variant; there are: {names}")
    return between[0], between[1]
