"""Weights rounded as an engine with another number format holds them (`worker.rollout.emulate.weights`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

LARGEST_FLOAT8 = 448.0
"""Of `torch.float8_e4m3fn`: 4 bits of exponent, 3 of mantissa, no infinity (arXiv 2209.05433)."""
LARGEST_INT8 = 127


def to_bfloat16(weight: torch.Tensor) -> torch.Tensor:
    """Rounded to bfloat16, in the type that it had."""
    return weight.to(torch.bfloat16).to(weight.dtype)


def to_float8_e4m3(weight: torch.Tensor) -> torch.Tensor:
    """Rounded to float8_e4m3 with one scale a matrix, its largest absolute value / 448; in the type that it had.

    The last two dimensions are the matrix: each expert of a layer has its own scale.
    """
    wide = weight.float()
    scale = _scale(wide.abs().amax(dim=(-2, -1), keepdim=True), LARGEST_FLOAT8)
    return ((wide / scale).to(torch.float8_e4m3fn).float() * scale).to(weight.dtype)


def to_int8(weight: torch.Tensor) -> torch.Tensor:
    """Rounded to -127..127 steps, symmetric, with one scale an output channel (a row), its largest absolute value / 127."""
    wide = weight.float()
    scale = _scale(wide.abs().amax(dim=-1, keepdim=True), LARGEST_INT8)
    return ((wide / scale).round().clamp(-LARGEST_INT8, LARGEST_INT8) * scale).to(weight.dtype)


ROUNDINGS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "bfloat16": to_bfloat16,
    "float8_e4m3": to_float8_e4m3,
    "int8": to_int8,
}


def rounded_parameters(model: torch.nn.Module, kind: str) -> Iterator[tuple[torch.nn.Parameter, Callable]]:
    """The parameters of a model that an engine would hold rounded, and how.

    bfloat16: all. float8_e4m3 and int8: the matrices of linear layers and of experts, as vLLM does; embeddings, the output
    layer, convolutions, norms and biases stay.
    """
    kept: set[int] = set()
    if kind != "bfloat16":
        output = model.get_output_embeddings()  # type: ignore[operator]
        kept = {id(p) for p in output.parameters()} if output is not None else set()
        kept |= {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    for parameter in model.parameters():
        if kind == "bfloat16" or (parameter.dim() in (2, 3) and id(parameter) not in kept):
            yield parameter, ROUNDINGS[kind]


def _scale(largest: torch.Tensor, steps: float) -> torch.Tensor:
    return (largest / steps).clamp_min(torch.finfo(torch.float32).tiny)  # of zeros: any scale gives zeros
