"""Commands of gmpo-mm in processes forked from one that has imported everything, killed at a chosen moment.

    python -m tests.robustness.forked < requests

A fork takes a hundredth of a second where a start takes five, so that every file operation of a command can be its last. A
request is a line of JSON with the fields of `Request`; the reply is a line with the fields of `Ended`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_CHANGES_A_FILE = frozenset({"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink"})


@dataclass(frozen=True)
class Request:
    """`kill_before`: the number, from 1, of the file operation below `below` that is never done. `seconds`: killed then."""

    argv: Sequence[str]
    cwd: str
    log: str
    below: str | None = None
    kill_before: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Ended:
    """`status` is the exit status, negative for a signal; `operations` are those below `below`, in order."""

    status: int
    operations: tuple[str, ...] = ()


class Commands:
    """The forking process, as a context manager."""

    def __enter__(self) -> Commands:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            cwd=Path(__file__).parents[2],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def run(self, request: Request) -> Ended:
        """Run to the end, or to the kill."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(request)) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return Ended(answer["status"], tuple(answer["operations"]))


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import torch
    import transformers.models.qwen2_5_vl.modeling_qwen2_5_vl  # noqa: F401

    import gmpo_mm.engines.local
    import gmpo_mm.evaluation.evaluate
    import gmpo_mm.evaluation.grade_file
    import gmpo_mm.reports.report  # noqa: F401

    torch.set_num_threads(1)
    for line in sys.stdin:
        request = Request(**json.loads(line))
        operations = Path(f"{request.log}.operations")
        operations.unlink(missing_ok=True)
        child = os.fork()
        if child == 0:
            os._exit(_in_child(request, operations))
        killer = threading.Timer(request.seconds or 0, _kill_group, [child])
        if request.seconds is not None:
            killer.start()
        _, status = os.waitpid(child, 0)
        killer.cancel()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # workers of a killed command notice it by themselves, a moment later
        done = operations.read_text().splitlines() if operations.exists() else []
        print(json.dumps({"status": os.waitstatus_to_exitcode(status), "operations": done}), file=answers, flush=True)


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(leader, signal.SIGKILL)


def _in_child(request: Request, operations: Path) -> int:
    os.setsid()
    log = os.open(request.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(request.cwd)
    if request.below is not None:
        _watch_files(Path(request.below), request.kill_before, operations)
    sys.argv = ["gmpo-mm", *request.argv]
    from gmpo_mm.cli import main

    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _watch_files(below: Path, kill_before: int | None, operations: Path) -> None:
    """Count what changes files below a folder, and die right before operation `kill_before`."""
    me, written, count, lock = os.getpid(), operations.open("w"), 0, threading.RLock()

    def note(name: str, path: Any) -> None:
        nonlocal count
        try:
            text = os.path.abspath(os.fsdecode(path))
        except (TypeError, ValueError):
            return
        if os.getpid() != me or not (text == str(below) or text.startswith(f"{below}/")):
            return
        with lock:
            count += 1
            if count == kill_before:
                os.kill(me, signal.SIGKILL)
                time.sleep(60)
            written.write(f"{name} {os.path.relpath(text, below)}\n")
            written.flush()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            writes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) if flags else bool(set(mode or "") & set("wax+"))
            if writes and not isinstance(path, int):
                note("open", path)
        elif event in _CHANGES_A_FILE:
            path, folder = arguments[0], arguments[-1]
            if isinstance(path, int):
                path = os.readlink(f"/proc/self/fd/{path}")
            elif event in ("os.remove", "os.rmdir") and folder >= 0:  # shutil.rmtree
                path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), os.fsdecode(path))
            note(event, path)

    flush = os.fsync

    def fsync(descriptor: int) -> None:
        note("fsync", os.readlink(f"/proc/self/fd/{descriptor}"))
        flush(descriptor)

    os.fsync = fsync
    sys.addaudithook(hook)


if __name__ == "__main__":
    _serve()
