"""The bundled models with their own tasks' prompts, in float32 on the CPU and in bfloat16 on the device."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.gpu_check.parts import Context
from benchmarks.gpu_check.shapes import Optim, as_on_gpu, update_config, with_advantages
from gmpo_mm.config import load_config
from gmpo_mm.data.prompts import EncodedPrompt
from gmpo_mm.data.records import Record
from gmpo_mm.models.loading import load_policy
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.models.processing import Processor
from gmpo_mm.rollout.hf import HFRollout
from gmpo_mm.rollout.protocol import SamplingParams
from gmpo_mm.toys.countdown import TINY, make_splits
from gmpo_mm.toys.synthetic_geometry import BUNDLED_SEED, draw, make_problem
from gmpo_mm.training.batch import Batch, SampledGroup
from gmpo_mm.training.update_config import UpdateConfig

PROMPTS, SAMPLES, TOKENS = 4, 4, 16


@dataclass
class Bundled:
    """`policy` as on a GPU, `reference` in float32 on the CPU, and groups that the reference has sampled."""

    policy: PolicyModel
    reference: PolicyModel
    prompts: list[EncodedPrompt]
    groups: list[SampledGroup] = field(default_factory=list)
    optim: Optim = field(default_factory=Optim)

    @property
    def config(self) -> UpdateConfig:
        """All groups in one update and one micro-batch."""
        return update_config(PROMPTS * SAMPLES, PROMPTS)

    def batch(self) -> Batch:
        """A fresh batch of the reference's samples; an update moves its batch to the device."""
        return with_advantages(Batch(self.groups))

    def sample(self, policy: PolicyModel) -> Batch:
        """A batch that `policy` samples."""
        params = SamplingParams(n=SAMPLES, temperature=1.0, max_tokens=TOKENS)
        responses = HFRollout(policy).generate(self.prompts, params, range(len(self.prompts)))
        policy.forget_images()
        groups = [
            SampledGroup(prompt, own, [""] * SAMPLES, [{"overall": float(j % 2)} for j in range(SAMPLES)])
            for prompt, own in zip(self.prompts, responses, strict=True)
        ]
        return with_advantages(Batch(groups))


def bundled(context: Context, name: str) -> Bundled:
    """Load a bundled model twice; kept for the parts that follow."""
    if name not in context.cache:
        context.cache[name] = _load(context, name)
    return context.cache[name]


def _load(context: Context, name: str) -> Bundled:
    options = load_config("configs/quickstart.yaml", [f"worker.actor.model.model_path=bundled:{name}"]).config
    model: Any = options.worker.actor.model
    model.freeze_vision_tower = False
    cpu = torch.device("cpu")
    reference, processor = load_policy(model, device=cpu, compute_dtype=torch.float32)
    if context.is_cuda:
        policy, _ = load_policy(model, device=context.device, compute_dtype=torch.bfloat16)
    else:
        other, _ = load_policy(model, device=cpu, compute_dtype=torch.float32)
        policy = as_on_gpu(
            other.module,
            cpu,
            forbidden_token_ids=other.forbidden_token_ids,
            eos_token_ids=other.eos_token_ids,
        )
    found = Bundled(policy, reference, _prompts(processor))
    found.groups = list(found.sample(reference).groups)
    return found


def _prompts(processor: Processor) -> list[EncodedPrompt]:
    if not processor.is_vision:
        problems = make_splits(TINY, PROMPTS, 1)["train"]
        texts = [processor.chat_text([{"role": "user", "content": p.text("short")}]) for p in problems]
        return [_encoded(text, processor.encode(text, []), i) for i, text in enumerate(texts)]
    prompts = []
    for i in range(PROMPTS):
        problem = make_problem("train", i, BUNDLED_SEED)
        content = [{"type": "image"}, {"type": "text", "text": problem.text.removeprefix("<image>")}]
        text = processor.chat_text([{"role": "user", "content": content}])
        prompts.append(_encoded(text, processor.encode(text, [draw(problem)]), i))
    return prompts


def _encoded(text: str, encoding: Any, row: int) -> EncodedPrompt:
    record = Record(problem="", images=(), answer="", answers=("",), id=str(row))
    ids, unexpanded, pixels, grid = encoding
    return EncodedPrompt(record, text, ids, unexpanded, (), pixels, grid)
