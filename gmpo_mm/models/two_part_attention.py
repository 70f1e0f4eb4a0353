"""Attention on a GPU: responses attend to ONE copy of their prompt's keys and values, and to themselves.

For a response token the softmax runs over two sets of keys, the prompt's (all of them) and its own response's
(causal). Attention over each set gives an output `o` and a log-sum-exp `l` of its scores; the result over
both is

    l = logaddexp(l_prompt, l_own),    o = exp(l_prompt - l) * o_prompt + exp(l_own - l) * o_own

The backward kernel of flash attention computes a block's probabilities as exp(score - l) and needs `o` only
for the row sums of o * do. Given the merged `o` and `l`, the same kernel therefore gives each part's exact
gradient. No key is repeated for a group's responses, nothing is padded, and there is no mask in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from gmpo_mm.models.fused import Fused
from gmpo_mm.models.varlen_layout import Segments, VarlenLayout


@dataclass(frozen=True)
class AttentionKernel:
    """Attention of segments of a flat row to segments of another, with its backward pass.

    `forward(q, k, v, q_segments, k_segments, causal, scale)` gives out (N, H, D) and lse (H, N), at least float32;
    `backward(grad, q, k, v, out, lse, q_segments, k_segments, causal, scale)` gives dq, dk and dv. No segment of
    keys is empty.
    """

    name: str
    forward: Callable[..., tuple[torch.Tensor, torch.Tensor]]
    backward: Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


# ---- the two kernels ---------------------------------------------------------------------------------------


def _flash_forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    q_segments: Segments,
    k_segments: Segments,
    causal: bool,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    out, lse = torch.ops.aten._flash_attention_forward(
        q, k, v, q_segments.borders, k_segments.borders, q_segments.longest, k_segments.longest,
        0.0, causal, False, scale=scale,
    )[:2]  # fmt: skip
    return out, lse


def _flash_backward(
    grad: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor,
    lse: torch.Tensor, q_segments: Segments, k_segments: Segments, causal: bool, scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    no_dropout = torch.zeros(2, dtype=torch.uint64, device=q.device)
    unused = torch.empty(0, device=q.device)
    return torch.ops.aten._flash_attention_backward(
        grad, q, k, v, out, lse, q_segments.borders, k_segments.borders, q_segments.longest, k_segments.longest,
        0.0, causal, no_dropout, unused, scale=scale,
    )  # fmt: skip


FLASH = AttentionKernel("flash", _flash_forward, _flash_backward)
"""PyTorch's own flash attention (NVIDIA, compute capability 8.0 or later, 16-bit types)."""


def _reference_parts(
    q: torch.Tensor, k: torch.Tensor, q_segments: Segments, k_segments: Segments, causal: bool, scale: float
) -> Iterator[tuple[slice, slice, torch.Tensor]]:
    """Per segment: the slices of queries and keys, and the scores (H, Q, L)."""
    q_borders, k_borders = q_segments.borders.tolist(), k_segments.borders.tolist()
    for q0, q1, k0, k1 in zip(q_borders, q_borders[1:], k_borders, k_borders[1:], strict=False):
        if q1 == q0:
            continue
        keys = k[k0:k1].repeat_interleave(q.shape[1] // k.shape[1], 1)
        scores = torch.einsum("qhd,khd->hqk", q[q0:q1], keys) * scale
        if causal:
            hidden = torch.ones(q1 - q0, k1 - k0, dtype=torch.bool, device=q.device).triu(
                1 + (k1 - k0) - (q1 - q0)
            )
            scores = scores.masked_fill(hidden, float("-inf"))
        yield slice(q0, q1), slice(k0, k1), scores


def _reference_forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    q_segments: Segments,
    k_segments: Segments,
    causal: bool,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    out, lse = torch.zeros_like(q), q.new_zeros(q.shape[1], q.shape[0])
    for rows, keys, scores in _reference_parts(q, k, q_segments, k_segments, causal, scale):
        lse[:, rows] = scores.logsumexp(-1)
        values = v[keys].repeat_interleave(q.shape[1] // v.shape[1], 1)
        out[rows] = torch.einsum("hqk,khd->qhd", (scores - lse[:, rows, None]).exp(), values)
    return out, lse


def _reference_backward(
    grad: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor,
    lse: torch.Tensor, q_segments: Segments, k_segments: Segments, causal: bool, scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    shared = q.shape[1] // k.shape[1]
    sums = (grad * out).sum(-1).T[..., None]  # (H, N, 1)
    for rows, keys, scores in _reference_parts(q, k, q_segments, k_segments, causal, scale):
        p = (scores - lse[:, rows, None]).exp()
        dp = torch.einsum("qhd,khd->hqk", grad[rows], v[keys].repeat_interleave(shared, 1))
        ds = p * (dp - sums[:, rows]) * scale
        dq[rows] = torch.einsum("hqk,khd->qhd", ds, k[keys].repeat_interleave(shared, 1))
        per_head = torch.einsum("hqk,qhd->khd", ds, q[rows]), torch.einsum("hqk,qhd->khd", p, grad[rows])
        dk[keys], dv[keys] = (x.unflatten(1, (-1, shared)).sum(2) for x in per_head)
    return dq, dk, dv


REFERENCE = AttentionKernel("reference", _reference_forward, _reference_backward)
"""The same mathematics written out, segment by segment, in any type and on any device: what FLASH is checked
against."""


# ---- both parts --------------------------------------------------------------------------------------------


class _TwoPartAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        layout: VarlenLayout,
        scale: float,
        kernel: AttentionKernel,
    ) -> torch.Tensor:
        out, lse = kernel.forward(q, k, v, layout.own, layout.own, True, scale)
        first = layout.prompt_tokens
        if layout.over_prompt.longest:
            over_prompt, prompt_lse = kernel.forward(
                q[first:], k[:first], v[:first], layout.over_prompt, layout.prompts, False, scale
            )
            merge_parts(out[first:], lse[:, first:].T, over_prompt, prompt_lse.T)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.options = (layout, scale, kernel)
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple:  # type: ignore[override]
        q, k, v, out, lse = ctx.saved_tensors
        layout, scale, kernel = ctx.options
        grad = grad.contiguous()
        dq, dk, dv = kernel.backward(grad, q, k, v, out, lse, layout.own, layout.own, True, scale)
        first = layout.prompt_tokens
        if layout.over_prompt.longest:
            more = kernel.backward(
                grad[first:], q[first:], k[:first], v[:first], out[first:], lse[:, first:].contiguous(),
                layout.over_prompt, layout.prompts, False, scale,
            )  # fmt: skip
            for total, part in zip((dq[first:], dk[:first], dv[:first]), more, strict=True):
                total += part
        return dq, dk, dv, None, None, None


@Fused
def merge_parts(
    out_MHD: torch.Tensor, lse_MH: torch.Tensor, other_MHD: torch.Tensor, other_lse_MH: torch.Tensor
) -> None:
    """Merge attention over a second set of keys into `out_MHD` and `lse_MH`, in place."""
    merged_MH = torch.logaddexp(lse_MH, other_lse_MH)
    own, other = ((x - merged_MH).exp()[..., None] for x in (lse_MH, other_lse_MH))
    out_MHD.copy_(own * out_MHD + other * other_MHD)  # the weights are float32: the sum is rounded once
    lse_MH.copy_(merged_MH)


def two_part_attention(
    q_NHD: torch.Tensor,
    k_NKD: torch.Tensor,
    v_NKD: torch.Tensor,
    layout: VarlenLayout,
    scale: float,
    kernel: AttentionKernel = FLASH,
) -> torch.Tensor:
    """Attention (N, H, D) of a flat row; H query heads share K key heads, H a multiple of K."""
    return _TwoPartAttention.apply(q_NHD, k_NKD, v_NKD, layout, scale, kernel)


# ---- without flash attention -------------------------------------------------------------------------------


def masked_flex_attention(
    q_NHD: torch.Tensor, k_NKD: torch.Tensor, v_NKD: torch.Tensor, layout: VarlenLayout, scale: float
) -> torch.Tensor:
    """The same through FlexAttention and one mask: for GPUs without flash attention, and for float32.

    On the CPU, where only tests call it, PyTorch computes all N x N scores.
    """
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    segment_N, group_N = layout.segment_N, layout.group_N

    def attends(
        batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor
    ) -> torch.Tensor:
        same = (segment_N[key] == 0) | (segment_N[key] == segment_N[query])
        return (key <= query) & (group_N[key] == group_N[query]) & same

    if layout.block_mask is None:
        size = layout.tokens
        layout.block_mask = create_block_mask(attends, None, None, size, size, device=q_NHD.device)
    run: Any = _compiled_flex() if q_NHD.is_cuda else flex_attention
    q, k, v = (x.transpose(0, 1)[None] for x in (q_NHD, k_NKD, v_NKD))
    out = run(q, k, v, block_mask=layout.block_mask, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
    return out[0].transpose(0, 1)


@lru_cache(maxsize=1)
def _compiled_flex() -> Callable[..., torch.Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


def choose_attention(device: torch.device, dtype: torch.dtype) -> Callable[..., torch.Tensor] | None:
    """The attention of the GPU path for a device and compute type; None on the CPU, which has a path of its
    own."""
    if device.type != "cuda":
        return None
    if dtype in (torch.bfloat16, torch.float16) and torch.cuda.get_device_capability(device) >= (8, 0):
        return two_part_attention
    return masked_flex_attention
