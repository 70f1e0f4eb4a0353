"""Likely causes where log-probabilities differ: each is a hypothesis that is tried on the tokens."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch

from gmpo_mm.inspection.alignment import Pair
from gmpo_mm.inspection.findings import Cause
from gmpo_mm.inspection.findings import other_side as _other
from gmpo_mm.inspection.sources import Sample, Source

_MOST = 0.95
_LOG_PROB_ROUNDING = 1e-4
"""Nats that two computations of the same number in float32 may differ by."""
Rows = Sequence[tuple[Pair, torch.Tensor, torch.Tensor, torch.Tensor]]
"""A pair, A's and B's values of its tokens, and the tokens on which both train."""


def log_probs(name: str, pairs: Sequence[Pair], a: Source, b: Source) -> list[Cause]:
    """Of pairs with the same tokens, whose log-probs differ somewhere. `name`: a tensor's, or "old"."""
    rows = [(p, _of(p.a, name), _of(p.b, name), _both_masks(p)) for p in pairs]
    x = torch.cat([of_a[mask] for _, of_a, _, mask in rows]).numpy()
    y = torch.cat([of_b[mask] for _, _, of_b, mask in rows]).numpy()
    found = _structural(name, rows, x, y, a, b) or _of_some_rows(rows) or _scaled(x, y, a, b)
    if not found or found[0].code == "old_is_sampler":
        found += _more_tokens(x, y)
    if found:
        return found
    before = a.weights_before, b.weights_before
    if a.engine == b.engine and all(before) and before[0] != before[1]:
        words = "the weights before the step differ: look at an earlier step"
        return [Cause("weights_before", words, f"{before[0][:12]} in A, {before[1][:12]} in B")]
    return _rounding(x, y) or [_unknown(x, y, name, a, b)]


def _of(sample: Sample, name: str) -> torch.Tensor:
    values = sample.behaviour_T if name == "old" else sample.tokens[name]
    assert values is not None
    return values


def _both_masks(pair: Pair) -> torch.Tensor:
    assert pair.a.mask_T is not None
    assert pair.b.mask_T is not None
    return pair.a.mask_T & pair.b.mask_T


def _structural(name: str, rows: Rows, x: np.ndarray, y: np.ndarray, a: Source, b: Source) -> list[Cause]:
    """Another tensor in its place, another token's number, another sign."""
    if name == "old":
        for source, side in ((b, "B"), (a, "A")):
            other = a if side == "B" else b
            if _old_is_sampler(source) and not _old_is_sampler(other):
                words = (
                    f"{side}'s old log-probs are the sampler's; {_other(side)} computes them with the trainer"
                )
                return [Cause("old_is_sampler", words, "worker.actor.old_log_probs, or a rollout correction")]
    long = [(of_a, of_b) for _, of_a, of_b, _ in rows if len(of_a) > 1]
    before = [(of_b[1:] - of_a[:-1]).abs() for of_a, of_b in long]
    after = [(of_b[:-1] - of_a[1:]).abs() for of_a, of_b in long]
    for gaps, where in ((before, "before"), (after, "after")):
        if gaps and _share(torch.cat(gaps).numpy() <= _LOG_PROB_ROUNDING) >= _MOST:
            words = f"log-probs are shifted by one token: B has what A has at the token {where}"
            evidence = f"B[t] is A[t {'-' if where == 'before' else '+'} 1] in {len(rows)} responses"
            return [Cause("log_probs_shifted", words, evidence)]
    if _share(np.abs(x + y) <= _LOG_PROB_ROUNDING) >= _MOST:
        words = "another sign (negative log-probs: a loss in their place)"
        return [Cause("sign", words, f"B = -A in {len(x):,} tokens")]
    return []


def _old_is_sampler(source: Source) -> bool:
    both = [
        s.tokens for s in source.samples if "old_log_probs" in s.tokens and "sampler_log_probs" in s.tokens
    ]
    if both:
        return all(torch.equal(t["old_log_probs"], t["sampler_log_probs"]) for t in both)
    return bool(source.samples) and all("sampler_log_probs" in s.tokens for s in source.samples)


def _scaled(x: np.ndarray, y: np.ndarray, a: Source, b: Source) -> list[Cause]:
    """A factor on all log-probs, or on the log-odds as another temperature makes it."""
    temperatures = a.temperature, b.temperature
    known = None not in temperatures
    shown = (
        f"recorded temperature {temperatures[0]:g} in A, {temperatures[1]:g} in B"
        if known
        else "no temperature on file"
    )
    slope, rest = through_origin(x, y)
    if abs(slope - 1) > 0.01 and rest < 1e-4:
        words = f"all log-probs are scaled by {slope:.4g}"
        if known and temperatures[0] != temperatures[1]:
            return [Cause("temperature", f"{words}: another temperature", shown)]
        bits = " (bits in place of nats)" if abs(slope - 1 / math.log(2)) < 0.01 else ""
        return [
            Cause(
                "log_probs_scaled",
                f"{words}{bits}",
                f"what is left after the scaling: {rest:.1e} of the difference; {shown}",
            )
        ]
    factor, left = _odds_factor(x, y)
    fits = abs(factor - 1) > 0.03 and left < 0.2
    evidence = (
        f"{shown}; the tokens' log-odds are scaled by {factor:.3g}, which leaves {left:.0%} of the difference"
    )
    if known and temperatures[0] != temperatures[1]:
        evidence = evidence if fits else shown
        words = f"temperature {temperatures[1]:g} in B, {temperatures[0]:g} in A: all log-probs are scaled"
        return [Cause("temperature", words, evidence)]
    if fits:
        temperature = temperatures[0] if known else None
        for side, ratio in (("B", factor), ("A", 1 / factor)):
            if temperature is not None and temperature != 1 and abs(ratio / temperature - 1) < 0.1:
                words = f"{side}'s log-probs are not divided by the temperature {temperature:g}"
                return [Cause("not_divided_by_temperature", words, evidence)]
        words = f"another temperature: about {1 / factor:.2g} times A's in B"
        return [Cause("temperature", words, evidence)]
    return []


def _more_tokens(x: np.ndarray, y: np.ndarray) -> list[Cause]:
    """Where a side is lower everywhere: p_B = p_A (1 - m), m the probability of tokens that A leaves out."""
    for gap, side in ((x - y, "B"), (y - x, "A")):
        lower = _share(gap > 1e-6)
        if lower > 0.9 and gap.min() > -5e-6 and gap.mean() < 0.05:
            other = _other(side)
            words = f"{side}'s softmax counts tokens that {other} leaves out (image placeholders, padding)"
            evidence = f"{side}'s are lower in {lower:.0%} of the tokens, by {gap.mean():.1e} on average"
            return [Cause("more_tokens", words, evidence)]
    return []


def _odds_factor(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """The factor between log-odds, and what it leaves of the squared difference.

    With one alternative of weight, log p/(1-p) is the difference of two logits over the temperature, so that
    the factor is T_A / T_B. It is taken from tokens that are neither nearly certain nor hopeless, where there
    are five.
    """
    usual = (x < -1e-6) & (y < -1e-6) & (x > -30) & (y > -30)
    one, other = _log_odds(x[usual]), _log_odds(y[usual])
    open_choice = np.abs(one) < 4
    if open_choice.sum() >= 5:
        one, other = one[open_choice], other[open_choice]
    return through_origin(one, other) if len(one) >= 5 else (1.0, 1.0)


def through_origin(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope of y = slope x, and what it leaves of the squared difference of y and x."""
    if not len(x) or not (x * x).sum():
        return 1.0, 1.0
    slope = float((x * y).sum() / (x * x).sum())
    before = float(((y - x) ** 2).sum())
    return slope, float(((y - slope * x) ** 2).sum()) / before if before else 1.0


def _log_odds(log_p: np.ndarray) -> np.ndarray:
    return np.asarray(log_p - np.log(-np.expm1(log_p)))


def _of_some_rows(rows: Rows) -> list[Cause]:
    """Where only the responses of some prompts differ."""
    gaps: dict[int, float] = defaultdict(float)
    prompts = {}
    for pair, x, y, mask in rows:
        key = id(pair.a.prompt)
        prompts[key] = pair.a.prompt
        gaps[key] = max(gaps[key], float((x - y)[mask].abs().max()) if mask.any() else 0.0)
    off = [prompts[key] for key, gap in gaps.items() if gap > _LOG_PROB_ROUNDING]
    fine = [prompts[key] for key, gap in gaps.items() if gap <= _LOG_PROB_ROUNDING]
    if not off or not fine:
        return []
    with_pictures = {bool(p.pictures) for p in off}, {bool(p.pictures) for p in fine}
    if with_pictures == ({True}, {False}):
        words = "the model sees the pictures otherwise: their features, positions (mrope) or mask"
        return [
            Cause(
                "pictures_in_the_model",
                words,
                f"all {len(off)} prompts that differ have pictures, the others none",
            )
        ]
    lengths = [len(p.ids or ()) for p in off], [len(p.ids or ()) for p in fine]
    if max(lengths[0]) < max(lengths[1]) and min(lengths[1]) == max(lengths[1]):
        words = "padding on the left of short prompts is seen by the model: attention mask or position ids"
        longest = max(lengths[1])
        evidence = (
            f"the {len(off)} prompts that differ have fewer than {longest} tokens; the longest are equal"
        )
        return [Cause("left_padding_in_the_model", words, evidence)]
    return []


def _rounding(x: np.ndarray, y: np.ndarray) -> list[Cause]:
    for values, other, side in ((y, x, "B"), (x, y, "A")):
        for dtype in (torch.bfloat16, torch.float16):
            if _kept_by(values, dtype) and not _kept_by(other, dtype):
                name = str(dtype).removeprefix("torch.")
                evidence = f"every value of {side} is a {name} number, those of {_other(side)} are not"
                return [Cause("low_precision", f"{side}'s log-probs are rounded to {name}", evidence)]
    gap = y - x
    if np.abs(gap).max() < 0.5 and np.abs(gap).mean() < 0.02 and abs(gap.mean()) < 0.6 * np.abs(gap).mean():
        words = "the size of bfloat16 rounding in the model's computation, on both sides of the value"
        return [
            Cause(
                "low_precision", words, f"{np.abs(gap).mean():.1e} on average; float32 would give about 1e-6"
            )
        ]
    return []


def _kept_by(values: np.ndarray, dtype: torch.dtype) -> bool:
    exact = torch.from_numpy(values)
    return bool((exact.to(dtype).double() == exact).all())


def _unknown(x: np.ndarray, y: np.ndarray, name: str, a: Source, b: Source) -> Cause:
    higher = _share(y > x)
    words = "another model, another attention or other positions: no simple relation between the two fits"
    if name == "ref_log_probs":
        words = "another reference model: no simple relation between the two fits"
    return Cause("other_model", words, f"B's is higher for {higher:.0%} of the tokens")


def _share(flags: np.ndarray) -> float:
    """The share that is true; 0 of none."""
    return float(np.mean(flags)) if len(flags) else 0.0
