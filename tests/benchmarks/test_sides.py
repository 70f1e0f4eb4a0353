"""Our side of the comparison with TRL, which reaches into the trainer, and what its file holds. TRL is not installed here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.ratios import Ratios
from benchmarks.side_by_side import PHASES, Side, add_ratios
from benchmarks.workload import REPOSITORY, Workload


def test_our_side_reports_its_rounds(tmp_path: Path) -> None:
    """The real worker: one round of the bundled model in a process of its own."""
    file = tmp_path / "result.json"
    options = [
        "--sides",
        "local",
        "--rounds",
        "1",
        "--warmup",
        "0",
        "--vision",
        "frozen",
        "--json",
        str(file),
    ]
    command = [sys.executable, "-m", "benchmarks.round_vs_trl", *options]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(file.read_text())
    (comparison,) = found["comparisons"]
    (one,) = comparison["local"]["rounds"]
    assert one["facts"]["samples"] == 128
    assert {"sampling", "rewards", "update"} <= {
        phase for phase, seconds in one["cpu_s"].items() if seconds > 0
    }
    assert (
        found["ratios"] == {} and {"cpu", "cores"} <= set(found["machine"]) and "torch" in found["versions"]
    )


def test_ratios_are_theirs_over_ours_in_time_and_ours_over_theirs_in_memory() -> None:
    def side(seconds: float, peak: float) -> Side:
        phases = dict.fromkeys(PHASES, seconds)
        return Side({"baseline_mib": 100.0}, [{"cpu_s": phases, "peak_mib": {"update": peak}}])

    workload = Workload("round", "model", 1, 1, 1, 1, False, True, 1, 0, (1, 1))
    ratios = Ratios()
    add_ratios(ratios, workload, {"local": side(1.0, 150.0), "trl": side(4.0, 300.0)})
    found = {name: (entry["value"], entry["better"]) for name, entry in ratios.entries.items()}
    assert found.pop("vision frozen: peak memory, ours / TRL") == (0.25, "lower")
    assert len(found) == 4 and set(found.values()) == {(4.0, "higher")}
    assert all(
        name.startswith("vision frozen: CPU time of ") and name.endswith("TRL / ours") for name in found
    )
