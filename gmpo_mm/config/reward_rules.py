"""How rewards may be turned into advantages: several rewards (GDPO), the mean as a divisor (MaxRL), long responses (DAPO)."""

from __future__ import annotations

from collections.abc import Iterator

from gmpo_mm.config.load import LoadedConfig
from gmpo_mm.config.schema import Config

_NO_KL_IN_REWARD = "set algorithm.use_kl_loss=true or algorithm.disable_kl=true"


def check_reward_rules(loaded: LoadedConfig) -> Iterator[str]:
    """Rewards that an estimator can't take, and keys of one that is not chosen."""
    yield from _check_gdpo(loaded)
    yield from _check_max_rl(loaded.config)
    yield from _check_long_responses(loaded.config)


def _check_gdpo(loaded: LoadedConfig) -> Iterator[str]:
    config = loaded.config
    algorithm = config.algorithm
    keys, weights = algorithm.gdpo_reward_keys, algorithm.gdpo_reward_weights
    if algorithm.adv_estimator != "gdpo":
        for name in ("gdpo_reward_keys", "gdpo_reward_weights"):
            if value := getattr(algorithm, name):
                yield (
                    f"algorithm.{name} = {value!r}: only adv_estimator=gdpo reads it, and it is {algorithm.adv_estimator!r}; "
                    "remove it, or set algorithm.adv_estimator=gdpo."
                )
        return
    if not keys:
        yield (
            "algorithm.gdpo_reward_keys = []: gdpo takes several rewards one by one; name those numbers of the reward "
            "function, for example algorithm.gdpo_reward_keys=[accuracy,format]."
        )
    if len(set(keys)) < len(keys):
        yield f"algorithm.gdpo_reward_keys = {keys!r}: a reward is named twice; name it once and give it a larger weight."
    if weights and len(weights) != len(keys):
        yield (
            f"algorithm.gdpo_reward_weights = {weights!r}: {len(weights)} weights for {len(keys)} rewards of "
            "algorithm.gdpo_reward_keys; give one for each, or [] for 1 each."
        )
    elif weights and not any(weights):
        yield f"algorithm.gdpo_reward_weights = {weights!r}: nothing would be trained; give a reward a weight other than 0."
    if not algorithm.disable_kl and not algorithm.use_kl_loss:
        yield (
            "algorithm.use_kl_loss = false: KL goes into the reward of each token, which gdpo does not read: its rewards are "
            f"those of algorithm.gdpo_reward_keys; {_NO_KL_IN_REWARD}."
        )
    if config.worker.reward.overlong_buffer.enable and not {"overlong_reward", "overall"} & set(keys):
        yield (
            "worker.reward.overlong_buffer.enable = true: gdpo reads the rewards of algorithm.gdpo_reward_keys alone, and the "
            "punishment is not among them; add overlong_reward to them, or set enable=false."
        )


def _check_max_rl(config: Config) -> Iterator[str]:
    algorithm = config.algorithm
    if algorithm.adv_estimator != "max_rl":
        return
    if config.worker.reward.overlong_buffer.enable:
        yield (
            "worker.reward.overlong_buffer.enable = true: max_rl divides by the mean reward of a group, and a punishment makes "
            "rewards negative; set enable=false, or use adv_estimator=grpo."
        )
    if not algorithm.disable_kl and not algorithm.use_kl_loss:
        yield (
            "algorithm.use_kl_loss = false: max_rl divides by the mean reward of a group, and KL in the reward makes rewards "
            f"negative; {_NO_KL_IN_REWARD}."
        )


def _check_long_responses(config: Config) -> Iterator[str]:
    buffer, longest = config.worker.reward.overlong_buffer, config.data.max_response_length
    if buffer.enable and not 1 <= buffer.len <= longest:
        yield (
            f"worker.reward.overlong_buffer.len = {buffer.len}: the punishment grows over the last tokens before "
            f"data.max_response_length = {longest}, so it must be 1 to {longest}; DAPO takes a fifth, "
            f"worker.reward.overlong_buffer.len={max(1, longest // 5)}."
        )
    if not config.worker.rollout.ignore_eos:
        return
    if config.algorithm.mask_truncated_completions:
        yield (
            "algorithm.mask_truncated_completions = true: with worker.rollout.ignore_eos=true no response ends before its "
            "largest length, so all would be left out; set one of the two to false."
        )
    if buffer.enable:
        yield (
            "worker.reward.overlong_buffer.enable = true: with worker.rollout.ignore_eos=true all responses have their largest "
            "length, so all have the same punishment; set one of the two to false."
        )
