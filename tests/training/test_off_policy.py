"""What the model has while it samples for a step, and that it comes back whole."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from gmpo_mm.models.loading import add_lora
from gmpo_mm.models.packed import Group
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.rollout.rounding import ROUNDINGS
from gmpo_mm.training.off_policy import OffPolicySampling
from tests.models.model_zoo import ENDS, build_model, build_policy, make_prompt


def lora_policy(seed: int = 5) -> PolicyModel:
    module = add_lora(build_model("qwen2"), 2, 4, "all-linear", None)
    torch.manual_seed(seed)
    for name, parameter in module.named_parameters():
        if "lora_B" in name:  # an adapter that has learned something
            torch.nn.init.normal_(parameter, std=0.2)
    return PolicyModel(module, forbidden_token_ids=[], eos_token_ids=ENDS, compute_dtype=torch.float32)


def log_probs(policy: PolicyModel) -> torch.Tensor:
    groups = [Group(make_prompt(7, [], seed=1), [torch.tensor([5, 20, 31]), torch.tensor([44, 2])])]
    with torch.no_grad():
        output = policy.response_log_probs(groups, 1.0)
    return output.log_probs_BT[output.mask_BT]


def change(policy: PolicyModel, by: float) -> None:
    with torch.no_grad():
        for parameter in policy.module.parameters():
            if parameter.requires_grad:
                parameter.add_(by * torch.sign(parameter))


def state(policy: PolicyModel) -> dict[str, tuple[int, torch.Tensor]]:
    return {name: (p.data_ptr(), p.detach().clone()) for name, p in policy.module.named_parameters()}


def assert_back(policy: PolicyModel, before: dict[str, tuple[int, torch.Tensor]]) -> None:
    for name, parameter in policy.module.named_parameters():
        assert parameter.data_ptr() == before[name][0] and torch.equal(parameter, before[name][1])


@pytest.mark.parametrize("kind", ROUNDINGS)
@pytest.mark.parametrize("lora", [False, True], ids=["all-weights", "lora"])
def test_inside_the_model_is_the_rounded_one_and_afterwards_itself(kind: str, lora: bool) -> None:
    policy = lora_policy() if lora else build_policy("qwen2")
    merged: Any = copy.deepcopy(policy.module)
    merged = merged.merge_and_unload() if lora else merged
    with torch.no_grad():
        for name, parameter in merged.named_parameters():
            if kind == "bfloat16" or ("_proj" in name and parameter.dim() == 2):
                parameter.copy_(ROUNDINGS[kind](parameter))
    forbidden = policy.forbidden_token_ids
    other = PolicyModel(merged, forbidden_token_ids=forbidden, eos_token_ids=ENDS, compute_dtype=torch.float32)
    sampling = OffPolicySampling(policy, 0, kind)
    before, own, trains = state(policy), log_probs(policy), [p.requires_grad for p in policy.module.parameters()]
    with sampling.sampler_weights(1):
        inside = log_probs(policy)
    torch.testing.assert_close(inside, log_probs(other), atol=2e-5, rtol=0)
    assert float((inside - own).abs().max()) > 1e-3
    assert torch.equal(log_probs(policy), own)
    assert_back(policy, before)
    assert [p.requires_grad for p in policy.module.parameters()] == trains
    assert 1e-4 < sampling.metrics(1)["rollout/rounding_error"] < 0.05


@pytest.mark.parametrize("lora", [False, True], ids=["all-weights", "lora"])
def test_inside_the_model_has_the_weights_of_the_step_that_is_asked_for(lora: bool) -> None:
    policy = lora_policy() if lora else build_policy("qwen2")
    sampling, own, hashes = OffPolicySampling(policy, 2), [log_probs(policy)], [sampling_hash(policy)]
    for step in range(1, 6):
        before = state(policy)
        with sampling.sampler_weights(step):
            source = sampling.sampler_step(step)
            assert source == max(0, step - 3)
            assert torch.equal(log_probs(policy), own[source])
        assert_back(policy, before)
        sampling.keep(step - 1)
        rescued = sampling.checkpoint_tensors(step - 1).get("past_weights", {})
        before_that = range(max(0, step - 3), step - 1)
        assert {name.partition("/")[0] for name in rescued} == set(map(str, before_that)), "if the update fails"
        change(policy, 0.01)
        own.append(log_probs(policy))
        hashes.append(sampling_hash(policy))
        assert sampling.record() == {
            "rollout/weights_sha256": hashes[source], "actor/weights_sha256": hashes[step],
        }  # fmt: skip
    saved = sampling.checkpoint_tensors(5)["past_weights"]
    trained = [name for name, p in policy.module.named_parameters() if p.requires_grad]
    assert sorted(saved) == sorted(f"{step}/{name}" for step in (3, 4) for name in trained)
    assert len(set(hashes)) == 6


def sampling_hash(policy: PolicyModel) -> str:
    return OffPolicySampling(policy, 0).first_record()["actor/weights_sha256"]


def test_after_an_error_while_sampling_the_weights_are_the_trained_ones() -> None:
    policy = build_policy("qwen2")
    sampling = OffPolicySampling(policy, 1, "int8")
    sampling.keep(0)
    change(policy, 0.01)
    before = state(policy)
    with pytest.raises(KeyboardInterrupt), sampling.sampler_weights(2):
        assert not torch.equal(policy.lm_head.weight, before["lm_head.weight"][1])
        raise KeyboardInterrupt
    assert_back(policy, before)
