"""Training off-policy on purpose (docs/guides/off_policy.md): what is asked for, and what it goes together with."""

from __future__ import annotations

from collections.abc import Iterator

from gmpo_mm.config.engine_facts import facts_of
from gmpo_mm.config.load import LoadedConfig
from gmpo_mm.config.sampler import choose_sampler, longest_response, sees_gpu
from gmpo_mm.config.schema import Config
from gmpo_mm.errors import ConfigError

STALENESS, EMULATE = "worker.rollout.staleness", "worker.rollout.emulate"


def emulated(config: Config) -> dict[str, object]:
    """Key -> value of what the sampler does as another engine would; {} where it is its plain self."""
    emulate = config.worker.rollout.emulate
    asked: list[tuple[str, object, bool]] = [
        ("weights", emulate.weights, emulate.weights != "none"),
        ("logits_noise", emulate.logits_noise, emulate.logits_noise != 0),
        ("top_p", emulate.top_p, emulate.top_p != 1),
    ]
    return {f"{EMULATE}.{name}": value for name, value, is_on in asked if is_on}


def is_off_policy(config: Config) -> bool:
    """Whether training samples on purpose from something else than the trained weights."""
    return config.worker.rollout.staleness > 0 or bool(emulated(config))


def sampler_is_old(config: Config) -> bool:
    """Whether the sampler's log-probabilities are the old ones of the ratio throughout.

    With stale weights, `auto` takes them: nothing else is the policy that sampled.
    """
    old = config.worker.actor.old_log_probs
    return old == "sampler" or (old == "auto" and config.worker.rollout.staleness > 0)


def check_off_policy(loaded: LoadedConfig) -> Iterator[str]:
    """A correction has two policies to compare, and what is emulated is done by our own sampler."""
    config = loaded.config
    rollout = config.worker.rollout
    if emulated(config) and _sampler(config) == "vllm":
        for key, value in emulated(config).items():
            yield (
                f"{key} = {value!r}: worker.rollout.name={rollout.name} samples with vLLM, which differs from the trainer by "
                f"itself; set worker.rollout.name=hf, or remove {EMULATE}."
            )
    if rollout.correction != "none" and rollout.staleness > 0 and config.worker.actor.old_log_probs == "auto":
        yield (
            f"worker.rollout.correction = {rollout.correction!r}: with {STALENESS} = {rollout.staleness} and "
            "worker.actor.old_log_probs=auto the ratio is taken to the stale weights that sampled, so a correction for "
            "them would have nothing left; set worker.actor.old_log_probs=recompute (the correction sees the lag, the "
            "ratio does not), or worker.rollout.correction=none."
        )


def refused_by(engine: str, config: Config) -> Iterator[str]:
    """The messages of an engine that always samples with the weights as they are."""
    for key, value in emulated(config).items():
        yield f"{key} = {value!r}: engine={engine} samples with an engine of its own; remove {EMULATE}, or use engine=local."
    if config.worker.rollout.staleness > 0:
        yield (
            f"{STALENESS} = {config.worker.rollout.staleness}: engine={engine} always samples with the newest weights; set it "
            "to 0, or use engine=local."
        )


def _sampler(config: Config) -> str | None:
    """What would sample on the local engine here; None where that can't be told or is another engine's business."""
    if facts_of(config).distributed:
        return None
    name = config.worker.rollout.name
    try:
        return choose_sampler(name, on_gpu=sees_gpu(config.trainer.device), max_tokens=longest_response(config))[0]
    except ConfigError:  # named by another check
        return name
