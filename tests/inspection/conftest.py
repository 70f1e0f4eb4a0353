"""A short run whose steps are all on file, and one record to put faults into."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.runs import arguments, run_here, write_data
from tests.inspection.recorded import Recorded, train_and_record

RECORDING = ("data.val_files=", "trainer.record_steps=every 1")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def recorded_run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps of two updates each, checkpoints of the second and the third; tests leave it as it is."""
    args = arguments(data, tmp_path_factory.mktemp("recorded") / "run", *RECORDING, "trainer.max_steps=3")
    return run_here([*args, "trainer.save_freq=2"])


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return train_and_record(tmp_path_factory.mktemp("recorded"))
