"""How two sides' values are compared: what is equal, what is float32 rounding, where most differs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from gmpo_mm.inspection.alignment import Pair
from gmpo_mm.inspection.findings import DIFFERS, EQUAL, ROUNDING, UNKNOWN, Example, Stage, absent, example_of
from gmpo_mm.inspection.sources import Source


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
    name: str,
    values: Iterable[tuple[Pair, torch.Tensor, torch.Tensor]],
    tolerance: Tolerance,
    unit: str,
    token: bool,
) -> Stage:
    """A stage of numbers, float64 tensors of equal length for each pair; NaN equals NaN.

    The example is the largest difference.
    """
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
        count = f"{int(differs.sum()):,} of {len(x):,} {unit}"
        stage.words = f"{count} differ, by up to {stage.max:.3g}, on average {stage.mean:.3g}"
        place = int(gap.argmax())
        for pair, one, other in rows:
            if place < len(one):
                stage.example = example_of(
                    pair, f"{float(one[place]):.6g}", f"{float(other[place]):.6g}", place if token else -1
                )
                break
            place -= len(one)
    elif status == ROUNDING:
        stage.words = f"largest difference {stage.max:.2g}, within float32 rounding ({tolerance})"
    return stage


REWARD = Tolerance(1e-6, 0.0)
ADVANTAGE = Tolerance(1e-6, 2e-6)
LOG_PROB = Tolerance(2e-5, 1e-5)
RATIO = Tolerance(1e-4, 1e-4)
METRIC = Tolerance(1e-6, 1e-4)
RATE = Tolerance(0.0, 1e-6)


def tokens(
    pairs: Iterable[Pair], of: Callable[..., torch.Tensor | None]
) -> list[tuple[Pair, torch.Tensor, torch.Tensor]]:
    """Values of the tokens on which both sides train, elsewhere 0 on both."""
    found = []
    for pair in pairs:
        x, y = of(pair.a), of(pair.b)
        assert x is not None
        assert y is not None
        mask = torch.ones(len(x), dtype=torch.bool)
        for mask_T in (pair.a.mask_T, pair.b.mask_T):
            mask = mask if mask_T is None else mask & mask_T
        found.append((pair, torch.where(mask, x, 0.0), torch.where(mask, y, 0.0)))
    return found


def counted(name: str, off: int, total: int, unit: str, note: str) -> Stage:
    """A stage of things that are equal or not; `note` says how they were compared."""
    stage = Stage(name, DIFFERS if off else EQUAL, note, total, share=off / total if total else None)
    if off:
        stage.words = f"{off:,} of {total:,} {unit} differ" + (f" ({note})" if note else "")
    return stage


def no_pairs(name: str, in_a: Sequence[object], in_b: Sequence[object], why: str) -> Stage:
    """A stage for which both sides have something, but nothing that belongs together."""
    return Stage(name, UNKNOWN, why) if in_a and in_b else absent(name, bool(in_a), bool(in_b))


def after_sampling(name: str) -> Stage:
    """A stage that needs equal responses, of which there are none."""
    return Stage(name, UNKNOWN, "no response is equal in both")


def of_metrics(name: str, keys: Sequence[str], tolerance: Tolerance, a: Source, b: Source) -> Stage:
    """A stage of metrics of the step that both sides have."""
    common = [key for key in keys if key in a.metrics and key in b.metrics]
    if not common:
        return absent(name, any(k in a.metrics for k in keys), any(k in b.metrics for k in keys))
    return scalars(name, [(key, a.metrics[key], b.metrics[key]) for key in common], tolerance)


def scalars(name: str, values: Sequence[tuple[str, float, float]], tolerance: Tolerance) -> Stage:
    """A stage of single numbers."""
    gaps = [(key, x, y, 0.0 if x == y or (x != x and y != y) else abs(x - y)) for key, x, y in values]
    off = [item for item in gaps if not item[3] <= tolerance.absolute + tolerance.relative * abs(item[1])]
    largest = max(gap for *_, gap in gaps)
    status = DIFFERS if off else ROUNDING if largest else EQUAL
    stage = Stage(
        name, status, compared=len(gaps), max=largest, share=len(off) / len(gaps), tolerance=str(tolerance)
    )
    key, x, y, _ = (off or gaps)[0]
    stage.mean = sum(item[3] for item in gaps) / len(gaps)
    if status == EQUAL:
        stage.words = f"{x:.6g}"
    elif status == ROUNDING:
        stage.words = f"{x:.6g}; largest difference {largest:.2g}, within float32 rounding ({tolerance})"
    else:
        stage.words = f"{x:.6g} in A, {y:.6g} in B" + (f" ({key})" if key else "")
        stage.example = Example("", -1, -1, f"{x:.6g}", f"{y:.6g}")
    return stage


def one(value: float | None) -> torch.Tensor:
    """A tensor of one number."""
    return torch.tensor([value], dtype=torch.float64)
