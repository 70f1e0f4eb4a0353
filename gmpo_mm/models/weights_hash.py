"""One number for a model's weights: equal exactly where names, shapes, types and every bit are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch


def weights_sha256(named: Iterable[tuple[str, torch.Tensor]]) -> str:
    """Hexadecimal SHA-256 of tensors in the order in which they come; one at a time is copied to the CPU."""
    digest = hashlib.sha256()
    for name, tensor in named:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
