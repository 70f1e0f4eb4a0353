"""Pictures prepared ahead in threads: the same bytes, the same faults at the same place, no thread left."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gmpo_mm.data import EncodedPrompt, PromptDataset, PromptSampler, Records, picture_loader
from gmpo_mm.data.decoded import MAX_THREADS
from gmpo_mm.data.patches import ImagePatches
from gmpo_mm.data.picture_loader import THREADED_PATCHES, PictureLoader
from gmpo_mm.data.prompts import Pictures
from gmpo_mm.errors import DataError
from gmpo_mm.models.processing import Processor
from tests.data.helpers import DataSection, encoded, plain, records_of


def our_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("gmpo-pictures")]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not our_threads()


def of_patches(count: int) -> Pictures:
    patches = ImagePatches(torch.zeros(count, 3, dtype=torch.uint8), torch.zeros(3, 256), 2)
    return Pictures((), patches, torch.tensor([[1, 1, count]]))


class Loading:
    """A loader of rows with `patches` patches each that notes which rows were loaded, and in which thread."""

    def __init__(self, patches: int, broken: tuple[int, ...] = ()) -> None:
        self.patches, self.broken = patches, broken
        self.here: list[int] = []
        self.in_threads: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.loader = PictureLoader(self.load)

    def load(self, row: int) -> Pictures:
        if threading.current_thread() is threading.main_thread():
            self.here.append(row)
        else:
            self.gate.wait(200)
            self.in_threads.append(row)
        if row in self.broken:
            raise DataError(f"row {row}: broken image")
        return of_patches(self.patches)


def wait_for(condition: object) -> None:
    deadline = time.monotonic() + 200  # only ends a test that has failed
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_few_small_pictures_are_loaded_by_the_caller() -> None:
    loading = Loading(THREADED_PATCHES // 16)
    for step in range(5):
        loading.loader.expect(range(step * 16, step * 16 + 32))
        for row in range(step * 16, step * 16 + 16):
            loading.loader.take(row)
    assert loading.here == list(range(80)) and not loading.in_threads and not our_threads()


def test_large_pictures_of_the_next_step_are_loaded_while_this_one_is_in_use() -> None:
    loading = Loading(THREADED_PATCHES)
    loading.loader.expect(range(8))
    for row in range(4):
        assert len(loading.loader.take(row).patches or ()) == THREADED_PATCHES
    wait_for(lambda: len(loading.here) + len(loading.in_threads) == 8)
    assert loading.here[:2] == [0, 1] and {4, 5, 6, 7} <= set(loading.in_threads)
    loading.loader.expect(range(4, 12))
    for row in range(4, 8):
        loading.loader.take(row)
    wait_for(lambda: len(loading.here) + len(loading.in_threads) == 12)
    assert sorted(loading.here + loading.in_threads) == list(range(12)), "every row once"
    loading.loader.close()


def test_what_is_no_longer_expected_is_dropped() -> None:
    loading = Loading(THREADED_PATCHES)
    loading.gate.clear()
    loading.loader.expect(range(1000))
    loading.loader.take(0), loading.loader.take(1)
    loading.loader.expect([5000])
    loading.gate.set()
    wait_for(lambda: 5000 in loading.in_threads)
    assert len(loading.in_threads) <= 1 + MAX_THREADS
    loading.loader.close()


def test_a_fault_of_an_expected_row_is_raised_when_the_row_is_taken() -> None:
    loading = Loading(THREADED_PATCHES, broken=(5,))
    loading.loader.expect(range(8))
    loading.loader.take(0), loading.loader.take(1)
    wait_for(lambda: 5 in loading.in_threads)
    for row in (2, 3, 4):
        loading.loader.take(row)
    with pytest.raises(DataError, match="row 5: broken image"):
        loading.loader.take(5)
    assert loading.loader.take(6).patches is not None
    loading.loader.close()


def test_a_closed_loader_still_loads_and_may_be_closed_again() -> None:
    loading = Loading(THREADED_PATCHES)
    loading.loader.close()
    loading.loader.expect(range(400))
    loading.loader.take(0), loading.loader.take(1)
    loading.loader.close()
    loading.loader.close()
    assert not our_threads() and loading.loader.take(399).patches is not None


INTERRUPTED = """
import os, signal, sys, threading, time
from gmpo_mm.data.picture_loader import PictureLoader
from tests.data.test_picture_loader import THREADED_PATCHES, of_patches

def load(row):
    if threading.current_thread() is not threading.main_thread():
        time.sleep(1)
    return of_patches(THREADED_PATCHES)

loader = PictureLoader(load)
try:
    loader.expect(range(10_000))
    loader.take(0), loader.take(1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
    os.kill(os.getpid(), getattr(signal, sys.argv[1]))
    time.sleep(60)
finally:
    loader.close()
"""


@pytest.mark.parametrize(("number", "code"), [("SIGINT", -2), ("SIGTERM", 3)])
def test_a_stopped_process_does_not_wait_for_what_it_expected(number: str, code: int) -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, number], cwd=root, timeout=240, capture_output=True
    )  # 10,000 rows would take much longer
    assert done.returncode == code, done.stderr.decode()


# ---- with real pictures ----


def pictured(count: int = 24) -> Records:
    """Rows of text, one picture and two pictures in turn, in every colour."""
    rows: list[dict] = []
    random = np.random.default_rng(0)
    for i in range(count):
        images = [
            encoded(Image.fromarray(random.integers(0, 256, (60 + 9 * i, 200, 3), dtype=np.uint8)))
            for _ in range(i % 3)
        ]
        rows.append({"problem": "<image>" * len(images) + f"number {i}", "images": images})
    return records_of(*rows)


def same(a: EncodedPrompt, b: EncodedPrompt) -> bool:
    if (
        a.text != b.text
        or not torch.equal(a.input_ids_S, b.input_ids_S)
        or a.unexpanded_ids != b.unexpanded_ids
    ):
        return False
    if [i.tobytes() for i in a.images] != [i.tobytes() for i in b.images]:
        return False
    if a.patches is None or b.patches is None:
        return a.patches is b.patches and a.image_grid_thw_N3 is b.image_grid_thw_N3
    return torch.equal(a.patches.bytes_PF, b.patches.bytes_PF) and torch.equal(
        a.image_grid_thw_N3, b.image_grid_thw_N3
    )


def test_batches_are_the_same_with_and_without_threads(
    processor: Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    plainly = PromptDataset(pictured(), processor, DataSection(max_prompt_length=4096), training=True)
    monkeypatch.setattr(picture_loader, "THREADED_PATCHES", 0)
    ahead = PromptDataset(pictured(), processor, DataSection(max_prompt_length=4096), training=True)
    order = PromptSampler(len(ahead), True, 3)
    for _ in range(6):  # past the end of an epoch
        indices = order.next_indices(10)
        found = ahead.batch(indices, order.upcoming(10))
        assert len(our_threads()) > 0
        assert [prompt.record.row for prompt in found] == [plainly.record(i).row for i in indices]
        assert all(same(prompt, plainly[i]) for prompt, i in zip(found, indices, strict=True))
    ahead.close()


def test_a_broken_picture_names_its_row_whoever_loads_it(
    processor: Processor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture_loader, "THREADED_PATCHES", 0)
    path = tmp_path / "a.png"
    path.write_bytes(plain(280, 280))
    rows = [{"problem": "<image>", "images": [plain(280, 280)]}] * 6 + [
        {"problem": "<image>", "images": [path]}
    ]
    data = PromptDataset(records_of(*rows), processor, DataSection(), training=True)
    path.write_bytes(plain(280, 280)[:60])
    assert len(data.batch([0, 1, 2], [3, 4, 5, 6])) == 3
    with pytest.raises(DataError, match="row 6 of test data, image 0: broken image"):
        data.batch([3, 4, 5, 6])
    data.close()


def test_pictures_alone_are_those_of_the_prompt_and_cut_no_patches(
    processor: Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = PromptDataset(pictured(), processor, DataSection(max_prompt_length=4096), training=True)
    wanted = [data[i].images for i in range(6)]
    monkeypatch.setattr(Processor, "cut", lambda *_: pytest.fail("patches were cut"))
    for i in range(6):
        assert [image.tobytes() for image in data.images(i)] == [image.tobytes() for image in wanted[i]]
