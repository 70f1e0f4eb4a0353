"""What a sweep makes of its runs' exit statuses, and its own; the runs are stub processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from gmpo_mm.config import Config
from gmpo_mm.runs.progress import Progress
from gmpo_mm.sweeps.directory import SweepDirectory
from gmpo_mm.sweeps.display import Estimator, SweepDisplay
from gmpo_mm.sweeps.planning import plan_sweep
from gmpo_mm.sweeps.runner import SweepRunner
from gmpo_mm.sweeps.sweep_file import load_sweep
from tests.sweeps.sweeps import GMPO, NO_CLIP, write_sweep


class Stub:
    """A process of Python code, in place of a training."""

    def __init__(self, code: str) -> None:
        self.process = subprocess.Popen([sys.executable, "-S", "-c", code], start_new_session=True)

    def poll(self) -> int | None:
        return self.process.poll()

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        self.process.kill()


class Stubs:
    """Starts one stub a run; `then` is called after each start."""

    def __init__(self, code: str, then: Callable[[], None] = lambda: None) -> None:
        self.code, self.then = code, then

    def start(self, arguments: Sequence[str], log: Path, slot: int, config: Config) -> Stub:
        stub = Stub(self.code)
        self.then()
        return stub


def directory_of(data: Path, tmp_path: Path, **variants: object) -> SweepDirectory:
    out = tmp_path / "out"
    sweep = load_sweep(write_sweep(tmp_path, data, variants or GMPO))
    found = SweepDirectory.look(out, sweep, plan_sweep(sweep, out, Progress()), (), ["gmpo-mm", "sweep"])
    out.mkdir()
    found.begin()
    return found


def run(directory: SweepDirectory, launcher: Stubs) -> int:
    with SweepDisplay(directory, 1) as display:
        return SweepRunner(directory, launcher, 1, display).run()


@pytest.mark.parametrize("status", [130, 143, 129])
def test_a_run_that_was_asked_to_stop_is_interrupted_and_not_failed(data: Path, tmp_path: Path, status: int) -> None:
    directory = directory_of(data, tmp_path)
    assert run(directory, Stubs(f"raise SystemExit({status})")) == 130
    (record,) = directory.records.values()
    assert record.state == "interrupted" and "asked to stop from outside" in str(record.reason)


def test_a_run_that_a_signal_ended_before_it_could_save_is_interrupted_too(data: Path, tmp_path: Path) -> None:
    directory = directory_of(data, tmp_path)
    assert run(directory, Stubs("import os, signal; os.kill(os.getpid(), signal.SIGTERM)")) == 130
    assert [record.state for record in directory.records.values()] == ["interrupted"]


@pytest.mark.parametrize("code", ["raise SystemExit(1)", "import os; os.kill(os.getpid(), 9)", "raise SystemExit(2)"])
def test_every_other_status_is_a_failure(data: Path, tmp_path: Path, code: str) -> None:
    directory = directory_of(data, tmp_path)
    assert run(directory, Stubs(code)) == 1
    assert [record.state for record in directory.records.values()] == ["failed"]


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_sweep_passes_an_order_on_and_ends_with_its_status(data: Path, tmp_path: Path, name: str, status: int) -> None:
    directory = directory_of(data, tmp_path, **GMPO, **NO_CLIP)
    order = getattr(signal, name)
    code = "import signal, time\ntry:\n    time.sleep(600)\nexcept KeyboardInterrupt:\n    raise SystemExit(130)"
    assert run(directory, Stubs(code, then=lambda: os.kill(os.getpid(), order))) == status
    assert {record.state for record in directory.records.values()} == {"interrupted", "waiting"}


def test_the_time_left_counts_what_a_finished_run_took_to_start(data: Path, tmp_path: Path) -> None:
    directory = directory_of(data, tmp_path, **GMPO, **NO_CLIP)
    first, second = (directory.record(planned) for planned in directory.planned)
    path = directory.path / first.directory
    path.mkdir(parents=True)
    (path / "run.json").write_text(json.dumps({"state": "finished", "step": 2, "total_steps": 2}))
    lines = [{"step": step, "kind": "train", "perf/time_per_step": 10.0} for step in (1, 2)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    first.state, first.seconds = "finished", 150.0  # two steps of 10 s, so 130 s beside them
    done, waiting = Estimator(directory).estimates()
    assert second.state == "waiting" and (done.left, waiting.left) == (0.0, 2 * 10.0 + 130.0)
