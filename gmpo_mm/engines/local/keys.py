"""Keys of the schema that the local engine does not read, with the reason."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

from gmpo_mm.config.keys import default_of, get_key
from gmpo_mm.config.sampler import sees_gpu
from gmpo_mm.config.schema import Config

ONE_PROCESS = "engine local: one process on one device"
UNREAD = {
    "worker.critic.": "engine local: no critic",
    "worker.ref.": "engine local: the reference is a frozen copy beside the policy",
    "worker.hybrid_engine": ONE_PROCESS,
    "worker.actor.strategy": ONE_PROCESS,
    "worker.actor.fsdp.torch_dtype": "engine local: trainer.dtype sets the precision",
    "worker.actor.fsdp.mp_": "engine local: trainer.dtype sets the precision",
    "worker.actor.fsdp.": ONE_PROCESS,
    "worker.actor.ulysses_size": ONE_PROCESS,
    "worker.rollout.tensor_parallel_size": ONE_PROCESS,
    "trainer.nnodes": ONE_PROCESS,
    "trainer.n_gpus_per_node": ONE_PROCESS,
    "trainer.ray_timeline": ONE_PROCESS,
    "trainer.critic_warmup": "engine local: no critic",
    "worker.actor.padding_free": "engine local: always packed, without padding",
    "worker.reward.num_cpus": "engine local: the reward function runs in this process",
    "worker.rollout.dtype": "engine local: trainer.dtype sets the precision",
    "worker.rollout.enable_chunked_prefill": "engine local: vLLM decides",
    "worker.rollout.disable_log_stats": "engine local: vLLM decides",
    "worker.rollout.disable_tqdm": "engine local: trainer.logger decides what the console shows",
    "data.filter_overlong_prompts_workers": "engine local: prompts are measured in this process",
}
"""Key, or prefix that ends in a dot or an underscore -> why nothing reads it."""
VLLM_ONLY = ("limit_images", "gpu_memory_utilization", "enforce_eager", "max_model_len", "max_num_batched_tokens")


def unread_on_this_machine(config: Config) -> Iterator[tuple[str, str]]:
    """(key, reason) of what a GPU or vLLM would have to be here for."""
    actor, rollout, trainer = config.worker.actor, config.worker.rollout, config.trainer
    if rollout.name == "hf" or (rollout.name == "auto" and importlib.util.find_spec("vllm") is None):
        why = "rollouts use hf" if rollout.name == "hf" else "rollouts use hf, because vllm is not installed"
        for key in (f"worker.rollout.{name}" for name in VLLM_ONLY):
            if get_key(config, key) != default_of(key):
                yield key, why
    if (not sees_gpu(trainer.device) or trainer.dtype == "float32") and actor.logits_dtype != "float32":
        yield "worker.actor.logits_dtype", "engine local: logits have 16 bits only beside 16-bit weights on a GPU"
    stays = _nothing_to_offload(config)
    if stays is not None:
        for key in ("worker.actor.offload.offload_params", "worker.actor.offload.offload_optimizer"):
            yield key, f"engine local: {stays}"


def _nothing_to_offload(config: Config) -> str | None:
    """Why there is nobody to make room for; None where vLLM samples on the GPU that trains."""
    name = config.worker.rollout.name
    if not sees_gpu(config.trainer.device):
        return "no GPU, so everything is in CPU memory"
    if name == "hf" or (name == "auto" and importlib.util.find_spec("vllm") is None):
        return "rollouts use hf, which samples with the trained weights themselves"
    return None
