"""What a GPU compiles, traced on the CPU: `torch.compile` takes every function, in few versions, also once
gradients are there.

The backend runs the traced graph as it is, so only Triton's part is left to a GPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from gmpo_mm.models import fused, fused_head
from gmpo_mm.models import two_part_attention as attention
from gmpo_mm.models.fused import Fused
from gmpo_mm.models.loading import add_lora, store_weights
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.models.two_part_attention import REFERENCE, two_part_attention
from gmpo_mm.training.actor import Actor
from gmpo_mm.training.batch import CutLimits
from gmpo_mm.training.optimizer import MasterAdamW
from tests.models.model_zoo import ENDS, IS_V5, build_model
from tests.training.builders import BASE, make_batch

pytestmark = pytest.mark.skipif(not IS_V5, reason="the GPU path of pictures needs transformers 5")
MOST_VERSIONS = 6
"""torch.compile gives up at 8."""


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Compiled versions of each function by its name, while the CPU counts as the GPU."""
    counted: Counter[str] = Counter()
    compile_ = torch.compile

    def traced(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        def backend(graph: Any, inputs: Any) -> Callable[..., Any]:
            counted[function.__name__] += 1
            return graph.forward

        return compile_(function, backend=backend, **options)

    monkeypatch.setattr(torch, "compile", traced)
    monkeypatch.setattr(Fused, "device_type", "cpu")
    for module in (fused, fused_head, attention):
        for function in vars(module).values():
            if isinstance(function, Fused):
                monkeypatch.setattr(function, "_compiled", None)
    torch._dynamo.reset()
    yield counted
    torch._dynamo.reset()


def policy_as_on_gpu(family: str, lora: bool = False) -> tuple[PolicyModel, MasterAdamW]:
    module = build_model(family)
    if lora:
        module = add_lora(module, 2, 4, "all-linear", None)
    module.gradient_checkpointing_enable({"use_reentrant": False})
    masters = store_weights(module, torch.device("cpu"), torch.bfloat16, sixteen_bit=True)
    policy = PolicyModel(
        module, forbidden_token_ids=[90, 91, 92, 93], eos_token_ids=ENDS, compute_dtype=torch.bfloat16
    )
    policy.use_varlen_path(lambda *x: two_part_attention(*x, kernel=REFERENCE), REFERENCE)
    optimizer = MasterAdamW(list(masters), masters, lr=1e-3, betas=(0.9, 0.999), weight_decay=0.1)
    return policy, optimizer


@pytest.mark.parametrize(
    "family, lora", [("qwen2", False), ("qwen2_5_vl", False), ("qwen3_moe", False), ("qwen2_5_vl", True)]
)
def test_a_run_compiles_few_versions_of_each_function(
    family: str, lora: bool, versions: Counter[str]
) -> None:
    policy, optimizer = policy_as_on_gpu(family, lora)
    limits = CutLimits(samples=5)  # several micro-batches: from the second on there are gradients
    config = replace(BASE, update_limits=limits, forward_limits=limits, entropy_coef=0.01)
    actor = Actor(policy, optimizer, config)
    after: list[Counter[str]] = []
    for seed in range(3):
        torch.manual_seed(seed)
        batch = make_batch(policy, family)  # sampled by the model as it is now
        batch.old_log_probs_BT = actor.log_probs(batch)
        actor.update(batch)
        policy.forget_images()
        after.append(versions.copy())
    assert after[0] and max(versions.values()) <= MOST_VERSIONS, versions
    assert after[1] == after[2], "a step like the ones before compiles nothing"
