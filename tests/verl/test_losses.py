"""Our losses inside verl's FSDP2 engine: the gradient is the full batch's for every cut, and the local engine's."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode
from verl.utils.metric import Metric as VerlMetric

from gmpo_mm.algorithms import Correction, PolicyLossConfig, finalize_metrics, make_correction, merge_metrics
from gmpo_mm.algorithms.config import GMPOKeys, PowerMeanKeys
from gmpo_mm.engines.verl import losses
from gmpo_mm.engines.verl.batch_metrics import corrected
from gmpo_mm.engines.verl.losses import MARK, take_metrics
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.training.actor import Actor
from gmpo_mm.training.batch import Batch
from tests.distributed.ranks import on_ranks
from tests.training.builders import BASE, assert_same_gradients, gradients, make_batch
from tests.verl.batches import Setting, build_engine, build_policy, gradients_and_metrics, save, to_rows

LOSSES = [("gmpo", "token"), ("default", "seq"), ("default", "token"), ("gspo", "seq"), ("cispo", "seq"), ("sapo", "token")]
LOSSES += [("power_mean", "token"), ("reinforce", "seq")]
TERMS = dict(kl_coef=0.1, entropy_coef=0.01)


def make(family: str) -> tuple[Batch, PolicyModel]:
    """Sampled rows of ragged lengths, 16 of text or 12 with pictures; ratios far from 1."""
    policy = build_policy(family)
    batch = make_batch(policy, family)
    if policy.vision is not None:  # verl can't train Qwen2.5-VL on rows without: see preflight.check_pictures
        batch = _with_pictures(batch)
    batch.ref_log_probs_BT = batch.sampler_log_probs_BT - 0.2 * batch.mask_BT
    return batch, policy


def _with_pictures(batch: Batch) -> Batch:
    kept = [group for group in batch.groups if group.prompt.pixel_values is not None]
    rows = [i for i, p in enumerate(g.prompt for g in batch.groups for _ in g.responses) if p.pixel_values is not None]
    fewer = Batch(kept)
    width = fewer.mask_BT.shape[1]
    fewer.advantages_BT, fewer.old_log_probs_BT = batch.advantages_BT[rows, :width], batch.old_log_probs_BT[rows, :width]
    return fewer


@pytest.fixture(scope="module")
def group() -> Iterator[None]:
    """A process group of one, which verl's engine needs."""
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=["qwen2", "qwen2_5_vl"])
def setup(request: pytest.FixtureRequest, group: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    """(batch, rows, policy of the local engine, engine of verl's) on the same weights."""
    batch, policy = make(request.param)
    rows = to_rows(batch, policy)
    return batch, rows, policy, build_engine(save(policy, tmp_path_factory.mktemp(request.param)))


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: "-".join(loss))
def test_the_gradient_is_the_full_batchs_for_every_cut(setup: tuple[Any, ...], loss: tuple[str, str]) -> None:
    _, rows, _, engine = setup
    options = dict(loss_type=loss[0], loss_avg_mode=loss[1], **TERMS)
    n = len(rows)
    whole, _ = gradients_and_metrics(rows, engine, Setting(n, n, **options))
    for micro in (1, 2, 4):
        assert_same_gradients(gradients_and_metrics(rows, engine, Setting(n, micro, **options))[0], whole, 5e-6)
    dynamic, metrics = gradients_and_metrics(rows, engine, Setting(n, 1, dynamic_batching=True, **options))
    assert 1 < len(metrics["actor/pg_loss"].values) < n, "several micro-batches of several rows"
    assert_same_gradients(dynamic, whole, 5e-6)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: "-".join(loss))
def test_the_gradient_is_the_local_engines(setup: tuple[Any, ...], loss: tuple[str, str]) -> None:
    """The local engine's own are checked against float64 by hand in tests/algorithms and tests/training."""
    batch, rows, policy, engine = setup
    found, _ = gradients_and_metrics(rows, engine, Setting(len(rows), 4, *loss, kl_coef=0.1))
    optimizer = torch.optim.SGD(policy.module.parameters(), lr=0.0)
    update = {**BASE.__dict__, "loss": PolicyLossConfig(loss[0], loss_avg_mode=loss[1]), "kl_kind": "low_var_kl"}
    actor = Actor(policy, optimizer, type(BASE)(**update))
    expected = gradients(actor, batch, kl_coef=0.1)
    assert_same_gradients({name: found[name] for name in expected}, expected, 1e-5)


@pytest.mark.parametrize("mode", ["token", "seq"])
@pytest.mark.parametrize("micro", [1, 4])
def test_rows_without_a_valid_token_are_left_out_as_on_the_local_engine(setup: tuple[Any, ...], mode: str, micro: int) -> None:
    """What `algorithm.mask_truncated_completions` puts into verl's queue, with its KL and entropy terms."""
    batch, rows, policy, engine = setup
    out = {0, 1, 2, 3, 6, 13}
    masked = [
        row | {name: row[name] * 0 for name in ("response_mask", "loss_mask", "advantages")} if i in out else row
        for i, row in enumerate(rows)
    ]
    found, _ = gradients_and_metrics(masked, engine, Setting(len(rows), micro, "default", mode, **TERMS))
    expected = local_gradients(leaving_out(batch, out), policy, PolicyLossConfig("default", loss_avg_mode=mode), TERMS)
    assert_same_gradients({name: found[name] for name in expected}, expected, 1e-5)
    nothing = [row | {name: row[name] * 0 for name in ("response_mask", "loss_mask", "advantages")} for row in rows]
    found, metrics = gradients_and_metrics(nothing, engine, Setting(len(rows), micro, "default", mode, **TERMS))
    terms = {name: float(value.aggregate()) for name, value in metrics.items() if name in ("actor/entropy_loss", "kl_loss")}
    assert list(terms.values()) == [0.0, 0.0], terms
    assert all(float(gradient.abs().max()) == 0 for gradient in found.values())


def leaving_out(batch: Batch, out: set[int]) -> Batch:
    groups, number = [], 0
    for group in batch.groups:
        reasons = ["length" if number + i in out else "stop" for i in range(len(group.responses))]
        responses = [replace(r, stop_reason=reason) for r, reason in zip(group.responses, reasons, strict=True)]
        groups.append(replace(group, responses=responses))
        number += len(responses)
    other = copy.copy(batch)
    other.groups, other.advantages_BT = groups, batch.advantages_BT.clone()
    other.leave_out_truncated()
    return other


def local_gradients(
    batch: Batch, policy: PolicyModel, loss: PolicyLossConfig, terms: dict[str, float]
) -> dict[str, torch.Tensor]:
    optimizer = torch.optim.SGD(policy.module.parameters(), lr=0.0)
    update = {**BASE.__dict__, "loss": loss, "kl_kind": "low_var_kl", "entropy_coef": terms["entropy_coef"]}
    return gradients(Actor(policy, optimizer, type(BASE)(**update)), batch, kl_coef=terms["kl_coef"])


CORRECTIONS_OF_A_BATCH = [
    make_correction("truncated", 1.1), make_correction("masked", 1.4, 0.8), make_correction("sequence_truncated", 1.2),
    make_correction("sequence_masked", 2.0, 0.4), make_correction("geometric_masked", 1.1, 0.95),
]  # fmt: skip


@pytest.mark.parametrize("correction", CORRECTIONS_OF_A_BATCH, ids=lambda correction: correction.kind)
@pytest.mark.parametrize("loss", [("gmpo", "token"), ("default", "token")], ids=["gmpo", "default"])
def test_a_corrected_gradient_is_the_local_engines_for_every_cut(
    setup: tuple[Any, ...], loss: tuple[str, str], correction: Correction
) -> None:
    batch, _, policy, engine = setup
    compared = {"old_log_probs": batch.old_log_probs_BT, "rollout_log_probs": batch.sampler_log_probs_BT}
    weights_BT, numbers = corrected(compared | {"response_mask": batch.mask_BT}, correction)
    assert 0 < numbers["correction/ess"] < 1 and (numbers["correction/masked_frac"] > 0) == ("masked" in correction.kind)
    rows = to_rows(batch, policy, weights_BT)
    optimizer = torch.optim.SGD(policy.module.parameters(), lr=0.0)
    update = {**BASE.__dict__, "loss": PolicyLossConfig(loss[0], loss_avg_mode=loss[1]), "correction": correction}
    expected = gradients(Actor(policy, optimizer, type(BASE)(**update)), batch)
    for micro in (1, 4):
        found, _ = gradients_and_metrics(rows, engine, Setting(len(rows), micro, *loss))
        assert_same_gradients({name: found[name] for name in expected}, expected, 1e-5)


@pytest.mark.parametrize(
    "gmpo",
    [
        GMPOKeys(clip="none"), GMPOKeys(clip="sequence"), GMPOKeys(normalize=False),
        GMPOKeys(log_clip_low=0.1),
    ],
    ids=["no clip", "sequence clip", "not normalised", "other bound"],
)
def test_the_options_of_gmpo_reach_the_loss(setup: tuple[Any, ...], gmpo: GMPOKeys) -> None:
    _, rows, _, engine = setup
    plain, _ = gradients_and_metrics(rows, engine, Setting(len(rows), 4))
    other, _ = gradients_and_metrics(rows, engine, Setting(len(rows), 4, gmpo=gmpo))
    flat = [torch.cat([g[name].flatten() for name in sorted(plain)]) for g in (plain, other)]
    assert float((flat[0] - flat[1]).norm() / flat[0].norm()) > 1e-3


def test_the_exponent_of_the_power_mean_reaches_the_loss(setup: tuple[Any, ...]) -> None:
    _, rows, _, engine = setup
    gmpo, _ = gradients_and_metrics(rows, engine, Setting(len(rows), 4))
    flat = [torch.cat([gmpo[name].flatten() for name in sorted(gmpo)])]
    for p in (0.0, 1.0):
        setting = Setting(len(rows), 4, loss_type="power_mean", power_mean=PowerMeanKeys(p=p))
        found, _ = gradients_and_metrics(rows, engine, setting)
        flat.append(torch.cat([found[name].flatten() for name in sorted(gmpo)]))
    assert float((flat[1] - flat[0]).norm() / flat[0].norm()) < 1e-6
    assert float((flat[2] - flat[0]).norm() / flat[0].norm()) > 1e-3


def arrived(metrics: dict[str, Any]) -> dict[str, float]:
    """Metrics of micro-batches as they reach the trainer."""
    columns = {name: [value.aggregate()] for name, value in metrics.items() if isinstance(value, VerlMetric)}
    return finalize_metrics(merge_metrics(take_metrics(columns)))


def test_metrics_do_not_depend_on_the_cut(setup: tuple[Any, ...]) -> None:
    _, rows, _, engine = setup
    n = len(rows)
    whole = arrived(gradients_and_metrics(rows, engine, Setting(n, n, kl_coef=0.1))[1])
    assert {"ratio/token_min", "ratio/token_max", "clip/high_frac", "clip/low_frac", "actor/kl_ref"} <= whole.keys()
    assert whole["ratio/token_min"] < 0.9 < 1.1 < whole["ratio/token_max"] and 0 < whole["clip/high_frac"] < 1
    for micro in (1, 4):
        cut = arrived(gradients_and_metrics(rows, engine, Setting(n, micro, kl_coef=0.1))[1])
        assert cut == pytest.approx(whole, rel=1e-5, abs=1e-7)


class ReadBacks(TorchDispatchMode):
    """Counts the values that the host reads one by one; on a GPU each waits for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_our_metrics_read_the_device_once_a_micro_batch(
    setup: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As often as verl does with no metric of ours, but for one transfer of all their numbers together."""
    _, rows, _, engine = setup
    setting = Setting(len(rows), 4, kl_coef=0.1)
    with ReadBacks() as ours:
        _, metrics = gradients_and_metrics(rows, engine, setting)
    numbers = [name for name in metrics if name.startswith(MARK)]
    transfers = []
    monkeypatch.setattr(losses, "_travelling", lambda metrics, ranks: transfers.append(len(metrics)) or {})
    with ReadBacks() as verls:
        gradients_and_metrics(rows, engine, setting)
    assert len(transfers) == -(-len(rows) // 4) and len(numbers) >= transfers[0] > 5
    assert ours.count == verls.count


ROWS = ([0, 1, 4, 6, 9, 10, 12, 15], [2, 3, 5, 7, 8, 11, 13, 14])  # other lengths on each rank


def _rank(rank: int, folder: str) -> dict[str, torch.Tensor]:
    batch, policy = make("qwen2")
    rows = to_rows(batch, policy)
    engine = build_engine(Path(folder))
    found: dict[str, torch.Tensor] = {}
    for name, loss in (("gmpo", ("gmpo", "token")), ("grpo", ("default", "seq")), ("tokens", ("default", "token"))):
        for micro in (1, 2, 4, 0):
            setting = Setting(16, micro or 1, *loss, dynamic_batching=micro == 0, **TERMS)
            gradients, _ = gradients_and_metrics([rows[i] for i in ROWS[rank]], engine, setting)
            found[f"{name}/{micro}"] = torch.cat([gradients[key].flatten() for key in sorted(gradients)])
    return found


def test_two_workers_have_the_full_batchs_gradient(group: None, tmp_path: Path) -> None:
    batch, policy = make("qwen2")
    folder = save(policy, tmp_path / "model")
    first, second = on_ranks(2, _rank, tmp_path, str(folder))
    engine, rows = build_engine(folder), to_rows(batch, policy)
    for name, loss in (("gmpo", ("gmpo", "token")), ("grpo", ("default", "seq")), ("tokens", ("default", "token"))):
        gradients, _ = gradients_and_metrics(rows, engine, Setting(16, 16, *loss, **TERMS))
        whole = torch.cat([gradients[key].flatten() for key in sorted(gradients)])
        for micro in (1, 2, 4, 0):
            key = f"{name}/{micro}"
            assert torch.equal(first[key], second[key])
            assert float((first[key] - whole).norm() / whole.norm()) < 5e-6
