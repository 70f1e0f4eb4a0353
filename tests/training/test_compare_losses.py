"""Losses compared while training: whole gradients against rows of their own, and a run that doesn't notice."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gmpo_mm.algorithms import PolicyLossConfig, compared_configs, count_units, make_correction
from gmpo_mm.training.actor import Actor
from gmpo_mm.training.batch import Batch, CutLimits
from gmpo_mm.training.compare_losses import LossComparison, step_tokens
from tests.algorithms.naive import Batch as Numbers
from tests.algorithms.test_token_weights import closed_form
from tests.models.model_zoo import build_policy, stock_log_probs
from tests.training.builders import BASE, make_batch

NAMES = ["default", "gspo", "cispo", "power_mean"]
LOSS = PolicyLossConfig(loss_type="gmpo", clip_ratio_low=0.1, clip_ratio_high=0.2)
KL = dict(entropy_coef=0.05, kl_kind="low_var_kl")


def comparison(names: list[str] = NAMES, every: int = 1) -> LossComparison:
    return LossComparison(compared_configs(LOSS, names), every)


def actor_on(policy, **changes) -> Actor:
    return Actor(policy, torch.optim.SGD(policy.module.parameters(), lr=0.02), replace(BASE, loss=LOSS, **changes))


def weights_before_the_last_step(actor: Actor) -> list[dict[str, torch.Tensor]]:
    """Filled by an update: the weights before each of its optimizer steps."""
    found: list[dict[str, torch.Tensor]] = []
    actor.optimizer.register_step_pre_hook(lambda *_: found.append(copy.deepcopy(actor.policy.module.state_dict())))
    return found


def by_hand(policy, batch: Batch, rows: range, config: PolicyLossConfig) -> torch.Tensor:
    """The gradient of one mini-batch: log-probabilities row by row through transformers, weights from the loss's equation."""
    responses = [(g.prompt, r.token_ids_T) for g in batch.groups for r in g.responses]
    log_probs = [stock_log_probs(policy, *responses[row], 1.0) for row in rows]
    values = torch.nn.utils.rnn.pad_sequence(log_probs, batch_first=True)
    width = values.shape[1]
    old, advantages, mask = (
        x[rows.start : rows.stop, :width] for x in (batch.behaviour_log_probs_BT, batch.advantages_BT, batch.mask_BT)
    )
    weights = closed_form(Numbers(values.detach().double(), old.double(), advantages.double(), mask), config)
    policy.module.zero_grad()
    (-(weights.float() * values).sum()).backward()
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in policy.module.parameters()])


def test_gradient_cosines_and_norms_equal_those_of_separate_rows_before_the_last_optimizer_step() -> None:
    policy = build_policy("qwen2")
    actor = actor_on(policy, mini_batch_prompts=2, update_limits=CutLimits(samples=3), epochs=2)
    batch = make_batch(policy)
    before, measure = weights_before_the_last_step(actor), comparison()
    actor.update(batch, around=measure.around(1, actor))
    found = measure.line(batch, actor)

    assert len(before) == 4
    policy.module.load_state_dict(before[-1])
    policy.module.eval()
    rows = range(8, 16)
    gradients = {name: by_hand(policy, batch, rows, config).double() for name, config in measure.configs.items()}
    trained = gradients["gmpo"]
    for name, gradient in gradients.items():
        cosine = float(gradient @ trained / gradient.norm() / trained.norm())
        assert found[f"compare/{name}/gradient_norm"] == pytest.approx(float(gradient.norm()), rel=1e-4)
        assert found[f"compare/{name}/gradient_cosine"] == pytest.approx(cosine, abs=1e-5)
    assert found["compare/default/gradient_cosine"] < 0.99
    # other weights or other rows would give other numbers
    policy.module.load_state_dict(before[0])
    assert float(by_hand(policy, batch, rows, LOSS).norm()) != pytest.approx(float(trained.norm()), rel=1e-3)


@pytest.mark.parametrize("family", ["qwen2", "qwen3_moe"])
def test_every_gradient_has_the_terms_that_the_run_adds_to_its_loss(family: str) -> None:
    """KL, entropy, correction and balance loss: each gradient is that of a run which trains the compared loss."""
    options = dict(**KL, correction=make_correction("truncated"), update_limits=CutLimits(samples=5))
    policy = build_policy(family)
    batch = make_batch(policy, family)
    batch.ref_log_probs_BT = batch.sampler_log_probs_BT - 0.4 * batch.mask_BT
    gradients = {}
    for name, config in comparison().configs.items():
        other = actor_on(copy.deepcopy(policy), **options)
        other.config = replace(other.config, loss=config)
        other.router_coef = 0.5 if other.policy.is_mixture_of_experts else 0.0
        other.optimizer.register_step_pre_hook(  # the gradient after clipping at a huge norm
            lambda *_, name=name, other=other: gradients.update({name: [p.grad.clone() for p in _all(other)]})
        )
        other.config = replace(other.config, max_grad_norm=1e9)
        other.update(batch, kl_coef=0.7)
    actor, measure = actor_on(policy, **options), comparison()
    actor.router_coef = 0.5 if policy.is_mixture_of_experts else 0.0
    actor.update(batch, 0.7, around=measure.around(1, actor))
    found = measure.line(batch, actor)
    flat = {name: torch.cat([g.flatten() for g in parts]).double() for name, parts in gradients.items()}
    for name, gradient in flat.items():
        cosine = float(gradient @ flat["gmpo"] / gradient.norm() / flat["gmpo"].norm())
        assert found[f"compare/{name}/gradient_norm"] == pytest.approx(float(gradient.norm()), rel=1e-6)
        assert found[f"compare/{name}/gradient_cosine"] == pytest.approx(cosine, abs=1e-6)


def _all(actor: Actor) -> list[torch.nn.Parameter]:
    return [p for p in actor.policy.module.parameters() if p.grad is not None]


@pytest.mark.parametrize("family", ["qwen2", "qwen3_moe"])
def test_an_update_is_the_same_to_the_byte_with_and_without_comparing(family: str, tmp_path: Path) -> None:
    """With dropout, so that a random number more or less would be seen, and with every term that a loss can have; one of the
    compared losses draws random numbers."""
    (tmp_path / "own.py").write_text(
        "import torch\n"
        "from gmpo_mm.algorithms import register_policy_loss\n\n\n"
        "@register_policy_loss('noisy')\n"
        "def noisy(log_probs_BT, old_log_probs_BT, advantages_BT, response_mask_BT, config):\n"
        "    return -advantages_BT * log_probs_BT * torch.rand(())\n"
    )
    results = []
    for every in (0, 1):
        policy = build_policy(family)
        for layer in policy.decoder.layers:
            layer.self_attn.attention_dropout = 0.3
        actor = actor_on(policy, mini_batch_prompts=2, update_limits=CutLimits(samples=3), epochs=2, **KL)
        actor.router_coef = 0.5 if policy.is_mixture_of_experts else 0.0
        batch = make_batch(policy, family)
        batch.ref_log_probs_BT = batch.sampler_log_probs_BT - 0.2 * batch.mask_BT
        measure = comparison([*NAMES, f"{tmp_path}/own.py:noisy"])
        torch.manual_seed(3)
        metrics = actor.update(batch, 0.1, around=measure.around(1, actor) if every else None)
        rest = torch.get_rng_state()
        assert ("compare/noisy/gradient_cosine" in measure.line(batch, actor)) == bool(every)
        assert torch.equal(torch.get_rng_state(), rest)
        results.append((metrics, rest.tolist(), [p.detach().clone() for p in policy.module.parameters()]))
    (metrics, rest, weights), (other_metrics, other_rest, other_weights) = results
    assert metrics == other_metrics and rest == other_rest
    assert all(torch.equal(a, b) for a, b in zip(weights, other_weights, strict=True))


def test_dropout_drops_the_same_in_every_gradient() -> None:
    policy = build_policy("qwen2")
    for layer in policy.decoder.layers:
        layer.self_attn.attention_dropout = 0.3
    actor = actor_on(policy)
    batch = make_batch(policy)
    measure = LossComparison({"gmpo": LOSS, "again": LOSS}, 1)
    actor.update(batch, around=measure.around(1, actor))
    found = measure.line(batch, actor)
    assert found["compare/again/gradient_cosine"] == pytest.approx(1.0, abs=1e-6)
    assert found["compare/again/gradient_norm"] == found["compare/gmpo/gradient_norm"]


def test_gradients_are_compared_on_every_nth_step_only() -> None:
    policy = build_policy("qwen2")
    actor = actor_on(policy)
    batch = make_batch(policy)
    measure = comparison(["gspo"], every=2)
    seen = []
    for step in (1, 2, 3):
        actor.update(batch, around=measure.around(step, actor))
        seen.append("compare/gspo/gradient_norm" in measure.line(batch, actor))
    assert seen == [False, True, False]


def test_the_weights_are_those_of_the_last_epoch_each_mini_batch_with_its_own_units() -> None:
    """And rows that were left out of the forward pass count in those units."""
    policy = build_policy("qwen2")
    changes = dict(mini_batch_prompts=2, epochs=2, drop_zero_advantage=True, update_limits=CutLimits(samples=3))
    actor = actor_on(policy, **changes)
    batch = make_batch(policy, idle=(1,))
    before = weights_before_the_last_step(actor)
    actor.update(batch)
    seen = step_tokens(batch, actor)
    for number, rows in enumerate((range(8), range(8, 16))):
        policy.module.load_state_dict(before[2 + number])
        policy.module.eval()
        responses = [(g.prompt, r.token_ids_T) for g in batch.groups for r in g.responses]
        for row in rows:
            if row // 4 == 1:
                assert not seen.mask_BT[row].any()
                continue
            expected = stock_log_probs(policy, *responses[row], 1.0).detach()
            torch.testing.assert_close(seen.log_probs_BT[row, : len(expected)], expected, atol=2e-5, rtol=1e-5)
    for rows, update in zip((range(8), range(8, 16)), seen.updates, strict=True):
        assert update.rows == rows
        for name in ("gmpo", "default"):
            config = replace(LOSS, loss_type=name)
            assert update.units(config) == int(count_units(batch.mask_BT[rows.start : rows.stop], config))
        assert all(len(call) <= 3 for call in update.calls)
        assert sorted(row for call in update.calls for row in call) == [row for row in rows if row // 4 != 1]


def test_a_compared_loss_that_is_not_finite_has_no_cosine_and_leaves_the_update_alone(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from gmpo_mm.algorithms import register_policy_loss\n\n\n"
        "@register_policy_loss('endless')\n"
        "def endless(log_probs_BT, old_log_probs_BT, advantages_BT, response_mask_BT, config):\n"
        "    return log_probs_BT * float('inf')\n"
    )
    policy = build_policy("qwen2")
    actor = actor_on(policy)
    batch = make_batch(policy)
    measure = comparison([f"{tmp_path}/own.py:endless"])
    metrics = actor.update(batch, around=measure.around(1, actor))
    found = measure.line(batch, actor)
    assert not math.isfinite(found["compare/endless/gradient_norm"])
    assert "compare/endless/gradient_cosine" not in found and "compare/endless/cosine" not in found
    assert found["compare/gmpo/gradient_cosine"] == 1.0
    assert metrics["actor/skipped_updates"] == 0
