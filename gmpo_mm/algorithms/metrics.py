"""Metrics that can be merged over micro-batches and ranks without averaging an average."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

KINDS = ("mean", "min", "max")
ESS, WEIGHT_MEAN, WEIGHT_SQUARE = "correction/ess", "correction/weight_mean", "correction/weight_square"
"""The effective sample size of a correction's weights, and the two means that it is made of when all parts are merged."""


@dataclass(frozen=True)
class Metric:
    """One quantity on its way to the log: the SUM and its count for a mean, the extreme and its count for min and max.

    ``value`` and ``count`` are 0-dim detached tensors that stay on their device. ``count`` 0 means that nothing was
    seen; such a metric is left out of the log.
    """

    kind: str
    value: Tensor
    count: Tensor

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"metric kind {self.kind!r} is unknown; use one of {', '.join(KINDS)}.")

    def merged_with(self, other: "Metric") -> "Metric":
        """The metric of both parts together; ValueError if the kinds differ."""
        if self.kind != other.kind:
            raise ValueError(f"a {self.kind!r} metric cannot be merged with a {other.kind!r} metric.")
        count = self.count + other.count
        if self.kind == "mean":
            return Metric("mean", self.value + other.value, count)
        extreme = torch.minimum if self.kind == "min" else torch.maximum
        return Metric(self.kind, extreme(self.value, other.value), count)


def merge_metrics(parts: Iterable[Mapping[str, Metric]]) -> dict[str, Metric]:
    """Merge metrics of micro-batches, mini-batches or ranks; a key may be missing in some parts.

    Raises:
        ValueError: one name with two kinds.
    """
    merged: dict[str, Metric] = {}
    for part in parts:
        for name, metric in part.items():
            merged[name] = merged[name].merged_with(metric) if name in merged else metric
    return merged


def finalize_metrics(metrics: Mapping[str, Metric]) -> dict[str, float]:
    """Plain numbers for the log, with one transfer from the device; a metric that counted nothing is left out."""
    if not metrics:
        return {}
    numbers = [tensor.detach() for m in metrics.values() for tensor in (m.value, m.count)]
    if all(n.device.type == "cpu" for n in numbers):
        flat = [float(n) for n in numbers]
    else:
        device = next(n.device for n in numbers if n.device.type != "cpu")
        # float64 keeps a count of tokens exact; it is exact for float32 sums as well.
        flat = torch.stack([n.to(device, torch.float64) for n in numbers]).tolist()
    result: dict[str, float] = {}
    for (name, metric), value, count in zip(metrics.items(), flat[0::2], flat[1::2], strict=True):
        if count > 0:
            result[name] = value / count if metric.kind == "mean" else value
    square = result.pop(WEIGHT_SQUARE, None)
    if square is not None:
        result[ESS] = result[WEIGHT_MEAN] ** 2 / square if square > 0 else 0.0
    return result


def _extreme(values: Tensor, mask: Tensor, kind: str, count: Tensor | None) -> Metric:
    """Minimum or maximum of ``values`` where ``mask`` is True; masked rows leave no trace."""
    neutral = float("inf") if kind == "min" else float("-inf")
    kept = torch.where(mask, values.detach(), neutral)
    if kept.numel() == 0:
        extreme = kept.new_tensor(neutral)
    else:
        extreme = kept.amin() if kind == "min" else kept.amax()
    return Metric(kind, extreme, mask.sum() if count is None else count)


def masked_min(values: Tensor, mask: Tensor, count: Tensor | None = None) -> Metric:
    """Smallest valid value; ``count`` is ``mask.sum()`` where it is known already."""
    return _extreme(values, mask, "min", count)


def masked_max(values: Tensor, mask: Tensor, count: Tensor | None = None) -> Metric:
    """Largest valid value; ``count`` is ``mask.sum()`` where it is known already."""
    return _extreme(values, mask, "max", count)


def masked_mean(values: Tensor, mask: Tensor, count: Tensor | None = None) -> Metric:
    """Mean over the valid values, kept as sum and count; ``count`` is ``mask.sum()`` where it is known already."""
    kept = torch.where(mask, values.detach(), 0.0)
    return Metric("mean", kept.sum(), mask.sum() if count is None else count)


def log_prob_gap(log_probs_BT: Tensor, sampler_log_probs_BT: Tensor, mask_BT: Tensor) -> dict[str, Metric]:
    """How far (nats) the sampler's log-probabilities are from those of the same weights in training: mean and maximum."""
    gap_BT = (log_probs_BT - sampler_log_probs_BT).abs()
    return {
        "rollout/log_prob_gap_mean": masked_mean(gap_BT, mask_BT),
        "rollout/log_prob_gap_max": masked_max(gap_BT, mask_BT),
    }
