"""kill -9 while sampling: the same command goes on and ends with the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from gmpo_mm.evaluation.results import read_result
from tests.evaluation.evaluations import BUNDLED, start_process

ARGUMENTS = ("--model", BUNDLED, "--benchmark", "synthetic_pictures", "threads=1", "batch=16", "limit=40", "n=16")


def kill_while_sampling(process: subprocess.Popen[str], folder: Path) -> None:
    """Kill -9 an evaluation and its workers once it has written some samples to `folder`."""
    deadline = time.monotonic() + 200
    while not (folder / "samples.jsonl").is_file() or (folder / "samples.jsonl").stat().st_size < 2000:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_and_gives_the_result_of_one_that_was_not_killed(tmp_path: Path) -> None:
    whole = start_process(*ARGUMENTS, "--out", str(tmp_path / "whole"))
    output, _ = whole.communicate(timeout=200)
    assert whole.returncode == 0, output
    assert "synthetic_pictures" in output and "page.html" in output

    killed = start_process(*ARGUMENTS, "--out", str(tmp_path / "killed"))
    folder = tmp_path / "killed" / "synthetic_pictures-40"
    kill_while_sampling(killed, folder)
    assert not (folder / "summary.json").exists()  # or the kill came too late to show anything
    there = len(read_result(folder).samples)
    assert 0 < there < 640

    again = start_process(*ARGUMENTS, "--out", str(tmp_path / "killed"))
    output, _ = again.communicate(timeout=200)
    assert again.returncode == 0, output
    assert "going on in" in output
    other = tmp_path / "whole" / "synthetic_pictures-40"
    for name in ("samples.jsonl", "summary.json", "problems.jsonl"):
        assert (folder / name).read_bytes() == (other / name).read_bytes(), name
