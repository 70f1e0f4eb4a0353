"""Keys that a file sets and that change nothing: told before training and by --dry-run, with the reason.

One rule decides between this list and an error:

- A key of something that is switched off, in the same file or by what the engine is, is told: `kl_coef` under
  `disable_kl: true`, `filter_low` without online filtering, `fsdp` on one process. The switch says already that it does not
  count, and EasyR1's own files set such keys.
- A key that the chosen method does not have is an error (`validate`): `clip_ratio_low` under gmpo, `norm_adv_by_std` under
  rloo. Nothing in the file says that it does not count, so a reader takes its value for what was trained.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

from gmpo_mm.config.keys import default_of, get_key
from gmpo_mm.config.load import LoadedConfig
from gmpo_mm.config.sampler import sees_gpu
from gmpo_mm.config.schema import Config
from gmpo_mm.config.verl_keys import NO_COUNTERPART, ON_CPU_IGNORED

ONE_PROCESS = "engine local: one process on one device"
# Prefixes (ending in a dot) and keys that the local engine does not read, with the reason.
LOCAL_ENGINE = {
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
EASYR1 = "engine easyr1: "
# The same for EasyR1's engine.
EASYR1_ENGINE = {
    "trainer.device": EASYR1 + "workers go to the GPUs of the Ray cluster",
    "trainer.dtype": EASYR1 + "worker.actor.fsdp.torch_dtype and mp_* set the precision",
    "trainer.threads": EASYR1 + "Ray gives each worker its cores",
    "worker.actor.logits_dtype": EASYR1 + "its own head, in worker.actor.fsdp.mp_param_dtype",
    "algorithm.drop_zero_advantage": EASYR1 + "every rank passes all of its rows; the gradient is the same",
    "worker.rollout.max_log_prob_gap": EASYR1 + "vLLM's log-probabilities are not handed on, so no gap is measured",
}
VERL_ON_CPU = dict.fromkeys(ON_CPU_IGNORED, "engine verl on the CPU: padded batches, float32, transformers samples")
WITHOUT_CRITIC = dict.fromkeys(
    ("worker.critic.", "trainer.critic_warmup"), EASYR1 + "only adv_estimator=gae trains a critic"
)
COUNTS = (
    "trainer.nnodes",
    "trainer.n_gpus_per_node",
    "worker.actor.ulysses_size",
    "worker.rollout.tensor_parallel_size",
)
VLLM_ONLY = ("limit_images", "gpu_memory_utilization", "enforce_eager", "max_model_len", "max_num_batched_tokens")


def ineffective_keys(loaded: LoadedConfig) -> list[tuple[str, Any, str]]:
    """(key, value, why it has no effect) of every explicitly set key that the run will not read, sorted by reason."""
    reasons = dict(_unread_by_engine(loaded))
    for key, reason in (*_algorithm(loaded), *_worker(loaded), *_trainer(loaded)):
        reasons.setdefault(key, reason)
    found = [(key, get_key(loaded.config, key), reasons[key]) for key in loaded.explicit_keys if key in reasons]
    return sorted((item for item in found if not _claims_nothing(*item[:2])), key=lambda item: (item[2], item[0]))


def _claims_nothing(key: str, value: Any) -> bool:
    """True for a switch that is off and for a count of one machine: what the engine does anyway."""
    return value is None or value is False or value == "" or (key in COUNTS and value == 1)


def _unread_by_engine(loaded: LoadedConfig) -> Iterator[tuple[str, str]]:
    table = LOCAL_ENGINE
    if loaded.config.engine == "easyr1":
        table = EASYR1_ENGINE if loaded.config.algorithm.adv_estimator == "gae" else EASYR1_ENGINE | WITHOUT_CRITIC
    elif loaded.config.engine == "verl":
        table = NO_COUNTERPART | VERL_ON_CPU if loaded.config.trainer.device == "cpu" else NO_COUNTERPART
    for key in loaded.explicit_keys:
        if get_key(loaded.config, key) == default_of(key):  # claims nothing; a resolved config spells out all of them
            continue
        for prefix, reason in table.items():
            if key == prefix or (prefix.endswith((".", "_")) and key.startswith(prefix)):
                yield key, reason
                break


def _algorithm(loaded: LoadedConfig) -> Iterator[tuple[str, str]]:
    algorithm = loaded.config.algorithm
    if not algorithm.online_filtering:
        for name in ("filter_key", "filter_low", "filter_high"):
            yield f"algorithm.{name}", "algorithm.online_filtering is false"
        yield "trainer.max_try_make_batch", "algorithm.online_filtering is false"
    if algorithm.disable_kl:
        for name in ("use_kl_loss", "kl_penalty", "kl_coef", "kl_type", "kl_horizon", "kl_target"):
            yield f"algorithm.{name}", "algorithm.disable_kl is true: no reference model, no KL term"
    elif algorithm.use_kl_loss and algorithm.kl_type == "adaptive":
        for name in ("kl_type", "kl_horizon", "kl_target"):
            yield (
                f"algorithm.{name}",
                "the coefficient adapts only for KL in the reward (algorithm.use_kl_loss is true)",
            )
    if algorithm.kl_type == "fixed":
        for name in ("kl_horizon", "kl_target"):
            yield f"algorithm.{name}", "algorithm.kl_type is fixed"
    if algorithm.adv_estimator not in ("reinforce_plus_plus", "gae"):
        yield "algorithm.gamma", f"adv_estimator {algorithm.adv_estimator} does not discount"
    if algorithm.adv_estimator != "gae":
        yield "algorithm.lam", "only gae reads it"


def _worker(loaded: LoadedConfig) -> Iterator[tuple[str, str]]:
    actor, rollout = loaded.config.worker.actor, loaded.config.worker.rollout
    if actor.model.lora.rank == 0:
        for name in ("alpha", "target_modules", "exclude_modules"):
            yield f"worker.actor.model.lora.{name}", "worker.actor.model.lora.rank is 0: all weights are trained"
    if actor.optim.lr_scheduler_type == "constant":
        yield "worker.actor.optim.min_lr_ratio", "worker.actor.optim.lr_scheduler_type is constant"
    if actor.optim.lr_warmup_steps is not None:
        yield "worker.actor.optim.lr_warmup_ratio", "worker.actor.optim.lr_warmup_steps goes before it"
    if rollout.correction == "none":
        yield "worker.rollout.correction_cap", "worker.rollout.correction is none"
    local = loaded.config.engine in ("auto", "local")
    if local and (rollout.name == "hf" or (rollout.name == "auto" and importlib.util.find_spec("vllm") is None)):
        why = "rollouts use hf" if rollout.name == "hf" else "rollouts use hf, because vllm is not installed"
        for key in (f"worker.rollout.{name}" for name in VLLM_ONLY):
            if get_key(loaded.config, key) != default_of(key):
                yield key, why
    trainer = loaded.config.trainer
    if local and (not sees_gpu(trainer.device) or trainer.dtype == "float32") and actor.logits_dtype != "float32":
        yield "worker.actor.logits_dtype", "engine local: logits have 16 bits only beside 16-bit weights on a GPU"
    stays = _nothing_to_offload(loaded.config) if local else None
    if stays is not None:
        for key in ("worker.actor.offload.offload_params", "worker.actor.offload.offload_optimizer"):
            yield key, f"engine local: {stays}"


def _nothing_to_offload(config: Config) -> str | None:
    """Why the local engine has nobody to make room for; None where vLLM samples on the GPU that trains."""
    name = config.worker.rollout.name
    if not sees_gpu(config.trainer.device):
        return "no GPU, so everything is in CPU memory"
    if name == "hf" or (name == "auto" and importlib.util.find_spec("vllm") is None):
        return "rollouts use hf, which samples with the trained weights themselves"
    return None


def _trainer(loaded: LoadedConfig) -> Iterator[tuple[str, str]]:
    trainer = loaded.config.trainer
    if trainer.max_steps is not None:
        yield "trainer.total_epochs", "trainer.max_steps goes before it"
    if trainer.run_dir and trainer.save_checkpoint_path:
        yield "trainer.save_checkpoint_path", "trainer.run_dir says the same"
    if trainer.load_checkpoint_path or trainer.resume != "auto":
        yield "trainer.find_last_checkpoint", "the checkpoint to go on from is named"
    if not loaded.config.data.val_files:
        for name in ("val_before_train", "val_freq"):
            yield f"trainer.{name}", "data.val_files is empty: no validation"
    if trainer.val_only:
        for name in ("val_freq", "save_freq", "save_limit", "save_model_only", "total_epochs", "max_steps"):
            yield f"trainer.{name}", "trainer.val_only is true"
