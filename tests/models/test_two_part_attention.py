"""Attention of the GPU path, in float64 on the CPU: responses over one copy of the prompt, and over
themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from gmpo_mm.models.packed_attention import build_layout, packed_attention
from gmpo_mm.models.two_part_attention import (
    REFERENCE,
    choose_attention,
    masked_flex_attention,
    two_part_attention,
)
from gmpo_mm.models.varlen_layout import VarlenLayout, build_varlen_layout

CPU = torch.device("cpu")
TWO_PART = partial(two_part_attention, kernel=REFERENCE)
# (prompt lengths, prompt of each response, tokens of each response); the last token of a response is no input
CASES = {
    "ragged": ([7, 11, 5], [0, 0, 0, 1, 1, 2], [5, 10, 2, 7, 3, 14]),
    "single tokens and empty responses": ([4, 6, 3], [0, 0, 1, 2, 2], [1, 6, 1, 0, 4]),
    "no input tokens at all": ([4, 6], [0, 1], [1, 1]),
    "many groups": ([3, 1, 4, 1, 5, 9, 2, 6], sorted(list(range(8)) * 3), [2, 7, 1, 8, 2, 8] * 4),
    "one group": ([9], [0] * 5, [3, 1, 4, 1, 5]),
}


def layout_of(case: str, attention: Callable[..., torch.Tensor] = TWO_PART) -> VarlenLayout:
    prompts, rows, lengths = CASES[case]
    ids = [np.arange(n) for n in prompts]
    positions = [np.arange(n)[None] for n in prompts]
    return build_varlen_layout(ids, positions, [np.arange(n) for n in lengths], rows, CPU, attention)


def group_order(case: str) -> torch.Tensor:
    """Where each token of the CPU's flat row (group by group) stands in this one (prompts first)."""
    prompts, rows, lengths = CASES[case]
    inputs = [max(0, n - 1) for n in lengths]
    prompt_starts = np.concatenate([[0], np.cumsum(prompts)])
    response_starts = prompt_starts[-1] + np.concatenate([[0], np.cumsum(inputs)])
    order: list[np.ndarray] = []
    for i, length in enumerate(prompts):
        order.append(prompt_starts[i] + np.arange(length))
        order += [response_starts[b] + np.arange(inputs[b]) for b, row in enumerate(rows) if row == i]
    return torch.from_numpy(np.concatenate(order))


def random_qkv(tokens: int, heads: int, key_heads: int, width: int = 8) -> list[torch.Tensor]:
    torch.manual_seed(tokens + heads)
    return [
        torch.randn(tokens, h, width, dtype=torch.float64, requires_grad=True)
        for h in (heads, key_heads, key_heads)
    ]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("heads, key_heads", [(4, 4), (6, 2), (4, 1)])
def test_two_parts_equal_packed_attention(case: str, heads: int, key_heads: int) -> None:
    layout, order = layout_of(case), group_order(case)
    q, k, v = random_qkv(layout.tokens, heads, key_heads)
    prompts, rows, lengths = CASES[case]
    packed = build_layout(prompts, rows, [max(0, n - 1) for n in lengths], CPU)
    weight = torch.randn(layout.tokens, heads, 8, dtype=torch.float64)

    out = TWO_PART(q, k, v, layout, 0.3)
    expected = packed_attention(*(x[order].transpose(0, 1)[None] for x in (q, k, v)), packed, 0.0, 0.3)[0]

    torch.testing.assert_close(out[order], expected, rtol=0, atol=1e-13)
    ours = torch.autograd.grad((out * weight).sum(), (q, k, v))
    theirs = torch.autograd.grad((expected * weight[order]).sum(), (q, k, v))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_two_parts_equal_a_dense_softmax_over_the_keys_each_token_may_see(case: str) -> None:
    layout = layout_of(case)
    q, k, v = random_qkv(layout.tokens, 4, 2)
    prompts, rows, lengths = CASES[case]
    owner = [(i, -1) for i, n in enumerate(prompts) for _ in range(n)]
    owner += [
        (row, b) for b, (row, n) in enumerate(zip(rows, lengths, strict=True)) for _ in range(max(0, n - 1))
    ]
    seen = torch.tensor([
        [
            key <= query and owner[key][0] == group and owner[key][1] in (-1, response)
            for key in range(layout.tokens)
        ]
        for query, (group, response) in enumerate(owner)
    ])  # fmt: skip
    scores = torch.einsum("qhd,khd->hqk", q, k.repeat_interleave(2, 1)) * 0.5
    dense = torch.einsum(
        "hqk,khd->qhd", scores.masked_fill(~seen, float("-inf")).softmax(-1), v.repeat_interleave(2, 1)
    )
    torch.testing.assert_close(TWO_PART(q, k, v, layout, 0.5), dense, rtol=0, atol=1e-13)
    torch.testing.assert_close(
        masked_flex_attention(q.detach(), k.detach(), v.detach(), layout, 0.5),
        dense.detach(),
        rtol=0,
        atol=1e-13,
    )


def test_gradients_are_those_of_finite_differences() -> None:
    layout = layout_of("single tokens and empty responses")
    q, k, v = random_qkv(layout.tokens, 2, 1, width=3)
    assert torch.autograd.gradcheck(lambda *x: TWO_PART(*x, layout, 0.7), (q, k, v))


def test_prompts_are_encoded_without_looking_at_responses() -> None:
    layout = layout_of("ragged")
    q, k, v = (x.detach() for x in random_qkv(layout.tokens, 4, 2))
    before = TWO_PART(q, k, v, layout, 0.3)
    k[layout.prompt_tokens :] += 1.0
    after = TWO_PART(q, k, v, layout, 0.3)
    assert torch.equal(before[: layout.prompt_tokens], after[: layout.prompt_tokens])
    assert not torch.equal(before[layout.prompt_tokens :], after[layout.prompt_tokens :])


def test_layout_names_the_token_before_each_target() -> None:
    layout = layout_of("single tokens and empty responses")
    # prompts of 4, 6, 3 tokens at 0, 4, 10; inputs of the responses 0, 5, 0, 0, 3 tokens at 13, 13, 18, 18,
    # 18
    assert layout.prompt_starts == [0, 4, 10] and layout.response_starts == [13, 13, 18, 18, 18]
    assert layout.scored_K.tolist() == [3, *[3, 13, 14, 15, 16, 17], 9, *[12, 18, 19, 20]]
    assert layout.place_K.tolist() == [0, *range(6, 12), 12, *range(24, 28)]
    assert layout.lengths_B.tolist() == [1, 6, 1, 0, 4] and layout.width == 6
    assert layout.positions_AN[0, 13:].tolist() == [4, 5, 6, 7, 8, 3, 4, 5]
    assert layout.own.borders.tolist() == [0, 4, 10, 13, 18, 21] and layout.own.longest == 6
    assert layout.over_prompt.borders.tolist() == [0, 5, 5, 8] and layout.over_prompt.longest == 5


def test_the_cpu_keeps_its_own_path() -> None:
    assert choose_attention(CPU, torch.bfloat16) is None


def test_a_window_shorter_than_a_sequence_is_refused() -> None:
    from gmpo_mm.models.packed_attention import attention_forward

    layout = layout_of("ragged")
    module = torch.nn.Module()
    module.sliding_window = 8
    q, k, v = (x.transpose(0, 1)[None] for x in random_qkv(layout.tokens, 2, 2))
    with pytest.raises(ValueError, match="sliding window of 8"):
        attention_forward(module, q, k, v, None, packed_layout=layout)
    module.sliding_window = None
    with pytest.raises(ValueError, match=r"attention_dropout=0\.1"):
        attention_forward(module, q, k, v, None, dropout=0.1, packed_layout=replace(layout))
