"""Runs whose pictures threads prepare one step ahead: the bytes of the run without, resumed or not."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from gmpo_mm.data import dataset, picture_loader
from gmpo_mm.data.prompts import Pictures, load_pictures
from gmpo_mm.data.records import Record
from tests.engine.runs import arguments, file_bytes, metrics_without_times, run_here

OPTIONS = (
    "trainer.save_freq=1",
    "trainer.val_freq=2",
    "trainer.val_before_train=true",
    "data.val_batch_size=2",
)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Switches the threads on for pictures of any size; (row, thread) of all that are loaded."""
    seen: list[tuple[str, str]] = []

    def noted(record: Record, *args: object, **options: object) -> Pictures:
        seen.append((record.where, threading.current_thread().name))
        return load_pictures(record, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(picture_loader, "THREADED_PATCHES", 0)
    monkeypatch.setattr(dataset, "load_pictures", noted)
    return seen


def samples(run_dir: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((run_dir / "samples").iterdir())}


def test_a_run_with_pictures_prepared_ahead_has_the_same_bytes(
    data: Path, tmp_path: Path, loaded: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = run_here(arguments(data, tmp_path / "ahead", "trainer.max_steps=4", *OPTIONS))
    in_threads = [row for row, thread in loaded if thread.startswith("gmpo-pictures")]
    trained = [row for row, _ in loaded if "train.parquet" in row]
    assert len(in_threads) > len(loaded) // 2
    assert len(trained) == 4 * 4, "each row of four steps once, and none for a fifth step"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("gmpo-pictures")]
    resumed = run_here(arguments(data, tmp_path / "resumed", "trainer.max_steps=2", *OPTIONS))
    run_here(arguments(data, resumed, "trainer.max_steps=4", *OPTIONS))
    monkeypatch.setattr(picture_loader, "THREADED_PATCHES", 1 << 40)
    plain = run_here(arguments(data, tmp_path / "plain", "trainer.max_steps=4", *OPTIONS))
    assert metrics_without_times(ahead) == metrics_without_times(plain)
    assert samples(ahead) == samples(plain) == samples(resumed)
    for step in (1, 2, 3, 4):
        wanted = file_bytes(plain, step)
        assert file_bytes(ahead, step) == wanted
        if step > 2:
            assert file_bytes(resumed, step) == wanted
