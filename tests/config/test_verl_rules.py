"""What becomes of each key with engine=verl, found without verl: passed on, ours, without a counterpart, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gmpo_mm.config import Config, policy_loss_config
from gmpo_mm.config.keys import flatten, schema_keys
from gmpo_mm.engines.checks import ineffective_keys, validate_for_training
from gmpo_mm.engines.verl.keys import NO_COUNTERPART, ON_CPU_IGNORED, OURS, PASSED
from gmpo_mm.engines.verl.translate import CPU_PLUGIN, FROZEN_TOWER, described, to_verl
from gmpo_mm.errors import ConfigError
from tests.config.conftest import Load

# 8 prompts x 4 samples, mini-batches of 4 prompts = 16 samples, on 2 processes
VERL = (
    "engine=verl", "data.rollout_batch_size=8", "worker.actor.global_batch_size=4", "trainer.n_gpus_per_node=2",
    "worker.actor.micro_batch_size_per_device_for_update=4", "worker.actor.micro_batch_size_per_device_for_experience=8",
)  # fmt: skip
ACTOR, ROLLOUT = "actor_rollout_ref.actor.", "actor_rollout_ref.rollout."
WARMUP, VALIDATION = ACTOR + "optim.lr_warmup_steps", ROLLOUT + "val_kwargs."
FROM_ELSEWHERE = {"trainer.max_steps", "trainer.total_epochs", "trainer.resume", "trainer.load_checkpoint_path"}


def problem(load: Load, *overrides: str) -> str:
    with pytest.raises(ConfigError) as raised:
        validate_for_training(load(*VERL, *overrides))
    return str(raised.value)


def told(load: Load, *overrides: str, steps: int | None = 7) -> dict[str, Any]:
    return to_verl(load(*VERL, *overrides).config, total_steps=steps)


def test_every_key_of_the_schema_has_one_fate() -> None:
    fates = [*PASSED, *OURS, *NO_COUNTERPART]
    assert sorted(fates) == sorted(schema_keys())
    assert set(ON_CPU_IGNORED) <= set(PASSED)


def test_a_configuration_that_fits_passes_on_gpus_and_on_the_cpu(load: Load) -> None:
    validate_for_training(load(*VERL))
    validate_for_training(load(*VERL, "trainer.device=cpu"))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["algorithm.adv_estimator=gae", "worker.actor.loss_type=default"], ["'gae'", "engine=verl has none"]),
        (["algorithm.adv_estimator=remax"], ["'remax'", "use grpo or rloo"]),
        (["algorithm.kl_type=adaptive"], ["kl_type = 'adaptive'", "does not save", "fixed"]),
        (["worker.actor.seq_mean=easyr1"], ["seq_mean = 'easyr1'", "exact"]),
        (["worker.actor.old_log_probs=sampler"], ["old_log_probs = 'sampler'", "recompute"]),
        (["worker.actor.model.lora.rank=8"], ["lora.rank = 8", "set it to 0"]),
        (
            ["trainer.compare_losses=[gspo]", "trainer.compare_losses_gradients_every=5"],
            ["trainer.compare_losses_gradients_every = 5", "set it to 0", "gmpo-mm replay"],
        ),
        (["worker.actor.optim.strategy=adamw_bf16"], ["'adamw_bf16'", "set it to adamw"]),
        (["worker.rollout.val_override_config={max_tokens: 9}"], ["max_tokens = 9", "remove it"]),
        (["worker.rollout.name=hf"], ["name = 'hf'", "samples with vLLM on GPUs"]),
        (["trainer.device=cpu", "worker.rollout.name=vllm"], ["name = 'vllm'", "transformers samples"]),
        (["trainer.device=cpu", "trainer.dtype=bfloat16"], ["'bfloat16'", "float32"]),
        (["trainer.device=cuda:1"], ["'cuda:1'", "set it to auto or cuda"]),
        (["trainer.n_gpus_per_node=3"], ["tensor_parallel_size = 2", "does not divide", "set it to 1"]),
        (["trainer.n_gpus_per_node=3", "worker.rollout.tensor_parallel_size=1"], ["global_batch_size = 4", "multiple of 3"]),
        (
            ["worker.actor.dynamic_batching=false", "worker.actor.micro_batch_size_per_device_for_update=16"],
            ["for_update = 16", "8 samples", "set it to 8"],
        ),
        (["worker.actor.ulysses_size=2", "worker.actor.padding_free=false"], ["ulysses_size = 2", "padding_free=true"]),
        (["trainer.n_gpus_per_node=0"], ["n_gpus_per_node = 0", "at least 1"]),
        (["ray_address=ray://head:10001"], ["ray://head:10001", "ray_address=auto"]),
    ],
    ids=lambda value: " ".join(value) if value and "=" in value[0] and "." in value[0] else "",
)
def test_what_verl_can_not_honour_is_refused_with_the_fix(load: Load, overrides: list[str], said: list[str]) -> None:
    message = problem(load, *overrides)
    for words in said:
        assert words in message


def test_keys_without_a_counterpart_are_told_with_the_reason(load: Load) -> None:
    found = {key: reason for key, _, reason in ineffective_keys(load(*VERL, "data.mini_rollout_batch_size=4"))}
    assert found["data.mini_rollout_batch_size"] == "engine verl: all prompts of a step are sampled in one call"
    filtering = ("data.mini_rollout_batch_size=4", "algorithm.online_filtering=true", "algorithm.filter_low=0.2")
    unread = {key for key, _, _ in ineffective_keys(load(*VERL, *filtering))}
    assert not {"data.mini_rollout_batch_size", "algorithm.filter_low"} & unread
    on_cpu = {key for key, _, _ in ineffective_keys(load(*VERL, "trainer.device=cpu", "worker.rollout.enforce_eager=true"))}
    assert "worker.rollout.enforce_eager" in on_cpu


def test_the_loss_travels_whole(load: Load) -> None:
    loaded = load(*VERL, "worker.actor.loss_type=gmpo", "worker.actor.gmpo.log_clip_low=0.3")
    section = to_verl(loaded.config, total_steps=1)[ACTOR + "policy_loss"]
    assert section["options"]["gmpo"] == {"clip": "token", "normalize": True, "log_clip_low": 0.3, "log_clip_high": 0.4}
    assert section["options"]["loss_type"] == policy_loss_config(loaded.config).loss_type == "gmpo"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["worker.actor.loss_type=gmpo"], {ACTOR + "loss_agg_mode": "seq-mean-token-mean"}),
        (["worker.actor.loss_type=default"], {ACTOR + "loss_agg_mode": "token-mean"}),
        (["algorithm.disable_kl=true"], {ACTOR + "use_kl_loss": False, "algorithm.use_kl_in_reward": False}),
        (["algorithm.use_kl_loss=true"], {ACTOR + "use_kl_loss": True, "algorithm.use_kl_in_reward": False}),
        (["algorithm.use_kl_loss=false"], {ACTOR + "use_kl_loss": False, "algorithm.use_kl_in_reward": True}),
        (["data.max_prompt_length=100", "data.max_response_length=28"], {ACTOR + "ppo_max_token_len_per_gpu": 4 * 128}),
        (["worker.actor.optim.lr_warmup_steps=0"], {WARMUP: 0, WARMUP + "_ratio": 0.0}),
        (["worker.actor.optim.lr_warmup_ratio=0.1"], {WARMUP: -1, WARMUP + "_ratio": 0.1}),
        (["worker.actor.fsdp.torch_dtype=bf16"], {"actor_rollout_ref.ref.fsdp_config.model_dtype": "bf16"}),
        (["worker.rollout.limit_images=3"], {ROLLOUT + "engine_kwargs.vllm.limit_mm_per_prompt": {"image": 3}}),
        (["worker.rollout.dtype=bf16"], {ROLLOUT + "name": "vllm", ROLLOUT + "dtype": "bfloat16"}),
        (["trainer.device=cpu"], {ROLLOUT + "name": "gmpo_mm_hf", ACTOR + "fsdp_config.model_dtype": "fp32"}),
        (["worker.rollout.val_override_config={n: 16}"], {VALIDATION + "n": 16, VALIDATION + "do_sample": True}),
        (["worker.rollout.val_override_config={temperature: 0}"], {VALIDATION + "do_sample": False}),
        (
            ["algorithm.online_filtering=true", "data.mini_rollout_batch_size=4", "algorithm.filter_key=accuracy"],
            {
                "data.gen_batch_size": 4, "trainer.v1.sampler.custom_sampler.name": "FilteredGroups",
                "trainer.v1.sampler.sampler_kwargs": {
                    "prompts_a_try": 4, "filter_key": "accuracy", "filter_low": 0.01, "filter_high": 0.99,
                },
            },
        ),
        (["worker.actor.model.freeze_vision_tower=true"], {"actor_rollout_ref.model.external_lib": FROZEN_TOWER}),
        (["trainer.device=cpu"], {"actor_rollout_ref.model.external_lib": CPU_PLUGIN}),
        (["trainer.save_freq=-1"], {"trainer.save_freq": 10**9, "trainer.total_training_steps": 7}),
        (["trainer.save_model_only=true"], {ACTOR + "checkpoint.save_contents": ["model"]}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)  # fmt: skip
def test_keys_arrive_under_verls_names(load: Load, overrides: list[str], expected: dict[str, Any]) -> None:
    values = told(load, *overrides)
    assert {key: values[key] for key in expected} == expected


# a value that differs from the default, where any of the type would do
OTHER = {"worker.rollout.val_override_config": {"n": 3}, "worker.actor.model.override_config": {"rope_theta": 5.0}}


@pytest.mark.parametrize("key", sorted(set(PASSED) - FROM_ELSEWHERE - {"worker.rollout.name"}))
def test_each_passed_key_changes_what_verl_is_told(key: str, tmp_path: Path) -> None:
    """On GPUs, where the sampler is always vLLM; the other four left out come from the data and from the run directory."""
    template = tmp_path / "t.jinja"
    template.write_text("{{ content }}")
    texts = {
        "data.override_chat_template": str(template), "trainer.device": "cpu",
        "algorithm.kl_penalty": "mse", "worker.actor.loss_avg_mode": "seq",
    }  # fmt: skip
    config, same = Config(), Config()
    config.data.val_files = same.data.val_files = "some.parquet"
    before = to_verl(same, total_steps=1)
    *sections, name = key.split(".")
    holder: Any = config
    for section in sections:
        holder = getattr(holder, section)
    old = flatten(config)[key]
    new = OTHER.get(key) or texts.get(key) or _other(old)
    setattr(holder, name, new)
    assert to_verl(config, total_steps=1) != before


def _other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 2  # -1 means no limit
    if isinstance(value, list):
        return [item / 2 for item in value]
    return "other" if value is None or isinstance(value, str) else value


def test_the_translation_names_the_keys_it_comes_from(load: Load) -> None:
    config = load(*VERL).config
    told_rows = described(config, to_verl(config, total_steps=None))
    rows = {theirs.partition(" = ")[0]: ours for ours, theirs in told_rows}
    assert rows["data.train_batch_size"] == "data.rollout_batch_size"
    assert rows[ACTOR + "strategy"] == "(always)" and rows[ROLLOUT + "val_kwargs.n"] == "worker.rollout.val_override_config"
