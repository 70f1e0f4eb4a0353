"""The vision tower on a GPU: one attention call a block over all windows, and nothing read back.

transformers calls attention once a window (32 blocks x 56 windows for a picture of 1,024 tokens) unless an
implementation with "flash" in its name takes the borders of the windows instead. What it works out from a
picture's grid (positions, order and borders of the windows) is worked out here once, on the host, and handed
over.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily

from gmpo_mm.models.two_part_attention import FLASH, AttentionKernel
from gmpo_mm.models.varlen_layout import Segments

Grids = tuple[tuple[int, int, int], ...]
"""Time, height and width in patches of each picture."""


class _SegmentAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        segments: Segments,
        scale: float,
        kernel: AttentionKernel,
    ) -> torch.Tensor:
        out, lse = kernel.forward(q, k, v, segments, segments, False, scale)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.options = (segments, scale, kernel)
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple:  # type: ignore[override]
        q, k, v, out, lse = ctx.saved_tensors
        segments, scale, kernel = ctx.options
        grads = kernel.backward(grad.contiguous(), q, k, v, out, lse, segments, segments, False, scale)
        return *grads, None, None, None


def segment_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int = 0,
    kernel: AttentionKernel = FLASH,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function that transformers calls: (1, H, N, D) in, (1, N, H, D) out, each window within
    itself."""
    assert cu_seq_lens_q is not None and attention_mask is None
    rows = (x[0].transpose(0, 1) for x in (query, key, value))
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    segments = Segments(cu_seq_lens_q.int(), int(max_length_q))
    return _SegmentAttention.apply(*rows, segments, scale, kernel)[None], None


def use_varlen_vision(tower: Any, kernel: AttentionKernel = FLASH) -> None:
    """Switch a vision tower to one attention call a block, and its patch embedding to a matrix product."""
    from transformers import AttentionInterface

    name = f"gmpo_flash_vision_{kernel.name}"
    AttentionInterface.register(name, partial(segment_attention, kernel=kernel))
    tower.config._attn_implementation = name
    tower.patch_embed.forward = _PatchEmbedding(tower.patch_embed)


def add_deepstack_at_places(decoder: Any) -> None:
    """Let a decoder with DeepStack add the pictures' features at places (M,) instead of where a mask is true.

    Finding the true places of a mask makes the host wait for the device.
    """
    if hasattr(decoder, "_deepstack_process"):
        decoder._deepstack_process = _add_at_places


def _add_at_places(
    hidden_1NC: torch.Tensor, place_M: torch.Tensor, features_MC: torch.Tensor
) -> torch.Tensor:
    return hidden_1NC.index_add(1, place_M, features_MC.to(hidden_1NC.dtype)[None])


class _PatchEmbedding:
    """Patches (N, values) to (N, C): the convolution's kernel covers exactly one patch, so it is one matrix
    product.

    cuDNN has no good 16-bit kernel for a 3-D convolution of that form.
    """

    def __init__(self, module: Any) -> None:
        self.module = module

    def __call__(self, hidden_states: torch.Tensor) -> torch.Tensor:
        weight = self.module.proj.weight
        return torch.nn.functional.linear(
            hidden_states.to(weight.dtype), weight.flatten(1), self.module.proj.bias
        )


def supports(tower: Any) -> bool:
    """Whether this transformers takes what it would otherwise work out on the device (5.17 does, 4 does
    not)."""
    try:
        from transformers.vision_utils import get_vision_position_ids  # noqa: F401
    except ImportError:
        return False
    return hasattr(tower, "patch_embed")


def vision_inputs(tower: Any, grids: Grids) -> dict[str, Any]:
    """Keyword arguments of a vision tower's forward pass for pictures of these grids; tensors are on the
    host."""
    with unset_fake_temporarily():  # host work, also where the model has no contents
        return _vision_inputs(
            grids,
            int(tower.spatial_merge_size),
            (int(tower.window_size), int(tower.patch_size)) if hasattr(tower, "window_size") else None,
            (int(tower.num_grid_per_side), tower.interpolation_mode, tower.interpolation_align_corners)
            if hasattr(tower, "num_grid_per_side")
            else None,
        )


@lru_cache(maxsize=256)
def _vision_inputs(
    grids: Grids, merge: int, window_and_patch: tuple[int, int] | None, table: tuple[int, str, bool] | None
) -> dict[str, Any]:
    from transformers import vision_utils

    grid_thw = torch.tensor(grids)
    borders = vision_utils.get_vision_cu_seqlens(grid_thw)
    inputs: dict[str, Any] = {
        "position_ids": vision_utils.get_vision_position_ids(grid_thw, merge),
        "cu_seqlens": borders,
        "max_seqlen": max(height * width for _, height, width in grids),
    }
    if window_and_patch is not None:
        order, window_borders = vision_utils.get_vision_window_index(grid_thw, merge, *window_and_patch)
        inputs |= {
            "window_index": order,
            "cu_window_seqlens": window_borders,
            "max_window_seqlen": int((window_borders[1:] - window_borders[:-1]).max()),
        }
    if table is not None:  # learned positions, interpolated to each picture's grid
        side, mode, align_corners = table
        index, weights = vision_utils.get_vision_interpolation_indices_and_weights(
            grid_thw, side, mode=mode, align_corners=align_corners, spatial_merge_size=merge
        )
        inputs |= {"interp_indices": index, "interp_weights": weights}
    return inputs
