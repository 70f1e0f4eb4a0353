"""Files that survive kills, full disks and power cuts."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
from functools import lru_cache
from pathlib import Path
from typing import Any

from gmpo_mm.errors import TrainingError
from gmpo_mm.machine_errors import writing


def write_atomically(path: Path, text: str, durable: bool = True) -> None:
    """Write aside and rename; `durable` also flushes to the disk. TrainingError when the disk refuses."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with writing(path), open_new(temporary, "w", encoding="utf-8") as file:
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


class NotOurOwn(TrainingError, OSError):
    """Something else stands where a file or a folder of ours is expected."""

    @classmethod
    def at(cls, path: Path, what: str, expected: str) -> NotOurOwn:
        """With the reason that other file errors have in `strerror`."""
        error = cls(f"{path} is {what}, and {expected} of our own is expected there; remove it")
        error.strerror = f"it is {what}, and {expected} of our own is expected; remove it"
        return error


def open_own(path: Path, flags: int) -> int:
    """A descriptor of a file of ours, made if it is not there. NotOurOwn for a symbolic link, a device or a pipe.

    Whoever may write in a directory could otherwise lead us to overwrite any file that we may write.
    """
    try:
        # without waiting: a pipe in a file's place must not stop the program
        descriptor = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        what = {errno.ELOOP: "a symbolic link", errno.ENXIO: "a device or a pipe"}.get(error.errno or 0)
        if what is None:
            raise
        raise NotOurOwn.at(path, what, "a file") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotOurOwn.at(path, "a device or a pipe", "a file")
    return descriptor


def open_appending(path: Path, mode: str = "a", **options: Any) -> Any:
    """A file of ours, to append to; as `open_own`."""
    return open(open_own(path, os.O_WRONLY | os.O_APPEND), mode, **options)


def open_new(path: Path, mode: str, **options: Any) -> Any:
    """A file that was not there before; what a killed process, or somebody else, left under its name is removed."""
    path.unlink(missing_ok=True)
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), mode, **options)


def make_own_folder(path: Path) -> None:
    """Make a folder of ours below one that the user named. NotOurOwn for a symbolic link."""
    if path.is_symlink():
        raise NotOurOwn.at(path, "a symbolic link", "a folder")
    path.mkdir(parents=True, exist_ok=True)


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
    """Remove a folder if it is there; of a symbolic link only the link."""
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
