"""A recorded update done again on the local engine, and compared with the record stage by stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from gmpo_mm.algorithms import StepTokens
from gmpo_mm.config.engine_facts import has_own_actor
from gmpo_mm.config.schema import Config
from gmpo_mm.data.prompts import EncodedPrompt
from gmpo_mm.engines.local.launch import update_config
from gmpo_mm.errors import ConfigError
from gmpo_mm.inspection.recorded_batch import recorded_batch, recorded_prompts
from gmpo_mm.inspection.stages import Stage, compare_numbers, compare_tokens, not_compared
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.models.processing import Processor
from gmpo_mm.models.weights_hash import weights_sha256
from gmpo_mm.rollout.hf import HFRollout
from gmpo_mm.rollout.protocol import SamplingParams
from gmpo_mm.rollout.seeds import prompt_seed
from gmpo_mm.runs.step_record import OF_THE_MACHINE, StepRecord
from gmpo_mm.training.actor import Actor, MiniBatch
from gmpo_mm.training.advantages import set_advantages
from gmpo_mm.training.batch import Batch
from gmpo_mm.training.compare_losses import step_tokens
from gmpo_mm.training.update_config import UpdateConfig

LOSS, NORM = "actor/pg_loss", "actor/grad_norm"
NOT_REPEATED = ("moe/rollout_disagreement",)
"""Beginnings of metrics that need what a record leaves out: the sampler's routing."""


@dataclass
class Update:
    """One update of a step, as it was done: what it saw in its last epoch, and what it changed."""

    config: UpdateConfig
    batch: Batch
    seen: StepTokens
    """Of the last epoch, on the CPU."""
    optimizer_steps: int
    metrics: Mapping[str, float]
    gradients: Mapping[str, torch.Tensor]
    """By parameter name, float32 on the CPU: of the first optimizer step that has any, before clipping."""
    first: int
    """The number of that optimizer step, from 0; -1 where none has a gradient."""
    gradient_sums: Mapping[str, torch.Tensor]
    """The same, summed over the step's optimizer steps, each at the weights that it began with."""
    changes: Mapping[str, torch.Tensor]
    """By parameter name, float32 on the CPU: weights after less weights before, over all optimizer steps."""
    weights_after: str


@dataclass
class Replayed:
    """A step that was done again: the update, and each of its stages compared with the record."""

    record: StepRecord
    update: Update
    stages: list[Stage] = field(default_factory=list)
    tolerance: float = 0.0

    @property
    def same(self) -> bool:
        """Whether no stage differs by more than the tolerance."""
        return self.first_difference is None

    @property
    def first_difference(self) -> Stage | None:
        """The first stage, in the order in which the data goes, that differs."""
        return next((stage for stage in self.stages if stage.same is False), None)


def trained_sha256(policy: PolicyModel) -> str:
    """Hash of the trained weights, as a record has it."""
    return weights_sha256(_trained(policy))


def replay_record(
    record: StepRecord,
    policy: PolicyModel,
    processor: Processor,
    optimizer: torch.optim.Optimizer,
    config: Config,
    folder: Path,
    *,
    tolerance: float | None = None,
    reference: PolicyModel | None = None,
    fresh_optimizer: bool = False,
) -> Replayed:
    """Do a record's update again with `policy`, which has the weights before the step, and is changed.

    `folder` is the run's `rollouts`, for its pictures. `tolerance` is 0 (the same bytes) for records of the
    local engine and 1e-5 for others unless given: absolute, and relative for numbers above 1. `reference` is
    the model that KL is taken to, where its log-probabilities are to be compared too. With `fresh_optimizer`
    the optimizer's state before the step is not there, and nothing after the first optimizer step is
    compared.
    """
    if tolerance is None:
        tolerance = 0.0 if has_own_actor(record.engine) else 1e-5
    before = trained_sha256(policy)
    stages = [_weights_stage("weights before", record, record.weights_before, before, tolerance)]
    prompts, found = recorded_prompts(record, processor, folder)
    stages += found
    stages.append(_advantages_stage(record, prompts, config, tolerance))
    settings = replace(update_config(config), temperature=record.temperature)
    batch = recorded_batch(record, prompts)
    measuring = Actor(policy, optimizer, settings)
    encode_as_sampled(policy, prompts, record, config)
    where_BT = _kept(batch)
    if record.old_log_probs_BT is not None:
        mine_BT = measuring.log_probs(batch)
        stages.append(compare_tokens("old log-probs", record.old_log_probs_BT, mine_BT, where_BT, tolerance))
    if record.ref_log_probs_BT is not None:
        stages.append(_reference_stage(record, batch, measuring, reference, where_BT, tolerance))
    update = do_update(
        batch, policy, optimizer, settings, rate=record.learning_rate, kl_coef=record.kl_coef or 0.0,
        seed=seed_of(config, record), updates=record.updates,
    )  # fmt: skip
    stages += _update_stages(record, update, tolerance, fresh_optimizer)
    return Replayed(record, update, stages, tolerance)


def do_update(
    batch: Batch,
    policy: PolicyModel,
    optimizer: torch.optim.Optimizer,
    config: UpdateConfig,
    *,
    rate: float | None,
    kl_coef: float,
    seed: int,
    updates: Sequence[Sequence[int]] | None = None,
) -> Update:
    """All optimizer steps of a step; `updates` are their rows, None where the configuration cuts them.

    Without a `rate` it is the optimizer's own.
    """
    for group in optimizer.param_groups if rate is not None else ():
        group["lr"] = rate
    torch.manual_seed(seed)  # dropout, where a model has any
    actor = Actor(policy, optimizer, config)
    if updates is not None:
        if len(updates) % config.epochs:
            raise ConfigError(
                f"the record has {len(updates)} optimizer steps, which worker.actor.ppo_epochs = "
                f"{config.epochs} does not divide"
            )
        actor.given_updates = [sorted(rows) for rows in updates]
    before = {name: _kept_copy(weight, optimizer) for name, weight in _trained(policy)}
    gradients: dict[str, torch.Tensor] = {}
    sums: dict[str, torch.Tensor] = {}
    first, done = -1, 0

    @contextmanager
    def keep(_: MiniBatch) -> Iterator[None]:
        nonlocal first, done
        yield
        found = {
            n: w.grad.detach().to("cpu", torch.float32, copy=True)
            for n, w in _trained(policy)
            if w.grad is not None
        }
        if first < 0 and any(bool(gradient.any()) for gradient in found.values()):
            first = done
            gradients.update(found)
        done += 1
        sums.update(
            {name: sums[name] + gradient if name in sums else gradient for name, gradient in found.items()}
        )

    metrics = actor.update(batch, kl_coef, around=keep)
    policy.forget_images()
    after = {name: _kept_copy(weight, optimizer) for name, weight in _trained(policy)}
    return Update(
        config=config,
        batch=batch,
        seen=_on_host(step_tokens(batch, actor)),
        optimizer_steps=len(actor.rows_of_updates(batch)),
        metrics=metrics,
        gradients=gradients,
        first=first,
        gradient_sums=sums,
        changes={name: after[name] - before[name] for name in before},
        weights_after=trained_sha256(policy),
    )


def _on_host(seen: StepTokens) -> StepTokens:
    tensors: dict[str, Any] = {name: value.cpu() for name, value in vars(seen).items() if isinstance(value, torch.Tensor)}
    return replace(seen, **tensors)


def seed_of(config: Config, record: StepRecord) -> int:
    """What torch's random numbers of a step begin with."""
    return prompt_seed(config.worker.rollout.seed, record.step)


# ---- the stages --------------------------------------------------------------------------------------------


def _weights_stage(name: str, record: StepRecord, recorded: str, here: str, tolerance: float) -> Stage:
    if not recorded:
        return not_compared(name, "the record has no hash of them")
    if recorded == here:
        return Stage(name, True, f"the same bytes, SHA-256 {here[:16]}")
    both = f"SHA-256 {recorded[:16]} in the record, {here[:16]} here"
    if tolerance:
        return not_compared(name, f"{both}: with other rounding or types, a hash does not say how near")
    return Stage(name, False, both)


def _advantages_stage(
    record: StepRecord, prompts: Sequence[EncodedPrompt], config: Config, tolerance: float
) -> Stage:
    """The rewards' advantages computed again."""
    name, algorithm = "advantages", config.algorithm
    if algorithm.adv_estimator in ("remax", "gae"):
        return not_compared(name, f"{algorithm.adv_estimator} needs more than a record holds")
    batch = recorded_batch(record, prompts)
    set_advantages(batch, algorithm, record.kl_coef or 0.0)
    batch.advantages_BT[sorted(record.left_out)] = 0.0
    return compare_tokens(name, record.advantages_BT, batch.advantages_BT, record.mask_BT, tolerance)


def encode_as_sampled(
    policy: PolicyModel, prompts: Sequence[EncodedPrompt], record: StepRecord, config: Config
) -> None:
    """Encode a step's pictures in the batches of the built-in sampler, whose features a frozen vision tower keeps.

    On some machines a feature's last bits depend on how many pictures are encoded beside it. `config` is the
    record's own.
    """
    sampled_here = has_own_actor(record.engine) and config.worker.rollout.name != "vllm"
    if not (sampled_here and policy.vision_is_frozen()):
        return
    params = SamplingParams(config.worker.rollout.n, 1.0, config.data.max_response_length)
    with torch.no_grad(), policy.autocast():
        for begin, end in HFRollout(policy).batches(prompts, params):
            policy.encode_images(prompts[begin:end])


def _reference_stage(
    record: StepRecord,
    batch: Batch,
    actor: Actor,
    reference: PolicyModel | None,
    where_BT: torch.Tensor,
    tolerance: float,
) -> Stage:
    name, policy = "reference log-probs", actor.policy
    assert record.ref_log_probs_BT is not None
    if hasattr(policy.module, "peft_config"):
        with policy.adapter_disabled():
            mine_BT = actor.log_probs(batch)
    elif reference is not None:
        mine_BT = actor.log_probs(batch, reference)
        reference.forget_images()
    else:
        return not_compared(
            name, "the model that the run began with is not loaded; those of the record are taken"
        )
    return compare_tokens(name, record.ref_log_probs_BT, mine_BT, where_BT, tolerance)


def _update_stages(
    record: StepRecord, update: Update, tolerance: float, fresh_optimizer: bool
) -> Iterator[Stage]:
    """What the update itself gave."""
    why = "the optimizer's state before the step is not there" if fresh_optimizer else None
    several = why if len(record.updates) > 1 else None
    if several:
        yield not_compared("log-probs", several)
    elif record.log_probs_BT is None:
        yield not_compared("log-probs", f"engine {record.engine} recorded none")
    else:
        yield compare_tokens("log-probs", record.log_probs_BT, update.seen.log_probs_BT, update.seen.mask_BT, tolerance)
    for name, key in (("loss", LOSS), ("gradient norm", NORM)):
        if several:
            yield not_compared(name, several)
        elif key in record.metrics and key in update.metrics:
            yield compare_numbers(name, record.metrics[key], update.metrics[key], tolerance)
        else:
            yield not_compared(name, f"the record has no {key}")
    if has_own_actor(record.engine) and not several:
        yield _metrics_stage(record, update, tolerance)
    if why:
        yield not_compared("weights after", why)
    else:
        yield _weights_stage("weights after", record, record.weights_after, update.weights_after, tolerance)


def _metrics_stage(record: StepRecord, update: Update, tolerance: float) -> Stage:
    """All other numbers of the update: ratios, clip shares, entropy, KL."""
    left_out = (*OF_THE_MACHINE, *NOT_REPEATED)
    names = [
        n
        for n in update.metrics
        if n in record.metrics and n not in (LOSS, NORM) and not n.startswith(left_out)
    ]
    stages = [compare_numbers(n, record.metrics[n], update.metrics[n], tolerance) for n in names]
    wrong = [stage for stage in stages if not stage.same]
    if wrong:
        return replace(wrong[0], name="metrics", words=f"{wrong[0].name}: {wrong[0].words}")
    return Stage("metrics", True, f"all {len(names)} other numbers of the update agree")


def _kept(batch: Batch) -> torch.Tensor:
    where_BT = batch.mask_BT.clone()
    where_BT[sorted(batch.left_out)] = False
    return where_BT


def _trained(policy: PolicyModel) -> Iterator[tuple[str, torch.nn.Parameter]]:
    return ((name, weight) for name, weight in policy.module.named_parameters() if weight.requires_grad)


def _kept_copy(weight: torch.nn.Parameter, optimizer: torch.optim.Optimizer) -> torch.Tensor:
    """A trained weight as the optimizer holds it, in float32 on the CPU."""
    held = optimizer.state.get(weight, {}).get("master", weight)
    return held.detach().to("cpu", torch.float32, copy=True)
