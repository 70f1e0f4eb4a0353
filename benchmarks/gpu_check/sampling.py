"""Tokens a second of the samplers that are installed."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from benchmarks.gpu_check.bundled import bundled
from benchmarks.gpu_check.parts import Context
from benchmarks.gpu_check.shapes import Shape, build_policy, make_prompt
from gmpo_mm.config import resolve_model_path
from gmpo_mm.rollout.hf import HFRollout
from gmpo_mm.rollout.protocol import SamplingParams

VISION_MODEL = "qwen2_5_vl_tiny"


def measure_sampling(context: Context, shape: Shape) -> None:
    """The built-in sampler at the bundled model and at a real shape, vLLM at the bundled model where it is
    installed."""
    found = bundled(context, VISION_MODEL)
    n, tokens = (4, 8) if context.tiny else (32, 64)
    params = SamplingParams(n=n, temperature=1.0, max_tokens=tokens, ignore_eos=True)
    _measure(context, f"{VISION_MODEL}, built-in sampler", HFRollout(found.policy), found.prompts, params)
    policy = build_policy(shape, context.device, checkpointing=False)
    prompts = [make_prompt(shape, seed) for seed in range(8)]
    _measure(context, f"{shape.name}, built-in sampler", HFRollout(policy), prompts, params)
    del policy
    context.free()
    if not context.is_cuda or importlib.util.find_spec("vllm") is None:
        why = "vLLM is not installed" if context.is_cuda else "make test-vllm runs it on a CPU"
        context.report.skipped("vLLM: sampling", why)
        return
    from gmpo_mm.rollout.vllm import VLLMRollout

    sampler = VLLMRollout(
        resolve_model_path(f"bundled:{VISION_MODEL}"), dtype=torch.bfloat16, device=context.device, seed=0,
        max_model_len=256, forbidden_token_ids=found.policy.forbidden_token_ids,
        eos_token_ids=found.policy.eos_token_ids, gpu_memory_utilization=0.3,
    )  # fmt: skip
    try:
        sampler.sync_weights(found.policy.module)
        _measure(context, f"{VISION_MODEL}, vLLM", sampler, found.prompts, params)
    finally:
        sampler.close()


def _measure(context: Context, name: str, sampler: Any, prompts: list[Any], params: SamplingParams) -> None:
    """The second of two calls."""
    seconds, count = 0.0, 0
    for seed in (0, 100):
        timer = context.timer()
        responses = sampler.generate(prompts, params, [seed + i for i in range(len(prompts))])
        timer.stop()
        seconds = timer.seconds()
        count = sum(len(r.token_ids_T) for own in responses for r in own)
    note = f"{len(prompts)} prompts x {params.n} samples x {params.max_tokens} tokens"
    context.report.measured(f"{name}: sampling", count / seconds, "tokens/s", note)
