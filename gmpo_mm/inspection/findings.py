"""What `gmpo-mm diff` finds: stages, examples and likely causes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from gmpo_mm.inspection.alignment import Pair
from gmpo_mm.inspection.sources import Source

EQUAL, ROUNDING, DIFFERS, ABSENT, UNKNOWN = (
    "equal",
    "equal to rounding",
    "differs",
    "not there",
    "can't be compared",
)


@dataclass(frozen=True)
class Cause:
    """A likely cause: `code` for programs, `words` for readers, `evidence` of numbers and settings."""

    code: str
    words: str
    evidence: str = ""


@dataclass
class Example:
    """One place where A and B differ; `token` is its number in response or prompt, -1 for a whole one's."""

    prompt: str
    row_a: int
    row_b: int
    a: str
    b: str
    token: int = -1
    ids: Sequence[int] | None = None
    """Of the tokens in which `token` counts."""
    around: str = ""


@dataclass
class Stage:
    """A stage. `max` and `mean` are of the absolute difference, `share` is what differs of `compared`."""

    name: str
    status: str
    words: str = ""
    compared: int = 0
    max: float | None = None
    mean: float | None = None
    share: float | None = None
    tolerance: str = ""
    example: Example | None = None
    causes: list[Cause] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def absent(name: str, in_a: bool, in_b: bool, why: str = "") -> Stage:
    """A stage that a side has not recorded."""
    sides = "A and B" if not in_a and not in_b else "A" if not in_a else "B"
    return Stage(name, ABSENT, f"not in {sides}{': ' + why if why else ''}")


def example_of(pair: Pair, a: str, b: str, token: int = -1) -> Example:
    """A response's example; `token` is its number in the response."""
    return Example(
        short(pair.a.prompt.problem or pair.a.prompt.text), pair.a.row, pair.b.row, a, b, token, pair.a.ids
    )


def short(text: str, length: int = 90) -> str:
    """On one line, its middle left out where it is long."""
    line = " ".join(text.split())
    half = (length - 3) // 2
    return line if len(line) <= length else f"{line[:half]}...{line[-half:]}"


def settings_that_differ(a: Source, b: Source, keys: Sequence[str]) -> str:
    """Those of the configuration's keys whose values differ, in words."""
    off = [key for key in keys if key in a.config and key in b.config and a.config[key] != b.config[key]]
    return ", ".join(f"{key} is {a.config[key]!r} in A and {b.config[key]!r} in B" for key in off)


def other_side(side: str) -> str:
    """A of B and B of A."""
    return "A" if side == "B" else "B"
