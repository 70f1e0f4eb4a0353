"""The same update done by others: transformers' model over padded rows, and TRL's GMPO trainer."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from benchmarks.gpu_check.parts import Context
from benchmarks.gpu_check.shapes import Optim, Shape, build_model, make_batch, special_tokens
from benchmarks.gpu_check.speed import median_seconds
from gmpo_mm.models.fused_layers import ORIGINAL, ROTARY
from gmpo_mm.training.batch import SampledGroup

REPEATS = 2


@contextmanager
def as_published() -> Iterator[None]:
    """transformers' own rotary functions: once a policy was fused, ours take their place for all models."""
    from transformers.models.qwen2 import modeling_qwen2
    from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl

    modules = (modeling_qwen2, modeling_qwen2_5_vl)
    former = [(module, name, getattr(module, name)) for module in modules for name in ROTARY if hasattr(module, name)]
    try:
        for module, name, function in former:
            setattr(module, name, getattr(function, ORIGINAL, function))
        yield
    finally:
        for module, name, function in former:
            setattr(module, name, function)


@as_published()
def measure_plain_rows(context: Context, shape: Shape) -> None:
    """Prompt + response as one padded row each, sdpa, float32 weights under bfloat16 autocast, logits of the
    responses."""
    device = context.device
    model: Any = build_model(shape, device, torch.float32)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    optim = Optim()
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=optim.lr,
        betas=tuple(optim.betas),
        weight_decay=optim.weight_decay,
        fused=True,  # type: ignore[arg-type]
    )
    batches = [make_batch(shape, seed) for seed in range(2)]
    turn = 0

    def update(rows: int) -> None:
        nonlocal turn
        batch = batches[turn % len(batches)]
        turn += 1
        for group in batch.groups:
            for first in range(0, batch.group_size, rows):
                _plain_backward(model, shape, group, first, rows, len(batch))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    rows = shape.group_size // 2
    seconds = 0.0
    while not seconds:
        try:
            seconds = median_seconds(context, partial(update, rows), REPEATS, warm_up=1)
        except torch.OutOfMemoryError:
            model.zero_grad(set_to_none=True)
            context.free()
            if rows == 1:
                raise
            rows //= 2
    _report(context, shape, "transformers' rows", seconds, f"{rows} rows a pass")


def _plain_backward(model: Any, shape: Shape, group: SampledGroup, first: int, rows: int, units: int) -> None:
    """Gradient of GMPO's loss on policy: -A exp(mean log ratio), ratios 1."""
    device = model.device
    prompt = group.prompt
    chosen = group.responses[first : first + rows]
    pad = torch.nn.utils.rnn.pad_sequence
    ids = pad([torch.cat([prompt.input_ids_S, r.token_ids_T]) for r in chosen], batch_first=True).to(device)
    mask = pad([torch.ones(len(r.token_ids_T)) for r in chosen], batch_first=True).to(device)
    length = len(prompt.input_ids_S)
    attention_mask = torch.cat([torch.ones(len(chosen), length, device=device), mask], 1).long()
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": attention_mask}
    if prompt.pixel_values is not None and prompt.image_grid_thw_N3 is not None:
        inputs["pixel_values"] = prompt.pixel_values.repeat(len(chosen), 1).to(device)
        inputs["image_grid_thw"] = prompt.image_grid_thw_N3.repeat(len(chosen), 1).to(device)
        inputs["mm_token_type_ids"] = (ids == special_tokens(shape)[0]).int()
    advantages = torch.tensor([1.0 if (first + j) % 2 else -1.0 for j in range(len(chosen))], device=device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        logits = model(**inputs, use_cache=False, logits_to_keep=mask.shape[1] + 1).logits[:, :-1]
        log_probs = logits.float().log_softmax(-1).gather(-1, ids[:, length:, None])[..., 0]
        ratios = ((log_probs - log_probs.detach()) * mask).sum(1) / mask.sum(1)
        (-(advantages * ratios.exp()).sum() / units).backward()


def _report(context: Context, shape: Shape, who: str, seconds: float, note: str) -> None:
    context.report.measured(f"{shape.name}, {who}: update", 1e3 * seconds, "ms", note)
    ours = context.cache.get(f"update seconds of {shape.name}")
    if ours:
        context.report.measured(
            f"{shape.name}, {who}: times our update", seconds / ours, "", "same responses"
        )


# ---- TRL ---------------------------------------------------------------------------------------------------


@as_published()
def measure_trl(context: Context, shape: Shape) -> None:
    """TRL's GMPO trainer on the same prompts and responses, which it is handed instead of sampling them."""
    if importlib.util.find_spec("trl") is None:
        context.report.skipped(f"{shape.name}, TRL: update", "TRL is not installed")
        return
    from transformers import AutoTokenizer, TrainerCallback
    from trl.experimental.gmpo import GMPOConfig, GMPOTrainer

    from gmpo_mm.config import resolve_model_path

    samples = shape.groups * shape.group_size
    rows = 2
    steps = 1 + REPEATS
    timers: list[Any] = []

    class Clock(TrainerCallback):
        """From the first micro-batch of a step to its end."""

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            timers[-1].stop()

    def rollout(prompts: list[str], trainer: Any) -> dict[str, Any]:
        batch = make_batch(shape, seed=len(timers) % 2)
        responses = [r.token_ids_T.tolist() for g in batch.groups for r in g.responses][: len(prompts)]
        ids = [g.prompt.input_ids_S.tolist() for g in batch.groups for _ in g.responses][: len(prompts)]
        return {
            "prompt_ids": ids,
            "completion_ids": responses,
            "logprobs": [[-1.0] * len(r) for r in responses],
        }

    model: Any = build_model(shape, context.device, torch.float32)
    arguments = GMPOConfig(
        output_dir=str(context.scratch / "trl"), use_cpu=not context.is_cuda, bf16=True,
        per_device_train_batch_size=rows, gradient_accumulation_steps=samples // rows,
        steps_per_generation=samples // rows, num_generations=shape.group_size, max_steps=steps,
        max_completion_length=shape.longest, temperature=1.0, beta=0.0, epsilon=0.4, learning_rate=1e-6,
        lr_scheduler_type="constant", weight_decay=0.01, max_grad_norm=1.0, optim="adamw_torch_fused",
        gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": False},
        shuffle_dataset=False, logging_strategy="no", save_strategy="no", report_to="none", disable_tqdm=True,
    )  # fmt: skip
    trainer = GMPOTrainer(
        model, reward_funcs=lambda completions, **_: [float(i % 2) for i in range(len(completions))],
        args=arguments, train_dataset=_prompts(shape),
        processing_class=AutoTokenizer.from_pretrained(resolve_model_path("bundled:qwen2_tiny")),
        callbacks=[Clock()], rollout_func=rollout,
    )  # fmt: skip
    inner, done = trainer.compute_loss, [0]

    def compute_loss(*args: Any, **kwargs: Any) -> Any:
        if (
            done[0] % (samples // rows) == 0
        ):  # what came before, the hand-over of the responses, is not counted
            timers.append(context.timer())
        done[0] += 1
        return inner(*args, **kwargs)

    trainer.compute_loss = compute_loss
    trainer.train()
    seconds = sorted(timer.seconds() for timer in timers[1:])
    _report(
        context,
        shape,
        "TRL",
        seconds[len(seconds) // 2],
        f"{rows} rows a pass, checkpointing, responses handed over",
    )


def _prompts(shape: Shape) -> Any:
    from datasets import Dataset

    return Dataset.from_dict({"prompt": [f"problem {i}" for i in range(64)]})
