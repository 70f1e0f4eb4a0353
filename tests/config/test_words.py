"""Keys and values of other projects: what to write here is named, and nothing that would train another algorithm."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gmpo_mm.algorithms.registry import OTHER_NAMES, get_policy_loss, known_loss_types
from gmpo_mm.config import load_config
from gmpo_mm.config.bounds import choices
from gmpo_mm.config.keys import nearest_key, schema_keys
from gmpo_mm.config.words import FOREIGN_KEYS, FOREIGN_VALUES, SWITCHES_OF_VALUES, find_word, settings_for_key
from gmpo_mm.errors import ConfigError
from gmpo_mm.evaluation.settings import load_settings
from gmpo_mm.sweeps.sweep_file import load_sweep
from tests.config.conftest import Load
from tests.config.test_validate import problems

PLACEHOLDERS = re.compile(r"^(LOW|HIGH|STEPS|PIXELS|FILE\.jinja|\{value\}|\[.*\])$")


def said(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(None, list(overrides))
    return str(caught.value)


@pytest.mark.parametrize(
    ("written", "here"),
    [
        # TRL
        ("max_completion_length=256", "data.max_response_length=256"),
        ("num_generations=8", "worker.rollout.n=8"),
        ("learning_rate=1e-6", "worker.actor.optim.lr=1e-06"),
        ("beta=0.04", "algorithm.kl_coef=0.04"),
        ("beta=0", "algorithm.disable_kl=true"),
        ("epsilon_high=0.28", "worker.actor.clip_ratio_high=0.28"),
        ("scale_rewards=false", "algorithm.norm_adv_by_std=false"),
        ("scale_rewards=none", "algorithm.norm_adv_by_std=false"),
        ("num_iterations=2", "worker.actor.ppo_epochs=2"),
        ("loss_type=dr_grpo", "algorithm.adv_estimator=dr_grpo"),
        ("importance_sampling_level=sequence", "worker.actor.loss_type=gspo"),
        ("use_vllm=true", "worker.rollout.name=vllm"),
        ("report_to=wandb", "trainer.logger=[console,wandb]"),
        ("num_train_epochs=3", "trainer.total_epochs=3"),
        ("gradient_accumulation_steps=4", "worker.actor.global_batch_size"),
        ("optim=adamw_torch", "worker.actor.optim.strategy=adamw"),
        ("vllm_importance_sampling_mode=token_mask", "worker.rollout.correction=masked"),
        ("vllm_importance_sampling_mode=sequence_mask", "worker.rollout.correction=sequence_masked"),
        ("vllm_importance_sampling_clip_min=0.5", "worker.rollout.correction_floor=0.5"),
        ("vllm_importance_sampling_correction=false", "worker.rollout.correction=none"),
        # verl
        ("algorithm.rollout_correction.rollout_is=sequence", "worker.rollout.correction=sequence_truncated"),
        ("algorithm.rollout_correction.rollout_is_threshold=2.0", "worker.rollout.correction_cap=2.0"),
        ("algorithm.rollout_correction.rollout_rs=seq_mean_k1", "worker.rollout.correction=geometric_masked"),
        ("algorithm.rollout_correction.rollout_rs_threshold=0.999_1.001", "correction_floor=1/UPPER"),
        ("data.train_batch_size=512", "data.rollout_batch_size=512"),
        ("actor_rollout_ref.actor.ppo_mini_batch_size=128", "worker.actor.global_batch_size=128"),
        ("actor_rollout_ref.actor.optim.lr=1e-6", "worker.actor.optim.lr=1e-06"),
        ("critic.optim.lr=1e-5", "worker.critic.optim.lr=1e-05"),
        ("actor_rollout_ref.rollout.n=8", "worker.rollout.n=8"),
        ("actor_rollout_ref.rollout.val_kwargs.temperature=0.6", "worker.rollout.val_override_config.temperature=0.6"),
        ("actor_rollout_ref.actor.kl_loss_type=k3", "algorithm.kl_penalty=low_var_kl"),
        ("actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-mean", "worker.actor.loss_avg_mode=seq"),
        ("actor_rollout_ref.actor.policy_loss.loss_mode=geo_mean", "worker.actor.loss_type=gmpo"),
        ("actor_rollout_ref.ref.fsdp_config.param_offload=true", "worker.ref.offload.offload_params=true"),
        ("trainer.test_freq=5", "trainer.val_freq=5"),
        ("custom_reward_function.path=r.py", "worker.reward.reward_function=r.py"),
        # older EasyR1
        ("worker.reward.reward_type=batch", "REWARD_TYPE"),
        ("worker.reward.score_function=math", "gmpo_mm/rewards/math.py:compute_score"),
        ("worker.actor.clip_ratio=0.2", "worker.actor.clip_ratio_high=0.2"),
        ("worker.actor.kl_loss_coef=0.01", "algorithm.kl_coef=0.01"),
        ("trainer.total_episodes=15", "trainer.total_epochs=15"),
        ("worker.actor.optim.warmup_style=cosine", "worker.actor.optim.lr_scheduler_type=cosine"),
        ("worker.actor.ulysses_sequence_parallel_size=2", "worker.actor.ulysses_size=2"),
        # OpenRLHF
        ("n_samples_per_prompt=8", "worker.rollout.n=8"),
        ("actor_learning_rate=5e-7", "worker.actor.optim.lr=5e-07"),
        ("init_kl_coef=0.01", "algorithm.kl_coef=0.01"),
        ("generate_max_len=1024", "data.max_response_length=1024"),
        ("advantage_estimator=group_norm", "algorithm.adv_estimator=grpo"),
        ("remote_rm_url=reward.py", "worker.reward.reward_function=reward.py"),
        ("train_batch_size=128", "divided by worker.rollout.n"),
        # ms-swift
        ("rlhf_type=grpo", "algorithm.adv_estimator=grpo"),
        ("freeze_vit=true", "worker.actor.model.freeze_vision_tower=true"),
        ("train_type=full", "worker.actor.model.lora.rank=0"),
        ("max_resample_times=3", "trainer.max_try_make_batch=3"),
        ("overlong_filter=true", "algorithm.mask_truncated_completions=true"),
        ("soft_cache_length=64", "worker.reward.overlong_buffer.len=64"),
        # long responses and several rewards
        ("mask_truncated_completions=true", "algorithm.mask_truncated_completions=true"),
        ("multi_objective_aggregation=normalize_then_sum", "algorithm.adv_estimator=gdpo"),
        ("reward_model.overlong_buffer.len=4096", "worker.reward.overlong_buffer.len=4096"),
        ("overlong_penalty_factor=0.5", "worker.reward.overlong_buffer.penalty_factor=0.5"),
        # capitals and dashes
        ("Learning_Rate=1", "worker.actor.optim.lr=1"),
        ("--num-generations=8", "worker.rollout.n=8"),
    ],
)
def test_a_key_of_another_project_names_the_key_and_the_value_here(written: str, here: str) -> None:
    message = said(written)
    assert here in message
    assert "Did you mean" not in message


def test_the_table_has_the_words_of_every_project_and_each_leads_to_keys_that_exist() -> None:
    assert len(FOREIGN_KEYS) >= 60
    texts = [word.settings for word in FOREIGN_KEYS.values()]
    texts += [text for values in (*FOREIGN_VALUES.values(), *SWITCHES_OF_VALUES.values()) for text in values.values()]
    texts += list(OTHER_NAMES.values())
    for text in filter(None, texts):
        for setting in re.findall(r"[a-z0-9_.]+=\S+", text):
            key, _, value = setting.partition("=")
            assert key in schema_keys() or key.rpartition(".")[0] in schema_keys(), text
            if key in choices() and not PLACEHOLDERS.match(value):
                assert value in choices()[key], text
            if key.endswith("loss_type") and value != "{value}":
                assert value in known_loss_types(), text
    for word in FOREIGN_KEYS.values():
        assert word.settings or word.note
    assert not set(FOREIGN_KEYS) & set(schema_keys()), "a key of ours needs no translation"
    assert all(find_word(name) for name in SWITCHES_OF_VALUES)


def test_a_whole_file_of_another_project_is_told_key_by_key_at_once(tmp_path: Path) -> None:
    (tmp_path / "verl.yaml").write_text(
        "actor_rollout_ref:\n  model: {path: Qwen/Qwen2.5-7B}\n  actor:\n    grad_clip: 1.0\n    optim: {lr: 1e-6}\n"
        "  rollout: {tensor_model_parallel_size: 2}\ndata: {max_prompt_length: many}\ntrainer: {test_freq: 5}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "verl.yaml", ["zzz=1"])
    paragraphs = str(caught.value).split("\n\n")
    assert len(paragraphs) == 7
    for text in ("model_path=Qwen/Qwen2.5-7B", "max_grad_norm=1.0", "optim.lr=1e-06", "tensor_parallel_size=2", "val_freq=5"):
        assert text in str(caught.value)
    assert "data.max_prompt_length = 'many'" in str(caught.value), "wrong types too"


@pytest.mark.parametrize("key", ["zzz", "worker.actor.zzz", "foo.bar", "data.xyzzy", "worker.rollout.wibble"])
def test_what_looks_like_nothing_gets_no_suggestion(key: str) -> None:
    assert nearest_key(key) is None
    assert "Did you mean" not in said(f"{key}=1")


def test_a_slip_for_a_neighbour_goes_before_a_word_of_others() -> None:
    assert "Did you mean worker.actor.optim.betas?" in said("worker.actor.optim.beta=[0.9,0.99]")
    assert "Did you mean worker.actor.loss_type?" in said("Worker.Actor.Loss_Typ=gmpo")
    assert settings_for_key("zzz", 1) is None


@pytest.mark.parametrize(
    ("override", "here"),
    [
        ("worker.actor.loss_type=grpo", "Write worker.actor.loss_type=default algorithm.adv_estimator=grpo."),
        ("worker.actor.loss_type=GRPO", "Write worker.actor.loss_type=default algorithm.adv_estimator=grpo."),
        ("worker.actor.loss_type=ppo", "Write worker.actor.loss_type=default."),
        ("worker.actor.loss_type=GMPO", "Did you mean 'gmpo'?"),
        ("worker.actor.loss_type=gmop", "Did you mean 'gmpo'?"),
        ("algorithm.adv_estimator=gmpo", "Write worker.actor.loss_type=gmpo algorithm.adv_estimator=grpo."),
        ("algorithm.adv_estimator=gpg", "Write worker.actor.loss_type=gpg algorithm.adv_estimator=dr_grpo."),
        ("algorithm.adv_estimator=GRPO", "Did you mean grpo?"),
        ("algorithm.adv_estimator=maxrl", "Write algorithm.adv_estimator=max_rl."),
        ("algorithm.adv_estimator=reinforce++", "Write algorithm.adv_estimator=reinforce_plus_plus."),
        ("algorithm.kl_penalty=k3", "Write algorithm.kl_penalty=low_var_kl."),
        ("worker.actor.loss_avg_mode=token-mean", "Write worker.actor.loss_avg_mode=token."),
        ("worker.actor.gmpo.clip=seq", "Write worker.actor.gmpo.clip=sequence."),
        ("worker.actor.power_mean.clip=off", "Write worker.actor.power_mean.clip=none."),
        ("worker.actor.loss_type=PMPO", "Write worker.actor.loss_type=power_mean."),
        ("worker.actor.optim.lr_scheduler_type=constant_with_warmup", "lr_scheduler_type=constant "),
        ("worker.rollout.name=sglang", "Write worker.rollout.name=vllm."),
        ("trainer.dtype=bf16", "Write trainer.dtype=bfloat16."),
        ("trainer.device=gpu", "Write trainer.device=cuda."),
        ("trainer.resume=disable", "Write trainer.resume=never."),
        ("trainer.logger=[tb]", "Write trainer.logger=[console,tensorboard]."),
    ],
)
def test_a_value_of_another_project_names_what_to_write(load: Load, override: str, here: str) -> None:
    assert here in problems(load, override)


@pytest.mark.parametrize("name", ["gpo", "gepo", "kpo", "xyz", "dpo", "kto"])
def test_no_other_algorithm_is_suggested_for_an_unknown_loss(name: str) -> None:
    with pytest.raises(ValueError, match=r"is unknown\. Known: ") as caught:
        get_policy_loss(name)
    assert "Did you mean" not in str(caught.value)


def test_evaluations_and_sweeps_tell_all_unknown_keys_at_once_and_suggest_nothing_far(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(None, ["max_new_tokens=5", "zzz=1", "temprature=0"], {})
    message = str(caught.value)
    assert "Did you mean max_tokens?" in message
    assert "Did you mean temperature?" in message
    assert message.count("Did you mean") == 2
    file = tmp_path / "sweep.yaml"
    file.write_text("base: a.yaml\nvariants: {a: {}}\nseed: [1]\nzzz: 1\nlearning_rate: 1.0\n")
    with pytest.raises(ConfigError) as caught:
        load_sweep(file)
    message = str(caught.value)
    assert "Did you mean seeds?" in message
    assert "Write worker.actor.optim.lr=1.0. It goes into a list, overrides: [...]." in message
    assert message.count("there is no such key") == 3
    assert message.count("Did you mean") == 1
