"""What goes into a packed forward pass, and what comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gmpo_mm.data.prompts import EncodedPrompt


@dataclass(frozen=True)
class Group:
    """One prompt and the token ids (T_i,) of some of its responses."""

    prompt: EncodedPrompt
    responses: Sequence[torch.Tensor]

    @property
    def tokens(self) -> int:
        """Tokens that a packed forward pass has to process."""
        return len(self.prompt.input_ids_S) + sum(max(0, len(r) - 1) for r in self.responses)


@dataclass
class PackedOutput:
    """Per response token: log-probabilities (B, T) and entropies (B, T), 0 where the mask is False; router logits if asked.

    `router_logits` are the layers' (N, experts); `router_weights_N` says for how many responses each token counts;
    `token_place_BU` says where in N a response's tokens but the last (U = T - 1), which is never an input, stand.
    """

    log_probs_BT: torch.Tensor
    entropy_BT: torch.Tensor
    mask_BT: torch.Tensor
    router_logits: tuple[torch.Tensor, ...] = ()
    router_weights_N: torch.Tensor | None = None
    token_place_BU: torch.Tensor | None = None

    def spread(self, source_B: torch.Tensor) -> PackedOutput:
        """The output of more responses, response b being a copy of row `source_B[b]`."""
        log_probs_BT, entropy_BT, mask_BT = (
            x.index_select(0, source_B) for x in (self.log_probs_BT, self.entropy_BT, self.mask_BT)
        )
        place_BU = None if self.token_place_BU is None else self.token_place_BU.index_select(0, source_B)
        return PackedOutput(log_probs_BT, entropy_BT, mask_BT, self.router_logits, self.router_weights_N, place_BU)
