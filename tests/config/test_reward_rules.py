"""Rewards that an estimator can't take are refused before anything is loaded, with key, value and fix."""

from __future__ import annotations

import pytest

from gmpo_mm.engines.checks import ineffective_keys, validate_for_training
from gmpo_mm.errors import ConfigError
from tests.config.conftest import Load

GDPO = ("algorithm.adv_estimator=gdpo", "algorithm.gdpo_reward_keys=[accuracy,format]")
NO_KL, BUFFER = "algorithm.disable_kl=true", "worker.reward.overlong_buffer="


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["algorithm.gdpo_reward_keys=[accuracy]"], ["only adv_estimator=gdpo reads it", "'grpo'"]),
        (["algorithm.gdpo_reward_weights=[1]"], ["gdpo_reward_weights = [1.0]", "remove it"]),
        (["algorithm.adv_estimator=gdpo", NO_KL], ["gdpo_reward_keys = []", "[accuracy,format]"]),
        ([*GDPO, NO_KL, "algorithm.gdpo_reward_keys=[format,format]"], ["named twice"]),
        ([*GDPO, NO_KL, "algorithm.gdpo_reward_weights=[1]"], ["1 weights for 2 rewards"]),
        ([*GDPO, NO_KL, "algorithm.gdpo_reward_weights=[0,0]"], ["nothing would be trained"]),
        ([*GDPO, "algorithm.use_kl_loss=false"], ["use_kl_loss = false", "gdpo does not read", "use_kl_loss=true"]),
        ([*GDPO, NO_KL, BUFFER + "{enable: true, len: 9}"], ["overlong_buffer.enable = true", "add overlong_reward"]),
        (["algorithm.adv_estimator=max_rl", NO_KL, BUFFER + "{enable: true, len: 9}"], ["max_rl divides", "enable=false"]),
        (["algorithm.adv_estimator=max_rl", "algorithm.use_kl_loss=false"], ["max_rl divides", "use_kl_loss=true"]),
        (["algorithm.adv_estimator=max_rl", NO_KL, "algorithm.norm_adv_by_std=false"], ["no standard deviation"]),
        (["algorithm.adv_estimator=opo", "worker.rollout.n=1"], ["opo compares the responses", "at least 2"]),
        ([BUFFER + "{enable: true}"], ["overlong_buffer.len = 0", "overlong_buffer.len=102"]),
        ([BUFFER + "{enable: true, len: 513}"], ["len = 513", "1 to 512"]),
        (["algorithm.mask_truncated_completions=true", "worker.rollout.ignore_eos=true"], ["all would be left out"]),
        ([BUFFER + "{enable: true, len: 9}", "worker.rollout.ignore_eos=true"], ["all have the same punishment"]),
    ],
    ids=lambda value: " ".join(value) if value and "=" in value[0] and "." in value[0] else "",
)  # fmt: skip
def test_rewards_that_can_not_be_taken_are_refused(load: Load, overrides: list[str], said: list[str]) -> None:
    with pytest.raises(ConfigError) as raised:
        validate_for_training(load("engine=local", *overrides))
    for words in said:
        assert words in str(raised.value)


@pytest.mark.parametrize(
    "overrides",
    [
        [*GDPO, NO_KL, "algorithm.gdpo_reward_weights=[1,0.5]"],
        [*GDPO, NO_KL, "algorithm.gdpo_reward_keys=[accuracy,overlong_reward]", BUFFER + "{enable: true, len: 9}"],
        [*GDPO, "algorithm.use_kl_loss=true", "algorithm.mask_truncated_completions=true"],
        ["algorithm.adv_estimator=max_rl", NO_KL],
        ["algorithm.adv_estimator=opo"],
    ],
    ids=lambda value: " ".join(value),
)
def test_rewards_that_can_be_taken_pass(load: Load, overrides: list[str]) -> None:
    validate_for_training(load("engine=local", *overrides))


def test_easyr1_refuses_several_rewards_behind_its_filter(load: Load) -> None:
    with pytest.raises(ConfigError, match="online_filtering = true: EasyR1 keeps no rewards but overall"):
        validate_for_training(load("engine=easyr1", *GDPO, NO_KL, "algorithm.online_filtering=true"))


def test_keys_of_a_buffer_that_is_off_are_named_as_without_effect(load: Load) -> None:
    found = {key: reason for key, _, reason in ineffective_keys(load("engine=local", BUFFER + "{len: 9}"))}
    assert found["worker.reward.overlong_buffer.len"] == "worker.reward.overlong_buffer.enable is false"
