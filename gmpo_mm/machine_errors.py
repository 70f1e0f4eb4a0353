"""What the machine refuses (space, files, memory) as an error of one line: the one place that finds the words for it."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from gmpo_mm.errors import GMPOError, TrainingError

_ELSEWHERE = "make it writable, or give another folder"
_ADVICE = {
    errno.ENOSPC: "free some space, then run the same command again",
    errno.EDQUOT: "free some space or raise the quota, then run the same command again",
    errno.EFBIG: "raise the limit on a file's size (ulimit -f), then run the same command again",
    errno.EROFS: _ELSEWHERE,
    errno.EACCES: _ELSEWHERE,
    errno.EPERM: _ELSEWHERE,
    errno.EIO: "the disk or its network failed; run the same command again when it works, or give another folder",
    errno.EMFILE: "raise the limit on open files (ulimit -n), then run the same command again",
    errno.ENFILE: "this machine has too many open files; end other programs, then run the same command again",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ELOOP: "its symbolic links lead in a circle; give another folder",
}
"""What to do about an error number that is the machine's, or the user's choice of a place, and no fault of the program's."""

_NO_MEMORY = (
    "DefaultCPUAllocator",
    "CUDA out of memory",
    "std::bad_alloc",
    "Cannot allocate memory",
    "cannot allocate memory",
    "failed to map segment from shared object",
    "can't start new thread",
    "Failed to launch worker thread",
    "not enough memory",
    "Unable to allocate",
    "failed to allocate",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""Parts of the messages of programs that ask for memory, a thread or a library and get none."""


_LEAST_MIB = {"train": 1700, "evaluate": 1700, "merge": 1700, "plan": 1700, "grade": 1000, "sweep": 1000, "report": 500}
"""Address space, mostly of libraries, without which a command can't even begin on a CPU."""


def check_address_space(arguments: Sequence[str]) -> None:
    """TrainingError where a limit on the address space (ulimit -v) leaves too little room for the command of `arguments`.

    Below it, libraries end the process in words of their own, and a thread that can't start can leave another one waiting.
    """
    least = next((_LEAST_MIB[word] for word in arguments[:1] if word in _LEAST_MIB), 0)
    limit = _address_space_limit()
    if limit is not None:  # pyarrow's own pool would take the first 1,024 MiB for itself
        os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    if limit is not None and limit < least << 20 and "--help" not in arguments:
        raise TrainingError(
            f"memory: the limit on the address space is {limit >> 20:,} MiB (ulimit -v), and gmpo-mm {arguments[0]} needs "
            f"{least:,} MiB for its libraries alone; raise it, best to `ulimit -v unlimited`"
        )


def _address_space_limit() -> int | None:
    if sys.platform == "win32":
        return None
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one behind it, says that memory ran out: torch's on GPU and CPU, Python's, a library's."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        names = {kind.__name__ for kind in type(error).__mro__}
        if isinstance(error, MemoryError) or "OutOfMemoryError" in names:
            return True
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            return True
        if isinstance(error, SystemError) and _address_space_limit() is not None:
            return True  # compiled code that forgot to say why it failed: under such a limit nothing else makes it fail
        if isinstance(error, (RuntimeError, ImportError, OSError)) and any(part in str(error) for part in _NO_MEMORY):
            return True
        error = error.__cause__ or error.__context__
    return False


def machine_error(error: BaseException) -> GMPOError | None:
    """The error in words for a user, where the machine is to blame; None where it is not. For what nobody named before."""
    if isinstance(error, OSError) and error.errno in _ADVICE:
        return TrainingError(_words(error, error.filename or "a file"))
    if is_out_of_memory(error):
        return TrainingError(
            f"out of memory ({_first_line(error)}); end other programs, raise the limit on memory (ulimit -v), or take a "
            "smaller model or smaller batches"
        )
    return None


@contextlib.contextmanager
def writing(path: Path, key: str = "", kind: type[GMPOError] = TrainingError) -> Iterator[None]:
    """Any OSError within becomes an error of one line: the file, why it can't be written, and what to do.

    `key` begins the message: the user's key or option that chose the place.
    """
    try:
        yield
    except GMPOError:  # some are OSErrors too, with words of their own
        raise
    except OSError as error:
        raise kind(_words(error, error.filename or path, key)) from error


@contextlib.contextmanager
def memory_for(what: str, advice: str) -> Iterator[None]:
    """Running out of memory within is a TrainingError that says at what, and which key to lower."""
    try:
        yield
    except GMPOError:
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # their tensors are freed: what is done can still be saved
        raise TrainingError(f"{what}: out of memory ({_first_line(error)}); {advice}") from error


def _words(error: OSError, path: object, key: str = "") -> str:
    advice = _ADVICE.get(error.errno or 0, "give another folder, or fix this one")
    return f"{key}could not write {path} ({error.strerror or error}); {advice}"


def _first_line(error: BaseException) -> str:
    while not str(error).strip() and (error.__cause__ or error.__context__):
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    return text[:160]
