"""When a sweep stops to add seeds, and what its seeds have decided so far."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gmpo_mm.reports.sequential_test import confidence_interval, decided_after, favours_b, log_e_values

DECIDED = "decided"
FINAL = "final"
ALPHA = 0.05


@dataclass(frozen=True)
class StopRule:
    """`budget.stop_when: decided`: no further seed once the e-value of one difference, B - A, is at least 1 / alpha."""

    between: tuple[str, str]
    """The names of A and B."""
    alpha: float = ALPHA
    score: str = FINAL
    """`final`, the last validation's, or a benchmark of the sweep's evaluation."""

    def to_dict(self) -> dict[str, Any]:
        """The keys of `budget`, as the sweep file has them."""
        return {"stop_when": DECIDED, "between": list(self.between), "alpha": self.alpha, "score": self.score}

    @classmethod
    def from_budget(cls, budget: Mapping[str, Any] | None) -> StopRule | None:
        """Of the `budget` that sweep.json holds; None where it has no rule."""
        if not budget or budget.get("stop_when") != DECIDED:
            return None
        a, b = budget["between"]
        return cls((str(a), str(b)), float(budget["alpha"]), str(budget["score"]))


@dataclass(frozen=True)
class Decision:
    """What the seeds of a sweep decide, in the order of its list; `differences` are B - A, one a seed.

    Seeds after the first whose runs are not both finished are not looked at, nor are those after the decision: which runs
    end first, or are there from an earlier sweep, can't change it.
    """

    rule: StopRule
    differences: tuple[float, ...]
    budget: int
    """The seeds that the sweep may use."""
    decided: bool
    log_e_value: float
    interval: tuple[float, float] | None
    """Of the centre of the differences, valid at whatever seed the sweep stopped; None where too few bound it."""

    @property
    def seeds(self) -> int:
        """How many were needed, or are there."""
        return len(self.differences)

    @property
    def better(self) -> str | None:
        """The variant that the decision is for."""
        return self.rule.between[favours_b(self.differences)] if self.decided else None

    @property
    def mean(self) -> float:
        """Of the differences; 0 without any."""
        return sum(self.differences) / len(self.differences) if self.differences else 0.0


def decide(rule: StopRule, a: Mapping[str, float], b: Mapping[str, float], seeds: Sequence[str]) -> Decision:
    """What the scores by seed of A and B decide, of the seeds that the sweep lists."""
    differences = []
    for seed in seeds:
        if seed not in a or seed not in b:
            break
        differences.append(b[seed] - a[seed])
    needed = decided_after(differences, rule.alpha) if differences else None
    used = differences[:needed]
    return Decision(
        rule, tuple(used), len(seeds), needed is not None,
        float(log_e_values(used)[-1]) if used else 0.0, confidence_interval(used, rule.alpha),
    )  # fmt: skip


def e_value_text(log_e_value: float) -> str:
    """`e = 23.4`; with a power of ten where it is large."""
    return (
        f"e = {math.exp(log_e_value):.3g}"
        if log_e_value < 600
        else f"e = 10^{log_e_value / math.log(10):.0f}"
    )
