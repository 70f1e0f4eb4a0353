"""The GPU's forward pass, run on the CPU with the written-out kernel: equal to transformers' own on separate
rows."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from gmpo_mm.errors import ConfigError
from gmpo_mm.models.loading import store_weights
from gmpo_mm.models.packed import Group
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.models.two_part_attention import REFERENCE, two_part_attention
from tests.models.model_zoo import (
    IS_V5,
    TEXT_FAMILIES,
    VISION_FAMILIES,
    build_policy,
    make_prompt,
    make_response,
    stock_log_probs,
)
from tests.models.test_packed_forward import flat, ragged_groups

FAMILIES = TEXT_FAMILIES + VISION_FAMILIES


def varlen_policy(family: str) -> PolicyModel:
    policy = build_policy(family)
    policy.use_varlen_path(partial(two_part_attention, kernel=REFERENCE), REFERENCE)
    return policy


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_equal_separate_rows(family: str, temperature: float) -> None:
    policy, stock, groups = varlen_policy(family), build_policy(family), ragged_groups(family)
    with torch.no_grad():
        output = policy.response_log_probs(groups, temperature)
        expected = [stock_log_probs(stock, g.prompt, r, temperature) for g in groups for r in g.responses]
    torch.testing.assert_close(
        flat(output.log_probs_BT, output.mask_BT), torch.cat(expected), atol=2e-5, rtol=1e-5
    )
    assert output.mask_BT.sum(1).tolist() == [len(r) for g in groups for r in g.responses]
    assert bool((output.log_probs_BT[~output.mask_BT] == 0).all())


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_and_entropies_equal_those_of_the_cpu_path(family: str) -> None:
    groups = ragged_groups(family)
    found = []
    for policy in (varlen_policy(family), build_policy(family)):
        policy.module.train()
        output = policy.response_log_probs(groups, 0.8)
        torch.manual_seed(3)
        weight, entropy_weight = torch.randn(2, *output.log_probs_BT.shape)
        (output.log_probs_BT * weight + output.entropy_BT * entropy_weight).sum().backward()
        found.append((output, {n: p.grad for n, p in policy.module.named_parameters() if p.grad is not None}))
    (ours, our_grads), (expected, grads) = found
    torch.testing.assert_close(ours.entropy_BT, expected.entropy_BT, atol=2e-5, rtol=1e-5)
    assert our_grads.keys() == grads.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(
            our_grads[name], grad, atol=1e-4 * float(grad.abs().max()) + 1e-6, rtol=1e-3, msg=name
        )


@pytest.mark.parametrize("family", ["qwen2", "qwen2_5_vl", "qwen3_vl"])
def test_a_cut_group_and_checkpointing_change_nothing(family: str) -> None:
    policy = varlen_policy(family)
    groups = ragged_groups(family)
    with torch.no_grad():
        whole = policy.response_log_probs(groups[2:])
        prompt, responses = groups[2].prompt, groups[2].responses
        parts = [policy.response_log_probs([Group(prompt, responses[s])]) for s in (slice(1), slice(1, None))]
    together = torch.cat([flat(p.log_probs_BT, p.mask_BT) for p in parts])
    torch.testing.assert_close(together, flat(whole.log_probs_BT, whole.mask_BT), atol=1e-5, rtol=1e-5)
    policy.module.train()
    grads = []
    for checkpointing in (False, True):
        if checkpointing:
            policy.module.gradient_checkpointing_enable({"use_reentrant": False})
        policy.module.zero_grad()
        policy.response_log_probs(groups).log_probs_BT.sum().backward()
        grads.append({n: p.grad.clone() for n, p in policy.module.named_parameters() if p.grad is not None})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, atol=1e-6, rtol=1e-5)


def test_router_outputs_name_the_same_tokens_as_the_cpu_path() -> None:
    groups = [
        Group(make_prompt(5, seed=1), [make_response(4, 0), make_response(4, 0), make_response(1, 1)]),
        ragged_groups("qwen3_moe")[0],
    ]
    ours, expected = (
        p.response_log_probs(groups, with_router=True)
        for p in (varlen_policy("qwen3_moe"), build_policy("qwen3_moe"))
    )
    for a, b in zip(ours.router_logits, expected.router_logits, strict=True):
        assert float(ours.router_weights_N.sum()) == float(expected.router_weights_N.sum())
        torch.testing.assert_close(
            ours.router_weights_N @ a, expected.router_weights_N @ b, atol=1e-4, rtol=1e-5
        )
        mask = ours.mask_BT[:, 1:]
        torch.testing.assert_close(
            a[ours.token_place_BU][mask], b[expected.token_place_BU][mask], atol=1e-5, rtol=1e-4
        )


def test_one_attention_call_a_vision_block(monkeypatch: pytest.MonkeyPatch) -> None:
    if not IS_V5:
        pytest.skip("transformers 4 takes no precomputed windows: its vision tower keeps a call a window")
    policy, calls = varlen_policy("qwen2_5_vl"), []
    original = REFERENCE.forward
    counting = type(REFERENCE)(
        "counting", lambda *a: calls.append(a[0].shape) or original(*a), REFERENCE.backward
    )
    policy.use_varlen_path(partial(two_part_attention, kernel=REFERENCE), counting)
    policy.encode_images([make_prompt(6, [(1, 12, 20), (1, 8, 8)])])
    assert [shape[0] for shape in calls] == [12 * 20 + 8 * 8] * len(policy.vision.blocks)


def test_stored_weights_are_rounded_and_masters_are_not() -> None:
    policy = build_policy("qwen2_5_vl")
    policy.module.model.visual.requires_grad_(False)
    before = {n: p.detach().clone() for n, p in policy.module.named_parameters()}
    frequencies = policy.decoder.rotary_emb.inv_freq.clone()
    masters = store_weights(policy.module, torch.device("cpu"), torch.bfloat16, sixteen_bit=True)
    for name, parameter in policy.module.named_parameters():
        assert parameter.dtype == torch.bfloat16 and torch.equal(parameter, before[name].bfloat16())
        assert (parameter in masters) == parameter.requires_grad == ("visual" not in name)
        if parameter in masters:
            assert torch.equal(masters[parameter], before[name])
    assert torch.equal(policy.decoder.rotary_emb.inv_freq, frequencies)
    assert (
        store_weights(build_policy("qwen2").module, torch.device("cpu"), torch.float32, sixteen_bit=True)
        == {}
    )


def test_bfloat16_weights_give_log_probs_near_the_float32_ones() -> None:
    groups = ragged_groups("qwen2")
    expected = build_policy("qwen2").response_log_probs(groups)
    module = build_policy("qwen2").module
    store_weights(module, torch.device("cpu"), torch.bfloat16, sixteen_bit=True)
    policy = PolicyModel(module, forbidden_token_ids=[90, 91, 92, 93], compute_dtype=torch.bfloat16)
    policy.use_varlen_path(partial(two_part_attention, kernel=REFERENCE), REFERENCE)
    output = policy.response_log_probs(groups)
    assert output.log_probs_BT.dtype == torch.float32
    gap = (output.log_probs_BT - expected.log_probs_BT).abs()[expected.mask_BT]
    assert 0 < float(gap.mean().detach()) < 0.1


def test_a_torch_that_cannot_sum_gradients_in_float32_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gmpo_mm.models.loading.SUMS_WIDER_GRADIENTS", False)
    with pytest.raises(ConfigError, match=r"torch 2\.11 or later.*trainer\.dtype=float32"):
        store_weights(build_policy("qwen2").module, torch.device("cpu"), torch.bfloat16, sixteen_bit=True)
