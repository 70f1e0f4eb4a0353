"""Attention over groups whose responses share one encoded prompt, without padding in the linear layers.

A batch of groups is one flat row of N valid tokens: per group the prompt once, then its responses one after another. The
linear layers see these N tokens and nothing else. Attention gathers them into two padded blocks, prompts (R, P) and
responses (B, T), and lets a response token attend to its group's prompt and to its own response's past. The result
equals B separate rows of prompt + response.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import torch
from torch.nn.functional import scaled_dot_product_attention

from gmpo_mm.models.varlen_layout import VarlenLayout

ATTENTION_NAME = "gmpo_packed"


@dataclass
class PackedLayout:
    """Where the flat row's tokens stand in the padded prompt and response blocks.

    R prompts of at most P tokens, B responses of at most T input tokens, N = all valid tokens. `response_row_B` names each
    response's prompt. Blocks are padded on the right: causality hides the padding of a sequence from its own tokens, and
    `prompt_mask_RP` hides prompt padding from the responses. `prompt_lengths` are the R lengths. `used`
    counts the attention calls that honoured the layout.
    """

    prompt_index_RP: torch.Tensor
    prompt_mask_RP: torch.Tensor
    response_index_BT: torch.Tensor
    response_row_B: torch.Tensor
    flat_index_N: torch.Tensor
    response_attention_mask: torch.Tensor | None
    prompt_lengths: list[int]
    used: int = 0

    @property
    def tokens(self) -> int:
        """Number of valid tokens N."""
        return self.flat_index_N.shape[0]

    @property
    def longest(self) -> int:
        """The longest prompt with its longest response, at most."""
        return self.prompt_index_RP.shape[1] + self.response_index_BT.shape[1]


def build_layout(
    prompt_lengths: list[int], response_rows: list[int], response_lengths: list[int], device: torch.device
) -> PackedLayout:
    """Lay out R prompts and B responses; a response may have 0 input tokens, a prompt at least 1.

    `response_rows[b]` is the prompt of response b and must not decrease, so that flat order is group by group.
    """
    assert response_rows == sorted(response_rows) and min(prompt_lengths) > 0
    rows, batch = len(prompt_lengths), len(response_lengths)
    prompt_width, response_width = max(prompt_lengths), max(response_lengths, default=0)
    lengths_R = torch.tensor(prompt_lengths)
    lengths_B = torch.tensor(response_lengths, dtype=torch.long)
    row_B = torch.tensor(response_rows, dtype=torch.long)

    own_R = torch.zeros(rows, dtype=torch.long).index_add_(0, row_B, lengths_B) + lengths_R
    prompt_start_R = torch.tensor([0, *accumulate(own_R.tolist())][:-1])
    before_B = torch.tensor([0, *accumulate(response_lengths)][:-1], dtype=torch.long)[:batch]
    first_B = torch.tensor([0, *accumulate(lengths_R.tolist())][1:], dtype=torch.long)[row_B]
    response_start_B = before_B + first_B

    column_P, column_T = torch.arange(prompt_width), torch.arange(response_width)
    prompt_mask_RP = column_P < lengths_R[:, None]
    response_mask_BT = column_T < lengths_B[:, None]
    prompt_index_RP = torch.where(prompt_mask_RP, prompt_start_R[:, None] + column_P, 0)
    response_index_BT = torch.where(response_mask_BT, response_start_B[:, None] + column_T, 0)

    total = int(own_R.sum())
    flat_index_N = torch.empty(total, dtype=torch.long)
    block_P = torch.arange(rows * prompt_width).view(rows, prompt_width)
    block_T = rows * prompt_width + torch.arange(batch * response_width).view(batch, response_width)
    flat_index_N[prompt_index_RP[prompt_mask_RP]] = block_P[prompt_mask_RP]
    flat_index_N[response_index_BT[response_mask_BT]] = block_T[response_mask_BT]

    attention_mask = None
    if response_width:
        causal = torch.ones(response_width, response_width, dtype=torch.bool).tril()
        if bool(prompt_mask_RP.all()):  # one mask serves every response
            over_prompt = torch.ones(1, response_width, prompt_width, dtype=torch.bool)
            attention_mask = torch.cat([over_prompt, causal[None]], dim=-1)[:, None]
        else:
            over_prompt = prompt_mask_RP[row_B][:, None, :].expand(batch, response_width, prompt_width)
            attention_mask = torch.cat([over_prompt, causal.expand(batch, -1, -1)], dim=-1)[:, None]
        attention_mask = attention_mask.to(device)
    return PackedLayout(
        prompt_index_RP.to(device), prompt_mask_RP.to(device), response_index_BT.to(device), row_B.to(device),
        flat_index_N.to(device), attention_mask, prompt_lengths,
    )  # fmt: skip


def grouped_query_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, dropout: float, scale: float
) -> torch.Tensor:
    """Attention of (B, H, Q, D) queries over (B, K, L, D) keys, H a multiple of K, without repeating keys H/K times.

    The queries that share a key head are stacked along the query axis; `mask` is (B or 1, 1, Q, L), True = attend.
    """
    batch, heads, queries, width = query.shape
    shared = heads // key.shape[1]
    if shared == 1:
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, scale=scale)
    if mask is not None and queries > 1:
        mask = mask.repeat(1, 1, shared, 1)
    stacked = query.reshape(batch, key.shape[1], shared * queries, width)
    out = scaled_dot_product_attention(stacked, key, value, attn_mask=mask, dropout_p=dropout, scale=scale)
    return out.reshape(batch, heads, queries, width)


def packed_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: PackedLayout, dropout: float, scale: float
) -> torch.Tensor:
    """Attention of a flat row: (1, H, N, D) queries, (1, K, N, D) keys and values -> (1, N, H, D)."""
    layout.used += 1
    if not layout.response_index_BT.numel():
        return _prompts_alone(query, key, value, layout, dropout, scale)
    heads, width = query.shape[1], query.shape[3]
    query_NHD, key_NKD, value_NKD = (x[0].transpose(0, 1) for x in (query, key, value))
    rows, prompt_width = layout.prompt_index_RP.shape
    batch, response_width = layout.response_index_BT.shape

    prompt_query, prompt_key, prompt_value = (
        x.index_select(0, layout.prompt_index_RP.flatten()).view(rows, prompt_width, -1, width).transpose(1, 2)
        for x in (query_NHD, key_NKD, value_NKD)
    )
    out = scaled_dot_product_attention(
        prompt_query, prompt_key, prompt_value, dropout_p=dropout, scale=scale, is_causal=True,
        enable_gqa=prompt_query.shape[1] != prompt_key.shape[1],
    )  # fmt: skip
    blocks = [out.transpose(1, 2).reshape(rows * prompt_width, heads, width)]
    if response_width:
        own_query, own_key, own_value = (
            x.index_select(0, layout.response_index_BT.flatten()).view(batch, response_width, -1, width).transpose(1, 2)
            for x in (query_NHD, key_NKD, value_NKD)
        )
        seen_key = torch.cat([prompt_key.index_select(0, layout.response_row_B), own_key], dim=2)
        seen_value = torch.cat([prompt_value.index_select(0, layout.response_row_B), own_value], dim=2)
        mask = layout.response_attention_mask
        out = grouped_query_attention(own_query, seen_key, seen_value, mask, dropout, scale)
        blocks.append(out.transpose(1, 2).reshape(batch * response_width, heads, width))
    return torch.cat(blocks).index_select(0, layout.flat_index_N)[None]


def _prompts_alone(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: PackedLayout, dropout: float, scale: float
) -> torch.Tensor:
    """Prompts without responses, each at its own length: its bits then don't depend on how long the others are."""
    blocks = [
        scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, scale=scale, is_causal=True, enable_gqa=query.shape[1] != key.shape[1]
        )
        for q, k, v in zip(*(x.split(layout.prompt_lengths, dim=2) for x in (query, key, value)), strict=True)
    ]
    return torch.cat(blocks, dim=2).transpose(1, 2)


def attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    packed_layout: PackedLayout | VarlenLayout | None = None,
    **kwargs: object,
) -> tuple[torch.Tensor, None]:
    """The attention function that transformers calls: packed with a layout, plain masked attention without."""
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    if kwargs.get("softcap") is not None:
        raise ValueError("attention with a soft cap on its logits is not supported by the packed attention")
    if packed_layout is not None:
        window = getattr(module, "sliding_window", None)
        if window is not None and packed_layout.longest > window:
            raise ValueError(
                f"a sequence of {packed_layout.longest} tokens is longer than the model's sliding window of "
                f"{window}: packed attention has no sliding window; shorten data.max_prompt_length + data.max_response_length"
            )
        if isinstance(packed_layout, VarlenLayout):
            if dropout:
                raise ValueError(
                    f"attention_dropout={dropout}: attention on a GPU has no dropout; set "
                    "worker.actor.model.override_config.attention_dropout=0"
                )
            packed_layout.used += 1
            rows = (x[0].transpose(0, 1) for x in (query, key, value))
            return packed_layout.attention(*rows, packed_layout, scale)[None], None
        return packed_attention(query, key, value, packed_layout, dropout, scale), None
    if attention_mask is None:  # full attention without padding, e.g. inside a vision tower
        causal = bool(getattr(module, "is_causal", True)) and query.shape[2] > 1
        out = scaled_dot_product_attention(
            query, key, value, dropout_p=dropout, scale=scale, is_causal=causal,
            enable_gqa=query.shape[1] != key.shape[1],
        )  # fmt: skip
    else:
        out = grouped_query_attention(query, key, value, attention_mask, dropout, scale)
    return out.transpose(1, 2).contiguous(), None


def register() -> str:
    """Make the attention known to transformers and return its name."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION_NAME, attention_forward)
    return ATTENTION_NAME
