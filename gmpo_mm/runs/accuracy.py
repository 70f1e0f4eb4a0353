"""What a validation's accuracy is: a share of right answers (Pass@1), or the mean of some other number.

A reward function may call anything its accuracy. DAPO's returns -1 or 1, with `accuracy_normalized` (0 or 1) beside it; others
return partial credit. Only where each response's is 0 or 1 is the mean over problems and samples a Pass@1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

NAMES = ("accuracy_normalized", "accuracy")
"""The parts of a score that may be a share of right answers; the first that is there and is one counts."""


@dataclass(frozen=True)
class Accuracy:
    """A metric of a validation, and whether it is a share of right answers."""

    name: str
    is_share: bool


def not_0_or_1(scores: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """`val/<name>_not_0_or_1_frac` of every accuracy that is neither 0 nor 1 for some response; empty where all are."""
    scores = list(scores)
    found = {}
    for name in NAMES:
        values = [score[name] for score in scores if name in score]
        if other := sum(value not in (0.0, 1.0) for value in values):
            found[_flag(name)] = other / len(values)
    return found


def accuracy_of(metrics: Mapping[str, Any]) -> Accuracy | None:
    """The accuracy of a validation's metrics (single numbers, or sequences over steps); None where there is none.

    A metric outside of 0 to 1 is no share, whoever wrote it: logs of EasyR1 don't say what each response got.
    """
    names = [name for name in NAMES if _metric(name) in metrics]
    for name in names:
        values = metrics[_metric(name)]
        values = values if hasattr(values, "__iter__") else [values]
        if _flag(name) not in metrics and all(0.0 <= float(value) <= 1.0 for value in values):
            return Accuracy(_metric(name), True)
    return Accuracy(_metric(names[-1]), False) if names else None


def _metric(name: str) -> str:
    return f"val/{name}_reward"


def _flag(name: str) -> str:
    return f"val/{name}_not_0_or_1_frac"
