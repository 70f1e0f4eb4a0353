"""One process per run directory."""

from __future__ import annotations

import contextlib
import fcntl
import os
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from gmpo_mm.errors import ConfigError
from gmpo_mm.machine_errors import writing
from gmpo_mm.runs.files import open_own

if TYPE_CHECKING:
    from typing_extensions import Self


class DirectoryLock:
    """An advisory lock on a file, held by this process alone; freed by the system when the process dies.

    ConfigError where another process holds it, unless `wait` is given.
    """

    held: ClassVar[weakref.WeakSet[DirectoryLock]] = weakref.WeakSet()

    def __init__(self, path: Path, *, wait: bool = False) -> None:
        self.descriptor = -1
        with writing(path, kind=ConfigError):
            self.descriptor = open_own(path, os.O_RDWR)
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            holder = os.pread(self.descriptor, 32, 0).decode(errors="replace").strip()
            os.close(self.descriptor)
            raise ConfigError(
                f"another process ({holder or 'unknown'}) is working in {path.parent}; wait for it or end it, or give another "
                "directory (trainer.run_dir, an evaluation's out, a sweep's --out)"
            ) from None
        except OSError as error:
            os.close(self.descriptor)
            raise ConfigError(
                f"the file system of {path.parent} can't lock files ({error.strerror}), so nothing would keep two runs apart; "
                "give a directory on another one (trainer.run_dir, an evaluation's out, a sweep's --out)"
            ) from error
        with contextlib.suppress(OSError):  # a full disk: the lock holds, only its message stays unnamed
            os.ftruncate(self.descriptor, 0)
            os.pwrite(self.descriptor, f"process {os.getpid()}".encode(), 0)
        DirectoryLock.held.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Free the lock; a second call does nothing."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = -1


def _release_all() -> None:
    for lock in list(DirectoryLock.held):
        lock.release()


# A forked worker that outlives a killed run would go on holding its lock.
os.register_at_fork(after_in_child=_release_all)
