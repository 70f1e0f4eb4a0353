"""What `engine=easyr1` can't honour, and the sizes that EasyR1 would reject or round down only after its workers are up."""

from __future__ import annotations

from collections.abc import Iterator

from gmpo_mm.config.load import LoadedConfig
from gmpo_mm.config.loss import ACTOR, policy_loss_config
from gmpo_mm.config.off_policy import refused_by
from gmpo_mm.config.schema import ActorConfig, Config, CriticConfig
from gmpo_mm.config.sizes import divisor, nearest_multiple, prompts_that_divide
from gmpo_mm.errors import ConfigError


def check_easyr1(loaded: LoadedConfig) -> Iterator[str]:
    """Every clash of a configuration with EasyR1 that can be seen without EasyR1."""
    config = loaded.config
    yield from _check_sampling(config)
    yield from _check_seq_mean(loaded)
    yield from _check_comparing(config)
    yield from _check_parallelism(config)
    if config.ray_address is not None and config.ray_address.startswith("ray://"):
        yield (
            f"ray_address = {config.ray_address!r}: the trainer has to run on a node of the cluster, not behind Ray's client; "
            "log in to one and set ray_address=auto."
        )


def _check_sampling(config: Config) -> Iterator[str]:
    rollout = config.worker.rollout
    yield from refused_by("easyr1", config)
    if config.algorithm.online_filtering and config.algorithm.adv_estimator == "gdpo":
        yield (
            "algorithm.online_filtering = true: EasyR1 keeps no rewards but overall of the groups that its filter lets pass, "
            "and adv_estimator=gdpo needs several; set it to false, or use engine=local or engine=verl."
        )
    if rollout.name == "hf":
        yield "worker.rollout.name = 'hf': engine=easyr1 samples with vLLM; set it to vllm or auto."
    if config.worker.actor.old_log_probs == "sampler":
        yield (
            f"{ACTOR}old_log_probs = 'sampler': EasyR1 always computes the old ones with the trainer; set it to auto or "
            "recompute."
        )
    longest = config.data.max_prompt_length + config.data.max_response_length
    if rollout.max_num_batched_tokens < longest:
        yield (
            f"worker.rollout.max_num_batched_tokens = {rollout.max_num_batched_tokens}: EasyR1 wants at least "
            f"data.max_prompt_length + data.max_response_length = {longest}; set it to {longest} or more."
        )


def _check_seq_mean(loaded: LoadedConfig) -> Iterator[str]:
    from gmpo_mm.algorithms import loss_unit

    if ACTOR + "seq_mean" not in loaded.explicit_keys or loaded.config.worker.actor.seq_mean == "exact":
        return
    try:
        unit = loss_unit(policy_loss_config(loaded.config))
    except (ConfigError, ValueError):
        return  # check_loss names it
    if unit == "token":
        yield (
            f"{ACTOR}seq_mean = {loaded.config.worker.actor.seq_mean!r}: loss_type={loaded.config.worker.actor.loss_type} is a "
            f"mean over tokens here, so it has no effect; remove it, or set {ACTOR}loss_avg_mode=seq."
        )


def _check_comparing(config: Config) -> Iterator[str]:
    trainer = config.trainer
    if not trainer.compare_losses:
        return
    if trainer.compare_losses_gradients_every:
        yield (
            f"trainer.compare_losses_gradients_every = {trainer.compare_losses_gradients_every}: on engine=easyr1 losses are "
            "compared by their token weights alone, without whole gradients; set it to 0, or use engine=local."
        )
    if config.worker.actor.seq_mean == "easyr1":
        yield (
            f"{ACTOR}seq_mean = 'easyr1': trainer.compare_losses compares losses that are means over a whole mini-batch, and "
            f"not EasyR1's weighting by micro-batches; set {ACTOR}seq_mean=exact, or leave trainer.compare_losses out."
        )


def _check_parallelism(config: Config) -> Iterator[str]:
    """Sizes that have to divide by the number of processes; EasyR1 rounds the mini-batch down where it does not."""
    trainer, actor, rollout = config.trainer, config.worker.actor, config.worker.rollout
    gpus = trainer.nnodes * trainer.n_gpus_per_node
    for key, value in (
        ("trainer.nnodes", trainer.nnodes),
        ("trainer.n_gpus_per_node", trainer.n_gpus_per_node),
        (f"{ACTOR}ulysses_size", actor.ulysses_size),
        ("worker.rollout.tensor_parallel_size", rollout.tensor_parallel_size),
    ):
        if value < 1:
            yield f"{key} = {value}: it must be at least 1."
            return
    where = f"trainer.nnodes x trainer.n_gpus_per_node = {trainer.nnodes} x {trainer.n_gpus_per_node} = {gpus} GPUs"
    for key, value in (
        (f"{ACTOR}ulysses_size", actor.ulysses_size),
        ("worker.rollout.tensor_parallel_size", rollout.tensor_parallel_size),
    ):
        if gpus % value:
            yield f"{key} = {value}: it does not divide {where}; set it to {divisor(gpus, value)}."
    if actor.ulysses_size > 1 and not actor.padding_free:
        yield (
            f"{ACTOR}ulysses_size = {actor.ulysses_size}: EasyR1 splits sequences only with {ACTOR}padding_free=true, so it "
            "would have no effect; set padding_free=true or ulysses_size=1."
        )
    yield from _check_prompts_a_call(config, gpus, where)
    yield from _check_updates(config, "actor", actor, gpus, where)
    if config.algorithm.adv_estimator == "gae":
        if not config.worker.critic.model.model_path:
            yield (
                "worker.critic.model.model_path is not set, and adv_estimator=gae trains a critic: name a model, for example "
                f"that of the actor, {config.worker.actor.model.model_path}."
            )
        yield from _check_updates(config, "critic", config.worker.critic, gpus, where)


def _check_prompts_a_call(config: Config, gpus: int, where: str) -> Iterator[str]:
    data = config.data
    name = "mini_rollout_batch_size" if data.mini_rollout_batch_size else "rollout_batch_size"
    prompts = getattr(data, name)
    if prompts % gpus:
        yield (
            f"data.{name} = {prompts}: prompts are dealt out evenly to {where}; set it to a multiple of {gpus}, such as "
            f"{nearest_multiple(prompts, gpus)}."
        )


def _check_updates(
    config: Config, role: str, section: ActorConfig | CriticConfig, gpus: int, where: str
) -> Iterator[str]:
    n, prefix = config.worker.rollout.n, f"worker.{role}."
    micro, experience = section.micro_batch_size_per_device_for_update, section.micro_batch_size_per_device_for_experience
    if min(n, micro, experience, section.ulysses_size, section.global_batch_size) < 1 or gpus % section.ulysses_size:
        return  # named elsewhere
    ranks = gpus // section.ulysses_size
    samples = section.global_batch_size * n
    if samples % ranks:
        yield (
            f"{prefix}global_batch_size = {section.global_batch_size}: a mini-batch of global_batch_size x n = {samples} "
            f"samples does not divide over {ranks} data-parallel ranks ({where}, ulysses_size {section.ulysses_size}), and "
            f"EasyR1 would train on smaller ones; set it to a multiple of {prompts_that_divide(ranks, n)}."
        )
    elif samples // ranks % micro:
        per_rank = samples // ranks
        yield (
            f"{prefix}micro_batch_size_per_device_for_update = {micro}: it does not divide the {per_rank} samples that each of "
            f"{ranks} ranks has of a mini-batch ({samples}); set it to {divisor(per_rank, micro)}."
        )
    step = config.data.rollout_batch_size * n
    if step % experience:
        yield (
            f"{prefix}micro_batch_size_per_device_for_experience = {experience}: it does not divide rollout_batch_size x n = "
            f"{step} samples; set it to {divisor(step, experience)}."
        )
    elif not section.dynamic_batching and step % ranks == 0 and step // ranks % experience:
        yield (
            f"{prefix}micro_batch_size_per_device_for_experience = {experience}: it does not divide the {step // ranks} "
            f"samples of each of {ranks} ranks; set it to {divisor(step // ranks, experience)}, or "
            f"{prefix}dynamic_batching=true."
        )
