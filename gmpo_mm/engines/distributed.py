"""What several processes need to make the gradient of one: units and metrics over all ranks. Works without a process group.

Engines that average gradients over their ranks (FSDP, DDP) call `backward` on `scale * sum of the micro-batch's losses`,
with `scale = world size / units of the whole mini-batch on all ranks`. Micro-batches then add up to the gradient of the
full batch, however it was cut and dealt out.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist

from gmpo_mm.algorithms import Metric, PolicyLossConfig, count_units, loss_unit

SEQ_MEANS = ("exact", "easyr1")


def world_size() -> int:
    """Processes in the default group; 1 without one."""
    return dist.get_world_size() if dist.is_initialized() else 1


def sum_over_ranks(value: torch.Tensor) -> torch.Tensor:
    """The sum over all ranks, on every rank; `value` stays as it is."""
    total = value.detach().clone()
    if dist.is_initialized():
        dist.all_reduce(total, op=dist.ReduceOp.SUM)
    return total


class LossScale:
    """The factor of each micro-batch's summed loss in one mini-batch; made once for it, on all ranks together."""

    def __init__(self, mini_batch_mask_BT: torch.Tensor, loss: PolicyLossConfig, seq_mean: str = "exact") -> None:
        """`seq_mean`: `exact`, or `easyr1` for EasyR1's own weights, by tokens even where the loss is a mean over sequences.

        Raises ValueError for another word.
        """
        if seq_mean not in SEQ_MEANS:
            raise ValueError(f"seq_mean: {seq_mean!r} is unknown; use {' or '.join(SEQ_MEANS)}.")
        tokens = mini_batch_mask_BT.bool().sum()
        units = torch.as_tensor(count_units(mini_batch_mask_BT, loss), device=tokens.device)
        counted = sum_over_ranks(torch.stack([units, tokens]).to(torch.float64))
        self._units, self._tokens = counted.clamp(min=1).unbind()
        self._by_tokens = seq_mean == "easyr1" and loss_unit(loss) == "seq"

    def of(self, micro_batch_mask_BT: torch.Tensor) -> torch.Tensor:
        """0-dim factor for the sum of this micro-batch's losses."""
        if not self._by_tokens:
            return world_size() / self._units
        sequences = micro_batch_mask_BT.shape[0]
        return world_size() * micro_batch_mask_BT.bool().sum() / (self._tokens * sequences)


def reduce_over_ranks(metrics: Mapping[str, Metric]) -> dict[str, Metric]:
    """The same metrics with the parts of all ranks merged: sums and counts added, extremes compared.

    Every rank has to call it with the same names. Three collectives, whatever the number of metrics.
    """
    if not metrics or not dist.is_initialized():
        return dict(metrics)
    names = sorted(metrics)
    device = metrics[names[0]].value.device
    values, counts = (
        torch.stack([getattr(metrics[name], part).to(device, torch.float64) for name in names]) for part in ("value", "count")
    )
    dist.all_reduce(counts, op=dist.ReduceOp.SUM)
    for kind, op in (("mean", dist.ReduceOp.SUM), ("min", dist.ReduceOp.MIN), ("max", dist.ReduceOp.MAX)):
        places = [i for i, name in enumerate(names) if metrics[name].kind == kind]
        if places:
            part = values[places]
            dist.all_reduce(part, op=op)
            values[places] = part
    return {name: Metric(metrics[name].kind, values[i], counts[i]) for i, name in enumerate(names)}
