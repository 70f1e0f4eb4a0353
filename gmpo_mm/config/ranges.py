"""The range of a number, written beside its key: `lr: float = number(1e-6, 0, 1)`. Checks and pages read it from there."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import Field, dataclass, field, fields, is_dataclass
from typing import Any, get_type_hints

LARGEST_SEED = 2**63 - 1
"""What torch, NumPy, Python and vLLM all take."""
MOST = 10**9
"""Of anything that is counted and has no bound of its own."""


@dataclass(frozen=True)
class Range:
    """`low` and `high` belong to it, but for `above` (not `low`) and `below` (not `high`); `off` is a value beside it."""

    low: float
    high: float
    above: bool = False
    below: bool = False
    off: float | None = None
    off_means: str = ""
    fix: str = ""

    def holds(self, value: float) -> bool:
        """Whether the value is in the range; nan and infinity are in none."""
        if self.off is not None and value == self.off:
            return True
        if not -math.inf < value < math.inf:
            return False
        return (value > self.low if self.above else value >= self.low) and (
            value < self.high if self.below else value <= self.high
        )

    def describe(self) -> str:
        """In words: "above 0 and at most 1, or -1 for no limit"."""
        low = f"{'above' if self.above else 'at least'} {_show(self.low)}"
        words = f"{low} and {'below' if self.below else 'at most'} {_show(self.high)}"
        return words if self.off is None else f"{words}, or {_show(self.off)} for {self.off_means}"


def number(default: Any, low: float, high: float, **more: Any) -> Any:
    """A dataclass field that holds a number (or null) in a range; `more` are further fields of `Range`."""
    return field(default=default, metadata={"range": Range(low, high, **more)})


def count(default: Any, low: int = 1, high: int = MOST, **more: Any) -> Any:
    """A field that counts something."""
    return number(default, low, high, **more)


def unlimited(default: int | None) -> Any:
    """A field that counts something, with -1 for no limit."""
    return number(default, 1, MOST, off=-1, off_means="no limit")


def range_of(item: Field[Any]) -> Range | None:
    """A field's range: one of `number`, or the bounds of a loss's key, which stand in `algorithms/config.py`."""
    if "bounds" in item.metadata:
        return Range(**item.metadata["bounds"])
    return item.metadata.get("range")


def ranges_of(section: type, prefix: str = "") -> Iterator[tuple[str, Range]]:
    """Dotted key and range of every number in a dataclass and the dataclasses inside it."""
    hints = get_type_hints(section)
    for item in fields(section):
        if is_dataclass(hints[item.name]):
            yield from ranges_of(hints[item.name], f"{prefix}{item.name}.")  # type: ignore[arg-type]
        elif (found := range_of(item)) is not None:
            yield f"{prefix}{item.name}", found


def _show(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"
