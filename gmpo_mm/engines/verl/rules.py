"""What `engine=verl` refuses, and the sizes that verl would reject or fill up only after its workers are up."""

from __future__ import annotations

from collections.abc import Iterator

from gmpo_mm.config.load import LoadedConfig
from gmpo_mm.config.loss import ACTOR
from gmpo_mm.config.off_policy import refused_by
from gmpo_mm.config.schema import Config
from gmpo_mm.config.sizes import divisor, nearest_multiple, prompts_that_divide

VALIDATION_KEYS = ("n", "temperature", "top_p", "top_k")


def check_verl(loaded: LoadedConfig) -> Iterator[str]:
    """Every clash of a configuration with verl that can be seen without verl."""
    config = loaded.config
    yield from _check_algorithm(config)
    yield from _check_model(config)
    yield from _check_rollout(config)
    yield from _check_device(config)
    yield from _check_sizes(config)
    if config.trainer.compare_losses_gradients_every > 0:
        yield (
            f"trainer.compare_losses_gradients_every = {config.trainer.compare_losses_gradients_every}: whole gradients of "
            "other losses are not computed on engine=verl; set it to 0 (trainer.compare_losses still compares the losses token "
            "by token), or replay a recorded step on engine=local (trainer.record_steps, gmpo-mm replay)."
        )
    if config.ray_address is not None and config.ray_address.startswith("ray://"):
        yield (
            f"ray_address = {config.ray_address!r}: the trainer has to run on a node of the cluster, not behind Ray's client; "
            "log in to one and set ray_address=auto."
        )


def _check_algorithm(config: Config) -> Iterator[str]:
    algorithm, actor = config.algorithm, config.worker.actor
    if algorithm.adv_estimator == "remax":
        yield (
            "algorithm.adv_estimator = 'remax': its greedy baseline is a second kind of sample, which this engine does not ask "
            "verl for; use grpo or rloo, or engine=local."
        )
    if algorithm.kl_type == "adaptive" and not algorithm.disable_kl and not algorithm.use_kl_loss:
        yield (
            "algorithm.kl_type = 'adaptive': verl does not save the adapted coefficient, so a resumed run would start from "
            "kl_coef again; set it to fixed, or use engine=local."
        )
    if actor.seq_mean == "easyr1":
        yield (
            f"{ACTOR}seq_mean = 'easyr1': EasyR1's weighting by tokens belongs to engine=easyr1; engine=verl divides by the "
            "sequences of the whole mini-batch. Set it to exact."
        )
    if actor.old_log_probs == "sampler":
        yield (
            f"{ACTOR}old_log_probs = 'sampler': verl then trains a loss of its own (its bypass mode); set it to auto or "
            "recompute."
        )


def _check_model(config: Config) -> Iterator[str]:
    model, optim = config.worker.actor.model, config.worker.actor.optim
    if model.lora.rank > 0:
        yield (
            f"{ACTOR}model.lora.rank = {model.lora.rank}: LoRA through verl is not part of this version; set it to 0, or use "
            "engine=local or engine=easyr1."
        )
    if optim.strategy != "adamw":
        yield f"{ACTOR}optim.strategy = {optim.strategy!r}: engine=verl trains with torch's AdamW; set it to adamw."


def _check_rollout(config: Config) -> Iterator[str]:
    rollout = config.worker.rollout
    yield from refused_by("verl", config)
    for name, value in rollout.val_override_config.items():
        if name not in VALIDATION_KEYS:
            yield (
                f"worker.rollout.val_override_config.{name} = {value!r}: verl validates with {', '.join(VALIDATION_KEYS)} of "
                "its own and takes the rest from training; remove it."
            )


def _check_device(config: Config) -> Iterator[str]:
    trainer, rollout = config.trainer, config.worker.rollout
    if trainer.device == "cpu":
        if rollout.name == "vllm":
            yield (
                "worker.rollout.name = 'vllm': with engine=verl on the CPU (trainer.device=cpu), transformers samples; set it "
                "to auto or hf."
            )
        if config.worker.actor.ulysses_size > 1:
            yield (
                f"{ACTOR}ulysses_size = {config.worker.actor.ulysses_size}: splitting sequences needs verl's padding-free "
                "path, which needs GPUs; set it to 1."
            )
        if trainer.dtype == "bfloat16":
            yield "trainer.dtype = 'bfloat16': with engine=verl and trainer.device=cpu everything is float32; set it to auto."
    elif rollout.name == "hf":
        yield (
            "worker.rollout.name = 'hf': engine=verl samples with vLLM on GPUs; set it to vllm or auto (or, for a test without "
            "GPUs, trainer.device=cpu)."
        )
    elif ":" in trainer.device:
        yield (
            f"trainer.device = {trainer.device!r}: verl's workers go to the GPUs of the Ray cluster; set it to auto or cuda."
        )


def _check_sizes(config: Config) -> Iterator[str]:
    """Sizes that have to divide by the number of processes; verl fills what is left with made-up rows."""
    trainer, actor, rollout, data = config.trainer, config.worker.actor, config.worker.rollout, config.data
    gpus = trainer.nnodes * trainer.n_gpus_per_node
    parallel = 1 if trainer.device == "cpu" else rollout.tensor_parallel_size
    for key, value in (
        ("trainer.nnodes", trainer.nnodes),
        ("trainer.n_gpus_per_node", trainer.n_gpus_per_node),
        (f"{ACTOR}ulysses_size", actor.ulysses_size),
        ("worker.rollout.tensor_parallel_size", parallel),
        ("worker.reward.num_cpus", config.worker.reward.num_cpus),
    ):
        if value < 1:
            yield f"{key} = {value}: it must be at least 1."
            return
    where = f"trainer.nnodes x trainer.n_gpus_per_node = {trainer.nnodes} x {trainer.n_gpus_per_node} = {gpus} processes"
    for key, value in ((f"{ACTOR}ulysses_size", actor.ulysses_size), ("worker.rollout.tensor_parallel_size", parallel)):
        if gpus % value:
            yield f"{key} = {value}: it does not divide {where}; set it to {divisor(gpus, value)}."
            return
    if actor.ulysses_size > 1 and not actor.padding_free:
        yield (
            f"{ACTOR}ulysses_size = {actor.ulysses_size}: verl splits sequences only with {ACTOR}padding_free=true; set "
            "padding_free=true or ulysses_size=1."
        )
    micro = actor.micro_batch_size_per_device_for_update
    experience = actor.micro_batch_size_per_device_for_experience
    if min(rollout.n, actor.global_batch_size, data.rollout_batch_size, micro, experience) < 1:
        return  # named elsewhere
    ranks = gpus // actor.ulysses_size
    samples = actor.global_batch_size * rollout.n
    if samples % ranks:
        unit = prompts_that_divide(ranks, rollout.n)
        yield (
            f"{ACTOR}global_batch_size = {actor.global_batch_size}: a mini-batch of global_batch_size x n = {samples} samples "
            f"does not divide over {ranks} data-parallel ranks ({where}, ulysses_size {actor.ulysses_size}); set it to a "
            f"multiple of {unit}, such as {nearest_multiple(actor.global_batch_size, unit)}."
        )
    elif not actor.dynamic_batching:
        per_rank, step = samples // ranks, data.rollout_batch_size * rollout.n // ranks
        for key, value, rows in (("update", micro, per_rank), ("experience", experience, step)):
            if rows % value:
                yield (
                    f"{ACTOR}micro_batch_size_per_device_for_{key} = {value}: it does not divide the {rows} samples of each of "
                    f"{ranks} ranks; set it to {divisor(rows, value)}, or {ACTOR}dynamic_batching=true."
                )
