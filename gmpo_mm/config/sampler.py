"""Which sampler `auto` stands for on this machine."""

from __future__ import annotations

import importlib.util

from gmpo_mm.config.schema import Config
from gmpo_mm.errors import ConfigError

LONGEST_BUILT_IN = 256
"""Response tokens up to which the built-in sampler will do on a GPU: it launches every kernel by itself."""


def sees_gpu(device: str) -> bool:
    """Whether `trainer.device` is a GPU here; `auto` is the first one where torch sees any."""
    import torch

    return device != "cpu" and torch.cuda.is_available()


def longest_response(config: Config) -> int:
    """Tokens that the longest response of training and validation may have."""
    wanted = config.worker.rollout.val_override_config.get("max_tokens", 0)
    return max(config.data.max_response_length, wanted if isinstance(wanted, int) else 0)


def choose_sampler(
    name: str, *, on_gpu: bool, max_tokens: int, key: str = "worker.rollout.name"
) -> tuple[str, str]:
    """`hf` or `vllm` and, for `auto`, why. `max_tokens` is the longest response that is asked for.

    Raises ConfigError where `auto` would sample long responses on a GPU without vLLM: minutes a step.
    """
    if name != "auto":
        return name, ""
    vllm_there = importlib.util.find_spec("vllm") is not None
    if not on_gpu:
        return "hf", "no GPU" if vllm_there else "vLLM is not installed"
    if vllm_there:
        return "vllm", "vLLM and a GPU are there"
    if max_tokens > LONGEST_BUILT_IN:
        raise ConfigError(
            f"{key} = 'auto': vLLM is not installed, and on a GPU the built-in sampler takes minutes for "
            f"responses of {max_tokens} tokens; pip install 'gmpo-mm[vllm]', or set {key}=hf to sample with it "
            f"all the same (auto does up to {LONGEST_BUILT_IN} tokens)."
        )
    return "hf", "vLLM is not installed"
