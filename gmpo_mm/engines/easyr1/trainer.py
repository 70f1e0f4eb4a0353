"""EasyR1's trainer, writing into our run directory: metrics, every validation sample with its grade, checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import ray
import torch
from verl.protocol import DataProto
from verl.trainer.ray_trainer import RayPPOTrainer
from verl.utils.checkpoint import remove_obsolete_ckpt
from verl.utils.logger.logger import LOGGERS

from gmpo_mm.engines.batch_metrics import response_shares, truncated_rows
from gmpo_mm.engines.easyr1.actor import UPDATES
from gmpo_mm.engines.easyr1.comparing import KIND as COMPARE
from gmpo_mm.engines.easyr1.comparing import StepComparison
from gmpo_mm.engines.easyr1.recording import KEPT, StepRecorder
from gmpo_mm.engines.easyr1.rows_seen import ROWS, SEEN, StepSeen, of_all_ranks
from gmpo_mm.engines.finished_step import FinishedStep
from gmpo_mm.engines.step_log import StepLog
from gmpo_mm.errors import TrainingError
from gmpo_mm.runs.accuracy import not_0_or_1
from gmpo_mm.runs.learning_watch import LearningWatch
from gmpo_mm.runs.progress import Progress
from gmpo_mm.runs.run_directory import RunDirectory
from gmpo_mm.runs.show_validation import show_validation
from gmpo_mm.runs.step_record import StepRecord
from gmpo_mm.runs.stopping import StopRequest
from gmpo_mm.runs.trackers import Trackers

TRACKER = "gmpo_mm"
"""The one name in EasyR1's `trainer.logger`: its own trackers truncate their files at every start, ours append."""


class GMPOTrainer(RayPPOTrainer):
    """The loop is EasyR1's. Around it: what it measured is written down, and what it waits for is said."""

    def __init__(
        self, *args: Any, run: RunDirectory, progress: Progress, trackers: Trackers, end_tokens: list[int],
        samples_shown: tuple[int, int] = (0, 0), leaves_out_truncated: bool = False, recorder: StepRecorder | None = None,
        comparison: StepComparison | None = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        """`end_tokens` end a response, `samples_shown` are trainer.log_samples and val_generations_to_log,
        `leaves_out_truncated` is algorithm.mask_truncated_completions, `recorder` writes the steps of trainer.record_steps and
        reads `reward_fn`, which is then `StepRewards`, `comparison` is that of trainer.compare_losses; the other arguments are
        EasyR1's."""
        super().__init__(*args, **kwargs)
        self.val_reward_fn: Any
        self.run, self.progress, self.trackers, self.end_tokens = run, progress, trackers, end_tokens
        self.recorded_step = run.from_step  # the last step whose metrics are in the run directory
        self.stop, self.watch = StopRequest(progress), LearningWatch(progress)
        self.finished = FinishedStep(run, progress)
        self._save_is_due = False
        self._samples_shown = samples_shown
        self._leaves_out_truncated = leaves_out_truncated
        self._validation_facts: dict[str, float] = {}
        self.recorder, self.comparison = recorder, comparison
        self._record: StepRecord | None = None
        self._compared: dict[str, Any] | None = None
        self._places_B = np.arange(0)
        self._log = StepLog(self)
        LOGGERS[TRACKER] = lambda config: self._log
        self.config.trainer.logger = (TRACKER,)
        if self.val_reward_fn is not None:
            self.val_reward_fn = _RememberedRewards(self.val_reward_fn)

    def init_workers(self) -> None:
        """Start the workers; from then on an update's batch is measured as well."""
        processes = self.resource_pool_manager.get_num_gpus()
        with self.progress.stage(f"starting {processes} workers: model, optimizer and vLLM"):
            super().init_workers()
        if self.recorder is not None:
            (size, *_) = self.actor_rollout_ref_wg.trained_weights_bytes()
            self.progress.log(self.recorder.announcement(self.training_steps, size))
        stock_update: Callable[[DataProto], DataProto] = self.actor_rollout_ref_wg.update_actor

        def update_actor(batch: DataProto) -> DataProto:
            output = self._update(batch, stock_update)
            self.finished.note(self.global_step, self.train_dataloader)
            return output

        self.actor_rollout_ref_wg.update_actor = update_actor
        if self.use_critic:  # its update is the first of a step
            stock_critic: Callable[[DataProto], DataProto] = self.critic_wg.update_critic

            def update_critic(batch: DataProto) -> DataProto:
                self.finished.update_begins()
                return stock_critic(batch)

            self.critic_wg.update_critic = update_critic

    def fit(self) -> None:
        """EasyR1's loop; an error in a step saves the step before first."""
        with self.finished.saved_on_error(lambda: self.actor_rollout_ref_wg.workers, self._save_finished):
            super().fit()

    def _update(self, batch: DataProto, update: Callable[[DataProto], DataProto]) -> DataProto:
        """The update of the actors, and what is written down of it."""
        trained = without_truncated(batch, self.end_tokens) if self._leaves_out_truncated else batch
        is_recorded = self.recorder is not None and self.recorder.is_due(self.global_step)
        if is_recorded or self.comparison is not None:
            trained = numbered(trained, self._places_B)
        before = self._weights() if is_recorded else ""
        self.finished.update_begins()
        output = update(trained)
        parts = output.non_tensor_batch.pop(SEEN, None)
        if parts is not None:
            seen = of_all_ranks(parts)
            if is_recorded:
                self._record = self._recorded(batch, seen, (before, self._weights()))
            if self.comparison is not None:
                started = time.perf_counter()
                self._compared = self.comparison.line(trained.batch, torch.as_tensor(self._places_B.argsort()), seen)
                output.non_tensor_batch["timing_s/compare"] = np.array([time.perf_counter() - started])
        return self._measured(batch, output)

    def _measured(self, batch: DataProto, output: DataProto) -> DataProto:
        """Put the mini-batches' metrics into the run directory, and the batch's own beside the step's."""
        found = output.non_tensor_batch
        updates = list(found.pop(UPDATES))
        updates = updates[: len(updates) // self.actor_rollout_ref_wg.world_size]  # all ranks hold the same
        columns = {name: [update.get(name) for update in updates] for name in updates[0]}
        self.run.log_metrics(self.global_step, "updates", columns)
        for name, value in batch_metrics(batch, self.end_tokens).items():
            found[name] = np.array([value])
        return output

    def _weights(self) -> str:
        """Hash of the trained weights; all ranks put them together, the first one has it."""
        with self.progress.stage(f"step {self.global_step}: hash of the weights"):
            found: list[str] = self.actor_rollout_ref_wg.trained_weights_sha256()
        return found[0]

    def _recorded(self, batch: DataProto, seen: StepSeen, weights: tuple[str, str]) -> StepRecord:
        """The step's record, its rows in the order in which they were sampled."""
        assert self.recorder is not None and isinstance(self.reward_fn, StepRewards)
        order_B = self._places_B.argsort()
        sampled = batch[order_B]
        if self.config.algorithm.online_filtering:  # graded as they were sampled
            scores = self.reward_fn.of_rows(sampled.non_tensor_batch["uid"])
        else:
            graded = self.reward_fn.of_rows(batch.non_tensor_batch["uid"])
            scores = [graded[row] for row in order_B]
        return self.recorder.record(self.global_step, sampled, scores, seen, weights)

    def _balance_batch(self, batch: DataProto, *args: Any, **kwargs: Any) -> None:
        """EasyR1 reorders the rows in place; where each was before is kept."""
        batch.non_tensor_batch[ROWS] = np.arange(len(batch))
        super()._balance_batch(batch, *args, **kwargs)
        self._places_B = batch.non_tensor_batch.pop(ROWS)
        if self.recorder is not None and not self.recorder.is_due(self.global_step):
            for name in KEPT:
                del batch.non_tensor_batch[name]

    def _make_batch_data(self, metrics: dict[str, Any]) -> DataProto:
        if isinstance(self.reward_fn, StepRewards):
            self.reward_fn.step_begins()
        prompts, n = self.config.data.rollout_batch_size, self.config.worker.rollout.n
        with self.progress.stage(f"step {self.global_step}: sampling {prompts} prompts x {n} responses"):
            return super()._make_batch_data(metrics)

    def _validate(self) -> dict[str, Any]:
        samples = self.config.worker.rollout.val_override_config.get("n", 1)
        problems = len(self.val_dataloader.dataset)
        with self.progress.stage(f"step {self.global_step}: validation, {problems} problems x {samples} samples"):
            return super()._validate()

    def _maybe_log_val_generations(
        self, inputs: list[str], outputs: list[str], labels: list[str], scores: list[float]
    ) -> None:
        """Called by EasyR1 with every sample of a validation: all of them go to samples/, with what the reward said."""
        rows: list[dict[str, Any]] = []
        for batch, graded in self.val_reward_fn.batches:
            _, per_sample = ray.get(graded)
            lengths = batch.batch["response_mask"].sum(-1).tolist()
            ids = batch.non_tensor_batch.get("id")
            parts = {name: aligned(name, per_sample) for name in per_sample}
            for i, length in enumerate(lengths):
                number = len(rows)
                row = {"prompt": inputs[number], "ground_truth": labels[number], "response": outputs[number], "tokens": length}
                grades = {name: float(value) for name, values in parts.items() if (value := values[i]) is not None}
                rows.append(({"id": ids[i]} if ids is not None else {}) | row | grades)
        if len(rows) != len(inputs):
            raise TrainingError(f"EasyR1 validated {len(inputs)} responses and graded {len(rows)}")
        self.val_reward_fn.batches.clear()
        self._validation_facts = not_0_or_1(rows)
        self.run.write_samples(self.global_step, "validation", rows)
        show_validation(self.trackers, self.progress, self.global_step, rows, *self._samples_shown)

    def _save_checkpoint(self) -> None:
        """Called by EasyR1 within a step, before its metrics are logged: a kill between the two would lose them for good.

        So the checkpoint waits until they are written; `step_recorded` saves it.
        """
        if self.recorded_step < self.global_step:
            self._save_is_due = True
        else:
            self._save_now()

    @property
    def steps_in_all(self) -> int:
        """How many steps the run has."""
        return int(self.training_steps)

    def own_metrics(self) -> dict[str, float]:
        """None beside EasyR1's: they are put among those of the update."""
        return {}

    def own_validation(self) -> dict[str, float]:
        """Which metrics of the samples are no shares."""
        return self._validation_facts

    def step_recorded(self) -> None:
        """The step's metrics are in the run directory: save the checkpoint that waits for them, or one before a stop."""
        if self._compared is not None:
            self.trackers.log(self.global_step, COMPARE, self._compared)
            self._compared = None
        if self._record is not None:
            assert self.recorder is not None
            self.recorder.write(self._record, self._log.training)
            self._record = None
        self.recorded_step = self.global_step
        self.finished.note(self.global_step, self.train_dataloader)  # a step of the critic's warm-up as well
        stops = self.stop.wanted and self.global_step < self.training_steps
        if self._save_is_due or stops:
            self._save_is_due = False
            self._save_now()
        if stops:
            self.watch.summary()
            self.stop.end(self.run, self.global_step, self.training_steps)

    def _save_now(self) -> None:
        """EasyR1 removes older checkpoints before it writes the new one; here they go when it is complete."""
        trainer = self.config.trainer
        limit, trainer.save_limit = trainer.save_limit, -1
        try:
            with self.progress.stage(f"step {self.global_step}: saving"):
                self.run.metrics.flush_to_disk()
                super()._save_checkpoint()
        finally:
            trainer.save_limit = limit
        remove_obsolete_ckpt(trainer.save_checkpoint_path, self.global_step, self.best_global_step, limit)
        self.run.note_checkpoint(self.global_step)
        self.finished.saved = self.global_step

    def _save_finished(self, step: int, loader: Any) -> None:
        self.global_step, self.train_dataloader = step, loader
        self._save_now()


class _RememberedRewards:
    """EasyR1's reward actor, asked in the same way; batches and their graded results stay at hand until the next validation."""

    def __init__(self, manager: Any) -> None:
        self.manager = manager
        self.batches: list[tuple[DataProto, Any]] = []
        self.compute_reward = self

    def remote(self, batch: DataProto) -> Any:
        """Start grading; returns Ray's reference to the result."""
        graded = self.manager.compute_reward.remote(batch)
        self.batches.append((batch, graded))
        return graded


class StepRewards:
    """EasyR1's reward actor of training, asked in the same way; what it returned stays at hand until the next step."""

    def __init__(self, manager: Any) -> None:
        self.manager = manager
        self.compute_reward = self
        self._graded: list[tuple[Any, Any]] = []

    def step_begins(self) -> None:
        """Forget what was graded before."""
        self._graded.clear()

    def remote(self, batch: DataProto) -> Any:
        """Start grading; returns Ray's reference to the result."""
        graded = self.manager.compute_reward.remote(batch)
        self._graded.append((batch.non_tensor_batch["uid"], graded))
        return graded

    def scores(self) -> list[dict[str, float]]:
        """All numbers of each response of the last batch, in its order."""
        return _scores(self._graded[-1][1])

    def of_rows(self, uids: Sequence[str]) -> list[dict[str, float]]:
        """The same of each row of this step, whose groups' names are given; a group's rows in the order that was graded.

        A group may have been graded with a baseline before: the last time counts.
        """
        found: dict[str, list[dict[str, float]]] = {}
        for names, graded in self._graded:
            found |= {name: [] for name in names}
            for name, scores in zip(names, _scores(graded), strict=True):
                found[name].append(scores)
        rest = {name: iter(scores) for name, scores in found.items()}
        return [next(rest[name]) for name in uids]


def _scores(graded: Any) -> list[dict[str, float]]:
    _, per_sample = ray.get(graded)
    parts = {name: aligned(name, per_sample) for name in per_sample}
    rows = len(next(iter(parts.values())))
    return [{name: value for name, values in parts.items() if (value := values[i]) is not None} for i in range(rows)]


def numbered(batch: DataProto, numbers_B: np.ndarray) -> DataProto:
    """The batch with the number of each row, which the actor then notes."""
    tensors = batch.batch.clone(recurse=False)
    tensors[ROWS] = torch.as_tensor(numbers_B)
    return DataProto(batch=tensors, non_tensor_batch=batch.non_tensor_batch, meta_info=batch.meta_info)


def without_truncated(batch: DataProto, end_tokens: list[int]) -> DataProto:
    """The batch to train on: responses without an end token have no valid token in it, so no part in a loss over tokens and
    one of 0 in a mean over sequences. In `batch` itself they lose their advantage, which the metrics then show."""
    tensors = batch.batch
    left_out_B = truncated_rows(tensors["responses"], tensors["response_mask"].bool(), end_tokens)[:, None]
    tensors["advantages"] = tensors["advantages"].masked_fill(left_out_B, 0.0)
    trained = tensors.clone(recurse=False)
    trained["response_mask"] = trained["response_mask"].masked_fill(left_out_B, 0)
    return DataProto(batch=trained, non_tensor_batch=batch.non_tensor_batch, meta_info=batch.meta_info)


def aligned(name: str, per_sample: Mapping[str, Sequence[float]]) -> list[float | None]:
    """A part of the rewards, row by row: EasyR1 lists what is there, and a part that is not finite is left out."""
    flags = per_sample.get(f"{name}_not_finite")
    if flags is None:
        return list(per_sample[name])
    values = iter(per_sample[name])
    return [None if flag else next(values) for flag in flags]


def batch_metrics(batch: DataProto, end_tokens: list[int]) -> dict[str, float]:
    """As `response_shares`."""
    tensors, groups = batch.batch, batch.non_tensor_batch["uid"].astype(str).tolist()
    mask_BT = tensors["response_mask"].bool()
    return response_shares(tensors["responses"], mask_BT, tensors["advantages"], groups, end_tokens)
