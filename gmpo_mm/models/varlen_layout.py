"""The flat row of the GPU path: all prompts first, then all responses, described by their lengths.

Everything is counted on the host in NumPy and sent to the device in one copy, so that a micro-batch never
waits for it. The padded layout of `packed_attention` holds the same information for the CPU and for the
sampler.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily


@dataclass(frozen=True)
class Segments:
    """Consecutive sequences of a flat row: their borders (int32, one more than there are) and the longest
    one's length."""

    borders: torch.Tensor
    longest: int


@dataclass
class VarlenLayout:
    """Where R prompts and B responses stand in a flat row of N tokens.

    Tokens `[:prompt_tokens]` are the prompts, the rest are the responses in order. `own` are all sequences
    (prompts, then responses), each of which attends to itself causally. `over_prompt` and `prompts` are R
    segments each: the response tokens of a group, counted from the first response token, and the prompt that
    all of them attend to. `segment_N` and `group_N` name each token's sequence (0 for a prompt, else 1 +
    response) and group, for kernels that take a mask.

    `attention(q_NHD, k_NKD, v_NKD, layout, scale)` computes the attention of the row (`two_part_attention`),
    `block_mask` is what FlexAttention keeps between layers, and `used` counts the calls. `ids_N`,
    `positions_AN` (A axes of rotary positions), `scored_K` (the token whose hidden state predicts target k),
    `targets_K` and `place_K` (where target k stands in the flattened (B, T) result) are what a forward pass
    reads.
    """

    prompt_tokens: int
    own: Segments
    over_prompt: Segments
    prompts: Segments
    segment_N: torch.Tensor
    group_N: torch.Tensor
    ids_N: torch.Tensor
    positions_AN: torch.Tensor
    scored_K: torch.Tensor
    targets_K: torch.Tensor
    place_K: torch.Tensor
    lengths_B: torch.Tensor
    width: int
    prompt_starts: list[int]
    response_starts: list[int]
    attention: Callable[..., torch.Tensor]
    block_mask: Any = None
    used: int = 0

    @property
    def tokens(self) -> int:
        """Number of tokens N."""
        return self.ids_N.shape[0]

    @property
    def longest(self) -> int:
        """The longest prompt with its longest response, at most."""
        return self.prompts.longest + self.own.longest


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    """A host tensor's numbers, also while a plan runs the model on tensors without contents
    (FakeTensorMode)."""
    with unset_fake_temporarily():
        return tensor.numpy()


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Send a host tensor to a device without making the host wait; the tensor itself where it is there
    already."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def build_varlen_layout(
    prompt_ids: Sequence[np.ndarray],
    prompt_positions: Sequence[np.ndarray],
    responses: Sequence[np.ndarray],
    rows: Sequence[int],
    device: torch.device,
    attention: Callable[..., torch.Tensor],
) -> VarlenLayout:
    """Lay out R prompts and B responses; `rows[b]` is the prompt of response b and must not decrease.

    `prompt_positions` are (A, P). The last token of a response is predicted but predicts nothing, so it is
    not an input.
    """
    assert list(rows) == sorted(rows) and all(len(ids) for ids in prompt_ids)
    prompt_lengths = np.array([len(ids) for ids in prompt_ids])
    lengths = np.array([len(r) for r in responses], dtype=np.int64)
    inputs = np.maximum(lengths - 1, 0)
    row_B = np.array(rows, dtype=np.int64)
    prompt_starts = np.concatenate([[0], np.cumsum(prompt_lengths)])
    prompt_tokens = int(prompt_starts[-1])
    response_starts = prompt_tokens + np.concatenate([[0], np.cumsum(inputs)])
    group_tokens = np.bincount(row_B, weights=inputs, minlength=len(prompt_ids)).astype(np.int64)
    after = [int(positions.max()) + 1 for positions in prompt_positions]
    axes = prompt_positions[0].shape[0]
    positions = [
        np.broadcast_to(np.arange(after[row], after[row] + n), (axes, n))
        for row, n in zip(rows, inputs, strict=True)
    ]
    own = np.concatenate([prompt_starts, response_starts[1:][inputs > 0]])
    width = int(lengths.max(initial=0))
    arrays = {
        "own": own,
        "over_prompt": np.concatenate([[0], np.cumsum(group_tokens)]),
        "prompts": prompt_starts,
        "segment": np.concatenate([np.zeros(prompt_tokens), np.repeat(1 + np.arange(len(lengths)), inputs)]),
        "group": np.concatenate(
            [np.repeat(np.arange(len(prompt_ids)), prompt_lengths), np.repeat(row_B, inputs)]
        ),
        "ids": np.concatenate([*prompt_ids, *(r[:-1] for r in responses)]),
        "positions": np.concatenate([*prompt_positions, *positions], axis=1).reshape(-1),
        "scored": _scored(prompt_starts, response_starts, row_B, lengths),
        "targets": np.concatenate([*responses, np.zeros(0, np.int64)]),
        "place": np.concatenate([b * width + np.arange(n) for b, n in enumerate(lengths)] or [np.zeros(0)]),
        "lengths": lengths,
    }
    sent = _send(arrays, device)
    return VarlenLayout(
        prompt_tokens,
        Segments(sent["own"].int(), int(np.diff(own).max())),
        Segments(sent["over_prompt"].int(), int(group_tokens.max(initial=0))),
        Segments(sent["prompts"].int(), int(prompt_lengths.max())),
        sent["segment"], sent["group"], sent["ids"], sent["positions"].view(axes, -1),
        sent["scored"], sent["targets"], sent["place"], sent["lengths"], width,
        prompt_starts[:-1].tolist(), response_starts[:-1].tolist(), attention,
    )  # fmt: skip


def _scored(
    prompt_starts: np.ndarray, response_starts: np.ndarray, row_B: np.ndarray, lengths: np.ndarray
) -> np.ndarray:
    """For each response token the place of the token before it: the prompt's last one, then the response's
    own."""
    places = [np.zeros(0)]
    for b, length in enumerate(lengths):
        if length:
            places.append(np.array([prompt_starts[row_B[b] + 1] - 1]))
            places.append(response_starts[b] + np.arange(length - 1))
    return np.concatenate(places)


def _send(arrays: dict[str, np.ndarray], device: torch.device) -> dict[str, torch.Tensor]:
    """All arrays as int64 on the device, by one copy."""
    flat = np.concatenate([array.astype(np.int64, copy=False).reshape(-1) for array in arrays.values()])
    parts = to_device(torch.from_numpy(flat), device).split([array.size for array in arrays.values()])
    return dict(zip(arrays, parts, strict=True))
