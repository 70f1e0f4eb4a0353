"""Mixtures of experts: the balance loss in every policy loss, and the metrics of the router, against naive references."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from gmpo_mm.algorithms import PolicyLossConfig
from gmpo_mm.algorithms.registry import known_loss_types
from gmpo_mm.rollout.hf import HFRollout
from gmpo_mm.training.actor import Actor
from gmpo_mm.training.batch import Batch, CutLimits, SampledGroup
from tests.models.model_zoo import build_policy, make_prompt
from tests.training.builders import BASE, PARAMS, gradients, make_actor, make_batch

FAMILY = "qwen3_moe"


def routed_rows(policy, batch: Batch) -> list[tuple[torch.Tensor, ...]]:
    """Router logits (tokens, experts), one a layer, of every response in a row of its own through transformers' own forward."""
    rows = []
    for group in batch.groups:
        for response in group.responses:
            ids = torch.cat([group.prompt.input_ids_S, response.token_ids_T[:-1]])
            output = policy.module(ids[None], output_router_logits=True, use_cache=False)
            rows.append(tuple(layer.reshape(-1, layer.shape[-1]) for layer in output.router_logits))
    return rows


def naive_balance_loss(policy, batch: Batch) -> torch.Tensor:
    """E * sum_e f_e P_e over all layers and tokens of all rows, with the gradient of P alone."""
    logits_NE = torch.cat([layer for row in routed_rows(policy, batch) for layer in row])
    probs_NE = logits_NE.softmax(-1)
    experts, chosen = probs_NE.shape[1], probs_NE.topk(policy.config.num_experts_per_tok, dim=-1).indices
    share_E = torch.stack([(chosen == e).sum() for e in range(experts)]) / len(probs_NE)
    return experts * (share_E * probs_NE.mean(0)).sum()


@pytest.mark.parametrize("loss_type", [name for name in known_loss_types() if ":" not in name])
def test_the_balance_loss_enters_every_policy_loss_with_its_coefficient(loss_type: str) -> None:
    coefficient = 0.37
    config = PolicyLossConfig(loss_type=loss_type, loss_avg_mode="seq")
    batch = make_batch(make_actor(FAMILY, loss=config).policy, FAMILY)
    for cut in (CutLimits(samples=16), CutLimits(samples=3)):
        without = make_actor(FAMILY, loss=config, update_limits=cut)  # a loss that ranks tokens depends on the cut
        without.router_coef = 0.0
        plain = gradients(without, batch)
        actor = make_actor(FAMILY, loss=config, update_limits=cut)
        actor.router_coef = coefficient
        both = gradients(actor, batch)
        actor.policy.module.zero_grad()
        naive_balance_loss(actor.policy, batch).backward()
        reached = 0
        for name, parameter in actor.policy.module.named_parameters():
            expected = 0 if parameter.grad is None else coefficient * parameter.grad
            got = both.get(name, torch.zeros_like(parameter)) - plain.get(name, torch.zeros_like(parameter))
            torch.testing.assert_close(got, expected + torch.zeros_like(got), atol=2e-5, rtol=1e-3)
            reached += bool(got.abs().max() > 1e-4)
        assert reached > 3  # the router's own weights, and what feeds it


def test_a_coefficient_is_read_from_the_models_configuration() -> None:
    policy = build_policy(FAMILY)
    policy.config.router_aux_loss_coef = 0.25
    assert Actor(policy, torch.optim.SGD(policy.module.parameters(), lr=0.0), BASE).router_coef == 0.25
    dense = build_policy("qwen2")
    dense.config.router_aux_loss_coef = 0.25
    assert Actor(dense, torch.optim.SGD(dense.module.parameters(), lr=0.0), BASE).router_coef == 0.0


@pytest.mark.parametrize("cut", [CutLimits(samples=16), CutLimits(samples=1), CutLimits(samples=3)], ids=str)
@pytest.mark.parametrize("coefficient", [0.0, 0.01])
def test_load_and_router_entropy_equal_those_of_separate_rows(cut: CutLimits, coefficient: float) -> None:
    actor = make_actor(FAMILY, update_limits=cut)
    actor.router_coef = coefficient
    batch = make_batch(actor.policy, FAMILY)
    rows = routed_rows(actor.policy, batch)
    metrics = actor.update(batch)
    layers, experts, chosen = len(rows[0]), rows[0][0].shape[1], actor.policy.config.num_experts_per_tok
    counts = [[0] * experts for _ in range(layers)]
    entropies = []
    for row in rows:
        for index, layer in enumerate(row):
            for logits_E in layer.double():
                probabilities = logits_E.softmax(-1).tolist()
                entropies.append(-sum(p * math.log(p) for p in probabilities))
                for expert in sorted(range(experts), key=lambda e: -probabilities[e])[:chosen]:
                    counts[index][expert] += 1
    shares = [[count / sum(layer) for count in layer] for layer in counts]
    load_entropies = [-sum(s * math.log(s) for s in layer if s) / math.log(experts) for layer in shares]
    assert actor.routing is not None
    torch.testing.assert_close(actor.routing.shares_LE(), torch.tensor(shares, dtype=torch.float64))
    assert metrics["moe/expert_share_min"] == pytest.approx(min(map(min, shares)))
    assert metrics["moe/expert_share_max"] == pytest.approx(max(map(max, shares)))
    assert metrics["moe/load_entropy"] == pytest.approx(sum(load_entropies) / layers)
    assert metrics["moe/unused_experts"] == sum(count == 0 for layer in counts for count in layer)
    assert metrics["moe/router_entropy"] == pytest.approx(sum(entropies) / len(entropies), rel=1e-5)


def test_an_expert_that_no_token_reaches_is_counted_as_unused() -> None:
    actor = make_actor(FAMILY)
    batch = make_batch(actor.policy, FAMILY)
    last = actor.policy.decoder.layers[-1].mlp.gate
    with torch.no_grad():  # hidden states of one sign and a router row of the other: the expert comes last for each token
        actor.policy.decoder.layers[-1].post_attention_layernorm.weight.zero_()
        last.weight.zero_()
    assert actor.update(batch)["moe/unused_experts"] >= last.weight.shape[0] - actor.policy.config.num_experts_per_tok


def sampled_batch(policy) -> Batch:
    prompts = [make_prompt(6 + 3 * i, seed=i) for i in range(4)]
    sampled = HFRollout(policy, record_experts=True).generate(prompts, PARAMS, [0, 1, 2, 3])
    groups = [SampledGroup(p, r, ["text"] * 4, [{"overall": float(j % 2)} for j in range(4)]) for p, r in zip(prompts, sampled)]
    batch = Batch(groups)
    torch.manual_seed(7)
    batch.advantages_BT = torch.randn(len(batch))[:, None] * batch.mask_BT
    return batch


def test_the_samplers_experts_are_those_of_separate_rows() -> None:
    policy = build_policy(FAMILY)
    batch = sampled_batch(policy)
    responses = [(g.prompt, r) for g in batch.groups for r in g.responses]
    assert len({len(r.token_ids_T) for _, r in responses}) > 1
    for (prompt, response), row in zip(responses, routed_rows(policy, batch)):
        own_UE = [layer[len(prompt.input_ids_S) :] for layer in row]
        expected_UL = torch.stack([layer.argmax(-1) for layer in own_UE], dim=-1)
        assert response.top_experts_UL is not None
        assert torch.equal(response.top_experts_UL.long(), expected_UL)


@pytest.mark.parametrize("samples", [16, 1, 3])
def test_disagreement_is_the_share_of_tokens_whose_first_expert_has_changed_since_sampling(samples: int) -> None:
    policy = build_policy(FAMILY)
    batch = sampled_batch(policy)
    before = routed_rows(policy, batch)
    config = replace(BASE, update_limits=CutLimits(samples=samples))
    actor = Actor(policy, torch.optim.SGD(policy.module.parameters(), lr=0.0), config)
    same = actor.update(batch)
    assert same["moe/rollout_disagreement"] == same["moe/rollout_disagreement_same_weights"] == 0.0

    with torch.no_grad():
        for layer in policy.decoder.layers:
            layer.mlp.gate.weight += 0.2 * torch.randn(layer.mlp.gate.weight.shape, generator=torch.Generator().manual_seed(1))
    after = routed_rows(policy, batch)
    prompts = [len(g.prompt.input_ids_S) for g in batch.groups for _ in g.responses]
    differs = [
        bool(a != b)
        for start, old_row, new_row in zip(prompts, before, after)
        for old, new in zip(old_row, new_row)
        for a, b in zip(old[start:].argmax(-1), new[start:].argmax(-1))
    ]
    share = sum(differs) / len(differs)
    assert 0.02 < share < 0.98
    assert actor.update(batch)["moe/rollout_disagreement"] == pytest.approx(share)


def test_later_epochs_do_not_count_as_having_the_samplers_weights() -> None:
    policy = build_policy(FAMILY)
    batch = sampled_batch(policy)
    config = replace(BASE, mini_batch_prompts=1, epochs=3)
    metrics = Actor(policy, torch.optim.SGD(policy.module.parameters(), lr=20.0), config).update(batch)
    assert metrics["moe/rollout_disagreement_same_weights"] == 0.0
    assert metrics["moe/rollout_disagreement"] > 0.0


def test_without_the_samplers_routing_there_is_no_disagreement_metric_and_dense_models_have_none_at_all() -> None:
    actor = make_actor(FAMILY)
    metrics = actor.update(make_batch(actor.policy, FAMILY))
    assert "moe/load_entropy" in metrics and "moe/rollout_disagreement" not in metrics
    dense = make_actor("qwen2")
    assert not [name for name in dense.update(make_batch(dense.policy)) if name.startswith("moe/")]
    assert dense.routing is None
