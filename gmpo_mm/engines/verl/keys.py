"""What becomes of every key of the schema on `engine=verl`: passed on to verl's configuration, read by our own code around
verl, or without a counterpart. `rules` refuses values; `translate` computes what is passed on."""

from __future__ import annotations

from gmpo_mm.algorithms.config import loss_keys
from gmpo_mm.config.keys import schema_keys
from gmpo_mm.config.schema import Config

ROLLOUT, MODEL, REF = "actor_rollout_ref.rollout.", "actor_rollout_ref.model.", "actor_rollout_ref.ref."
ACTOR_OF_VERL = "actor_rollout_ref.actor."
_FSDP, _REF_FSDP, _OPTIM = ACTOR_OF_VERL + "fsdp_config.", REF + "fsdp_config.", ACTOR_OF_VERL + "optim."

PASSED: dict[str, tuple[str, ...]] = {
    "data.max_prompt_length": ("data.max_prompt_length",),
    "data.max_response_length": ("data.max_response_length",),
    "data.rollout_batch_size": ("data.train_batch_size",),
    "data.val_batch_size": ("data.val_batch_size",),
    "data.override_chat_template": (MODEL + "custom_chat_template",),
    "data.shuffle": ("data.shuffle",),
    "data.seed": ("data.seed",),
    "algorithm.online_filtering": (
        "trainer.v1.sampler.custom_sampler",
        "trainer.v1.sampler.sampler_kwargs",
        "data.gen_batch_size",
    ),
    "algorithm.disable_kl": (ACTOR_OF_VERL + "use_kl_loss", "algorithm.use_kl_in_reward"),
    "algorithm.use_kl_loss": (ACTOR_OF_VERL + "use_kl_loss", "algorithm.use_kl_in_reward"),
    "algorithm.kl_penalty": (ACTOR_OF_VERL + "kl_loss_type", "algorithm.kl_penalty"),
    "algorithm.kl_coef": (ACTOR_OF_VERL + "kl_loss_coef", "algorithm.kl_ctrl.kl_coef"),
    "worker.actor.global_batch_size": (ACTOR_OF_VERL + "ppo_mini_batch_size",),
    "worker.actor.micro_batch_size_per_device_for_update": (
        ACTOR_OF_VERL + "ppo_micro_batch_size_per_gpu",
        ACTOR_OF_VERL + "ppo_max_token_len_per_gpu",
    ),
    "worker.actor.micro_batch_size_per_device_for_experience": (
        ROLLOUT + "log_prob_micro_batch_size_per_gpu",
        REF + "log_prob_micro_batch_size_per_gpu",
        ROLLOUT + "log_prob_max_token_len_per_gpu",
        REF + "log_prob_max_token_len_per_gpu",
    ),
    "worker.actor.max_grad_norm": (_OPTIM + "clip_grad",),
    "worker.actor.loss_avg_mode": (ACTOR_OF_VERL + "loss_agg_mode",),
    "worker.actor.entropy_coef": (ACTOR_OF_VERL + "entropy_coeff",),
    "worker.actor.ppo_epochs": (ACTOR_OF_VERL + "ppo_epochs",),
    "worker.actor.padding_free": (MODEL + "use_remove_padding",),
    "worker.actor.dynamic_batching": (ACTOR_OF_VERL + "use_dynamic_bsz",),
    "worker.actor.ulysses_size": (ACTOR_OF_VERL + "ulysses_sequence_parallel_size",),
    "worker.actor.use_torch_compile": (ACTOR_OF_VERL + "use_torch_compile", _FSDP + "use_torch_compile"),
    "worker.actor.model.model_path": (MODEL + "path",),
    "worker.actor.model.tokenizer_path": (MODEL + "tokenizer_path",),
    "worker.actor.model.override_config": (MODEL + "override_config",),
    "worker.actor.model.enable_gradient_checkpointing": (MODEL + "enable_gradient_checkpointing",),
    "worker.actor.model.trust_remote_code": (MODEL + "trust_remote_code",),
    "worker.actor.model.freeze_vision_tower": (MODEL + "external_lib",),
    "worker.actor.optim.lr": (_OPTIM + "lr",),
    "worker.actor.optim.betas": (_OPTIM + "betas",),
    "worker.actor.optim.weight_decay": (_OPTIM + "weight_decay",),
    "worker.actor.optim.lr_warmup_ratio": (_OPTIM + "lr_warmup_steps_ratio",),
    "worker.actor.optim.lr_warmup_steps": (_OPTIM + "lr_warmup_steps",),
    "worker.actor.optim.min_lr_ratio": (_OPTIM + "min_lr_ratio",),
    "worker.actor.optim.lr_scheduler_type": (_OPTIM + "lr_scheduler_type",),
    "worker.actor.fsdp.enable_full_shard": (_FSDP + "reshard_after_forward",),
    "worker.actor.fsdp.enable_cpu_offload": (_FSDP + "offload_policy",),
    "worker.actor.fsdp.torch_dtype": (_FSDP + "model_dtype",),
    "worker.actor.fsdp.fsdp_size": (_FSDP + "fsdp_size",),
    "worker.actor.fsdp.mp_param_dtype": (_FSDP + "mixed_precision.param_dtype",),
    "worker.actor.fsdp.mp_reduce_dtype": (_FSDP + "mixed_precision.reduce_dtype",),
    "worker.actor.fsdp.mp_buffer_dtype": (_FSDP + "mixed_precision.buffer_dtype",),
    "worker.actor.offload.offload_params": (_FSDP + "param_offload",),
    "worker.actor.offload.offload_optimizer": (_FSDP + "optimizer_offload",),
    "worker.ref.fsdp.enable_full_shard": (_REF_FSDP + "reshard_after_forward",),
    "worker.ref.fsdp.torch_dtype": (_REF_FSDP + "model_dtype",),
    "worker.ref.fsdp.fsdp_size": (_REF_FSDP + "fsdp_size",),
    "worker.ref.fsdp.mp_param_dtype": (_REF_FSDP + "mixed_precision.param_dtype",),
    "worker.ref.fsdp.mp_reduce_dtype": (_REF_FSDP + "mixed_precision.reduce_dtype",),
    "worker.ref.fsdp.mp_buffer_dtype": (_REF_FSDP + "mixed_precision.buffer_dtype",),
    "worker.reward.num_cpus": ("reward.num_workers",),
    "worker.rollout.name": (ROLLOUT + "name",),
    "worker.rollout.n": (ROLLOUT + "n",),
    "worker.rollout.temperature": (ROLLOUT + "temperature",),
    "worker.rollout.top_p": (ROLLOUT + "top_p",),
    "worker.rollout.top_k": (ROLLOUT + "top_k",),
    "worker.rollout.seed": (ROLLOUT + "seed",),
    "worker.rollout.limit_images": (ROLLOUT + "engine_kwargs.vllm.limit_mm_per_prompt",),
    "worker.rollout.dtype": (ROLLOUT + "dtype",),
    "worker.rollout.gpu_memory_utilization": (ROLLOUT + "gpu_memory_utilization",),
    "worker.rollout.ignore_eos": (ROLLOUT + "ignore_eos",),
    "worker.rollout.enforce_eager": (ROLLOUT + "enforce_eager",),
    "worker.rollout.enable_chunked_prefill": (ROLLOUT + "enable_chunked_prefill",),
    "worker.rollout.tensor_parallel_size": (ROLLOUT + "tensor_model_parallel_size",),
    "worker.rollout.max_model_len": (ROLLOUT + "max_model_len",),
    "worker.rollout.max_num_batched_tokens": (ROLLOUT + "max_num_batched_tokens",),
    "worker.rollout.disable_log_stats": (ROLLOUT + "disable_log_stats",),
    "worker.rollout.val_override_config": (ROLLOUT + "val_kwargs",),
    "trainer.max_steps": ("trainer.total_training_steps",),
    "trainer.total_epochs": ("trainer.total_training_steps",),
    "trainer.project_name": ("trainer.project_name",),
    "trainer.experiment_name": ("trainer.experiment_name",),
    "trainer.nnodes": ("trainer.nnodes",),
    "trainer.n_gpus_per_node": ("trainer.n_gpus_per_node",),
    "trainer.val_freq": ("trainer.test_freq",),
    "trainer.val_before_train": ("trainer.val_before_train",),
    "trainer.val_only": ("trainer.val_only",),
    "trainer.save_freq": ("trainer.save_freq",),
    "trainer.save_model_only": (ACTOR_OF_VERL + "checkpoint.save_contents",),
    "trainer.save_checkpoint_path": ("trainer.default_local_dir",),
    "trainer.run_dir": ("trainer.default_local_dir",),
    "trainer.load_checkpoint_path": ("trainer.resume_mode", "trainer.resume_from_path"),
    "trainer.resume": ("trainer.resume_mode", "trainer.resume_from_path"),
    "trainer.device": ("trainer.device",),
}
"""Key -> the keys of verl's configuration that are computed from it."""

_LOSS = "our policy loss, registered with verl"
_DATA = "our data set, given to verl's data loader"
OURS: dict[str, str] = {
    "engine": "chooses the engine",
    "ray_address": "our start of Ray",
    **dict.fromkeys(
        (
            "data.train_files", "data.val_files", "data.prompt_key", "data.answer_key", "data.image_key", "data.video_key",
            "data.image_dir", "data.video_fps", "data.format_prompt", "data.min_pixels", "data.max_pixels",
            "data.filter_overlong_prompts",
        ),
        _DATA,
    ),
    "algorithm.adv_estimator": "our advantages, registered with verl",
    "algorithm.norm_adv_by_std": "our advantages, registered with verl",
    "algorithm.gamma": "our advantages, registered with verl",
    "algorithm.gdpo_reward_keys": "our advantages, registered with verl",
    "algorithm.gdpo_reward_weights": "our advantages, registered with verl",
    "algorithm.mask_truncated_completions": "our trainer, around each update",
    **dict.fromkeys(
        (
            "algorithm.filter_key", "algorithm.filter_low", "algorithm.filter_high", "trainer.max_try_make_batch",
            "data.mini_rollout_batch_size",
        ),
        "our filter of groups, a sampler of verl's replay buffer",
    ),
    **dict.fromkeys(
        (
            "worker.actor.loss_type",
            *(f"worker.actor.{key}" for key in loss_keys() if key != "loss_avg_mode"),
        ),
        _LOSS,
    ),
    "worker.actor.old_log_probs": "always recomputed by the trainer",
    "worker.actor.seq_mean": "always the exact mean",
    "worker.actor.logits_dtype": "verl's own head, in worker.actor.fsdp.mp_param_dtype",
    "worker.reward.reward_function": "our reward manager, in verl's reward workers",
    "worker.reward.reward_function_kwargs": "our reward manager, in verl's reward workers",
    "worker.reward.skip_special_tokens": "our reward manager, in verl's reward workers",
    "worker.reward.overlong_buffer.enable": "our reward manager, in verl's reward workers",
    "worker.reward.overlong_buffer.len": "our reward manager, in verl's reward workers",
    "worker.reward.overlong_buffer.penalty_factor": "our reward manager, in verl's reward workers",
    **dict.fromkeys(
        ("worker.rollout.correction", "worker.rollout.correction_cap", "worker.rollout.correction_floor"),
        "our trainer makes weights for our loss; verl's own rollout_correction stays off",
    ),
    "worker.rollout.max_log_prob_gap": "our trainer compares the sampler's log-probabilities with the model's",
    "trainer.logger": "our trackers",
    "trainer.log_samples": "our trainer, at validations",
    "trainer.record_steps": "our trainer",
    "trainer.compare_losses": "our trainer",
    "trainer.compare_losses_gradients_every": "our trainer",
    "trainer.val_generations_to_log": "our trackers",
    "trainer.save_limit": "our trainer removes older checkpoints after the new one",
    "trainer.find_last_checkpoint": "our run directory",
    "trainer.ray_timeline": "our launch",
    "trainer.threads": "our launch: torch's threads in each process",
}  # fmt: skip
"""Key -> what of ours reads it."""

VERL = "engine verl: "
NO_CRITIC = VERL + "no critic (adv_estimator=gae is refused)"
UNFILTERED = {"data.mini_rollout_batch_size": VERL + "all prompts of a step are sampled in one call"}
"""Key -> why nothing reads it without online filtering."""
FSDP2 = VERL + "always FSDP2, which has no such switch"
NO_LORA = VERL + "all weights are trained"
NO_COUNTERPART: dict[str, str] = {
    "data.filter_overlong_prompts_workers": VERL + "prompts are measured in the trainer's process",
    "algorithm.lam": NO_CRITIC,
    "algorithm.drop_zero_advantage": VERL + "every rank passes all of its rows; the gradient is the same",
    "algorithm.kl_type": VERL + "the coefficient is fixed (adaptive is refused)",
    "algorithm.kl_horizon": VERL + "the coefficient is fixed (adaptive is refused)",
    "algorithm.kl_target": VERL + "the coefficient is fixed (adaptive is refused)",
    "worker.hybrid_engine": VERL + "trainer and sampler always share their GPUs here",
    "worker.actor.strategy": VERL + "always FSDP2",
    "worker.actor.model.lora.rank": NO_LORA + " (LoRA is refused)",
    "worker.actor.model.lora.alpha": NO_LORA,
    "worker.actor.model.lora.target_modules": NO_LORA,
    "worker.actor.model.lora.exclude_modules": NO_LORA,
    "worker.actor.optim.strategy": VERL + "always AdamW (adamw_bf16 is refused)",
    "worker.actor.fsdp.enable_rank0_init": FSDP2,
    "worker.actor.fsdp.use_orig_params": FSDP2,
    "worker.ref.strategy": VERL + "always FSDP2",
    "worker.ref.fsdp.enable_cpu_offload": VERL + "the reference model always lies in CPU memory between uses",
    "worker.ref.fsdp.enable_rank0_init": FSDP2,
    "worker.ref.fsdp.use_orig_params": FSDP2,
    "worker.ref.offload.offload_params": VERL + "the reference model always lies in CPU memory between uses",
    "worker.ref.offload.offload_optimizer": VERL + "a reference model has no optimizer",
    "worker.rollout.disable_tqdm": VERL + "its sampling servers show no bars",
    "worker.rollout.staleness": VERL + "refused but for 0",
    **{key: VERL + "refused but for its default" for key in schema_keys() if key.startswith("worker.rollout.emulate.")},
    "trainer.critic_warmup": NO_CRITIC,
    "trainer.dtype": VERL + "worker.actor.fsdp.torch_dtype and mp_* set the precision (on the CPU: float32)",
    **{key: NO_CRITIC for key in schema_keys() if key.startswith("worker.critic.")},
}
"""Key -> why nothing reads it; told when a file sets it to something else than its default."""

ON_CPU_IGNORED = (
    "worker.actor.padding_free", "worker.actor.use_torch_compile", "worker.actor.fsdp.torch_dtype",
    "worker.actor.fsdp.mp_param_dtype", "worker.actor.fsdp.mp_reduce_dtype", "worker.actor.fsdp.mp_buffer_dtype",
    "worker.ref.fsdp.torch_dtype", "worker.ref.fsdp.mp_param_dtype", "worker.ref.fsdp.mp_reduce_dtype",
    "worker.ref.fsdp.mp_buffer_dtype", "worker.rollout.dtype", "worker.rollout.gpu_memory_utilization",
    "worker.rollout.enforce_eager", "worker.rollout.enable_chunked_prefill", "worker.rollout.max_model_len",
    "worker.rollout.max_num_batched_tokens", "worker.rollout.limit_images", "worker.rollout.tensor_parallel_size",
)  # fmt: skip
"""Keys that `trainer.device=cpu` does not read: padded batches, float32, no compiler, transformers in place of vLLM."""


def is_cpu(config: Config) -> bool:
    """Whether the CPU plug-in was asked for; it never is by default."""
    return config.trainer.device == "cpu"
