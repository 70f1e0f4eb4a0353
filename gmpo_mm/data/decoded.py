"""Which pictures were decoded whole before, known by their content, so that a second start need not decode them again."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from pathlib import Path

import PIL

from gmpo_mm.data.images import ImageSource, load_image
from gmpo_mm.errors import DataError

RULES = 1
"""Raised when the same bytes could be judged in another way."""
MAX_THREADS = 8


def cores() -> int:
    """Cores that this process may use, at most 8."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MAX_THREADS, found)


def cache_folder() -> Path:
    """$GMPO_MM_CACHE; by default `gmpo_mm` in $XDG_CACHE_HOME or ~/.cache."""
    if own := os.environ.get("GMPO_MM_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "gmpo_mm"


class DecodedPictures:
    """SHA-256 of every picture that was decoded without a fault, one a line in a file that only grows.

    Processes may share the file: a line is appended whole, and what is no such line is not looked at. Faulty
    pictures are not in it. Where the file can't be read or written, every start decodes everything.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """`folder` is `cache_folder()` where none is given; the list holds for one version of Pillow."""
        self.path = (folder or cache_folder()) / f"decoded_pictures_{RULES}_pillow_{PIL.__version__}.txt"
        self._known: set[str] = set()
        self._new: set[str] = set()
        self._lock = threading.Lock()
        self.decoded = 0
        """Pictures that had to be decoded."""
        with contextlib.suppress(
            OSError, UnicodeDecodeError
        ):  # none yet, or none for this user: then all are decoded
            self._known.update(self.path.read_text(encoding="ascii").split())

    def check(self, source: ImageSource, where: str) -> None:
        """Decode a picture unless that was done before; DataError that begins with `where` for a faulty one."""
        digest = _digest(source)
        if digest is not None and digest in self._known:
            return
        load_image(source, None, None, where)
        with self._lock:
            self.decoded += 1
            if digest is not None:
                self._known.add(digest)
                self._new.add(digest)

    def save(self) -> None:
        """Append what is new; several processes may do so at once."""
        new, self._new = self._new, set()
        if not new:
            return
        with contextlib.suppress(OSError):  # no home, or a full disk: the next start decodes them again
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                # a former line that was cut off by a full disk must not join with the first of these
                file.write("".join(f"\n{digest}\n" for digest in sorted(new)).encode("ascii"))


def _digest(source: ImageSource) -> str | None:
    """SHA-256 of the stored bytes; None for a picture in memory, and where there are none to read."""
    if source.picture is not None or (source.data is None and source.path is None):
        return None
    try:
        return hashlib.sha256(source.encoded()).hexdigest()
    except DataError:  # decoding it says why
        return None
