"""What a run would do, counted from its configuration and the size of its data, before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from gmpo_mm.config import Config, run_directory
from gmpo_mm.config.loss import loss_unit_of
from gmpo_mm.config.paths import data_is_local, split_data_spec
from gmpo_mm.config.preparations import find_preparation
from gmpo_mm.engines.registry import engine_of
from gmpo_mm.errors import ConfigError


@dataclass(frozen=True)
class RunPlan:
    """Counts of a run; None where the size of a data set is not known.

    A step samples `prompts` x `samples_a_prompt` responses and makes `updates_a_step` optimizer updates.
    """

    train_records: int | None
    val_records: int | None
    prompts: int
    samples_a_prompt: int
    mini_batches: int
    updates_a_step: int
    steps: int | None
    validations: int | None
    samples_a_problem: int
    checkpoints: int | None

    @property
    def samples_a_step(self) -> int:
        """Responses a step, before online filtering draws more."""
        return self.prompts * self.samples_a_prompt


def count_records(config: Config, spec: str) -> int | None:
    """Records of a local data set; None for a hub name, which can't be counted without downloading it."""
    from gmpo_mm.data import RecordKeys, load_records

    if not data_is_local(spec):
        return None
    return len(load_records(spec, RecordKeys.from_data_config(config.data)))


def plan_run(config: Config, train_records: int | None, val_records: int | None) -> RunPlan:
    """Count everything that follows from the configuration; raises ConfigError when not one batch fits."""
    from gmpo_mm.engines.run_setup import count_steps, validation_params

    data, trainer, worker = config.data, config.trainer, config.worker
    steps = None
    if trainer.val_only:
        steps = 0
    elif train_records is not None:
        _check_one_batch_fits(config, train_records)
        steps = count_steps(config, train_records)
    elif trainer.max_steps is not None:
        steps = trainer.max_steps
    mini_batches = data.rollout_batch_size // worker.actor.global_batch_size
    due = _times_due(trainer.val_freq, steps)
    before = int(bool(data.val_files) and trainer.val_before_train)
    validations = (before + due if data.val_files else 0) if due is not None else None
    return RunPlan(
        train_records=train_records,
        val_records=val_records,
        prompts=data.rollout_batch_size,
        samples_a_prompt=worker.rollout.n,
        mini_batches=mini_batches,
        updates_a_step=mini_batches * worker.actor.ppo_epochs,
        steps=steps,
        validations=validations,
        samples_a_problem=validation_params(config).n,
        checkpoints=_times_due(trainer.save_freq, steps),
    )


def _check_one_batch_fits(config: Config, records: int) -> None:
    data = config.data
    name = "mini_rollout_batch_size" if data.mini_rollout_batch_size else "rollout_batch_size"
    if getattr(data, name) > records:
        raise ConfigError(
            f"data.{name} = {getattr(data, name)}: {data.train_files} has only {records} records, not one batch; set it "
            f"to at most {records} (and worker.actor.global_batch_size to a divisor), or add data."
        )


def _times_due(every: int, steps: int | None) -> int | None:
    """How often something due every `every` steps and after the last one takes place; None when not known."""
    if steps == 0:
        return 0
    if every <= 0:
        return 1
    return None if steps is None else math.ceil(steps / every)


def describe_plan(config: Config, plan: RunPlan) -> Iterator[tuple[str, str]]:
    """(what, how much) rows for a reader."""
    data, trainer, worker, algorithm = config.data, config.trainer, config.worker, config.algorithm
    engine = engine_of(config)
    yield "engine", engine.about
    yield "device", engine.device_words(config)
    yield "model", str(worker.actor.model.model_path)
    loss = f"loss {worker.actor.loss_type}, {_mean_words(config)}"
    yield "algorithm", f"{loss}, advantages {algorithm.adv_estimator}, {_kl_words(config)}"
    if trainer.val_only:
        yield "training", "none: trainer.val_only is true"
    else:
        yield "training data", f"{data.train_files}: {_records_words(data.train_files, plan.train_records)}"
        yield "steps", _steps_words(config, plan)
        extra = "; online filtering samples more until the batch is full" if algorithm.online_filtering else ""
        yield (
            "a step",
            (
                f"{plan.prompts:,} prompts x {plan.samples_a_prompt} samples = {plan.samples_a_step:,} responses of up to "
                f"{data.max_response_length:,} tokens{extra}"
            ),
        )
        yield (
            "updates a step",
            (
                f"{plan.updates_a_step} ({plan.mini_batches} mini-batches of {worker.actor.global_batch_size} prompts x "
                f"{plan.samples_a_prompt} samples, ppo_epochs {worker.actor.ppo_epochs})"
            ),
        )
        if plan.steps is not None:
            yield "in total", (f"{plan.steps * plan.samples_a_step:,} responses, {plan.steps * plan.updates_a_step:,} updates")
        yield "tokens", _token_words(config, plan)
        if trainer.compare_losses:
            yield "compared losses", _comparing_words(config, plan)
    yield "validation", _validation_words(config, plan)
    yield "checkpoints", _checkpoint_words(config, plan)
    yield "run directory", f"{run_directory(config)}"


def _comparing_words(config: Config, plan: RunPlan) -> str:
    trainer = config.trainer
    others = [name for name in trainer.compare_losses if name != config.worker.actor.loss_type]
    words = f"{', '.join(trainer.compare_losses)}: from the update's own log-probabilities, no forward pass more"
    if not trainer.compare_losses_gradients_every or engine_of(config).distributed:
        return words
    which = "the" if plan.updates_a_step == 1 else f"the last of {plan.updates_a_step}"
    return (
        f"{words}; on each step that {trainer.compare_losses_gradients_every} divides also their gradients: {len(others)} more "
        f"forward and backward passes over {which} mini-batch{'' if plan.updates_a_step == 1 else 'es'}, and a second gradient "
        "in memory (4 bytes for each trained parameter)"
    )


def _kl_words(config: Config) -> str:
    algorithm = config.algorithm
    if algorithm.disable_kl:
        return "no KL term"
    place = "loss" if algorithm.use_kl_loss else "reward"
    return f"KL in the {place} ({algorithm.kl_penalty}, coefficient {algorithm.kl_coef:g})"


def _mean_words(config: Config) -> str:
    return {"seq": "mean over sequences", "token": "mean over tokens"}[loss_unit_of(config)]


def _token_words(config: Config, plan: RunPlan) -> str:
    data = config.data
    longest = data.max_prompt_length + data.max_response_length
    a_step = plan.samples_a_step * longest
    total = f", {plan.steps * a_step:,} in total" if plan.steps else ""
    return (
        f"at most {a_step:,} a step ({plan.samples_a_step:,} responses x ({data.max_prompt_length:,} of the prompt + "
        f"{data.max_response_length:,})){total}"
    )


def _records_words(spec: str, records: int | None) -> str:
    if records is None and find_preparation(split_data_spec(spec)[0]) is not None:
        return "not there yet"
    if records is None:
        return "a data set of the hub, not counted here (a dry run downloads nothing)"
    return f"{records:,} records, before over-long prompts are dropped"


def _steps_words(config: Config, plan: RunPlan) -> str:
    if config.trainer.max_steps is not None:
        return f"{plan.steps} (trainer.max_steps)"
    epochs = config.trainer.total_epochs
    if plan.steps is None:
        call = config.data.mini_rollout_batch_size or config.data.rollout_batch_size
        return f"{epochs} epochs of (records // {call}) batches; known once the data is here"
    return f"{plan.steps:,} ({epochs} epochs of {plan.train_records:,} records)"


def _validation_words(config: Config, plan: RunPlan) -> str:
    if plan.validations == 0:
        return "none"
    known = f"{plan.val_records:,} problems" if plan.val_records is not None else "the hub's problems"
    there = find_preparation(split_data_spec(config.data.val_files)[0]) is None
    problems = known if there or plan.val_records is not None else "problems that are not there yet,"
    times = "known once the steps are" if plan.validations is None else f"{plan.validations} times"
    override = config.worker.rollout.val_override_config
    sampling = ", ".join(f"{key} {value}" for key, value in override.items()) or "as in training"
    words = f"{times}: {problems} of {config.data.val_files} x {plan.samples_a_problem} samples ({sampling})"
    if plan.validations is not None and plan.val_records is not None:
        words += f", {plan.validations * plan.val_records * plan.samples_a_problem:,} responses in total"
    return words


def _checkpoint_words(config: Config, plan: RunPlan) -> str:
    trainer = config.trainer
    if plan.checkpoints == 0:
        return "none"
    often = f"every {trainer.save_freq} steps and after the last one" if trainer.save_freq > 0 else "after the last step"
    kept = "all are kept" if trainer.save_limit < 1 else f"the newest {trainer.save_limit} are kept"
    return often + (f", {plan.checkpoints} in all" if plan.checkpoints is not None else "") + f"; {kept}"
