"""How fast the update is: tokens a second, model FLOPs utilisation, milliseconds by part, kernels by time."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.gpu_check.flops import count_flops
from benchmarks.gpu_check.memory import peak_memory, report_memory
from benchmarks.gpu_check.parts import Context, Timer
from benchmarks.gpu_check.shapes import Optim, Shape, build_policy, make_batch, update_config
from gmpo_mm.models.cards import card_of_this_machine
from gmpo_mm.models.fused import Fused
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.models.two_part_attention import masked_flex_attention
from gmpo_mm.training.actor import Actor
from gmpo_mm.training.batch import Batch
from gmpo_mm.training.optimizer import build_optimizer
from gmpo_mm.training.update_metrics import Observed

WARM_UP = 2
"""Updates before the first that counts: the second shape of a function is compiled anew, for all shapes."""


def peak_flops(device: torch.device) -> float | None:
    """The data sheet's dense bfloat16 peak of a device; None on a CPU and for a card that isn't known."""
    card = card_of_this_machine(device) if device.type == "cuda" else None
    return None if card is None else card.bf16


# ---- the card ----------------------------------------------------------------------------------------------


def measure_card(context: Context) -> None:
    """What the card itself reaches: one large product and one large copy."""
    side, copies = (64, 1 << 16) if context.tiny else (8192, 1 << 30)
    a, b = (torch.randn(side, side, device=context.device, dtype=torch.bfloat16) for _ in range(2))
    seconds = median_seconds(context, lambda: torch.mm(a, b), 10)
    context.report.measured(f"bfloat16 product of {side} x {side}", 2 * side**3 / seconds / 1e12, "TFLOP/s")
    source = torch.randn(copies, device=context.device, dtype=torch.bfloat16)
    target = torch.empty_like(source)
    seconds = median_seconds(context, lambda: target.copy_(source), 10)
    moved = 2 * source.numel() * source.element_size()
    context.report.measured("copy on the device, read + written", moved / seconds / 1e9, "GB/s")


def median_seconds(context: Context, function: Callable[[], Any], repeats: int, warm_up: int = 3) -> float:
    """Median time of a call, by events."""
    for _ in range(warm_up):
        function()
    found = []
    for _ in range(repeats):
        timer = context.timer()
        function()
        timer.stop()
        found.append(timer.seconds())
    return statistics.median(found)


# ---- an update ---------------------------------------------------------------------------------------------


@dataclass
class Stopwatch:
    """Times of an update's parts, by wrapping the methods that do them."""

    context: Context
    timers: dict[str, list[Timer]] = field(default_factory=dict)

    def wrap(self, owner: Any, method: str, name: str) -> None:
        """Time each call of `owner.method` as `name`."""
        inner = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            timer = self.context.timer()
            result = inner(*args, **kwargs)
            timer.stop()
            self.timers.setdefault(name, []).append(timer)
            return result

        setattr(owner, method, timed)

    def take(self) -> dict[str, float]:
        """Seconds by name since the last call."""
        found = {name: sum(t.seconds() for t in timers) for name, timers in self.timers.items()}
        self.timers.clear()
        return found


class UpdateRun:
    """A policy of some shape with its actor, and updates of it by the clock."""

    def __init__(self, context: Context, shape: Shape) -> None:
        self.context, self.shape = context, shape
        self.policy: PolicyModel = build_policy(shape, context.device)
        self.actor = Actor(
            self.policy, build_optimizer(self.policy, Optim()), update_config(shape.group_size, shape.groups)
        )
        self.batches = [make_batch(shape, seed) for seed in range(2)]
        self.watch = Stopwatch(context)
        self.watch.wrap(self.policy, "response_log_probs", "forward")
        self.watch.wrap(self.actor, "_accumulate", "forward and backward")
        self.watch.wrap(self.actor, "_optimizer_step", "optimizer")
        self.watch.wrap(self.actor, "update", "update")

    def update(self, batch: Batch) -> dict[str, float]:
        """One update; seconds by part."""
        self.actor.update(batch)
        self.policy.forget_images()
        found = self.watch.take()
        found["backward"] = found["forward and backward"] - found["forward"]
        return found

    def measure(self, repeats: int = 4, warm_up: int = WARM_UP) -> tuple[dict[str, float], float, int]:
        """Median seconds by part, model FLOPs and tokens of an update, over batches that take turns."""
        for i in range(warm_up):
            self.update(self.batches[i % len(self.batches)])
        runs = [self.update(self.batches[i % len(self.batches)]) for i in range(repeats)]
        counted = [count_flops(self.policy, batch) for batch in self.batches]
        flops, tokens = statistics.mean(f for f, _ in counted), round(statistics.mean(t for _, t in counted))
        return {name: statistics.median(run[name] for run in runs) for name in runs[0]}, flops, tokens


def report_speed(
    context: Context, name: str, seconds: dict[str, float], flops: float, tokens: int, parts: Sequence[str]
) -> None:
    """Milliseconds by part, tokens a second, MFU of the update and of its forward and backward passes."""
    report = context.report
    for part in parts:
        report.measured(f"{name}: {part}", 1e3 * seconds[part], "ms")
    report.measured(
        f"{name}: packed tokens in the update", tokens / seconds["update"], "tokens/s", f"{tokens} tokens"
    )
    peak = peak_flops(context.device)
    note = f"{flops / 1e12:.3g} TFLOP an update"
    for part in ("update", "forward and backward"):
        if peak is None:
            report.measured(f"{name}: model FLOPs in {part}", flops / seconds[part] / 1e12, "TFLOP/s", note)
        else:
            report.measured(f"{name}: MFU of {part}", 100 * flops / seconds[part] / peak, "%", note)


def measure_shape(context: Context, shape: Shape, with_profile: bool = False) -> None:
    """Speed and memory of `Actor.update` at a shape."""
    run = UpdateRun(context, shape)
    seconds, flops, tokens = run.measure(repeats=2 if context.tiny else 4)
    report_speed(context, shape.name, seconds, flops, tokens, ("update", "forward", "backward", "optimizer"))
    context.cache[f"update seconds of {shape.name}"] = seconds["update"]
    longest = make_batch(shape, seed=7, exact=True)
    with peak_memory(context) as peak:
        run.update(longest)
    report_memory(context, shape, peak)
    if with_profile:
        profile_micro_batch(context, run)


def profile_micro_batch(context: Context, run: UpdateRun) -> None:
    """The 15 kernels that take most of one micro-batch, to kernels.txt, and how many kernels there are."""
    from torch.profiler import ProfilerActivity, profile

    batch, actor = run.batches[0], run.actor
    advantages, seen, rows = actor._advantages(batch), Observed(batch), range(run.shape.group_size)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if context.is_cuda else [])]
    with profile(activities=activities) as profiler:
        actor.micro_batch(batch, rows, len(batch), advantages, 0.0, seen, unchanged=True)
        context.synchronize()
    run.policy.module.zero_grad(set_to_none=True)
    key = "self_cuda_time_total" if context.is_cuda else "self_cpu_time_total"
    table = profiler.key_averages().table(sort_by=key, row_limit=15, max_name_column_width=70)
    (context.report.out / "kernels.txt").write_text(
        f"{context.report.data['environment']['card']}, {run.shape.name}, one micro-batch\n{table}\n",
        encoding="utf-8",
    )
    if context.is_cuda:
        on_card = [e for e in profiler.events() if e.device_type == torch.autograd.DeviceType.CUDA]
        context.report.measured(f"{run.shape.name}: kernels and copies in a micro-batch", len(on_card))
        busy = sum(e.time_range.elapsed_us() for e in on_card) / 1e3
        context.report.measured(
            f"{run.shape.name}: device busy in a micro-batch", busy, "ms", "profiled; sum over kernels"
        )


# ---- our own variants --------------------------------------------------------------------------------------


def measure_variants(context: Context, shape: Shape) -> None:
    """The same update without compiled functions, without checkpointing, and with FlexAttention."""
    run = UpdateRun(context, shape)
    policy = run.policy
    base = context.cache.get(f"update seconds of {shape.name}")
    former_attention, former_compiles = policy._attention, Fused.compiles

    def measure(name: str) -> None:
        try:
            seconds, _, _ = run.measure(repeats=2, warm_up=WARM_UP)
        except torch.OutOfMemoryError as error:
            context.report.skipped(
                f"{shape.name}, {name}: update", f"does not fit: {str(error).splitlines()[0][:120]}"
            )
            policy.module.zero_grad(set_to_none=True)
        else:
            note = f"{seconds['update'] / base:.2f} x the time of the update above" if base else ""
            context.report.measured(f"{shape.name}, {name}: update", 1e3 * seconds["update"], "ms", note)
        run.watch.take()
        context.free()

    module: Any = policy.module
    module.gradient_checkpointing_disable()
    measure("no checkpointing")
    module.gradient_checkpointing_enable({"use_reentrant": False})
    try:
        Fused.compiles = False
        measure("not compiled")
    finally:
        Fused.compiles = former_compiles
    if context.is_cuda:
        policy._attention = masked_flex_attention
        measure("FlexAttention")
        policy._attention = former_attention
    else:
        context.report.skipped(
            f"{shape.name}, FlexAttention: update", "PyTorch has no backward pass of it on a CPU"
        )
