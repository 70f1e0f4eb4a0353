"""Likely causes where ratios, losses, gradients or the rate differ: each is a hypothesis that is tried."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from gmpo_mm.inspection.alignment import Pair
from gmpo_mm.inspection.causes_of_log_probs import log_probs, through_origin
from gmpo_mm.inspection.findings import Cause
from gmpo_mm.inspection.findings import other_side as _other
from gmpo_mm.inspection.findings import settings_that_differ as _settings
from gmpo_mm.inspection.sources import Sample, Source


def ratio(pairs: Sequence[Pair], a: Source, b: Source) -> list[Cause]:
    """Where log-probs of the update differ and old ones do not."""
    x = torch.cat([_log_ratio(p.a) for p in pairs]).numpy()
    y = torch.cat([_log_ratio(p.b) for p in pairs]).numpy()
    for mine, other, side in ((y, x, "B"), (x, y, "A")):
        if np.abs(mine).max() < 1e-5 < np.abs(other).max():
            words = f"{side}'s ratios are all 1: one update a step, or old log-probs of the update itself"
            keys = ("worker.actor.global_batch_size", "worker.actor.ppo_epochs")
            return [Cause("on_policy", words, _settings(a, b, keys))]
    found = [cause for cause in log_probs("log_probs", pairs, a, b) if cause.code in _EXACT]
    if found:
        return found
    settings = _settings(a, b, _UPDATE_KEYS)
    slope, rest = through_origin(x, y)
    if abs(slope - 1) > 0.05 and rest < 0.3:
        evidence = f"log-ratios of B are {slope:.3g} times A's, which leaves {rest:.0%} of the difference"
        words = "the updates within the step have another size: rate, loss scale or number of updates"
        return [Cause("step_size", words, f"{evidence}; {settings}" if settings else evidence)]
    words = "other updates within the step: order of the mini-batches, loss, rate or optimizer"
    return [Cause("update", words, settings)]


_EXACT = ("temperature", "not_divided_by_temperature", "log_probs_shifted", "log_probs_scaled", "sign")
"""Causes of other log-probs that updates can't make."""
_UPDATE_KEYS = (
    "worker.actor.optim.lr", "worker.actor.global_batch_size", "worker.actor.ppo_epochs",
    "worker.actor.loss_type", "worker.actor.loss_avg_mode", "worker.actor.max_grad_norm",
    "worker.actor.optim.strategy",
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
            return [
                Cause("norm_after_clipping", words, f"{side} has {value:.6g}, max_grad_norm is {limit:g}")
            ]
    if (found := whole_factor(x, y)) is not None:
        return [_factor("gradient_scaled", "the gradient", found)]
    return [
        Cause(
            "gradient",
            "another gradient: loss, its mean, frozen parameters or precision",
            _settings(a, b, _UPDATE_KEYS),
        )
    ]


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
    sums = f"a sum over {k} micro-batches, ranks or updates in place of their mean"
    words = f"{what} of {side} is {k} times {_other(side)}'s: {sums}"
    return Cause(code, words, f"a factor of {k} to within 0.1 %")


def scaled_loss(x: float, y: float) -> list[Cause]:
    """A whole factor between two losses."""
    return [_factor("loss_scaled", "the loss", found)] if (found := whole_factor(x, y)) is not None else []


def loss_settings(a: Source, b: Source) -> str:
    """Keys of the loss that differ."""
    keys = sorted(
        key
        for key in {*a.config, *b.config}
        if key.startswith("worker.actor.") and not key.startswith(_NOT_LOSS)
    )
    return _settings(a, b, keys)


def optimizer_settings(a: Source, b: Source) -> str:
    """Keys of the optimizer that differ."""
    return _settings(
        a, b, sorted(key for key in {*a.config, *b.config} if key.startswith("worker.actor.optim."))
    )


_NOT_LOSS = tuple(f"worker.actor.{name}" for name in ("optim", "model", "fsdp", "offload", "micro_batch"))


def rate(x: float, y: float, a: Source, b: Source) -> list[Cause]:
    """Of two learning rates."""
    peak, warmup = a.config.get("worker.actor.optim.lr"), a.config.get("worker.actor.optim.lr_warmup_steps")
    step = a.step or 0
    one_step = bool(peak and warmup) and abs(abs(y - x) * float(warmup or 0) / float(peak or 1) - 1) < 1e-3
    beside = ((step, step + 1), (step, step - 1), (step + 1, step), (step - 1, step))
    neighbours = (
        x > 0 and y > 0 and any(n > 0 and m > 0 and abs(x * m / (y * n) - 1) < 1e-3 for n, m in beside)
    )
    if one_step or (0.0 in (x, y) and step <= 1) or neighbours:
        late = "B" if y < x else "A"
        words = f"the warm-up is off by one step: {late} counts the steps from 0, {_other(late)} from 1"
        evidence = f"{x:.4g} in A, {y:.4g} in B at step {step}" + (
            f", warm-up of {warmup} steps to {peak:g}" if one_step else ""
        )
        return [Cause("warmup_off_by_one", words, evidence)]
    names = ("lr", "lr_warmup_steps", "lr_warmup_ratio", "lr_scheduler_type", "min_lr_ratio")
    settings = _settings(a, b, [f"worker.actor.optim.{name}" for name in names])
    evidence = f"B's is {y / x:.4g} times A's" if x else ""
    return [Cause("learning_rate", "another learning rate or schedule", settings or evidence)]
