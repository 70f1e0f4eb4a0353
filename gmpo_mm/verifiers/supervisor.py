"""The verifier's own process: imports sympy once, forks workers that compare. A worker that overruns its CPU time ends.

Runs as a separate program (`pool.py` starts it), never as an import of the training process. It has one thread and runs
no untrusted input itself, so forking a fresh worker is safe and takes milliseconds. Both pipes carry one JSON object
a line. Each job names its method of comparison; one that is not loaded yet is imported here, between two jobs, and
workers forked before are replaced.
"""

import contextlib
import ctypes
import gc
import json
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gmpo_mm.verifiers.methods import FIRST, METHODS, Compare, MethodUnavailableError

MEMORY_LIMIT = 1 << 30  # bytes of address space for one worker; an import of sympy takes a tenth
RESIDENT_LIMIT = 384 << 20  # bytes ever resident above which a worker is replaced after its job
JOBS_PER_WORKER = 2000  # sympy's caches grow; a fresh worker costs milliseconds
PARENT_CHECK_SECONDS = 1.0
WALL_SHARE, WALL_SECONDS = 20.0, 60.0


def wall_limit(timeout: float) -> float:
    """Seconds after which a job is given up although its CPU time is not used up: the machine gives it no processor."""
    return WALL_SHARE * timeout + WALL_SECONDS


PR_SET_PDEATHSIG = 1  # Linux: the signal a process gets when its parent dies


@dataclass
class Worker:
    pid: int
    requests: int  # file descriptors, both held by the supervisor
    replies: int
    job: dict[str, Any] | None = None
    deadline: float = 0.0
    outdated: bool = False  # forked before the last method was loaded
    received: bytearray = field(default_factory=bytearray)


def die_with_parent(parent: int) -> None:
    """On Linux, have the kernel end this process with its parent, even inside an operation that runs no Python code."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the call
        os._exit(1)


def run_worker(compares: Mapping[str, Compare], requests: int, replies: int) -> None:
    """A worker's life: one line in, one line out, until its pipe closes or it has grown too large."""
    limit = MEMORY_LIMIT
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    if sys.platform != "darwin":  # macOS refuses the call
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    lines = os.fdopen(requests, "rb")
    for count, line in enumerate(lines, start=1):
        job = json.loads(line)
        # The kernel ends the process at its limit of CPU time, so that a grade does not depend on what else runs; and, should
        # the supervisor be gone or stopped, at that of wall time. No Python handler: a long integer operation would let none run.
        signal.setitimer(signal.ITIMER_PROF, job["timeout"])
        signal.setitimer(signal.ITIMER_REAL, wall_limit(job["timeout"]) + 2.0)
        try:
            equal = compares[job["method"]](job["prediction"], job["gold"])
            verdict, last = ("equal" if equal else "different"), False
        except (MemoryError, RecursionError):
            verdict, last = "error", True
        except Exception:
            verdict, last = "error", False
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        # ru_maxrss is in kilobytes on Linux and in bytes on macOS.
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        last = last or count >= JOBS_PER_WORKER or resident > RESIDENT_LIMIT
        os.write(replies, json.dumps({"verdict": verdict, "last": last}).encode() + b"\n")
        if last:
            return


class Supervisor:
    """Queue of jobs, a few workers, one select loop."""

    def __init__(self, compares: dict[str, Compare], max_workers: int, parent: int, source: int, sink: int) -> None:
        self.compares = compares
        self.unavailable: dict[str, str] = {}  # method -> why it can't be loaded
        self.max_workers = max_workers
        self.parent = parent
        self.source = source
        self.sink = sink
        self.queue: deque[dict[str, Any]] = deque()
        self.workers: list[Worker] = []
        self.incoming = bytearray()

    def run(self) -> None:
        """Serve until the parent closes its pipe or is gone."""
        try:
            while os.getppid() == self.parent:
                self.assign()
                now = time.monotonic()
                waits = [worker.deadline - now for worker in self.workers if worker.job is not None]
                wait = max(0.0, min([PARENT_CHECK_SECONDS, *waits]))
                readable = select.select([self.source, *(w.replies for w in self.workers)], [], [], wait)[0]
                if self.source in readable and not self.receive():
                    return
                for worker in list(self.workers):
                    if worker.replies in readable:
                        self.read_reply(worker)
                self.kill_overdue()
        finally:
            for worker in list(self.workers):
                self.remove(worker)

    def receive(self) -> bool:
        """Take what the parent wrote; False at its end of file."""
        chunk = os.read(self.source, 1 << 16)
        self.incoming += chunk
        *lines, rest = self.incoming.split(b"\n")
        self.incoming = bytearray(rest)
        self.queue.extend(json.loads(line) for line in lines)
        return bool(chunk)

    def assign(self) -> None:
        idle = [worker for worker in self.workers if worker.job is None]
        while self.queue:
            method = self.queue[0]["method"]
            if method not in self.compares:
                if not self.load(method):
                    self.send({"id": self.queue.popleft()["id"], "unavailable": self.unavailable[method]})
                    continue
                idle = []
            if not idle:
                if len(self.workers) >= self.max_workers:
                    return
                idle.append(self.fork())
            worker, job = idle.pop(), self.queue.popleft()
            worker.job, worker.deadline = job, time.monotonic() + wall_limit(job["timeout"])
            try:
                os.write(worker.requests, json.dumps(job).encode() + b"\n")
            except BrokenPipeError:  # it died idle: the job goes to another
                self.queue.appendleft(job)
                worker.job = None
                self.remove(worker)

    def load(self, method: str) -> bool:
        """Import a further method and retire the workers that lack it; False when that is not possible here."""
        if method in self.unavailable:
            return False
        try:
            self.compares[method] = METHODS[method].load()
        except Exception as error:
            expected = isinstance(error, MethodUnavailableError)
            self.unavailable[method] = str(error) if expected else traceback.format_exc()
            return False
        gc.freeze()
        for worker in list(self.workers):
            worker.outdated = True
            if worker.job is None:
                self.remove(worker)
        return True

    def fork(self) -> Worker:
        request_reader, request_writer = os.pipe()
        reply_reader, reply_writer = os.pipe()
        supervisor = os.getpid()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                die_with_parent(supervisor)
                # Without the others' pipes, each of them sees the end of file when the supervisor dies.
                for fd in [self.source, self.sink, request_writer, reply_reader]:
                    os.close(fd)
                for worker in self.workers:
                    os.close(worker.requests)
                    os.close(worker.replies)
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                run_worker(self.compares, request_reader, reply_writer)
                status = 0
            finally:
                os._exit(status)
        os.close(request_reader)
        os.close(reply_writer)
        worker = Worker(pid, request_writer, reply_reader)
        self.workers.append(worker)
        return worker

    def read_reply(self, worker: Worker) -> None:
        chunk = os.read(worker.replies, 4096)
        worker.received += chunk
        if not chunk:
            self.lose(worker)
        elif worker.received.endswith(b"\n"):
            reply = json.loads(worker.received)
            worker.received.clear()
            self.finish(worker, reply["verdict"])
            if reply["last"] or worker.outdated:
                self.remove(worker)

    def lose(self, worker: Worker) -> None:
        """A worker died: at its limit, or by itself or somebody's hand; then its job is tried once more."""
        job = worker.job
        ended_by = self.remove(worker)
        if ended_by == signal.SIGPROF:
            self.finish(worker, "timeout")
        elif job is not None and not job.get("retried"):
            self.queue.appendleft({**job, "retried": True})
        else:
            self.finish(worker, "error")

    def kill_overdue(self) -> None:
        now = time.monotonic()
        for worker in list(self.workers):
            if worker.job is not None and now >= worker.deadline:
                self.finish(worker, "stalled")
                self.remove(worker)

    def finish(self, worker: Worker, verdict: str) -> None:
        if worker.job is not None:
            self.send({"id": worker.job["id"], "verdict": verdict})
            worker.job = None

    def remove(self, worker: Worker) -> int:
        """End a worker; the signal that ended it, 0 where it ended by itself."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.pid, signal.SIGKILL)
        status = os.waitpid(worker.pid, 0)[1]
        os.close(worker.requests)
        os.close(worker.replies)
        self.workers.remove(worker)
        return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0

    def send(self, message: dict[str, Any]) -> None:
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[os.write(self.sink, data) :]


def main(max_workers: int, parent: int) -> None:
    """Entry point of the process: standard input and output are the parent's pipes."""
    source, sink = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)  # nothing that a library prints may reach the pipe
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    try:
        compares = {FIRST: METHODS[FIRST].load()}
    except Exception:
        os.write(sink, json.dumps({"failed": traceback.format_exc()}).encode() + b"\n")
        return
    gc.freeze()  # workers share these pages with the supervisor; the collector must not touch them
    supervisor = Supervisor(compares, max_workers, parent, source, sink)
    with contextlib.suppress(BrokenPipeError):
        supervisor.send({"ready": True})
        supervisor.run()
