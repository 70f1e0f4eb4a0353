"""Sums and means under a mask, in which a masked entry has no influence, not even as NaN."""

import torch
from torch import Tensor

from gmpo_mm.algorithms.config import AVERAGE_MODES


def zero_outside(values: Tensor, mask: Tensor, fill: float = 0.0) -> Tensor:
    """``values`` with ``fill`` wherever ``mask`` is False; unlike a product this also removes NaN and infinity."""
    return torch.where(mask.bool(), values, fill)


def masked_mean_B(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean over the valid tokens of each sequence, (B,); 0 for a sequence without any."""
    n_B = mask_BT.sum(dim=-1).clamp(min=1)
    return zero_outside(values_BT, mask_BT).sum(dim=-1) / n_B


def aggregate(values_BT: Tensor, mask_BT: Tensor, mode: str) -> Tensor:
    """SUM over units: ``token`` sums the valid tokens, ``seq`` sums the sequences' means over their valid tokens.

    The caller divides by the units of the whole mini-batch (``count_units``), so that cutting the batch into
    micro-batches cannot change the result. Fully masked sequences add 0. 0-dim result.

    Raises:
        ValueError: unknown mode.
    """
    if mode == "token":
        return zero_outside(values_BT, mask_BT).sum()
    if mode == "seq":
        return masked_mean_B(values_BT, mask_BT).sum()
    raise ValueError(f"aggregation mode {mode!r} is unknown; use {' or '.join(AVERAGE_MODES)}.")


def place_on_last_token(scores_B: Tensor, mask_BT: Tensor) -> Tensor:
    """(B, T) with each score on the last valid token of its row; a row without valid tokens stays 0."""
    left_BT = mask_BT.flip(-1).cumsum(dim=-1).flip(-1)  # valid tokens from here on
    last_BT = mask_BT & (left_BT == 1)
    return zero_outside(scores_B[:, None].expand(mask_BT.shape), last_BT)
