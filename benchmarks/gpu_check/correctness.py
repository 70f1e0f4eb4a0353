"""Are the functions that run on the device right? Attention, head and fused layers against float64 on the
CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.gpu_check.parts import Context
from gmpo_mm.models import fused
from gmpo_mm.models.fused import Fused
from gmpo_mm.models.fused_head import fused_token_log_probs
from gmpo_mm.models.two_part_attention import (
    FLASH,
    REFERENCE,
    AttentionKernel,
    masked_flex_attention,
    two_part_attention,
)
from gmpo_mm.models.varlen_layout import Segments, VarlenLayout, build_varlen_layout
from gmpo_mm.models.varlen_vision import _SegmentAttention

CPU = torch.device("cpu")
VALUES, GRADIENTS = 1e-2, 2e-2
"""Largest relative error ||x - reference|| / ||reference|| of 16-bit results: one rounding is 2e-3."""


def relative_error(found: torch.Tensor, reference: torch.Tensor) -> float:
    """||found - reference|| / ||reference|| in float64; NaN where anything is NaN."""
    reference = reference.detach().cpu().double()
    return float((found.detach().cpu().double() - reference).norm() / reference.norm())


def kernel_and_type(context: Context) -> tuple[AttentionKernel, torch.dtype]:
    """Flash attention in bfloat16 on a GPU; on a CPU the kernel that is written out, in float32."""
    return (FLASH, torch.bfloat16) if context.is_cuda else (REFERENCE, torch.float32)


def compare(context: Context, name: str, found: Sequence[torch.Tensor], reference: Sequence[torch.Tensor],
            names: Sequence[str], limits: Sequence[float]) -> None:  # fmt: skip
    """One line a tensor."""
    for what, a, b, limit in zip(names, found, reference, limits, strict=True):
        context.report.check(f"{name}: {what}", relative_error(a, b), limit)


def leaves(tensors: Sequence[torch.Tensor], device: torch.device, dtype: torch.dtype) -> list[torch.Tensor]:
    """Copies that collect gradients."""
    return [x.detach().to(device, dtype).requires_grad_() for x in tensors]


def values_and_gradients(
    function: Callable[..., torch.Tensor], inputs: Sequence[torch.Tensor], weight: torch.Tensor
) -> list[torch.Tensor]:
    """The function's value, and the gradients of the sum of value x weight."""
    out = function(*inputs)
    return [out, *torch.autograd.grad((out * weight.to(out)).sum(), inputs)]


# ---- attention ---------------------------------------------------------------------------------------------

# prompt lengths, prompt of each response, tokens of each response; the last token of a response is no input
LAYOUTS = {
    "ragged": ([300, 77, 500], [0, 0, 0, 1, 1, 2, 2], [250, 130, 2, 320, 65, 410, 129]),
    "single tokens, a group without any": ([64, 130, 33], [0, 0, 1, 1, 2, 2], [1, 200, 1, 1, 0, 90]),
    "no response tokens at all": ([40, 60], [0, 1], [1, 1]),
}
TINY_LAYOUTS = {
    "ragged": ([7, 11, 5], [0, 0, 0, 1, 1, 2], [5, 10, 2, 7, 3, 14]),
    "single tokens, a group without any": ([4, 6, 3], [0, 0, 1, 1, 2], [1, 6, 1, 1, 4]),
}
HEADS = ((16, 2, 128), (28, 4, 128), (8, 4, 64), (4, 4, 80))
TINY_HEADS = ((4, 2, 8), (7, 1, 8))


def build_layout(lengths: tuple[list[int], list[int], list[int]], device: torch.device) -> VarlenLayout:
    """A layout whose ids don't matter."""
    prompts, rows, responses = lengths
    ids, positions = [np.arange(n) for n in prompts], [np.arange(n)[None] for n in prompts]
    return build_varlen_layout(
        ids, positions, [np.arange(n) for n in responses], rows, device, two_part_attention
    )


def random_qkv(tokens: int, heads: int, key_heads: int, width: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """Random queries, keys and values that `dtype` holds exactly."""
    torch.manual_seed(tokens + heads)
    return [torch.randn(tokens, h, width).to(dtype).double() for h in (heads, key_heads, key_heads)]


def check_attention(context: Context) -> None:
    """Responses over one copy of the prompt and over themselves: values and gradients against float64."""
    kernel, dtype = kernel_and_type(context)
    attention = partial(two_part_attention, kernel=kernel)
    for name, lengths in (TINY_LAYOUTS if context.tiny else LAYOUTS).items():
        for heads, key_heads, width in TINY_HEADS if context.tiny else HEADS:
            what = f"{kernel.name}, {name}, {heads}/{key_heads} x {width}"
            _compare_attention(context, what, lengths, (heads, key_heads, width), dtype, attention)


def _compare_attention(
    context: Context,
    name: str,
    lengths: Any,
    heads: tuple[int, int, int],
    dtype: torch.dtype,
    attention: Callable[..., Any],
) -> None:
    on_cpu, on_device = build_layout(lengths, CPU), build_layout(lengths, context.device)
    inputs = random_qkv(on_cpu.tokens, *heads, dtype)
    weight = torch.randn(on_cpu.tokens, heads[0], heads[2], dtype=torch.float64)
    scale = heads[2] ** -0.5
    exact = values_and_gradients(
        lambda *x: two_part_attention(*x, on_cpu, scale, REFERENCE),
        leaves(inputs, CPU, torch.float64),
        weight,
    )
    found = values_and_gradients(
        lambda *x: attention(*x, on_device, scale), leaves(inputs, context.device, dtype), weight
    )
    limits = (VALUES, GRADIENTS, GRADIENTS, GRADIENTS) if dtype == torch.bfloat16 else (1e-3,) * 4
    compare(context, name, found, exact, ("out", "dq", "dk", "dv"), limits)


def check_flex(context: Context) -> None:
    """FlexAttention with one mask, which serves GPUs without flash attention, and float32."""
    lengths = (TINY_LAYOUTS if context.tiny else LAYOUTS)["ragged"]
    heads = TINY_HEADS[0] if context.tiny else HEADS[0]
    if context.is_cuda:
        for dtype in (torch.bfloat16, torch.float32):
            try:
                _compare_attention(context, f"flex, {dtype}", lengths, heads, dtype, masked_flex_attention)
            except Exception as error:  # one type must not hide the other
                context.report.failed(f"flex, {dtype}", error)
        return
    layout = build_layout(lengths, CPU)
    q, k, v = random_qkv(layout.tokens, *heads, torch.float32)
    exact = two_part_attention(q, k, v, layout, 0.3, REFERENCE)
    found = masked_flex_attention(q.float(), k.float(), v.float(), layout, 0.3)
    compare(context, "flex, torch.float32", [found], [exact], ["out"], [1e-3])
    context.report.skipped(
        "flex: gradients, bfloat16", "PyTorch has no backward pass of FlexAttention on a CPU"
    )


def check_vision_attention(context: Context) -> None:
    """One call a block over all windows, heads of 80."""
    kernel, dtype = kernel_and_type(context)
    windows = [16, 16, 4, 8] if context.tiny else [64] * 40 + [32, 64, 16, 48, 4] + [1024]
    heads, width = (2, 16) if context.tiny else (16, 80)
    borders = torch.tensor([0, *np.cumsum(windows)], dtype=torch.int32)
    inputs = random_qkv(int(borders[-1]), heads, heads, width, dtype)
    weight = torch.randn(inputs[0].shape, dtype=torch.float64)

    def attend(kernel: AttentionKernel, device: torch.device) -> Callable[..., torch.Tensor]:
        segments = Segments(borders.to(device), max(windows))
        return lambda *x: _SegmentAttention.apply(*x, segments, width**-0.5, kernel)

    exact = values_and_gradients(attend(REFERENCE, CPU), leaves(inputs, CPU, torch.float64), weight)
    found = values_and_gradients(
        attend(kernel, context.device), leaves(inputs, context.device, dtype), weight
    )
    limits = (VALUES, GRADIENTS, GRADIENTS, GRADIENTS)
    compare(context, f"{kernel.name}, windows of 4 to {max(windows)}, {heads} x {width}", found, exact,
            ("out", "dq", "dk", "dv"), limits)  # fmt: skip


# ---- head and fused functions ------------------------------------------------------------------------------


def check_head(context: Context) -> None:
    """Log-probabilities, entropies and their gradients in float32 logits, compiled and not, in several
    chunks."""
    tokens, width, vocabulary, chunk = (23, 16, 97, 8) if context.tiny else (1500, 1536, 32003, 640)
    torch.manual_seed(1)
    hidden, weight = torch.randn(tokens, width), torch.randn(vocabulary, width) * width**-0.5
    hidden, weight = hidden.bfloat16().double(), weight.bfloat16().double()
    targets = torch.randint(0, vocabulary - 3, (tokens,))
    forbidden = torch.tensor([vocabulary - 1, vocabulary - 2])
    factors = torch.randn(2, tokens, dtype=torch.float64)
    exact = _naive_head(leaves([hidden, weight], CPU, torch.float64), targets, forbidden, factors)
    former = Fused.compiles
    try:
        for compiles in (False, True) if context.is_cuda else (False,):
            Fused.compiles = compiles
            found = _head_on_device(context, hidden, weight, targets, forbidden, factors, chunk)
            name = "compiled" if compiles else "not compiled"
            names = ("log-probs", "entropies", "d hidden", "d weight")
            compare(context, f"head, {name}", found, exact, names, (1e-5, 1e-5, VALUES, VALUES))
    finally:
        Fused.compiles = former
    if not context.is_cuda:
        context.report.skipped("head, compiled", "nothing is compiled on a CPU")


def _naive_head(
    leaves_: Sequence[torch.Tensor], targets: torch.Tensor, forbidden: torch.Tensor, factors: torch.Tensor
) -> list[torch.Tensor]:
    hidden, weight = leaves_
    log_p = (hidden @ weight.T / 0.8).index_fill(1, forbidden, float("-inf")).log_softmax(-1)
    # a forbidden token counts nothing; the product 0 x -inf would give gradients that are NaN
    entropies = -(log_p.exp() * log_p.masked_fill(log_p.isinf(), 0.0)).sum(-1)
    chosen = log_p.gather(1, targets[:, None])[:, 0]
    grads = torch.autograd.grad((chosen * factors[0] + entropies * factors[1]).sum(), [hidden, weight])
    return [chosen, entropies, *grads]


def _head_on_device(
    context: Context, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor,
    forbidden: torch.Tensor, factors: torch.Tensor, chunk: int,
) -> list[torch.Tensor]:  # fmt: skip
    device = context.device
    head = torch.nn.Linear(*reversed(weight.shape), bias=False, device=device, dtype=torch.bfloat16)
    head.weight.data.copy_(weight)
    head.weight.grad_dtype = torch.float32
    (own_hidden,) = leaves([hidden], device, torch.bfloat16)
    log_probs, entropies = fused_token_log_probs(
        own_hidden, head, targets.to(device), 0.8, forbidden.to(device), chunk=chunk
    )
    one, two = factors.to(device, torch.float32)
    (log_probs * one + entropies * two).sum().backward()
    assert own_hidden.grad is not None and head.weight.grad is not None
    if head.weight.grad.dtype != torch.float32:
        raise TypeError(f"the output layer's gradient is {head.weight.grad.dtype}, float32 was asked for")
    return [log_probs, entropies, own_hidden.grad, head.weight.grad]


def _naive_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return weight * x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def _naive_rotary(q: torch.Tensor, k: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    def turn(x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, -1)
        return torch.cat(
            [first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()], -1
        )

    return torch.cat([turn(q), turn(k)], 1)


def check_fused(context: Context) -> None:
    """Norm, SwiGLU and rotary positions in bfloat16, at shapes that change from call to call."""
    sizes = [(5, 16), (9, 16)] if context.tiny else [(7, 2048), (513, 2048), (2049, 2048), (300, 1536)]
    for tokens, width in sizes:
        torch.manual_seed(tokens)
        x, up, grad = (torch.randn(1, tokens, width).bfloat16().double() for _ in range(3))
        gain = torch.randn(width).bfloat16().double()
        name = f"{tokens} x {width}"
        _compare_fused(
            context,
            f"norm, {name}",
            lambda x, w: fused.rms_norm(x, w, 1e-6),
            _naive_norm,
            [x, gain],
            grad,
            ("out", "dx", "dw"),
        )
        _compare_fused(
            context, f"SwiGLU, {name}", fused.swiglu, lambda g, u: torch.nn.functional.silu(g) * u, [x, up],
            grad, ("out", "d gate", "d up"),
        )  # fmt: skip
        head = 8 if context.tiny else 128
        q, k = (torch.randn(1, h, tokens, head).bfloat16().double() for h in (4, 2))
        angles = torch.randn(1, 1, tokens, head // 2).bfloat16().double()
        both = torch.cat([angles, angles], -1)
        cos, sin = (
            both.cos().to(context.device),
            both.sin().to(context.device),
        )  # exact, so that only the function errs
        _compare_fused(
            context, f"rotary, {name}",
            lambda q, k, cos=cos, sin=sin: torch.cat(fused.rotary(q, k, cos.to(torch.float32),
            sin.to(torch.float32)), 1), lambda q, k, angles=angles: _naive_rotary(q, k, angles),
            [q, k], torch.randn(1, 6, tokens, head).bfloat16().double(), ("out", "dq", "dk"),
        )  # fmt: skip


def _compare_fused(
    context: Context, name: str, ours: Callable[..., torch.Tensor], naive: Callable[..., torch.Tensor],
    inputs: Sequence[torch.Tensor], grad: torch.Tensor, names: Sequence[str],
) -> None:  # fmt: skip
    exact = values_and_gradients(naive, leaves(inputs, CPU, torch.float64), grad)
    found = values_and_gradients(ours, leaves(inputs, context.device, torch.bfloat16), grad)
    compare(context, name, found, exact, names, (VALUES,) * len(names))
