"""A stage of an update as it was recorded and as it was repeated: the same bytes, near enough, or not."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Stage:
    """A stage of an update. `same` is None where there was nothing to compare; `words` say what was found."""

    name: str
    same: bool | None
    words: str
    difference: float = 0.0
    """Largest absolute difference; infinite where one of the values is no finite number."""


def not_compared(name: str, why: str) -> Stage:
    """A stage that could not be compared."""
    return Stage(name, None, f"not compared: {why}")


def compare_numbers(name: str, recorded: float, repeated: float, tolerance: float = 0.0) -> Stage:
    """Bit for bit with a tolerance of 0, else |a - b| <= tolerance * max(1, |a|)."""
    if recorded == repeated or (
        math.isnan(recorded) and not math.isfinite(repeated)
    ):  # a record holds finite numbers
        return Stage(name, True, f"the same, {recorded:.8g}")
    gap = abs(recorded - repeated)
    if not math.isfinite(gap):
        gap = math.inf
    both = f"{recorded:.9g} in the record, {repeated:.9g} here, {gap:.2g} apart"
    return Stage(name, gap <= tolerance * max(1.0, abs(recorded)), both, gap)


def compare_tokens(
    name: str,
    recorded_BT: torch.Tensor,
    repeated_BT: torch.Tensor,
    where_BT: torch.Tensor,
    tolerance: float = 0.0,
) -> Stage:
    """Values of response tokens where `where_BT` is True; names the first token outside the tolerance."""
    recorded_BT, repeated_BT = recorded_BT.detach().cpu(), repeated_BT.detach().cpu()
    gap_BT = torch.where(where_BT, (recorded_BT.double() - repeated_BT.double()).abs(), 0.0)
    gap_BT = torch.where(where_BT & (recorded_BT == repeated_BT), 0.0, gap_BT).nan_to_num(
        nan=math.inf, posinf=math.inf
    )
    count = int(where_BT.sum())
    largest = float(gap_BT.max()) if gap_BT.numel() else 0.0
    if largest == 0.0:
        return Stage(name, True, f"the same at all {count:,} tokens")
    allowed_BT = tolerance * recorded_BT.double().abs().clamp(min=1.0)
    wrong = (gap_BT > allowed_BT).nonzero()
    if not len(wrong):
        return Stage(name, True, f"at most {largest:.2g} apart at {count:,} tokens", largest)
    row, token = wrong[0].tolist()
    words = (
        f"differ at {len(wrong):,} of {count:,} tokens, by at most {largest:.2g}; first at token {token} of "
        f"response {row}: {recorded_BT[row, token]:.9g} in the record, {repeated_BT[row, token]:.9g} here"
    )
    return Stage(name, False, words, largest)
