"""Keys that a file sets and that change nothing: told before training and by --dry-run, with the reason.

One rule decides between this list and an error:

- A key of something that is switched off, in the same file or by what the engine is, is told: `kl_coef` under
  `disable_kl: true`, `filter_low` without online filtering, `fsdp` on one process. The switch says already that it does not
  count, and EasyR1's own files set such keys.
- A key that the chosen method does not have is an error (`validate`): `clip_ratio_low` under gmpo, `norm_adv_by_std` under
  rloo. Nothing in the file says that it does not count, so a reader takes its value for what was trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from gmpo_mm.config.keys import default_of, get_key
from gmpo_mm.config.load import LoadedConfig
from gmpo_mm.config.off_policy import is_off_policy

COUNTS = (
    "trainer.nnodes",
    "trainer.n_gpus_per_node",
    "worker.actor.ulysses_size",
    "worker.rollout.tensor_parallel_size",
)


def without_effect(loaded: LoadedConfig, engine: Iterable[tuple[str, str]]) -> list[tuple[str, Any, str]]:
    """(key, value, why it has no effect) of every explicitly set key that the run will not read, sorted by reason.

    `engine`: (key, reason) pairs of what its engine does not read.
    """
    reasons = dict(engine)
    for key, reason in (*_algorithm(loaded), *_worker(loaded), *_trainer(loaded)):
        reasons.setdefault(key, reason)
    found = [(key, get_key(loaded.config, key), reasons[key]) for key in loaded.explicit_keys if key in reasons]
    return sorted((item for item in found if not _claims_nothing(*item[:2])), key=lambda item: (item[2], item[0]))


def set_and_listed(loaded: LoadedConfig, unread: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(key, reason) of each key that the file sets to another value than its default and that `unread` lists.

    A name in `unread` that ends in a dot or an underscore stands for all keys that begin with it.
    """
    for key in loaded.explicit_keys:
        if get_key(loaded.config, key) == default_of(key):  # claims nothing; a resolved config spells out all of them
            continue
        for prefix, reason in unread.items():
            if key == prefix or (prefix.endswith((".", "_")) and key.startswith(prefix)):
                yield key, reason
                break


def _claims_nothing(key: str, value: Any) -> bool:
    """True for a switch that is off and for a count of one machine: what the engine does anyway."""
    return value is None or value is False or value == "" or (key in COUNTS and value == 1)


def _algorithm(loaded: LoadedConfig) -> Iterator[tuple[str, str]]:
    algorithm = loaded.config.algorithm
    if not algorithm.online_filtering:
        for name in ("filter_key", "filter_low", "filter_high"):
            yield f"algorithm.{name}", "algorithm.online_filtering is false"
        yield "trainer.max_try_make_batch", "algorithm.online_filtering is false"
    if algorithm.disable_kl:
        for name in ("use_kl_loss", "kl_penalty", "kl_coef", "kl_type", "kl_horizon", "kl_target"):
            yield f"algorithm.{name}", "algorithm.disable_kl is true: no reference model, no KL term"
    elif algorithm.use_kl_loss and algorithm.kl_type == "adaptive":
        for name in ("kl_type", "kl_horizon", "kl_target"):
            yield (
                f"algorithm.{name}",
                "the coefficient adapts only for KL in the reward (algorithm.use_kl_loss is true)",
            )
    if algorithm.kl_type == "fixed":
        for name in ("kl_horizon", "kl_target"):
            yield f"algorithm.{name}", "algorithm.kl_type is fixed"
    if algorithm.adv_estimator not in ("reinforce_plus_plus", "gae"):
        yield "algorithm.gamma", f"adv_estimator {algorithm.adv_estimator} does not discount"
    if algorithm.adv_estimator != "gae":
        yield "algorithm.lam", "only gae reads it"


def _worker(loaded: LoadedConfig) -> Iterator[tuple[str, str]]:
    actor, rollout = loaded.config.worker.actor, loaded.config.worker.rollout
    if actor.model.lora.rank == 0:
        for name in ("alpha", "target_modules", "exclude_modules"):
            yield f"worker.actor.model.lora.{name}", "worker.actor.model.lora.rank is 0: all weights are trained"
    if actor.optim.lr_scheduler_type == "constant":
        yield "worker.actor.optim.min_lr_ratio", "worker.actor.optim.lr_scheduler_type is constant"
    if actor.optim.lr_warmup_steps is not None:
        yield "worker.actor.optim.lr_warmup_ratio", "worker.actor.optim.lr_warmup_steps goes before it"
    if not loaded.config.worker.reward.overlong_buffer.enable:
        for name in ("len", "penalty_factor"):
            yield f"worker.reward.overlong_buffer.{name}", "worker.reward.overlong_buffer.enable is false"
    if rollout.correction == "none":
        for name in ("correction_cap", "correction_floor"):
            yield f"worker.rollout.{name}", "worker.rollout.correction is none"
    if is_off_policy(loaded.config):
        yield "worker.rollout.max_log_prob_gap", "the sampler differs on purpose (worker.rollout.staleness, emulate)"


def _trainer(loaded: LoadedConfig) -> Iterator[tuple[str, str]]:
    trainer = loaded.config.trainer
    if trainer.max_steps is not None:
        yield "trainer.total_epochs", "trainer.max_steps goes before it"
    if trainer.run_dir and trainer.save_checkpoint_path:
        yield "trainer.save_checkpoint_path", "trainer.run_dir says the same"
    if trainer.load_checkpoint_path or trainer.resume != "auto":
        yield "trainer.find_last_checkpoint", "the checkpoint to go on from is named"
    if not loaded.config.data.val_files:
        for name in ("val_before_train", "val_freq"):
            yield f"trainer.{name}", "data.val_files is empty: no validation"
    if not trainer.compare_losses and trainer.compare_losses_gradients_every:
        yield "trainer.compare_losses_gradients_every", "trainer.compare_losses is empty"
    if trainer.val_only:
        if trainer.compare_losses:
            for name in ("compare_losses", "compare_losses_gradients_every"):
                yield f"trainer.{name}", "trainer.val_only is true"
        for name in ("val_freq", "save_freq", "save_limit", "save_model_only", "total_epochs", "max_steps"):
            yield f"trainer.{name}", "trainer.val_only is true"
