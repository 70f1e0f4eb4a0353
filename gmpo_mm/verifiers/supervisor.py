"""The verifier's own process: imports sympy once, forks workers that compare, ends those that overrun.

Runs as a separate program (`pool.py` starts it). It has one thread and runs no untrusted input itself, so
forking a worker is safe and takes milliseconds. Pipes carry one JSON object a line. A job's `cpu` is of
its worker's own processor time, kept by the kernel; `wall` is for a worker that waits without computing. A
job that is `alone` runs in a fresh worker and while no other job does.
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
import socket
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

OUT_OF_MEMORY_STATUS = 12  # the exit status when there is no memory to work with
MEMORY_LIMIT = 1 << 30  # bytes of address space for one worker; an import of sympy takes a tenth
RESIDENT_LIMIT = 384 << 20  # bytes ever resident above which a worker is replaced after its job
PARENT_CHECK_SECONDS = 1.0
_ENDED_BY: dict[int, str] = {signal.SIGPROF: "timeout", signal.SIGALRM: "stalled"}
Compare = Callable[[str, str], bool]  # (prediction, gold)
PR_SET_PDEATHSIG = 1  # Linux: the signal a process gets when its parent dies


def _load_engine(name: str) -> Compare:
    """The whole comparison that the caller's process made, once more and with computer algebra."""
    from gmpo_mm.verifiers.equivalence import RULES, decide
    from gmpo_mm.verifiers.symbolic import load_compare

    rules = replace(RULES[name], algebra=load_compare())
    return lambda prediction, gold: decide(prediction, gold, rules).equal is True


def _load_drgrpo(fast: bool) -> Compare:
    from gmpo_mm.verifiers.drgrpo_symbolic import load_fast, load_slow

    return load_fast() if fast else load_slow()


def _load_mathruler() -> Compare:
    from gmpo_mm.verifiers.rule_compare import load_mathruler

    return load_mathruler()


def _load_math_verify(how: str) -> Compare:
    from gmpo_mm.verifiers.rule_compare import load_math_verify

    return load_math_verify(how)


FIRST = "math"  # loaded at the supervisor's start
# How a comparison is loaded, with all that its first uses import, and what pip installs for it.
METHODS: dict[str, tuple[Callable[[], Compare], str]] = {
    name: (partial(_load_engine, name), "gmpo-mm") for name in (FIRST, "minerva", "olympiadbench")
}
METHODS["drgrpo_fast"] = partial(_load_drgrpo, fast=True), "gmpo-mm[drgrpo]"
METHODS["drgrpo_slow"] = partial(_load_drgrpo, fast=False), "gmpo-mm[drgrpo]"


METHODS["mathruler"] = _load_mathruler, "gmpo-mm[drgrpo]"
for _how in ("areal", "nemo_rl", "trl", "trl_gold"):
    METHODS[f"math_verify_{_how}"] = partial(_load_math_verify, _how), "gmpo-mm[drgrpo]"


def die_with_parent(parent: int) -> None:
    """On Linux, have the kernel end this process with its parent, even inside one long operation."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the call
        os._exit(1)


def run_worker(compares: Mapping[str, Compare], requests: int, replies: int) -> None:
    """A worker's life: one line in, one line out, until its pipe closes or it should be replaced."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if sys.platform != "darwin":  # macOS refuses the call
        soft = MEMORY_LIMIT if hard == resource.RLIM_INFINITY else min(MEMORY_LIMIT, hard)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    for line in os.fdopen(requests, "rb"):
        job = json.loads(line)
        random.seed(0)  # sympy tests whether a formula is 0 at random points: the same for each job
        if "sympy.core.random" in sys.modules:
            sys.modules["sympy.core.random"].seed(0)
        # The kernel's clocks, and no Python handler, which a long integer operation would never let run. The
        # supervisor ends a worker before the second one does, unless it is gone or stopped itself.
        signal.setitimer(signal.ITIMER_PROF, job["cpu"])
        signal.setitimer(signal.ITIMER_REAL, job["wall"] + 2.0)
        try:
            verdict = "equal" if compares[job["method"]](job["prediction"], job["gold"]) else "different"
        except MemoryError:
            return  # perhaps for what earlier jobs left here: the supervisor asks a fresh worker
        except Exception:
            verdict = "error"
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        # ru_maxrss is in kilobytes on Linux and in bytes on macOS.
        unit = 1 if sys.platform == "darwin" else 1024
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        last = verdict == "error" or resident > RESIDENT_LIMIT
        os.write(replies, json.dumps({"verdict": verdict, "last": last}).encode() + b"\n")
        if last:
            return


@dataclass(eq=False)
class Worker:
    pid: int
    pipe: socket.socket
    job: dict[str, Any] | None = None
    deadline: float = 0.0  # on the wall
    outdated: bool = False  # forked before the last method was loaded


class Supervisor:
    """Queue of jobs, a few workers, one select loop."""

    def __init__(self, max_workers: int, parent: int, source: int, sink: int) -> None:
        self.max_workers, self.parent, self.source, self.sink = max_workers, parent, source, sink
        self.compares: dict[str, Compare] = {}
        self.unavailable: dict[str, str] = {}  # method -> why it can't be loaded
        self.queue: deque[dict[str, Any]] = deque()
        self.workers: list[Worker] = []
        self.incoming = b""
        self.last_sent = time.monotonic()

    def run(self) -> None:
        """Serve until the parent closes its pipe or is gone."""
        try:
            while os.getppid() == self.parent:
                self.assign()
                now = time.monotonic()
                waits = [worker.deadline - now for worker in self.workers if worker.job]
                wait = max(0.0, min([PARENT_CHECK_SECONDS, *waits]))
                sources: list[Any] = [self.source, *(worker.pipe for worker in self.workers)]
                readable = select.select(sources, [], [], wait)[0]
                if self.source in readable and not self.receive():
                    return
                for worker in list(self.workers):
                    if worker.pipe in readable:
                        self.read_reply(worker)
                    elif worker.job and time.monotonic() >= worker.deadline:
                        self.finish(worker, "stalled")
                        self.remove(worker)
                working = self.queue or any(worker.job for worker in self.workers)
                if working and time.monotonic() - self.last_sent >= PARENT_CHECK_SECONDS:
                    self.send({"working": True})  # the parent tells a long job from a hung process
        finally:
            for worker in list(self.workers):
                self.remove(worker)

    def receive(self) -> bool:
        """Take what the parent wrote; False at its end of file."""
        chunk = os.read(self.source, 1 << 16)
        *lines, self.incoming = (self.incoming + chunk).split(b"\n")
        self.queue.extend(map(json.loads, lines))
        return bool(chunk)

    def assign(self) -> None:
        while self.queue:
            job = self.queue[0]
            if job["method"] not in {**self.compares, **self.unavailable}:
                self.load(job["method"])
            if job["method"] in self.unavailable:
                self.send({"id": self.queue.popleft()["id"], "unavailable": self.unavailable[job["method"]]})
                continue
            busy = [worker.job for worker in self.workers if worker.job]
            if busy and (job["alone"] or busy[0]["alone"]):
                return
            worker = self.idle_worker(fresh=job["alone"] or "lost" in job)
            if worker is None:
                return
            try:
                worker.pipe.sendall(json.dumps(job).encode() + b"\n")
            except OSError:  # it died idle: the job goes to another
                self.remove(worker)
                continue
            worker.job, worker.deadline = self.queue.popleft(), time.monotonic() + job["wall"]

    def idle_worker(self, fresh: bool) -> Worker | None:
        """A worker without a job, a fresh one if asked for or none is there; None if all are busy."""
        idle = [worker for worker in self.workers if not worker.job]
        if idle and not fresh:
            return idle[-1]
        if len(self.workers) >= self.max_workers:
            if not idle:
                return None
            self.remove(idle[0])
        return self.fork()

    def load(self, method: str) -> None:
        """Import a method and retire the workers that lack it; or note why that is not possible here."""
        load, package = METHODS[method]
        try:
            self.compares[method] = load()
        except (MemoryError, SystemError) as error:  # a SystemError is compiled code that forgot to name its MemoryError
            raise MemoryError from error
        except Exception as error:
            if "failed to map segment" in str(error):  # a library that finds no room
                raise MemoryError from error
            needed = f"{method} can't be loaded; it needs: pip install '{package}'"
            self.unavailable[method] = f"{needed}\n{traceback.format_exc()}"
        gc.freeze()  # workers share these pages with the supervisor; the collector must not touch them
        for worker in list(self.workers):
            worker.outdated = True
            if not worker.job:
                self.remove(worker)

    def fork(self) -> Worker:
        ours, theirs = socket.socketpair()
        supervisor = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            raise MemoryError("no room for a worker") from error
        if pid == 0:
            try:
                die_with_parent(supervisor)
                # Without the others' pipes, each of them sees the end of file when the supervisor dies.
                for pipe in (ours, *(worker.pipe for worker in self.workers)):
                    pipe.close()
                os.close(self.source)
                os.close(self.sink)
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                run_worker(self.compares, theirs.fileno(), theirs.fileno())
            finally:
                os._exit(0)
        theirs.close()
        worker = Worker(pid, ours)
        self.workers.append(worker)
        return worker

    def read_reply(self, worker: Worker) -> None:
        try:
            line = worker.pipe.recv(4096)  # a reply is short: it comes whole
        except ConnectionResetError:  # it died with a job unread
            line = b""
        if not line:
            self.lose(worker)
            return
        reply = json.loads(line)
        self.finish(worker, reply["verdict"])
        if reply["last"] or worker.outdated:
            self.remove(worker)

    def lose(self, worker: Worker) -> None:
        """A worker ended with its job open: at a limit; or killed, or out of memory: it is asked again."""
        job, status = worker.job, self.remove(worker)
        verdict = _ENDED_BY.get(os.WTERMSIG(status), "error")
        if verdict == "error" and job and "lost" not in job:
            self.queue.appendleft({**job, "lost": True})
        else:
            self.finish(worker, verdict)

    def finish(self, worker: Worker, verdict: str) -> None:
        if worker.job:
            self.send({"id": worker.job["id"], "verdict": verdict})
            worker.job = None

    def remove(self, worker: Worker) -> int:
        """End a worker; its exit status, which tells what ended it where it was gone already."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.pid, signal.SIGKILL)
        _, status = os.waitpid(worker.pid, 0)
        worker.pipe.close()
        self.workers.remove(worker)
        return status

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
        Supervisor(max_workers, parent, source, sink).run()
    except BrokenPipeError:
        pass
    except MemoryError:
        os._exit(OUT_OF_MEMORY_STATUS)  # reported by the parent
