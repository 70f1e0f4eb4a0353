"""Batches of sampled groups on small random models."""

from __future__ import annotations

from dataclasses import replace

import torch

from gmpo_mm.algorithms import PolicyLossConfig
from gmpo_mm.rollout.hf import HFRollout
from gmpo_mm.rollout.protocol import SamplingParams
from gmpo_mm.training.actor import Actor
from gmpo_mm.training.batch import Batch, CutLimits, SampledGroup
from gmpo_mm.training.update_config import UpdateConfig
from gmpo_mm.training.update_metrics import Observed
from tests.models.model_zoo import VISION_FAMILIES, build_policy, make_prompt

PARAMS = SamplingParams(n=4, temperature=1.0, max_tokens=10)
BASE = UpdateConfig(
    loss=PolicyLossConfig(loss_type="gmpo"),
    temperature=1.0,
    mini_batch_prompts=4,
    update_limits=CutLimits(samples=16),
    forward_limits=CutLimits(samples=16),
)


def make_batch(policy: object, family: str = "qwen2", prompts: int = 4, idle: tuple[int, ...] = (), seed: int = 0) -> Batch:
    """Groups sampled with `seed` and random advantages; the groups in `idle` have advantage 0."""
    grids = [[(1, 4, 6)], [], [(1, 2, 4), (1, 4, 4)], [(1, 2, 2)]] if family in VISION_FAMILIES else [[]] * prompts
    encoded = [make_prompt(6 + 3 * i, grids[i % len(grids)], seed=i) for i in range(prompts)]
    sampled = HFRollout(policy).generate(encoded, PARAMS, list(range(seed, seed + prompts)))
    groups = [
        SampledGroup(prompt, responses, ["text"] * PARAMS.n, [{"overall": float(j % 2)} for j in range(PARAMS.n)])
        for prompt, responses in zip(encoded, sampled, strict=True)
    ]
    batch = Batch(groups)
    torch.manual_seed(7)
    advantages_B = torch.randn(len(batch))
    for group in idle:
        advantages_B[group * PARAMS.n : (group + 1) * PARAMS.n] = 0.0
    batch.advantages_BT = advantages_B[:, None] * batch.mask_BT
    # old log-probabilities that differ from the policy's, so that ratios and clips matter
    batch.old_log_probs_BT = batch.sampler_log_probs_BT + 0.3 * torch.randn(batch.mask_BT.shape) * batch.mask_BT
    return batch


def make_actor(family: str = "qwen2", **changes: object) -> Actor:
    """An actor with plain SGD of rate 0, so that its gradients can be read and its weights stay."""
    policy = build_policy(family)
    return Actor(policy, torch.optim.SGD(policy.module.parameters(), lr=0.0), replace(BASE, **changes))


def gradients(actor: Actor, batch: Batch, kl_coef: float = 0.0, unchanged: bool = False) -> dict[str, torch.Tensor]:
    """Gradients of the whole batch as one mini-batch, micro-batched as the actor's configuration says."""
    actor.policy.module.zero_grad()
    actor.policy.module.train()
    actor._accumulate(batch, actor._advantages(batch), range(len(batch)), kl_coef, Observed(batch), unchanged)
    return {n: p.grad.clone() for n, p in actor.policy.module.named_parameters() if p.grad is not None}


def assert_same_gradients(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], rtol: float = 1e-6) -> None:
    """Relative difference of the whole gradient vectors."""
    assert a.keys() == b.keys()
    flat_a, flat_b = (torch.cat([g[k].double().flatten() for k in sorted(g)]) for g in (a, b))
    assert float(flat_b.norm()) > 0
    assert float((flat_a - flat_b).norm() / flat_b.norm()) < rtol
