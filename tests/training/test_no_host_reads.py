"""A micro-batch of the GPU path never asks the device for a number: its host can run ahead.

FakeTensorMode runs the real code on tensors that have shapes and no contents, and raises at every read of a
value.
"""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from gmpo_mm.algorithms import PolicyLossConfig, make_correction
from gmpo_mm.models.loading import store_weights
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.models.two_part_attention import two_part_attention
from gmpo_mm.rollout.protocol import Response
from gmpo_mm.training.actor import Actor
from gmpo_mm.training.batch import Batch, CutLimits, SampledGroup
from gmpo_mm.training.optimizer import MasterAdamW
from gmpo_mm.training.router import RoutingStats
from gmpo_mm.training.update_config import UpdateConfig
from gmpo_mm.training.update_metrics import Observed, update_metrics
from tests.models.model_zoo import (
    ENDS,
    IS_V5,
    TEXT_FAMILIES,
    VISION_FAMILIES,
    build_policy,
    make_prompt,
    make_response,
)

CPU = torch.device("cpu")
LOSSES = ["gmpo", "default", "gspo", "cispo", "sapo", "power_mean", "luspo", "reinforce"]


def make_batch(family: str) -> Batch:
    grids = [[(1, 4, 6)], [(1, 2, 4), (1, 4, 4)]] if family in VISION_FAMILIES else [[], []]
    lengths = [[5, 9, 1, 3], [3, 1, 4, 6]]
    groups = []
    for i, own in enumerate(lengths):
        responses = [
            Response(
                make_response(n, 10 * i + j), -torch.ones(n), "stop", torch.zeros(n - 1, 2, dtype=torch.int16)
            )
            for j, n in enumerate(own)
        ]
        scores = [{"overall": float(j % 2)} for j in range(len(own))]
        groups.append(
            SampledGroup(make_prompt(6 + 3 * i, grids[i], seed=i), responses, [""] * len(own), scores)
        )
    batch = Batch(groups)
    batch.advantages_BT = torch.randn(8, 1) * batch.mask_BT
    batch.ref_log_probs_BT = -torch.ones(batch.mask_BT.shape)
    batch.move_to(CPU)
    return batch


def without_contents(
    family: str, mode: FakeTensorMode, lora: bool = False
) -> tuple[PolicyModel, MasterAdamW]:
    """A policy as on a GPU: bfloat16 weights with float32 masters, flash attention, checkpointing."""
    module = build_policy(family).module
    if lora:
        from gmpo_mm.models.loading import add_lora

        module = add_lora(module, 2, 4, "all-linear", None)
    module.gradient_checkpointing_enable({"use_reentrant": False})
    trained = store_weights(module, CPU, torch.bfloat16, sixteen_bit=True)
    masters = {}
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            fake = mode.from_tensor(parameter)
            part._parameters[name] = fake
            if parameter in trained:
                masters[fake] = mode.from_tensor(trained[parameter])
        for name, buffer in part.named_buffers(recurse=False):
            part._buffers[name] = mode.from_tensor(buffer)
    policy = PolicyModel(
        module, forbidden_token_ids=[90, 91], eos_token_ids=ENDS, compute_dtype=torch.bfloat16
    )
    policy.use_varlen_path(two_part_attention)
    optimizer = MasterAdamW(list(masters), masters, lr=1e-3, betas=(0.9, 0.999), weight_decay=0.1)
    return policy, optimizer


def run_micro_batch(family: str, loss: str, lora: bool = False) -> dict[str, torch.Tensor]:
    batch = make_batch(family)
    config = UpdateConfig(
        loss=PolicyLossConfig(loss), temperature=0.9, mini_batch_prompts=2,
        update_limits=CutLimits(samples=4),
        forward_limits=CutLimits(samples=4), entropy_coef=0.1, kl_kind="low_var_kl", correction=make_correction("truncated"),
    )  # fmt: skip
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    policy, optimizer = without_contents(family, mode, lora)
    actor = Actor(policy, optimizer, config)
    policy.module.train()
    advantages = batch.advantages_BT if loss in ("default", "cispo", "sapo") else batch.advantages_BT[:, 0]
    with mode:
        if policy.is_mixture_of_experts:
            actor.routing = RoutingStats(2)
        seen = Observed(batch)
        for rows in ([1, 2, 3, 4, 6], [0, 5, 7]):
            actor.micro_batch(batch, rows, 8, advantages, 0.01, seen, unchanged=False)
        torch.nn.utils.clip_grad_norm_(
            optimizer.param_groups[0]["params"], 1.0
        )  # its result is read once an update
        optimizer.step()
        update_metrics(batch, advantages, seen, config)
    return {n: p.grad for n, p in policy.module.named_parameters() if p.requires_grad}


@pytest.mark.skipif(not IS_V5, reason="the GPU path of pictures needs transformers 5")
@pytest.mark.parametrize("family", TEXT_FAMILIES + VISION_FAMILIES)
def test_forward_and_backward_of_each_family_read_nothing_back(family: str) -> None:
    grads = run_micro_batch(family, "gmpo")
    assert grads and all(grad is not None and grad.dtype == torch.float32 for grad in grads.values())


@pytest.mark.parametrize("loss", LOSSES)
def test_no_loss_reads_anything_back(loss: str) -> None:
    assert run_micro_batch("qwen2", loss)


def test_lora_reads_nothing_back_and_its_frozen_weights_are_bfloat16() -> None:
    grads = run_micro_batch("qwen2", "gmpo", lora=True)
    assert grads and all("lora_" in name for name in grads)


def test_a_read_would_be_found() -> None:
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode, pytest.raises(DataDependentOutputException):
        float(torch.ones(3).sum())
