"""Likely causes where rewards, log-probabilities, losses, gradients or the rate differ: each is a hypothesis that is tried."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch

from gmpo_mm.inspection.alignment import Pair
from gmpo_mm.inspection.findings import Cause
from gmpo_mm.inspection.sources import Sample, Source

_MOST = 0.95
_LOG_PROB_ROUNDING = 1e-4
"""Nats that two computations of the same number in float32 may differ by."""


# ---- rewards ----------------------------------------------------------------------------------------------------------


def rewards(pairs: Sequence[Pair], differing_parts: Sequence[str]) -> list[Cause]:
    """Of pairs with rewards; `differing_parts` are the parts that differ."""
    if differing_parts:
        name = differing_parts[0]
        gap = [(p.a.parts[name], p.b.parts[name], p) for p in pairs if p.a.parts[name] != p.b.parts[name]]
        higher = sum(y > x for x, y, _ in gap)
        words = f"the part {name!r} is graded otherwise: another grader, answer extraction or format rule"
        return [Cause("reward_part", words, f"{len(gap)} responses, of which B gives {higher} more and {len(gap) - higher} less")]
    scored = [p for p in pairs if p.a.reward is not None and p.b.reward is not None]
    fits = [_weights([s for s in side]) for side in ([p.a for p in scored], [p.b for p in scored])]
    if fits[0] and fits[1] and fits[0] != fits[1]:
        shown = [", ".join(f"{name} {weight:.4g}" for name, weight in fit.items()) for fit in fits if fit]
        return [Cause("reward_weights", "other weights of the reward's parts", f"{shown[0]} in A; {shown[1]} in B")]
    gap = [(p.a.reward or 0.0, p.b.reward or 0.0, p) for p in scored if p.a.reward != p.b.reward]
    lengths = [len(p.a.ids) if p.a.ids is not None else len(p.a.text) for _, _, p in gap]
    rest = [len(p.a.ids) if p.a.ids is not None else len(p.a.text) for p in scored if p.a.reward == p.b.reward]
    if rest and min(lengths) > max(rest):
        evidence = f"the {len(gap)} responses that differ are the longest: from {min(lengths)} on"
        return [Cause("length_penalty", "a penalty on long responses on one side (worker.reward.overlong_buffer)", evidence)]
    line = _line([x for x, _, _ in gap], [y for _, y, _ in gap])
    if line is not None:
        evidence = f"B = {line[0]:.4g} x A {line[1]:+.4g} in all {len(gap)} responses that differ"
        return [Cause("reward_scale", "rewards on another scale", evidence)]
    return [Cause("reward", "another reward function, or another answer in the data", f"{len(gap)} responses")]


def _weights(samples: Sequence[Sample]) -> dict[str, float] | None:
    """Weights of the fewest parts of which the reward is an exact sum; None where it is none."""
    names = [name for name in samples[0].parts if all(math.isfinite(s.parts.get(name, math.nan)) for s in samples)]
    names = [name for name in names if len({s.parts[name] for s in samples}) > 1]
    target = np.array([s.reward for s in samples], dtype=float)
    for count in range(1, min(4, len(names)) + 1):
        for chosen in itertools.combinations(names, count):
            columns = np.array([[s.parts[name] for name in chosen] for s in samples])
            weights, _, rank, _ = np.linalg.lstsq(columns, target, rcond=None)
            if rank == count and np.abs(columns @ weights - target).max() < 1e-6:
                return {name: round(float(weight), 6) for name, weight in zip(chosen, weights, strict=True)}
    return None


def _line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float] | None:
    """Slope and offset of a line through all points; None where there is none, or too few different points."""
    if len(set(x)) < 3 and not (len(set(x)) == 2 and len(x) > 2):
        return None
    slope, offset = np.polyfit(x, y, 1)
    return (float(slope), float(offset)) if np.abs(slope * np.array(x) + offset - np.array(y)).max() < 1e-6 else None


# ---- groups -----------------------------------------------------------------------------------------------------------


def groups(a: Source, b: Source, moved: int) -> list[Cause]:
    """Why responses stand in other groups."""
    for source, side in ((b, "B"), (a, "A")):
        number: dict[object, int] = {}
        found = [number.setdefault(s.group, len(number)) for s in source.samples]
        size = len(found) // max(1, len(number))
        blocks = [row // size for row in range(len(found))] if size else []
        turns = [row % len(number) for row in range(len(found))] if number else []
        other = a if side == "B" else b
        order: dict[object, int] = {}
        others = [order.setdefault(s.group, len(order)) for s in other.samples]
        if found == blocks and (moved or others != blocks):
            evidence = f"the group of row i in {side} is i // {size} for all {len(found)} rows"
            return [Cause("groups_by_position", f"{side}'s group ids are the rows' positions in place of the prompt's id", evidence)]
        if found == turns and found != blocks and (moved or others != turns):
            evidence = f"the group of row i in {side} is i modulo {len(number)} for all {len(found)} rows"
            return [Cause("groups_by_position", f"{side}'s group ids are the rows' positions in place of the prompt's id", evidence)]
    return [Cause("groups", "responses are grouped otherwise", f"{moved} responses stand under another prompt" if moved else "")]


# ---- log-probabilities ------------------------------------------------------------------------------------------------


def log_probs(name: str, pairs: Sequence[Pair], a: Source, b: Source) -> list[Cause]:
    """Of pairs with the same tokens and both log-probabilities, which differ somewhere. `name`: one of the tensors, or "old"."""
    rows = [(p, _of(p.a, name), _of(p.b, name), _both_masks(p)) for p in pairs]
    x, y = (torch.cat([row[i][row[3]] for row in rows]).numpy() for i in (1, 2))
    found = _structural(name, rows, x, y, a, b) or _of_some_rows(rows) or _scaled(x, y, a, b)
    if found:
        return found
    if a.engine == b.engine and a.weights_before and b.weights_before and a.weights_before != b.weights_before:
        evidence = f"{a.weights_before[:12]} in A, {b.weights_before[:12]} in B"
        return [Cause("weights_before", "the weights before the step differ: look at an earlier step", evidence)]
    return _rounding(x, y) or [_unknown(x, y, name, a, b)]


def _of(sample: Sample, name: str) -> torch.Tensor:
    values = sample.behaviour_T if name == "old" else sample.tokens[name]
    assert values is not None
    return values


def _both_masks(pair: Pair) -> torch.Tensor:
    assert pair.a.mask_T is not None
    assert pair.b.mask_T is not None
    return pair.a.mask_T & pair.b.mask_T


Rows = Sequence[tuple[Pair, torch.Tensor, torch.Tensor, torch.Tensor]]


def _structural(name: str, rows: Rows, x: np.ndarray, y: np.ndarray, a: Source, b: Source) -> list[Cause]:
    """Another tensor in its place, another token's number, another sign."""
    if name == "old":
        for source, side in ((b, "B"), (a, "A")):
            other = a if side == "B" else b
            if _old_is_sampler(source) and not _old_is_sampler(other):
                words = f"{side}'s old log-probs are the sampler's; {_other(side)} computes them with the trainer"
                return [Cause("old_is_sampler", words, "worker.actor.old_log_probs, or a rollout correction")]
    for side, one, other in (("B", 1, 2), ("A", 2, 1)):
        for step, words in ((1, "the token before"), (-1, "the next token")):
            gaps = [
                (row[other][1:] - row[one][:-1] if step == 1 else row[other][:-1] - row[one][1:]).abs()
                for row in rows
                if len(row[1]) > 1
            ]
            if gaps and _share(torch.cat(gaps).numpy() <= _LOG_PROB_ROUNDING) >= _MOST:
                evidence = f"{side}[t] is {_other(side)}[t {'-' if step == 1 else '+'} 1] in {len(rows)} responses"
                return [Cause("log_probs_shifted", f"{side} has the log-probs of {words}: shifted by one", evidence)]
    if _share(np.abs(x + y) <= _LOG_PROB_ROUNDING) >= _MOST:
        return [Cause("sign", "another sign (negative log-probs: a loss in their place)", f"B = -A in {len(x):,} tokens")]
    return []


def _old_is_sampler(source: Source) -> bool:
    both = [s.tokens for s in source.samples if "old_log_probs" in s.tokens and "sampler_log_probs" in s.tokens]
    if both:
        return all(torch.equal(t["old_log_probs"], t["sampler_log_probs"]) for t in both)
    return bool(source.samples) and all("sampler_log_probs" in s.tokens for s in source.samples)


def _scaled(x: np.ndarray, y: np.ndarray, a: Source, b: Source) -> list[Cause]:
    """A factor on all log-probs, or on the log-odds: what another temperature does where one alternative matters."""
    temperatures = a.temperature, b.temperature
    known = None not in temperatures
    shown = f"recorded temperature {temperatures[0]:g} in A, {temperatures[1]:g} in B" if known else "no temperature on file"
    slope, rest = _through_origin(x, y)
    if abs(slope - 1) > 0.01 and rest < 1e-4:
        words = f"all log-probs are scaled by {slope:.4g}"
        if known and temperatures[0] != temperatures[1]:
            return [Cause("temperature", f"{words}: another temperature", shown)]
        bits = " (bits in place of nats)" if abs(slope - 1 / math.log(2)) < 0.01 else ""
        return [Cause("log_probs_scaled", f"{words}{bits}", f"what is left after the scaling: {rest:.1e} of the difference; {shown}")]
    factor, left = _odds_factor(x, y)
    fits = abs(factor - 1) > 0.03 and left < 0.2
    evidence = f"{shown}; the tokens' log-odds are scaled by {factor:.3g}, which leaves {left:.0%} of the difference"
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


def _odds_factor(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """The factor between log-odds, and what it leaves of the squared difference.

    With one alternative of weight, log p/(1-p) is the difference of two logits over the temperature, so that the factor is
    T_A / T_B. It is taken from tokens that are neither nearly certain nor hopeless, where there are five.
    """
    usual = (x < -1e-6) & (y < -1e-6) & (x > -30) & (y > -30)
    one, other = _log_odds(x[usual]), _log_odds(y[usual])
    open_choice = np.abs(one) < 4
    if open_choice.sum() >= 5:
        one, other = one[open_choice], other[open_choice]
    return _through_origin(one, other) if len(one) >= 5 else (1.0, 1.0)


def _through_origin(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
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
        return [Cause("pictures_in_the_model", words, f"all {len(off)} prompts that differ have pictures, the others none")]
    lengths = [len(p.ids or ()) for p in off], [len(p.ids or ()) for p in fine]
    if max(lengths[0]) < max(lengths[1]) and min(lengths[1]) == max(lengths[1]):
        words = "padding on the left of short prompts is seen by the model: attention mask or position ids"
        evidence = f"the {len(off)} prompts that differ have fewer than {max(lengths[1])} tokens; the longest ones are equal"
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
        return [Cause("low_precision", words, f"{np.abs(gap).mean():.1e} on average; float32 would give about 1e-6")]
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


# ---- ratio, loss, gradient norm, rate ---------------------------------------------------------------------------------


def ratio(pairs: Sequence[Pair], a: Source, b: Source) -> list[Cause]:
    """Where log-probs of the update differ and old ones do not."""
    x, y = ([_log_ratio(s) for s in side] for side in ([p.a for p in pairs], [p.b for p in pairs]))
    for values, side in ((y, "B"), (x, "A")):
        other = x if side == "B" else y
        if all(float(v.abs().max()) < 1e-5 for v in values if len(v)) and any(float(v.abs().max()) > 1e-5 for v in other if len(v)):
            words = f"{side}'s ratios are all 1: it makes one update a step, or its old log-probs are those of the update itself"
            return [Cause("on_policy", words, _settings(a, b, ("worker.actor.global_batch_size", "worker.actor.ppo_epochs")))]
    found = [
        cause
        for cause in log_probs("log_probs", pairs, a, b)
        if cause.code not in ("other_model", "weights_before", "low_precision", "left_padding_in_the_model", "pictures_in_the_model")
    ]
    if found:
        return found
    one, other = (torch.cat(side).numpy() for side in (x, y))
    slope, rest = _through_origin(one, other)
    if abs(slope - 1) > 0.05 and rest < 0.3:
        evidence = f"log-ratios of B are {slope:.3g} times A's, which leaves {rest:.0%} of the difference"
        evidence += f"; {settings}" if (settings := _settings(a, b, _UPDATE_KEYS)) else ""
        return [Cause("step_size", "the updates within the step have another size: rate, loss scale or number of updates", evidence)]
    return [Cause("update", "other updates within the step: order of the mini-batches, loss, rate or optimizer", _settings(a, b, _UPDATE_KEYS))]


_UPDATE_KEYS = (
    "worker.actor.optim.lr", "worker.actor.global_batch_size", "worker.actor.ppo_epochs", "worker.actor.loss_type",
    "worker.actor.loss_avg_mode", "worker.actor.max_grad_norm", "worker.actor.optim.strategy",
)  # fmt: skip


def _log_ratio(sample: Sample) -> torch.Tensor:
    behaviour = sample.behaviour_T
    assert behaviour is not None
    assert sample.mask_T is not None
    return (sample.tokens["log_probs"] - behaviour)[sample.mask_T]


def gradient_norm(x: float, y: float, a: Source, b: Source) -> list[Cause]:
    """Of two gradient norms."""
    for value, other, source, side in ((y, x, b, "B"), (x, y, a, "A")):
        limit = source.config.get("worker.actor.max_grad_norm")
        if isinstance(limit, (int, float)) and other > limit * 1.001 and abs(value / limit - 1) < 1e-3:
            words = f"{side}'s norm is that after clipping to max_grad_norm"
            return [Cause("norm_after_clipping", words, f"{side} has {value:.6g}, max_grad_norm is {limit:g}")]
    if (found := whole_factor(x, y)) is not None:
        return [_factor("gradient_scaled", "the gradient", found)]
    return [Cause("gradient", "another gradient: loss, its mean, frozen parameters or precision", _settings(a, b, _UPDATE_KEYS))]


def whole_factor(x: float, y: float) -> tuple[int, str] | None:
    """(k, side) where one side's number is k times the other's, with k from 2 to 64."""
    for small, large, side in ((x, y, "B"), (y, x, "A")):
        if small and abs(small) > 1e-9:
            factor = large / small
            if 1.5 < factor < 64.5 and abs(factor / round(factor) - 1) < 1e-3:
                return round(factor), side
    return None


def _factor(code: str, what: str, found: tuple[int, str]) -> Cause:
    k, side = found
    words = f"{what} of {side} is {k} times {_other(side)}'s: a sum over {k} micro-batches, ranks or updates in place of their mean"
    return Cause(code, words, f"a factor of {k} to within 0.1 %")


def scaled_loss(x: float, y: float) -> list[Cause]:
    """A whole factor between two losses."""
    return [_factor("loss_scaled", "the loss", found)] if (found := whole_factor(x, y)) is not None else []


def loss_settings(a: Source, b: Source) -> str:
    """Keys of the loss that differ."""
    keys = sorted(key for key in {*a.config, *b.config} if key.startswith("worker.actor.") and not key.startswith(_NOT_LOSS))
    return _settings(a, b, keys)


def optimizer_settings(a: Source, b: Source) -> str:
    """Keys of the optimizer that differ."""
    return _settings(a, b, sorted(key for key in {*a.config, *b.config} if key.startswith("worker.actor.optim.")))


_NOT_LOSS = tuple(f"worker.actor.{name}" for name in ("optim", "model", "fsdp", "offload", "micro_batch"))


def rate(x: float, y: float, a: Source, b: Source) -> list[Cause]:
    """Of two learning rates."""
    peak, warmup = a.config.get("worker.actor.optim.lr"), a.config.get("worker.actor.optim.lr_warmup_steps")
    step = a.step or 0
    one_step = isinstance(peak, (int, float)) and bool(warmup) and abs(abs(y - x) * warmup / peak - 1) < 1e-3
    neighbours = step > 0 and any(abs(y * n - x * m) < 1e-3 * max(x, y) * step for n, m in ((step, step + 1), (step, step - 1), (step + 1, step), (step - 1, step)) if n and m)
    if one_step or (0.0 in (x, y) and step <= 1) or (neighbours and x and y):
        late = "B" if y < x else "A"
        words = f"the warm-up is off by one step: {late} counts the steps from 0, {_other(late)} from 1"
        evidence = f"{x:.4g} in A, {y:.4g} in B at step {step}" + (f", warm-up of {warmup} steps to {peak:g}" if one_step else "")
        return [Cause("warmup_off_by_one", words, evidence)]
    settings = _settings(a, b, [f"worker.actor.optim.{name}" for name in ("lr", "lr_warmup_steps", "lr_warmup_ratio", "lr_scheduler_type", "min_lr_ratio")])
    evidence = f"B's is {y / x:.4g} times A's" if x else ""
    return [Cause("learning_rate", "another learning rate or schedule", settings or evidence)]


def _share(flags: np.ndarray) -> float:
    return float(np.mean(flags)) if len(flags) else 0.0


def _settings(a: Source, b: Source, keys: Sequence[str]) -> str:
    differing = [key for key in keys if key in a.config and key in b.config and a.config[key] != b.config[key]]
    return ", ".join(f"{key} is {a.config[key]!r} in A and {b.config[key]!r} in B" for key in differing)


def _other(side: str) -> str:
    return "A" if side == "B" else "B"
