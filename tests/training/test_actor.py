"""Updates: gradients that don't depend on how a mini-batch is cut, and what happens to bad gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gmpo_mm.algorithms import GMPOConfig, PolicyLossConfig, compute_policy_loss, count_units
from gmpo_mm.errors import ConfigError, TrainingError
from gmpo_mm.models.packed import Group
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.training.actor import Actor
from gmpo_mm.training.batch import CutLimits, cut_into_micro_batches
from gmpo_mm.training.optimizer import learning_rate
from tests.models.model_zoo import build_policy, stock_log_probs
from tests.training.builders import BASE, PARAMS, assert_same_gradients, gradients, make_actor, make_batch

LOSSES = [
    PolicyLossConfig(loss_type="gmpo"),
    PolicyLossConfig(loss_type="gmpo", gmpo=GMPOConfig(clip="sequence")),
    PolicyLossConfig(loss_type="gmpo", gmpo=GMPOConfig(normalize=False, clip="none")),
    PolicyLossConfig(loss_type="default"),
    PolicyLossConfig(loss_type="default", loss_avg_mode="seq"),
    PolicyLossConfig(loss_type="gspo"),
    PolicyLossConfig(loss_type="cispo"),
]


def adamw_actor(policy: PolicyModel, lr: float, **changes: object) -> Actor:
    return Actor(policy, torch.optim.AdamW(policy.module.parameters(), lr=lr), replace(BASE, **changes))


CUTS = [CutLimits(samples=1), CutLimits(samples=2), CutLimits(samples=3), CutLimits(samples=4), CutLimits(tokens=40)]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda c: f"{c.loss_type}-{c.loss_avg_mode}-{c.gmpo.clip}")
@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_gradient_does_not_depend_on_micro_batches(loss: PolicyLossConfig, cut: CutLimits) -> None:
    whole = make_actor(loss=loss)
    batch = make_batch(whole.policy)
    assert_same_gradients(gradients(make_actor(loss=loss, update_limits=cut), batch), gradients(whole, batch), 2e-6)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "qwen3_moe"])
def test_gradient_does_not_depend_on_micro_batches_with_pictures_kl_entropy_and_experts(family: str) -> None:
    options = dict(entropy_coef=0.01, kl_kind="low_var_kl")
    whole = make_actor(family, **options)
    batch = make_batch(whole.policy, family)
    batch.ref_log_probs_BT = batch.sampler_log_probs_BT - 0.2 * batch.mask_BT
    expected = gradients(whole, batch, kl_coef=0.1)
    for cut in (CutLimits(samples=1), CutLimits(samples=3), CutLimits(tokens=60)):
        assert_same_gradients(gradients(make_actor(family, update_limits=cut, **options), batch, kl_coef=0.1), expected, 2e-5)
    without = gradients(make_actor(family), batch)
    with pytest.raises(AssertionError):
        assert_same_gradients(without, expected, 1e-3)


def test_gradient_equals_separate_rows_through_transformers() -> None:
    actor = make_actor("qwen2_5_vl")
    batch = make_batch(actor.policy, "qwen2_5_vl")
    packed = gradients(actor, batch)
    actor.policy.module.zero_grad()
    loss = actor.config.loss
    rows = [(g.prompt, r.token_ids_T) for g in batch.groups for r in g.responses]
    for i, (prompt, response) in enumerate(rows):
        log_probs = stock_log_probs(actor.policy, prompt, response, 1.0)[None]
        width = log_probs.shape[1]
        part = compute_policy_loss(
            log_probs, batch.old_log_probs_BT[i : i + 1, :width], batch.advantages_BT[i : i + 1, :width],
            batch.mask_BT[i : i + 1, :width], loss,
        )  # fmt: skip
        (part.sum / count_units(batch.mask_BT, loss)).backward()
    separate = {n: p.grad for n, p in actor.policy.module.named_parameters() if p.grad is not None}
    assert_same_gradients(packed, separate, 2e-5)


@pytest.mark.parametrize("loss", LOSSES[:5], ids=lambda c: f"{c.loss_type}-{c.loss_avg_mode}-{c.gmpo.clip}")
def test_leaving_out_idle_groups_changes_no_gradient(loss: PolicyLossConfig) -> None:
    whole = make_actor(loss=loss)
    batch = make_batch(whole.policy, idle=(1, 3))
    assert_same_gradients(gradients(make_actor(loss=loss, drop_zero_advantage=True), batch), gradients(whole, batch), 2e-6)


def test_idle_mini_batch_moves_the_weights_as_a_gradient_of_zero_does() -> None:
    weights = []
    for drop in (False, True):
        policy = build_policy("qwen2")
        actor = adamw_actor(policy, lr=1e-2, drop_zero_advantage=drop, mini_batch_prompts=2)
        actor.update(make_batch(policy, idle=(2, 3)))  # the second mini-batch has no group left
        weights.append(torch.cat([p.detach().flatten() for p in policy.module.parameters()]))
    torch.testing.assert_close(weights[0], weights[1], atol=1e-6, rtol=0)


def test_leaving_out_groups_is_refused_where_they_have_a_balance_loss() -> None:
    with pytest.raises(ConfigError, match="drop_zero_advantage"):
        make_actor("qwen3_moe", drop_zero_advantage=True)


def test_on_policy_ratio_is_exactly_one_in_the_first_mini_batch() -> None:
    policy = build_policy("qwen2_5_vl")
    actor = adamw_actor(policy, lr=1e-3)
    batch = make_batch(policy, "qwen2_5_vl")
    batch.old_log_probs_BT = None
    metrics = actor.update(batch)
    assert metrics["ratio/token_min"] == metrics["ratio/token_max"] == 1.0
    assert metrics["rollout/log_prob_gap_max"] < 2e-5


def test_later_mini_batches_compare_with_the_samplers_log_probs() -> None:
    policy = build_policy("qwen2")
    actor = adamw_actor(policy, lr=1e-2, mini_batch_prompts=1)
    batch = make_batch(policy)
    batch.old_log_probs_BT = None
    metrics = actor.update(batch)
    assert metrics["ratio/token_min"] < 0.999 and metrics["ratio/token_max"] > 1.001
    assert metrics["actor/updates"] == 4


def test_log_ratios_of_sequences_are_sums_over_their_tokens_and_left_out_rows_have_none() -> None:
    actor = make_actor(drop_zero_advantage=True, mini_batch_prompts=1, update_limits=CutLimits(samples=3))
    batch = make_batch(actor.policy, idle=(1,))
    actor.update(batch)
    assert actor.log_ratios_B is not None
    assert (actor.log_ratios_B[: PARAMS.n] == 0).all()  # before the first optimizer step the policy is the old one
    for row, (group, response) in enumerate((g, r) for g in batch.groups for r in g.responses):
        if row // PARAMS.n == 1:
            assert torch.isnan(actor.log_ratios_B[row])
        if row // PARAMS.n < 2:
            continue
        new_T = stock_log_probs(actor.policy, group.prompt, response.token_ids_T, 1.0)
        old_T = batch.behaviour_log_probs_BT[row, : len(new_T)]
        assert float(actor.log_ratios_B[row]) == pytest.approx(float((new_T - old_T).double().sum()), abs=1e-4)


def test_recomputed_old_log_probs_equal_the_samplers() -> None:
    actor = make_actor("qwen2_5_vl", forward_limits=CutLimits(samples=3))
    batch = make_batch(actor.policy, "qwen2_5_vl")
    torch.testing.assert_close(actor.log_probs(batch), batch.sampler_log_probs_BT, atol=2e-5, rtol=1e-5)


def test_dropout_is_off_in_log_probs_and_on_in_updates() -> None:
    actor = make_actor(sampler_is_old=True)
    batch = make_batch(actor.policy)
    exact_BT = actor.log_probs(batch)
    actor.policy.config.attention_dropout = 0.5
    for layer in actor.policy.decoder.layers:
        layer.self_attn.attention_dropout = 0.5
    actor.policy.module.train()
    torch.testing.assert_close(actor.log_probs(batch), exact_BT)
    assert actor.policy.module.training  # as it was before
    actor.policy.module.eval()
    actor.log_probs(batch)
    assert not actor.policy.module.training
    without_dropout = float((exact_BT - batch.behaviour_log_probs_BT).exp().max())
    assert abs(actor.update(batch)["ratio/token_max"] - without_dropout) > 0.05


def test_entropy_metric_is_the_true_token_entropy() -> None:
    policy = build_policy("qwen2")
    actor = Actor(policy, torch.optim.SGD(policy.module.parameters(), lr=0.0), make_actor().config)
    batch = make_batch(policy)
    metrics = actor.update(batch)
    entropies = []
    for group in batch.groups:
        for response in group.responses:
            ids = torch.cat([group.prompt.input_ids_S, response.token_ids_T])
            logits = policy.module(ids[None]).logits[0, len(group.prompt.input_ids_S) - 1 : -1]
            logits[:, policy.forbidden_token_ids] = float("-inf")
            entropies.append(torch.distributions.Categorical(logits=logits).entropy())
    assert metrics["actor/entropy"] == pytest.approx(torch.cat(entropies).mean().item(), rel=1e-4)


def test_bad_gradients_skip_the_update_and_three_in_a_row_end_the_run() -> None:
    policy = build_policy("qwen2")
    actor = adamw_actor(policy, lr=1e-2, mini_batch_prompts=2)
    batch = make_batch(policy)
    before = [p.detach().clone() for p in policy.module.parameters()]
    infinite_BT = torch.full(batch.mask_BT.shape, float("inf"))
    batch.advantages_BT[0] = infinite_BT[0]
    metrics = actor.update(batch)  # the first of two mini-batches is bad
    assert metrics["actor/skipped_updates"] == 1 and metrics["actor/updates"] == 1
    assert actor.skipped_in_a_row == 0
    assert all(bool(torch.isfinite(p).all()) for p in policy.module.parameters())
    assert any(not torch.equal(p, q) for p, q in zip(policy.module.parameters(), before, strict=True))
    batch.advantages_BT = infinite_BT
    with pytest.raises(TrainingError, match="3 updates in a row"):
        actor.update(batch)
        actor.update(batch)


def test_micro_batches_hold_every_row_once_and_keep_groups_whole_where_they_fit() -> None:
    actor = make_actor()
    batch = make_batch(actor.policy)
    rows = list(range(len(batch)))
    for cut in [*CUTS, CutLimits(samples=6), CutLimits(tokens=1)]:
        parts = cut_into_micro_batches(batch, rows, cut)
        assert [row for part in parts for row in part] == rows
        if cut.samples is not None:
            assert max(map(len, parts)) <= cut.samples
    assert cut_into_micro_batches(batch, rows, CutLimits(samples=6)) == [rows[i : i + 4] for i in (0, 4, 8, 12)]
    assert [len(p) for p in cut_into_micro_batches(batch, rows, CutLimits(samples=8))] == [8, 8]
    groups = [Group(g.prompt, [r.token_ids_T for r in g.responses]) for g in batch.groups]
    budget = max(g.tokens for g in groups)
    parts = cut_into_micro_batches(batch, rows, CutLimits(tokens=budget))
    assert all(sum(g.tokens for g in batch.group_of(part)) <= budget for part in parts)
    assert PARAMS.n == 4


@pytest.mark.parametrize(
    ("step", "expected"), [(1, 0.0), (3, 1.0), (7, 0.55), (11, 0.1)]
)
def test_learning_rate_warms_up_and_follows_the_cosine(step: int, expected: float) -> None:
    class Optim:
        lr, lr_warmup_ratio, lr_warmup_steps, min_lr_ratio, lr_scheduler_type = 1.0, 0.0, 2, 0.1, "cosine"

    assert learning_rate(step, 10, Optim) == pytest.approx(expected, abs=1e-9)


def test_constant_learning_rate_stays() -> None:
    class Optim:
        lr, lr_warmup_ratio, lr_warmup_steps, min_lr_ratio, lr_scheduler_type = 3e-4, 0.0, None, None, "constant"

    assert {learning_rate(step, 10, Optim) for step in range(1, 11)} == {3e-4}
