"""A whole run of verl on the CPU whose sampler differs from the model: the weights that reach the loss, and what they train."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gmpo_mm.algorithms import correction_weights, make_correction
from tests.verl.repeated import repeated_on_local
from tests.verl.runs import LIMIT, finish, lines, start, text


@pytest.mark.timeout(LIMIT)
def test_a_correction_of_a_truncated_sampler_reaches_the_loss_as_on_the_local_engine(
    data: Path, tmp_path: Path
) -> None:
    """With top_p the sampler is surer than the model; the run makes the weights that the local function makes of its
    log-probabilities, and its first update is the local engine's with the same correction."""
    from gmpo_mm.runs.fsdp_checkpoint import merged_model
    from tests.verl.same_update import local_weights

    run, dump = tmp_path / "run", tmp_path / "batch.pt"
    bounds = (
        "worker.rollout.correction=masked",
        "worker.rollout.correction_floor=0.9",
        "worker.rollout.correction_cap=1.2",
    )
    texts = text(
        data, run, "trainer.n_gpus_per_node=1", "trainer.max_steps=1", "worker.rollout.top_p=0.8",
        "worker.rollout.temperature=1.5", "worker.actor.optim.lr=2e-5", *bounds, "trainer.record_steps=[1]",
    )  # fmt: skip
    finish(start(texts, str(dump)))
    kept = torch.load(dump, weights_only=True)
    correction = make_correction("masked", 1.2, 0.9)
    assert correction is not None
    masked = tokens = 0
    for old, sampler, weights in zip(
        kept["old_log_probs"], kept["rollout_log_probs"], kept["rollout_is_weights"], strict=True
    ):
        expected = correction_weights(
            old[None], sampler[None], torch.ones_like(old[None], dtype=torch.bool), correction
        )[0]
        assert torch.equal(weights, expected)
        masked, tokens = masked + int((weights == 0).sum()), tokens + len(weights)
    (line,) = lines(run, "train")
    assert 0 < masked < tokens and line["correction/masked_frac"] == pytest.approx(masked / tokens)
    assert 0 < line["correction/ess"] <= 1 - masked / tokens + 1e-9
    before, after, agree = local_weights(run, dump, data / "countdown" / "train.parquet")
    assert agree, "both engines build the same prompt"
    found = load_file(merged_model(run / "global_step_1") / "model.safetensors")
    moved = torch.cat([(after[name] - weight).flatten() for name, weight in before.items()])
    apart = torch.cat([(after[name] - weight).flatten() for name, weight in found.items()])
    assert moved.abs().max() > 1e-5
    assert apart.abs().max() < 1e-5 and apart.norm() < 2e-3 * moved.norm()
    repeated_on_local(run, 1)
