"""One configuration: EasyR1's sections and keys, plus ours; loading, checking and printing it."""

from gmpo_mm.config.cautions import cautions
from gmpo_mm.config.load import LoadedConfig, config_differences, load_config, to_yaml
from gmpo_mm.config.loss import policy_loss_config
from gmpo_mm.config.paths import resolve_model_path, resume_choice, run_directory, split_function_spec
from gmpo_mm.config.sampler import choose_sampler, longest_response
from gmpo_mm.config.schema import (
    ActorConfig,
    AlgorithmConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimConfig,
    RewardConfig,
    RolloutConfig,
    TrainerConfig,
    WorkerConfig,
)
from gmpo_mm.config.validate import warm_up_too_long

__all__ = [
    "ActorConfig",
    "AlgorithmConfig",
    "Config",
    "DataConfig",
    "LoadedConfig",
    "ModelConfig",
    "OptimConfig",
    "RewardConfig",
    "RolloutConfig",
    "TrainerConfig",
    "WorkerConfig",
    "cautions",
    "choose_sampler",
    "config_differences",
    "load_config",
    "longest_response",
    "policy_loss_config",
    "resolve_model_path",
    "resume_choice",
    "run_directory",
    "split_function_spec",
    "to_yaml",
    "warm_up_too_long",
]
