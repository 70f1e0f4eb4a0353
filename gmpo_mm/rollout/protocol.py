"""What a rollout backend takes and gives: prompts in, sampled responses with their log-probabilities out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from gmpo_mm.config import Config
from gmpo_mm.data.prompts import EncodedPrompt
from gmpo_mm.models.policy import PolicyModel


@dataclass(frozen=True)
class SamplingParams:
    """How to sample; `temperature` 0 is greedy, `top_k` -1 and `top_p` 1 switch truncation off, lengths are in tokens."""

    n: int
    temperature: float
    max_tokens: int
    top_p: float = 1.0
    top_k: int = -1
    ignore_eos: bool = False
    seed: int = 0
    logits_noise: float = 0.0
    """Standard deviation of Gaussian noise on the logits, before the temperature; for `worker.rollout.emulate`, as the next."""
    hidden_top_p: float = 1.0
    """A second nucleus, inside the first, that `is_truncated` says nothing of."""

    @property
    def is_truncated(self) -> bool:
        """Whether tokens outside the top k or top p were cut off, so that samples don't come from the model itself."""
        return self.top_k > 0 or self.top_p < 1.0


@dataclass(frozen=True)
class Response:
    """One sampled response.

    `token_ids_T` ends with the end-of-turn token when `stop_reason` is "stop". `log_probs_T` (float32, nats) belong to the
    distribution that was sampled from: at the sampling temperature, after top-k and top-p truncation; greedy ones to the
    distribution at temperature 1. `top_experts_UL` (int16): the expert that each layer of a mixture of experts preferred for
    each token but the last, U = T - 1, where the sampler says so.
    """

    token_ids_T: torch.Tensor
    log_probs_T: torch.Tensor
    stop_reason: str
    top_experts_UL: torch.Tensor | None = None


class RolloutBackend(Protocol):
    """A sampler. Responses depend on the prompt's own seed only, never on what else is in the batch."""

    name: str
    exact_log_probs: bool
    """Whether `log_probs_T` without truncation equal the trained model's own to float32 rounding and can serve as old ones."""

    samples_in_place: bool
    """Whether it samples with the trained model itself, so that it has no weights of its own between `sync_weights`."""

    def generate(
        self,
        prompts: Sequence[EncodedPrompt],
        params: SamplingParams,
        prompt_seeds: Sequence[int],
        progress: Callable[[str], None] | None = None,
    ) -> list[list[Response]]:
        """Sample `params.n` responses for every prompt; `result[i][j]` is sample j of prompt i."""
        ...

    def sync_weights(self, model: torch.nn.Module) -> None:
        """Take over the weights of the trained model."""
        ...

    def free_memory(self) -> None:
        """Leave the device to the update: called when a step's samples are there, and followed by `sync_weights`."""
        ...

    def close(self) -> None:
        """Free what the backend holds."""
        ...


@dataclass(frozen=True)
class RolloutRequest:
    """What a backend is made from: a `SAMPLERS` entry's `place` is called with it.

    `policy` is the trained model where the backend samples with it. With `trains` the backend leaves the device to the update,
    and starts with doing so.
    """

    config: Config
    device: torch.device
    dtype: torch.dtype
    forbidden_token_ids: Sequence[int]
    eos_token_ids: Sequence[int]
    trains: bool
    policy: PolicyModel | None = None
