"""Our configuration as verl's: which of its keys get which values. Imports no `verl`: a dry run can show it anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gmpo_mm.algorithms import loss_unit
from gmpo_mm.config import Config, policy_loss_config, resolve_model_path, run_directory
from gmpo_mm.config.shipped import find_file
from gmpo_mm.engines.verl.keys import ACTOR_OF_VERL, MODEL, ON_CPU_IGNORED, PASSED, REF, ROLLOUT, is_cpu
from gmpo_mm.runs.run_directory import RunDirectory

LOSS_NAME = "gmpo_mm"
"""The name under which our losses are registered with verl; which of them it is stands in the options beside it."""
ADVANTAGE_NAME = "gmpo_mm"
HF_ROLLOUT = "gmpo_mm_hf"
CPU_PLUGIN, FROZEN_TOWER = "gmpo_mm.engines.verl.cpu.plugin", "gmpo_mm.engines.verl.frozen_tower"
"""What each process of verl imports with the model; the second loads the first where it is needed."""
NEVER = 10**9
"""A period that no run reaches: verl then does a thing after the last step only."""
DTYPES = {"fp32": "fp32", "float32": "fp32", "bf16": "bf16", "bfloat16": "bf16", "fp16": "fp16", "float16": "fp16"}
LONG_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def to_verl(config: Config, *, total_steps: int | None, run: RunDirectory | None = None) -> dict[str, Any]:
    """Dotted keys of verl's configuration and their values, what is fixed here included.

    `total_steps` is None where the data has not been counted; `run` decides where training starts (a new one without).
    """
    return {
        **_data(config),
        **_algorithm(config),
        **_filtering(config),
        **_actor(config),
        **_model(config),
        **_optimizer(config),
        **_precision(config),
        **_rollout(config),
        **_trainer(config, total_steps),
        **_start(config, run),
    }


def described(config: Config, values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(our keys, verl's key = value) rows; keys of verl's that are the same in every run have no key of ours."""
    sources: dict[str, list[str]] = {}
    for ours, theirs in PASSED.items():
        if is_cpu(config) and ours in ON_CPU_IGNORED:
            continue
        for key in theirs:
            sources.setdefault(key, []).append(ours)
    return [(", ".join(_sources(sources, key)) or "(always)", f"{key} = {_shown(value)}") for key, value in values.items()]


def _sources(sources: Mapping[str, list[str]], key: str) -> list[str]:
    return next((found for known, found in sources.items() if key == known or key.startswith(known + ".")), [])


def _shown(value: Any) -> str:
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 100 else text[:97] + "..."


def _data(config: Config) -> dict[str, Any]:
    data = config.data
    return {
        "data.train_files": [data.train_files or data.val_files],
        "data.val_files": [data.val_files or data.train_files],  # verl always makes both loaders
        "data.custom_cls.path": "pkg://gmpo_mm.engines.verl.dataset",
        "data.custom_cls.name": "GMPODataset",
        "data.dataloader_num_workers": 0,
        "data.train_batch_size": data.rollout_batch_size,
        "data.val_batch_size": data.val_batch_size if data.val_batch_size > 0 else None,
        "data.max_prompt_length": data.max_prompt_length,
        "data.max_response_length": data.max_response_length,
        "data.shuffle": data.shuffle,
        "data.seed": data.seed,
        "reward.num_workers": config.worker.reward.num_cpus,
        "reward.reward_manager.source": "importlib",
        "reward.reward_manager.name": "GMPORewardManager",
        "reward.reward_manager.module.path": "pkg://gmpo_mm.engines.verl.rewards",
    }


def _filtering(config: Config) -> dict[str, Any]:
    algorithm, prefix = config.algorithm, "trainer.v1.sampler."
    if not algorithm.online_filtering:
        return {}
    a_try = config.data.mini_rollout_batch_size or config.data.rollout_batch_size
    return {
        "data.gen_batch_size": a_try,
        prefix + "custom_sampler.path": "pkg://gmpo_mm.engines.verl.filtering",
        prefix + "custom_sampler.name": "FilteredGroups",
        prefix + "sampler_kwargs": {
            "prompts_a_try": a_try, "filter_key": algorithm.filter_key, "filter_low": algorithm.filter_low,
            "filter_high": algorithm.filter_high,
        },
    }  # fmt: skip


def _algorithm(config: Config) -> dict[str, Any]:
    algorithm = config.algorithm
    in_loss = algorithm.use_kl_loss and not algorithm.disable_kl
    in_reward = not algorithm.use_kl_loss and not algorithm.disable_kl
    return {
        "algorithm.adv_estimator": ADVANTAGE_NAME,
        "algorithm.use_kl_in_reward": in_reward,
        "algorithm.kl_penalty": algorithm.kl_penalty,
        "algorithm.kl_ctrl.type": "fixed",
        "algorithm.kl_ctrl.kl_coef": algorithm.kl_coef,
        ACTOR_OF_VERL + "use_kl_loss": in_loss,
        ACTOR_OF_VERL + "kl_loss_type": algorithm.kl_penalty,
        ACTOR_OF_VERL + "kl_loss_coef": algorithm.kl_coef,
    }


def _actor(config: Config) -> dict[str, Any]:
    actor, longest = config.worker.actor, config.data.max_prompt_length + config.data.max_response_length
    loss = policy_loss_config(config)
    options = asdict(loss)
    if ".py:" in loss.loss_type:
        path, _, name = loss.loss_type.rpartition(":")
        options["loss_type"] = f"{Path(path).absolute()}:{name}"
    update, experience = actor.micro_batch_size_per_device_for_update, actor.micro_batch_size_per_device_for_experience
    compiled = actor.use_torch_compile and not is_cpu(config)
    return {
        ACTOR_OF_VERL + "strategy": "fsdp2",
        ACTOR_OF_VERL + "policy_loss": {
            "_target_": "gmpo_mm.engines.verl.losses.GMPOPolicyLossConfig",
            "loss_mode": LOSS_NAME,
            "options": options,
        },
        ACTOR_OF_VERL + "loss_agg_mode": "token-mean" if loss_unit(loss) == "token" else "seq-mean-token-mean",
        ACTOR_OF_VERL + "entropy_coeff": actor.entropy_coef,
        ACTOR_OF_VERL + "ppo_mini_batch_size": actor.global_batch_size,
        ACTOR_OF_VERL + "ppo_epochs": actor.ppo_epochs,
        ACTOR_OF_VERL + "use_dynamic_bsz": actor.dynamic_batching,
        ACTOR_OF_VERL + "ppo_micro_batch_size_per_gpu": update,
        ACTOR_OF_VERL + "ppo_max_token_len_per_gpu": update * longest,  # EasyR1's budget of a dynamic micro-batch
        ACTOR_OF_VERL + "ulysses_sequence_parallel_size": actor.ulysses_size,
        ACTOR_OF_VERL + "use_torch_compile": compiled,
        ACTOR_OF_VERL + "fsdp_config.use_torch_compile": compiled,
        ROLLOUT + "log_prob_micro_batch_size_per_gpu": experience,
        ROLLOUT + "log_prob_max_token_len_per_gpu": experience * longest,
        REF + "log_prob_micro_batch_size_per_gpu": experience,
        REF + "log_prob_max_token_len_per_gpu": experience * longest,
    }


def _model(config: Config) -> dict[str, Any]:
    model, template = config.worker.actor.model, config.data.override_chat_template
    tokenizer = model.tokenizer_path or model.model_path
    override = dict(model.override_config or {})
    plugin = CPU_PLUGIN if is_cpu(config) else None
    if is_cpu(config):
        override["attn_implementation"] = "sdpa"
    return {
        MODEL + "external_lib": FROZEN_TOWER if model.freeze_vision_tower else plugin,
        MODEL + "path": resolve_model_path(model.model_path or ""),
        MODEL + "tokenizer_path": resolve_model_path(tokenizer or ""),
        MODEL + "custom_chat_template": find_file(template).read_text(encoding="utf-8") if template else None,
        MODEL + "override_config": override,
        MODEL + "enable_gradient_checkpointing": model.enable_gradient_checkpointing,
        MODEL + "trust_remote_code": model.trust_remote_code,
        MODEL + "use_remove_padding": config.worker.actor.padding_free and not is_cpu(config),
    }


def _optimizer(config: Config) -> dict[str, Any]:
    optim, prefix = config.worker.actor.optim, ACTOR_OF_VERL + "optim."
    steps = optim.lr_warmup_steps
    return {
        prefix + "lr": optim.lr,
        prefix + "betas": list(optim.betas),
        prefix + "weight_decay": optim.weight_decay,
        prefix + "clip_grad": config.worker.actor.max_grad_norm,
        # verl reads the ratio whenever the steps are not above 0; ours go before it, 0 included
        prefix + "lr_warmup_steps": -1 if steps is None else steps,
        prefix + "lr_warmup_steps_ratio": optim.lr_warmup_ratio if steps is None else 0.0,
        prefix + "min_lr_ratio": optim.min_lr_ratio or 0.0,
        prefix + "lr_scheduler_type": optim.lr_scheduler_type,
    }


def _precision(config: Config) -> dict[str, Any]:
    """Sharding and number types of the trained model and of the reference, which is stored as the trained one is."""
    actor, ref, offload = config.worker.actor.fsdp, config.worker.ref.fsdp, config.worker.actor.offload
    values: dict[str, Any] = {
        ACTOR_OF_VERL + "fsdp_config.offload_policy": actor.enable_cpu_offload,
        ACTOR_OF_VERL + "fsdp_config.param_offload": offload.offload_params,
        ACTOR_OF_VERL + "fsdp_config.optimizer_offload": offload.offload_optimizer,
    }
    stored = DTYPES.get(actor.torch_dtype or "fp32", actor.torch_dtype)
    for prefix, section, dtype in (
        (ACTOR_OF_VERL, actor, stored),
        (REF, ref, DTYPES.get(ref.torch_dtype, ref.torch_dtype) if ref.torch_dtype else stored),
    ):
        mixed = {part: getattr(section, f"mp_{part}") for part in ("param_dtype", "reduce_dtype", "buffer_dtype")}
        values |= {
            prefix + "fsdp_config.reshard_after_forward": section.enable_full_shard,
            prefix + "fsdp_config.fsdp_size": section.fsdp_size,
            prefix + "fsdp_config.model_dtype": "fp32" if is_cpu(config) else dtype,
            prefix + "fsdp_config.mixed_precision": dict.fromkeys(mixed, "fp32") if is_cpu(config) else mixed,
        }
    return values


def _rollout(config: Config) -> dict[str, Any]:
    rollout, cpu = config.worker.rollout, is_cpu(config)
    validation = {"n": 1, "temperature": rollout.temperature, "top_p": rollout.top_p, "top_k": rollout.top_k}
    validation |= rollout.val_override_config
    values = {
        ROLLOUT + "name": HF_ROLLOUT if cpu else "vllm",
        ROLLOUT + "n": rollout.n,
        ROLLOUT + "temperature": rollout.temperature,
        ROLLOUT + "top_p": rollout.top_p,
        ROLLOUT + "top_k": rollout.top_k,
        ROLLOUT + "seed": rollout.seed,
        ROLLOUT + "ignore_eos": rollout.ignore_eos,
        ROLLOUT + "calculate_log_probs": True,
        ROLLOUT + "disable_log_stats": rollout.disable_log_stats,
        ROLLOUT + "tensor_model_parallel_size": 1 if cpu else rollout.tensor_parallel_size,
        ROLLOUT + "val_kwargs.do_sample": float(validation["temperature"]) > 0,
        **{ROLLOUT + f"val_kwargs.{name}": validation[name] for name in ("n", "temperature", "top_p", "top_k")},
    }
    if cpu:
        small = {ROLLOUT + "agent.num_workers": 1, "transfer_queue.backend.SimpleStorage.num_data_storage_units": 1}
        return values | {ROLLOUT + "dtype": "float32", ROLLOUT + "free_cache_engine": False} | small
    values |= {
        ROLLOUT + "dtype": LONG_DTYPES.get(rollout.dtype, rollout.dtype),
        ROLLOUT + "gpu_memory_utilization": rollout.gpu_memory_utilization,
        ROLLOUT + "enforce_eager": rollout.enforce_eager,
        ROLLOUT + "enable_chunked_prefill": rollout.enable_chunked_prefill,
        ROLLOUT + "max_model_len": rollout.max_model_len,
        ROLLOUT + "max_num_batched_tokens": rollout.max_num_batched_tokens,
    }
    if rollout.limit_images > 0:
        values[ROLLOUT + "engine_kwargs.vllm.limit_mm_per_prompt"] = {"image": rollout.limit_images}
    return values


def _trainer(config: Config, total_steps: int | None) -> dict[str, Any]:
    trainer, validates = config.trainer, bool(config.data.val_files)
    saved = ["model"] if trainer.save_model_only else ["model", "optimizer", "extra"]
    return {
        "trainer.total_epochs": NEVER,  # the steps below are what ends a run
        "trainer.total_training_steps": total_steps,
        "trainer.project_name": trainer.project_name,
        "trainer.experiment_name": trainer.experiment_name,
        "trainer.logger": [],
        "trainer.nnodes": trainer.nnodes,
        "trainer.n_gpus_per_node": trainer.n_gpus_per_node,
        "trainer.test_freq": (trainer.val_freq if trainer.val_freq > 0 else NEVER) if validates else -1,
        "trainer.val_only": trainer.val_only,
        "trainer.validation_data_dir": "samples",  # any name: our trainer is handed the samples and writes them
        "trainer.save_freq": trainer.save_freq if trainer.save_freq > 0 else NEVER,
        "trainer.default_local_dir": str(run_directory(config).absolute()),
        "trainer.device": "cpu" if is_cpu(config) else "cuda",
        ACTOR_OF_VERL + "checkpoint.save_contents": saved,
    }


def _start(config: Config, run: RunDirectory | None) -> dict[str, Any]:
    """Where verl starts from is what the run directory decided; a resumed run has had its first validation."""
    checkpoint = None if run is None else run.checkpoint
    resumed = run is not None and run.resuming and run.from_step > 0 and not config.trainer.val_only
    return {
        "trainer.val_before_train": config.trainer.val_before_train and bool(config.data.val_files) and not resumed,
        "trainer.resume_mode": "disable" if checkpoint is None else "resume_path",
        "trainer.resume_from_path": None if checkpoint is None else str(checkpoint.absolute()),
    }
