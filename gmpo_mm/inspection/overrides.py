"""The configuration of a replay: the run's own, and the keys that may differ in another update."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from gmpo_mm.config.bounds import check_choices, check_ranges
from gmpo_mm.config.correction import check_correction
from gmpo_mm.config.keys import flatten
from gmpo_mm.config.load import LoadedConfig, load_config
from gmpo_mm.config.loss import ACTOR, LOSS_KEYS, unread_loss_keys
from gmpo_mm.config.validate import check_advantages, check_kl, check_loss
from gmpo_mm.config.yaml_text import parse_override
from gmpo_mm.credentials import is_hidden
from gmpo_mm.errors import ConfigError

HOW = ("trainer.device", "trainer.dtype", "trainer.threads")
"""How the update is computed: they go for the run's own update too."""
ADVANTAGES = (
    "algorithm.adv_estimator",
    "algorithm.norm_adv_by_std",
    "algorithm.gamma",
    "algorithm.gdpo_reward_keys",
    "algorithm.gdpo_reward_weights",
    "algorithm.mask_truncated_completions",
)
KL = ("algorithm.disable_kl", "algorithm.use_kl_loss", "algorithm.kl_penalty", "algorithm.kl_coef")
CUTS = (f"{ACTOR}global_batch_size", f"{ACTOR}ppo_epochs")
SCHEDULE = tuple(
    f"{ACTOR}optim.{name}"
    for name in ("lr", "lr_warmup_ratio", "lr_warmup_steps", "min_lr_ratio", "lr_scheduler_type")
)
OPTIMIZER = (f"{ACTOR}optim.betas", f"{ACTOR}optim.weight_decay")
MATTERS = (
    f"{ACTOR}loss_type",
    *(ACTOR + key for key in LOSS_KEYS),
    *ADVANTAGES,
    *KL,
    *CUTS,
    *SCHEDULE,
    *OPTIMIZER,
    "algorithm.drop_zero_advantage",
    f"{ACTOR}max_grad_norm",
    f"{ACTOR}entropy_coef",
    f"{ACTOR}old_log_probs",
    f"{ACTOR}micro_batch_size_per_device_for_update",
    f"{ACTOR}dynamic_batching",
    "worker.rollout.correction",
    "worker.rollout.correction_cap",
    "worker.rollout.correction_floor",
)


def recorded_config(
    config: Mapping[str, Any], overrides: Sequence[str] = (), *, trust_code: bool = False
) -> LoadedConfig:
    """The configuration of a record with overrides, and without values that were saved as hidden.

    A record may come from somebody else: unless `trust_code`, ConfigError where it names code that would run.
    """
    if not trust_code:
        _check_code(config)
    sections = [f"{name}={json.dumps(value)}" for name, value in _shown(config).items()]
    if not sections:
        raise ConfigError(
            "the record holds no configuration, so its update can't be done again; record the step again"
        )
    return load_config(None, [*sections, "trainer.compare_losses=[]", *overrides])


def split_overrides(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """(how it is computed, what is done otherwise); ConfigError names the keys that no update reads."""
    how: list[str] = []
    other: list[str] = []
    refused: list[str] = []
    for text in overrides:
        keys = flatten_override(text)
        if refused_here := [key for key in keys if not _allowed(key)]:
            refused += refused_here
        (how if all(key in HOW for key in keys) else other).append(text)
    if refused:
        raise ConfigError(
            f"{', '.join(dict.fromkeys(refused))}: a replay takes the rollouts, the rewards and the weights "
            "as they were recorded, so this key cannot change the update. Leave it out; keys that can: "
            "worker.actor.loss_type and the keys of the losses, "
            f"{', '.join(key for key in MATTERS[1:] if key.removeprefix(ACTOR) not in LOSS_KEYS)}"
        )
    return how, other


def other_config(
    config: Mapping[str, Any], how: Sequence[str], overrides: Sequence[str], *, trust_code: bool = False
) -> LoadedConfig:
    """The configuration with the overrides, checked as one for training is, as far as the update goes."""
    given = {key for text in overrides for key in flatten_override(text)}
    loaded = recorded_config(config, [*how, *overrides], trust_code=trust_code)
    # keys of the run's own loss are no slip where the override chooses another loss
    unread = (
        unread_loss_keys(loaded.config)
        if "loss_type" in {key.removeprefix(ACTOR) for key in given}
        else frozenset()
    )
    loaded = LoadedConfig(loaded.config, frozenset(loaded.explicit_keys - (unread - given)), loaded.written)
    checks = (check_choices, check_ranges, check_loss, check_advantages, check_kl, check_correction)
    problems = [problem for check in checks for problem in check(loaded)]
    if problems:
        raise ConfigError("\n\n".join(dict.fromkeys(problems)))
    return loaded


def flatten_override(text: str) -> list[str]:
    """The keys that one `key=value` sets."""
    parsed = parse_override(text, f"{ACTOR}loss_type=default")

    def keys(content: Mapping[str, Any], prefix: str) -> list[str]:
        found = []
        for name, value in content.items():
            key = f"{prefix}{name}"
            found += keys(value, f"{key}.") if isinstance(value, Mapping) and not _allowed(key) else [key]
        return found

    return keys(parsed, "")


def _allowed(key: str) -> bool:
    return key in MATTERS or key in HOW


def changed(own: LoadedConfig, other: LoadedConfig, keys: Sequence[str]) -> bool:
    """Whether any of the keys has another value."""
    one, two = flatten(own.config), flatten(other.config)
    return any(one[key] != two[key] for key in keys)


def _check_code(config: Mapping[str, Any]) -> None:
    actor = (config.get("worker") or {}).get("actor") or {}
    loss, model = str(actor.get("loss_type", "")), actor.get("model") or {}
    if ".py" in loss:
        raise ConfigError(
            f"the record's {ACTOR}loss_type = {loss!r} names a file whose code would run; add --trust-code "
            "if you know it"
        )
    if model.get("trust_remote_code", False) is not False:
        raise ConfigError(
            f"the record's {ACTOR}model.trust_remote_code = true: code that comes with the model "
            f"{model.get('model_path')!r} would run; add --trust-code if you know it"
        )


def _shown(value: Any) -> Any:
    """Without what was hidden."""
    if isinstance(value, Mapping):
        return {
            name: _shown(inner)
            for name, inner in value.items()
            if isinstance(inner, Mapping) or not is_hidden(inner)
        }
    return value
