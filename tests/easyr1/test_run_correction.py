"""A whole run of EasyR1 on the CPU whose sampler differs from the model: its log-probabilities reach the loss."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gmpo_mm.algorithms import correction_metrics, finalize_metrics, make_correction
from gmpo_mm.inspection.replay import replay
from gmpo_mm.runs.step_record import load_step
from tests.easyr1.test_run import STEP_LIMIT, data, finish, lines, overrides, start

__all__ = ["data"]


@pytest.mark.timeout(STEP_LIMIT)
def test_a_correction_of_a_truncated_sampler_reaches_the_loss_as_on_the_local_engine(
    data: Path, tmp_path: Path
) -> None:
    """Sampled by the stand-in for vLLM with top_p; the run's first update is the local engine's with the same correction."""
    from gmpo_mm.runs.fsdp_checkpoint import merged_model
    from tests.easyr1.same_update import local_weights

    run, dump = tmp_path / "run", tmp_path / "batch.pt"
    texts = overrides(
        data, run, 1, "data.val_files=", "trainer.val_freq=-1", "trainer.val_before_train=false", "trainer.max_steps=1",
        "worker.rollout.top_p=0.8", "worker.rollout.temperature=1.5", "worker.rollout.correction=masked",
        "worker.rollout.correction_floor=0.9", "worker.rollout.correction_cap=1.2", "worker.actor.optim.lr=2e-5",
        "trainer.record_steps=[1]",
    )  # fmt: skip
    finish(start(1, texts, str(dump)))
    kept = torch.load(dump, weights_only=True)
    correction = make_correction("masked", 1.2, 0.9)
    assert correction is not None
    compared = (kept["old_log_probs"], kept["sampler_log_probs"], kept["response_mask"], correction)
    numbers = finalize_metrics(correction_metrics(*compared))
    (line,) = lines(run, "train")
    assert 0 < numbers["correction/masked_frac"] < 1 and line["rollout/log_prob_gap_max"] > 0.01
    assert {name: line[name] for name in numbers} == pytest.approx(numbers, rel=1e-5)
    before, expected, agree = local_weights(run, dump, data / "train.parquet")
    assert agree, "both engines build the same prompt"
    found = load_file(merged_model(run / "global_step_1") / "model.safetensors")
    moved = torch.cat([(expected[name] - weight).flatten() for name, weight in before.items()])
    apart = torch.cat([(expected[name] - weight).flatten() for name, weight in found.items()])
    assert moved.abs().max() > 1e-5
    assert apart.abs().max() < 2e-5 and apart.norm() < 2e-3 * moved.norm()
    record = load_step(run, 1)
    mask_BT = kept["response_mask"].bool()
    assert record.sampler_log_probs_BT is not None
    assert torch.equal(record.sampler_log_probs_BT[record.mask_BT], kept["sampler_log_probs"][mask_BT])
    assert replay(run, 1).first_difference is None, "the record has what the correction reads"
