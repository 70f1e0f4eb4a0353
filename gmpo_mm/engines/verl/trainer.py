"""verl's synchronous trainer, writing into our run directory: metrics, every validation sample with its grade, checkpoints.

It runs in the process that was started, not in an actor of Ray's: the run directory, its lock and Ctrl-C are there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transfer_queue as tq
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1 import trainer_base
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.utils.padding import response_to_nested

from gmpo_mm.algorithms import Correction, finalize_metrics, merge_metrics
from gmpo_mm.config.schema import AlgorithmConfig
from gmpo_mm.engines.batch_metrics import truncated_rows
from gmpo_mm.engines.finished_step import FinishedStep
from gmpo_mm.engines.step_log import StepLog
from gmpo_mm.engines.verl.advantages import Rewards
from gmpo_mm.engines.verl.batch_metrics import batch_metrics, corrected, sampler_gap
from gmpo_mm.engines.verl.dataset import GMPODataset
from gmpo_mm.engines.verl.inspection import StepInspection
from gmpo_mm.engines.verl.losses import measured_loss, take_metrics
from gmpo_mm.engines.verl.rewards import ERROR
from gmpo_mm.engines.verl.seen import ROW
from gmpo_mm.errors import TrainingError
from gmpo_mm.rewards.filtering import FilterLimits
from gmpo_mm.rewards.parts import reward_parts
from gmpo_mm.runs.accuracy import not_0_or_1
from gmpo_mm.runs.files import remove_tree
from gmpo_mm.runs.learning_watch import MAX_SKIPPED_IN_A_ROW, LearningWatch
from gmpo_mm.runs.progress import Progress
from gmpo_mm.runs.run_directory import RunDirectory
from gmpo_mm.runs.show_validation import show_validation
from gmpo_mm.runs.stopping import StopRequest
from gmpo_mm.runs.trackers import Trackers

POLL_SECONDS = 0.2
"""How often verl's replay buffer looks for finished responses; its own 2 seconds would be half of a small step."""


class GMPOTrainer(PPOTrainerSync):
    """The loop is verl's. Around it: what it measured is written down, what it waits for is said, and nothing is dropped."""

    def __init__(
        self,
        config: Any,
        *,
        run: RunDirectory,
        progress: Progress,
        trackers: Trackers,
        datasets: tuple[GMPODataset, GMPODataset],
        end_tokens: Sequence[int],
        save_limit: int,
        max_log_prob_gap: float,
        algorithm: AlgorithmConfig,
        max_tries: int,
        rewards: Rewards,
        inspection: StepInspection,
        correction: Correction | None = None,
        samples_shown: tuple[int, int] = (0, 0),
    ) -> None:
        """`config` is verl's; `datasets` are for training and validation, `end_tokens` end a response, `samples_shown` are
        trainer.log_samples and val_generations_to_log, `max_tries` is trainer.max_try_make_batch. Rewards for an estimator of
        several are put into `rewards`."""
        super().__init__(config)
        self.algorithm, self.rewards = algorithm, rewards
        self._filters = FilterLimits.of(algorithm, max_tries, len(datasets[0])) if algorithm.online_filtering else None
        if self._filters is not None:
            self.replay_buffer.may_go_on, self.replay_buffer.group_scores = self._check_filtering, self._group_scores
        self.run, self.progress, self.trackers = run, progress, trackers
        self.end_tokens, self.save_limit, self.max_log_prob_gap = list(end_tokens), save_limit, max_log_prob_gap
        self.correction = correction
        self.replay_buffer.poll_interval = POLL_SECONDS
        self._datasets, self._samples_shown = datasets, samples_shown
        self.stop, self.watch = StopRequest(progress), LearningWatch(progress)
        self.finished = FinishedStep(run, progress)
        self._save_is_due = False
        self._skipped_in_a_row = 0
        self._own_metrics: dict[str, float] = {}
        self.inspection = inspection

    # ---- what verl asks for and we answer --------------------------------------------------------------------------------

    @property
    def logger(self) -> StepLog:
        """verl sets its own trackers here, which truncate their files at a restart; ours append."""
        return StepLog(self)

    @logger.setter
    def logger(self, _: Any) -> None:
        pass

    def _init_dataloader(self) -> None:
        training, validation = self._datasets
        made = trainer_base.create_rl_dataset
        trainer_base.create_rl_dataset = lambda *args, is_train=True, **kwargs: training if is_train else validation
        try:
            super()._init_dataloader()
        finally:
            trainer_base.create_rl_dataset = made

    def _setup(self) -> None:
        processes = self.config.trainer.nnodes * self.config.trainer.n_gpus_per_node
        with self.progress.stage(f"starting {processes} workers: model, optimizer and sampler (a minute or more)"):
            super()._setup()
        loss_section = omega_conf_to_dataclass(self.config.actor_rollout_ref.actor)
        self.actor_rollout_wg.set_loss_fn(_Loss(loss_section))
        stock_update: Callable[[Any], Any] = self.actor_rollout_wg.update_actor
        self.actor_rollout_wg.update_actor = lambda batch: self._measured(stock_update(batch))
        self.inspection.announce(self.steps_in_all, self.actor_rollout_wg.workers)

    # ---- a step ----------------------------------------------------------------------------------------------------------

    def fit(self, agent_loop_manager: Any) -> None:
        """verl's loop; an error in a step saves the step before first."""
        with self.finished.saved_on_error(lambda: self.actor_rollout_wg.workers, self._save_finished):
            super().fit(agent_loop_manager)

    def step(self, metrics: dict[str, Any], timing_raw: dict[str, Any]) -> KVBatchMeta:
        """All of a step that trains; what verl does after it changes no weights."""
        batch = super().step(metrics, timing_raw)
        self.finished.note(self.global_steps, self.train_dataloader)
        known, workers = metrics | self._own_metrics, self.actor_rollout_wg.workers
        self.inspection.end(self.global_steps, batch, known, workers)
        return batch

    def prepare_step(self) -> dict[str, Any]:
        """Ask for the step's prompts, where the filter does not do it, try by try."""
        return super().prepare_step() if self._filters is None else {}

    def _next_train_batch(self, num_prompts: int | None = None) -> Any:
        batch = super()._next_train_batch(num_prompts)
        self.inspection.asked += list(batch["uid"])
        if self._filters is not None:
            self.replay_buffer.asked += list(batch["uid"])
        return batch

    def _check_filtering(self, tries: int, kept: int, dropped_in_a_row: int) -> None:
        """Between two tries of the filter: the run may be asked to stop, and it may not go on forever."""
        assert self._filters is not None
        if self.stop.wanted:
            self.finished.save_last(self._save_finished)
            self.watch.summary()
            self.stop.end(self.run, self.finished.step, self.total_training_steps)
        self._filters.check(self.global_steps, tries, kept, self.config.data.train_batch_size, dropped_in_a_row)

    def _group_scores(self, batch: KVBatchMeta) -> list[dict[str, float]]:
        facts = self._facts(batch) if batch.keys else []
        prompts = len(self.replay_buffer.asked[-self.config.data.gen_batch_size :])
        self._check_complete(facts, prompts * self.config.actor_rollout_ref.rollout.n)
        return [fact["scores"] for fact in facts]

    def _update_actor(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        if self.inspection.begin(self.global_steps, self.actor_rollout_wg.workers):
            batch = self._put(batch, {ROW: torch.arange(len(batch))[:, None]})  # the new metadata names the field
        self.finished.update_begins()
        with self._without_truncated(batch):
            return super()._update_actor(batch, metrics)

    @contextmanager
    def _without_truncated(self, batch: KVBatchMeta) -> Iterator[None]:
        """Responses that were cut off have no valid token in the update: no part in a loss over tokens, and one of 0 in a mean
        over sequences."""
        if not self.algorithm.mask_truncated_completions:
            yield
            return
        names = ["responses", "response_mask", "loss_mask"]
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=names)
        padded = data.to_padded_tensor()
        left_out_B = truncated_rows(padded["responses"], padded["response_mask"].bool(), self.end_tokens)
        masks = {name: data[name] for name in names[1:]}
        cut = {
            name: response_to_nested(padded[name].masked_fill(left_out_B[:, None], 0), data["response_mask"]) for name in masks
        }
        self._put(batch, cut)
        yield
        self._put(batch, masks)

    def _put(self, batch: KVBatchMeta, fields: dict[str, Any]) -> KVBatchMeta:
        return tq.kv_batch_put(
            keys=batch.keys, partition_id=batch.partition_id, fields=TensorDict(fields, batch_size=len(batch.keys))
        )

    def _step_once(self, metrics: dict[str, Any], timing_raw: dict[str, Any], sample_batch_size: int) -> Any:
        prompts, n = self.config.data.train_batch_size, self.config.actor_rollout_ref.rollout.n
        self._own_metrics = {}
        with self.progress.stage(f"step {self.global_steps}: {prompts} prompts x {n} responses"):
            return super()._step_once(metrics, timing_raw, sample_batch_size)

    def _balance_batch(self, batch: KVBatchMeta, *args: Any, **kwargs: Any) -> Any:
        """The first that verl does with sampled rows. It would train on without those that failed."""
        wanted = self.config.data.train_batch_size * self.config.actor_rollout_ref.rollout.n
        facts = self._facts(batch)
        self._check_complete(facts, wanted)
        means = _means([fact["scores"] for fact in facts])
        self._own_metrics |= {f"reward/{name}": value for name, value in means.items()}
        if self._filters is not None:
            self._own_metrics |= self.replay_buffer.facts
        return super()._balance_batch(batch, *args, **kwargs)

    def _facts(self, batch: KVBatchMeta) -> list[dict[str, Any]]:
        """What our reward manager said of each row."""
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=["extra_fields"])
        return [getattr(fields, "data", fields)["reward_extra_info"] for fields in data["extra_fields"]]

    def _check_complete(self, facts: Sequence[dict[str, Any]], wanted: int) -> None:
        errors = [fact["scores"][ERROR] for fact in facts if ERROR in fact["scores"]]
        if errors:
            raise TrainingError(f"step {self.global_steps}: {errors[0]}")
        if len(facts) != wanted:
            raise TrainingError(
                f"step {self.global_steps}: {wanted - len(facts)} of {wanted} responses failed, and verl would go on without "
                "them; the log above (lines of AgentLoopWorkerTQ, `Error in _run_prompt`) says why"
            )

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> Any:
        if names := self.algorithm.gdpo_reward_keys:
            self.rewards.parts_KB = reward_parts([fact["scores"] for fact in self._facts(batch)], names)
        done = super()._compute_advantage(batch, metrics)
        fields = ["responses", "response_mask", "advantages", "old_log_probs", "rollout_log_probs", "entropy", "uid"]
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)
        uids = [str(uid) for uid in data.pop("uid").tolist()]
        response_mask = data["response_mask"]
        padded = data.to_padded_tensor()
        if self.algorithm.mask_truncated_completions:
            left_out_B = truncated_rows(padded["responses"], padded["response_mask"].bool(), self.end_tokens)
            padded["advantages"] = padded["advantages"].masked_fill(left_out_B[:, None], 0.0)
            self._put(batch, {"advantages": response_to_nested(padded["advantages"], response_mask)})
        self._own_metrics |= batch_metrics(padded, uids, self.end_tokens)
        gap = sampler_gap(padded)
        self._own_metrics |= gap
        mean_gap = gap.get("rollout/log_prob_gap_mean", 0.0)
        if mean_gap > self.max_log_prob_gap:
            raise TrainingError(
                f"step {self.global_steps}: the sampler's log-probabilities differ from the model's by "
                f"{mean_gap:.3g} nats on average, more than worker.rollout.max_log_prob_gap="
                f"{self.max_log_prob_gap}; the sampler does not hold the trained weights, or computes in a coarser type"
            )
        if self.correction is None:
            return done
        weights_BT, numbers = corrected(padded, self.correction)
        self._own_metrics |= numbers
        # where verl puts its own correction's weights, which its loss hands on to the registered one
        ragged = response_to_nested(weights_BT, data["response_mask"])
        fields_of_loss = TensorDict({"rollout_is_weights": ragged}, batch_size=len(batch))
        return tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=fields_of_loss)

    def _measured(self, output: Any) -> Any:
        """Put the mini-batches' metrics into the run directory; verl averages what is left."""
        metrics = output["metrics"]
        updates = take_metrics(metrics)
        norms = [float(norm) for norm in _listed(metrics["grad_norm"])]
        self.inspection.take(metrics, len(norms))
        numbers = [finalize_metrics(update) | {"actor/grad_norm": norm} for update, norm in zip(updates, norms, strict=True)]
        columns = {name: [number.get(name) for number in numbers] for name in numbers[0]}
        self.run.log_metrics(self.global_steps, "updates", columns)
        finite = [norm for norm in norms if np.isfinite(norm)]
        self._own_metrics |= finalize_metrics(merge_metrics(updates))
        self._own_metrics |= {"actor/updates": float(len(finite)), "actor/skipped_updates": float(len(norms) - len(finite))}
        for norm in norms:
            self._note_norm(norm)
        if finite:
            self._own_metrics["actor/grad_norm"] = float(np.mean(finite))
        return output

    def _note_norm(self, norm: float) -> None:
        self._skipped_in_a_row = 0 if np.isfinite(norm) else self._skipped_in_a_row + 1
        if self._skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise TrainingError(
                f"{self._skipped_in_a_row} updates in a row had a gradient norm of {norm}; the run ends before the weights are "
                "spoilt. Look at ratio/token_max and actor/grad_norm in metrics.jsonl, then lower worker.actor.optim.lr or "
                "tighten the loss's clip keys"
            )

    @property
    def steps_in_all(self) -> int:
        """How many steps the run has."""
        return int(self.total_training_steps)

    def own_metrics(self) -> dict[str, float]:
        """Our metrics of the step that has just been trained."""
        return self._own_metrics

    def own_validation(self) -> dict[str, float]:
        """None beside those of `_val_metrics_update`."""
        return {}

    # ---- validation ------------------------------------------------------------------------------------------------------

    def _validate(self) -> dict[str, float]:
        n, problems = self.config.actor_rollout_ref.rollout.val_kwargs.n, len(self.val_dataset)
        with self.progress.stage(f"step {self.global_steps}: validation, {problems} problems x {n} samples"):
            return super()._validate()

    def _dump_generations(
        self, inputs: list[str], outputs: list[str], gts: list[Any], scores: list[float],
        reward_extra_infos_dict: dict[str, list[Any]], dump_path: str,
    ) -> None:  # fmt: skip
        """Called by verl with every sample of a validation, in groups: all go to samples/, with what the reward said."""
        infos = reward_extra_infos_dict
        names = ("id", "response", "tokens", "scores")
        facts = [{name: infos[name][i] for name in names} for i in range(len(infos.get("scores", [])))]
        self._check_complete(facts, len(self.val_dataset) * self.config.actor_rollout_ref.rollout.val_kwargs.n)
        rows = []
        for prompt, truth, fact in zip(inputs, gts, facts, strict=True):
            row = {"prompt": prompt, "ground_truth": truth, "response": fact["response"], "tokens": fact["tokens"]}
            rows.append(({"id": fact["id"]} if fact["id"] is not None else {}) | row | fact["scores"])
        self.run.write_samples(self.global_steps, "validation", rows)
        show_validation(self.trackers, self.progress, self.global_steps, rows, *self._samples_shown)

    def _val_metrics_update(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """EasyR1's names, from the samples that were just written."""
        facts = args[2] if len(args) > 2 else kwargs["reward_extra_infos_dict"]
        means = _means(facts["scores"])
        found = {f"val/{name}_reward": value for name, value in means.items()}
        found |= not_0_or_1(facts["scores"])
        found["val/reward_score"] = means["overall"]
        found["val_response_length/mean"] = float(np.mean(facts["tokens"]))
        return found

    # ---- checkpoints -----------------------------------------------------------------------------------------------------

    def _save_checkpoint(self) -> None:
        """Called by verl before it logs the step: a kill between the two would lose the step's metrics for good.

        So the checkpoint waits until they are written; `step_recorded` saves it.
        """
        self._save_is_due = True

    def step_recorded(self) -> None:
        """The step's metrics are in the run directory: save the checkpoint that waits for them, or one before a stop."""
        stops = self.stop.wanted and self.global_steps < self.total_training_steps
        if self._save_is_due or stops:
            self._save_now()
        if stops:
            self.watch.summary()
            self.stop.end(self.run, self.global_steps, self.total_training_steps)

    def _save_now(self) -> None:
        self._save_is_due = False
        with self.progress.stage(f"step {self.global_steps}: saving"):
            self.run.metrics.flush_to_disk()
            super()._save_checkpoint()
        self._prune()
        self.run.note_checkpoint(self.global_steps)
        self.finished.saved = self.global_steps

    def _save_finished(self, step: int, loader: Any) -> None:
        self.global_steps, self.train_dataloader = step, loader
        self._save_now()

    def _prune(self) -> None:
        """Older checkpoints go when the new one is complete."""
        if self.save_limit < 1:
            return
        folders = sorted(Path(self.config.trainer.default_local_dir).glob("global_step_*"), key=lambda f: int(f.name[12:]))
        for folder in folders[: -self.save_limit]:
            remove_tree(folder)


class _Loss:
    """`measured_loss` with verl's actor section, as a thing that Ray can send to the workers."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def __call__(self, model_output: Any, data: Any, dp_group: Any = None) -> Any:
        return measured_loss(self.config, model_output, data, dp_group)


def _means(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean of each number of the reward function, over the rows that have it."""
    names = sorted({name for score in scores for name in score})
    return {name: float(np.mean([score[name] for score in scores if name in score])) for name in names}


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]
