"""Memory by phase, seconds and hours of a run, from what a rehearsal of its micro-batches needs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from gmpo_mm.config import Config
from gmpo_mm.models.cards import CONTEXT_BYTES, GIB, REACHED, SEGMENT_BYTES, Card
from gmpo_mm.models.flops import mfu
from gmpo_mm.planning.account import Peak
from gmpo_mm.planning.counts import RunPlan
from gmpo_mm.planning.micro_batch import (
    LOG_PROBS,
    MASTERS,
    MOMENTS,
    OPTIMIZER_STEP,
    UPDATE,
    WEIGHTS,
    Lengths,
    Measured,
    needs_log_probs,
)

SAMPLING, SYNC = "sampling", "weight sync"
KV_CACHE, SAMPLER_WEIGHTS, SAMPLER = "KV cache", "sampler's weights", "sampler, asleep or at work"
OTHER_WEIGHTS = "former and rounded weights"

VLLM_ASLEEP = 1.5 * GIB
"""What vLLM keeps on the card while it sleeps: its own CUDA context and captured graphs."""

VLLM_WORKSPACE = 2.0 * GIB
"""Of vLLM's share, what is neither weights nor KV cache."""

HOST_SECONDS_A_LAUNCH = 6e-6
LAUNCHES_A_LAYER = 25
"""The built-in sampler decodes without CUDA graphs: a layer's kernels are launched one by one."""


@dataclass
class Sampler:
    """Which sampler, and how it shares the card. `kv_bytes` is what a KV cache may hold."""

    name: str
    kv_bytes: float
    rows: int


@dataclass
class Forecast:
    """`memory` by phase, each with its kinds, in bytes; `seconds` a step by phase (empty without a card)."""

    memory: dict[str, Peak]
    capacity: float
    seconds: dict[str, float]
    update_mfu: float
    largest: int | None
    """Samples of the largest micro-batch that fits; None when it could not be told."""

    @property
    def peak(self) -> tuple[str, float]:
        """The phase that needs most, and its bytes."""
        name = max(self.memory, key=lambda phase: self.memory[phase].total)
        return name, self.memory[name].total

    @property
    def step_seconds(self) -> float:
        return sum(self.seconds.values())


def forecast(
    config: Config,
    model_config: Any,
    measured: Measured,
    plan: RunPlan,
    lengths: Lengths,
    card: Card | None,
    capacity: float,
    sampler: Sampler,
) -> Forecast:
    """Put the phases together; without a card (on a CPU) there is no time."""
    memory = _memory(config, model_config, measured, sampler, card)
    seconds: dict[str, float] = {}
    utilisation = math.nan
    if card is not None:
        seconds = _seconds(config, model_config, measured, sampler, plan, lengths, card)
        flops = measured.flops * measured.update.pieces * plan.updates_a_step
        utilisation = mfu(flops, seconds[UPDATE] + seconds[OPTIMIZER_STEP], card.bf16)
    return Forecast(
        memory,
        capacity,
        seconds,
        utilisation,
        _largest(config, measured, memory[UPDATE].total, lengths, capacity),
    )


# ---- the sampler ---------------------------------------------------------------------------------


def find_sampler(
    config: Config,
    model_config: Any,
    measured: Measured,
    lengths: Lengths,
    card: Card | None,
    capacity: float,
) -> Sampler:
    """The sampler that the configuration would take, and what it may hold at once."""
    rollout = config.worker.rollout
    samples = config.data.rollout_batch_size * rollout.n
    a_row = _kv_bytes_a_token(model_config, card is not None) * (lengths.prompt + lengths.response)
    if card is not None and rollout.name in ("auto", "vllm"):
        kv_bytes = rollout.gpu_memory_utilization * capacity - 2 * measured.sampled - VLLM_WORKSPACE
        default = 1024 if capacity > 70 * GIB and "A100" not in card.name else 256  # vLLM's own
        return Sampler("vLLM", max(kv_bytes, 0.0), max(1, min(samples, default, int(kv_bytes // a_row))))
    rows, tokens = _limits_of_built_in()
    rows = min(samples, max(rollout.n, min(rows, tokens // (lengths.prompt + lengths.response))))
    return Sampler("the built-in sampler", a_row * rows, rows)


def _limits_of_built_in() -> tuple[int, int]:
    import inspect

    from gmpo_mm.rollout.hf import HFRollout

    parameters = inspect.signature(HFRollout).parameters
    return int(parameters["max_rows"].default), int(parameters["max_cached_tokens"].default)


def _kv_bytes_a_token(model_config: Any, half: bool) -> int:
    text = model_config.get_text_config()
    heads = int(text.num_attention_heads)
    width = int(getattr(text, "head_dim", None) or text.hidden_size // heads)
    shared = int(getattr(text, "num_key_value_heads", None) or heads)
    return 2 * int(text.num_hidden_layers) * shared * width * (2 if half else 4)


# ---- memory --------------------------------------------------------------------------------------


def _memory(
    config: Config, model_config: Any, measured: Measured, sampler: Sampler, card: Card | None
) -> dict[str, Peak]:
    vocabulary = int(model_config.get_text_config().vocab_size)
    held = dict(measured.held)
    on_vllm = sampler.name == "vLLM"
    moved = _offloaded(config) if on_vllm else ()
    while_sampling = {kind: size for kind, size in held.items() if kind not in moved}
    if on_vllm:
        assert card is not None
        weights = 2 * measured.sampled
        share = {SAMPLER_WEIGHTS: weights, KV_CACHE: int(sampler.kv_bytes), SAMPLER: int(VLLM_WORKSPACE)}
        largest_weight = 2 * vocabulary * int(model_config.get_text_config().hidden_size)
        phases = {
            SAMPLING: while_sampling | share,
            SYNC: while_sampling
            | {SAMPLER_WEIGHTS: weights, SAMPLER: int(VLLM_ASLEEP), "activations": largest_weight},
        }
    else:
        logits = {"logits": 3 * 4 * sampler.rows * vocabulary}
        phases = {SAMPLING: held | {KV_CACHE: int(sampler.kv_bytes)} | logits}
    for name, peak in measured.peaks.items():
        phases[name] = dict(peak.kinds) | ({SAMPLER: int(VLLM_ASLEEP)} if on_vllm else {})
    for name, size in _off_policy_copies(config, measured, on_vllm, card is None):
        phases[name] = phases[name] | {OTHER_WEIGHTS: size}
    return {name: _rounded(kinds, card) for name, kinds in phases.items()}


def _off_policy_copies(
    config: Config, measured: Measured, on_vllm: bool, on_cpu: bool
) -> Iterator[tuple[str, int]]:
    """(phase, bytes) of the weights that `staleness` keeps on the CPU, and of those that the model is lent for sampling."""
    rollout, trained = config.worker.rollout, 4 * measured.trained
    kept = (rollout.staleness + 1) * trained if rollout.staleness and on_cpu else 0
    lent = trained if rollout.staleness and not on_cpu else 0  # a CPU lends what it keeps
    lent += measured.held[WEIGHTS] if rollout.emulate.weights != "none" else 0
    for name in (SAMPLING, *((SYNC,) if on_vllm else ()), *measured.peaks):
        size = kept + (lent if name == (SYNC if on_vllm else SAMPLING) else 0)
        if size:
            yield name, size


def _rounded(kinds: dict[str, int], card: Card | None) -> Peak:
    """With CUDA's context, and in whole segments of its allocator."""
    if card is None:
        return Peak(sum(kinds.values()), kinds)
    kinds = kinds | {"CUDA context": int(CONTEXT_BYTES)}
    return Peak(-(-sum(kinds.values()) // SEGMENT_BYTES) * SEGMENT_BYTES, kinds)


def _offloaded(config: Config) -> tuple[str, ...]:
    """The kinds that are in the host's memory while vLLM samples."""
    offload: Any = config.worker.actor.offload
    if not isinstance(offload, str):
        optimizer, weights = offload.offload_optimizer, offload.offload_params
    else:
        optimizer, weights = offload in ("optimizer", "all"), offload == "all"
    return ((MASTERS, MOMENTS) if optimizer else ()) + ((WEIGHTS,) if weights else ())


def _largest(
    config: Config, measured: Measured, peak: float, lengths: Lengths, capacity: float
) -> int | None:
    """Samples of the largest micro-batch whose peak stays below the capacity, from two that were run."""
    if math.isnan(measured.slope) or measured.slope <= 0:
        return None
    tokens = measured.update.tokens + (capacity - peak) / measured.slope
    a_sample = (
        lengths.prompt + lengths.response
        if config.worker.actor.dynamic_batching
        else _tokens_a_sample(measured)
    )
    return max(0, int(tokens / a_sample))


def _tokens_a_sample(measured: Measured) -> float:
    return measured.update.tokens / measured.update.responses


# ---- time ----------------------------------------------------------------------------------------


def _seconds(
    config: Config,
    model_config: Any,
    measured: Measured,
    sampler: Sampler,
    plan: RunPlan,
    lengths: Lengths,
    card: Card,
) -> dict[str, float]:
    tables = measured.tables
    on_vllm = sampler.name == "vLLM"
    seconds = {SAMPLING: _sampling_seconds(config, model_config, measured, sampler, lengths, card)}
    old = needs_log_probs(config, sampler_is_exact=not on_vllm)
    passes = int(old and config.worker.actor.old_log_probs != "sampler") + int(
        not config.algorithm.disable_kl
    )
    if passes:
        seconds[LOG_PROBS] = passes * plan.mini_batches * measured.forward.pieces * tables[LOG_PROBS].seconds
    seconds[UPDATE] = plan.updates_a_step * measured.update.pieces * tables[UPDATE].seconds
    seconds[OPTIMIZER_STEP] = plan.updates_a_step * tables[OPTIMIZER_STEP].seconds
    if on_vllm:
        over_pcie = sum(2 * measured.held.get(kind, 0) for kind in _offloaded(config)) + 2 * measured.sampled
        copied = 2 * (2 * measured.sampled)
        seconds[SYNC] = over_pcie / (card.pcie * REACHED.pcie) + copied / (card.bandwidth * REACHED.bandwidth)
    return seconds


def _sampling_seconds(
    config: Config, model_config: Any, measured: Measured, sampler: Sampler, lengths: Lengths, card: Card
) -> float:
    """Prompts by their arithmetic; then steps that read the weights and all open samples' keys and values."""
    prompts, n = config.data.rollout_batch_size, config.worker.rollout.n
    counts = measured.counts
    rate = card.bf16 * REACHED.products
    active = counts.decoder.trained + counts.decoder.frozen
    head = counts.head.trained + counts.head.frozen
    prefill = 2 * active * prompts * lengths.prompt / rate
    context = lengths.prompt + lengths.response / 2
    moved = 2 * measured.sampled + sampler.rows * context * _kv_bytes_a_token(model_config, True)
    a_step = max(
        moved / (card.bandwidth * REACHED.decoding_bandwidth), 2 * (active + head) * sampler.rows / rate
    )
    if sampler.name != "vLLM":
        a_step = max(a_step, counts.layers * LAUNCHES_A_LAYER * HOST_SECONDS_A_LAUNCH)
    steps = math.ceil(prompts * n / sampler.rows) * lengths.response
    return prefill + steps * a_step


def capacity_of(device: torch.device, card: Card | None) -> float:
    """Bytes of memory that the planned device has in all."""
    if card is not None:
        return card.memory
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    import psutil

    return float(psutil.virtual_memory().total)
