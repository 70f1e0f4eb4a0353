"""One run on the local engine: checks, the run directory, and everything that the trainer's loop is made of."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from gmpo_mm.algorithms import make_kl_controller
from gmpo_mm.config import (
    LoadedConfig,
    choose_sampler,
    longest_response,
    policy_loss_config,
    resume_choice,
    run_directory,
    to_yaml,
)
from gmpo_mm.config.backends import SAMPLERS
from gmpo_mm.config.correction import correction_of
from gmpo_mm.config.off_policy import is_off_policy, sampler_is_old
from gmpo_mm.config.recording import records_steps
from gmpo_mm.config.schema import Config
from gmpo_mm.data import PromptDataset, PromptSampler
from gmpo_mm.engines.checks import validate_for_training
from gmpo_mm.engines.run_setup import (
    check_batch_fits,
    configured_reward,
    count_steps,
    training_params,
    validation_params,
)
from gmpo_mm.errors import ConfigError
from gmpo_mm.models.fused import Fused
from gmpo_mm.models.loading import load_policy, read_chat_template, resolve_device, resolve_dtype
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.models.processing import Processor
from gmpo_mm.rewards.overlong import overlong_buffer
from gmpo_mm.rollout.protocol import RolloutBackend, RolloutRequest
from gmpo_mm.rollout.seeds import EVALUATION_SEED
from gmpo_mm.runs.progress import LOG_NAME, Progress
from gmpo_mm.runs.run_data import read_run_data, with_columns
from gmpo_mm.runs.run_directory import RunDirectory
from gmpo_mm.runs.step_record import announcement
from gmpo_mm.runs.trackers import Trackers, check_trackers
from gmpo_mm.runs.usable_model import with_usable_models
from gmpo_mm.training.actor import Actor
from gmpo_mm.training.batch import CutLimits
from gmpo_mm.training.compare_losses import LossComparison
from gmpo_mm.training.off_policy import OffPolicySampling
from gmpo_mm.training.offload import Offload
from gmpo_mm.training.optimizer import build_optimizer
from gmpo_mm.training.recording import StepRecorder
from gmpo_mm.training.sampling import BatchMaker, Sampler
from gmpo_mm.training.trainer import Trainer
from gmpo_mm.training.update_config import UpdateConfig
from gmpo_mm.training.validation import Validator


def train(
    loaded: LoadedConfig, command: Sequence[str] = (), progress: Progress | None = None, *, overwrite: bool = False
) -> Path:
    """Validate a configuration, train it, and return the run directory; `overwrite` replaces a run that is there.

    Raises ConfigError and DataError before any long work, RewardError and TrainingError during it.
    """
    validate_for_training(loaded)
    notes: list[str] = []
    loaded = with_columns(loaded, notes.append)
    config = loaded.config
    check_trackers(config.trainer.logger)
    device, dtype = prepare_device(config)
    with (
        progress or Progress() as progress,
        RunDirectory.open(
            run_directory(config), resume=resume_choice(config), config=to_yaml(config, loaded.written),
            command=list(command), device=device, overwrite=overwrite, interpolated=loaded.interpolated,
        ) as run,
    ):
        progress.log_to(run.path / LOG_NAME, command)
        for note in (*notes, *run.notes):
            progress.log(note)
        _build(config, run, progress, device, dtype)
        return run.path


def prepare_device(config: Config) -> tuple[torch.device, torch.dtype]:
    """The device and compute type of a configuration; sets torch's CPU threads and, on the CPU, determinism."""
    device = resolve_device(config.trainer.device)
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    torch.use_deterministic_algorithms(device.type == "cpu")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs 2 to 5 % of an update
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)  # it makes a plan of 40 ms for every new shape, and most shapes are new
        torch.set_float32_matmul_precision("highest")  # trainer.dtype=float32 means float32: no TF32
        Fused.compiles = config.worker.actor.use_torch_compile
    return device, resolve_dtype(config.trainer.dtype, device)


def _build(config: Config, run: RunDirectory, progress: Progress, device: torch.device, dtype: torch.dtype) -> None:
    """Load everything, what is cheap to find wrong first, and train."""
    reward_function = configured_reward(config)
    config = with_usable_models(config, progress.log, whole=False)
    found = read_run_data(config, reward_function, progress)
    records, val_records = found.training, found.validation
    check_batch_fits(config, len(records))
    with Trackers(config.trainer.logger, run.config, run, progress.warn) as trackers:
        with progress.stage(f"loading {config.worker.actor.model.model_path}"):
            policy, processor = configured_policy(config, device, dtype)
            reference = frozen_reference(config, policy, dtype)
        dataset = _encode(config, records, processor, "training", progress)
        val_dataset = _encode(config, val_records, processor, "validation", progress) if val_records is not None else None
        progress.log(dataset.overlong_report() or f"{len(dataset)} training prompts, none over-long")
        total_steps = count_steps(config, len(dataset))
        if run.is_complete(total_steps) and not config.trainer.val_only:
            return
        if said := announcement(config, total_steps, _trained_bytes(policy)):
            progress.log(said)
        name, why = choose_sampler(
            config.worker.rollout.name, on_gpu=device.type == "cuda", max_tokens=longest_response(config)
        )
        if why:
            progress.log(f"worker.rollout.name=auto: sampling with {name} ({why})")
        actor = Actor(policy, build_optimizer(policy, config.worker.actor.optim), update_config(config))
        offload = _offload(config, name, actor, reference, device)
        if offload is not None:  # so that vLLM starts with the memory that it will have
            offload.before_sync()
            offload.after_sync()
        rollout = _build_rollout(config, name, policy, device, dtype, progress)
        if offload is not None:
            offload.back()
        correction = config.worker.rollout.correction
        own = rollout.exact_log_probs and not (training_params(config).is_truncated or is_off_policy(config))
        if correction != "none" and own:
            raise ConfigError(
                f"worker.rollout.correction={correction} has no effect here: the hf sampler in float32 draws from the "
                "trained model's own distribution; set it to none"
            )
        try:
            sampler = Sampler(rollout, processor.tokenizer, reward_function, config.worker.reward.skip_special_tokens)
            order = PromptSampler(len(dataset), config.data.shuffle, config.data.seed, dataset.fingerprint())
            algorithm = config.algorithm
            kl_coef = 0.0 if algorithm.disable_kl else algorithm.kl_coef
            run.begin(total_steps)
            Trainer(
                config=config,
                run=run,
                policy=policy,
                processor=processor,
                actor=actor,
                rollout=rollout,
                batches=_batch_maker(config, sampler, dataset, order, total_steps),
                order=order,
                validator=_validator(config, sampler, val_dataset, policy) if val_dataset is not None else None,
                kl=make_kl_controller(algorithm.kl_type, kl_coef, algorithm.kl_target, algorithm.kl_horizon),
                total_steps=total_steps,
                progress=progress,
                trackers=trackers,
                reference=reference,
                offload=offload,
                off_policy=_off_policy(config, policy),
                recorder=StepRecorder(config, run, policy) if records_steps(config) else None,
                comparison=LossComparison.of(config, actor.config.loss),
            ).fit()
        finally:
            rollout.close()
            for each in (dataset, val_dataset):
                if each is not None:
                    each.close()


def configured_policy(config: Config, device: torch.device, dtype: torch.dtype) -> tuple[PolicyModel, Processor]:
    """The model of a configuration before its first step, adapters included, and what reads text and pictures for it."""
    policy, processor = load_policy(
        config.worker.actor.model, device=device, compute_dtype=dtype, seed=config.worker.rollout.seed,
        chat_template=read_chat_template(config.data.override_chat_template),
    )  # fmt: skip
    policy.logits_dtype = getattr(torch, config.worker.actor.logits_dtype)
    return policy, processor


def _trained_bytes(policy: PolicyModel) -> int:
    return sum(p.numel() * p.element_size() for p in policy.module.parameters() if p.requires_grad)


def _encode(config: Config, records: Any, processor: Processor, what: str, progress: Progress) -> PromptDataset:
    with progress.stage(f"measuring {what} prompts", len(records), "prompts") as stage:
        return PromptDataset(
            records, processor, config.data, training=what == "training", progress=lambda done, _: stage.update(done)
        )


def frozen_reference(config: Config, policy: PolicyModel, dtype: torch.dtype) -> PolicyModel | None:
    """A frozen copy of the starting policy; None without KL and for LoRA, where the adapter is switched off instead."""
    if config.algorithm.disable_kl or config.worker.actor.model.lora.rank > 0:
        return None
    module = copy.deepcopy(policy.module).requires_grad_(False).eval()
    if dtype != policy.lm_head.weight.dtype:
        _round_linear_weights(module, dtype)
    reference = PolicyModel(
        module, forbidden_token_ids=policy.forbidden_token_ids, eos_token_ids=policy.eos_token_ids, compute_dtype=dtype
    )
    reference.logits_dtype = policy.logits_dtype
    return reference


def _round_linear_weights(module: torch.nn.Module, dtype: torch.dtype) -> None:
    """Store the linear layers' weights in the compute type, to which autocast rounds them anyway; nothing else.

    Rotary frequencies, norms and embeddings stay float32, as the policy's: rounding them would give weights that never
    changed a KL above 0 that grows with the position.
    """
    embedding = module.get_input_embeddings().weight  # type: ignore[operator]
    for layer in module.modules():
        if isinstance(layer, torch.nn.Linear) and layer.weight is not embedding:
            layer.to(dtype)


def update_config(config: Config) -> UpdateConfig:
    """The actor's part of a configuration."""
    actor, algorithm, rollout = config.worker.actor, config.algorithm, config.worker.rollout
    sequence = config.data.max_prompt_length + config.data.max_response_length

    def limits(samples: int) -> CutLimits:
        return CutLimits(tokens=samples * sequence) if actor.dynamic_batching else CutLimits(samples=samples)

    in_loss = algorithm.use_kl_loss and not algorithm.disable_kl
    return UpdateConfig(
        loss=policy_loss_config(config),
        temperature=rollout.temperature,
        mini_batch_prompts=actor.global_batch_size,
        update_limits=limits(actor.micro_batch_size_per_device_for_update),
        forward_limits=limits(actor.micro_batch_size_per_device_for_experience),
        epochs=actor.ppo_epochs,
        max_grad_norm=actor.max_grad_norm,
        entropy_coef=actor.entropy_coef,
        kl_kind=algorithm.kl_penalty if in_loss else None,
        sampler_is_old=sampler_is_old(config),
        drop_zero_advantage=algorithm.drop_zero_advantage,
        correction=correction_of(config),
    )


def _batch_maker(
    config: Config, sampler: Sampler, dataset: PromptDataset, order: PromptSampler, total_steps: int
) -> BatchMaker:
    algorithm, data = config.algorithm, config.data
    return BatchMaker(
        sampler=sampler,
        dataset=dataset,
        order=order,
        params=training_params(config),
        seed=config.worker.rollout.seed,
        prompts=data.rollout_batch_size,
        prompts_a_call=data.mini_rollout_batch_size or data.rollout_batch_size,
        greedy_baseline=algorithm.adv_estimator == "remax",
        filter_key=algorithm.filter_key if algorithm.online_filtering else None,
        filter_low=algorithm.filter_low,
        filter_high=algorithm.filter_high,
        max_tries=config.trainer.max_try_make_batch,
        last_step=total_steps,
        overlong=overlong_buffer(config),
    )


def _validator(config: Config, sampler: Sampler, dataset: PromptDataset, policy: PolicyModel) -> Validator:
    size = config.data.val_batch_size
    params = validation_params(config)
    seed = config.worker.rollout.val_override_config.get("seed", EVALUATION_SEED)
    return Validator(
        sampler=sampler,
        dataset=dataset,
        params=params,
        seed=seed,
        prompts_a_call=size if size > 0 else len(dataset),
        forget_images=policy.forget_images,
    )


def _build_rollout(
    config: Config, name: str, policy: PolicyModel, device: torch.device, dtype: torch.dtype, progress: Progress
) -> RolloutBackend:
    backend = SAMPLERS[name]
    if backend.package is not None:
        config = with_usable_models(config, progress.log, whole=True)
    request = RolloutRequest(
        config, device, dtype, policy.forbidden_token_ids, policy.eos_token_ids, trains=True, policy=policy
    )
    with progress.stage(f"starting {backend.title}") if backend.title else nullcontext():
        return backend.load()(request)


def _off_policy(config: Config, policy: PolicyModel) -> OffPolicySampling | None:
    rollout = config.worker.rollout
    return OffPolicySampling(policy, rollout.staleness, rollout.emulate.weights) if is_off_policy(config) else None


def _offload(config: Config, name: str, actor: Actor, reference: PolicyModel | None, device: torch.device) -> Offload | None:
    """What makes room for vLLM on a GPU as `worker.actor.offload` says; None where nothing has to."""
    wanted = config.worker.actor.offload
    if SAMPLERS[name].package is None or device.type != "cuda" or not (wanted.offload_optimizer or wanted.offload_params):
        return None
    return Offload(
        actor.optimizer,
        actor.policy.module,
        reference.module if reference is not None else None,
        actor.policy.device,
        optimizer_states=wanted.offload_optimizer,
        weights=wanted.offload_params,
    )
