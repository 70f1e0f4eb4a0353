"""One run on verl: checks, Ray, verl's trainer with our parts, and the run directory around it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gmpo_mm.algorithms import compared_configs
from gmpo_mm.config import (
    Config,
    LoadedConfig,
    policy_loss_config,
    resolve_model_path,
)
from gmpo_mm.config.correction import correction_of
from gmpo_mm.config.recording import records_steps
from gmpo_mm.config.shipped import find_file
from gmpo_mm.engines.ray_cluster import errors_of_workers
from gmpo_mm.engines.ray_run import join_cluster, open_run
from gmpo_mm.engines.run_setup import absolute_function, count_steps
from gmpo_mm.engines.verl.data_check import check_pictures, check_remote_code
from gmpo_mm.engines.verl.dataset import GMPODataset
from gmpo_mm.engines.verl.keys import is_cpu
from gmpo_mm.engines.verl.preflight import (
    TESTED,
    check_directory,
    check_installation,
    installed_packages,
)
from gmpo_mm.engines.verl.translate import to_verl
from gmpo_mm.errors import ConfigError
from gmpo_mm.models.loading import end_token_ids
from gmpo_mm.models.processing import Processor, load_processor
from gmpo_mm.rewards.overlong import overlong_buffer
from gmpo_mm.runs.progress import Progress
from gmpo_mm.runs.run_data import read_run_data
from gmpo_mm.runs.run_directory import RunDirectory
from gmpo_mm.runs.trackers import Trackers

CORES_A_PROCESS = 3
"""What verl reserves in Ray with each GPU."""
CPU_ENVIRONMENT = {
    "VERL_PLATFORM": "cpu",
    "VERL_USE_EXTERNAL_MODULES": "gmpo_mm.engines.verl.cpu.platform",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # what Ray will do by default; it warns in every process until then
}
CPU_NOTE = (
    "trainer.device=cpu: verl runs with gmpo_mm's CPU plug-in, which is for tests and small experiments. It does not exercise "
    "vLLM (transformers samples), NCCL (gloo), flash-attention, padding-free batches, torch.compile or 16-bit types."
)


def train(
    loaded: LoadedConfig, command: Sequence[str] = (), progress: Progress | None = None, *, overwrite: bool = False
) -> Path:
    """Validate a configuration, train it on an installed verl, and return the run directory.

    A Ray that is initialised already is used as it is. Raises ConfigError and DataError before any worker starts,
    TrainingError when the run ends early.
    """

    def installed(config: Config) -> dict[str, str | None]:
        return {"verl": check_installation(is_cpu(config)), "engine": "verl", **installed_packages()}

    with open_run(
        loaded, command, progress, installed=installed, check_directory=check_directory, overwrite=overwrite
    ) as opened:
        config, run, progress = opened.config, opened.run, opened.progress
        _choose_platform(config, progress)
        processor = _load_processor(config)
        found = read_run_data(config, opened.reward, progress)
        training = GMPODataset.from_config(config, processor, found.training, True, progress)
        validation = training
        if found.validation is not None:
            validation = GMPODataset.from_config(config, processor, found.validation, False, progress)
        progress.log(training.prompts.overlong_report() or f"{len(training)} training prompts, none over-long")
        total_steps = count_steps(config, len(training))
        if opened.has_nothing_to_train(total_steps):
            return run.path
        with progress.stage("importing verl and translating the configuration"):
            verl_config = compose(config, total_steps, run)
        records = training.prompts.records, validation.prompts.records
        check_pictures(*records, _verl_processor(verl_config), str(config.worker.actor.model.model_path))
        _connect(config, verl_config, progress)
        with Trackers(config.trainer.logger, run.config, run, progress.warn) as trackers:
            _train(config, verl_config, run, progress, trackers, (training, validation), processor, total_steps)
        progress.log(f"finished; everything is in {run.path}")
        return run.path


def compose(config: Config, total_steps: int | None, run: RunDirectory | None) -> Any:
    """verl's own default configuration with our values; ConfigError for a key that the installed verl does not have."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module
    from omegaconf import OmegaConf, open_dict
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    with initialize_config_module(version_base=None, config_module="verl.trainer.config"):
        composed = hydra_compose(config_name="ppo_trainer")
    new = ("fsdp_config.mixed_precision", "engine_kwargs.vllm.limit_mm_per_prompt")  # read by verl, not in its file
    with open_dict(composed):
        for key, value in to_verl(config, total_steps=total_steps, run=run).items():
            parent, _, name = key.rpartition(".")
            section = OmegaConf.select(composed, parent)
            if section is None or not (name in section or OmegaConf.is_missing(section, name) or key.endswith(new)):
                raise ConfigError(f"engine=verl: the installed verl has no key {key}; install verl {TESTED}")
            section[name] = value
        reward = config.worker.reward
        composed.gmpo_mm_reward = {
            "function": absolute_function(reward.reward_function or ""),
            "kwargs": dict(reward.reward_function_kwargs),
            "skip_special_tokens": reward.skip_special_tokens,
            "overlong": None if (overlong := overlong_buffer(config)) is None else asdict(overlong),
        }
        composed.transfer_queue.enable = True
    try:
        validate_config(composed, need_reference_policy(composed), need_critic(composed))
    except (AssertionError, ValueError) as error:
        raise ConfigError(f"engine=verl: verl refuses the translated configuration: {error}") from error
    OmegaConf.resolve(composed)
    return composed


def _choose_platform(config: Config, progress: Progress) -> None:
    """verl settles its platform when it is first imported; the CPU one only if this run asks for it."""
    wanted = os.environ.get("VERL_PLATFORM", "").strip().lower()
    if not is_cpu(config):
        if wanted == "cpu":
            raise ConfigError(
                f"trainer.device = {config.trainer.device!r}: the environment says VERL_PLATFORM=cpu; unset it, or set "
                "trainer.device=cpu for a test on the CPU"
            )
        return
    if wanted != "cpu" and "verl" in sys.modules:
        raise ConfigError("trainer.device = 'cpu': verl was imported before and has settled for GPUs; start a new process")
    os.environ.update(CPU_ENVIRONMENT)
    os.environ.setdefault("TQ_NUM_THREADS", "1")
    progress.warn(CPU_NOTE)


def _load_processor(config: Config) -> Processor:
    """Our own tokenizer and image processor of the model, with which prompts are measured as on every engine."""
    from transformers import AutoConfig

    model, template = config.worker.actor.model, config.data.override_chat_template
    path = resolve_model_path(model.model_path or "")
    try:
        shape: Any = AutoConfig.from_pretrained(path, trust_remote_code=model.trust_remote_code)
    except (OSError, ValueError) as error:
        raise ConfigError(f"worker.actor.model.model_path = {model.model_path}: no usable config.json ({error})") from error
    tokenizer_path = resolve_model_path(model.tokenizer_path or model.model_path or "")
    check_remote_code(config, tokenizer_path)
    return load_processor(
        tokenizer_path,
        trust_remote_code=model.trust_remote_code,
        chat_template=find_file(template).read_text(encoding="utf-8") if template else None,
        is_vision=hasattr(shape, "vision_config"),
        image_token_id=getattr(shape, "image_token_id", None),
    )


def _verl_processor(verl_config: Any) -> Any:
    """The processor that verl's workers will load; None where it can't, which verl only warns of."""
    from verl.utils import hf_processor

    model = verl_config.actor_rollout_ref.model
    return hf_processor(model.tokenizer_path, trust_remote_code=model.trust_remote_code)


def _connect(config: Config, verl_config: Any, progress: Progress) -> None:
    """Join or start Ray; ConfigError when it can't hold the workers or holds another run of verl."""
    import ray
    from verl.trainer.constants_ppo import get_ppo_ray_runtime_env

    gpus, threads = config.trainer.n_gpus_per_node, config.trainer.threads
    environment = {**get_ppo_ray_runtime_env(verl_config)["env_vars"], "TRANSFER_QUEUE_ENABLE": "1"}
    if "PYTHONPATH" in os.environ:
        environment["PYTHONPATH"] = os.environ["PYTHONPATH"]
    options: dict[str, Any] = {}
    if is_cpu(config):
        environment |= {**CPU_ENVIRONMENT, "OMP_NUM_THREADS": str(threads or 1), "TQ_NUM_THREADS": "1"}
        if config.ray_address is None:  # GPUs that are not there are declared: verl counts its processes by them
            cores = max(os.cpu_count() or 1, (CORES_A_PROCESS + 1) * gpus + 4)
            options |= {"num_gpus": gpus, "num_cpus": cores, "include_dashboard": False}
    elif threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    join_cluster(config, progress, environment, cpus_a_gpu=CORES_A_PROCESS, **options)
    try:
        ray.get_actor("TransferQueueController", namespace="transfer_queue")
    except ValueError:
        pass
    else:
        raise ConfigError(
            "the Ray cluster holds a run of verl already, and both would share one queue of responses; wait until it ends, or "
            "give this run a cluster of its own (ray_address)"
        )


def _train(
    config: Config, verl_config: Any, run: RunDirectory, progress: Progress, trackers: Trackers, datasets: Any,
    processor: Processor, total_steps: int,
) -> None:  # fmt: skip
    """verl's loop, as its own TaskRunner starts it."""
    import ray
    import transfer_queue as tq
    from verl.trainer.ppo.v1 import AgentLoopManagerTQ

    from gmpo_mm.engines.verl import advantages
    from gmpo_mm.engines.verl.trainer import GMPOTrainer

    rewards = advantages.install(config)
    end_tokens = end_token_ids(resolve_model_path(config.worker.actor.model.model_path or ""), processor.tokenizer)
    try:
        with progress.stage("starting verl's queue"):
            tq.init(verl_config.transfer_queue)
        trainer = GMPOTrainer(
            verl_config, run=run, progress=progress, trackers=trackers, datasets=datasets,
            end_tokens=end_tokens, save_limit=config.trainer.save_limit,
            inspection=_inspection(config, run, progress, trackers, datasets[0], processor, end_tokens),
            max_log_prob_gap=config.worker.rollout.max_log_prob_gap, correction=correction_of(config),
            samples_shown=(config.trainer.log_samples, config.trainer.val_generations_to_log), algorithm=config.algorithm,
            max_tries=config.trainer.max_try_make_batch, rewards=rewards,
        )  # fmt: skip
        run.begin(total_steps)
        with errors_of_workers():
            trainer.init()
            with progress.stage("starting the agents that ask for responses and rewards"):
                agents = AgentLoopManagerTQ.create(
                    config=verl_config,
                    llm_client=trainer.get_llm_client(),
                    teacher_client=trainer.get_teacher_client(),
                    reward_loop_worker_handles=trainer.get_reward_handles(),
                )
            with trainer.stop.listening():
                trainer.fit(agents)
        run.finish()
        trainer.watch.summary()
        if config.trainer.ray_timeline is not None:
            ray.timeline(filename=config.trainer.ray_timeline)
    finally:
        trackers.finish()
        tq.close()


def _inspection(
    config: Config, run: RunDirectory, progress: Progress, trackers: Trackers, training: GMPODataset, processor: Processor,
    end_tokens: list[int],
) -> Any:  # fmt: skip
    """What is written of steps, as far as the configuration asks for it."""
    from gmpo_mm.engines.verl.inspection import StepInspection
    from gmpo_mm.engines.verl.recording import StepRecorder

    recorder, losses = None, config.trainer.compare_losses
    if records_steps(config):
        recorder = StepRecorder(config, run, training.prompts, processor.tokenizer, end_tokens)
    return StepInspection(
        progress,
        trackers,
        recorder,
        compared_configs(policy_loss_config(config), losses) if losses else {},
        end_tokens if config.algorithm.mask_truncated_completions else None,
    )
