"""The loop of the local engine: sample, grade, advantages, update; validate, save, go on where a run was killed."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch

from gmpo_mm.algorithms import (
    AdaptiveKLController,
    FixedKLController,
    finalize_metrics,
    log_prob_gap,
)
from gmpo_mm.config.off_policy import is_off_policy, sampler_is_old
from gmpo_mm.config.schema import Config
from gmpo_mm.data import PromptSampler
from gmpo_mm.errors import TrainingError
from gmpo_mm.machine_errors import memory_for
from gmpo_mm.models.loading import not_finite
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.models.processing import Processor
from gmpo_mm.rollout.protocol import RolloutBackend
from gmpo_mm.rollout.seeds import prompt_seed
from gmpo_mm.runs.checkpoint import CheckpointData, load_optimizer_tensors, prune_checkpoints
from gmpo_mm.runs.checkpoint_saver import CheckpointSaver
from gmpo_mm.runs.learning_watch import LearningWatch
from gmpo_mm.runs.model_files import load_weights
from gmpo_mm.runs.progress import Progress
from gmpo_mm.runs.run_directory import RunDirectory
from gmpo_mm.runs.shown_samples import choose_rows, choose_sample, is_due, table_rows
from gmpo_mm.runs.stopping import StopAsked, StopRequest
from gmpo_mm.runs.trackers import Trackers
from gmpo_mm.training.actor import Actor
from gmpo_mm.training.advantages import set_advantages
from gmpo_mm.training.batch import Batch, SampledGroup, mean_of_scores, sample_rows
from gmpo_mm.training.compare_losses import KIND as COMPARE
from gmpo_mm.training.compare_losses import LossComparison
from gmpo_mm.training.gpu_metrics import UpdateMeter, memory_metrics, meter_of, start_step
from gmpo_mm.training.off_policy import RECORD, OffPolicySampling
from gmpo_mm.training.offload import Offload
from gmpo_mm.training.optimizer import learning_rate
from gmpo_mm.training.recording import StepRecorder
from gmpo_mm.training.sampling import BatchMaker
from gmpo_mm.training.step_metrics import batch_metrics
from gmpo_mm.training.validation import Validator

_OR_LESS = "or end other programs that use the device; the same command goes on from the last checkpoint"
_TO_SAMPLE = f"lower data.rollout_batch_size, worker.rollout.n or data.max_response_length, {_OR_LESS}"
_TO_MEASURE = f"lower worker.actor.micro_batch_size_per_device_for_experience, {_OR_LESS}"
_TO_UPDATE = f"lower worker.actor.micro_batch_size_per_device_for_update, {_OR_LESS}"
_TO_VALIDATE = f"lower data.val_batch_size or worker.rollout.val_override_config.n, {_OR_LESS}"
"""What to do when memory runs out there."""


@dataclass
class Trainer:
    """One run on one device."""

    config: Config
    run: RunDirectory
    policy: PolicyModel
    processor: Processor
    actor: Actor
    rollout: RolloutBackend
    batches: BatchMaker
    order: PromptSampler
    validator: Validator | None
    kl: FixedKLController | AdaptiveKLController
    total_steps: int
    progress: Progress
    trackers: Trackers
    reference: PolicyModel | None = None
    """A frozen copy; None without KL, and for LoRA, whose reference is the model without its adapter."""
    offload: Offload | None = None
    """What makes room for the sampler on a shared GPU; None where everything stays."""
    off_policy: OffPolicySampling | None = None
    """Where samples come from other weights than the trained ones on purpose."""
    recorder: StepRecorder | None = None
    """Writes whole steps where the configuration asks for any."""
    comparison: LossComparison | None = None
    """Measures other losses where the configuration asks for any."""
    best_score: float | None = None
    best_step: int | None = None
    _last_saved: int = field(default=-1, init=False)
    _finished: tuple[int, dict[str, Any]] = field(init=False)
    """The last finished step and the state after it, for a checkpoint when the next one fails."""
    _is_between_steps: bool = field(default=True, init=False)
    """Whether the weights are those after the last finished step: not in the middle of a step's updates."""
    _validation_is_due: bool = field(default=False, init=False)
    """The run was saved after a step whose validation failed."""
    _saver: CheckpointSaver = field(init=False)
    _watch: LearningWatch = field(init=False)
    _meter: UpdateMeter | None = field(default=None, init=False)

    # ---- the loop -----------------------------------------------------------------------------------------------------

    def fit(self) -> None:
        """Train from the run's last checkpoint to `total_steps`; every way out leaves a run that can go on.

        Raises StoppedRun when it was asked to stop before the last step.
        """
        trainer = self.config.trainer
        data = self.run.load_checkpoint()
        if data is not None:
            self._load(data)
            # a kill may have come between the last save and its pruning
            prune_checkpoints(self.run.checkpoints_dir, trainer.save_limit, _protected(self._state()))
        self._last_saved = self.run.from_step
        self._finished = self.run.from_step, self._state()
        self.actor.optimizer.register_step_post_hook(self._weights_changed)
        self._watch = LearningWatch(self.progress)
        self._hand_over()
        stop = StopRequest(self.progress)
        self._meter = meter_of(self.policy)
        self._saver = CheckpointSaver(
            self.run, self.policy, self.processor, self.actor.optimizer, self.progress,
            keep=trainer.save_limit, model_only=trainer.save_model_only,
        )  # fmt: skip
        with stop.listening(), self._saver:
            at_start = trainer.val_before_train and (self.run.from_step == 0 or trainer.val_only)
            if self.validator is not None and (at_start or self._validation_is_due):
                self._validate(self.run.from_step)
            if trainer.val_only:
                self._end(self.run.from_step)
                return
            if self.off_policy is not None and self.run.from_step == 0:
                self.run.log_metrics(0, RECORD, self.off_policy.first_record())
            for step in range(self.run.from_step + 1, self.total_steps + 1):
                self._saver.check()
                if stop.wanted:
                    self._stop(stop, step - 1)
                last = step == self.total_steps
                try:
                    with self._saved_on_error():
                        self._step(step, stop)
                        if self._validates_after(step):
                            self._validate(step)
                            self._finished = step, self._state()
                except StopAsked:  # between two tries of online filtering: their prompts come again
                    self.order.load_state_dict(self._finished[1]["order"])
                    self._stop(stop, step - 1)
                if _is_due(step, trainer.save_freq, last) or stop.wanted:
                    # nothing trains beside the run's last write: no snapshot
                    self._save(step, background=not (last or stop.wanted))
                if stop.wanted and not last:
                    self._stop(stop, step)
            self._end(self.total_steps)

    def _validates_after(self, step: int) -> bool:
        return self.validator is not None and _is_due(step, self.config.trainer.val_freq, step == self.total_steps)

    def _weights_changed(self, *_: object) -> None:
        self._is_between_steps = False

    def _step_finished(self, step: int) -> None:
        """The weights are those after `step`; a validation that belongs to it is made up for if it fails."""
        due = {"validation_due": True} if self._validates_after(step) else {}
        self._finished = step, self._state() | due
        self._is_between_steps = True

    @contextmanager
    def _saved_on_error(self) -> Iterator[None]:
        """Save the last finished step before an error in the next one (data, reward, tracker, ...) ends the run."""
        try:
            yield
        except StopAsked:
            raise
        except (Exception, SystemExit):
            step, state = self._finished
            if step > self._last_saved:
                self._rescue(step, state)
            raise

    def _rescue(self, step: int, state: dict[str, Any]) -> None:
        if not self._is_between_steps:
            self.progress.warn(
                f"the error came between the updates of step {step + 1}, so nothing can be saved: the weights are those of no "
                "finished step; the last checkpoint stays"
            )
            return
        try:
            self._write(step, state, background=False)
        except Exception as error:  # the error that is on its way says why the run ends
            self.progress.warn(f"could not save step {step} first: {error}")
        else:
            self.progress.warn(f"saved step {step} first, in {self.run.path}; the same command goes on there")

    def _stop(self, stop: StopRequest, step: int) -> NoReturn:
        self._save(step, background=False)
        self._saver.wait()  # asked to stop after that save had begun
        self._watch.summary()
        stop.end(self.run, step, self.total_steps)

    def _end(self, step: int) -> None:
        self.run.finish("finished")
        self.trackers.finish()
        self._watch.summary()
        self.progress.log(f"finished {step} steps; everything is in {self.run.path}")

    def _step(self, step: int, stop: StopRequest) -> None:
        start_step(self.policy.device)
        started = time.perf_counter()
        timings: dict[str, float] = {}
        torch.manual_seed(prompt_seed(self.config.worker.rollout.seed, step))  # dropout, where a model has any
        prompts = self.batches.prompts
        with self._timed("gen", timings), self.progress.stage(f"step {step}: sampling", prompts, "prompts") as stage:
            with memory_for(f"step {step}: sampling", _TO_SAMPLE), self._sampler_weights(step):
                groups, baselines, facts = self.batches.make(
                    step, lambda _, done, note: stage.update(done, note), lambda: stop.wanted
                )
            self._take_back()
        if self.off_policy is not None:
            self.off_policy.keep(step - 1)
            facts |= self.off_policy.metrics(step)
        batch = Batch(groups)
        with memory_for(f"step {step}: log-probabilities", _TO_MEASURE):
            gap = self._prepare_log_probs(step, batch, timings)
        kl_metrics = self._advantages(batch, baselines)
        if self.recorder is not None:
            self.recorder.begin(step)
        rate = learning_rate(step, self.total_steps, self.config.worker.actor.optim)
        for group in self.actor.optimizer.param_groups:
            group["lr"] = rate
        updates = self.actor.config.epochs * -(-prompts // self.actor.config.mini_batch_prompts)
        with (
            self._timed("update_actor", timings),
            self.progress.stage(f"step {step}: updating", updates, "updates") as stage,
            memory_for(f"step {step}: update", _TO_UPDATE),
        ):
            around = self.comparison.around(step, self.actor) if self.comparison is not None else None
            metrics = self.actor.update(batch, self.kl.kl_coef, stage.update, around)
        if broken := not_finite(self.policy.module):
            raise TrainingError(
                f"step {step}: after the update {broken}; lower worker.actor.optim.lr, and go on from the last checkpoint"
            )
        compared = None
        if self.comparison is not None:
            with self._timed("compare", timings):
                compared = self.comparison.line(batch, self.actor)
        with self._timed("sync", timings):
            self._hand_over()
        timings["step"] = time.perf_counter() - started
        metrics |= gap | facts | kl_metrics | batch_metrics(batch, timings, self.config.data.max_response_length)
        metrics |= {f"reward/{key}": value for key, value in mean_of_scores(groups).items()}
        metrics["actor/lr"] = rate
        metrics |= memory_metrics(self.policy.device)
        if self._meter is not None:
            update = self.actor.config
            metrics["perf/mfu_actor"] = self._meter.utilisation(
                batch, update.epochs, update.drop_zero_advantage, timings["update_actor"]
            )
        self._check_gap(step, metrics)
        if self.recorder is not None:
            self.recorder.end(step, batch, self.actor, metrics)
        self._step_finished(step)
        routing = self.actor.routing
        if routing is not None and routing.routed_LE is not None:
            self.run.log_metrics(step, "experts", {"moe/expert_share": routing.shares_LE().tolist()})
        if self.off_policy is not None:
            self.run.log_metrics(step, RECORD, self.off_policy.record())
        if compared is not None:
            self.trackers.log(step, COMPARE, compared)
        self._record(step, "train", metrics, groups, batch)
        self._watch.step(step, metrics)

    @contextmanager
    def _sampler_weights(self, step: int) -> Iterator[None]:
        """Inside, the sampler has the weights that `step` is to sample with."""
        if self.off_policy is None:
            yield
        elif self.rollout.samples_in_place:
            with self.off_policy.sampler_weights(step):
                yield
        else:  # it has the newest weights, for a validation
            self._take_back()
            self._hand_over(self.off_policy.sampler_weights(step))
            yield

    def _hand_over(self, weights: AbstractContextManager = nullcontext()) -> None:  # noqa: B008 (it holds no state)
        """Give the sampler the weights and, for as long as it samples (and validates), the device.

        `weights`: inside it, the model has those that the sampler is to get.
        """
        self.policy.forget_images()
        if self.offload is not None:
            self.offload.before_sync()
        with weights:
            self.rollout.sync_weights(self.policy.module)
        if self.offload is not None:
            self.offload.after_sync()

    def _take_back(self) -> None:
        """Free the device for the update, after the last sample of a step."""
        self.rollout.free_memory()
        if self.offload is not None:
            self.offload.back()

    def _prepare_log_probs(self, step: int, batch: Batch, timings: dict[str, float]) -> dict[str, float]:
        """Old and reference log-probabilities where they are needed; returns the gap to the sampler if it was measured."""
        gap: dict[str, float] = {}
        old = self.config.worker.actor.old_log_probs
        if old == "recompute" or (old == "auto" and self._reads_old_log_probs()):
            with self._timed("old", timings), self.progress.stage(f"step {step}: old log-probs", len(batch), "responses") as s:
                batch.old_log_probs_BT = self.actor.log_probs(batch, progress=s.update)
            gap = finalize_metrics(log_prob_gap(batch.old_log_probs_BT, batch.sampler_log_probs_BT, batch.mask_BT))
            self._check_gap(step, gap)
        if not self.config.algorithm.disable_kl:
            with self._timed("ref", timings), self.progress.stage(f"step {step}: reference", len(batch), "responses") as s:
                if self.reference is not None:
                    batch.ref_log_probs_BT = self.actor.log_probs(batch, self.reference, s.update)
                    self.reference.forget_images()
                else:
                    with self.policy.adapter_disabled():
                        batch.ref_log_probs_BT = self.actor.log_probs(batch, progress=s.update)
        return gap

    def _reads_old_log_probs(self) -> bool:
        """Whether the step needs old log-probabilities that neither the sampler nor the update itself gives.

        A step with one update has its old policy in that update: the ratio is 1, and the gap to the sampler is measured
        there. A KL penalty in the reward needs them before.
        """
        if sampler_is_old(self.config):
            return False
        is_own = not (self.batches.params.is_truncated or is_off_policy(self.config))
        if self.rollout.exact_log_probs and is_own:
            return False
        actor, algorithm = self.actor.config, self.config.algorithm
        one_update = actor.epochs == 1 and actor.mini_batch_prompts >= self.batches.prompts
        return not one_update or not (algorithm.disable_kl or algorithm.use_kl_loss)

    def _advantages(self, batch: Batch, baselines: list[float]) -> dict[str, float]:
        coefficient = self.kl.kl_coef
        current = set_advantages(batch, self.config.algorithm, coefficient, baselines)
        if current is None:
            return {}
        self.kl.update(current, len(batch))
        return {"actor/kl_penalty": current, "actor/kl_coef": coefficient}

    def _check_gap(self, step: int, metrics: dict[str, float]) -> None:
        gap, bound = metrics.get("rollout/log_prob_gap_mean", 0.0), self.config.worker.rollout.max_log_prob_gap
        if is_off_policy(self.config):
            bound = math.inf  # a gap was asked for, of any size
        if not gap <= bound:  # a gap that is not a number counts as too large
            raise TrainingError(
                f"step {step}: the sampler's log-probabilities differ from the model's by {gap:.3g} nats on average, more than "
                f"worker.rollout.max_log_prob_gap={bound}: the {self.rollout.name} rollout does not sample from the trained "
                "weights. Use worker.rollout.name=hf, or equal number formats on both sides"
            )

    # ---- validation, records, checkpoints -----------------------------------------------------------------------------

    def _validate(self, step: int) -> None:
        assert self.validator is not None
        size = len(self.validator.dataset)
        started = time.perf_counter()
        with self.progress.stage(f"step {step}: validation", size, "problems") as stage:
            def follow(what: str, done: int, note: str) -> None:
                stage.update(done if what == "validation" else stage.done, note)

            with memory_for(f"step {step}: validation", _TO_VALIDATE):
                metrics, groups = self.validator.run(follow)
        metrics["timing_s/validation"] = time.perf_counter() - started
        score = metrics.get("val/accuracy_reward", metrics["val/reward_score"])
        if self.best_score is None or score > self.best_score:
            self.best_score, self.best_step = score, step
        self._record(step, "validation", metrics, groups, None)

    def _record(
        self, step: int, kind: str, metrics: dict[str, float], groups: list[SampledGroup], batch: Batch | None
    ) -> None:
        # advantages are one a sequence for every estimator but reinforce_plus_plus; its first token's is shown
        advantages = batch.advantages_BT[:, 0].tolist() if batch is not None else None
        log_ratios_B = self.actor.log_ratios_B if batch is not None else None
        ratios = None if log_ratios_B is None else log_ratios_B.tolist()
        rows = sample_rows(groups, advantages, ratios)
        self.run.write_samples(step, kind, rows)
        self.trackers.log(step, kind, metrics)
        every = self.config.trainer.log_samples
        if self.trackers.console and kind == "train":
            self.progress.step(step, self.total_steps, metrics)
        elif self.trackers.console:
            self.progress.validation(step, metrics)
        if self.trackers.console and kind == "train" and is_due(step, every):
            self.progress.sample(step, choose_sample(rows, step, every))
        chosen = choose_rows(rows, step, self._table_rows(step, kind))
        pictures = [groups[i // len(groups[0].texts)].prompt.images for i in chosen]
        self.trackers.log_samples(step, kind, [rows[i] for i in chosen], pictures)

    def _table_rows(self, step: int, kind: str) -> int:
        trainer = self.config.trainer
        return table_rows(step, kind, trainer.log_samples, trainer.val_generations_to_log)

    def _save(self, step: int, background: bool) -> None:
        if step != self._last_saved:
            self._write(step, self._state(), background)

    def _state(self) -> dict[str, Any]:
        return {
            "order": self.order.state_dict(),
            "kl": self.kl.state_dict(),
            "best_score": self.best_score,
            "best_step": self.best_step,
            "skipped_in_a_row": self.actor.skipped_in_a_row,
        }

    def _write(self, step: int, state: dict[str, Any], background: bool) -> None:
        former = self.off_policy.checkpoint_tensors(step) if self.off_policy is not None else None
        self._saver.save(step, state, _protected(state), background=background, constant=former)
        self._last_saved = step

    def _load(self, data: CheckpointData) -> None:
        self.progress.log(f"going on after step {data.step} from {data.path}")
        weights = load_weights(self.policy, data.model_dir)
        named = list(self.policy.module.named_parameters())
        load_optimizer_tensors(self.actor.optimizer, named, data.tensors("optimizer"), weights)
        if self.off_policy is not None and not self.config.trainer.val_only:
            self.off_policy.load(data)
        try:
            self.order.load_state_dict(data.state["order"])
            self.kl.load_state_dict(data.state["kl"])
            self.best_score, self.best_step = data.state["best_score"], data.state["best_step"]
            self.actor.skipped_in_a_row = data.state["skipped_in_a_row"]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise data.damaged(f"it is whole, but no state of a run ({error!r})") from error
        self._validation_is_due = data.state.get("validation_due", False)

    @contextmanager
    def _timed(self, name: str, timings: dict[str, float]) -> Iterator[None]:
        started = time.perf_counter()
        yield
        timings[name] = time.perf_counter() - started


def _is_due(step: int, every: int, last: bool) -> bool:
    """EasyR1's rule: every `every` steps (-1 or 0: never) and, in any case, after the last one."""
    return last or (every > 0 and step % every == 0)


def _protected(state: dict[str, Any]) -> set[int]:
    """The step of the best validation, whose checkpoint is never pruned."""
    return set() if state["best_step"] is None else {state["best_step"]}
