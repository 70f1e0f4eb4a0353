"""Several policy losses compared on the same tokens: what each would have done in an update that one of them made.

Every loss here is a function of the same log-probabilities, so this takes what the forward passes of the update gave
anyway. The words are those of ``token_weights.py``.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from gmpo_mm.algorithms.config import PolicyLossConfig
from gmpo_mm.algorithms.losses import saturated_exp
from gmpo_mm.algorithms.masked import zero_outside
from gmpo_mm.algorithms.policy_loss import loss_unit, sequence_advantages
from gmpo_mm.algorithms.registry import get_policy_loss
from gmpo_mm.algorithms.token_weights import on_tokens, relative_to, weighed_tokens, weights_and_at_one

PARTS = 10
"""Deciles of the ratio and of the entropy, tenths of a response."""
MOST_POINTS = 128
"""Tokens whose weights are logged one by one."""


@dataclass(frozen=True, eq=False)
class UpdateRows:
    """One optimizer step of an update: the rows of B that it took, and its units of both kinds."""

    rows: Sequence[int]
    sequences: int
    tokens: int
    calls: Sequence[Sequence[int]] = ()
    """The rows of each micro-batch, for losses that rank the tokens of one call; empty: one call with all rows."""

    @classmethod
    def counted(
        cls, rows: Sequence[int], counted_mask_BT: Tensor, calls: Sequence[Sequence[int]] = ()
    ) -> "UpdateRows":
        """With units as ``count_units`` counts them; the mask (on the CPU) is True on every token that counts."""
        return cls(rows, len(rows), int(counted_mask_BT[list(rows)].sum()), calls)

    def units(self, config: PolicyLossConfig) -> int:
        """What a loss of this configuration is divided by; 1 where there is no unit."""
        return max(self.sequences if loss_unit(config) == "seq" else self.tokens, 1)


@dataclass(frozen=True, eq=False)
class StepTokens:
    """What the forward passes of a step's update gave, without gradient; B responses, on one device.

    Rows of no update, and rows that were not passed through the model (False in ``mask_BT``), have no weight.
    """

    log_probs_BT: Tensor
    old_log_probs_BT: Tensor
    advantages_BT: Tensor
    """(B, T) or (B,)."""
    mask_BT: Tensor
    updates: Sequence[UpdateRows]
    entropy_BT: Tensor | None = None
    token_weights_BT: Tensor | None = None
    """Of a correction, see ``compute_policy_loss``."""


def short_name(loss_type: str) -> str:
    """A loss's name in metrics: a function of a user's file goes by the function's name."""
    return loss_type.rpartition(":")[2]


def compared_configs(config: PolicyLossConfig, names: Sequence[str]) -> dict[str, PolicyLossConfig]:
    """Short name -> configuration of the trained loss, which comes first, and of each loss of ``names``.

    All read the same keys. Raises ValueError for an unknown loss, or for two functions of one name.
    """
    configs: dict[str, PolicyLossConfig] = {}
    for loss_type in (config.loss_type, *names):
        get_policy_loss(loss_type)
        former = configs.setdefault(short_name(loss_type), dataclasses.replace(config, loss_type=loss_type))
        if former.loss_type != loss_type:
            raise ValueError(
                f"{former.loss_type!r} and {loss_type!r} have the same name in the metrics; rename the function of one"
            )
    return configs


def compare_losses(seen: StepTokens, configs: Mapping[str, PolicyLossConfig], trained: str) -> dict[str, Any]:
    """The metrics of a ``compare`` line but for those of whole gradients: numbers, and lists of numbers.

    ``configs`` are ``compared_configs``; ``trained`` is a name among them. Averages and shares are over the tokens of the
    updates with A != 0. A number that isn't defined is left out, or NaN in a list. One transfer from the device.
    """
    advantages_BT = on_tokens(seen.advantages_BT, seen.mask_BT)
    counted_BT = _in_updates(seen) & (advantages_BT != 0)
    names = list(configs)
    result: dict[str, Any] = {"compare/trained": trained, "compare/losses": names}
    d_n = (seen.log_probs_BT - seen.old_log_probs_BT)[counted_BT]
    if not len(d_n):
        return result
    weights = {name: step_weights(seen, config) for name, config in configs.items()}
    weights_Ln = torch.stack([weights[name][0][counted_BT] for name in names]).double()
    relative_Ln = torch.stack([weights[name][1][counted_BT] for name in names]).double()
    advantages_n = advantages_BT[counted_BT]
    ratio_n = saturated_exp(d_n)
    order_n = ratio_n.argsort(stable=True)

    own_n = weights_Ln[names.index(trained)]
    parts = {"ratio": _edges(ratio_n[order_n])}
    parts["mean"], parts["spread"] = _by_part(relative_Ln[:, order_n])
    clipped_Ln = weights_Ln == 0
    parts["numbers"] = _numbers(weights_Ln, clipped_Ln, own_n, advantages_n)
    parts["position"] = _share_by(_tenths(seen.mask_BT)[counted_BT], clipped_Ln)
    if seen.entropy_BT is not None:
        parts["entropy"] = _share_by(_deciles(seen.entropy_BT[counted_BT]), clipped_Ln)
    points = order_n[torch.linspace(0, len(order_n) - 1, min(len(order_n), MOST_POINTS)).round().long()]
    parts["points"] = torch.cat([torch.stack([ratio_n[points], advantages_n[points]]), relative_Ln[:, points]])
    return result | _written(_on_host(parts), names)


def step_weights(seen: StepTokens, config: PolicyLossConfig) -> tuple[Tensor, Tensor]:
    """``token_weights``, with each update's own units, and ``relative_weights`` of a whole step, both (B, T)."""
    loss = get_policy_loss(config.loss_type)
    advantages = seen.advantages_BT
    if loss.sequence_advantages and advantages.dim() == 2:
        advantages = sequence_advantages(zero_outside(advantages, seen.mask_BT), seen.mask_BT)
    log_probs_BT, old_BT = seen.log_probs_BT, seen.old_log_probs_BT

    def both(index: Any) -> tuple[Tensor, Tensor]:
        corrected_BT = None if seen.token_weights_BT is None else seen.token_weights_BT[index]
        return weights_and_at_one(
            log_probs_BT[index], old_BT[index], advantages[index], seen.mask_BT[index], config, corrected_BT
        )

    weights_BT, at_one_BT = both(slice(None)) if loss.by_row else _by_call(seen, both)
    relative_BT = relative_to(weights_BT, at_one_BT, weighed_tokens(seen.advantages_BT, seen.mask_BT))
    share_B = torch.zeros(len(log_probs_BT), dtype=weights_BT.dtype)
    for update in seen.updates:
        share_B[list(update.rows)] = 1.0 / update.units(config)
    return weights_BT * share_B.to(weights_BT.device)[:, None], relative_BT


def _by_call(seen: StepTokens, both: Callable[[Any], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The weights of a loss that looks at all rows of one call: call by call, as in training."""
    dtype = torch.promote_types(seen.log_probs_BT.dtype, torch.float32)
    weights_BT, at_one_BT = (torch.zeros_like(seen.log_probs_BT, dtype=dtype) for _ in range(2))
    for update in seen.updates:
        for rows in update.calls or (update.rows,):
            index = torch.tensor(list(rows), device=weights_BT.device)
            weights_BT[index], at_one_BT[index] = both(index)
    return weights_BT, at_one_BT


def _in_updates(seen: StepTokens) -> Tensor:
    rows = torch.zeros(len(seen.mask_BT), dtype=torch.bool)
    for update in seen.updates:
        rows[list(update.rows)] = True
    return seen.mask_BT.bool() & rows.to(seen.mask_BT.device)[:, None]


# ---- numbers, from the n tokens that count; L losses -----------------------------------------------------------------


def _numbers(weights_Ln: Tensor, clipped_Ln: Tensor, own_n: Tensor, advantages_n: Tensor) -> Tensor:
    """(4, L): effective sample size, share clipped, share of those with A > 0, cosine with the trained loss."""
    # dividing by the largest keeps the squares of weights near the end of a float within float64
    largest_L1 = weights_Ln.abs().amax(dim=1, keepdim=True)
    scaled_Ln = weights_Ln / torch.where(largest_L1 > 0, largest_L1, 1.0)
    squares_L = scaled_Ln.square().sum(1)
    n = weights_Ln.shape[1]
    ess_L = torch.where(squares_L > 0, scaled_Ln.abs().sum(1).square() / (n * squares_L), 0.0)
    clipped_L = clipped_Ln.sum(1).double()
    positive_L = (clipped_Ln & (advantages_n > 0)).sum(1) / clipped_L
    own_n = own_n / own_n.abs().amax()
    cosine_L = (scaled_Ln @ own_n) / (squares_L.sqrt() * own_n.square().sum().sqrt())
    return torch.stack([ess_L, clipped_L / n, positive_L, cosine_L.clamp(-1.0, 1.0)])


def _ends(n: int) -> list[int]:
    """Where each of the equal parts of n sorted tokens begins, and n."""
    return [part * n // PARTS for part in range(PARTS + 1)]


def _edges(sorted_n: Tensor) -> Tensor:
    """(11,): the smallest value of each decile, and the largest of all."""
    return sorted_n[[min(end, len(sorted_n) - 1) for end in _ends(len(sorted_n))]]


def _by_part(sorted_Ln: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each decile of sorted tokens, both (10, L); NaN values don't count."""
    ends = _ends(sorted_Ln.shape[1])
    means, spreads = [], []
    for start, end in pairwise(ends):
        part_Lk = sorted_Ln[:, start:end]
        mean_L = part_Lk.nanmean(dim=1)
        means.append(mean_L)
        spreads.append((part_Lk - mean_L[:, None]).square().nanmean(dim=1).sqrt())
    return torch.stack(means), torch.stack(spreads)


def _deciles(values_n: Tensor) -> Tensor:
    """The decile of each value by its rank, 0 to 9; equal values go in order."""
    ends = torch.tensor(_ends(len(values_n))[1:], device=values_n.device)
    deciles_n = torch.empty(len(values_n), dtype=torch.long, device=values_n.device)
    ranks_n = torch.arange(len(values_n), device=values_n.device)
    deciles_n[values_n.argsort(stable=True)] = torch.bucketize(ranks_n, ends, right=True)
    return deciles_n


def _tenths(mask_BT: Tensor) -> Tensor:
    """The tenth of its response that each token is in, 0 to 9, (B, T)."""
    before_BT = mask_BT.long().cumsum(1) - 1
    return before_BT.clamp(min=0) * PARTS // mask_BT.sum(1, keepdim=True).clamp(min=1)


def _share_by(part_n: Tensor, clipped_Ln: Tensor) -> Tensor:
    """(10, L): the share of each part's tokens that is clipped; NaN for a part without tokens."""
    sizes = torch.bincount(part_n, minlength=PARTS)
    counts = [torch.bincount(part_n[clipped_n], minlength=PARTS) for clipped_n in clipped_Ln]
    return torch.stack(counts, dim=1) / sizes[:, None].double()


def _on_host(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors on the CPU as float64, with one transfer."""
    flat = torch.cat([tensor.double().flatten() for tensor in parts.values()]).cpu()
    pieces = flat.split([tensor.numel() for tensor in parts.values()])
    return {name: piece.view(tensor.shape) for piece, (name, tensor) in zip(pieces, parts.items(), strict=True)}


def _written(parts: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Any]:
    result: dict[str, Any] = {"compare/ratio_edges": parts["ratio"].tolist()}
    lists = {"weight_by_ratio": "mean", "spread_by_ratio": "spread", "clipped_by_position": "position"}
    if "entropy" in parts:
        lists["clipped_by_entropy"] = "entropy"
    points = {"ratio": parts["points"][0].tolist(), "advantage": parts["points"][1].tolist()}
    for column, name in enumerate(names):
        for number, key in enumerate(("ess_frac", "clipped_frac", "clipped_positive_frac", "cosine")):
            value = float(parts["numbers"][number, column])
            if math.isfinite(value):
                result[f"compare/{name}/{key}"] = value
        for key, part in lists.items():
            result[f"compare/{name}/{key}"] = parts[part][:, column].tolist()
        points[name] = parts["points"][2 + column].tolist()
    return result | {"compare/points": points}
