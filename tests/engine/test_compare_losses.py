"""`trainer.compare_losses` in real runs of the bundled model."""

from __future__ import annotations

from pathlib import Path

import pytest

from gmpo_mm.runs.metrics_file import read_metrics
from tests.engine.runs import SAVING, arguments, file_bytes, metrics_without_times, run_here

OWN = """
from gmpo_mm.algorithms import register_policy_loss

@register_policy_loss("half")
def half(log_probs_BT, old_BT, advantages_BT, mask_BT, config):
    return -0.5 * advantages_BT * (log_probs_BT - old_BT).exp()
"""


def test_a_run_that_compares_writes_a_line_a_step_and_trains_the_same_bytes(data: Path, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    comparing = (
        f"trainer.compare_losses=[default, gmpo, {tmp_path}/own.py:half]", "trainer.compare_losses_gradients_every=2",
        "worker.actor.clip_ratio_low=0.1", "trainer.logger=[console, tensorboard]",
    )  # fmt: skip
    without = run_here(arguments(data, tmp_path / "without", *SAVING))
    run = run_here(arguments(data, tmp_path / "run", *SAVING, *comparing))
    for step in (1, 2):
        assert file_bytes(run, step) == file_bytes(without, step)
    lines = metrics_without_times(run)
    assert [line for line in lines if line["kind"] != "compare"] == metrics_without_times(without)
    first, second = (line for line in lines if line["kind"] == "compare")
    assert (first["step"], second["step"]) == (1, 2)
    for line in (first, second):
        assert line["compare/trained"] == "gmpo" and line["compare/losses"] == ["gmpo", "default", "half"]
        assert line["compare/gmpo/cosine"] == pytest.approx(1.0)
        assert 0.5 < line["compare/default/cosine"] <= 1.0
        assert len(line["compare/points"]["ratio"]) == len(line["compare/points"]["half"]) == 128
        assert len(line["compare/half/clipped_by_entropy"]) == 10
    assert "compare/half/gradient_cosine" not in first and 0 < second["compare/half/gradient_cosine"] <= 1
    norm = next(line for line in lines if line["kind"] == "train" and line["step"] == 2)["actor/grad_norm"]
    assert 0.2 < second["compare/gmpo/gradient_norm"] / norm < 5
    assert b"compare/half/gradient_cosine" in b"".join(p.read_bytes() for p in run.rglob("events.out.tfevents*"))
    # the comparison may change, and go, when the run goes on
    run_here(arguments(data, tmp_path / "run", *SAVING, "trainer.max_steps=3"))
    kinds = [line["kind"] for line in read_metrics(run) if line["step"] == 3]
    assert kinds == ["train"]
