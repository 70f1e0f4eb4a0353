"""Whole runs on the GPU's path, with the written-out attention kernel in place of flash, on the CPU."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from gmpo_mm.config.schema import ModelConfig
from gmpo_mm.models import loading
from gmpo_mm.models import policy as policies
from gmpo_mm.models.two_part_attention import REFERENCE, two_part_attention
from gmpo_mm.runs.metrics_file import read_metrics
from gmpo_mm.training.trainer import Trainer
from tests.engine.runs import arguments, run_here, train_metrics, weights
from tests.engine.test_variants import weights_of_bundled
from tests.models.model_zoo import IS_V5

pytestmark = pytest.mark.skipif(not IS_V5, reason="the GPU path of pictures needs transformers 5")
SIXTEEN_BIT = ("trainer.dtype=bfloat16", "worker.rollout.max_log_prob_gap=1.0", "worker.actor.optim.lr=1e-4")


@pytest.fixture(autouse=True)
def gpu_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """What depends on a device being a GPU: how weights are stored, and which attention a policy takes."""
    store = loading.store_weights
    monkeypatch.setattr(loading, "store_weights", lambda *args, sixteen_bit: store(*args, sixteen_bit=True))
    attention = partial(two_part_attention, kernel=REFERENCE)
    monkeypatch.setattr(policies, "choose_attention", lambda device, dtype: attention)
    monkeypatch.setattr(policies, "FLASH", REFERENCE)


@pytest.fixture
def optimizers(monkeypatch: pytest.MonkeyPatch) -> list[torch.optim.Optimizer]:
    """The optimizer of each run."""
    seen: list[torch.optim.Optimizer] = []
    fit = Trainer.fit
    monkeypatch.setattr(Trainer, "fit", lambda self: seen.append(self.actor.optimizer) or fit(self))
    return seen


def test_a_run_saves_its_float32_weights_and_goes_on_with_them(
    data: Path, tmp_path: Path, optimizers: list[torch.optim.Optimizer]
) -> None:
    whole = run_here(arguments(data, tmp_path / "whole", *SIXTEEN_BIT, "trainer.max_steps=3"))
    parts = arguments(data, tmp_path / "parts", *SIXTEEN_BIT, "trainer.save_freq=1")
    run_here([*parts, "trainer.max_steps=2"])
    resumed = run_here([*parts, "trainer.max_steps=3"])
    assert train_metrics(resumed) == train_metrics(whole)
    expected, found = weights(whole, 3), weights(resumed, 3)
    assert expected.keys() == found.keys() and all(torch.equal(expected[n], found[n]) for n in expected)
    masters = [state["master"] for state in optimizers[-1].state.values()]
    assert masters and all(m.dtype == torch.float32 for m in masters)
    # the files hold what bfloat16 could not
    assert any(not torch.equal(w, w.bfloat16().float()) for w in found.values() if w.dim() == 2)
    start = weights_of_bundled()
    assert any(not torch.equal(start[name], found[name]) for name in found)


@pytest.mark.parametrize(
    "overrides",
    [
        ("worker.actor.model.lora.rank=4",),
        ("worker.actor.model.freeze_vision_tower=true",),
        (
            "algorithm.disable_kl=false",
            "algorithm.use_kl_loss=true",
            "worker.actor.entropy_coef=0.01",
            "algorithm.drop_zero_advantage=false",
        ),
    ],
    ids=["lora", "frozen vision", "kl and entropy"],
)
def test_variants_run_and_resume(data: Path, tmp_path: Path, overrides: tuple[str, ...]) -> None:
    args = arguments(data, tmp_path / "run", *SIXTEEN_BIT, *overrides, "trainer.save_freq=1")
    run_here([*args, "trainer.max_steps=1"])
    first, second = train_metrics(run_here([*args, "trainer.max_steps=2"]))
    for line in (first, second):
        assert line["actor/grad_norm"] > 0 and line["rollout/log_prob_gap_mean"] < 0.2
    if "actor/kl_ref" in first:  # the reference is bfloat16 too, and starts as the policy's equal
        assert first["actor/kl_ref"] < 1e-3


def test_a_step_with_one_update_makes_no_pass_for_old_log_probs(data: Path, tmp_path: Path) -> None:
    lines = {}
    for prompts in (4, 2):  # of the step's four
        size = f"worker.actor.global_batch_size={prompts}"
        run_dir = run_here(
            arguments(data, tmp_path / str(prompts), *SIXTEEN_BIT, size, "trainer.max_steps=1")
        )
        lines[prompts] = next(x for x in read_metrics(run_dir / "metrics.jsonl") if x["kind"] == "train")
    one, two = lines[4], lines[2]
    assert "timing_s/old" not in one and "timing_s/old" in two
    assert one["rollout/log_prob_gap_mean"] > 0 and two["rollout/log_prob_gap_mean"] > 0
    assert one["ratio/token_min"] == one["ratio/token_max"] == 1.0


def test_an_evaluation_holds_no_float32_weights() -> None:
    options = ModelConfig(model_path="bundled:qwen2_5_vl_tiny")
    sizes = {"device": torch.device("cpu"), "compute_dtype": torch.bfloat16}
    policy, _ = loading.load_policy(options, **sizes, trains=False)
    assert policy.masters == {} and loading.load_policy(options, **sizes)[0].masters
    for parameter in policy.module.parameters():
        assert parameter.dtype == torch.bfloat16 and not parameter.requires_grad
