"""What a result is beside the right one: equal, equal up to a scale, another loss, or different, and
where."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from conformance.vectors import Case

Place = tuple[str, str]
"""A batch and a cut of it, by name."""


@dataclass(frozen=True)
class Finding:
    """`result` is of loss and gradient, one of: equal, equal up to a scale, different, another loss, not
    offered, error.

    `where` says of a difference that it is only in `micro-batches` (a whole batch is right), or only in the
    batch `far` or `padding`. `clip_share` is "equal", or the first one that is counted otherwise, or "" where
    the project gives none.
    """

    case: str
    result: str
    detail: str = ""
    where: str = ""
    clip_share: str = ""
    missing_cuts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Other:
    """Another case, to which a wrong result may be equal."""

    name: str
    expected: dict[str, dict[str, Any]]


def judge(case: Case, outputs: dict[Place, dict[str, Any]], others: list[Other], tolerance: float) -> Finding:
    """The finding for a case from what a project gave at each place."""
    scale = _scale(case, outputs, case.expected, tolerance)
    if scale is not None:
        result = "equal up to a scale" if scale else "equal"
        return Finding(case.name, result, scale, clip_share=_clip_share(case, outputs, tolerance))
    same = {}
    for other in others:
        if other.expected.keys() >= case.expected.keys():
            found = _scale(case, outputs, other.expected, tolerance)
            if found is not None:
                same[other.name] = found
    if same:
        exact = [name for name, found in same.items() if not found]
        names = exact or [f"{name} ({found})" for name, found in same.items()]
        return Finding(case.name, "another loss", " = ".join(names[:3]))
    factors = {
        place: _factor(output, case.expected[place[0]], tolerance) for place, output in outputs.items()
    }
    words = _difference(case, outputs, factors, others, tolerance)
    return Finding(case.name, "different", words, _where([place for place, k in factors.items() if k != 1.0]))


def _where(wrong: list[Place]) -> str:
    if all(cut != "whole" for _, cut in wrong):
        return "micro-batches"
    batches = {batch for batch, _ in wrong}
    return batches.pop() if batches in ({"far"}, {"padding"}) else ""


def _scale(
    case: Case, outputs: dict[Place, dict[str, Any]], expected: dict[str, dict[str, Any]], tolerance: float
) -> str | None:
    """ "" for equal at every place, else the factor in words, else None. It must not depend on the cut."""
    factors: dict[str, float] = {}
    for (batch, _), output in outputs.items():
        factor = _factor(output, expected[batch], tolerance)
        if factor is None or not _near(factors.setdefault(batch, factor), factor, tolerance):
            return None
    if all(factor == 1.0 for factor in factors.values()):
        return ""
    return _named(case, factors, tolerance)


def _factor(got: dict[str, Any], want: dict[str, Any], tolerance: float) -> float | None:
    """k if loss and gradient are k times the right ones, exactly 1.0 if they are the right ones; else
    None."""
    if _equal(got, want, 1.0, tolerance):
        return 1.0
    pairs = list(_pairs(got["grad"], want["grad"]))
    k = sum(g * w for g, w in pairs) / sum(w * w for _, w in pairs)
    return k if math.isfinite(k) and k > 0 and _equal(got, want, k, tolerance) else None


def _equal(got: dict[str, Any], want: dict[str, Any], k: float, tolerance: float) -> bool:
    return _value_equal(got, want, k, tolerance) and not any(
        True for _ in _wrong_entries(got, want, k, tolerance)
    )


def _value_equal(got: dict[str, Any], want: dict[str, Any], k: float, tolerance: float) -> bool:
    largest = max(abs(w) for _, w in _pairs(want["grad"], want["grad"]))  # terms of a sum that may cancel
    return abs(got["loss"] - k * want["loss"]) <= tolerance * k * max(1.0, abs(want["loss"]), largest)


def _wrong_entries(
    got: dict[str, Any], want: dict[str, Any], k: float, tolerance: float
) -> Iterator[tuple[int, int, float, float]]:
    for i, (got_row, want_row) in enumerate(zip(got["grad"], want["grad"], strict=True)):
        for t, (g, w) in enumerate(zip(got_row, want_row, strict=True)):
            if not abs(g - k * w) <= tolerance * k * max(1.0, abs(w)):  # NaN is wrong
                yield i, t, g, w


def _pairs(a: list[list[float]], b: list[list[float]]) -> Iterator[tuple[float, float]]:
    for row_a, row_b in zip(a, b, strict=True):
        yield from zip(row_a, row_b, strict=True)


def _near(a: float, b: float, tolerance: float) -> bool:
    return abs(a - b) <= 10 * tolerance * max(abs(a), abs(b))


def _named(case: Case, factors: dict[str, float], tolerance: float) -> str | None:
    """A factor that is one number for all batches, or one and the same quotient of a batch's sizes."""
    first = next(iter(factors.values()))
    constant = all(_near(first, factor, tolerance) for factor in factors.values())
    for name in sorted(_sizes(case, next(iter(factors))), key=len):
        if all(_near(_sizes(case, batch)[name], factor, tolerance) for batch, factor in factors.items()):
            return f"x {name}" + (f" = {first:.6g}" if constant else "")
    return f"x {first:.6g}" if constant else None


def _sizes(case: Case, batch: str) -> dict[str, float]:
    """Quotients of: B responses, R of them with a token, N tokens, T columns, L the config's `max_tokens`."""
    mask = case.batches[batch]["mask"]
    sizes = {
        "B": len(mask),
        "R": sum(any(row) for row in mask),
        "N": sum(map(sum, mask)),
        "T": len(mask[0]),
    }
    if "max_tokens" in case.config:
        sizes["L"] = case.config["max_tokens"]
    sizes |= {f"{a}*{b}": sizes[a] * sizes[b] for a in "BR" for b in "TL" if b in sizes}
    below = {a: f"({a})" if "*" in a else a for a in sizes}
    quotients = {f"{a}/{below[b]}": x / y for a, x in sizes.items() for b, y in sizes.items() if a != b}
    return {f"1/{below[a]}": 1 / x for a, x in sizes.items()} | dict(sizes) | quotients


def _clip_share(case: Case, outputs: dict[Place, dict[str, Any]], tolerance: float) -> str:
    words = ""
    for (batch, _), output in outputs.items():
        want = dict(case.expected[batch]["clip_share"])
        if "high" in want:
            want["any"] = want["high"] + want["low"]
        for name, share in (output["clip_share"] or {}).items():
            if name in want:
                if not abs(share - want[name]) <= max(tolerance, 1e-6):
                    return f"{name} {share:.4f}, not {want[name]:.4f} ({batch})"
                words = "equal"
    return words


def _difference(
    case: Case,
    outputs: dict[Place, dict[str, Any]],
    factors: dict[Place, float | None],
    others: list[Other],
    tolerance: float,
) -> str:
    if all(k == 1.0 for (_, cut), k in factors.items() if cut == "whole"):
        parts = {cut: k for (_, cut), k in factors.items() if cut != "whole"}
        named = ", ".join(f"{cut} {_factor_in_words(k)}" for cut, k in parts.items())
        return f"right on a whole batch; cut into micro-batches: {named}"
    right = [" ".join(place) for place, k in factors.items() if k == 1.0]
    place = next(place for place, k in factors.items() if k != 1.0)
    got, want = outputs[place], case.expected[place[0]]
    wrong = list(_wrong_entries(got, want, 1.0, tolerance))
    words = f"{place[0]} {place[1]}: "
    if factors[place] is not None:
        words += _factor_in_words(factors[place])
    elif not wrong:
        words += f"the value only, {got['loss']:.7g}, not {want['loss']:.7g}; the gradient is right"
    else:
        i, t, g, w = max(wrong, key=lambda entry: _distance(entry[2], entry[3]))
        valid = sum(map(sum, case.batches[place[0]]["mask"]))
        what = "advantages" if "advantages" in case.config else "gradients"
        words += f"{len(wrong)} of {valid} {what}; most at [{i}][{t}], {g:.6g}, not {w:.6g}"
    if right:
        words += "; right at " + ", ".join(right)
    others = [o for o in others if o.name != case.name and o.expected.keys() >= case.expected.keys()]
    twins = [o.name for o in others if _equal(got, o.expected[place[0]], 1.0, tolerance)]
    return words + (f"; here it is {' = '.join(twins[:2])}" if twins else "")


def _factor_in_words(k: float | None) -> str:
    if k is None:
        return "another gradient"
    return "right" if k == 1.0 else f"x {k:.4g}"


def _distance(got: float, want: float) -> float:
    distance = abs(got - want) / max(1.0, abs(want))
    return distance if math.isfinite(distance) else math.inf
