"""Our configuration as EasyR1's `PPOConfig`: the same keys, and in subclasses those that our actor reads beside them."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from verl.trainer.config import PPOConfig, TrainerConfig
from verl.trainer.core_algos import AdvantageEstimator
from verl.workers.actor.config import ActorConfig
from verl.workers.config import WorkerConfig

from gmpo_mm.algorithms.config import LossKeys
from gmpo_mm.config import Config, resolve_model_path, run_directory
from gmpo_mm.config.keys import flatten
from gmpo_mm.config.shipped import find_file
from gmpo_mm.engines.easyr1.preflight import TESTED
from gmpo_mm.engines.run_setup import absolute_function
from gmpo_mm.errors import ConfigError

HANDLED_HERE = frozenset(
    {
        "engine",
        "ray_address",
        "algorithm.norm_adv_by_std",  # advantages.py
        "algorithm.gdpo_reward_keys",
        "algorithm.gdpo_reward_weights",
        "algorithm.drop_zero_advantage",
        "algorithm.mask_truncated_completions",  # trainer.py
        "worker.actor.logits_dtype",
        "worker.actor.old_log_probs",
        "worker.reward.overlong_buffer.enable",  # rewards.py
        "worker.reward.overlong_buffer.len",
        "worker.reward.overlong_buffer.penalty_factor",
        "worker.rollout.correction",  # to_easyr1, in the actor's section
        "worker.rollout.correction_cap",
        "worker.rollout.correction_floor",
        "worker.rollout.max_log_prob_gap",
        "worker.rollout.staleness",
        "worker.rollout.emulate.weights",
        "worker.rollout.emulate.logits_noise",
        "worker.rollout.emulate.top_p",
        "trainer.run_dir",
        "trainer.resume",
        "trainer.device",
        "trainer.dtype",
        "trainer.threads",
        "trainer.log_samples",  # trainer.py
        "trainer.record_steps",
        "trainer.compare_losses",
        "trainer.compare_losses_gradients_every",
    }
)
"""Keys of ours that EasyR1's configuration has no place for: read by this engine itself, refused, or named as ignored."""


@dataclass
class GMPOActorConfig(ActorConfig, LossKeys):
    """EasyR1's actor section with the losses' keys, others of our `worker.actor`, and the correction of `worker.rollout`."""

    seq_mean: str = "exact"
    entropy_coef: float = 0.0
    correction: str = "none"
    correction_cap: float | None = None
    correction_floor: float | None = None


@dataclass
class GMPOWorkerConfig(WorkerConfig):
    """EasyR1's worker section with our actor's."""

    actor: GMPOActorConfig = field(default_factory=GMPOActorConfig)


@dataclass
class GMPOTrainerConfig(TrainerConfig):
    """EasyR1's trainer section; omegaconf 2.4 takes its `Tuple[str]` at its word and refuses two loggers."""

    logger: tuple[str, ...] = ("console", "wandb")


@dataclass
class GMPOPPOConfig(PPOConfig):
    """EasyR1's whole configuration with our sections."""

    worker: GMPOWorkerConfig = field(default_factory=GMPOWorkerConfig)
    trainer: GMPOTrainerConfig = field(default_factory=GMPOTrainerConfig)


def name_in_easyr1(estimator: str) -> str:
    """The name under which EasyR1's trainer lets an estimator pass, and ours is registered: its own, or `grpo`."""
    return estimator if estimator in list(AdvantageEstimator) else "grpo"


def to_easyr1(config: Config) -> GMPOPPOConfig:
    """EasyR1's configuration with our values: every key under its own name, names and paths resolved.

    An estimator that EasyR1's trainer does not let pass becomes `grpo`; `advantages.install` puts ours behind it.
    """
    structured = OmegaConf.structured(GMPOPPOConfig)
    for key, value in flatten(config).items():
        if key in HANDLED_HERE:
            continue
        try:
            OmegaConf.update(structured, key, value, merge=False)
        except OmegaConfBaseException as error:
            raise ConfigError(
                f"{key} = {value!r}: the installed EasyR1 does not take it ({str(error).splitlines()[0]}); the engine is "
                f"written for EasyR1 {TESTED}.x"
            ) from error
    easyr1 = OmegaConf.to_object(structured)
    assert isinstance(easyr1, GMPOPPOConfig)
    model, worker, data = easyr1.worker.actor.model, easyr1.worker, easyr1.data
    model.model_path = resolve_model_path(model.model_path or "")
    if model.tokenizer_path is not None:
        model.tokenizer_path = resolve_model_path(model.tokenizer_path)
    if worker.critic.model.model_path is not None:
        worker.critic.model.model_path = resolve_model_path(worker.critic.model.model_path)
    worker.reward.reward_function = absolute_function(worker.reward.reward_function or "")
    data.format_prompt = data.format_prompt and str(find_file(data.format_prompt))  # a shipped one can be far from here
    data.override_chat_template = data.override_chat_template and str(find_file(data.override_chat_template))
    if ".py:" in worker.actor.loss_type:
        worker.actor.loss_type = absolute_function(worker.actor.loss_type)
    worker.rollout.name = "vllm"
    for name in ("correction", "correction_cap", "correction_floor"):  # read by the actor, and there is no place in EasyR1's
        setattr(worker.actor, name, getattr(config.worker.rollout, name))
    worker.rollout.val_override_config.setdefault("n", 1)  # EasyR1 reads 1 in one place and rollout.n in another
    easyr1.algorithm.adv_estimator = name_in_easyr1(easyr1.algorithm.adv_estimator)
    easyr1.trainer.save_checkpoint_path = str(run_directory(config).absolute())
    easyr1.deep_post_init()
    return easyr1
