"""What is saved when an error ends a run on Ray workers: the last finished step, if its weights are still there."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from torchdata.stateful_dataloader import StatefulDataLoader

from gmpo_mm.engines import finished_step
from gmpo_mm.engines.finished_step import FinishedStep
from gmpo_mm.runs.checkpoint_layout import fsdp_layout
from gmpo_mm.runs.progress import Progress
from gmpo_mm.runs.run_directory import RunDirectory


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(num_cpus=2, include_dashboard=False)
    yield
    ray.shutdown()


@pytest.fixture
def output() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def finished(tmp_path: Path, output: io.StringIO) -> Iterator[FinishedStep]:
    with RunDirectory.open(tmp_path / "run", resume="auto", config="", command=[], layout=fsdp_layout(1)) as run:
        yield FinishedStep(run, Progress(output))


class Worker:
    def wait(self) -> None:
        import time

        time.sleep(10_000)


def fails(finished: FinishedStep, workers: list[Any] | None = None) -> list[tuple[int, Any]]:
    """What is saved when an error comes now."""
    saved: list[tuple[int, Any]] = []
    found = [ray.remote(Worker).options(num_cpus=0).remote()] if workers is None else workers
    with (
        pytest.raises(ZeroDivisionError),
        finished.saved_on_error(lambda: found, lambda step, loader: saved.append((step, loader.state_dict()))),
    ):
        1 / 0  # noqa: B018
    return saved


def test_the_finished_step_is_saved_once_with_the_prompts_that_come_next(finished: FinishedStep) -> None:
    loader = StatefulDataLoader(list(range(8)), batch_size=2)
    batches = iter(loader)
    assert fails(finished) == [], "no step is finished"
    next(batches)
    finished.note(1, loader)
    next(batches)  # the prompts of step 2, in which the error comes
    ((step, state),) = fails(finished)
    again = StatefulDataLoader(list(range(8)), batch_size=2)
    again.load_state_dict(state)
    assert step == 1 and next(iter(again)).tolist() == [2, 3]
    finished.saved = 1
    assert fails(finished) == []


def test_nothing_is_saved_from_the_middle_of_an_update(finished: FinishedStep, output: io.StringIO) -> None:
    finished.note(1, StatefulDataLoader([0]))
    finished.update_begins()
    assert fails(finished) == []
    assert "within the update of step 2" in output.getvalue()


def test_workers_that_died_or_hang_are_not_waited_for(
    finished: FinishedStep, output: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finished_step, "ANSWER_SECONDS", 0.5)
    finished.note(1, StatefulDataLoader([0]))
    dead, hangs = (ray.remote(Worker).options(num_cpus=0).remote() for _ in range(2))
    ray.kill(dead)
    hangs.wait.remote()
    assert fails(finished, [dead, hangs]) == []
    assert "2 of 2 workers don't answer" in output.getvalue()
