"""Files that survive kills, full disks and power cuts."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from functools import lru_cache
from pathlib import Path

from gmpo_mm.errors import TrainingError
from gmpo_mm.machine_errors import writing


def write_atomically(path: Path, text: str, durable: bool = True) -> None:
    """Write aside and rename; `durable` also flushes to the disk. TrainingError when the disk refuses."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with writing(path), temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        with writing(path):
            temporary.replace(path)
    except TrainingError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def folder_bytes(folder: Path) -> int:
    """Size of the files in a folder; 0 when it is missing."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file; a large one that was not written to since is read once in a process."""
    state = path.stat()
    if state.st_size < 1 << 20:  # a clock's tick could hide a write to a small file
        return _sha256.__wrapped__(str(path))
    return _sha256(str(path), state.st_size, state.st_mtime_ns, state.st_ino)


@lru_cache(maxsize=1024)
def _sha256(path: str, *_state: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def fsync(path: Path) -> None:
    """Flush a file or a folder to the disk; a delayed write error (full disk, quota) surfaces here."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_tree(path: Path) -> None:
    """Remove a folder if it is there."""
    if path.exists():
        shutil.rmtree(path)
