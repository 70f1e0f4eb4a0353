"""The trained weights of an FSDP module under their own names, put together one tensor at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import get_model_state_dict
from torch.distributed.tensor import DTensor

from gmpo_mm.models.weights_hash import weights_sha256


def trained_weights(module: torch.nn.Module) -> dict[str, int]:
    """Name -> bytes of a module's trained parameters, before FSDP has wrapped it: it may flatten them in another order."""
    return {name: weight.nbytes for name, weight in module.named_parameters() if weight.requires_grad}


def fsdp_weights_sha256(module: torch.nn.Module, names: Iterable[str], rank: int) -> str:
    """`weights_sha256` of the parameters `names`, on rank 0; "" on the others, all of which have to call it.

    Equal to that of the same model without FSDP whose trained parameters have these names in this order.
    """
    shards = get_model_state_dict(module)
    whole = ((name, _whole(shards.pop(name))) for name in names)
    if rank == 0:
        return weights_sha256(whole)
    _run_through(whole)
    return ""


def _whole(tensor: Any) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _run_through(tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
    for _ in tensors:
        pass
