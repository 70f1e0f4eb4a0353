"""What `gmpo-mm diff` finds: stages, examples and likely causes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from gmpo_mm.inspection.alignment import Pair

EQUAL, ROUNDING, DIFFERS, ABSENT, UNKNOWN = "equal", "equal to rounding", "differs", "not there", "can't be compared"


@dataclass(frozen=True)
class Cause:
    """A likely cause: `code` for programs, `words` for readers, `evidence` of numbers and settings."""

    code: str
    words: str
    evidence: str = ""


@dataclass
class Example:
    """One place where A and B differ; `token` is its number in the response or the prompt, -1 for a value of a whole one."""

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
    """A step of the data's way. `max` and `mean` of the absolute difference, `share` of what was compared that differs."""

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


@dataclass(frozen=True)
class Tolerance:
    """Differences of at most absolute + relative * |a| are float32 rounding."""

    absolute: float
    relative: float

    def __str__(self) -> str:
        if not self.relative:
            return f"{self.absolute:g}"
        return f"{self.absolute:g} + {self.relative:g} of the value"


def compare_numbers(
    name: str, values: Iterable[tuple[Pair, torch.Tensor, torch.Tensor]], tolerance: Tolerance, unit: str, token: bool
) -> Stage:
    """A stage of numbers, float64 tensors of equal length for each pair; NaN equals NaN. The example is the largest difference."""
    rows = [(pair, x.double(), y.double()) for pair, x, y in values if len(x)]
    if not rows:
        return Stage(name, UNKNOWN, "nothing to compare")
    x, y = torch.cat([row[1] for row in rows]), torch.cat([row[2] for row in rows])
    same = (x == y) | (x.isnan() & y.isnan())
    gap = torch.where(same, 0.0, (x - y).abs()).nan_to_num(torch.inf, posinf=torch.inf)
    differs = gap > tolerance.absolute + tolerance.relative * x.abs().nan_to_num(0.0)
    status = EQUAL if bool(same.all()) else DIFFERS if bool(differs.any()) else ROUNDING
    stage = Stage(name, status, compared=len(x), tolerance=str(tolerance))
    stage.max, stage.mean, stage.share = float(gap.max()), float(gap.mean()), float(differs.double().mean())
    if status == DIFFERS:
        stage.words = f"{int(differs.sum()):,} of {len(x):,} {unit} differ, by up to {stage.max:.3g}, on average {stage.mean:.3g}"
        place = int(gap.argmax())
        for pair, one, other in rows:
            if place < len(one):
                stage.example = example_of(pair, f"{float(one[place]):.6g}", f"{float(other[place]):.6g}", place if token else -1)
                break
            place -= len(one)
    elif status == ROUNDING:
        stage.words = f"largest difference {stage.max:.2g}, within float32 rounding ({tolerance})"
    return stage


def example_of(pair: Pair, a: str, b: str, token: int = -1) -> Example:
    """A response's example; `token` is its number in the response."""
    return Example(short(pair.a.prompt.problem or pair.a.prompt.text), pair.a.row, pair.b.row, a, b, token, pair.a.ids)


def short(text: str, length: int = 90) -> str:
    """On one line, its middle left out where it is long."""
    line = " ".join(text.split())
    half = (length - 3) // 2
    return line if len(line) <= length else f"{line[:half]}...{line[-half:]}"
