"""Files that survive kills, full disks and power cuts."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from pathlib import Path

from gmpo_mm.errors import TrainingError


def write_atomically(path: Path, text: str, durable: bool = True) -> None:
    """Write aside and rename; `durable` also flushes to the disk. TrainingError when the disk refuses."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise TrainingError(
            f"could not write {path} ({error.strerror}); free some space, then run the same command again"
        ) from error


def folder_bytes(folder: Path) -> int:
    """Size of the files in a folder; 0 when it is missing."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
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
