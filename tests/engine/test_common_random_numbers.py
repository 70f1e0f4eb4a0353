"""Variants with equal seeds see the same prompts at each step, and draw with the same random numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gmpo_mm.runs.progress import Progress
from gmpo_mm.sweeps.directory import SweepDirectory
from gmpo_mm.sweeps.display import FILTERING, print_dry_run
from gmpo_mm.sweeps.planning import plan_sweep
from gmpo_mm.sweeps.sweep_file import load_sweep
from tests.engine.runs import arguments, run_here, write_data
from tests.sweeps.sweeps import GMPO, NO_CLIP, write_sweep

STEPS = 3
FAST = (
    "trainer.max_steps=3",
    "worker.actor.optim.lr=1e-3",
)  # so that the variants' weights part after the first step
GRPO = ("worker.actor.loss_type=default", "worker.actor.loss_avg_mode=seq")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """GMPO and GRPO with seed 1."""
    folder = tmp_path_factory.mktemp("runs")
    data = write_data(folder / "data")
    seed = ("worker.rollout.seed=1", "data.seed=1")
    settings: dict[str, tuple[str, ...]] = {"gmpo": (), "grpo": GRPO}
    return {
        name: run_here(arguments(data, folder / name, *FAST, *own, *seed)) for name, own in settings.items()
    }


def rows(run: Path, step: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / f"samples/step_{step}_train.jsonl").read_text().splitlines()]


def of(run: Path, step: int, key: str) -> list[Any]:
    return [row[key] for row in rows(run, step)]


def test_variants_with_equal_seeds_have_the_same_prompts_at_every_step(runs: dict[str, Path]) -> None:
    for step in range(1, STEPS + 1):
        assert of(runs["gmpo"], step, "id") == of(runs["grpo"], step, "id")
        assert of(runs["gmpo"], step, "id") != of(runs["gmpo"], step % STEPS + 1, "id")


def test_they_sample_the_same_responses_while_their_weights_are_the_same(runs: dict[str, Path]) -> None:
    assert of(runs["gmpo"], 1, "response") == of(runs["grpo"], 1, "response")
    # and with equal random numbers, but other weights, not the same ones for ever
    later = [of(runs[name], step, "response") for name in ("gmpo", "grpo") for step in (2, 3)]
    assert later[:2] != later[2:]


def test_a_dry_run_says_that_online_filtering_parts_the_variants(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_data(tmp_path / "data")
    filtering = ("algorithm.online_filtering=true", "algorithm.filter_key=accuracy")
    for overrides, said in ((filtering, True), ((), False)):
        sweep = load_sweep(write_sweep(tmp_path, data, {**GMPO, **NO_CLIP}, *overrides))
        with Progress(live=False) as progress:
            planned = plan_sweep(sweep, tmp_path / "out", progress)
        print_dry_run(SweepDirectory.look(tmp_path / "out", sweep, planned, [], []), 1)
        assert (FILTERING in capsys.readouterr().out) == said
