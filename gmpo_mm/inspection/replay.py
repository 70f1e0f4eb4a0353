"""`gmpo-mm replay`: a recorded step's update done again, and another one from the same rollouts beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from gmpo_mm.config.checkpoint_paths import MANIFEST_FILE, MODEL_FOLDER
from gmpo_mm.config.engine_facts import has_own_actor
from gmpo_mm.config.load import LoadedConfig
from gmpo_mm.config.off_policy import sampler_is_old
from gmpo_mm.config.schema import Config
from gmpo_mm.engines.local.launch import configured_policy, frozen_reference, prepare_device, update_config
from gmpo_mm.errors import ConfigError, DataError
from gmpo_mm.inspection import overrides as keys
from gmpo_mm.inspection.recorded_batch import recorded_batch, recorded_prompts
from gmpo_mm.inspection.stages import Stage
from gmpo_mm.inspection.two_updates import TwoUpdates, compare_updates
from gmpo_mm.inspection.update_again import (
    Replayed,
    Update,
    do_update,
    encode_as_sampled,
    replay_record,
    seed_of,
)
from gmpo_mm.inspection.weights_before import Start, find_start, run_state
from gmpo_mm.models.adapters import is_adapter
from gmpo_mm.models.loading import resolve_dtype
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.models.processing import Processor
from gmpo_mm.runs.checkpoint import load_checkpoint, load_optimizer_tensors
from gmpo_mm.runs.environment import describe_environment
from gmpo_mm.runs.fsdp_checkpoint import merged_model
from gmpo_mm.runs.model_files import load_weights
from gmpo_mm.runs.step_record import FOLDER, StepRecord, load_step
from gmpo_mm.runs.usable_model import usable_model, with_usable_models
from gmpo_mm.training.actor import Actor
from gmpo_mm.training.advantages import set_advantages
from gmpo_mm.training.batch import Batch
from gmpo_mm.training.optimizer import build_optimizer, learning_rate

TOLERANCE, HALF_TOLERANCE = 1e-5, 2e-2
"""How near a replay has to come where it can't have the same bytes: in float32, and with 16-bit weights."""
Note = Callable[[str], None]


@dataclass(frozen=True)
class Replay:
    """A step done again. `two` is there where overrides asked for another update."""

    run: Path
    step: int
    engine: str
    replayed: Replayed
    stages: tuple[Stage, ...]
    """In the order in which the data goes; of the steps in between first."""
    changed: Mapping[str, tuple[Any, Any]]
    """What is not as it was when the step was recorded: name -> (then, now)."""
    overrides: tuple[str, ...] = ()
    two: TwoUpdates | None = None

    @property
    def exact(self) -> bool:
        """Whether it was held to the same bytes, and not to a tolerance."""
        return self.replayed.tolerance == 0

    @property
    def first_difference(self) -> Stage | None:
        """The first stage that differs from the record by more than the tolerance; None where none does."""
        return next((stage for stage in self.stages if stage.same is False), None)

    @property
    def same(self) -> bool:
        """Whether the record was met."""
        return self.first_difference is None


def replay(
    run: str | Path, step: int | None = None, overrides: Sequence[str] = (), *, weights: str | None = None,
    trust_code: bool = False, note: Note = lambda text: None,
) -> Replay:  # fmt: skip
    """Do a recorded step again, and with overrides another update from its rollouts and its weights before.

    `run` is a run directory or a record's file. `weights` (a checkpoint, a model) stand in for those that the
    run kept. `trust_code` lets code run that the record names: a loss in a file, a model's own code.

    Raises ConfigError for overrides that no update reads, DataError for records and weights that are missing.
    """
    how, others = keys.split_overrides(overrides)
    record = load_step(run, step)
    folder = _record_folder(Path(run))
    own = keys.recorded_config(record.config, how, trust_code=trust_code)
    _check(own.config, record)
    other = keys.other_config(record.config, how, others, trust_code=trust_code) if others else None
    if other is not None:
        _check_other(own, other, record, folder.parent)
    start = Start(None) if weights is not None else find_start(folder.parent, record.step)
    work = _Work(record, folder, own, start, weights, trust_code, note)
    work.begin()
    stages = work.steps_between(how)
    snapshot = work.snapshot() if other is not None else None
    replayed = work.repeat()
    device = work.policy.device
    found = Replay(
        run=folder.parent,
        step=record.step,
        engine=record.engine,
        replayed=replayed,
        stages=(*stages, *replayed.stages),
        changed=_changed(record.versions, describe_environment(device)),
        overrides=tuple(overrides),
    )
    if other is None or snapshot is None:
        return found
    note("the other update")
    work.restore(snapshot)
    second = work.other_update(other)
    return replace(found, two=compare_updates(replayed.update, second, record, work.policy, work.processor))


@dataclass
class _Work:
    """The policy and its optimizer on their way to the step."""

    record: StepRecord
    folder: Path
    own: LoadedConfig
    start: Start
    weights: str | None
    trust_code: bool
    note: Note
    policy: PolicyModel = field(init=False)
    processor: Processor = field(init=False)
    optimizer: torch.optim.Optimizer = field(init=False)
    reference: PolicyModel | None = field(init=False, default=None)
    fresh_optimizer: bool = field(init=False, default=False)
    tolerance: float = field(init=False, default=0.0)

    def begin(self) -> None:
        """Build policy and optimizer, with the weights of the start."""
        config, adapter, checkpoint = self._model()
        _set_threads(config, self.record)
        device, dtype = prepare_device(config)
        self.note(f"loading {config.worker.actor.model.model_path}")
        self.policy, self.processor = configured_policy(config, device, dtype)
        if not has_own_actor(self.record.engine):
            self.policy.forbid([])  # only our own actor takes the tokens of pictures out of the softmax
        if self.weights is None and self.start.has_optimizer:
            self.reference = frozen_reference(config, self.policy, dtype)
        self.optimizer = build_optimizer(self.policy, config.worker.actor.optim)
        self.tolerance = _tolerance(self.record, config, device, dtype)
        if adapter is not None:
            load_weights(self.policy, Path(adapter))
        if checkpoint is not None:
            self._load(checkpoint)
        elif not self.start.has_optimizer or (self.weights is not None and self.record.step > 1):
            self.fresh_optimizer = True

    def _model(self) -> tuple[Config, str | None, Path | None]:
        """The configuration whose model is loaded, an adapter for it, and the local checkpoint on top."""
        config = self.own.config
        model = config.worker.actor.model
        lora = model.lora.rank > 0
        adapter, checkpoint = None, self.start.checkpoint
        if self.weights is not None:
            given = Path(self.weights)
            if (given / MANIFEST_FILE).is_file():
                checkpoint = given if (given / "optimizer.safetensors").is_file() else None
                found = str(given / MODEL_FOLDER)
            else:
                found = usable_model(self.weights, "--weights", self.note)
            if lora and is_adapter(found):
                adapter = found
            else:
                model.model_path = found
        elif checkpoint is not None and not (checkpoint / MANIFEST_FILE).is_file():
            if lora:
                raise ConfigError(
                    f"{checkpoint}: adapters of engine {self.record.engine} are not read back into training; "
                    "replay step 1, or a run without worker.actor.model.lora.rank"
                )
            model.model_path, checkpoint = str(merged_model(checkpoint, self.note)), None
        return with_usable_models(config, self.note, whole=False), adapter, checkpoint

    def _load(self, checkpoint: Path) -> None:
        self.note(f"loading {checkpoint}")
        data = load_checkpoint(checkpoint)
        weights = load_weights(self.policy, data.model_dir)
        named = list(self.policy.module.named_parameters())
        load_optimizer_tensors(self.optimizer, named, data.tensors("optimizer"), weights)

    def steps_between(self, how: Sequence[str]) -> list[Stage]:
        """Do the recorded steps between the start and the step again; what differs in them."""
        found: list[Stage] = []
        for step in self.start.between:
            self.note(f"doing step {step} again")
            record = load_step(self.folder.parent, step)
            config = keys.recorded_config(record.config, how, trust_code=self.trust_code).config
            done = self._repeat(record, config)
            found += [replace(s, name=f"step {step}: {s.name}") for s in done.stages if s.same is False]
        if self.start.between and not found:
            first, last = self.start.between[0], self.start.between[-1]
            steps = f"step {first}" if first == last else f"steps {first} to {last}"
            found = [Stage(steps, True, "done again to have the weights before, as recorded")]
        return found

    def repeat(self) -> Replayed:
        """The step itself."""
        self.note(f"doing step {self.record.step} again")
        return self._repeat(self.record, self.own.config)

    def _repeat(self, record: StepRecord, config: Config) -> Replayed:
        _set_threads(config, record)
        return replay_record(
            record, self.policy, self.processor, self.optimizer, config, self.folder,
            tolerance=self.tolerance, reference=self.reference, fresh_optimizer=self.fresh_optimizer,
        )  # fmt: skip

    # ---- the other update ----------------------------------------------------------------------------------

    def snapshot(self) -> tuple[list[torch.Tensor], dict[torch.Tensor, dict[str, torch.Tensor]]]:
        """The trained weights and the optimizer's state, copied."""
        weights = [p.detach().clone() for p in self._trained()]
        state = {
            p: {key: value.clone() for key, value in each.items()} for p, each in self.optimizer.state.items()
        }
        return weights, state

    def restore(
        self, snapshot: tuple[list[torch.Tensor], dict[torch.Tensor, dict[str, torch.Tensor]]]
    ) -> None:
        """Put a snapshot back."""
        weights, state = snapshot
        with torch.no_grad():
            for parameter, weight in zip(self._trained(), weights, strict=True):
                parameter.copy_(weight)
        self.optimizer.state.clear()
        self.optimizer.state.update(state)
        self.policy.forget_images()

    def other_update(self, other: LoadedConfig) -> Update:
        """The update of another configuration from the same rollouts and weights."""
        own, record, config = self.own, self.record, other.config
        optim = config.worker.actor.optim
        for group in self.optimizer.param_groups:
            group |= {"betas": tuple(optim.betas), "weight_decay": optim.weight_decay}
        kl_coef = record.kl_coef
        if kl_coef is None or keys.changed(own, other, ("algorithm.kl_coef",)):
            kl_coef = config.algorithm.kl_coef
        settings = replace(update_config(config), temperature=record.temperature)
        updates = None if keys.changed(own, other, keys.CUTS) else record.updates
        return do_update(
            self._other_batch(other, kl_coef, updates is None), self.policy, self.optimizer, settings,
            rate=_rate(own, other, record, self.folder.parent), kl_coef=kl_coef, seed=seed_of(config, record),
            updates=updates,
        )  # fmt: skip

    def _other_batch(self, other: LoadedConfig, kl_coef: float, other_cut: bool) -> Batch:
        own, record, config = self.own, self.record, other.config
        prompts, _ = recorded_prompts(record, self.processor, self.folder)
        encode_as_sampled(self.policy, prompts, record, own.config)
        if keys.changed(own, other, keys.ADVANTAGES) or (
            _kl_in_reward(own.config) != _kl_in_reward(config)
            or (_kl_in_reward(config) and keys.changed(own, other, keys.KL))
        ):
            batch = recorded_batch(replace(record, left_out=frozenset()), prompts)
            set_advantages(batch, config.algorithm, kl_coef)
        else:
            batch = recorded_batch(record, prompts)
        if sampler_is_old(config):
            batch.old_log_probs_BT = None
        elif batch.old_log_probs_BT is None and (
            other_cut or keys.changed(own, other, ("worker.actor.old_log_probs",))
        ):
            measuring = Actor(
                self.policy, self.optimizer, replace(update_config(config), temperature=record.temperature)
            )
            batch.old_log_probs_BT = measuring.log_probs(batch)
        return batch

    def _trained(self) -> list[torch.nn.Parameter]:
        return [p for p in self.policy.module.parameters() if p.requires_grad]


def _record_folder(path: Path) -> Path:
    """The `rollouts` folder of a run, or the one that holds a record's file."""
    return path / FOLDER if path.is_dir() else path.parent


def _check(config: Config, record: StepRecord) -> None:
    """What the local engine can't do as the record's engine did."""
    if config.worker.actor.seq_mean == "easyr1":
        raise ConfigError(
            "worker.actor.seq_mean = 'easyr1': EasyR1 weighs sequences by its own micro-batches, which no "
            "record holds, so the local engine can't do this update again; record a run with "
            "worker.actor.seq_mean=exact"
        )
    if record.sampler_log_probs_BT is None and config.worker.rollout.correction != "none":
        raise DataError(
            f"step {record.step} has no log-probabilities of the sampler, which worker.rollout.correction="
            f"{config.worker.rollout.correction} reads; record a step of a run that keeps them"
        )


def _check_other(own: LoadedConfig, other: LoadedConfig, record: StepRecord, run: Path) -> None:
    """The record holds what the other update needs."""
    algorithm, actor = other.config.algorithm, other.config.worker.actor
    if not algorithm.disable_kl and record.ref_log_probs_BT is None:
        raise ConfigError(
            f"algorithm.disable_kl = false: step {record.step} was recorded without a KL term, so it has no "
            "log-probabilities of the reference; leave the KL keys out, or record a run with KL"
        )
    if keys.changed(own, other, keys.ADVANTAGES) and algorithm.adv_estimator in ("remax", "gae"):
        raise ConfigError(
            f"algorithm.adv_estimator = {algorithm.adv_estimator!r}: it needs more than a record holds "
            "(greedy responses, or a critic); use grpo or another estimator"
        )
    missing = [name for name in algorithm.gdpo_reward_keys if name not in (*record.reward_parts, "overall")]
    if missing:
        raise ConfigError(
            f"algorithm.gdpo_reward_keys: {missing[0]!r} is no reward of this record; it has "
            f"{', '.join(record.reward_parts)}"
        )
    if record.sampler_log_probs_BT is None and (
        actor.old_log_probs == "sampler" or other.config.worker.rollout.correction != "none"
    ):
        raise ConfigError(
            f"step {record.step} has no log-probabilities of the sampler, which the overrides ask for; leave "
            "them out"
        )
    _rate(own, other, record, run)


def _rate(own: LoadedConfig, other: LoadedConfig, record: StepRecord, run: Path) -> float | None:
    """The step's rate: as recorded, unless the schedule's keys are others."""
    if not keys.changed(own, other, keys.SCHEDULE):
        return record.learning_rate
    total = run_state(run).get("total_steps") or other.config.trainer.max_steps
    optim = other.config.worker.actor.optim
    if total is None:
        if optim.lr_scheduler_type != "constant" or (optim.lr_warmup_steps is None and optim.lr_warmup_ratio):
            raise ConfigError(
                "worker.actor.optim: the schedule depends on the number of steps, and neither run.json nor "
                "trainer.max_steps says it; set lr_scheduler_type=constant and lr_warmup_steps"
            )
        total = record.step
    return learning_rate(record.step, int(total), optim)


def _kl_in_reward(config: Config) -> bool:
    return not config.algorithm.disable_kl and not config.algorithm.use_kl_loss


def _tolerance(record: StepRecord, config: Config, device: torch.device, dtype: torch.dtype) -> float:
    """0 for a step of the local engine on the CPU, on the CPU again."""
    then = torch.device(str(record.versions.get("device") or "cpu"))
    if has_own_actor(record.engine) and device.type == then.type == "cpu":
        return 0.0
    types = {dtype, resolve_dtype(config.trainer.dtype, then)} if has_own_actor(record.engine) else {dtype}
    return TOLERANCE if types == {torch.float32} else HALF_TOLERANCE


def _set_threads(config: Config, record: StepRecord) -> None:
    """As many CPU threads as the step had, unless the configuration says a number."""
    threads = config.trainer.threads or record.versions.get("threads")
    if isinstance(threads, int) and 0 < threads <= 4096:
        torch.set_num_threads(threads)


def _changed(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What differs between two descriptions of an environment, of what both name."""
    return {
        name: (then[name], now[name])
        for name in now
        if name in then and then[name] != now[name] and name != "git_dirty"
    }
