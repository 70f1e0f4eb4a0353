"""`worker.rollout.emulate` in whole runs: the sampler's log-probabilities are its own, and corrections see it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gmpo_mm.algorithms import truncated_importance_weights
from gmpo_mm.config import load_config
from gmpo_mm.engines.checks import notes, validate_for_training
from gmpo_mm.errors import ConfigError
from gmpo_mm.rollout.rounding import ROUNDINGS
from gmpo_mm.training.actor import Actor
from gmpo_mm.training.batch import Batch
from tests.engine.runs import SAVING, arguments, file_bytes, policy_of, run_here, train_metrics

EMULATE, CORRECTION = "worker.rollout.emulate", "worker.rollout.correction"
SAVED = (*SAVING, "worker.actor.optim.lr=1e-3")
ONE_UPDATE = ("worker.actor.global_batch_size=4", "algorithm.drop_zero_advantage=false")


def test_an_int8_sampler_reports_its_own_log_probs_and_a_correction_weighs_them(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[tuple[Actor, Batch]] = []
    update = Actor.update
    monkeypatch.setattr(
        Actor, "update", lambda self, batch, *more: batches.append((self, batch)) or update(self, batch, *more)
    )
    runs = [
        run_here(arguments(data, tmp_path / name, *SAVED, *ONE_UPDATE, f"{EMULATE}.weights=int8", *more))
        for name, more in (("plain", ()), ("corrected", (f"{CORRECTION}=truncated", "worker.actor.old_log_probs=recompute")))
    ]
    plain, corrected = (train_metrics(run) for run in runs)
    assert plain[0]["critic/score/mean"] == corrected[0]["critic/score/mean"], "the first step samples the same"
    assert file_bytes(runs[0], 1)["huggingface/model.safetensors"] != file_bytes(runs[1], 1)["huggingface/model.safetensors"]

    actor, batch = batches[3]  # step 2 of the corrected run
    trainer, rounded = policy_of(data, runs[1], 1), policy_of(data, runs[1], 1)
    with torch.no_grad():
        for module in rounded.module.modules():
            if isinstance(module, torch.nn.Linear) and module is not rounded.lm_head:
                module.weight.copy_(ROUNDINGS["int8"](module.weight))
    own, of_sampler = actor.log_probs(batch, trainer), actor.log_probs(batch, rounded)
    torch.testing.assert_close(batch.sampler_log_probs_BT, of_sampler, atol=2e-5, rtol=0)
    torch.testing.assert_close(batch.old_log_probs_BT, own, atol=2e-5, rtol=0)
    gap_N = (own - of_sampler).abs()[batch.mask_BT]
    assert float(gap_N.max()) > 1e-3, "50 times what rounding in float32 leaves"
    assert corrected[1]["rollout/log_prob_gap_mean"] == pytest.approx(float(gap_N.mean()), rel=0.05)
    weights_BT = truncated_importance_weights(batch.old_log_probs_BT, batch.sampler_log_probs_BT, batch.mask_BT, 2.0)
    assert float((weights_BT - 1).abs().max()) > 1e-3
    assert 0 < corrected[1]["rollout/rounding_error"] < 0.02


def test_a_gap_that_was_asked_for_does_not_end_the_run(data: Path, tmp_path: Path) -> None:
    more = ("worker.rollout.max_log_prob_gap=1e-4", "trainer.max_steps=1", *ONE_UPDATE)
    args = arguments(data, tmp_path / "run", *SAVED, *more, f"{EMULATE}={{logits_noise: 0.5, top_p: 0.9}}")
    (line,) = train_metrics(run_here(args))
    assert line["rollout/log_prob_gap_mean"] > 1e-2
    assert line["ratio/token_max"] == 1.0, "the old policy is the trainer's, as for every sampler that differs"
    said = "\n".join(notes(load_config(args[0], args[1:])))
    assert "the sampler differs on purpose" in said and "worker.rollout.max_log_prob_gap" in said


def test_stale_and_disturbed_the_old_policy_is_the_one_that_sampled(data: Path, tmp_path: Path) -> None:
    args = arguments(data, tmp_path / "run", *SAVED, *ONE_UPDATE, f"{EMULATE}.logits_noise=0.5", "worker.rollout.staleness=1")
    for line in train_metrics(run_here(args)):
        assert line["ratio/token_max"] > 1.01
    rows = (tmp_path / "run/samples/step_1_train.jsonl").read_text().splitlines()
    assert all(json.loads(row)["log_ratio"] != 0 for row in rows)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([f"{EMULATE}.weights=fp4"], r"emulate\.weights = 'fp4': it must be one of none, bfloat16, float8_e4m3, int8"),
        ([f"{EMULATE}.logits_noise=-0.1"], r"emulate\.logits_noise = -0\.1: it must be at least 0"),
        ([f"{EMULATE}.top_p=0"], r"emulate\.top_p = 0\.0: it must be above 0 and at most 1"),
        ([f"{EMULATE}.weight=int8"], r"emulate\.weight\b.*weights"),
        ([f"{EMULATE}.top_p=0.9", "worker.rollout.name=vllm"], r"emulate\.top_p = 0\.9: .*set worker\.rollout\.name=hf"),
        ([f"{EMULATE}.weights=int8", "engine=verl"], r"emulate\.weights = 'int8': engine=verl .*use engine=local"),
        ([f"{EMULATE}.weights=int8", "engine=easyr1"], r"emulate\.weights = 'int8': engine=easyr1 .*use engine=local"),
    ],
)
def test_bad_settings_are_refused_with_key_value_and_fix(
    data: Path, tmp_path: Path, settings: list[str], message: str
) -> None:
    args = arguments(data, tmp_path / "run", *settings)
    with pytest.raises(ConfigError, match=message):
        validate_for_training(load_config(args[0], args[1:]))


def test_a_lag_that_nothing_sees_is_said(data: Path, tmp_path: Path) -> None:
    hidden = ["worker.rollout.staleness=2", "worker.actor.old_log_probs=recompute"]
    args = arguments(data, tmp_path / "run", *hidden)
    assert "nothing in the loss knows of the lag" in "\n".join(notes(load_config(args[0], args[1:])))
    for seen in ([hidden[0]], [*hidden, f"{CORRECTION}=truncated"]):
        args = arguments(data, tmp_path / "run", *seen)
        assert "lag" not in "\n".join(notes(load_config(args[0], args[1:])))
