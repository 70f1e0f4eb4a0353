"""Real runs of the bundled model, made once: GRPO without and GMPO with a reference model, two seeds each, evaluated."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.browser.chromium import Browser, running_browser
from tests.engine.runs import arguments, run_here, write_data
from tests.evaluation.evaluations import evaluate_one
from tests.reports.made import SEEDS, VARIANTS, write_sweep_file

OVERRIDES = {
    "grpo": [
        "worker.actor.loss_type=default", "worker.actor.loss_avg_mode=seq", "worker.actor.clip_ratio_low=0.2",
        "worker.actor.clip_ratio_high=0.2", "trainer.experiment_name=grpo",
    ],
    "gmpo": [
        "algorithm.disable_kl=false", "algorithm.use_kl_loss=true", "algorithm.kl_coef=0.01",
        "algorithm.drop_zero_advantage=false",
    ],
}  # fmt: skip


@pytest.fixture(scope="session")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep's directory with four finished and evaluated runs of three steps. Read it, don't change it."""
    folder = tmp_path_factory.mktemp("sweep")
    data = write_data(tmp_path_factory.mktemp("data"))
    for name in VARIANTS:
        for seed in SEEDS:
            run = folder / "runs" / name / f"seed_{seed}"
            run_here(
                arguments(
                    data, run, *OVERRIDES[name], f"worker.rollout.seed={seed}", f"data.seed={seed}", "trainer.max_steps=3",
                    "trainer.val_freq=1", "trainer.val_before_train=true", "trainer.logger=[console,tensorboard]",
                    "worker.actor.optim.lr=2e-4",
                )
            )  # fmt: skip
            evaluate_one(folder / "evaluations" / name / f"seed_{seed}", model=str(run))
    write_sweep_file(folder)
    return folder


@pytest.fixture
def sweep_copy(sweep: Path, tmp_path: Path) -> Callable[[], Path]:
    """Copies of the sweep that a test may change."""

    def copy() -> Path:
        return Path(shutil.copytree(sweep, tmp_path / "copy", ignore=shutil.ignore_patterns("checkpoints")))

    return copy


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with running_browser() as running:
        yield running
