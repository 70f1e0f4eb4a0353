"""The examples as a reader runs them, and what they print against naive formulas."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from gmpo_mm.runs.metrics_file import read_metrics
from tests.reports.made import write_run

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def test_why_geometric_mean_prints_its_tables_and_draws(tmp_path: Path) -> None:
    done = run("why_geometric_mean", "--out", str(tmp_path / "why.png"))
    assert done.returncode == 0, done.stderr
    assert "80,000 of 80,000 sequences" in done.stdout
    assert Image.open(tmp_path / "why.png").width > 1000


def test_token_weights_are_equations_5_and_6() -> None:
    why = example("why_geometric_mean")
    ratios = np.array([1.3, 0.7, 30.0, 1.0, 0.02])
    assert why.token_weights(ratios, why.GRPO) == pytest.approx(ratios, rel=1e-9)
    assert why.token_weights(ratios, why.GMPO) == pytest.approx(np.full(5, np.prod(ratios) ** (1 / 5)), rel=1e-9)
    assert why.geometric_mean(ratios) == pytest.approx(np.prod(ratios) ** (1 / 5))


def test_outliers_widen_the_arithmetic_mean_more() -> None:
    why = example("why_geometric_mean")
    ratios = why.draw_ratios(10.0)
    assert np.median(ratios) == pytest.approx(1.0, abs=0.01)
    assert why.arithmetic_mean(ratios).var() > 5 * why.geometric_mean(ratios).var()


def test_sequence_ratio_shows_the_responses_with_a_positive_reward_of_a_real_run(sweep: Path, tmp_path: Path) -> None:
    path = sweep / "runs/grpo/seed_1"
    module = example("sequence_ratio")
    tokens, log_ratios = module.read_ratios(path)
    files = sorted((path / "samples").glob("step_*_train.jsonl"))
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    used = [row for row in rows if row["log_ratio"] is not None]
    assert 0 < len(tokens) == sum(row["overall"] > 0 for row in used) <= len(used)
    # the run's metrics are extremes over all of a step's responses, so over no fewer
    lines = [line for line in read_metrics(path) if line["kind"] == "train"]
    assert max(log_ratios) <= max(line["ratio/seq_product_log_max"] for line in lines) + 1e-6
    assert min(log_ratios) >= min(line["ratio/seq_product_log_min"] for line in lines) - 1e-6
    assert len({row["log_ratio"] for row in used}) > 2
    assert sum(count for _, count, *_ in module.table_rows(tokens, log_ratios)) == len(tokens)
    done = run("sequence_ratio", str(path), "--out", str(tmp_path / "sequence.png"))
    assert done.returncode == 0, done.stderr
    assert "without: min" in done.stdout
    assert Image.open(tmp_path / "sequence.png").width > 600


def test_sequence_ratio_takes_the_exponent_from_each_response_s_own_length() -> None:
    module = example("sequence_ratio")
    tokens, logs = np.array([2, 2, 10, 10]), np.log([100.0, 0.01, 1e5, 1e-5])
    first, second = module.table_rows(tokens, logs)
    assert (first[1], second[1]) == (2, 2)
    assert first[2:] == pytest.approx((-1, 1, -2, 2))
    assert second[2:] == pytest.approx((-0.5, 0.5, -5, 5))


def test_sequence_ratio_names_what_a_run_does_not_log(tmp_path: Path) -> None:
    done = run("sequence_ratio", str(write_run(tmp_path / "bare", [0.1, 0.2])))
    assert done.returncode == 1
    assert "no response has a log_ratio" in done.stderr
