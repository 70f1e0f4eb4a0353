"""Two short real runs whose files the reference pages have to describe."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.docs.generator import ROOT
from tests.engine.runs import SMALL, arguments, run_here, write_data

MEASURED = [
    "trainer.val_before_train=true",
    "algorithm.disable_kl=false",
    "algorithm.use_kl_loss=true",
    "trainer.compare_losses=[gspo]",
    "trainer.compare_losses_gradients_every=1",
]


@pytest.fixture(scope="session")
def dense_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quickstart, two steps, with a reference model and online filtering."""
    folder = tmp_path_factory.mktemp("dense")
    changes = ["algorithm.online_filtering=true", "algorithm.drop_zero_advantage=false"]
    return run_here(arguments(write_data(folder / "data", 24, 4), folder / "run", *MEASURED, *changes))


@pytest.fixture(scope="session")
def experts_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled mixture of experts on CountDown, two steps."""
    folder = tmp_path_factory.mktemp("experts")
    tool = [sys.executable, str(ROOT / "data_tools/countdown.py"), "--tiny", "--out", str(folder / "data")]
    subprocess.run(tool, check=True, capture_output=True)
    for name, rows in (("train", 24), ("test", 4)):
        pq.write_table(
            pq.read_table(folder / f"data/{name}.parquet").slice(0, rows), folder / f"{name}.parquet"
        )
    files = [f"data.train_files={folder}/train.parquet", f"data.val_files={folder}/test.parquet"]
    config = str(ROOT / "configs/countdown/gmpo_moe_tiny.yaml")
    return run_here([config, *files, *SMALL, f"trainer.run_dir={folder / 'run'}", *MEASURED])
