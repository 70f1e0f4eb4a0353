"""Commands of gmpo-mm in processes forked from one that has imported everything, killed at a chosen moment.

    python -m tests.robustness.forked < requests

A fork takes a hundredth of a second where a start takes five, so that every file operation of a command can be its last. The
runs of a sweep are forked too, and their file operations are counted with the sweep's own. What a command imports later is
imported here after its first run. Templates are rendered without a process of their own. A request is a line of JSON with
the fields of `Request`; the reply is a line with the fields of `Ended`.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from gmpo_mm.data import template_process, templates
from gmpo_mm.sweeps import processes
from gmpo_mm.verifiers.supervisor import die_with_parent

PR_SET_CHILD_SUBREAPER = 36
_watched: set[int] = set()
"""Processes whose file operations count: the command's and a sweep's runs', not those of their workers."""

_CHANGES_A_FILE = frozenset({"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink"})


@dataclass(frozen=True)
class Request:
    """`kill_before`: the number, from 1, of the file operation below `below` that is never done. `seconds`: killed then.

    What dies is the process that would have done the operation, or after some time the command itself.
    """

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

    import gmpo_mm.engines.local.launch
    import gmpo_mm.evaluation.evaluate
    import gmpo_mm.evaluation.grade_file
    import gmpo_mm.reports.report
    import gmpo_mm.sweeps.sweep  # noqa: F401

    torch.set_num_threads(1)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
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
        _wait_for_orphans()
        _import_the_same(Path(f"{request.log}.modules"))
        done = operations.read_text().splitlines() if operations.exists() else []
        print(json.dumps({"status": os.waitstatus_to_exitcode(status), "operations": done}), file=answers, flush=True)


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(leader, signal.SIGKILL)


def _import_the_same(list_of_modules: Path) -> None:
    """What a command has imported, for the next one's fork; once for each list."""
    if list_of_modules.exists():
        names = [name for name in list_of_modules.read_text().split() if name not in sys.modules]
        list_of_modules.unlink()
        for name in names:
            with contextlib.suppress(Exception):
                importlib.import_module(name)


def _wait_for_orphans() -> None:
    """Until the processes that a command left behind have ended, as they do by themselves."""
    until = time.monotonic() + 30
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < until:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.005)


def _in_child(request: Request, operations: Path) -> int:
    os.setsid()
    _redirect(os.open(request.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND))
    os.chdir(request.cwd)
    if request.below is not None:
        _watch_files(Path(request.below), request.kill_before, operations)
    processes.subprocess = SimpleNamespace(Popen=_ForkedRun, DEVNULL=subprocess.DEVNULL, STDOUT=subprocess.STDOUT)
    templates._ask = lambda question: template_process._answer(question, templates.MAX_CHARACTERS)
    before = set(sys.modules)
    status = _command(request.argv)
    if later := set(sys.modules) - before:
        Path(f"{request.log}.modules").write_text("\n".join(sorted(later)))
    return status


def _redirect(log: int) -> None:
    for stream in (1, 2):
        os.dup2(log, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)


class _ForkedRun:
    """`subprocess.Popen` of a sweep's run, as a fork of the sweep's process, which has no other threads then."""

    def __init__(self, argv: Sequence[str], *, stdout: Any, env: Mapping[str, str], **_: Any) -> None:
        _python, _module, child, parent, *arguments = argv
        assert child == processes.CHILD and threading.active_count() == 1
        self._status: int | None = None
        self.pid = os.fork()
        if self.pid:
            return
        try:
            os.setsid()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            die_with_parent(int(parent))
            _redirect(stdout.fileno())
            os.environ.update(env)
            _watched.add(os.getpid())
            os._exit(_command(arguments))
        finally:
            os._exit(70)

    def poll(self) -> int | None:
        if self._status is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = os.waitstatus_to_exitcode(status) if ended else None
        return self._status

    def wait(self) -> None:
        while self.poll() is None:
            time.sleep(0.01)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


def _command(argv: Sequence[str]) -> int:
    sys.argv = ["gmpo-mm", *argv]
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
    """Count what this process and the runs that it starts change below a folder, and die right before `kill_before`."""
    count, threads = multiprocessing.get_context("fork").Value("l"), threading.RLock()
    listed = os.open(operations, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    _watched.add(os.getpid())

    def note(name: str, path: Any) -> None:
        try:
            text = os.path.abspath(os.fsdecode(path))
        except (TypeError, ValueError):
            return
        if os.getpid() not in _watched or not (text == str(below) or text.startswith(f"{below}/")):
            return
        with threads:  # no other thread does anything between the count and the kill
            with count.get_lock():
                count.value += 1
                number = count.value
            if number == kill_before:
                os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(60)
            os.write(listed, f"{name} {os.path.relpath(text, below)}\n".encode())

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
