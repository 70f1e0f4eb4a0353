"""Is a whole pass right? Vision tower, update and sampler in bfloat16 on the device, beside others' and the
CPU's."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_check.bundled import Bundled, bundled
from benchmarks.gpu_check.correctness import compare, relative_error
from benchmarks.gpu_check.parts import Context
from benchmarks.gpu_check.shapes import TINY_VL, VL_3B, as_on_gpu, build_model, make_prompt
from gmpo_mm.training.actor import Actor
from gmpo_mm.training.optimizer import build_optimizer
from gmpo_mm.training.update_metrics import Observed

MODELS = ("qwen2_tiny", "qwen2_5_vl_tiny")
LEAST_COSINE = 0.99
MEAN_GAP = 0.03
"""Nats between log-probabilities in bfloat16 and in float32, on average."""


def check_vision_tower(context: Context) -> None:
    """The whole tower of a Qwen2.5-VL, one call a block, beside transformers' own sdpa with the same
    weights."""
    assert VL_3B.vision is not None
    wide = VL_3B.vision | {"depth": 8, "fullatt_block_indexes": [3, 7], "out_hidden_size": 64}
    shape = TINY_VL if context.tiny else replace(TINY_VL, vision=wide, grid=(1, 34, 46))
    model: Any = build_model(shape, context.device, torch.bfloat16)
    # as transformers draws them, attention would change next to nothing
    for parameter in model.model.visual.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    stock = copy.deepcopy(model)
    policy = as_on_gpu(model, context.device)
    prompt = make_prompt(shape, seed=3)
    assert prompt.pixel_values is not None and prompt.image_grid_thw_N3 is not None
    weight_MC = torch.randn(shape.image_tokens, shape.hidden, device=context.device)

    encoded = policy.encode_images([prompt])[0]
    assert encoded is not None
    pixels = prompt.pixel_values.to(context.device, torch.bfloat16)
    output = stock.model.visual(pixels, grid_thw=prompt.image_grid_thw_N3.to(context.device))
    names = [n for n, p in policy.vision.named_parameters() if p.dim() > 1]  # type: ignore[union-attr]
    own: Any = policy.vision
    found = torch.autograd.grad((encoded.features * weight_MC).sum(), [own.get_parameter(n) for n in names])
    expected = torch.autograd.grad(
        (output.pooler_output * weight_MC).sum(), [stock.model.visual.get_parameter(n) for n in names]
    )
    compare(context, "tower against sdpa", [encoded.features], [output.pooler_output], ["features"], [4e-2])
    context.report.check(
        "tower against sdpa: gradients of all matrices", relative_error(_flat(found), _flat(expected)), 0.1,
        note="both in bfloat16",
    )  # fmt: skip


def _flat(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([t.detach().flatten().double().cpu() for t in tensors])


class GradientActor(Actor):
    """An actor whose optimizer step keeps the gradients and leaves the weights."""

    gradients: dict[str, torch.Tensor]

    def _optimizer_step(self) -> tuple[bool, float]:
        named = self.policy.module.named_parameters()
        self.gradients = {n: p.grad.detach().double().cpu() for n, p in named if p.grad is not None}
        self.policy.module.zero_grad(set_to_none=True)
        return True, 0.0


def check_update(context: Context) -> None:
    """`Actor.update` of the bundled models in bfloat16 on the device beside float32 on the CPU."""
    for model in MODELS:
        found = bundled(context, model)
        gradients = []
        for policy, batch in ((found.policy, found.batch()), (found.reference, found.batch())):
            actor = GradientActor(policy, build_optimizer(policy, found.optim), found.config)
            actor.update(batch)
            gradients.append(actor.gradients)
        ours, exact = gradients
        if ours.keys() != exact.keys():
            raise AssertionError(f"parameters with a gradient differ: {sorted(ours.keys() ^ exact.keys())}")
        a, b = (_flat([g[name] for name in sorted(g)]) for g in (ours, exact))
        context.report.check(
            f"{model}: cosine of the gradients", float(a @ b / (a.norm() * b.norm())), least=LEAST_COSINE
        )
        context.report.check(
            f"{model}: norm of the gradient, off by", abs(float(a.norm() / b.norm()) - 1), 0.05
        )
        _compare_log_probs(context, model, found)


def _compare_log_probs(context: Context, model: str, found: Bundled) -> None:
    batch = found.batch()
    rows = range(len(batch))
    with torch.no_grad():
        ours = found.policy.response_log_probs(batch.group_of(rows)).log_probs_BT.cpu()
        exact = found.reference.response_log_probs(batch.group_of(rows)).log_probs_BT
    gap = (ours - exact).abs()[batch.mask_BT]
    context.report.check(
        f"{model}: log-probs against float32, mean gap", float(gap.mean()), MEAN_GAP, unit="nats"
    )
    context.report.measured(f"{model}: log-probs against float32, largest gap", float(gap.max()), "nats")


def check_sampler(context: Context) -> None:
    """The sampler's log-probabilities beside those that the update computes for the same tokens and
    weights."""
    for model in MODELS:
        found = bundled(context, model)
        batch = found.sample(found.policy)
        with torch.no_grad():
            ours = found.policy.response_log_probs(batch.group_of(range(len(batch)))).log_probs_BT.cpu()
        gap = (ours - batch.sampler_log_probs_BT).abs()[batch.mask_BT]
        context.report.check(
            f"{model}: sampler against update, mean gap", float(gap.mean()), MEAN_GAP, unit="nats"
        )
        context.report.measured(f"{model}: sampler against update, largest gap", float(gap.max()), "nats")


# ---- host reads --------------------------------------------------------------------------------------------


def check_host_reads(context: Context) -> None:
    """A warmed-up micro-batch never makes the host wait for the device."""
    if not context.is_cuda:
        context.report.skipped(
            "host reads", "a CPU has none; tests/training/test_no_host_reads.py looks at the operators"
        )
    for model in MODELS:
        micro_batch = _micro_batch(context, bundled(context, model))
        for _ in range(2):  # what is compiled, or worked out once for a shape, is
            micro_batch("default")
        waits = micro_batch("warn")
        if context.is_cuda:
            context.report.check(
                f"{model}: waits for the device in a micro-batch", len(waits), 0, note=", ".join(waits[:5])
            )
        if waits:
            try:
                micro_batch("error")
            except RuntimeError as error:  # its traceback names the line
                context.report.failed(f"{model}: the first wait", error)


def _micro_batch(context: Context, found: Bundled) -> Callable[[str], list[str]]:
    """A function that runs a micro-batch in one of torch's modes of synchronisation debugging, and says where
    it waited."""
    batch, policy = found.batch(), found.policy
    actor = Actor(policy, build_optimizer(policy, found.optim), found.config)
    policy.module.train()
    batch.move_to(context.device)
    advantages = actor._advantages(batch)
    seen, rows = Observed(batch), range(len(batch))

    def run(mode: str) -> list[str]:
        policy.forget_images()
        context.synchronize()
        with warnings.catch_warnings(record=True) as caught, _sync_debug_mode(context, mode):
            warnings.simplefilter("always")
            actor.micro_batch(batch, rows, len(batch), advantages, 0.0, seen, unchanged=True)
        policy.module.zero_grad(set_to_none=True)
        return [f"{Path(w.filename).name}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)]

    return run


@contextmanager
def _sync_debug_mode(context: Context, mode: str) -> Iterator[None]:
    if not context.is_cuda:
        yield
        return
    torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
