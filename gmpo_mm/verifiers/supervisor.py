"""The verifier's own process: imports sympy once, forks workers that compare, ends those that overrun.

Runs as a separate program (`pool.py` starts it), never as an import of the training process. It has one
thread and runs no untrusted input itself, so forking a fresh worker is safe and takes milliseconds. Both
pipes carry one JSON object a line. Each job names its method of comparison; one that is not loaded yet is
imported here, between two jobs, and workers forked before are replaced.

A job has two limits in seconds. `cpu` is of the processor time that its worker itself uses, from when the
worker has taken the job: the kernel keeps that clock and ends the worker (ITIMER_PROF, on Linux and macOS),
so that other programs on the machine do not shorten it. `wall` is of the clock on the wall, for a worker that
waits without computing. A job that is `alone` runs in a fresh worker and while no other job does.
"""

import contextlib
import ctypes
import gc
import json
import os
import random
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
PR_SET_PDEATHSIG = 1  # Linux: the signal a process gets when its parent dies


@dataclass
class Worker:
    pid: int
    requests: int  # file descriptors, both held by the supervisor
    replies: int
    job: dict[str, Any] | None = None
    deadline: float = 0.0  # on the wall
    used: bool = False  # it has had a job
    outdated: bool = False  # forked before the last method was loaded
    received: bytearray = field(default_factory=bytearray)


def die_with_parent(parent: int) -> None:
    """On Linux, have the kernel end this process with its parent, even inside one long operation."""
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
        _seed()
        # The kernel's clocks, and no Python handler, which a long integer operation would never let run. The
        # supervisor ends a worker before the second one does, unless it is gone or stopped itself.
        signal.setitimer(signal.ITIMER_PROF, job["cpu"])
        signal.setitimer(signal.ITIMER_REAL, job["wall"] + 2.0)
        try:
            equal = compares[job["method"]](job["prediction"], job["gold"])
            verdict, last = ("equal" if equal else "different"), False
        except MemoryError:
            return  # perhaps for what earlier jobs left here: the supervisor asks a fresh worker
        except RecursionError:
            verdict, last = "error", True
        except Exception:
            verdict, last = "error", False
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        # ru_maxrss is in kilobytes on Linux and in bytes on macOS.
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
            1 if sys.platform == "darwin" else 1024
        )
        last = last or count >= JOBS_PER_WORKER or resident > RESIDENT_LIMIT
        os.write(replies, json.dumps({"verdict": verdict, "last": last}).encode() + b"\n")
        if last:
            return


def _seed() -> None:
    """The same random numbers for each job: sympy tests whether a formula is 0 at random points."""
    random.seed(0)
    if "sympy.core.random" in sys.modules:
        sys.modules["sympy.core.random"].seed(0)


class Supervisor:
    """Queue of jobs, a few workers, one select loop."""

    def __init__(
        self, compares: dict[str, Compare], max_workers: int, parent: int, source: int, sink: int
    ) -> None:
        self.compares = compares
        self.unavailable: dict[str, str] = {}  # method -> why it can't be loaded
        self.max_workers = max_workers
        self.parent = parent
        self.source = source
        self.sink = sink
        self.queue: deque[dict[str, Any]] = deque()
        self.workers: list[Worker] = []
        self.incoming = bytearray()
        self.last_sent = time.monotonic()

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
                if self.queue or any(worker.job for worker in self.workers):
                    self.tell_that_it_works()
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
        while self.queue:
            job = self.queue[0]
            if job["method"] not in self.compares and not self.load(job["method"]):
                self.send({"id": self.queue.popleft()["id"], "unavailable": self.unavailable[job["method"]]})
                continue
            busy = [worker.job for worker in self.workers if worker.job is not None]
            if busy and (job["alone"] or busy[0]["alone"]):
                return
            worker = self.idle_worker(fresh=job["alone"] or "lost" in job)
            if worker is None:
                return
            self.queue.popleft()
            worker.job, worker.used, worker.deadline = job, True, time.monotonic() + job["wall"]
            try:
                os.write(worker.requests, json.dumps(job).encode() + b"\n")
            except BrokenPipeError:  # it died idle: the job goes to another
                self.queue.appendleft(job)
                worker.job = None
                self.remove(worker)

    def idle_worker(self, fresh: bool) -> Worker | None:
        """A worker without a job, forked where there is none; None where all are busy. Fresh: had no job."""
        idle = [worker for worker in self.workers if worker.job is None]
        suitable = [worker for worker in idle if not (fresh and worker.used)]
        if suitable:
            return suitable[-1]
        if len(self.workers) >= self.max_workers:
            if not idle:
                return None
            self.remove(idle[0])
        return self.fork()

    def load(self, method: str) -> bool:
        """Import a further method, retire the workers that lack it; False when that is not possible here."""
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
        """A worker ended with its job open: at a limit; or killed, or out of memory: it is asked again."""
        job, status = worker.job, self.remove(worker)
        ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        if ended_by == signal.SIGPROF:
            self.finish(worker, "timeout")
        elif ended_by == signal.SIGALRM:
            self.finish(worker, "stalled")
        elif job is not None and "lost" not in job:
            self.queue.appendleft({**job, "lost": True})
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
        """End a worker; its exit status, which tells what ended it where it was gone already."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.pid, signal.SIGKILL)
        _, status = os.waitpid(worker.pid, 0)
        os.close(worker.requests)
        os.close(worker.replies)
        self.workers.remove(worker)
        return status

    def tell_that_it_works(self) -> None:
        """A sign of life in each second with open jobs: the parent tells a long job from a hung process."""
        if time.monotonic() - self.last_sent >= PARENT_CHECK_SECONDS:
            self.send({"working": True})

    def send(self, message: dict[str, Any]) -> None:
        self.last_sent = time.monotonic()
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
    for limit in (signal.SIGPROF, signal.SIGALRM):  # end a worker, whatever the parent did with them
        signal.signal(limit, signal.SIG_DFL)
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
