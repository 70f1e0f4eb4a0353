"""What each key of the schema means: one sentence, for the reference page. Sections of one class share their sentences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import Field, fields, is_dataclass
from typing import Any, get_type_hints

from gmpo_mm.config.schema import Config

_BATCHES = {
    "global_batch_size": "Prompts in one optimizer update (a mini-batch); each has `worker.rollout.n` responses.",
    "micro_batch_size_per_device_for_update": "Responses in one forward and backward pass of an update.",
    "micro_batch_size_per_device_for_experience": "Responses in one forward pass without gradients.",
    "max_grad_norm": "Gradients with a larger norm are scaled down to this norm.",
    "ppo_epochs": "How often an update passes over the responses of a step.",
    "padding_free": "Remove padding before the forward pass.",
    "dynamic_batching": "Fill each micro-batch up to a number of tokens; with `false` to a number of responses.",
    "ulysses_size": "Number of GPUs that share the tokens of one sequence (Ulysses).",
}
_SAMPLING = {
    "n": "Responses sampled for each prompt.",
    "temperature": "Sampling temperature. 0 takes the most likely token each time.",
    "top_p": "Sample from the most likely tokens that together have this probability.",
    "top_k": "Sample from this many most likely tokens.",
    "ignore_eos": "Go on after the end token, up to the longest response.",
    "seed": "Seed of the samples.",
}

MEANINGS: dict[str, dict[str, str]] = {
    "Config": {
        "engine": "What trains: `local` (one process), `easyr1` or `verl` (many GPUs). `auto` is `local`.",
        "ray_address": "A running Ray cluster to join: `auto` or `host:port`. `null` starts a new one.",
    },
    "DataConfig": {
        "train_files": "Training data: a Parquet or JSON Lines file, a folder, or `owner/name@split` on the hub.",
        "val_files": "Validation data, in the same forms. An empty text means no validation.",
        "prompt_key": "Column with the problem.",
        "answer_key": "Column with the right answer.",
        "image_key": "Column with the pictures.",
        "video_key": "Column with videos. Engines local and verl refuse a row that has one.",
        "image_dir": "Folder that holds all picture files. `null`: the folder of the data file.",
        "video_fps": "Pictures taken from each second of a video.",
        "max_prompt_length": "Longest prompt in tokens, picture tokens included.",
        "max_response_length": "Longest response in tokens. A longer one is cut off.",
        "rollout_batch_size": "Prompts in one training step.",
        "mini_rollout_batch_size": "Prompts in one call of the sampler. `null`: all prompts of the step in one call.",
        "val_batch_size": "Prompts in one call of the sampler during validation.",
        "format_prompt": "A Jinja file that turns the problem, `{{ content }}`, into the user's message.",
        "override_chat_template": "A chat template (Jinja) in place of the model's own.",
        "shuffle": "Take the rows in random order; each epoch has its own order.",
        "seed": "Seed of the order of rows.",
        "min_pixels": "Pictures with fewer pixels are enlarged to this number.",
        "max_pixels": "Pictures with more pixels are reduced to this number.",
        "filter_overlong_prompts": "Leave out training prompts that are too long; with `false` they are an error. "
        "In validation they are always an error.",
        "filter_overlong_prompts_workers": "Processes that measure the length of prompts.",
    },
    "AlgorithmConfig": {
        "gamma": "Discount of later rewards, for `reinforce_plus_plus` and `gae`.",
        "lam": "Lambda of generalized advantage estimation, for `gae`.",
        "adv_estimator": "How rewards become advantages. `gae` needs a critic.",
        "norm_adv_by_std": "Divide the advantages of a group by the standard deviation of its rewards.",
        "gdpo_reward_keys": "With `adv_estimator: gdpo`, the numbers of the reward function that are its rewards.",
        "gdpo_reward_weights": "Weights of these rewards, in their order. `[]`: 1 each.",
        "mask_truncated_completions": "Leave responses without an end token out of the loss (DAPO's overlong filtering). Their "
        "rewards still count in the advantages of their group.",
        "drop_zero_advantage": "Leave groups in which all advantages are 0 out of the forward pass. "
        "They still count in the mean of the loss, so the gradient is the same.",
        "disable_kl": "Train without a reference model and without a KL term.",
        "use_kl_loss": "Put the KL term into the loss (`true`) or into the reward (`false`).",
        "kl_penalty": "Estimator of the KL of each token. `full` is refused, because it needs the whole vocabulary.",
        "kl_coef": "Weight of the KL term.",
        "kl_type": "Keep the weight `fixed`, or adapt it to `kl_target`. It adapts only with KL in the reward.",
        "kl_horizon": "How slowly an adaptive weight changes; larger is slower.",
        "kl_target": "KL that an adaptive weight aims at, in nats.",
        "online_filtering": "Keep only groups whose mean score lies between `filter_low` and `filter_high`, and sample "
        "more prompts for the others (DAPO).",
        "filter_key": "Which number of the reward function is filtered by.",
        "filter_low": "A group is kept when its mean is above this.",
        "filter_high": "A group is kept when its mean is below this.",
    },
    "LoraConfig": {
        "rank": "Rank of the LoRA adapters. 0 trains all weights.",
        "alpha": "Scale of the adapters: their output is multiplied by alpha / rank.",
        "target_modules": "Modules that get an adapter: `all-linear`, or names with commas between.",
        "exclude_modules": "Modules that get no adapter.",
    },
    "ModelConfig": {
        "model_path": "The model: a folder, a name on the hub, `bundled:NAME`, a run directory or a checkpoint.",
        "tokenizer_path": "Where the tokenizer is. `null`: with the model.",
        "override_config": "Keys of the model's own `config.json` with other values.",
        "enable_gradient_checkpointing": "Compute activations again in the backward pass: less memory, more time.",
        "trust_remote_code": "Run Python code that comes with the model. EasyR1's default is `true`.",
        "freeze_vision_tower": "Do not train the vision tower.",
    },
    "OptimConfig": {
        "lr": "Learning rate of AdamW.",
        "betas": "Decay of AdamW's two moments.",
        "weight_decay": "Weight decay of AdamW.",
        "strategy": "The optimizer: `adamw`, or `adamw_bf16` with `engine: easyr1`.",
        "lr_warmup_ratio": "Share of the run's steps in which the rate rises from 0.",
        "lr_warmup_steps": "Steps in which the rate rises from 0. It wins over `lr_warmup_ratio`.",
        "min_lr_ratio": "Where a cosine schedule ends, as a share of `lr`. `null` is 0.",
        "lr_scheduler_type": "The rate after the warm-up: `constant` or `cosine`.",
    },
    "FSDPConfig": {
        "enable_full_shard": "Also shard the weights over processes, not only gradients and optimizer.",
        "enable_cpu_offload": "Keep the shards in CPU memory.",
        "enable_rank0_init": "Load the weights in the first process only, which sends them to the others.",
        "use_orig_params": "Keep the original parameters visible (a switch of FSDP1).",
        "torch_dtype": "Number format of the stored weights. `null`: float32 for a trained model, bfloat16 for others.",
        "fsdp_size": "Processes that share one copy of the weights. -1: all of them.",
        "mp_param_dtype": "Number format of weights in the forward and backward pass.",
        "mp_reduce_dtype": "Number format in which gradients are added over processes.",
        "mp_buffer_dtype": "Number format of the model's buffers.",
    },
    "OffloadConfig": {
        "offload_params": "Move the weights (and the reference model) to CPU memory while responses are sampled.",
        "offload_optimizer": "Move the optimizer's state to CPU memory while responses are sampled.",
    },
    "ActorConfig": {
        **_BATCHES,
        "strategy": "How the model is distributed.",
        "seq_mean": "Weights of a mean over sequences: `exact`, or EasyR1's own, which depend on the micro-batches.",
        "entropy_coef": "Weight of an entropy bonus: the loss gets -value x entropy.",
        "old_log_probs": "Where log-probabilities of the old policy come from: the `sampler`, or a pass of the trainer "
        "(`recompute`). `auto` takes the sampler's where they are exact. engine=easyr1 and verl always recompute.",
        "use_torch_compile": "Compile parts of the model on a GPU (local: norms, rotary embedding, SwiGLU, logits).",
        "logits_dtype": "Number format of logits on a GPU. `bfloat16` is off by about 0.01 nats, and by at most 0.05.",
    },
    "CriticConfig": {
        **_BATCHES,
        "strategy": "How the value model is distributed.",
        "cliprange_value": "How far a value may move from its old one before the value loss is clipped.",
        "loss_avg_mode": "As `worker.actor.loss_avg_mode`, for the value loss.",
    },
    "RefConfig": {"strategy": "How the reference model is distributed."},
    "OverlongBufferConfig": {
        "enable": "Punish responses in the last `len` tokens before `data.max_response_length`.",
        "len": "Tokens over which the punishment grows from 0 to `penalty_factor`.",
        "penalty_factor": "The punishment of a response of full length, taken from its reward.",
    },
    "RewardConfig": {
        "reward_function": "The reward: `path/to/file.py:function`. Without a function's name it is `main`.",
        "reward_function_kwargs": "Further arguments of the reward function.",
        "skip_special_tokens": "Leave special tokens out of the text that the reward function gets.",
        "num_cpus": "CPU cores (EasyR1) or processes (verl) for the reward function.",
    },
    "ValidationSampling": {**_SAMPLING, "max_tokens": "Longest response in tokens."},
    "EmulateConfig": {
        "weights": "Number format to which the sampler's weights are rounded.",
        "logits_noise": "Standard deviation of Gaussian noise on the sampler's logits, before the temperature.",
        "top_p": "Nucleus that the sampler keeps to and the trainer does not know of, unlike `worker.rollout.top_p`.",
    },
    "RolloutConfig": {
        **_SAMPLING,
        "name": "What samples: `hf` (transformers) or `vllm`. `auto` takes vLLM where it is installed and a GPU is there.",
        "limit_images": "Most pictures of a prompt, for vLLM. 0 is no limit.",
        "dtype": "Number format in vLLM.",
        "gpu_memory_utilization": "Share of a GPU's memory that vLLM may use.",
        "enforce_eager": "Run vLLM without CUDA graphs.",
        "enable_chunked_prefill": "Let vLLM process long prompts in parts.",
        "tensor_parallel_size": "Number of GPUs that share one copy of the model in vLLM.",
        "max_model_len": "Longest prompt and response together in vLLM. `null`: the sum of the two limits in `data`.",
        "max_num_batched_tokens": "Tokens in one step of vLLM.",
        "disable_log_stats": "Keep vLLM from logging its statistics.",
        "disable_tqdm": "Show no progress bar while sampling.",
        "val_override_config": "What validation samples differently: see [validation sampling](#validation-sampling).",
        "correction": "Weights by the ratio of model to sampler probability, for a sampler that differs: see "
        "[its table](../method.md#a-sampler-that-differs).",
        "correction_cap": "Upper bound of the correction's ratio: larger ones are cut there (`*truncated`) or masked "
        "(`*masked`). `null`: the correction's own.",
        "correction_floor": "Lower bound of a ratio that `*masked` keeps. `null`: the correction's own. 0: none.",
        "max_log_prob_gap": "The run ends when the sampler's log-probabilities differ from the model's by more than "
        "this on average, in nats. Not with `staleness` or `emulate`: there they differ on purpose.",
        "staleness": "Sample step t with the weights after step t - 1 - k, for this k. Early steps take the first weights.",
    },
    "WorkerConfig": {"hybrid_engine": "Training and sampling share their GPUs."},
    "TrainerConfig": {
        "total_epochs": "Passes over the training data.",
        "max_steps": "Number of training steps. It wins over `total_epochs`.",
        "project_name": "Project in trackers, and folder of runs.",
        "experiment_name": "Name of the run. Without one it is the name of the configuration file.",
        "logger": "Where metrics go beside `metrics.jsonl`: `console`, `tensorboard`, `wandb`, `mlflow`, `swanlab`. "
        "EasyR1's default has `wandb` too.",
        "nnodes": "Number of machines.",
        "n_gpus_per_node": "Number of GPUs on each machine.",
        "max_try_make_batch": "How often online filtering samples again for one step before the run ends with an error.",
        "critic_warmup": "Steps at the start in which only the critic is trained.",
        "val_freq": "Steps from one validation to the next. -1: only after the last step.",
        "val_before_train": "Validate before the first step.",
        "val_only": "Validate once and train nothing.",
        "val_generations_to_log": "Responses of each validation in a tracker's table. 0 leaves it to `log_samples`.",
        "log_samples": "Steps from one shown response (and table in trackers) to the next. 0 shows none.",
        "record_steps": "Steps that are written whole to `rollouts/`, for `gmpo-mm replay` and `gmpo-mm diff`: a list as "
        "`[1, 37]`, `every N`, or `none`.",
        "compare_losses": "Losses whose update is measured beside the trained loss's at every step, and not applied.",
        "compare_losses_gradients_every": "Steps from one comparison of whole gradients for `compare_losses` to the next: "
        "one more backward pass for each loss. 0: never.",
        "save_freq": "Steps from one checkpoint to the next. -1: only after the last step.",
        "save_limit": "How many checkpoints are kept. Engines local and easyr1 never remove that of the best validation.",
        "save_model_only": "Save no optimizer state. Training cannot go on from such a checkpoint.",
        "save_checkpoint_path": "EasyR1's name of `trainer.run_dir`.",
        "load_checkpoint_path": "EasyR1's name of `trainer.resume=PATH`.",
        "ray_timeline": "File for Ray's timeline.",
        "find_last_checkpoint": "Go on with a run that is there. `false` is `trainer.resume=never`.",
        "run_dir": "Folder of the run. `null`: `runs/<project_name>/<experiment_name>`, and without these names "
        "`runs/<name of the file>`.",
        "resume": "`auto` goes on with a run that is there, `never` refuses one, `must` needs one, and a checkpoint's "
        "path starts a new run from that checkpoint.",
        "device": "`cpu`, `cuda` or `cuda:N`. `auto` takes the first GPU where there is one.",
        "dtype": "Number format of the computation. `auto`: float32 on a CPU, bfloat16 on a GPU.",
        "threads": "CPU threads of torch. `null` leaves it to torch.",
    },
}
"""Section's class -> key -> meaning; a loss's keys have theirs in `algorithms/config.py`."""


def key_meanings(section: type = Config, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted key and meaning of every key, in the schema's order. KeyError for a key without a meaning."""
    hints = get_type_hints(section)
    for item in fields(section):
        if is_dataclass(hints[item.name]):
            yield from key_meanings(hints[item.name], f"{prefix}{item.name}.")  # type: ignore[arg-type]
        else:
            yield f"{prefix}{item.name}", meaning_of(section, item)


def meaning_of(section: type, item: Field[Any]) -> str:
    """A key's sentence: from `MEANINGS`, or beside the key itself (those of the losses). KeyError without one."""
    return item.metadata.get("means") or MEANINGS[section.__name__][item.name]
