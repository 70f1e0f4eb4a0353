"""One packed row per group equals transformers' own forward on separate rows, in values and gradients."""

from __future__ import annotations

import pytest
import torch

from gmpo_mm.models.packed import Group
from tests.models.model_zoo import (
    TEXT_FAMILIES,
    VISION_FAMILIES,
    build_policy,
    make_prompt,
    make_response,
    stock_log_probs,
)

GRIDS = {"none": [], "one": [(1, 4, 6)], "two": [(1, 2, 4), (1, 4, 4)]}


def ragged_groups(family: str) -> list[Group]:
    """Prompts of different lengths and picture counts, responses of 1 to 9 tokens."""
    images = list(GRIDS.values()) if family in VISION_FAMILIES else [[], [], []]
    lengths = [[5, 9, 1], [3], [7, 7, 2, 4]]
    return [
        Group(make_prompt(6 + 3 * i, grids, seed=i), [make_response(n, 10 * i + j) for j, n in enumerate(lengths[i])])
        for i, grids in enumerate(images)
    ]


def flat(values_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    return values_BT[mask_BT]


@pytest.mark.parametrize("family", TEXT_FAMILIES + VISION_FAMILIES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_packed_log_probs_equal_separate_rows(family: str, temperature: float) -> None:
    policy = build_policy(family)
    groups = ragged_groups(family)
    with torch.no_grad():
        output = policy.response_log_probs(groups, temperature)
        expected = [stock_log_probs(policy, g.prompt, r, temperature) for g in groups for r in g.responses]
    torch.testing.assert_close(flat(output.log_probs_BT, output.mask_BT), torch.cat(expected), atol=2e-5, rtol=1e-5)
    assert output.mask_BT.sum(1).tolist() == [len(r) for g in groups for r in g.responses]
    assert bool((output.log_probs_BT[~output.mask_BT] == 0).all())


@pytest.mark.parametrize("family", TEXT_FAMILIES + VISION_FAMILIES)
def test_packed_gradients_equal_separate_rows(family: str) -> None:
    policy = build_policy(family)
    groups = ragged_groups(family)
    torch.manual_seed(3)
    weights = torch.randn(sum(len(r) for g in groups for r in g.responses))

    output = policy.response_log_probs(groups)
    (flat(output.log_probs_BT, output.mask_BT) * weights).sum().backward()
    packed = {n: p.grad.clone() for n, p in policy.module.named_parameters() if p.grad is not None}
    policy.module.zero_grad()
    separate = torch.cat([stock_log_probs(policy, g.prompt, r, 1.0) for g in groups for r in g.responses])
    (separate * weights).sum().backward()
    expected = {n: p.grad for n, p in policy.module.named_parameters() if p.grad is not None}

    assert packed.keys() == expected.keys()
    for name, grad in expected.items():
        torch.testing.assert_close(packed[name], grad, atol=1e-4 * float(grad.abs().max()) + 1e-6, rtol=1e-3, msg=name)


def test_a_group_cut_in_two_gives_the_same_log_probs() -> None:
    policy = build_policy("qwen2_5_vl")
    group = ragged_groups("qwen2_5_vl")[2]
    with torch.no_grad():
        whole = policy.response_log_probs([group])
        parts = [policy.response_log_probs([Group(group.prompt, group.responses[s])]) for s in (slice(1), slice(1, None))]
    together = torch.cat([flat(p.log_probs_BT, p.mask_BT) for p in parts])
    torch.testing.assert_close(together, flat(whole.log_probs_BT, whole.mask_BT), atol=1e-5, rtol=1e-5)


def test_gradient_checkpointing_changes_nothing() -> None:
    grads = []
    for checkpointing in (False, True):
        policy = build_policy("qwen2_5_vl")
        if checkpointing:
            policy.module.gradient_checkpointing_enable({"use_reentrant": False})
        policy.module.train()
        policy.response_log_probs(ragged_groups("qwen2_5_vl")).log_probs_BT.sum().backward()
        grads.append({n: p.grad for n, p in policy.module.named_parameters() if p.grad is not None})
    for name in grads[0]:
        torch.testing.assert_close(grads[0][name], grads[1][name], msg=name)


def test_frozen_vision_tower_runs_once_for_sampling_and_updates() -> None:
    policy = build_policy("qwen2_5_vl")
    policy.vision.requires_grad_(False)
    calls = []
    policy.vision.register_forward_hook(lambda *_: calls.append(1))
    groups = ragged_groups("qwen2_5_vl")
    for _ in range(3):
        policy.response_log_probs(groups)
    assert len(calls) == 1
    policy.forget_images()
    policy.response_log_probs(groups)
    assert len(calls) == 2


def test_a_prompt_is_encoded_once_whatever_the_group_size() -> None:
    policy = build_policy("qwen2")
    sizes = []
    policy.decoder.layers[0].mlp.register_forward_hook(lambda _, inputs, __: sizes.append(inputs[0].shape[:2].numel()))
    prompt = make_prompt(40, seed=1)
    policy.response_log_probs([Group(prompt, [make_response(5, i) for i in range(8)])])
    assert sizes == [len(prompt.input_ids_S) + 8 * 4]


@pytest.mark.parametrize("family", ["qwen2", "qwen2_5_vl", "qwen3_moe"])
def test_a_response_that_a_group_holds_twice_passes_through_once_and_counts_twice(family: str) -> None:
    policy = build_policy(family)
    sizes = []
    policy.decoder.layers[0].input_layernorm.register_forward_hook(lambda _, inputs, __: sizes.append(inputs[0].shape[1]))
    prompt, (a, b) = make_prompt(9), (make_response(5, 1), make_response(7, 2))
    repeated, weights = [a, b, a, a], torch.tensor([1.0, 2.0, 3.0, 4.0])
    output = policy.response_log_probs([Group(prompt, repeated)])
    assert sizes == [len(prompt.input_ids_S) + 4 + 6]
    expected = torch.stack([stock_log_probs(policy, prompt, r, 1.0).sum() for r in repeated])
    torch.testing.assert_close(output.log_probs_BT.sum(1), expected, atol=5e-5, rtol=1e-5)
    (output.log_probs_BT.sum(1) * weights).sum().backward()
    shared = policy.lm_head.weight.grad.clone()
    policy.module.zero_grad()
    (expected * weights).sum().backward()
    torch.testing.assert_close(shared, policy.lm_head.weight.grad, atol=1e-4, rtol=1e-4)
    if family == "qwen3_moe":
        with_router = policy.response_log_probs([Group(prompt, repeated)], with_router=True)
        separate = sum(len(prompt.input_ids_S) + len(r) - 1 for r in repeated)
        assert float(with_router.router_weights_N.sum()) == separate


def test_router_logits_cover_every_layer_and_token() -> None:
    policy = build_policy("qwen3_moe")
    groups = ragged_groups("qwen3_moe")
    output = policy.response_log_probs(groups, with_router=True)
    tokens = sum(g.tokens for g in groups)
    assert [tuple(layer.shape) for layer in output.router_logits] == [(tokens, 4)] * 2
    separate_tokens = sum(len(g.prompt.input_ids_S) + len(r) - 1 for g in groups for r in g.responses)
    assert float(output.router_weights_N.sum()) == separate_tokens


def test_bfloat16_autocast_is_close_to_float32() -> None:
    exact, rounded = build_policy("qwen2_5_vl"), build_policy("qwen2_5_vl", compute_dtype=torch.bfloat16)
    groups = ragged_groups("qwen2_5_vl")
    with torch.no_grad():
        a, b = exact.response_log_probs(groups), rounded.response_log_probs(groups)
    assert b.log_probs_BT.dtype == torch.float32
    assert 0 < float((a.log_probs_BT - b.log_probs_BT).abs().mean()) < 0.1
