"""A vLLM engine from a configuration: it takes files of the model and ids of tokens, no loaded weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gmpo_mm.config import Config, resolve_model_path
from gmpo_mm.errors import ConfigError
from gmpo_mm.rollout.vllm import VLLMRollout


def start_vllm(
    config: Config,
    *,
    forbidden_token_ids: Sequence[int],
    eos_token_ids: Sequence[int],
    device: torch.device,
    dtype: torch.dtype,
    trains: bool,
) -> VLLMRollout:
    """Start vLLM as `worker.rollout` says.

    With `trains` it leaves the GPU to the update, and starts with doing so. Raises ConfigError for what vLLM
    can't do.
    """
    rollout, model = config.worker.rollout, config.worker.actor.model
    if model.override_config:
        raise ConfigError(
            "worker.actor.model.override_config changes the trained model, and vLLM would sample from the "
            "unchanged one; set worker.rollout.name=hf, or write the changes into the model's config.json"
        )
    return VLLMRollout(
        resolve_model_path(model.model_path or ""),
        dtype=dtype,
        device=device,
        seed=rollout.seed,
        max_model_len=rollout.max_model_len
        or config.data.max_prompt_length + config.data.max_response_length,
        forbidden_token_ids=forbidden_token_ids,
        eos_token_ids=eos_token_ids,
        tokenizer_path=model.tokenizer_path and resolve_model_path(model.tokenizer_path),
        limit_images=rollout.limit_images,
        gpu_memory_utilization=rollout.gpu_memory_utilization,
        max_num_batched_tokens=rollout.max_num_batched_tokens,
        enforce_eager=rollout.enforce_eager,
        sleep_between_rounds=trains,
        trust_remote_code=model.trust_remote_code,
    )
