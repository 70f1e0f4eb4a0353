"""Checks of `trainer.compare_losses`."""

from __future__ import annotations

from collections.abc import Iterator

from gmpo_mm.config.load import LoadedConfig
from gmpo_mm.config.loss import COMPARE, compared_losses, loss_unit_of, policy_loss_config
from gmpo_mm.errors import ConfigError


def check_comparing(loaded: LoadedConfig) -> Iterator[str]:
    """Each compared loss has a name of its own, and the advantages that it needs; `check_loss` finds unknown ones."""
    from gmpo_mm.algorithms import compared_configs

    config = loaded.config
    names = config.trainer.compare_losses
    if not names:
        return
    try:
        losses, trained = compared_losses(config), policy_loss_config(config)
        loss_unit_of(config)
    except ConfigError:
        return  # check_loss and check_ranges name it
    if len(set(names)) < len(names):
        yield f"{COMPARE} = {names}: a loss is named twice; remove one."
        return
    try:
        compared_configs(trained, names)
    except ValueError as error:
        yield f"{COMPARE} = {names}: {error}."
    algorithm = config.algorithm
    of_tokens = algorithm.adv_estimator == "gae"
    if algorithm.adv_estimator == "reinforce_plus_plus":
        kl_in_reward = not algorithm.disable_kl and not algorithm.use_kl_loss
        of_tokens = algorithm.gamma != 1.0 or kl_in_reward
    for name, loss in zip(names, losses, strict=True):
        if of_tokens and loss.sequence_advantages and name != config.worker.actor.loss_type:
            yield (
                f"{COMPARE} = {names}: {name} needs one advantage a sequence, and adv_estimator={algorithm.adv_estimator} "
                f"gives one a token here; leave {name} out, or use adv_estimator=grpo."
            )
