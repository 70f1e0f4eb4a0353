"""Log-probabilities of packed groups on a GPU: one host-to-device copy, one pass, nothing read back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from gmpo_mm.data.prompts import EncodedPrompt
from gmpo_mm.models.fused_head import fused_token_log_probs
from gmpo_mm.models.packed import Group, PackedOutput
from gmpo_mm.models.varlen_layout import VarlenLayout, as_numpy, build_varlen_layout, to_device


class FlatModel(Protocol):
    """What is asked of a `PolicyModel` here."""

    vision: nn.Module | None
    lm_head: nn.Linear
    forbidden_F: torch.Tensor
    logits_dtype: torch.dtype

    @property
    def device(self) -> torch.device:
        """Where its weights are."""

    def autocast(self) -> AbstractContextManager:
        """The type that it computes in."""

    def prompt_positions(self, prompt: EncodedPrompt) -> torch.Tensor:
        """Position ids (3, S) of a prompt with pictures."""

    def embed_flat(
        self, prompts: Sequence[EncodedPrompt], flat_ids_N: torch.Tensor, prompt_starts: Sequence[int]
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Embeddings of the flat row, and what the decoder wants besides."""

    def decode_flat(
        self, embeds_1NC: torch.Tensor, positions_PN: torch.Tensor, layout: Any, **extra: Any
    ) -> Any:
        """The decoder's output for the flat row."""


def lay_out(
    policy: FlatModel, groups: Sequence[Group], attention: Callable[..., torch.Tensor]
) -> VarlenLayout:
    """The flat row of some groups, counted on the host."""
    return build_varlen_layout(
        [as_numpy(g.prompt.input_ids_S) for g in groups],
        [_positions(policy, g.prompt) for g in groups],
        [as_numpy(r) for g in groups for r in g.responses],
        [i for i, g in enumerate(groups) for _ in g.responses],
        policy.device,
        attention,
    )


def _positions(policy: FlatModel, prompt: EncodedPrompt) -> np.ndarray:
    if prompt.image_grid_thw_N3 is not None and policy.vision is not None:
        return as_numpy(policy.prompt_positions(prompt))
    return np.broadcast_to(
        np.arange(len(prompt.input_ids_S)), (1 if policy.vision is None else 3, len(prompt.input_ids_S))
    )


def varlen_log_probs(
    policy: FlatModel,
    groups: Sequence[Group],
    counts: Sequence[Sequence[int]],
    temperature: float,
    with_router: bool,
    attention: Callable[..., torch.Tensor],
) -> PackedOutput:
    """One packed forward pass, as `PolicyModel.response_log_probs` gives it; `counts` says how often a
    response stands."""
    layout = lay_out(policy, groups, attention)
    with policy.autocast():
        embeds, extra = policy.embed_flat([g.prompt for g in groups], layout.ids_N, layout.prompt_starts)
        if with_router:
            extra["output_router_logits"] = True
        output = policy.decode_flat(embeds, layout.positions_AN, layout, **extra)
        hidden_KC = output.last_hidden_state[0].index_select(0, layout.scored_K)
        log_probs_K, entropy_K = fused_token_log_probs(
            hidden_KC, policy.lm_head, layout.targets_K, temperature, policy.forbidden_F, policy.logits_dtype
        )
    shape = (len(layout.lengths_B), layout.width)
    mask_BT = torch.arange(layout.width, device=policy.device) < layout.lengths_B[:, None]
    blank = log_probs_K.new_zeros(shape[0] * shape[1])
    log_probs_BT, entropy_BT = (
        blank.index_copy(0, layout.place_K, x).view(shape) for x in (log_probs_K, entropy_K)
    )
    packed = PackedOutput(log_probs_BT, entropy_BT, mask_BT)
    if with_router:
        _add_router(packed, output, layout, groups, counts)
    return packed


def _add_router(
    packed: PackedOutput,
    output: Any,
    layout: VarlenLayout,
    groups: Sequence[Group],
    counts: Sequence[Sequence[int]],
) -> None:
    """Router logits of a mixture of experts, and for how many responses each token counts."""
    inputs = [max(0, len(r) - 1) for g in groups for r in g.responses]
    weights = np.concatenate([
        np.repeat([float(sum(c)) for c in counts], [len(g.prompt.input_ids_S) for g in groups]),
        np.repeat([float(c) for row in counts for c in row], inputs),
    ])  # fmt: skip
    column = np.arange(max(inputs, default=0))
    place_BU = np.where(
        column < np.array(inputs)[:, None], np.array(layout.response_starts)[:, None] + column, 0
    )
    device = layout.ids_N.device
    packed.router_logits = tuple(layer.reshape(-1, layer.shape[-1]) for layer in output.router_logits)
    packed.router_weights_N = to_device(torch.from_numpy(weights.astype(np.float32)), device)
    packed.token_place_BU = to_device(torch.from_numpy(place_BU), device)
