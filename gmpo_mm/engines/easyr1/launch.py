"""One run on EasyR1: checks, Ray, EasyR1's trainer with our worker, and the run directory around it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from gmpo_mm.config import LoadedConfig
from gmpo_mm.config.recording import records_steps
from gmpo_mm.config.schema import Config
from gmpo_mm.engines.easyr1.data_check import check_answer_column, check_nothing_dropped, dropped_report
from gmpo_mm.engines.easyr1.preflight import (
    GPU_REQUIREMENTS,
    Requirement,
    check_directory,
    check_installation,
    installed_packages,
    requirements_of,
)
from gmpo_mm.engines.ray_cluster import errors_of_workers
from gmpo_mm.engines.ray_run import join_cluster, open_run
from gmpo_mm.rewards.loading import RewardFunction
from gmpo_mm.runs.progress import Progress
from gmpo_mm.runs.run_data import read_run_data
from gmpo_mm.runs.run_directory import RunDirectory
from gmpo_mm.runs.trackers import Trackers

WORKER_ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "true",
    "NCCL_DEBUG": "WARN",
    "VLLM_LOGGING_LEVEL": "WARN",
    "TORCH_NCCL_AVOID_RECORD_STREAMS": "1",  # else memory that NCCL has used is held back from the trainer
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:False",  # vLLM's sleep mode can't work with growing segments
    "CUDA_DEVICE_MAX_CONNECTIONS": "1",
    "VLLM_ALLREDUCE_USE_SYMM_MEM": "0",
}
"""What EasyR1's own start sets for its workers."""


def train(
    loaded: LoadedConfig,
    command: Sequence[str] = (),
    progress: Progress | None = None,
    *,
    requirements: Sequence[Requirement] = GPU_REQUIREMENTS,
    worker_class: Any = None,
    overwrite: bool = False,
) -> Path:
    """Validate a configuration, train it on an installed EasyR1, and return the run directory.

    `worker_class` stands in for `GMPOWorker` (a subclass with an empty base of its own), with `requirements` for what it
    needs; a Ray that is initialised already is used as it is. Raises ConfigError and DataError before any worker starts,
    TrainingError when the run ends early.
    """

    def installed(config: Config) -> dict[str, str | None]:
        version = check_installation(requirements_of(config, known=requirements))
        return {"easyr1": version, "engine": "easyr1", **installed_packages()}

    with open_run(
        loaded, command, progress, installed=installed, check_directory=check_directory, overwrite=overwrite
    ) as opened:
        config, run, progress = opened.config, opened.run, opened.progress
        records = _records(config, opened.reward, progress)
        join_cluster(config, progress, WORKER_ENVIRONMENT)
        _tell(config, progress)
        with Trackers(config.trainer.logger, run.config, run, progress.warn) as trackers:
            trainer = _build(config, run, progress, trackers, records, worker_class)
            if opened.has_nothing_to_train(trainer.training_steps):
                return run.path
            run.begin(trainer.training_steps)
            _fit(trainer)
            run.finish()
            trainer.watch.summary()
        progress.log(f"finished; everything is in {run.path}")
        return run.path


def _records(config: Config, reward: RewardFunction, progress: Progress) -> dict[str, Any]:
    data = config.data
    found = read_run_data(config, reward, progress)
    check_answer_column(config, data.train_files or data.val_files, found.training)
    if found.validation is None:
        return {"train": found.training}
    check_answer_column(config, data.val_files, found.validation)
    return {"train": found.training, "val": found.validation}


def _tell(config: Config, progress: Progress) -> None:
    """How this run's mean is weighted, since EasyR1's own differs."""
    from gmpo_mm.algorithms import loss_unit
    from gmpo_mm.config import policy_loss_config

    if loss_unit(policy_loss_config(config)) != "seq":
        return
    if config.worker.actor.seq_mean == "exact":
        progress.log("the loss is a mean over the sequences of the whole mini-batch (worker.actor.seq_mean=exact)")
    else:
        progress.warn(
            "worker.actor.seq_mean=easyr1: micro-batches are weighted by their tokens, so the gradient depends on how the "
            "mini-batch is cut; exact does not"
        )


def _build(
    config: Config, run: RunDirectory, progress: Progress, trackers: Trackers, records: dict[str, Any], worker_class: Any
) -> Any:
    """EasyR1's trainer with its data, rewards and workers, as its own `Runner` puts them together."""
    import ray
    from verl.trainer.data_loader import create_dataloader
    from verl.trainer.ray_trainer import ResourcePoolManager, Role
    from verl.utils.tokenizer import get_processor, get_tokenizer

    from gmpo_mm.engines.easyr1.advantages import install
    from gmpo_mm.engines.easyr1.comparing import StepComparison
    from gmpo_mm.engines.easyr1.config import to_easyr1
    from gmpo_mm.engines.easyr1.recording import StepRecorder, problems_kept
    from gmpo_mm.engines.easyr1.rewards import GMPORewardManager
    from gmpo_mm.engines.easyr1.trainer import GMPOTrainer, StepRewards
    from gmpo_mm.engines.easyr1.worker import GMPOWorker
    from gmpo_mm.models.loading import end_token_ids
    from gmpo_mm.rewards.overlong import overlong_buffer

    easyr1 = to_easyr1(config)
    _set_start(easyr1.trainer, run)
    model, data = easyr1.worker.actor.model, easyr1.data
    options = {
        "override_chat_template": data.override_chat_template,
        "trust_remote_code": model.trust_remote_code,
        "use_fast": True,
    }
    tokenizer = get_tokenizer(model.model_path, **options)
    processor = get_processor(model.model_path, **options)
    validates = bool(data.val_files)
    data.train_files = data.train_files or data.val_files
    data.val_files = data.val_files or data.train_files  # EasyR1 always makes both loaders
    records_some = records_steps(config)
    with progress.stage("measuring prompts"), problems_kept(data.prompt_key) if records_some else nullcontext():
        train_loader, val_loader = create_dataloader(data, tokenizer, processor)
    progress.log(dropped_report(records["train"], len(train_loader.dataset)))
    if validates:
        check_nothing_dropped(config.data.val_files, records["val"], len(val_loader.dataset), data.max_prompt_length)
    worker = ray.remote(worker_class or GMPOWorker)
    rewards = ray.remote(GMPORewardManager).options(num_cpus=easyr1.worker.reward.num_cpus)
    reward_fn = StepRewards(rewards.remote(easyr1.worker.reward, tokenizer, overlong_buffer(config)))
    install(config, reward_fn.scores)
    end_tokens = end_token_ids(model.model_path, tokenizer)
    recorder = StepRecorder(config, run, train_loader.dataset, processor, tokenizer, end_tokens) if records_some else None
    pool = "global_pool"
    roles = (Role.ActorRolloutRef, Role.Critic)
    return GMPOTrainer(
        config=easyr1,
        tokenizer=tokenizer,
        processor=processor,
        train_dataloader=train_loader,
        val_dataloader=val_loader,
        role_worker_mapping=dict.fromkeys(roles, worker),  # EasyR1 wants one class for all roles of a process
        resource_pool_manager=ResourcePoolManager(
            resource_pool_spec={pool: [config.trainer.n_gpus_per_node] * config.trainer.nnodes},
            mapping=dict.fromkeys(roles, pool),
        ),
        reward_fn=reward_fn if config.algorithm.gdpo_reward_keys or records_some else reward_fn.manager,
        val_reward_fn=rewards.remote(easyr1.worker.reward, tokenizer) if validates else None,
        run=run,
        progress=progress,
        trackers=trackers,
        samples_shown=(config.trainer.log_samples, config.trainer.val_generations_to_log),
        end_tokens=end_tokens,
        leaves_out_truncated=config.algorithm.mask_truncated_completions,
        recorder=recorder,
        comparison=StepComparison(config) if config.trainer.compare_losses else None,
    )


def _set_start(trainer: Any, run: RunDirectory) -> None:
    """Where EasyR1 starts from is what the run directory decided: its own tracker, a named checkpoint, or the model."""
    own = run.checkpoint is not None and run.checkpoint.parent == run.path
    trainer.find_last_checkpoint = own
    trainer.load_checkpoint_path = None if own or run.checkpoint is None else str(run.checkpoint.absolute())
    if run.resuming and run.from_step > 0 and not trainer.val_only:
        trainer.val_before_train = False  # that validation took place when the run began


def _fit(trainer: Any) -> None:
    """Run EasyR1's loop."""
    try:
        with errors_of_workers():
            trainer.init_workers()
            with trainer.stop.listening():
                trainer.fit()
    finally:
        trainer.trackers.finish()
