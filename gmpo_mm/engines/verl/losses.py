"""Our policy losses in verl: registered as one of its losses, scaled by the whole mini-batch, and measured exactly.

verl calls a registered loss once for each micro-batch and hands it the sizes of the whole mini-batch on all ranks. Its ranks'
gradients are averaged, so a micro-batch's sum is multiplied by `ranks / units of the mini-batch`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from verl.trainer.ppo.core_algos import register_policy_loss
from verl.utils.metric import AggregationType
from verl.utils.metric import Metric as VerlMetric
from verl.utils.tensordict_utils import assign_non_tensor
from verl.workers.config import PolicyLossConfig as VerlPolicyLossConfig
from verl.workers.utils.losses import ppo_loss
from verl.workers.utils.padding import no_padding_2_padding

from gmpo_mm.algorithms import (
    Metric,
    PolicyLossConfig,
    compute_kl,
    compute_policy_loss,
    get_policy_loss,
    loss_unit,
    masked_mean,
    sequence_advantages,
)
from gmpo_mm.algorithms.config import make_loss_config
from gmpo_mm.engines.verl.seen import seen_here
from gmpo_mm.engines.verl.translate import LOSS_NAME

MARK = "gmpo/"
"""Starts the names of our metrics on their way from the workers to the trainer, which takes them out."""
_measured: dict[str, Metric] = {}


@dataclass
class GMPOPolicyLossConfig(VerlPolicyLossConfig):
    """verl's section with `PolicyLossConfig` of ours in it; reading it in a worker registers the loss there."""

    options: dict[str, Any] = field(default_factory=dict)


def loss_config(policy_loss: Any) -> PolicyLossConfig:
    """Our configuration of the loss, from verl's `policy_loss` section."""
    return make_loss_config(dict(policy_loss.options))


@register_policy_loss(LOSS_NAME)  # type: ignore[arg-type]
def policy_loss(
    old_log_prob: torch.Tensor,
    log_prob: torch.Tensor,
    advantages: torch.Tensor,
    response_mask: torch.Tensor,
    loss_agg_mode: str = "",
    config: Any = None,
    rollout_is_weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """verl's contract. The micro-batch's share of the mini-batch's loss, whatever verl's `loss_agg_mode` says.

    `rollout_is_weights` are ours: `GMPOTrainer` makes them of `worker.rollout.correction`.
    """
    loss, mask_BT = loss_config(config.policy_loss), response_mask.bool()
    if get_policy_loss(loss.loss_type).sequence_advantages:
        advantages = sequence_advantages(advantages, mask_BT)
    computed = compute_policy_loss(log_prob, old_log_prob, advantages, mask_BT, loss, rollout_is_weights)
    whole = config.global_batch_info
    units = whole["global_batch_size"] if loss_unit(loss) == "seq" else whole["batch_num_tokens"]
    _measured.clear()
    _measured.update(computed.metrics)
    return computed.sum * (whole["dp_size"] / max(units, 1)), {}


def measured_loss(config: Any, model_output: Any, data: Any, dp_group: Any = None) -> tuple[torch.Tensor, dict[str, Any]]:
    """verl's `ppo_loss` around our policy loss, with our metrics beside its own: sums and counts apart, to be divided once."""
    if data["batch_num_tokens"] == 0:  # every response was left out: verl's own KL and entropy terms would be 0 / 0
        assign_non_tensor(data, batch_num_tokens=1)
    total, metrics = ppo_loss(config, model_output, data, dp_group)
    ours = dict(_measured)
    log_prob_BT = no_padding_2_padding(model_output["log_probs"], data).detach()
    if "ref_log_prob" in data:
        padded = data.select("ref_log_prob", "response_mask").to_padded_tensor()
        mask_BT = padded["response_mask"].bool()
        ours["actor/kl_ref"] = masked_mean(compute_kl(log_prob_BT, padded["ref_log_prob"], "low_var_kl", mask_BT), mask_BT)
    return total, metrics | _travelling(ours, data["dp_size"]) | seen_here(data, log_prob_BT)


def _travelling(metrics: dict[str, Metric], ranks: int) -> dict[str, VerlMetric]:
    """verl adds micro-batches and averages ranks for SUM, and compares both for MIN and MAX.

    Reads the device once.
    """
    if not metrics:
        return {}
    tensors = [tensor for metric in metrics.values() for tensor in (metric.value, metric.count)]
    # float64 holds float32 sums and counts of tokens exactly
    numbers = iter(torch.stack([tensor.detach().double() for tensor in tensors]).tolist())
    found: dict[str, VerlMetric] = {}
    for name, metric in metrics.items():
        value, count = next(numbers), next(numbers)
        if metric.kind == "mean":
            found[f"{MARK}value/{name}"] = VerlMetric(AggregationType.SUM, value * ranks)
            found[f"{MARK}count/{name}"] = VerlMetric(AggregationType.SUM, count * ranks)
        else:
            found[f"{MARK}{metric.kind}/{name}"] = VerlMetric(AggregationType(metric.kind), value)
    return found


def take_metrics(metrics: dict[str, Any]) -> list[dict[str, Metric]]:
    """Remove our metrics from what `update_actor` returned; one dictionary for each mini-batch."""
    columns = {name.removeprefix(MARK): metrics.pop(name) for name in list(metrics) if name.startswith(MARK)}
    updates = len(next(iter(columns.values()), []))
    return [_arrived({name: float(column[i]) for name, column in columns.items()}) for i in range(updates)]


def _arrived(numbers: dict[str, float]) -> dict[str, Metric]:
    found: dict[str, Metric] = {}
    for name, number in numbers.items():
        part, _, short = name.partition("/")
        value = torch.tensor(number, dtype=torch.float64)
        if part == "value":
            found[short] = Metric("mean", value, torch.tensor(numbers[f"count/{short}"], dtype=torch.float64))
        elif part in ("min", "max") and math.isfinite(number):  # infinite: no token was valid
            found[short] = Metric(part, value, torch.ones(()))
    return found
