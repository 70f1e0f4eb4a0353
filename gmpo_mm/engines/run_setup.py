"""What every engine works out of a configuration in the same way: its reward, the number of its steps, how it samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gmpo_mm.config import split_function_spec, warm_up_too_long
from gmpo_mm.config.schema import Config
from gmpo_mm.errors import ConfigError
from gmpo_mm.rewards.loading import RewardFunction, load_reward_function
from gmpo_mm.rollout.protocol import SamplingParams


def configured_reward(config: Config) -> RewardFunction:
    """The function of `worker.reward`; ConfigError when it can't be loaded."""
    reward = config.worker.reward
    path, name = split_function_spec(reward.reward_function or "")
    return load_reward_function(f"{path}:{name}", reward.reward_function_kwargs)


def absolute_function(spec: str) -> str:
    """`path/to/file.py:function` with an absolute path, for processes that run elsewhere."""
    path, function = split_function_spec(spec)
    return f"{Path(path).absolute()}:{function}"


def count_steps(config: Config, prompts: int) -> int:
    """Steps of a run over `prompts` training prompts, as EasyR1 counts them."""
    check_batch_fits(config, prompts)
    if config.trainer.max_steps is not None:
        return config.trainer.max_steps
    a_call = config.data.mini_rollout_batch_size or config.data.rollout_batch_size
    steps_an_epoch = prompts // a_call * a_call // config.data.rollout_batch_size
    steps = max(1, steps_an_epoch * config.trainer.total_epochs)
    warm_up = config.worker.actor.optim.lr_warmup_steps
    if warm_up is not None and warm_up > steps and not config.trainer.val_only:
        raise ConfigError(warm_up_too_long(warm_up, steps, "trainer.total_epochs"))
    return steps


def check_batch_fits(config: Config, prompts: int) -> None:
    """ConfigError when one sampling call wants more prompts than there are."""
    key = "mini_rollout_batch_size" if config.data.mini_rollout_batch_size else "rollout_batch_size"
    wanted = getattr(config.data, key)
    if wanted > prompts and not config.trainer.val_only:
        raise ConfigError(f"data.{key}={wanted} is more than the {prompts} training prompts; lower it, or add data")


def training_params(config: Config) -> SamplingParams:
    """How training responses are sampled."""
    rollout = config.worker.rollout
    return SamplingParams(
        n=rollout.n, temperature=rollout.temperature, top_p=rollout.top_p, top_k=rollout.top_k,
        max_tokens=config.data.max_response_length, ignore_eos=rollout.ignore_eos, seed=rollout.seed,
        logits_noise=rollout.emulate.logits_noise, hidden_top_p=rollout.emulate.top_p,
    )  # fmt: skip


def validation_params(config: Config) -> SamplingParams:
    """How validation responses are sampled: one a problem unless `worker.rollout.val_override_config` says more.

    Nothing is emulated: it measures the trained model, not an engine.
    """
    own = replace(training_params(config), n=1, logits_noise=0.0, hidden_top_p=1.0)
    return replace(own, **config.worker.rollout.val_override_config)
