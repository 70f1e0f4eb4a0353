"""Checks before any model is loaded, on every engine: a config that passes trains what it says.

Each check yields messages that name key, value and fix; `raise_problems` raises all of them at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, get_type_hints

from gmpo_mm.config.backends import SAMPLERS
from gmpo_mm.config.bounds import RANGES, check_choices, check_names, check_ranges, shorten
from gmpo_mm.config.comparing import check_comparing
from gmpo_mm.config.correction import check_correction
from gmpo_mm.config.engine_facts import facts_of
from gmpo_mm.config.keys import get_key, nearest
from gmpo_mm.config.load import LoadedConfig
from gmpo_mm.config.loss import ACTOR, LOG_CLIP_SECTIONS, LOSS_KEYS, policy_loss_config, unread_loss_keys
from gmpo_mm.config.off_policy import check_off_policy
from gmpo_mm.config.paths_check import check_paths, check_prepared
from gmpo_mm.config.ranges import ranges_of
from gmpo_mm.config.recording import check_recording
from gmpo_mm.config.reward_rules import check_reward_rules
from gmpo_mm.config.sampler import choose_sampler, longest_response, sees_gpu
from gmpo_mm.config.schema import ValidationSampling
from gmpo_mm.config.sizes import divisor, nearest_multiple
from gmpo_mm.config.words import settings_for_value
from gmpo_mm.errors import ConfigError

Check = Callable[[LoadedConfig], Iterator[str]]
VALIDATION_SAMPLING = get_type_hints(ValidationSampling)
_VALIDATION_RANGES = dict(ranges_of(ValidationSampling))
LOSS_RANGES = {key: RANGES[key] for key in RANGES if key.removeprefix(ACTOR) in LOSS_KEYS}


def raise_problems(loaded: LoadedConfig, engine_rules: Check | None, *, prepared: bool = True) -> None:
    """Raises ConfigError with one paragraph for each thing that is wrong; loads no model and no data.

    `engine_rules` finds what the configured engine can't honour. For a plan, `prepared=False` lets data and models be missing
    that a command of ours makes.
    """
    checks: list[Check] = [
        check_choices,
        check_ranges,
        check_names,
        check_paths,
        check_loss,
        check_advantages,
        check_reward_rules,
        check_kl,
        check_batch_sizes,
        check_sampling,
        check_off_policy,
        check_correction,
        check_validation,
        check_trainer,
        check_recording,
        check_comparing,
    ]
    checks += [engine_rules] if engine_rules is not None else []
    checks += [check_prepared] if prepared else []
    problems = [problem for check in checks for problem in check(loaded)]
    if problems:
        raise ConfigError("\n\n".join(dict.fromkeys(problems)))


def check_loss(loaded: LoadedConfig) -> Iterator[str]:
    """The loss and those compared with it are known, and the file sets no loss key that all of them leave unread."""
    config = loaded.config
    actor = config.worker.actor
    if not all(allowed.holds(get_key(config, key)) for key, allowed in LOSS_RANGES.items()):
        return  # check_ranges names it
    try:
        policy_loss_config(config)
        unread = unread_loss_keys(config)
    except ConfigError as error:
        yield str(error)
        return
    for key in sorted(unread & loaded.explicit_keys):
        value = get_key(config, key)
        if key == f"{ACTOR}loss_avg_mode" and value == "seq":  # says what the loss does anyway
            continue
        yield f"{key} = {value!r}: {_why_unread(key, actor.loss_type)}"


def _why_unread(key: str, loss_type: str) -> str:
    from gmpo_mm.algorithms import clip_keys_read_by, known_loss_types

    name = key.removeprefix(ACTOR)
    if name == "loss_avg_mode":
        return f"loss_type={loss_type} is a mean over sequences, whatever this key says; remove it or set it to seq."
    if loss_type in LOG_CLIP_SECTIONS and name.startswith(f"{loss_type}.log_clip"):
        return f"{loss_type}.clip=none clips nothing; remove the key, or set {ACTOR}{loss_type}.clip=token."
    if loss_type in LOG_CLIP_SECTIONS and name in ("clip_ratio_low", "clip_ratio_high"):
        ours = name.replace("clip_ratio", f"{loss_type}.log_clip")
        paper = "the paper" if loss_type == "gmpo" else "GMPO's paper"
        return f"loss_type={loss_type} clips in log space and does not read it; set {ACTOR}{ours} instead ({paper}: 0.4)."
    homes = [loss for loss in known_loss_types() if name in clip_keys_read_by(loss)]
    meant = f"; it belongs to loss_type={' or '.join(homes)}" if len(homes) <= 2 else ""
    return f"loss_type={loss_type} does not read this key, so it has no effect{meant}. Remove it or change the loss."


def check_advantages(loaded: LoadedConfig) -> Iterator[str]:
    """The estimator fits the group size, the loss and the engine."""
    from gmpo_mm.algorithms import get_policy_loss, known_estimators

    config = loaded.config
    algorithm, n = config.algorithm, config.worker.rollout.n
    loss_type = config.worker.actor.loss_type
    try:
        one_a_sequence = get_policy_loss(loss_type).sequence_advantages
    except ValueError:
        one_a_sequence = False  # check_loss names the unknown loss
    needs_one = f"{loss_type} needs one advantage a sequence" + (" (equation 4)" if loss_type == "gmpo" else "")
    estimator = algorithm.adv_estimator
    engine = facts_of(config)
    if estimator == "gae" and not engine.has_critic:
        yield (
            f"algorithm.adv_estimator = 'gae': it needs a critic (a value model), and engine={engine.name} has none; "
            f"use grpo (or {', '.join(n for n in known_estimators() if n != 'grpo')}), which needs no critic, or engine=easyr1."
        )
    elif estimator == "gae" and one_a_sequence:
        yield (
            f"algorithm.adv_estimator = 'gae': it gives one advantage a token, and {needs_one}; use "
            "grpo or another outcome estimator, or worker.actor.loss_type=default."
        )
    if estimator in known_estimators(groups=True) and n == 1 and not config.trainer.val_only:
        yield (
            f"worker.rollout.n = 1: {estimator} compares the responses of one prompt, so it needs at least 2; "
            "set worker.rollout.n=5 (EasyR1) or 8 (the paper), or use " + " or ".join(known_estimators(groups=False)) + "."
        )
    explicit_std = "algorithm.norm_adv_by_std" in loaded.explicit_keys
    if estimator == "dr_grpo" and explicit_std and algorithm.norm_adv_by_std:
        yield (
            "algorithm.norm_adv_by_std = true: dr_grpo never divides by the standard deviation; "
            "remove the key, or use adv_estimator=grpo."
        )
    if estimator in (*known_estimators(std=False), "gae") and not algorithm.norm_adv_by_std:
        yield (
            f"algorithm.norm_adv_by_std = false: {estimator} has no standard deviation to leave out; "
            "remove the key, or use adv_estimator=grpo or dr_grpo."
        )
    kl_in_loss = algorithm.use_kl_loss and not algorithm.disable_kl
    if algorithm.drop_zero_advantage and (kl_in_loss or config.worker.actor.entropy_coef):
        yield (
            "algorithm.drop_zero_advantage = true: with a KL term in the loss or worker.actor.entropy_coef, groups without "
            "an advantage still have a gradient, so leaving them out would train something else; set it to false."
        )
    if one_a_sequence and estimator == "reinforce_plus_plus":
        yield from _check_one_advantage_a_sequence(loaded, needs_one)


def _check_one_advantage_a_sequence(loaded: LoadedConfig, needs_one: str) -> Iterator[str]:
    algorithm = loaded.config.algorithm
    reason = f"{needs_one}, and reinforce_plus_plus then gives one a token"
    if algorithm.gamma != 1.0:
        yield f"algorithm.gamma = {algorithm.gamma}: {reason}; set algorithm.gamma=1 or use adv_estimator=grpo."
    if not algorithm.disable_kl and not algorithm.use_kl_loss:
        yield (
            f"algorithm.use_kl_loss = false: KL goes into the reward of each token, and {reason}; "
            "set algorithm.use_kl_loss=true or algorithm.disable_kl=true, or use adv_estimator=grpo."
        )


def check_kl(loaded: LoadedConfig) -> Iterator[str]:
    """The KL estimator can be computed from the tokens that were sampled."""
    algorithm = loaded.config.algorithm
    if algorithm.kl_penalty == "full" and not algorithm.disable_kl:
        yield (
            "algorithm.kl_penalty = 'full': it needs the probabilities of the whole vocabulary, and only those of the "
            "sampled tokens are kept; use low_var_kl (or kl, abs, mse)."
        )


def check_batch_sizes(loaded: LoadedConfig) -> Iterator[str]:
    """Prompts divide into mini-batches, and samples into micro-batches where those are fixed."""
    config = loaded.config
    data, actor, n = config.data, config.worker.actor, config.worker.rollout.n
    prompts, mini = data.rollout_batch_size, actor.global_batch_size
    sizes = (prompts, mini, n, actor.micro_batch_size_per_device_for_update, data.mini_rollout_batch_size or 1)
    if not all(1 <= size <= 10**6 for size in sizes):
        return  # check_ranges names it
    if prompts % mini:
        yield (
            f"worker.actor.global_batch_size = {mini}: data.rollout_batch_size = {prompts} prompts don't divide into "
            f"mini-batches of {mini} prompts; set global_batch_size={divisor(prompts, mini)} or "
            f"rollout_batch_size={nearest_multiple(prompts, mini)}."
        )
    micro = actor.micro_batch_size_per_device_for_update
    if not actor.dynamic_batching and (mini * n) % micro:
        yield (
            f"worker.actor.micro_batch_size_per_device_for_update = {micro}: a mini-batch has global_batch_size x n = "
            f"{mini} x {n} = {mini * n} samples, which {micro} does not divide; set it to {divisor(mini * n, micro)}, or "
            "worker.actor.dynamic_batching=true."
        )
    sampled = data.mini_rollout_batch_size
    if sampled and not config.algorithm.online_filtering and prompts % sampled:
        yield (
            f"data.mini_rollout_batch_size = {sampled}: it does not divide data.rollout_batch_size = {prompts}, so prompts "
            "would be sampled and thrown away; "
            f"set it to {divisor(prompts, sampled)} or null (only online_filtering needs more)."
        )


def check_sampling(loaded: LoadedConfig) -> Iterator[str]:
    """Training samples from the policy itself: a truncated or sharpened distribution biases the importance ratio."""
    config = loaded.config
    rollout = config.worker.rollout
    backend, here = SAMPLERS.get(rollout.name), not facts_of(config).distributed
    if backend is not None and here and not backend.is_installed():
        yield (
            f"worker.rollout.name = {rollout.name!r}: {backend.package} is not installed; pip install {backend.install}, "
            "or set it to hf."
        )
    if here:
        try:
            choose_sampler(rollout.name, on_gpu=sees_gpu(config.trainer.device), max_tokens=longest_response(config))
        except ConfigError as error:
            yield str(error)
    if config.trainer.val_only:
        return
    if rollout.temperature == 0:
        yield (
            f"worker.rollout.temperature = {rollout.temperature}: greedy samples of a group are all equal and teach "
            "nothing; set 1.0 (greedy validation: worker.rollout.val_override_config.temperature=0)."
        )
    truncations = [
        ("top_p", rollout.top_p, rollout.top_p < 1, "1.0"),
        ("top_k", rollout.top_k, rollout.top_k > 0, "-1"),
    ]
    for name, value, truncated, fix in truncations:
        if truncated and rollout.correction == "none":
            yield (
                f"worker.rollout.{name} = {value}: training on samples of a truncated distribution biases the "
                f"importance ratio; set worker.rollout.{name}={fix} (validation: val_override_config), or "
                "worker.rollout.correction=truncated."
            )


def check_validation(loaded: LoadedConfig) -> Iterator[str]:
    """Validation that is asked for can take place, and its sampling keys exist."""
    config = loaded.config
    trainer = config.trainer
    if trainer.val_only and not trainer.val_before_train:
        yield (
            "trainer.val_only = true: with trainer.val_before_train = false nothing would be validated (EasyR1 would "
            "train); set trainer.val_before_train=true."
        )
    asked = [key for key in ("val_only", "val_before_train") if getattr(trainer, key)]
    asked += ["val_freq"] if trainer.val_freq > 0 else []
    if "data.val_files" in loaded.explicit_keys:  # set to nothing: no validation is wanted, whatever else the file says
        asked = ["val_only"] if trainer.val_only else []
    asked = [key for key in asked if f"trainer.{key}" in loaded.explicit_keys]
    if asked and not config.data.val_files:
        yield (
            f"data.val_files is empty, but trainer.{asked[0]} = {str(getattr(trainer, asked[0])).lower()} asks for "
            "validation; name the file, or set data.val_files= to train without validation."
        )
    for name, value in config.worker.rollout.val_override_config.items():
        yield from _check_validation_key(str(name), value)


def _check_validation_key(name: str, value: Any) -> Iterator[str]:
    key = f"worker.rollout.val_override_config.{name}"
    if name not in VALIDATION_SAMPLING:
        meant = nearest(name, VALIDATION_SAMPLING)
        hint = f" Did you mean {meant}?" if meant else ""
        yield f"{key} = {value!r}: there is no such sampling key.{hint} Known: {', '.join(VALIDATION_SAMPLING)}."
        return
    expected = VALIDATION_SAMPLING[name]
    fits = isinstance(value, (int, float) if expected is float else expected)
    if not fits or (isinstance(value, bool) and expected is not bool):
        kind = {int: "an integer", float: "a number", bool: "true or false"}[expected]
        yield f"{key} = {value!r}: {kind} is expected."
        return
    allowed = _VALIDATION_RANGES.get(name)
    if allowed is not None and not allowed.holds(value):
        yield f"{key} = {shorten(value)}: it must be {allowed.describe()}."


def check_trainer(loaded: LoadedConfig) -> Iterator[str]:
    """EasyR1's and our names for the same thing don't contradict each other; the device and the trackers exist."""
    trainer, explicit = loaded.config.trainer, loaded.explicit_keys
    if trainer.run_dir and trainer.save_checkpoint_path and trainer.run_dir != trainer.save_checkpoint_path:
        yield (
            f"trainer.run_dir = {trainer.run_dir!r} and trainer.save_checkpoint_path = "
            f"{trainer.save_checkpoint_path!r}: both name the run's directory; keep one of them."
        )
    if trainer.load_checkpoint_path and trainer.resume not in ("auto", trainer.load_checkpoint_path):
        yield (
            f"trainer.resume = {trainer.resume!r} and trainer.load_checkpoint_path = {trainer.load_checkpoint_path!r}: "
            "both say where to go on from; keep one of them."
        )
    warm_up, steps = loaded.config.worker.actor.optim.lr_warmup_steps, trainer.max_steps
    if warm_up is not None and steps is not None and warm_up > steps and not trainer.val_only:
        yield warm_up_too_long(warm_up, steps, "trainer.max_steps")
    if "trainer.find_last_checkpoint" in explicit and not trainer.find_last_checkpoint and trainer.resume == "must":
        yield (
            "trainer.find_last_checkpoint = false and trainer.resume = 'must' contradict each other; "
            "remove find_last_checkpoint, or set trainer.resume=never."
        )
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", trainer.device):
        settings = settings_for_value("trainer.device", trainer.device)
        hint = f" Write {settings}." if settings else ""
        yield f"trainer.device = {trainer.device!r}: it must be auto, cpu, cuda or cuda:N.{hint}"
    elif trainer.device.startswith("cuda") and not facts_of(loaded.config).distributed:
        yield from _check_cuda(trainer.device)


def warm_up_too_long(warm_up: int, steps: int, why: str) -> str:
    """The error for a rate that never reaches `optim.lr`."""
    return (
        f"{ACTOR}optim.lr_warmup_steps = {warm_up}: the run has {steps} steps ({why}), so its learning rate would never be "
        f"reached; set it to at most {steps}, or use lr_warmup_ratio, a share of the run."
    )


def _check_cuda(device: str) -> Iterator[str]:
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = int(device.partition(":")[2] or 0)
    if index >= count:
        fix = "cuda:0" if count else "cpu"
        yield f"trainer.device = {device!r}: torch sees {count} GPUs here; set trainer.device={fix}."
