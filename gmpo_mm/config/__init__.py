"""One configuration: EasyR1's sections and keys, plus ours; loading, checking and printing it."""

from gmpo_mm.config.load import LoadedConfig, config_differences, load_config, to_yaml
from gmpo_mm.config.loss import policy_loss_config
from gmpo_mm.config.schema import (
    ActorConfig,
    AlgorithmConfig,
    Config,
    DataConfig,
    GMPOLossConfig,
    ModelConfig,
    OptimConfig,
    RewardConfig,
    RolloutConfig,
    TrainerConfig,
    WorkerConfig,
)

__all__ = [
    "ActorConfig",
    "AlgorithmConfig",
    "Config",
    "DataConfig",
    "GMPOLossConfig",
    "LoadedConfig",
    "ModelConfig",
    "OptimConfig",
    "RewardConfig",
    "RolloutConfig",
    "TrainerConfig",
    "WorkerConfig",
    "config_differences",
    "load_config",
    "policy_loss_config",
    "to_yaml",
]
