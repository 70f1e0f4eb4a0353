"""Lines of kind `compare` in metrics.jsonl, checked: what each loss would do with a step's tokens.

The weight of a token is -dL/dlog p, here relative to the same token's weight at ratio 1: the ratio itself for
GRPO (the paper's equation 5), the geometric mean of its response's ratios for GMPO (equation 6), 0 clipped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmpo_mm.errors import DataError

KIND = "compare"
PREFIX = "compare/"
TENTHS = 10
Floats = NDArray[np.float64]

_TEXTS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
"""What a line has for what JSON has no number for; `read_metrics` may not turn it back in a mapping."""
_ROUNDING = 1e-4
"""How far a share may lie outside of its range, as float32 sums do."""


@dataclass(frozen=True)
class LossLine:
    """What one loss would do with a step's tokens: NaN where no token tells, None where it isn't measured."""

    ess: float
    """Effective sample size as a share of the tokens: (sum |w|)^2 / (n sum w^2)."""
    clipped: float
    """Share of the tokens whose weight is 0."""
    clipped_positive: float
    """Share of the clipped ones with a positive advantage."""
    cosine: float
    """Between its weights and the trained loss's."""
    gradient_cosine: float | None
    gradient_norm: float | None
    weight_by_ratio: Floats
    """(10,) mean relative weight in each decile of the ratio."""
    spread_by_ratio: Floats
    """(10,) its standard deviation there."""
    clipped_by_position: Floats
    """(10,) share clipped in each tenth of the response."""
    clipped_by_entropy: Floats | None
    """(10,) share clipped in each decile of the token's entropy."""
    points: Floats
    """(P,) relative weights of some tokens."""


@dataclass(frozen=True)
class CompareStep:
    """One line."""

    step: int
    trained: str
    """The loss that is trained."""
    losses: Mapping[str, LossLine]
    """Empty where no token of the step had an advantage."""
    ratio_edges: Floats
    """(11,) from the smallest ratio over the deciles to the largest."""
    point_ratios: Floats
    """(P,) ratios of the tokens of `LossLine.points`, ascending."""


def read_compare(lines: Sequence[Mapping[str, Any]], where: str, advice: str) -> tuple[CompareStep, ...]:
    """The lines of kind `compare`, by step. DataError, with file, step and key, for one that isn't whole.

    `where` is the file's name and `advice` the end of the message.
    """
    steps: list[CompareStep] = []
    for line in sorted((line for line in lines if line["kind"] == KIND), key=lambda one: int(one["step"])):
        try:
            steps.append(_step(line))
        except ValueError as error:
            raise DataError(
                f"{where}: the line of kind {KIND} at step {line['step']}: {error}; {advice}"
            ) from None
        if steps[-1].trained != steps[0].trained:
            raise DataError(
                f"{where}: {PREFIX}trained is {steps[0].trained!r} at step {steps[0].step} and "
                f"{steps[-1].trained!r} at step {steps[-1].step}, and one run trains one loss; {advice}"
            )
    return tuple(steps)


def _step(line: Mapping[str, Any]) -> CompareStep:
    trained, names = _get(line, "trained"), _get(line, "losses")
    if not isinstance(trained, str):
        raise ValueError(f"{PREFIX}trained is not a name")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{PREFIX}losses is not a list of names")
    if not any(map(_is_of_tokens, line)):  # no token had an advantage
        return CompareStep(int(line["step"]), trained, {}, np.empty(0), np.empty(0))
    points = _get(line, "points")
    if not isinstance(points, dict):
        raise ValueError(f"{PREFIX}points is not a mapping")
    ratios = _numbers(points, "ratio", None, "points/")
    ordered = dict.fromkeys([trained, *names])
    return CompareStep(
        step=int(line["step"]), trained=trained, point_ratios=ratios,
        ratio_edges=_numbers(line, "ratio_edges", TENTHS + 1),
        losses={name: _loss(line, name, points, len(ratios)) for name in ordered},
    )  # fmt: skip


def _is_of_tokens(key: str) -> bool:
    """Whether a line has this key where its step has tokens with an advantage, and only there."""
    always = (f"{PREFIX}trained", f"{PREFIX}losses")
    return key.startswith(PREFIX) and key not in always and "/gradient_" not in key


def _loss(line: Mapping[str, Any], name: str, points: Mapping[str, Any], count: int) -> LossLine:
    def tenths(key: str) -> Floats:
        return _numbers(line, f"{name}/{key}", TENTHS)

    def scalar(key: str, low: float = -math.inf, high: float = math.inf) -> float:
        return _number(line, f"{name}/{key}", low, high)

    def has(key: str) -> bool:
        return f"{PREFIX}{name}/{key}" in line

    clipped = scalar("clipped_frac", 0, 1)
    return LossLine(
        ess=scalar("ess_frac", 0, 1), clipped=clipped,
        # what isn't defined is left out: a share of no token, the cosine of weights that are all 0
        clipped_positive=scalar("clipped_positive_frac", 0, 1) if clipped > 0 else math.nan,
        cosine=scalar("cosine", -1, 1) if has("cosine") else math.nan,
        gradient_cosine=scalar("gradient_cosine", -1, 1) if has("gradient_cosine") else None,
        gradient_norm=scalar("gradient_norm", 0) if has("gradient_norm") else None,
        weight_by_ratio=tenths("weight_by_ratio"), spread_by_ratio=tenths("spread_by_ratio"),
        clipped_by_position=tenths("clipped_by_position"),
        clipped_by_entropy=tenths("clipped_by_entropy") if has("clipped_by_entropy") else None,
        points=_numbers(points, name, count, "points/"),
    )  # fmt: skip


def _get(line: Mapping[str, Any], key: str) -> Any:
    if PREFIX + key not in line:
        raise ValueError(f"{PREFIX}{key} is missing")
    return line[PREFIX + key]


def _number(line: Mapping[str, Any], key: str, low: float, high: float) -> float:
    value = _float(_get(line, key))
    if value is None:
        raise ValueError(f"{PREFIX}{key} is not a number")
    if not (math.isnan(value) or low - _ROUNDING <= value <= high + _ROUNDING):
        raise ValueError(f"{PREFIX}{key} is {value:g}, and lies between {low:g} and {high:g}")
    return min(max(value, low), high) if math.isfinite(value) else value


def _numbers(mapping: Mapping[str, Any], key: str, count: int | None, inside: str = "") -> Floats:
    """A list of numbers; of `count` of them, where that is known."""
    name = f"{PREFIX}{inside}{key}"
    values = mapping.get(key if inside else name)
    if values is None:
        raise ValueError(f"{name} is missing")
    found = [_float(value) for value in values] if isinstance(values, list) else [None]
    if None in found:
        raise ValueError(f"{name} is not a list of numbers")
    if count is not None and len(found) != count:
        raise ValueError(f"{name} has {len(found)} numbers, and {count} are expected")
    return np.array(found, dtype=np.float64)


def _float(value: Any) -> float | None:
    if isinstance(value, str):
        return _TEXTS.get(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:  # JSON's integers have no end
        return None
