"""Which values a single key may hold: words from a list, numbers in a range."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from gmpo_mm.config.keys import flatten, get_key, nearest
from gmpo_mm.config.load import LoadedConfig
from gmpo_mm.config.words import settings_for_value

LOGGERS = ("console", "file", "tensorboard", "wandb", "mlflow", "swanlab")
CHOICES: dict[str, tuple[str, ...]] = {
    "engine": ("auto", "local", "easyr1", "verl"),
    "algorithm.adv_estimator": ("grpo", "dr_grpo", "grpo_passk", "rloo", "reinforce_plus_plus", "remax", "gae"),
    "algorithm.kl_penalty": ("kl", "abs", "mse", "low_var_kl", "full"),
    "algorithm.kl_type": ("fixed", "adaptive"),
    "worker.actor.seq_mean": ("exact", "easyr1"),
    "worker.actor.old_log_probs": ("auto", "sampler", "recompute"),
    "worker.actor.logits_dtype": ("float32", "bfloat16"),
    "worker.actor.optim.lr_scheduler_type": ("constant", "cosine"),
    "worker.rollout.name": ("auto", "hf", "vllm"),
    "worker.rollout.correction": ("none", "truncated"),
    "trainer.dtype": ("auto", "float32", "bfloat16"),
}

# key -> (lowest, whether it is itself allowed, highest, whether it is itself allowed)
_AT_LEAST_1 = (1, True, math.inf, False)
_AT_LEAST_0 = (0, True, math.inf, False)
_ABOVE_0 = (0, False, math.inf, False)
_FRACTION = (0, True, 1, True)
RANGES: dict[str, tuple[float, bool, float, bool]] = {
    "data.max_prompt_length": _AT_LEAST_1,
    "data.max_response_length": _AT_LEAST_1,
    "data.rollout_batch_size": _AT_LEAST_1,
    "data.mini_rollout_batch_size": _AT_LEAST_1,
    "data.min_pixels": _AT_LEAST_1,
    "data.max_pixels": _AT_LEAST_1,
    "algorithm.gamma": (0, False, 1, True),
    "algorithm.lam": _FRACTION,
    "algorithm.kl_coef": _AT_LEAST_0,
    "algorithm.kl_horizon": _ABOVE_0,
    "algorithm.kl_target": _ABOVE_0,
    "worker.actor.global_batch_size": _AT_LEAST_1,
    "worker.actor.micro_batch_size_per_device_for_update": _AT_LEAST_1,
    "worker.actor.micro_batch_size_per_device_for_experience": _AT_LEAST_1,
    "worker.actor.max_grad_norm": _ABOVE_0,
    "worker.actor.ppo_epochs": _AT_LEAST_1,
    "worker.actor.model.lora.rank": _AT_LEAST_0,
    "worker.actor.model.lora.alpha": _AT_LEAST_1,
    "worker.actor.optim.lr": _AT_LEAST_0,
    "worker.actor.optim.weight_decay": _AT_LEAST_0,
    "worker.actor.optim.lr_warmup_ratio": _FRACTION,
    "worker.actor.optim.lr_warmup_steps": _AT_LEAST_0,
    "worker.actor.optim.min_lr_ratio": _FRACTION,
    "worker.rollout.n": _AT_LEAST_1,
    "worker.rollout.top_p": (0, False, 1, True),
    "worker.rollout.correction_cap": _ABOVE_0,
    "worker.rollout.max_log_prob_gap": _ABOVE_0,
    "worker.rollout.gpu_memory_utilization": (0, False, 1, True),
    "trainer.total_epochs": _AT_LEAST_1,
    "trainer.max_steps": _AT_LEAST_1,
    "trainer.threads": _AT_LEAST_1,
    "trainer.log_samples": _AT_LEAST_0,
}
# keys whose -1 means "off" or "no limit"
MINUS_1_OR_AT_LEAST_1 = ("data.val_batch_size", "trainer.save_limit", "worker.rollout.top_k")


def check_choices(loaded: LoadedConfig) -> Iterator[str]:
    """Words that must come from a list; the optimizer of another engine gets its own mend."""
    for key, allowed in CHOICES.items():
        value = get_key(loaded.config, key)
        if value not in allowed:
            yield f"{key} = {value!r}: it must be one of {', '.join(allowed)}.{_value_hint(key, value, allowed)}"
    for name in loaded.config.trainer.logger:
        if name not in LOGGERS:
            hint = _value_hint("trainer.logger", name, LOGGERS)
            known = ", ".join(LOGGERS)
            yield f"trainer.logger = {loaded.config.trainer.logger!r}: {name!r} is not known.{hint} Known: {known}."
    key, strategy = "worker.actor.optim.strategy", loaded.config.worker.actor.optim.strategy
    if strategy == "adamw_bf16" and loaded.config.engine in ("auto", "local"):
        yield (
            "worker.actor.optim.strategy = 'adamw_bf16': engine=local keeps float32 AdamW states; set it to adamw. To "
            "save memory, train LoRA adapters (worker.actor.model.lora.rank=64)."
        )
    elif strategy not in ("adamw", "adamw_bf16"):
        yield f"{key} = {strategy!r}: it must be adamw.{_value_hint(key, strategy, ('adamw', 'adamw_bf16'))}"


def _value_hint(key: str, value: Any, allowed: tuple[str, ...]) -> str:
    """What another project's word is here, else the allowed word that looks like it."""
    settings = settings_for_value(key, value)
    if settings is not None:
        return f" Write {settings}."
    if key == "algorithm.adv_estimator":  # one letter makes another algorithm of it: letters exchanged or almost equal
        letters = sorted(str(value).lower())
        meant = next((word for word in allowed if sorted(word) == letters), None) or nearest(value, allowed, cutoff=0.8)
    else:
        meant = nearest(value, allowed)
    return f" Did you mean {meant}?" if meant else ""


def check_ranges(loaded: LoadedConfig) -> Iterator[str]:
    """Numbers in their ranges; nan and infinity nowhere (a clip bound of infinity is `gmpo.clip: none`)."""
    config = loaded.config
    for key, value in flatten(config).items():
        if isinstance(value, float) and not math.isfinite(value):
            mend = " Set worker.actor.gmpo.clip=none for no clipping." if "log_clip" in key else ""
            yield f"{key} = {value}: a finite number is expected.{mend}"
        elif value is not None and key in RANGES and not _inside(value, RANGES[key]):
            yield f"{key} = {value}: it must be {_describe(RANGES[key])}."
    for key in MINUS_1_OR_AT_LEAST_1:
        value = get_key(config, key)
        if value < 1 and value != -1:
            yield f"{key} = {value}: it must be at least 1, or -1 for no limit."
    data, algorithm, optim = config.data, config.algorithm, config.worker.actor.optim
    if data.min_pixels and data.max_pixels and data.min_pixels > data.max_pixels:
        yield f"data.min_pixels = {data.min_pixels}: it is above data.max_pixels = {data.max_pixels}; exchange them."
    if algorithm.online_filtering and algorithm.filter_low >= algorithm.filter_high:
        yield (
            f"algorithm.filter_low = {algorithm.filter_low}: nothing lies strictly between it and "
            f"algorithm.filter_high = {algorithm.filter_high}; lower it."
        )
    if len(optim.betas) != 2 or not all(0 <= beta < 1 for beta in optim.betas):
        yield f"worker.actor.optim.betas = {optim.betas}: two numbers from 0 to below 1 are expected, as [0.9, 0.999]."


def _inside(value: Any, bounds: tuple[float, bool, float, bool]) -> bool:
    low, with_low, high, with_high = bounds
    return (value >= low if with_low else value > low) and (value <= high if with_high else value < high)


def _describe(bounds: tuple[float, bool, float, bool]) -> str:
    low, with_low, high, with_high = bounds
    parts = [f"at least {low}" if with_low else f"above {low}"]
    if high != math.inf:
        parts.append(f"at most {high}" if with_high else f"below {high}")
    return " and ".join(parts)
