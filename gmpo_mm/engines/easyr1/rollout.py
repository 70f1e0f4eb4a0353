"""EasyR1's vLLM rollout, which also hands on the log-probabilities of the tokens that it sampled.

A worker imports it where there is a correction; every other run has EasyR1's own rollout.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from verl.protocol import DataProto
from verl.workers.rollout import vllm_rollout_spmd
from verl.workers.rollout.vllm_rollout_spmd import vLLMRollout

from gmpo_mm.engines.easyr1.actor import SAMPLER_LOG_PROBS


class GMPORollout(vLLMRollout):
    """EasyR1 builds engine, parameters and batch; here log-probabilities are asked for and kept."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # of the distribution that is sampled from, after temperature and truncation; vLLM's default is before both
        stock = vllm_rollout_spmd.LLM
        vllm_rollout_spmd.LLM = partial(stock, logprobs_mode="processed_logprobs")
        try:
            super().__init__(*args, **kwargs)
        finally:
            vllm_rollout_spmd.LLM = stock
        self.sampling_params.logprobs = 0  # the sampled token's alone

    def generate_sequences(self, prompts: DataProto) -> DataProto:
        """EasyR1's batch with `SAMPLER_LOG_PROBS` (B, T) beside `responses`, 0 on padding."""
        generate = self.inference_engine.generate
        completions: list[Any] = []

        def keeping(*args: Any, **kwargs: Any) -> list[Any]:
            completions.extend(generate(*args, **kwargs))
            return completions

        self.inference_engine.generate = keeping
        try:
            batch = super().generate_sequences(prompts)
        finally:
            self.inference_engine.generate = generate
        samples = [sample for completion in completions for sample in completion.outputs]
        batch.batch[SAMPLER_LOG_PROBS] = sampled_log_probs(samples, batch.batch["responses"])
        return batch


def sampled_log_probs(samples: Sequence[Any], responses_BT: torch.Tensor) -> torch.Tensor:
    """(B, T), 0 on padding: what vLLM's outputs say of the tokens that EasyR1 took from them."""
    result_BT = torch.zeros(responses_BT.shape, dtype=torch.float32)
    for row, sample in enumerate(samples):
        ids = list(sample.token_ids)
        numbers = [table[token].logprob for token, table in zip(ids, sample.logprobs, strict=True)]
        result_BT[row, : len(ids)] = torch.tensor(numbers)
    return result_BT.to(responses_BT.device)
