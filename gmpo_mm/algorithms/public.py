"""What `gmpo_mm.algorithms` offers, imported when the first of it is asked for."""

import gmpo_mm.algorithms.plain_losses  # these register their losses
import gmpo_mm.algorithms.power_mean
import gmpo_mm.algorithms.trust_region  # noqa: F401
from gmpo_mm.algorithms.advantages import (
    AdvantageInputs,
    compute_advantages,
    filter_groups,
    known_estimators,
    register_advantage_estimator,
)
from gmpo_mm.algorithms.compared_losses import (
    StepTokens,
    UpdateRows,
    compare_losses,
    compared_configs,
)
from gmpo_mm.algorithms.config import GMPOConfig, PolicyLossConfig, PowerMeanConfig
from gmpo_mm.algorithms.correction_keys import CORRECTIONS, Correction, make_correction
from gmpo_mm.algorithms.corrections import correction_metrics, correction_weights, truncated_importance_weights
from gmpo_mm.algorithms.kl import (
    KL_KINDS,
    AdaptiveKLController,
    FixedKLController,
    apply_kl_to_rewards,
    compute_kl,
    make_kl_controller,
    mean_sequence_kl,
)
from gmpo_mm.algorithms.masked import aggregate
from gmpo_mm.algorithms.metrics import (
    Metric,
    finalize_metrics,
    log_prob_gap,
    masked_max,
    masked_mean,
    masked_min,
    merge_metrics,
)
from gmpo_mm.algorithms.policy_loss import (
    PolicyLoss,
    compute_policy_loss,
    count_units,
    loss_unit,
    sequence_advantages,
)
from gmpo_mm.algorithms.registry import (
    LossTerms,
    clip_keys_read_by,
    get_policy_loss,
    known_loss_types,
    load_policy_loss,
    register_policy_loss,
)

__all__ = [
    "CORRECTIONS",
    "KL_KINDS",
    "AdaptiveKLController",
    "AdvantageInputs",
    "Correction",
    "FixedKLController",
    "GMPOConfig",
    "LossTerms",
    "Metric",
    "PolicyLoss",
    "PolicyLossConfig",
    "PowerMeanConfig",
    "StepTokens",
    "UpdateRows",
    "aggregate",
    "apply_kl_to_rewards",
    "clip_keys_read_by",
    "compare_losses",
    "compared_configs",
    "compute_advantages",
    "compute_kl",
    "compute_policy_loss",
    "correction_metrics",
    "correction_weights",
    "count_units",
    "filter_groups",
    "finalize_metrics",
    "get_policy_loss",
    "known_loss_types",
    "load_policy_loss",
    "log_prob_gap",
    "loss_unit",
    "make_correction",
    "make_kl_controller",
    "known_estimators",
    "masked_max",
    "masked_mean",
    "masked_min",
    "mean_sequence_kl",
    "merge_metrics",
    "register_advantage_estimator",
    "register_policy_loss",
    "sequence_advantages",
    "truncated_importance_weights",
]
