"""Entropy of the next-token distribution from logits that another package holds."""

from __future__ import annotations

import torch

CHUNK_ELEMENTS = {"cpu": 1 << 24, "cuda": 1 << 28}
"""Probabilities held at once, without a gradient: 64 MiB in float32, and on a GPU 1 GiB, or the launches take longer
than the work (1,766 tokens of a vocabulary of 151,936)."""


def token_entropy(
    logits: torch.Tensor, with_gradient: bool = False, chunk_elements: int | None = None
) -> torch.Tensor:
    """Entropy in nats, shape (...) for logits (..., V), in float32 at least; chunk by chunk.

    Without a gradient no more than a chunk is held beside the logits. The logits are not changed; a later function may
    overwrite them in its backward pass, so with a gradient each chunk works on a copy.
    """
    shape, vocabulary = logits.shape[:-1], logits.shape[-1]
    rows_NV = logits.reshape(-1, vocabulary)
    if chunk_elements is None:
        chunk_elements = CHUNK_ELEMENTS["cuda" if logits.is_cuda else "cpu"]
    size = max(1, chunk_elements // vocabulary)
    with torch.set_grad_enabled(with_gradient and torch.is_grad_enabled()):
        parts = [_entropy(rows_NV[start : start + size], with_gradient) for start in range(0, rows_NV.shape[0], size)]
        entropy_N = torch.cat(parts) if parts else rows_NV.new_zeros(0, dtype=torch.float32)
    return entropy_N.view(shape)


def _entropy(logits_NV: torch.Tensor, copy: bool) -> torch.Tensor:
    dtype = torch.promote_types(logits_NV.dtype, torch.float32)
    log_p_NV = logits_NV.to(dtype, copy=copy).log_softmax(-1)
    return -(log_p_NV.exp() * log_p_NV.clamp_min(torch.finfo(dtype).min)).sum(-1)
