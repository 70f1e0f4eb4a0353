"""Forbidden tokens as a logits processor of vLLM: one kernel a step for the whole batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def forbid_tokens(token_ids: Sequence[int]) -> type:
    """A class for `vllm.LLM(logits_processors=[...])` that keeps every request from sampling `token_ids`.

    It runs before temperature and truncation, in greedy sampling too, and `processed_logprobs` are those
    after it. A `logit_bias` of minus infinity says the same, but is built anew for each request and may hold
    1,024 tokens at most.

    vLLM has two model runners with an interface each; the class fits both.
    """
    from vllm.v1.sample.logits_processor import LogitsProcessor as FirstInterface
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as SecondInterface

    class ForbiddenTokens(FirstInterface, SecondInterface):
        def __init__(self, vllm_config: Any, place: Any, is_pin_memory: bool = False) -> None:
            # the first runner hands over its device, the second one the state of its requests, which names it
            device = place if isinstance(place, torch.device) else place.device
            self._ids_F = torch.tensor(list(token_ids), dtype=torch.long, device=device)

        def is_argmax_invariant(self) -> bool:
            return False  # the likeliest token may be a forbidden one

        def update_state(self, batch_update: Any) -> None:
            pass  # all requests are treated alike

        def apply(self, logits: torch.Tensor, context: Any = None) -> torch.Tensor:
            return logits.index_fill_(-1, self._ids_F, float("-inf"))

    return ForbiddenTokens
