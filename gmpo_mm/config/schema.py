"""The configuration: EasyR1's sections and keys with EasyR1's defaults, plus the keys that this package adds.

Three defaults differ from EasyR1's, each on purpose:

- `trust_remote_code` is false: code from a model repository runs only when the user says so.
- `worker.rollout.name` is `auto` (vLLM when it is installed and a GPU is there, else our Hugging Face sampler).
- `trainer.logger` is `[console]`: `wandb` is an optional package here. `metrics.jsonl` is written in any case.

The range of every number stands beside it (`ranges.py`); `bounds.py` checks them. What a key means stands in `meanings.py`;
`ours` marks a key that EasyR1 has not. The keys of the policy losses are inherited from `algorithms/config.py`.

Keys that EasyR1 fills in itself (its `init=False` fields, such as `worker.actor.kl_coef`) can't be set here either.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gmpo_mm.algorithms.config import LossKeys
from gmpo_mm.config.ranges import LARGEST_SEED, count, number, unlimited


@dataclass
class DataConfig:
    """What is trained and validated on. Paths are relative to the working directory."""

    train_files: str = ""
    val_files: str = ""
    prompt_key: str = "prompt"
    answer_key: str = "answer"
    image_key: str = "images"
    video_key: str = "videos"
    image_dir: str | None = None
    video_fps: float = number(2.0, 0, 1000, above=True)
    max_prompt_length: int = count(512, 1, 10**7)
    max_response_length: int = count(512, 1, 10**7)
    rollout_batch_size: int = count(512, 1, 10**6)
    mini_rollout_batch_size: int | None = count(None, 1, 10**6)
    val_batch_size: int = unlimited(-1)
    format_prompt: str | None = None
    override_chat_template: str | None = None
    shuffle: bool = True
    seed: int = number(1, 0, LARGEST_SEED)
    min_pixels: int | None = count(262144)
    max_pixels: int | None = count(4194304)
    filter_overlong_prompts: bool = True
    filter_overlong_prompts_workers: int = count(16, 1, 10**4)


@dataclass
class AlgorithmConfig:
    """Advantages, the KL term and online filtering."""

    gamma: float = number(1.0, 0, 1, above=True)
    lam: float = number(1.0, 0, 1)
    adv_estimator: str = "grpo"
    norm_adv_by_std: bool = True  # ours
    gdpo_reward_keys: list[str] = field(default_factory=list)  # ours
    gdpo_reward_weights: list[float] = field(default_factory=list)  # ours
    mask_truncated_completions: bool = False  # ours
    drop_zero_advantage: bool = False  # ours
    disable_kl: bool = False
    use_kl_loss: bool = False
    kl_penalty: str = "kl"
    kl_coef: float = number(1e-3, 0, 1000)
    kl_type: str = "fixed"
    kl_horizon: float = number(10000.0, 0, 1e12, above=True)
    kl_target: float = number(0.1, 0, 1000, above=True)
    online_filtering: bool = False
    filter_key: str = "overall"
    filter_low: float = number(0.01, -1e6, 1e6)
    filter_high: float = number(0.99, -1e6, 1e6)


@dataclass
class LoraConfig:
    """LoRA adapters; rank 0 trains all weights."""

    rank: int = count(0, 0, 10**4)
    alpha: int = count(64, 1, 10**6)
    target_modules: str = "all-linear"
    exclude_modules: str | None = None


@dataclass
class ModelConfig:
    """Which model is loaded, and how."""

    model_path: str | None = None
    tokenizer_path: str | None = None
    override_config: dict[str, Any] = field(default_factory=dict)
    enable_gradient_checkpointing: bool = True
    trust_remote_code: bool = False
    freeze_vision_tower: bool = False
    lora: LoraConfig = field(default_factory=LoraConfig)


@dataclass
class OptimConfig:
    """AdamW and its schedule."""

    lr: float = number(1e-6, 0, 1)
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    weight_decay: float = number(1e-2, 0, 10)
    strategy: str = "adamw"
    lr_warmup_ratio: float = number(0.0, 0, 1)
    lr_warmup_steps: int | None = count(None, 0)
    min_lr_ratio: float | None = number(None, 0, 1)
    lr_scheduler_type: str = "constant"


@dataclass
class FSDPConfig:
    """Sharding over processes, on engines easyr1 and verl."""

    enable_full_shard: bool = True
    enable_cpu_offload: bool = False
    enable_rank0_init: bool = True
    use_orig_params: bool = False
    torch_dtype: str | None = None
    fsdp_size: int = unlimited(-1)
    mp_param_dtype: str = "bf16"
    mp_reduce_dtype: str = "fp32"
    mp_buffer_dtype: str = "fp32"


@dataclass
class OffloadConfig:
    """What waits in CPU memory while responses are sampled.

    The actor's section may be one word instead: `worker.actor.offload: none | optimizer | all` (ours). The local engine reads
    it where vLLM samples on the GPU that trains.
    """

    offload_params: bool = False
    offload_optimizer: bool = False


@dataclass
class ActorConfig(LossKeys):
    """The policy, its loss and its updates. `global_batch_size` counts prompts, micro-batches count samples."""

    strategy: str = "fsdp"
    global_batch_size: int = count(256, 1, 10**6)
    micro_batch_size_per_device_for_update: int = count(4, 1, 10**6)
    micro_batch_size_per_device_for_experience: int = count(16, 1, 10**6)
    max_grad_norm: float = number(1.0, 1e-9, 1e9)
    seq_mean: str = "exact"  # ours
    entropy_coef: float = number(0.0, -10, 10)  # ours
    old_log_probs: str = "auto"  # ours
    ppo_epochs: int = count(1, 1, 10**6)
    padding_free: bool = True
    dynamic_batching: bool = True
    ulysses_size: int = count(1, 1, 10**4)
    use_torch_compile: bool = True
    logits_dtype: str = "float32"  # ours
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    fsdp: FSDPConfig = field(default_factory=FSDPConfig)
    offload: OffloadConfig = field(default_factory=OffloadConfig)


@dataclass
class CriticConfig:
    """A value model (critic), which only engine easyr1 with `adv_estimator: gae` trains."""

    strategy: str = "fsdp"
    global_batch_size: int = count(256, 1, 10**6)
    micro_batch_size_per_device_for_update: int = count(4, 1, 10**6)
    micro_batch_size_per_device_for_experience: int = count(16, 1, 10**6)
    max_grad_norm: float = number(1.0, 1e-9, 1e9)
    cliprange_value: float = number(0.5, 0, 1e6, above=True)
    loss_avg_mode: str = "token"
    ppo_epochs: int = count(1, 1, 10**6)
    padding_free: bool = False
    dynamic_batching: bool = True
    ulysses_size: int = count(1, 1, 10**4)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    fsdp: FSDPConfig = field(default_factory=FSDPConfig)
    offload: OffloadConfig = field(default_factory=OffloadConfig)


@dataclass
class RefConfig:
    """The reference model on engines easyr1 and verl; on engine local it is a frozen copy beside the policy."""

    strategy: str = "fsdp"
    fsdp: FSDPConfig = field(default_factory=FSDPConfig)
    offload: OffloadConfig = field(default_factory=OffloadConfig)


@dataclass
class OverlongBufferConfig:
    """DAPO's soft punishment of responses that come close to `data.max_response_length`, in training only."""

    enable: bool = False  # ours
    len: int = count(0, 0, 10**7)  # ours
    penalty_factor: float = number(1.0, 0, 1000, above=True)  # ours


@dataclass
class RewardConfig:
    """The reward function, `path/to/file.py:function` (function `main` when none is named)."""

    reward_function: str | None = None
    reward_function_kwargs: dict[str, Any] = field(default_factory=dict)
    skip_special_tokens: bool = True
    num_cpus: int = count(1, 0, 10**4)
    overlong_buffer: OverlongBufferConfig = field(default_factory=OverlongBufferConfig)


@dataclass
class ValidationSampling:
    """The keys of `worker.rollout.val_override_config`; one that is not there has training's value."""

    n: int = count(1, 1, 10**5)
    temperature: float = number(1.0, 0.01, 100, off=0, off_means="greedy samples")
    top_p: float = number(1.0, 0, 1, above=True)
    top_k: int = unlimited(-1)
    max_tokens: int = count(512, 1, 10**7)
    ignore_eos: bool = False
    seed: int = number(1, 0, LARGEST_SEED)


@dataclass
class EmulateConfig:
    """What training samples as another engine would, on purpose; validation and evaluation do not."""

    weights: str = "none"
    logits_noise: float = number(0.0, 0, 1000)
    top_p: float = number(1.0, 0, 1, above=True)


@dataclass
class RolloutConfig:
    """How responses are sampled."""

    name: str = "auto"
    n: int = count(1, 1, 10**5)
    temperature: float = number(1.0, 0.01, 100, off=0, off_means="greedy samples")
    top_p: float = number(1.0, 0, 1, above=True)
    top_k: int = unlimited(-1)
    seed: int = number(1, 0, LARGEST_SEED)
    limit_images: int = count(0, 0, 10**6)
    dtype: str = "bf16"
    gpu_memory_utilization: float = number(0.6, 0, 1, above=True)
    ignore_eos: bool = False
    enforce_eager: bool = False
    enable_chunked_prefill: bool = False
    tensor_parallel_size: int = count(2, 1, 10**4)
    max_model_len: int | None = count(None, 1, 10**7)
    max_num_batched_tokens: int = count(8192)
    disable_log_stats: bool = True
    disable_tqdm: bool = False
    val_override_config: dict[str, Any] = field(default_factory=dict)
    correction: str = "none"  # ours
    correction_cap: float | None = number(None, 0, 1e6, above=True)  # ours
    correction_floor: float | None = number(None, 0, 1e6)  # ours
    max_log_prob_gap: float = number(0.5, 0, 1e9, above=True)  # ours
    staleness: int = count(0, 0, 1000)  # ours
    emulate: EmulateConfig = field(default_factory=EmulateConfig)  # ours


@dataclass
class WorkerConfig:
    """Actor, critic, reference, reward and rollout."""

    hybrid_engine: bool = True
    actor: ActorConfig = field(default_factory=ActorConfig)
    critic: CriticConfig = field(default_factory=CriticConfig)
    ref: RefConfig = field(default_factory=RefConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)


@dataclass
class TrainerConfig:
    """Length, validation, checkpoints, trackers and the machine."""

    total_epochs: int = count(15)
    max_steps: int | None = count(None)
    project_name: str = "easy_r1"
    experiment_name: str = "demo"
    logger: list[str] = field(default_factory=lambda: ["console"])
    nnodes: int = count(1, 1, 10**5)
    n_gpus_per_node: int = count(8, 1, 1000)
    max_try_make_batch: int = unlimited(20)
    critic_warmup: int = count(0, 0)
    val_freq: int = count(-1, -1)
    val_before_train: bool = True
    val_only: bool = False
    val_generations_to_log: int = count(0, -1)
    log_samples: int = count(10, 0)  # ours
    record_steps: Any = "none"  # ours
    compare_losses: list[str] = field(default_factory=list)  # ours
    compare_losses_gradients_every: int = count(0, 0)  # ours
    save_freq: int = count(-1, -1)
    save_limit: int = unlimited(-1)
    save_model_only: bool = False
    save_checkpoint_path: str | None = None
    load_checkpoint_path: str | None = None
    ray_timeline: str | None = None
    find_last_checkpoint: bool = True
    run_dir: str | None = None  # ours
    resume: str = "auto"  # ours
    device: str = "auto"  # ours
    dtype: str = "auto"  # ours
    threads: int | None = count(None, 1, 4096)  # ours


@dataclass
class Config:
    """The keys outside of any section.

    Attributes are nested as in EasyR1's YAML: `config.worker.actor.optim.lr`.
    """

    engine: str = "auto"  # ours
    ray_address: str | None = None  # ours
    data: DataConfig = field(default_factory=DataConfig)
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    worker: WorkerConfig = field(default_factory=WorkerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
