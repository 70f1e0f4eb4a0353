"""What engine=easyr1 can't honour is found from the configuration alone; what EasyR1 can do beyond the local engine passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from gmpo_mm.config import load_config
from gmpo_mm.config.keys import schema_keys, section_names
from gmpo_mm.engines.checks import ineffective_keys, validate_for_training
from gmpo_mm.engines.easyr1.keys import UNREAD, WITHOUT_CRITIC
from gmpo_mm.errors import ConfigError
from tests.config.conftest import Load
from tests.config.easyr1_facts import SCRIPT_OVERRIDES
from tests.config.test_validate import easyr1_checkout  # noqa: F401  (a fixture)

# 8 prompts x 4 samples, mini-batches of 4 prompts = 16 samples, on 2 GPUs
EASYR1 = (
    "engine=easyr1", "data.rollout_batch_size=8", "worker.actor.global_batch_size=4", "trainer.n_gpus_per_node=2",
    "worker.actor.micro_batch_size_per_device_for_update=4", "worker.actor.micro_batch_size_per_device_for_experience=8",
)  # fmt: skip


def problem(load: Load, *overrides: str) -> str:
    with pytest.raises(ConfigError) as raised:
        validate_for_training(load(*EASYR1, *overrides))
    return str(raised.value)


def test_a_configuration_that_fits_passes(load: Load) -> None:
    validate_for_training(load(*EASYR1))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["worker.rollout.name=hf"], ["worker.rollout.name = 'hf'", "samples with vLLM"]),
        (["worker.actor.old_log_probs=sampler"], ["worker.actor.old_log_probs = 'sampler'", "auto or recompute"]),
        (["worker.rollout.max_num_batched_tokens=1000"], ["= 1000", "= 1024; set it to 1024 or more"]),
        (["ray_address=ray://head:10001"], ["ray_address = 'ray://head:10001'", "set ray_address=auto"]),
        (["worker.actor.seq_mean=tokens"], ["worker.actor.seq_mean = 'tokens'", "exact, easyr1"]),
        (
            ["worker.actor.loss_type=default", "worker.actor.seq_mean=easyr1"],
            ["worker.actor.seq_mean = 'easyr1'", "mean over tokens", "loss_avg_mode=seq"],
        ),
        (
            ["trainer.compare_losses=[gspo]", "trainer.compare_losses_gradients_every=5"],
            ["trainer.compare_losses_gradients_every = 5", "set it to 0, or use engine=local"],
        ),
        (
            ["trainer.compare_losses=[gspo]", "worker.actor.seq_mean=easyr1"],
            ["worker.actor.seq_mean = 'easyr1'", "means over a whole mini-batch", "set worker.actor.seq_mean=exact"],
        ),
        (["worker.rollout.tensor_parallel_size=3"], ["tensor_parallel_size = 3", "1 x 2 = 2 GPUs", "set it to 2"]),
        (["worker.actor.ulysses_size=4"], ["ulysses_size = 4", "does not divide"]),
        (
            ["worker.actor.ulysses_size=2", "worker.actor.padding_free=false"],
            ["ulysses_size = 2", "padding_free=true or ulysses_size=1"],
        ),
        (["trainer.n_gpus_per_node=0"], ["trainer.n_gpus_per_node = 0", "at least 1"]),
        (
            ["trainer.n_gpus_per_node=3", "worker.rollout.tensor_parallel_size=1"],
            ["data.rollout_batch_size = 8", "multiple of 3", "global_batch_size = 4", "EasyR1 would train on smaller ones"],
        ),
        (
            ["data.mini_rollout_batch_size=1", "algorithm.online_filtering=true"],
            ["data.mini_rollout_batch_size = 1", "multiple of 2, such as 2"],
        ),
        (
            ["worker.actor.micro_batch_size_per_device_for_update=3"],
            ["for_update = 3", "the 8 samples that each of 2 ranks has of a mini-batch (16)", "set it to 2"],
        ),
        (
            ["worker.actor.micro_batch_size_per_device_for_experience=5"],
            ["for_experience = 5", "rollout_batch_size x n = 32 samples", "set it to 4"],
        ),
        (
            ["worker.actor.micro_batch_size_per_device_for_experience=32", "worker.actor.dynamic_batching=false"],
            ["for_experience = 32", "the 16 samples of each of 2 ranks", "set it to 16"],
        ),
        (
            ["algorithm.adv_estimator=gae", "worker.actor.loss_type=default"],
            ["worker.critic.model.model_path is not set", "adv_estimator=gae trains a critic"],
        ),
        (["algorithm.adv_estimator=gae"], ["gives one advantage a token", "gmpo needs one advantage a sequence"]),
    ],
)  # fmt: skip
def test_each_clash_names_key_value_and_fix(load: Load, overrides: list[str], said: list[str]) -> None:
    message = problem(load, *overrides)
    for part in said:
        assert part in message


def test_what_only_easyr1_can_do_passes_there_and_not_locally(load: Load) -> None:
    bf16 = "worker.actor.optim.strategy=adamw_bf16"
    critic = (
        "algorithm.adv_estimator=gae", "worker.actor.loss_type=default", "worker.critic.model.model_path=./model",
        "worker.critic.global_batch_size=4",
    )  # fmt: skip
    validate_for_training(load(*EASYR1, bf16, *critic))
    for local in ([bf16], critic):
        with pytest.raises(ConfigError):
            validate_for_training(load(*local))
    validate_for_training(load(*EASYR1, "worker.actor.seq_mean=easyr1"))
    validate_for_training(load(*EASYR1, "trainer.compare_losses=[default,gspo]", "trainer.record_steps=every 2"))
    with pytest.raises(ConfigError, match="belongs to engine=easyr1"):
        validate_for_training(load("worker.actor.seq_mean=easyr1"))
    with pytest.raises(ConfigError, match="engine=local uses no Ray"):
        validate_for_training(load("ray_address=auto"))


def test_keys_of_the_local_engine_are_told_to_have_no_effect(load: Load) -> None:
    set_keys = ("trainer.threads=2", "trainer.device=cpu", "algorithm.drop_zero_advantage=true", "worker.critic.optim.lr=1e-5")
    found = {key: reason for key, _, reason in ineffective_keys(load(*EASYR1, *set_keys))}
    for text in set_keys:
        assert found[text.split("=")[0]].startswith("engine easyr1: ")
    assert "worker.actor.fsdp.torch_dtype" not in {
        key for key, _, _ in ineffective_keys(load(*EASYR1, "worker.actor.fsdp.torch_dtype=bf16"))
    }
    for prefix in {**UNREAD, **WITHOUT_CRITIC}:
        assert prefix in schema_keys() or prefix.rstrip(".") in section_names()


@pytest.mark.parametrize("script", SCRIPT_OVERRIDES)
def test_every_example_of_easyr1_passes_with_its_own_engine(easyr1_checkout: Path, script: str) -> None:  # noqa: F811
    loaded = load_config("easyr1.yaml", ["engine=easyr1", *SCRIPT_OVERRIDES[script]])
    if script == "qwen2_5_vl_3b_android_gui_grpo":  # top_p below 1 in training
        with pytest.raises(ConfigError, match=r"worker.rollout.top_p = 0.95"):
            validate_for_training(loaded)
    else:
        validate_for_training(loaded)
