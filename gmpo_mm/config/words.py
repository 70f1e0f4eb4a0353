"""The words of TRL, verl, OpenRLHF, ms-swift and older EasyR1, and what to write here; read for error messages only.

A foreign key is looked up by its longest known ending: `actor_rollout_ref.rollout.n` is found as `rollout.n`. Settings are
`key=value` with spaces between; `{value}` stands for what was written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gmpo_mm.config.keys import schema_keys

ACTOR, ROLLOUT, DATA, MODEL = "worker.actor.", "worker.rollout.", "data.", "worker.actor.model."
BUFFER = "worker.reward.overlong_buffer."
MICRO = ACTOR + "micro_batch_size_per_device_for_"
CLIP_NOTE = "loss_type=gmpo clips in log space: worker.actor.gmpo.log_clip_low and log_clip_high, 0.4 each in the paper"
SAMPLES = "it counts samples there and prompts here, so divide by worker.rollout.n"
SHARDS = "FSDP shards with engine=easyr1 and engine=verl: the keys in worker.actor.fsdp"
MODE_NOTE = "the mode is worker.rollout.correction"
REJECTION_NOTE = "masked tokens and sequences go on to count in the mean, those that verl rejects do not"
PYTHON_REWARD = "the reward is a Python function: worker.reward.reward_function=path/to/file.py:function"
MAPPINGS = ("score_function_kwargs", "reward_kwargs", "reward_function_kwargs")
"""Endings of keys whose value is a mapping as a whole."""


@dataclass(frozen=True)
class Word:
    """A key of another project: what to set here ("" where there is no such key), and what else to know."""

    settings: str
    note: str = ""


def _words(settings: str, *names: str, note: str = "") -> dict[str, Word]:
    return dict.fromkeys(names, Word(settings, note))


FOREIGN_KEYS: dict[str, Word] = {
    # data
    **_words(DATA + "max_response_length={value}", "max_completion_length", "max_new_tokens"),
    **_words(DATA + "max_response_length={value}", "generate_max_len", "rollout.response_length"),
    **_words(DATA + "max_prompt_length={value}", "prompt_max_len", "rollout.prompt_length"),
    **_words(DATA + "max_prompt_length={value}", "max_length", note="max_completion_length comes on top of it"),
    **_words("", "max_len", note="set data.max_prompt_length and data.max_response_length, which add up to it"),
    **_words(DATA + "rollout_batch_size={value}", "data.train_batch_size", note="both count prompts"),
    **_words(DATA + "rollout_batch_size={value}", "train_batch_size",
        note="verl's counts prompts a step; OpenRLHF's counts samples an update: there set "
        "worker.actor.global_batch_size to it divided by worker.rollout.n",
    ),
    **_words(DATA + "mini_rollout_batch_size={value}", "gen_batch_size"),
    **_words(DATA + "rollout_batch_size={value}", "generation_batch_size", note=SAMPLES),
    **_words(DATA + "train_files={value}", "prompt_data", "dataset", "dataset_name", "train_dataset"),
    **_words(DATA + "val_files={value}", "eval_dataset", "val_dataset", "test_files"),
    **_words("", "dataset_train_split", "prompt_split", "dataset_split", "split_dataset_ratio",
             note="the split is part of the name: data.train_files=owner/name@train"),
    **_words(DATA + "prompt_key={value}", "input_key", "prompt_column"),
    **_words(DATA + "answer_key={value}", "label_key", "answer_column", "solution_key"),
    **_words(DATA + "format_prompt={value}", "input_template", "format_prompt_path",
             note="a Jinja file with {{ content }}"),
    **_words(DATA + "format_prompt=FILE.jinja", "system_prompt", "system",
             note="put the text into a Jinja file with {{ content }}"),
    **_words(DATA + "override_chat_template={value}", "chat_template", "chat_template_path",
             "custom_chat_template"),
    **_words(DATA + "shuffle={value}", "shuffle_dataset", "dataset_shuffle"),
    **_words("", "max_samples", "train_max_samples", "val_max_samples",
             note="write the first rows into the name: data.train_files=owner/name@train[:100]"),
    **_words(DATA + "max_pixels=PIXELS", "image_max_token_num", note="a token is 784 pixels (Qwen2.5-VL)"),
    **_words(DATA + "filter_overlong_prompts={value}", "data.truncation",
             note="over-long prompts are left out (true) or an error; none is cut"),
    # model
    **_words(MODEL + "model_path={value}", "model_name_or_path", "pretrain", "model.path", "model",
             "model_id_or_path", "model_name", "pretrained_model"),
    **_words(MODEL + "tokenizer_path={value}", "tokenizer", "tokenizer_name", "tokenizer_name_or_path"),
    **_words(MODEL + "enable_gradient_checkpointing={value}", "gradient_checkpointing"),
    **_words(MODEL + "freeze_vision_tower={value}", "freeze_vit", "freeze_vision_modules"),
    **_words(MODEL + "lora.rank={value}", "lora_rank", "lora_r", "peft_config.r"),
    **_words(MODEL + "lora.alpha={value}", "lora_alpha"),
    **_words(MODEL + "lora.target_modules={value}", "lora_target_modules", "target_modules",
             note="names with commas between, or all-linear"),
    **_words(MODEL + "lora.exclude_modules={value}", "exclude_modules"),
    **_words(MODEL + "lora.rank=64", "use_peft", "train_type", "tuner_type", "use_lora",
             note="a rank above 0 trains adapters, 0 all weights"),
    **_words("", "attn_implementation", "flash_attn", "use_flash_attention",
             note="the attention kernel is chosen by device and engine"),
    **_words(ACTOR + "padding_free={value}", "use_remove_padding", "packing_samples", "padding_free"),
    **_words("trainer.dtype={value}", "torch_dtype"),
    **_words("trainer.dtype=bfloat16", "bf16"),
    **_words("trainer.dtype=bfloat16", "fp16", note="float16 is not supported"),
    # the algorithm
    **_words(ROLLOUT + "n={value}", "num_generations", "num_samples_per_prompt", "group_size"),
    **_words(ROLLOUT + "n={value}", "n_samples_per_prompt", "rollout.n"),
    **_words("algorithm.disable_kl=false algorithm.use_kl_loss=true algorithm.kl_penalty=low_var_kl "
             "algorithm.kl_coef={value}", "beta", note="for beta=0: algorithm.disable_kl=true"),
    **_words("algorithm.kl_coef={value}", "kl_loss_coef", "kl_ctrl.kl_coef", "init_kl_coef",
             "kl_coefficient"),
    **_words("algorithm.kl_penalty={value}", "kl_loss_type", "kl_estimator"),
    **_words("algorithm.use_kl_loss={value}", "use_kl_loss"),
    **_words("algorithm.use_kl_loss=false algorithm.disable_kl=false", "use_kl_in_reward", "kl_in_reward"),
    **_words("algorithm.kl_type={value}", "kl_ctrl.type"),
    **_words("algorithm.kl_horizon={value}", "kl_ctrl.horizon"),
    **_words("algorithm.kl_target={value}", "kl_ctrl.target_kl", "target_kl", "kl_target"),
    **_words("algorithm.adv_estimator={value}", "advantage_estimator", "rlhf_type", "adv_type"),
    **_words("algorithm.adv_estimator=gdpo algorithm.gdpo_reward_keys=[accuracy,format]", "multi_objective_aggregation",
             note="that is normalize_then_sum; sum_then_normalize is grpo"),
    **_words("algorithm.norm_adv_by_std={value}", "norm_adv_by_std_in_grpo"),
    **_words("algorithm.norm_adv_by_std={value}", "scale_rewards"),
    **_words("algorithm.norm_adv_by_std=false", "no_advantage_std_norm"),
    **_words("algorithm.lam={value}", "lambd"),
    **_words("algorithm.online_filtering={value}", "filter_groups.enable", "dynamic_filtering", "dynamic_sample"),
    **_words("algorithm.filter_key={value}", "filter_groups.metric"),
    **_words("algorithm.filter_low=LOW algorithm.filter_high=HIGH", "dynamic_filtering_reward_range"),
    **_words("trainer.max_try_make_batch={value}", "filter_groups.max_num_gen_batches",
             "max_num_gen_batches", "max_resample_times"),
    **_words(ACTOR + "loss_type={value}", "loss_mode", "policy_loss_type", "policy_loss.loss_mode"),
    **_words(ACTOR + "loss_type={value}", "loss_type"),
    **_words(ACTOR + "loss_type={value}", "importance_sampling_level"),
    **_words(ACTOR + "clip_ratio_low={value} " + ACTOR + "clip_ratio_high={value}", "clip_ratio",
             "eps_clip", "cliprange", "clip_range", note=CLIP_NOTE),
    **_words(ACTOR + "clip_ratio_low={value} " + ACTOR + "clip_ratio_high={value}", "epsilon", note=CLIP_NOTE),
    **_words(ACTOR + "clip_ratio_high={value}", "epsilon_high", "eps_clip_high", note=CLIP_NOTE),
    **_words(ACTOR + "clip_ratio_low={value}", "epsilon_low", "eps_clip_low", note=CLIP_NOTE),
    **_words(ACTOR + "clip_ratio_low=LOW " + ACTOR + "clip_ratio_high=HIGH", "eps_clip_low_high", note=CLIP_NOTE),
    **_words(ACTOR + "clip_ratio_dual={value}", "clip_ratio_c", "delta", "dual_clip"),
    **_words(ACTOR + "tau_positive={value}", "tau_pos", "sapo_temperature_pos"),
    **_words(ACTOR + "tau_negative={value}", "tau_neg", "sapo_temperature_neg"),
    **_words(ACTOR + "m2po.budget={value}", "m2_budget", "m2_threshold"),
    **_words(ACTOR + "clip_cov.share={value}", "clip_cov_ratio"),
    **_words(ACTOR + "clip_cov.cov_low={value}", "clip_cov_lb"),
    **_words(ACTOR + "clip_cov.cov_high={value}", "clip_cov_ub"),
    **_words(ACTOR + "kl_cov.share={value}", "kl_cov_ratio"),
    **_words(ACTOR + "kl_cov.coef={value}", "ppo_kl_coef"),
    **_words(ACTOR + "vespo.k_positive={value}", "vespo_k_pos", "vespo.k_pos"),
    **_words(ACTOR + "vespo.k_negative={value}", "vespo_k_neg", "vespo.k_neg"),
    **_words(ACTOR + "vespo.lambda_positive={value}", "vespo_lambda_pos", "vespo.lambda_pos"),
    **_words(ACTOR + "vespo.lambda_negative={value}", "vespo_lambda_neg", "vespo.lambda_neg"),
    **_words(ACTOR + "fipo.half_life={value}", "fipo_decay_rate", "policy_loss.decay_rate"),
    **_words(ACTOR + "fipo.clip={value}", "fipo_clip_range", "future_kl_clip_ratio"),
    **_words(ACTOR + "fipo.clip_high_only={value}", "fipo_clip_high_only", "future_kl_clip_high_only"),
    **_words(ACTOR + "fipo.safe_ratio={value}", "fipo_safety_threshold", "safety_thresh"),
    **_words(ACTOR + "loss_avg_mode={value}", "loss_agg_mode", "loss_aggregation"),
    **_words(ACTOR + "entropy_coef={value}", "entropy_coeff", "entropy_loss_coef", "ent_coef"),
    **_words("algorithm.mask_truncated_completions={value}", "mask_truncated_completions", "overlong_filter",
             "overlong_filtering"),
    **_words(BUFFER + "enable={value}", "overlong_buffer.enable", "overlong_buffer_cfg.enable"),
    **_words(BUFFER + "enable=true " + BUFFER + "len={value}", "overlong_buffer.len", "overlong_buffer_cfg.len",
             "overlong_buffer_length", "soft_cache_length"),
    **_words(BUFFER + "enable=true " + BUFFER + "penalty_factor={value}", "overlong_buffer.penalty_factor",
             "overlong_buffer_cfg.penalty_factor", "overlong_penalty_factor"),
    **_words(ROLLOUT + "correction=truncated " + ROLLOUT + "correction_cap={value}", "tis_imp_ratio_cap"),
    **_words(ROLLOUT + "correction_cap={value}", "vllm_importance_sampling_cap", "vllm_importance_sampling_clip_max",
             "rollout_importance_sampling_threshold", note=MODE_NOTE),
    **_words(ROLLOUT + "correction_floor={value}", "vllm_importance_sampling_clip_min", note=MODE_NOTE),
    **_words(ROLLOUT + "correction_cap={value}", "rollout_is_threshold",
             note="LOWER_UPPER there is " + ROLLOUT + "correction=masked (rollout_is: token) or sequence_masked, with "
             "correction_floor and correction_cap"),
    **_words(ROLLOUT + "correction=truncated", "enable_vllm_is_correction", "rollout_is"),
    **_words(ROLLOUT + "correction=sequence_masked", "vllm_importance_sampling_correction", note="TRL's default mode"),
    **_words(ROLLOUT + "correction={value}", "vllm_importance_sampling_mode", "rollout_importance_sampling_mode"),
    **_words(ROLLOUT + "correction={value}", "rollout_rs", note=REJECTION_NOTE),
    **_words("", "rollout_rs_threshold", note="a bound of rollout_rs concerns sampler over trainer, and a ratio here trainer "
             "over sampler, so LOWER_UPPER is " + ROLLOUT + "correction_floor=1/UPPER correction_cap=1/LOWER"),
    **_words("", "rollout_is_batch_normalize", note="weights are not divided by their mean here"),
    # updates
    **_words(ACTOR + "optim.lr={value}", "learning_rate", "actor_learning_rate", "actor_lr", "optim.lr"),
    **_words("worker.critic.optim.lr={value}", "critic_learning_rate", "critic_lr"),
    **_words(ACTOR + "global_batch_size={value}", "ppo_mini_batch_size", note="both count prompts"),
    **_words(ACTOR + "global_batch_size={value}", "mini_batch_size", note="it counts prompts here"),
    **_words(MICRO + "update={value}", "ppo_micro_batch_size_per_gpu", "ppo_micro_batch_size", "micro_train_batch_size"),
    **_words(MICRO + "update={value}", "per_device_train_batch_size", "micro_batch_size",
             note="prompts an update are worker.actor.global_batch_size"),
    **_words(MICRO + "experience={value}", "log_prob_micro_batch_size_per_gpu", "log_prob_micro_batch_size",
             "micro_rollout_batch_size"),
    **_words("", "gradient_accumulation_steps", "steps_per_generation", "accumulation_steps",
             note="it follows from data.rollout_batch_size (prompts a step), worker.actor.global_batch_size (prompts an "
             "update) and micro_batch_size_per_device_for_update (samples a pass)"),
    **_words("data.val_batch_size={value}", "per_device_eval_batch_size", "eval_batch_size"),
    **_words(ACTOR + "dynamic_batching={value}", "use_dynamic_bsz", "log_prob_use_dynamic_bsz"),
    **_words(ACTOR + "dynamic_batching=true", "ppo_max_token_len_per_gpu", "log_prob_max_token_len_per_gpu",
             note="a pass holds micro_batch_size_per_device_for_update x (max_prompt_length + max_response_length) tokens"),
    **_words(ACTOR + "ppo_epochs={value}", "num_iterations", "num_ppo_epochs", "ppo_epoch", "update_epochs"),
    **_words(ACTOR + "ppo_epochs={value}", "max_epochs"),
    **_words(ACTOR + "max_grad_norm={value}", "grad_clip", "max_norm", "clip_grad", "gradient_clipping"),
    **_words(ACTOR + "optim.lr_warmup_ratio={value}", "warmup_ratio", "lr_warmup_steps_ratio"),
    **_words(ACTOR + "optim.lr_warmup_steps={value}", "warmup_steps", "num_warmup_steps"),
    **_words(ACTOR + "optim.lr_scheduler_type={value}", "warmup_style", "lr_scheduler", "lr_scheduler_type"),
    **_words(ACTOR + "optim.min_lr_ratio={value}", "lr_min_ratio", "min_lr_rate"),
    **_words(ACTOR + "optim.weight_decay={value}", "l2", "adam_weight_decay"),
    **_words(ACTOR + "optim.betas=[{value},0.999]", "adam_beta1"),
    **_words(ACTOR + "optim.betas=[0.9,{value}]", "adam_beta2"),
    **_words(ACTOR + "optim.betas={value}", "adam_betas"),
    **_words(ACTOR + "optim.strategy={value}", "optim", "optimizer", "optimizer_type"),
    # sampling
    **_words(ROLLOUT + "name={value}", "use_vllm", "rollout_backend", "infer_backend"),
    **_words("", "vllm_mode", "vllm_server_host", "vllm_server_base_url", "vllm_num_engines",
             note="vLLM runs beside the trainer on the same GPUs: worker.rollout.name=vllm"),
    **_words(ROLLOUT + "tensor_parallel_size={value}", "tensor_model_parallel_size",
             "vllm_tensor_parallel_size"),
    **_words(ROLLOUT + "gpu_memory_utilization={value}", "vllm_gpu_memory_utilization"),
    **_words(ROLLOUT + "max_model_len={value}", "vllm_max_model_length", "vllm_max_model_len"),
    **_words(ROLLOUT + "enforce_eager={value}", "vllm_enforce_eager"),
    **_words(ROLLOUT + "temperature=1.0", "do_sample",
             note="training always samples; greedy validation: worker.rollout.val_override_config.temperature=0"),
    **_words(ROLLOUT + "val_override_config.temperature={value}", "val_kwargs.temperature", "eval_temperature"),
    **_words(ROLLOUT + "val_override_config.top_p={value}", "val_kwargs.top_p"),
    **_words(ROLLOUT + "val_override_config.top_k={value}", "val_kwargs.top_k"),
    **_words(ROLLOUT + "val_override_config.n={value}", "val_kwargs.n", "eval_n_samples_per_prompt"),
    **_words(ROLLOUT + "val_override_config.temperature=0", "val_kwargs.do_sample",
             note="that is greedy; above 0 it samples"),
    **_words("", "free_cache_engine", "max_num_seqs", "sleep_level", "vllm_enable_sleep", "load_format",
             note="vLLM gives its memory back between rounds on its own; worker.rollout.gpu_memory_utilization is its share"),
    # the reward
    **_words("worker.reward.reward_function={value}", "reward_funcs", "reward_function",
             "reward_fn", "remote_rm_url", "custom_reward_function.path", "external_plugins", "reward_func",
             note="path/to/file.py:function; here also gmpo_mm/rewards/math.py:compute_score"),
    **_words("worker.reward.reward_function={value}", "compute_score", "score_function",
             note="math is gmpo_mm/rewards/math.py:compute_score, r1v is EasyR1's file r1v.py:compute_score"),
    **_words("worker.reward.reward_function_kwargs={value}", "score_function_kwargs", "reward_kwargs"),
    **_words("", "score_function_name", "custom_reward_function.name",
             note="the name goes behind the path: worker.reward.reward_function=path/to/file.py:NAME"),
    **_words("", "reward_type", "reward_manager", "reward_model.reward_manager",
             note='the reward\'s file says it: REWARD_TYPE = "batch" or "sequential" at its top'),
    **_words("", "reward_pretrain", "reward_model", "reward_model_path", "reward_model.model.path", note=PYTHON_REWARD),
    **_words("worker.reward.reward_function_kwargs={{format_weight: 0.1}}", "reward_weights",
             note="a reward function returns one weighted overall; its own keywords weigh the parts"),
    # the run
    **_words("trainer.total_epochs={value}", "num_train_epochs", "num_episodes", "total_episodes", "epochs"),
    **_words("trainer.max_steps={value}", "total_training_steps", "num_steps", "max_train_steps"),
    **_words("trainer.run_dir={value}", "output_dir", "save_path", "ckpt_path", "default_local_dir"),
    **_words("trainer.experiment_name={value}", "run_name", "wandb_run_name", "exp_name"),
    **_words("trainer.project_name={value}", "wandb_project", "project"),
    **_words("trainer.logger=[console,{value}]", "report_to", "log_with"),
    **_words("trainer.logger=[console,wandb]", "use_wandb"),
    **_words("trainer.logger=[console,tensorboard]", "use_tensorboard"),
    **_words("trainer.save_freq={value}", "save_steps", "save_interval"),
    **_words("trainer.save_limit={value}", "save_total_limit", "max_ckpt_num", "max_actor_ckpt_to_keep",
             "max_ckpt_to_keep"),
    **_words("trainer.save_limit=1", "remove_previous_ckpt", "remove_ckpt_after_load", "del_local_ckpt_after_load"),
    **_words("trainer.save_model_only={value}", "save_only_model"),
    **_words("trainer.val_freq={value}", "test_freq", "eval_steps", "eval_interval"),
    **_words("trainer.val_before_train={value}", "eval_on_start"),
    **_words("trainer.val_freq=STEPS", "eval_strategy", "do_eval", "evaluation_strategy", note="-1 for none"),
    **_words("trainer.val_generations_to_log={value}", "val_generations_to_log_to_wandb", "log_val_generations",
             "num_completions_to_print"),
    **_words("trainer.load_checkpoint_path={value}", "resume_from_checkpoint", "resume_from_path",
             "load_checkpoint"),
    **_words("trainer.resume={value}", "resume_mode"),
    **_words("", "logging_steps", "log_interval", "logging_first_step", "log_freq", "log_completions",
             note="metrics.jsonl holds every step, samples/ the responses; nothing has to be set"),
    **_words("trainer.n_gpus_per_node={value}", "num_gpus", "actor_num_gpus_per_node", "n_gpus", "num_processes"),
    **_words("trainer.nnodes={value}", "num_nodes", "actor_num_nodes", "num_machines"),
    **_words("worker.rollout.seed={value} data.seed={value}", "seed", "data_seed"),
    **_words(ACTOR + "ulysses_size={value}", "ulysses_sequence_parallel_size", "ring_attn_size",
             "sequence_parallel_size", "sp_size"),
    **_words(ACTOR + "offload.offload_params={value}", "param_offload", "offload_model"),
    **_words(ACTOR + "offload.offload_optimizer={value}", "optimizer_offload", "adam_offload",
             "offload_optimizer"),
    **_words("", "deepspeed", "zero_stage", "fsdp_config", "fsdp", note=SHARDS),
}  # fmt: skip
"""Ending of a foreign key, in small letters -> what it is here."""

_COUNTERPARTS = {"critic.": "worker.critic.", "ref.": "worker.ref."}
"""A foreign key with this section belongs to that section of ours, where it has the key."""

_KL_WORDS = {"k1": "kl", "k2": "mse", "k3": "low_var_kl", "k3+": "low_var_kl", "k1+": "kl"}
FOREIGN_VALUES: dict[str, dict[str, str]] = {
    "algorithm.adv_estimator": {
        "gmpo": "worker.actor.loss_type=gmpo algorithm.adv_estimator=grpo",
        "gspo": "worker.actor.loss_type=gspo algorithm.adv_estimator=grpo",
        "cispo": "worker.actor.loss_type=cispo algorithm.adv_estimator=grpo",
        "sapo": "worker.actor.loss_type=sapo algorithm.adv_estimator=grpo",
        "gpg": "worker.actor.loss_type=gpg algorithm.adv_estimator=dr_grpo",
        "dapo": "algorithm.adv_estimator=grpo algorithm.online_filtering=true worker.actor.clip_ratio_low=0.2 "
        "worker.actor.clip_ratio_high=0.28",
        "group_norm": "algorithm.adv_estimator=grpo",
        "grpo_vectorized": "algorithm.adv_estimator=grpo",
        "grpo_norm": "algorithm.adv_estimator=grpo",
        "drgrpo": "algorithm.adv_estimator=dr_grpo",
        "dr.grpo": "algorithm.adv_estimator=dr_grpo",
        "dr-grpo": "algorithm.adv_estimator=dr_grpo",
        "reinforce": "algorithm.adv_estimator=reinforce_plus_plus",
        "reinforce++": "algorithm.adv_estimator=reinforce_plus_plus",
        "reinforce_baseline": "algorithm.adv_estimator=rloo",
        "reinforce_plus_plus_baseline": "algorithm.adv_estimator=rloo",
        "rloo_vectorized": "algorithm.adv_estimator=rloo",
        "maxrl": "algorithm.adv_estimator=max_rl",
        "p_normalization": "algorithm.adv_estimator=max_rl",
        "ppo": "algorithm.adv_estimator=gae engine=easyr1",
    },
    "algorithm.kl_penalty": {word: f"algorithm.kl_penalty={ours}" for word, ours in _KL_WORDS.items()},
    "algorithm.norm_adv_by_std": {
        "none": "algorithm.norm_adv_by_std=false",
        "group": "algorithm.norm_adv_by_std=true",
        "batch": "algorithm.norm_adv_by_std=true",
    },
    "worker.actor.loss_avg_mode": {
        "token-mean": "worker.actor.loss_avg_mode=token",
        "token_mean": "worker.actor.loss_avg_mode=token",
        "seq-mean-token-mean": "worker.actor.loss_avg_mode=seq",
        "seq-mean-token-sum": "worker.actor.loss_avg_mode=token algorithm.adv_estimator=dr_grpo",
        "seq-mean-token-sum-norm": "worker.actor.loss_avg_mode=token algorithm.adv_estimator=dr_grpo",
        "sequence": "worker.actor.loss_avg_mode=seq",
        "sample": "worker.actor.loss_avg_mode=seq",
        "mean": "worker.actor.loss_avg_mode=token",
    },
    **{
        f"{ACTOR}{section}.clip": {
            "seq": f"{ACTOR}{section}.clip=sequence",
            **dict.fromkeys(("false", "off", "null"), f"{ACTOR}{section}.clip=none"),
        }
        for section in ("gmpo", "power_mean")
    },
    "worker.actor.optim.lr_scheduler_type": {
        "constant_with_warmup": "worker.actor.optim.lr_scheduler_type=constant worker.actor.optim.lr_warmup_ratio=0.03",
        "cosine_with_min_lr": "worker.actor.optim.lr_scheduler_type=cosine worker.actor.optim.min_lr_ratio=0.1",
        "cosine_warmup": "worker.actor.optim.lr_scheduler_type=cosine worker.actor.optim.lr_warmup_ratio=0.03",
        "linear": "worker.actor.optim.lr_scheduler_type=cosine",
        "none": "worker.actor.optim.lr_scheduler_type=constant",
    },
    "worker.actor.optim.strategy": dict.fromkeys(
        ("adamw_torch", "adamw_torch_fused", "adam", "adamw_hf", "paged_adamw_8bit", "adamw_8bit"),
        "worker.actor.optim.strategy=adamw",
    ),
    "worker.rollout.name": {
        "true": "worker.rollout.name=vllm",
        "false": "worker.rollout.name=hf",
        "transformers": "worker.rollout.name=hf",
        "huggingface": "worker.rollout.name=hf",
        "pt": "worker.rollout.name=hf",
        "sglang": "worker.rollout.name=vllm",
        "lmdeploy": "worker.rollout.name=vllm",
    },
    "worker.rollout.correction": {
        **dict.fromkeys(("token_truncate", "token", "tis", "true"), "worker.rollout.correction=truncated"),
        **dict.fromkeys(("token_mask", "token_k1", "icepop", "mis"), "worker.rollout.correction=masked"),
        **dict.fromkeys(("sequence_truncate", "sequence", "seq_tis"), "worker.rollout.correction=sequence_truncated"),
        **dict.fromkeys(("sequence_mask", "seq_sum_k1", "seq_mis"), "worker.rollout.correction=sequence_masked"),
        **dict.fromkeys(("geometric", "seq_mean_k1", "geo_rs"), "worker.rollout.correction=geometric_masked"),
        **dict.fromkeys(("null", "false", "off"), "worker.rollout.correction=none"),
    },
    "trainer.dtype": {
        "bf16": "trainer.dtype=bfloat16",
        "fp32": "trainer.dtype=float32",
        "fp16": "trainer.dtype=bfloat16",
        "half": "trainer.dtype=bfloat16",
        "float16": "trainer.dtype=bfloat16",
        "float": "trainer.dtype=float32",
    },
    "trainer.device": {"gpu": "trainer.device=cuda", "none": "trainer.device=auto"},
    "trainer.resume": {
        "disable": "trainer.resume=never",
        "false": "trainer.resume=never",
        "true": "trainer.resume=must",
        "latest": "trainer.resume=must",
    },
    "engine": {
        "trl": "engine=local",
        "fsdp": "engine=easyr1",
        "ray": "engine=easyr1",
        "gmpo_mm": "engine=local",
        "easy_r1": "engine=easyr1",
    },
    "trainer.logger": {
        "tb": "trainer.logger=[console,tensorboard]",
        "none": "trainer.logger=[console]",
        "jsonl": "trainer.logger=[console,file]",
    },
}
"""Key of ours -> a value that other projects write there, in small letters -> what to write."""

_GSPO_BOUNDS = "worker.actor.clip_ratio_low=3e-4 worker.actor.clip_ratio_high=4e-4"
SWITCHES_OF_VALUES = {  # TRL's loss_type and importance_sampling_level choose between losses of ours
    "importance_sampling_level": {
        "token": "worker.actor.loss_type=default",
        "sequence": "worker.actor.loss_type=gspo " + _GSPO_BOUNDS,
        "sequence_token": "worker.actor.loss_type=gspo_token " + _GSPO_BOUNDS,
    },
    "rollout_is": {
        "token": "worker.rollout.correction=truncated",
        "sequence": "worker.rollout.correction=sequence_truncated",
        "geometric": "worker.rollout.correction=geometric_masked",
        "null": "worker.rollout.correction=none",
    },
    "vllm_importance_sampling_correction": {"false": "worker.rollout.correction=none"},
    "enable_vllm_is_correction": {"false": "worker.rollout.correction=none"},
    "beta": {"0": "algorithm.disable_kl=true", "0.0": "algorithm.disable_kl=true"},
    "use_kl_in_reward": {"false": "algorithm.use_kl_loss=true"},
    "kl_in_reward": {"false": "algorithm.use_kl_loss=true"},
    "report_to": {"none": "trainer.logger=[console]", "all": "trainer.logger=[console,tensorboard,wandb]"},
    "use_peft": {"false": "worker.actor.model.lora.rank=0"},
    "train_type": {"full": "worker.actor.model.lora.rank=0"},
    "tuner_type": {"full": "worker.actor.model.lora.rank=0"},
    "bf16": {"false": "trainer.dtype=float32"},
    "fp16": {"false": "trainer.dtype=auto"},
    "val_kwargs.do_sample": {"true": "worker.rollout.val_override_config.temperature=1.0"},
    "no_advantage_std_norm": {"false": "algorithm.norm_adv_by_std=true"},
    "data.truncation": {"error": "data.filter_overlong_prompts=false"},
    "remove_previous_ckpt": {"false": "trainer.save_limit=-1"},
}  # fmt: skip
"""Foreign key -> value -> settings, where the value decides what to write."""


def find_word(key: str) -> tuple[str, Word] | None:
    """(the ending under which it is known, the word) of a foreign key; capitals and dashes don't matter."""
    parts = key.lstrip("-").lower().replace("-", "_").split(".")
    for start in range(len(parts)):
        ending = ".".join(parts[start:])
        if ending in FOREIGN_KEYS:
            return ending, FOREIGN_KEYS[ending]
    return None


def settings_for_key(key: str, value: Any) -> str | None:
    """`Write KEY=VALUE (what else to know).` for a key of another project, else None."""
    found = find_word(key)
    if found is None or (isinstance(value, dict) and not key.endswith(MAPPINGS)):
        return None
    ending, word = found
    settings = SWITCHES_OF_VALUES.get(ending, {}).get(show(value).lower())
    if settings is None:
        settings = " ".join(_fill(setting, value) for setting in _split(word.settings))
    settings = _in_its_section(key, settings)
    if not settings:
        return word.note[:1].upper() + word.note[1:] + "."
    return f"Write {settings}" + (f" ({word.note})." if word.note else ".")


def settings_for_value(key: str, value: Any) -> str | None:
    """`key=value` to write in place of another project's word for a value of our key, else None."""
    return _foreign_values(key).get(str(value).strip().lower())


def show(value: Any) -> str:
    """A value as an override has it: `true`, `null`, `[a,b]`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(show(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {show(item)}" for key, item in value.items()) + "}"
    return str(value)


def _split(settings: str) -> list[str]:
    """The single `key=value` texts; a value may hold spaces within braces."""
    parts: list[str] = []
    for piece in settings.split(" "):
        if parts and "=" not in piece:
            parts[-1] += " " + piece
        elif piece:
            parts.append(piece)
    return parts


def _fill(setting: str, value: Any) -> str:
    """One setting with its value, translated where our key has another word for it."""
    key, _, pattern = setting.partition("=")
    if pattern == "{value}":
        translated = settings_for_value(key, show(value))
        if translated is not None:
            return translated
    if key == "trainer.logger" and isinstance(value, (list, tuple)):
        return f"{key}={show(['console', *value])}"
    return f"{key}={pattern.format(value=show(value))}"


def _in_its_section(key: str, settings: str) -> str:
    """Settings of the actor moved to the critic or the reference model where the foreign key speaks of those."""
    for name, section in _COUNTERPARTS.items():
        if f".{key.lower()}".find(f".{name}") >= 0 and settings.startswith(ACTOR):
            moved = section + settings.removeprefix(ACTOR)
            if moved.partition("=")[0] in schema_keys():
                return moved
    return settings


def _foreign_values(key: str) -> dict[str, str]:
    if key == ACTOR + "loss_type":
        from gmpo_mm.algorithms.registry import OTHER_NAMES

        return dict(OTHER_NAMES)
    return FOREIGN_VALUES.get(key, {})
