"""One run on EasyR1: checks, Ray, EasyR1's trainer with our worker, and the run directory around it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gmpo_mm.config import (
    LoadedConfig,
    resume_choice,
    run_directory,
    to_yaml,
)
from gmpo_mm.config.schema import Config
from gmpo_mm.engines.checks import validate_for_training
from gmpo_mm.engines.easyr1.data_check import check_answer_column, check_nothing_dropped, dropped_report
from gmpo_mm.engines.easyr1.preflight import (
    GPU_REQUIREMENTS,
    Requirement,
    check_directory,
    check_installation,
    installed_packages,
)
from gmpo_mm.engines.ray_cluster import check_cluster, connect, errors_of_workers
from gmpo_mm.engines.run_setup import configured_reward
from gmpo_mm.rewards.loading import RewardFunction
from gmpo_mm.runs.checkpoint_layout import fsdp_layout
from gmpo_mm.runs.progress import LOG_NAME, Progress
from gmpo_mm.runs.run_data import read_run_data, with_columns
from gmpo_mm.runs.run_directory import RunDirectory
from gmpo_mm.runs.trackers import Trackers, check_trackers
from gmpo_mm.runs.usable_model import with_usable_models

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
    validate_for_training(loaded)
    notes: list[str] = []
    loaded = with_columns(loaded, notes.append)
    config = loaded.config
    version = check_installation(requirements)
    check_trackers(config.trainer.logger)
    path = run_directory(config)
    check_directory(path)
    layout = fsdp_layout(config.trainer.nnodes * config.trainer.n_gpus_per_node)
    with (
        progress or Progress() as progress,
        RunDirectory.open(
            path, resume=resume_choice(config), config=to_yaml(config, loaded.written), command=list(command), layout=layout,
            overwrite=overwrite, interpolated=loaded.interpolated,
        ) as run,
    ):
        progress.log_to(run.path / LOG_NAME, command)
        for note in (*notes, *run.notes):
            progress.log(note)
        run.environment |= {"easyr1": version, "engine": "easyr1", **installed_packages()}
        config = with_usable_models(config, progress.log, whole=True)
        reward = configured_reward(config)  # an error here, before an actor of Ray's would find it out
        records = _records(config, reward, progress)
        _connect(config, progress)
        _tell(config, progress)
        with Trackers(config.trainer.logger, run.config, run, progress.warn) as trackers:
            trainer = _build(config, run, progress, trackers, records, worker_class)
            if run.is_complete(trainer.training_steps) and not config.trainer.val_only:
                progress.log(f"nothing to train: the run in {run.path} has done its {trainer.training_steps} steps")
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


def _connect(config: Config, progress: Progress) -> None:
    """Join or start Ray; ConfigError when its nodes can't hold the workers."""
    import ray

    if not ray.is_initialized():
        connect(config.ray_address, progress, runtime_env={"env_vars": WORKER_ENVIRONMENT})
    nodes = ray.nodes()
    check_cluster(nodes, config.trainer.nnodes, config.trainer.n_gpus_per_node)
    progress.log(f"Ray {ray.__version__} at {ray.get_runtime_context().gcs_address}, {len(nodes)} node(s)")


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
    from gmpo_mm.engines.easyr1.config import to_easyr1
    from gmpo_mm.engines.easyr1.rewards import GMPORewardManager
    from gmpo_mm.engines.easyr1.trainer import GMPOTrainer
    from gmpo_mm.engines.easyr1.worker import GMPOWorker
    from gmpo_mm.models.loading import end_token_ids

    easyr1 = to_easyr1(config)
    _set_start(easyr1.trainer, run)
    install(config)
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
    with progress.stage("measuring prompts"):
        train_loader, val_loader = create_dataloader(data, tokenizer, processor)
    progress.log(dropped_report(records["train"], len(train_loader.dataset)))
    if validates:
        check_nothing_dropped(config.data.val_files, records["val"], len(val_loader.dataset), data.max_prompt_length)
    worker = ray.remote(worker_class or GMPOWorker)
    rewards = ray.remote(GMPORewardManager).options(num_cpus=easyr1.worker.reward.num_cpus)
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
        reward_fn=rewards.remote(easyr1.worker.reward, tokenizer),
        val_reward_fn=rewards.remote(easyr1.worker.reward, tokenizer) if validates else None,
        run=run,
        progress=progress,
        trackers=trackers,
        samples_shown=(config.trainer.log_samples, config.trainer.val_generations_to_log),
        end_tokens=end_token_ids(model.model_path, tokenizer),
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
