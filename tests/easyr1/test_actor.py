"""`GMPOActor.update_policy` on small models of the real classes: gradients, metrics, and the local engine's own update."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from verl.workers.actor.dp_actor import DataParallelPPOActor

from gmpo_mm.algorithms import (
    Correction,
    PolicyLossConfig,
    correction_metrics,
    finalize_metrics,
    log_prob_gap,
    make_correction,
)
from gmpo_mm.algorithms.config import GMPOKeys, PowerMeanKeys
from gmpo_mm.engines.easyr1.actor import UPDATES, GMPOActor
from gmpo_mm.engines.easyr1.trainer import without_truncated
from gmpo_mm.errors import TrainingError
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.training.actor import Actor
from gmpo_mm.training.batch import Batch, CutLimits
from tests.easyr1.batches import (
    Setting,
    build_policy,
    gradients_and_metrics,
    stock_gradients,
    to_data_proto,
    without_packing,
)
from tests.models.model_zoo import IMAGE, VIDEO
from tests.training.builders import BASE, assert_same_gradients, gradients, make_batch

FAMILIES = ["qwen2", "qwen2_5_vl"]
LOSSES = [("gmpo", "token"), ("default", "seq"), ("default", "token"), ("gspo", "seq"), ("cispo", "seq"), ("sapo", "token")]
OF_EASYR1 = LOSSES[1:]
LOSSES = [*LOSSES, ("power_mean", "token"), ("reinforce", "seq")]


@pytest.fixture(scope="module")
def group() -> Iterator[None]:
    """A process group of one, which EasyR1's own actor needs."""
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield
    dist.destroy_process_group()


def make(family: str, ref: bool = False, on_policy: bool = False) -> tuple[Batch, PolicyModel]:
    """16 sampled rows of ragged lengths, pictures and text mixed where there are pictures, and the model.

    Ratios are far from 1, unless `on_policy`: what the local engine takes its first update of a step to be.
    """
    policy = build_policy(family)
    for seed in range(0, 1000, 10):  # a response with the token of a picture has no picture for it
        batch = make_batch(policy, family, seed=seed)
        sampled = torch.cat([response.token_ids_T for group in batch.groups for response in group.responses])
        if not torch.isin(sampled, torch.tensor([IMAGE, VIDEO])).any():
            break
    if on_policy:
        batch.old_log_probs_BT = None
    if ref:
        batch.ref_log_probs_BT = batch.sampler_log_probs_BT - 0.2 * batch.mask_BT
    return batch, policy


def relative(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    flat_a, flat_b = (torch.cat([g[k].double().flatten() for k in sorted(b)]) for g in (a, b))
    return float((flat_a - flat_b).norm() / flat_b.norm())


@pytest.mark.parametrize("micro", [1, 2, 4, -1], ids=["1", "2", "4", "dynamic"])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: "-".join(loss))
@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_is_the_full_batchs_for_every_cut(family: str, loss: tuple[str, str], micro: int) -> None:
    batch, policy = make(family, ref=True)
    module, data = without_packing(policy), to_data_proto(batch, policy)
    options = dict(loss_type=loss[0], loss_avg_mode=loss[1], kl_coef=0.1, entropy_coef=0.01)
    whole, _ = gradients_and_metrics(data, module, Setting(16, 16, **options))
    cut = Setting(16, 2, dynamic_batching=True, **options) if micro < 0 else Setting(16, micro, **options)
    found, _ = gradients_and_metrics(data, module, cut)
    assert_same_gradients(found, whole, 1e-6 if family == "qwen2" else 5e-6)


@pytest.mark.parametrize("loss", [("default", "seq"), ("gspo", "seq")], ids=["default-seq", "gspo-seq"])
def test_easyr1s_own_actor_depends_on_the_cut(group: None, loss: tuple[str, str]) -> None:
    batch, policy = make("qwen2")
    module, data = without_packing(policy), to_data_proto(batch, policy)
    options = dict(loss_type=loss[0], loss_avg_mode=loss[1])
    whole = stock_gradients(data, module, Setting(16, 16, **options))
    for micro in (1, 2, 4):
        stock = stock_gradients(data, module, Setting(16, micro, **options))
        assert relative(stock, whole) > 0.1
        exact, _ = gradients_and_metrics(data, module, Setting(16, micro, **options))
        assert relative(exact, whole) < 1e-6
        asked, _ = gradients_and_metrics(data, module, Setting(16, micro, seq_mean="easyr1", **options))
        assert relative(asked, stock) < 1e-5, "seq_mean=easyr1 is EasyR1's weighting"


@pytest.mark.parametrize("loss", OF_EASYR1, ids=lambda loss: "-".join(loss))
@pytest.mark.parametrize("family", FAMILIES)
def test_one_micro_batch_of_each_loss_is_easyr1s_own(group: None, family: str, loss: tuple[str, str]) -> None:
    batch, policy = make(family, ref=True)
    module, data = without_packing(policy), to_data_proto(batch, policy)
    setting = Setting(16, 16, loss_type=loss[0], loss_avg_mode=loss[1], kl_coef=0.1)
    ours, _ = gradients_and_metrics(data, module, setting)
    assert relative(ours, stock_gradients(data, module, setting)) < 1e-5


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: "-".join(loss))
@pytest.mark.parametrize("family", FAMILIES)
def test_one_update_gives_the_local_engines_weights(family: str, loss: tuple[str, str]) -> None:
    batch, policy = make(family, ref=True, on_policy=True)
    before = {name: p.detach().clone() for name, p in policy.module.named_parameters()}
    config = PolicyLossConfig(loss_type=loss[0], loss_avg_mode=loss[1])
    data = to_data_proto(batch, policy)
    local = build_policy(family)
    settings = replace(BASE, loss=config, kl_kind="low_var_kl", update_limits=CutLimits(samples=3), max_grad_norm=1e9)
    # SGD: Adam's first step is the sign of the gradient, and some gradients (biases of keys) are 0 but for rounding
    Actor(local, torch.optim.SGD(local.module.parameters(), lr=0.1), settings).update(copy.copy(batch), kl_coef=0.1)
    module = without_packing(policy)
    setting = Setting(16, 4, loss_type=loss[0], loss_avg_mode=loss[1], kl_coef=0.1)
    GMPOActor(setting.config(), module, torch.optim.SGD(module.parameters(), lr=0.1)).update_policy(data)
    expected = dict(local.module.named_parameters())
    with torch.no_grad():
        moved = max(float((expected[name] - weight).abs().max()) for name, weight in before.items())
        apart = max(float((expected[name] - weight).abs().max()) for name, weight in module.named_parameters())
    assert moved > 1e-2
    assert apart < 1e-5


@pytest.mark.parametrize("mode", ["token", "seq"])
@pytest.mark.parametrize("micro", [1, 4])
def test_truncated_responses_are_left_out_as_on_the_local_engine(mode: str, micro: int) -> None:
    batch, policy = make("qwen2", ref=True)
    responses = [response for group in batch.groups for response in group.responses]
    ends = [int(response.token_ids_T[-1]) for response in responses][:5]
    for group in batch.groups:
        group.responses[:] = [
            replace(r, stop_reason="stop" if int(r.token_ids_T[-1]) in ends else "length") for r in group.responses
        ]
    data = to_data_proto(batch, policy)
    before = data.batch["response_mask"].clone()
    trained = without_truncated(data, ends)
    assert torch.equal(data.batch["response_mask"], before), "EasyR1's own metrics are of all rows"
    options = dict(loss_type="default", loss_avg_mode=mode, kl_coef=0.1, entropy_coef=0.01)
    found, _ = gradients_and_metrics(trained, without_packing(policy), Setting(16, micro, **options))
    local = copy.copy(batch)
    local.advantages_BT = batch.advantages_BT.clone()
    local.leave_out_truncated()
    assert 0 < len(local.left_out) < 16
    assert torch.equal(data.batch["advantages"], local.advantages_BT)
    loss = PolicyLossConfig("default", loss_avg_mode=mode)
    settings = replace(BASE, loss=loss, kl_kind="low_var_kl", entropy_coef=0.01)
    model = build_policy("qwen2")
    expected = gradients(Actor(model, torch.optim.SGD(model.module.parameters(), lr=0.0), settings), local, kl_coef=0.1)
    assert_same_gradients({name: found[name] for name in expected}, expected, 1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_metrics_do_not_depend_on_the_cut_and_agree_with_the_local_engines(family: str) -> None:
    batch, policy = make(family, ref=True, on_policy=True)
    module, data = without_packing(policy), to_data_proto(batch, policy)
    _, whole = gradients_and_metrics(data, module, Setting(16, 16, kl_coef=0.1))
    _, cut = gradients_and_metrics(data, module, Setting(16, 1, kl_coef=0.1))
    local = build_policy(family)
    actor = Actor(local, torch.optim.SGD(local.module.parameters(), lr=0.0), replace(BASE, kl_kind="low_var_kl"))
    expected = actor.update(copy.copy(batch), kl_coef=0.1)
    names = {
        "actor/pg_loss", "actor/ppo_kl", "actor/entropy", "actor/kl_ref", "actor/kl_loss", "actor/kl_coef", "actor/grad_norm",
        "ratio/token_min", "ratio/token_max", "ratio/seq_geo_mean_min", "ratio/seq_geo_mean_max", "ratio/seq_product_log_min",
        "ratio/seq_product_log_max", "clip/high_frac", "clip/low_frac", "actor/updates", "actor/skipped_updates",
    }  # fmt: skip
    assert names <= whole.keys()
    for name in names:
        assert cut[name] == pytest.approx(whole[name], rel=1e-4, abs=1e-6), name
        assert whole[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-5), name


def test_each_mini_batch_has_its_own_metrics_and_the_step_has_all_of_them() -> None:
    batch, policy = make("qwen2")
    module, data = without_packing(policy), to_data_proto(batch, policy)
    _, metrics = gradients_and_metrics(data, module, Setting(4, 2, epochs=2))
    updates = metrics.pop(UPDATES)
    assert len(updates) == 8, "four mini-batches, twice"
    assert metrics["actor/updates"] == 8
    assert metrics["ratio/token_max"] == max(update["ratio/token_max"] for update in updates)
    assert metrics["ratio/token_min"] == min(update["ratio/token_min"] for update in updates)
    assert metrics["actor/pg_loss"] == pytest.approx(sum(update["actor/pg_loss"] for update in updates) / 8)
    assert metrics["actor/grad_norm"] == pytest.approx(sum(update["actor/grad_norm"] for update in updates) / 8)
    assert all(isinstance(value, float) for value in metrics.values())


def test_clip_options_reach_the_loss() -> None:
    batch, policy = make("qwen2")
    module, data = without_packing(policy), to_data_proto(batch, policy)
    found = {
        name: gradients_and_metrics(data, module, Setting(16, 4, gmpo=GMPOKeys(**options)))
        for name, options in {
            "wide": {"log_clip_low": 5.0, "log_clip_high": 5.0}, "none": {"clip": "none"}, "tight": {"log_clip_high": 0.01},
            "sum": {"normalize": False},
        }.items()
    }  # fmt: skip
    assert relative(found["wide"][0], found["none"][0]) < 1e-6
    assert relative(found["tight"][0], found["none"][0]) > 1e-3
    assert relative(found["sum"][0], found["none"][0]) > 1e-3
    assert found["tight"][1]["clip/high_frac"] > 0 == found["wide"][1]["clip/high_frac"]


def test_the_exponent_of_the_power_mean_reaches_the_loss() -> None:
    batch, policy = make("qwen2")
    module, data = without_packing(policy), to_data_proto(batch, policy)
    gmpo = gradients_and_metrics(data, module, Setting(16, 4))[0]
    at = {
        p: gradients_and_metrics(data, module, Setting(16, 4, loss_type="power_mean", power_mean=PowerMeanKeys(p=p)))[0]
        for p in (0.0, 1.0)
    }
    assert relative(at[0.0], gmpo) < 1e-6
    assert relative(at[1.0], gmpo) > 1e-3


CORRECTIONS_OF_A_BATCH = [
    make_correction("truncated", 1.1), make_correction("masked", 1.4, 0.8), make_correction("sequence_truncated", 1.2),
    make_correction("sequence_masked", 2.0, 0.4), make_correction("geometric_masked", 1.1, 0.95),
]  # fmt: skip


@pytest.mark.parametrize("correction", CORRECTIONS_OF_A_BATCH, ids=lambda correction: correction.kind)
@pytest.mark.parametrize("loss", [("gmpo", "token"), ("default", "token")], ids=["gmpo", "default"])
def test_a_corrected_gradient_and_its_metrics_are_the_local_engines_for_every_cut(
    loss: tuple[str, str], correction: Correction
) -> None:
    batch, policy = make("qwen2")
    data = to_data_proto(batch, policy)
    optimizer = torch.optim.SGD(policy.module.parameters(), lr=0.0)
    settings = replace(BASE, loss=PolicyLossConfig(loss[0], loss_avg_mode=loss[1]), correction=correction)
    actor = Actor(policy, optimizer, settings)
    expected = gradients(actor, batch)
    optimizer.zero_grad()
    compared = (batch.old_log_probs_BT, batch.sampler_log_probs_BT, batch.mask_BT)
    numbers = finalize_metrics(correction_metrics(*compared, correction) | log_prob_gap(*compared))
    assert 0 < numbers["correction/ess"] < 1 and (numbers["correction/masked_frac"] > 0) == ("masked" in correction.kind)
    module = without_packing(policy)
    for micro in (16, 1):
        found, metrics = gradients_and_metrics(data, module, Setting(16, micro, *loss, correction=correction))
        assert_same_gradients(found, expected, 1e-5)
        assert {name: metrics[name] for name in numbers} == pytest.approx(numbers, rel=1e-5)


def test_log_probabilities_are_easyr1s_own_and_no_entropy_is_computed_for_them() -> None:
    batch, policy = make("qwen2")
    module, data = without_packing(policy), to_data_proto(batch, policy)
    ours = GMPOActor(Setting(16).config(), module)
    assert torch.equal(ours.compute_log_prob(data), DataParallelPPOActor(Setting(16).config(), module).compute_log_prob(data))
    mask = batch.mask_BT
    assert torch.allclose(ours.compute_log_prob(data)[mask], batch.sampler_log_probs_BT[mask], atol=1e-5)


def test_three_bad_gradients_in_a_row_end_the_run_and_one_is_counted() -> None:
    batch, policy = make("qwen2")
    module, data = without_packing(policy), to_data_proto(batch, policy)
    data.batch["advantages"][0] = float("inf")  # in the first of four mini-batches
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    actor = GMPOActor(Setting(4).config(), module, torch.optim.SGD(module.parameters(), lr=1e-3))
    metrics = actor.update_policy(data)
    assert (metrics["actor/updates"], metrics["actor/skipped_updates"]) == (3.0, 1.0)
    assert all(torch.isfinite(p).all() for p in module.parameters())
    assert any(not torch.equal(p, before[name]) for name, p in module.named_parameters())
    data.batch["advantages"][:] = float("inf")
    with pytest.raises(TrainingError, match="3 updates in a row had a gradient norm of (nan|inf)"):
        actor.update_policy(data)


def test_lora_adapters_alone_are_trained_and_their_gradient_does_not_depend_on_the_cut() -> None:
    from peft import LoraConfig, get_peft_model

    batch, policy = make("qwen2")
    data, module = to_data_proto(batch, policy), without_packing(policy)
    adapted = get_peft_model(module, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in adapted.named_parameters():
        if ".lora_B." in name:  # zero at first, where A has no gradient
            torch.nn.init.normal_(parameter, std=0.1)
    whole, _ = gradients_and_metrics(data, adapted, Setting(16, 16))
    assert all(".lora_" in name for name in whole) and any(".lora_A." in name for name in whole)
    for micro in (1, 4):
        assert_same_gradients(gradients_and_metrics(data, adapted, Setting(16, micro))[0], whole, 1e-6)


def test_entropies_of_unpadded_tokens_go_back_to_their_places() -> None:
    """EasyR1's padding-free path needs flash-attention; what is ours of it is the way back from (N,) to (B, T)."""
    attention_BS = torch.tensor([[0, 1, 1, 1, 0], [1, 1, 1, 1, 1], [0, 0, 1, 0, 0]])
    values_N = torch.arange(1.0, 10.0)
    actor = GMPOActor(Setting(3).config(), torch.nn.Linear(1, 1))
    expected = torch.tensor([[0, 1, 2, 3, 0], [4, 5, 6, 7, 8], [0, 0, 9, 0, 0]], dtype=torch.float32)
    assert torch.equal(actor._padded(values_N, attention_BS), expected)
