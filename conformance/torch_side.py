"""What an adapter of a project that uses torch needs: the cut of a batch, and the gradient summed over its
parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor


class NotOffered(Exception):
    """Raised by an adapter for a loss, an option or a cut that its project does not have; says which."""


@dataclass
class Rows:
    """Rows of a batch, (B, T): those of a micro-batch, or all. Only `log_probs` has a gradient; `mask` is
    bool; `sampler_log_probs` are the old ones where a vector has none."""

    log_probs: Tensor
    old_log_probs: Tensor
    ref_log_probs: Tensor
    sampler_log_probs: Tensor
    advantages: Tensor
    mask: Tensor
    numbers_B: Tensor
    """Which rows of the batch they are."""

    def at(self, rows: list[int]) -> Rows:
        """These rows."""
        return Rows(*(getattr(self, item.name)[rows] for item in fields(self)))

    @property
    def advantages_B(self) -> Tensor:
        """The one advantage of each response, 0 for an empty one."""
        return torch.where(self.mask.any(1), self.advantages[:, 0], 0.0)


Step = Callable[[Rows, Rows], "Tensor | tuple[Tensor, dict[str, float]]"]


def accumulate(
    batch: dict[str, Any], cut: list[list[int]], step: Step, dtype: torch.dtype = torch.float64
) -> dict[str, Any]:
    """Do what a trainer does: `step(rows of the micro-batch, all rows)` for each part of the cut, and
    backward.

    `step` returns the loss that its project calls `backward` on (a trainer's own scaling of micro-batches is
    part of it), and if it likes the shares of clipped tokens: `high`, `low`, `any` (both together), `dual`,
    `chosen`.
    """
    names = ("log_probs", "old_log_probs", "ref_log_probs", "sampler_log_probs", "advantages")
    batch = {"sampler_log_probs": batch["old_log_probs"]} | batch
    numbers = {name: torch.tensor(batch[name], dtype=dtype) for name in names}
    whole = Rows(
        **numbers, mask=torch.tensor(batch["mask"]).bool(), numbers_B=torch.arange(len(batch["mask"]))
    )
    whole.log_probs.requires_grad_()
    value, shares = 0.0, None
    for rows in cut:
        result = step(whole.at(rows), whole)
        loss, shares = result if isinstance(result, tuple) else (result, None)
        value += float(loss.detach())
        if loss.requires_grad:
            loss.backward()
    grad = whole.log_probs.grad
    assert grad is not None, "no part of the cut has a gradient"
    return {"loss": value, "grad": grad.tolist(), "clip_share": shares if len(cut) == 1 else None}


def rewards_by_token(batch: dict[str, Any]) -> Tensor:
    """Each response's reward at its length - 1, (B, T) in float32, as trainers keep it: an empty one's is in
    the last column."""
    mask = torch.tensor(batch["mask"])
    rewards = torch.zeros(mask.shape)
    rewards[torch.arange(len(mask)), mask.sum(1) - 1] = torch.tensor(batch["rewards"])
    return rewards
