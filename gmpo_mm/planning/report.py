"""A configuration's plan in words: what it needs, how long it takes, and how sure these numbers are."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from gmpo_mm.config import Config
from gmpo_mm.config.preparations import find_preparation
from gmpo_mm.errors import ConfigError
from gmpo_mm.models.cards import CARDS, CONTEXT_BYTES, GIB, Card
from gmpo_mm.models.loading import resolve_dtype
from gmpo_mm.planning.account import NotPlannableError
from gmpo_mm.planning.counts import RunPlan
from gmpo_mm.planning.forecast import SAMPLING, SYNC, Forecast, Sampler, capacity_of, find_sampler, forecast
from gmpo_mm.planning.micro_batch import LOG_PROBS, UPDATE, Lengths, Measured, Rehearsal, longest
from gmpo_mm.planning.model_files import read_model_config

CHECKED: dict[str, str] = {}
"""What a real card has confirmed: number -> what was predicted and measured, and on which card."""

MINIMUM = 10 * 2**20
"""Smaller kinds of memory are not listed on their own."""


@dataclass
class CardPlan:
    """Everything that a plan prints."""

    config: Config
    plan: RunPlan
    device: torch.device
    card: Card | None
    lengths: Lengths
    measured: Measured
    forecast: Forecast
    sampler: Sampler

    @property
    def place(self) -> str:
        return self.card.name if self.card is not None else str(self.device)


def make_plan(
    config: Config,
    plan: RunPlan,
    device: torch.device,
    card: Card | None,
    *,
    prompt: int | None = None,
    response: int | None = None,
    image: int | None = None,
    stop_early: bool = False,
) -> CardPlan | str:
    """Rehearse a configuration on a device; a sentence that says why when it can't be.

    `prompt`, `response` and `image` are tokens to plan with in place of the longest ones. With `stop_early` nothing is
    run when the weights, gradients and optimizer states alone are too large.
    """
    model_config = read_model_config(config)
    if model_config is None:
        return not_here(config)
    lengths = longest(config, model_config)
    wanted = {"prompt": prompt, "response": response, "image": image}
    lengths = replace(lengths, **{name: tokens for name, tokens in wanted.items() if tokens is not None})
    if lengths.image and lengths.image >= lengths.prompt:
        raise ConfigError(
            f"an image of {lengths.image} tokens does not fit into a prompt of {lengths.prompt}; give --image-tokens below "
            "--prompt-tokens"
        )
    dtype = resolve_dtype(config.trainer.dtype, device)
    capacity = capacity_of(device, card)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of transformers and torch, about fake tensors
        try:
            rehearsal = Rehearsal(config, model_config, device, dtype, card)
            if stop_early and rehearsal.standing > capacity:
                return too_large(rehearsal.standing, capacity, card.name if card is not None else str(device))
            measured = rehearsal.measure(lengths)
        except (
            NotPlannableError,
            NotImplementedError,
        ) as error:  # the latter: FlexAttention, in float32 on a GPU
            return f"Memory and time: not planned. {str(error).splitlines()[0]}"
    sampler = find_sampler(config, model_config, measured, lengths, card, capacity)
    found = forecast(config, model_config, measured, plan, lengths, card, capacity, sampler)
    return CardPlan(config, plan, device, card, lengths, measured, found, sampler)


def too_large(needed: float, capacity: float, place: str) -> str:
    """Why nothing was rehearsed."""
    return (
        f"Memory: weights, gradients and optimizer states alone take {_gib(needed)} GiB, more than the "
        f"{_gib(capacity)} GiB of this machine's {place}. Train LoRA adapters (worker.actor.model.lora.rank), take a "
        "smaller model, or see what a GPU would do: gmpo-mm plan CONFIG --gpu h100"
    )


def not_here(config: Config) -> str:
    """Why there is no plan, and what to do."""
    name = config.worker.actor.model.model_path
    preparation = find_preparation(name or "")
    if preparation is not None:
        return f"Memory and time: not planned. {name} is not there yet; make it with: {preparation.command}"
    return (
        f"Memory and time: not planned. The shape of {name} is in its config.json, which is not on this machine, and "
        f"planning downloads nothing. Fetch it with: hf download {name} config.json"
    )


def summary(plan: CardPlan | str) -> Iterator[tuple[str, str]]:
    """(what, how much) of memory and time in one row each; a sentence where they aren't known."""
    if isinstance(plan, str):
        yield "not planned", plan.removeprefix("Memory and time: not planned. ").removeprefix("Memory: ")
        return
    phase, total = plan.forecast.peak
    fits = "fits" if total <= plan.forecast.capacity else "does NOT fit"
    yield "memory", f"{_gib(total)} GiB at most ({phase}); {fits} in the {_gib(plan.forecast.capacity)} GiB of {plan.place}"
    if plan.card is None:
        yield "time", "not predicted on a CPU; known after the first step (on a GPU: gmpo-mm plan FILE --gpu h100)"
        return
    seconds = plan.forecast.step_seconds
    run = f"; the run {seconds * plan.plan.steps / 3600:,.1f} hours" if plan.plan.steps else ""
    yield "time", f"{_duration(seconds)} a step{run}; grading, validation and checkpoints are not counted"


def memory_rows(plan: CardPlan) -> Iterator[tuple[str, str, str]]:
    """(phase, GiB, what it consists of)."""
    for phase, peak in plan.forecast.memory.items():
        kinds = sorted(peak.kinds.items(), key=lambda item: -item[1])
        named = ", ".join(
            f"{kind} {_gib(size)}" for kind, size in kinds if size >= min(MINIMUM, peak.total / 50)
        )
        yield phase, _gib(peak.total), named
    phase, total = plan.forecast.peak
    room = plan.forecast.capacity
    verdict = "fits" if total <= room else "does NOT fit"
    yield "peak", _gib(total), f"{phase}: {verdict} in the {_gib(room)} GiB of {plan.place}"


def summary_rows(plan: CardPlan) -> Iterator[tuple[str, str]]:
    """(what, how much) of the model, its micro-batch and its limits."""
    measured, lengths, micro = plan.measured, plan.lengths, plan.measured.update
    yield (
        "model",
        f"{measured.parameters / 1e9:.3f} billion parameters, {measured.trained / 1e9:.3f} billion trained",
    )
    image = f" ({lengths.image:,} of an image)" if lengths.image else ""
    data = plan.config.data
    asked = (lengths.prompt, lengths.response) != (data.max_prompt_length, data.max_response_length)
    why = "" if asked else ", the longest that the configuration lets through"
    yield (
        "lengths",
        f"every prompt {lengths.prompt:,} tokens{image}, every response {lengths.response:,}{why}",
    )
    samples = "1 response" if micro.responses == 1 else f"{micro.responses:,} responses"
    yield "micro-batch", f"{samples}, {micro.tokens:,} tokens; {micro.pieces:,} of them an update"
    key = "worker.actor.micro_batch_size_per_device_for_update"
    largest = plan.forecast.largest
    if largest is not None:
        yield "largest that fits", f"{key}={largest}" if largest else f"none: not even {key}=1"
    elif micro.pieces == 1:
        yield "largest that fits", "not looked for: a mini-batch is one micro-batch already"
    yield "sampling", f"{plan.sampler.name}, {plan.sampler.rows:,} responses at once"


def time_rows(plan: CardPlan) -> Iterator[tuple[str, str, str, str, str]]:
    """(operators, launches, TFLOP, GB, ms) of one micro-batch's update."""
    table = plan.measured.tables[UPDATE]
    for kind, row in sorted(table.rows.items(), key=lambda item: -item[1].seconds):
        yield (
            kind,
            f"{row.launches:,}",
            f"{row.flops / 1e12:.1f}",
            f"{row.bytes / 1e9:.1f}",
            f"{row.seconds * 1e3:.1f}",
        )
    flops = sum(row.flops for row in table.rows.values())
    moved = sum(row.bytes for row in table.rows.values())
    yield (
        "all",
        f"{table.launches:,}",
        f"{flops / 1e12:.1f}",
        f"{moved / 1e9:.1f}",
        f"{table.seconds * 1e3:.1f}",
    )


def step_rows(plan: CardPlan) -> Iterator[tuple[str, str]]:
    """(what, how much) of time: by phase, of a step, of the run."""
    measured, found = plan.measured, plan.forecast
    assert plan.card is not None
    yield "model FLOPs", f"{measured.flops / 1e12:.1f} TFLOP a micro-batch, recomputation not counted"
    yield "MFU of updates", f"{100 * found.update_mfu:.1f} % of {plan.card.bf16 / 1e12:.0f} TFLOP/s"
    reads = sum(measured.reads.values())
    if reads:
        places = ", ".join(f"{place} ({count})" for place, count in measured.reads.most_common(3))
        yield "host waits for GPU", f"{reads:,} times in a forward pass and an update; most at {places}"
    if any(table.upper_bounds for table in measured.tables.values()):
        yield "attention", "counted too high: the lengths of some segments are known to the GPU alone"
    for phase, seconds in found.seconds.items():
        yield phase, _duration(seconds)
    yield "a step", f"{_duration(found.step_seconds)}; grading, validation and checkpoints are not counted"
    if plan.plan.steps:
        hours = found.step_seconds * plan.plan.steps / 3600
        yield "the run", f"{plan.plan.steps:,} steps: {hours:,.1f} hours, {hours:,.1f} GPU-hours on one GPU"
    else:
        yield "the run", "known once the number of steps is"


def notes(plan: CardPlan) -> Iterator[str]:
    """What these numbers are."""
    if plan.card is None:
        yield (
            "Memory of tensors, on top of what Python and its libraries take (about 0.5 GiB). No time is predicted "
            "for this device."
        )
    else:
        yield (
            f"Memory: tensors in blocks of 512 bytes, segments of 2 MiB, {_gib(CONTEXT_BYTES)} GiB of CUDA context; "
            "the allocator's fragmentation comes on top. Time: a roofline with the shares of the data sheet's numbers "
            "that are in gmpo_mm/models/cards.py; a real card can be slower."
        )
    confirmed = "; ".join(f"{number}: {how}" for number, how in CHECKED.items())
    yield f"Checked against a real card: {confirmed or 'no number yet'}."


def plan_json(plan: CardPlan) -> dict[str, Any]:
    """For programs: bytes by phase, seconds a step by phase (empty without a card), and whether it fits."""
    found = plan.forecast
    return {
        "place": plan.place,
        "fits": found.peak[1] <= found.capacity,
        "peak_phase": found.peak[0],
        "capacity_bytes": found.capacity,
        "memory_bytes": {phase: peak.total for phase, peak in found.memory.items()},
        "seconds": found.seconds,
        "step_seconds": found.step_seconds if found.seconds else None,
        "run_seconds": found.step_seconds * plan.plan.steps if found.seconds and plan.plan.steps else None,
        "update_mfu": found.update_mfu if found.seconds else None,
        "largest_micro_batch": found.largest,
        "summary": dict(summary_rows(plan)),
        "notes": list(notes(plan)),
    }


def print_plan(plan: CardPlan, console: Any) -> None:
    """Print it."""
    from rich.table import Table

    def table(
        title: str, rows: Iterator[tuple[str, ...]], header: tuple[str, ...] = (), numbers: int = 0
    ) -> None:
        made = Table(title=title, title_justify="left", show_header=bool(header))
        for index, name in enumerate(header):
            made.add_column(name, justify="right" if 0 < index <= numbers else "left")
        for row in rows:
            made.add_row(*row)
        console.print(made)

    table(f"Plan for {plan.place} (engine local, one device)", summary_rows(plan))
    table("Memory by phase", memory_rows(plan), ("phase", "GiB", "of which"), numbers=1)
    if plan.card is not None:
        header = ("operators", "launches", "TFLOP", "GB moved", "ms")
        table("Update of one micro-batch, least time", time_rows(plan), header, numbers=4)
        table("Time", step_rows(plan))
    for note in notes(plan):
        console.print(note, markup=False)
    if plan.forecast.peak[1] > plan.forecast.capacity:
        console.print(_advice(plan), style="yellow", markup=False)


def _advice(plan: CardPlan) -> str:
    phase = plan.forecast.peak[0]
    if phase in (UPDATE, LOG_PROBS) and plan.forecast.largest:
        return f"Lower worker.actor.micro_batch_size_per_device_for_update to {plan.forecast.largest}."
    fitting = [name for name, card in CARDS.items() if card.memory >= plan.forecast.peak[1]]
    other = f" It would fit on: {', '.join(fitting)}." if fitting and plan.card is not None else ""
    vllm = phase in (SAMPLING, SYNC) and plan.sampler.name == "vLLM"
    less = " lower worker.rollout.gpu_memory_utilization," if vllm else ""
    return (
        f"The phase '{phase}' needs more than there is:{less} train LoRA adapters (worker.actor.model.lora.rank), "
        f"or take a smaller model.{other}"
    )


def _gib(size: float) -> str:
    return f"{size / GIB:,.2f}" if size >= GIB / 10 else f"{size / GIB:,.4f}"


def _duration(seconds: float) -> str:
    if math.isnan(seconds):
        return "not known"
    return f"{seconds:,.1f} s" if seconds < 600 else f"{seconds / 60:,.1f} min"
