"""Pictures decoded and cut into patches by threads, ahead of their use."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from gmpo_mm.data.decoded import cores
from gmpo_mm.data.prompts import Pictures

THREADED_PATCHES = 16_384
"""Patches that the caller's thread may cut of what it expects, about 0.1 s; with more, threads take over."""


class PictureLoader:
    """Loads the pictures of rows: few small ones in the caller's thread, others ahead in threads.

    Threads, since decoding, resizing and cutting run outside Python's lock: two are twice as fast as one,
    start at once, share their memory with the trainer, and can't be left behind.
    """

    def __init__(self, load: Callable[[int], Pictures]) -> None:
        """`load` gives the pictures of a row, in any thread; what it raises reaches the caller of `take`."""
        self._load = load
        self._threads: ThreadPoolExecutor | None = None
        self._expected: dict[int, Future[Pictures] | None] = {}
        self._patches_here = 0

    def expect(self, rows: Iterable[int]) -> None:
        """Say which rows will be taken next, in their order. Other rows that were expected are dropped."""
        former = self._expected
        self._expected = {row: former.pop(row, None) for row in dict.fromkeys(rows)}
        for future in former.values():
            if future is not None:
                future.cancel()
        self._patches_here = 0
        if self._threads is not None:
            self._hand_over(self._threads)

    def take(self, row: int) -> Pictures:
        """The pictures of a row. Those that no thread has begun with are loaded here and now."""
        future = self._expected.pop(row, None)
        if future is not None and not future.cancel():
            return future.result()
        pictures = self._load(row)
        self._patches_here += len(pictures.patches or ())
        if self._patches_here > THREADED_PATCHES and self._threads is None and self._expected:
            self._threads = ThreadPoolExecutor(cores(), thread_name_prefix="gmpo-pictures")
            self._hand_over(self._threads)
        return pictures

    def close(self) -> None:
        """End the threads, each after the row that it is at, and drop what was prepared."""
        threads, self._threads = self._threads, None
        self._expected.clear()
        if threads is not None:
            threads.shutdown(cancel_futures=True)

    def _hand_over(self, threads: ThreadPoolExecutor) -> None:
        for row, future in self._expected.items():
            if future is None:
                self._expected[row] = threads.submit(self._load, row)

