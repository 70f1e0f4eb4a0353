"""The parent's side of the verifier's processes: started on first need, shared by all threads.

What a batch may cost, so that a grade depends on the answers and not on how busy the machine is: all limits
are seconds of processor time that a worker itself has used. The pairs of one call are asked in ROUNDS, each
with a longer limit and for fewer pairs: what a round leaves open is asked again in the next. The last round
gives the whole limit, to one pair at a time. A batch of n pairs thus takes at most (5 + n / 15) * timeout
seconds of processor time in workers (with a timeout of 3 s or more; a pair whose worker was killed or ran out
of memory is asked twice). Who is asked where a round has room for some only follows from the set of pairs,
not from their order: the shortest prediction of each gold, then the second of each, so that hostile answers
to one problem leave room for the others.
"""

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Literal, NamedTuple

from gmpo_mm.verifiers.methods import FIRST, METHODS

Verdict = Literal["equal", "different", "timeout", "batch_limit", "stalled", "error"]

STATUS: dict[Verdict, Literal["timeout", "error"]] = {
    "timeout": "timeout",  # no verdict within the limit, asked again alone
    "batch_limit": "timeout",  # no verdict within a round's limit, and no room in the next
    "stalled": "error",  # the machine did not let the worker compute, twenty times the limit long
    "error": "error",  # the comparison failed: memory, an exception, its process killed twice
}
OPEN = ("timeout", "stalled")  # what a later round asks again


class Round(NamedTuple):
    """One round of a batch: its limit as a share of the whole one, and how many pairs it has room for."""

    share: float
    pairs: int
    one_more_for_each: int  # pairs of the batch
    alone: bool  # one pair at a time, each in a fresh process

    def room(self, pairs: int) -> int:
        """How many of a batch's pairs may be asked in it."""
        return self.pairs + pairs // self.one_more_for_each


ROUNDS = (Round(1 / 30, 0, 1, False), Round(1 / 4, 8, 16, False), Round(1, 3, 64, True))
SHORTEST_LIMIT = (
    0.1  # seconds of processor time of a round, unless `timeout` is shorter; a fresh start takes 0.01
)
WALL_SHARE, WALL_SECONDS = 20.0, 60.0  # a worker may be on the wall: 20 times its limit and a minute
STALL_SECONDS = 120.0  # silence after which the supervisor counts as dead; it tells each second that it works

MAX_WORKERS = 8

# The module path is handed over as it is here; the main program is not imported again, as multiprocessing
# would.
_BOOTSTRAP = (
    "import json, sys; arguments = json.loads(sys.argv[1]); sys.path[:] = arguments['path']; "
    "from gmpo_mm.verifiers.supervisor import main; main(arguments['workers'], arguments['parent'])"
)


class VerifierUnavailableError(RuntimeError):
    """The asked-for verifier can't run on this machine at all; grading on would score right answers 0."""


class _SupervisorGoneError(Exception):
    """The supervisor died or fell silent with jobs open."""


def default_workers() -> int:
    """One worker for each core this process may use, at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MAX_WORKERS, cores))


class _Connection:
    """One supervisor process, a thread that reads its replies, and the jobs it still owes."""

    def __init__(self, workers: int) -> None:
        arguments = {
            "path": [entry or os.getcwd() for entry in sys.path],
            "workers": workers,
            "parent": os.getpid(),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", _BOOTSTRAP, json.dumps(arguments)],
            env={
                **os.environ,
                "PYTHONHASHSEED": "0",
            },  # sympy goes through sets: the same way in each process
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # a Ctrl-C in the terminal is not for it
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.requests, self.replies = self.process.stdin, self.process.stdout
        self.lock = threading.Lock()
        self.open_jobs: dict[int, Future[Verdict]] = {}
        self.next_id = 0
        self.alive = True
        self.failure: str | None = None
        self.ready = threading.Event()
        self.last_activity = time.monotonic()
        self.reader = threading.Thread(target=self._read, name="gmpo-verifier", daemon=True)
        self.reader.start()

    def submit(
        self, pairs: Sequence[tuple[str, str]], cpu: float, method: str, alone: bool
    ) -> list[Future[Verdict]]:
        """Queue comparisons of (prediction, gold); futures raise when the supervisor goes or lacks it."""
        futures: list[Future[Verdict]] = []
        with self.lock:
            if not self.alive:
                raise _SupervisorGoneError
            self.last_activity = time.monotonic()
            lines = []
            limits = {"cpu": cpu, "wall": WALL_SHARE * cpu + WALL_SECONDS, "alone": alone}
            for prediction, gold in pairs:
                future: Future[Verdict] = Future()
                self.open_jobs[self.next_id] = future
                futures.append(future)
                job = {"id": self.next_id, "method": method, "prediction": prediction, "gold": gold, **limits}
                lines.append(json.dumps(job).encode() + b"\n")
                self.next_id += 1
            data = memoryview(b"".join(lines))
            with contextlib.suppress(OSError):  # a broken pipe ends the reader too, which fails the futures
                while data:
                    data = data[self.requests.write(data) or 0 :]
        return futures

    def wait(self, future: "Future[Verdict]") -> Verdict:
        """The verdict; kills a supervisor that has been silent for too long."""
        while True:
            try:
                return future.result(timeout=1.0)
            except FutureTimeout:
                if time.monotonic() - self.last_activity > STALL_SECONDS:
                    self.process.kill()

    def close(self) -> None:
        """End the supervisor and its workers; open jobs fail."""
        self.process.kill()
        self.process.wait()
        self.reader.join(timeout=5.0)

    def abandon(self) -> None:
        """In a forked child: close this copy of the pipes, so that the real parent's end is the only one."""
        with contextlib.suppress(OSError):
            self.requests.close()
            self.replies.close()

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            for line in self.replies:
                self.last_activity = time.monotonic()
                message = json.loads(line)
                if "verdict" in message:
                    self.open_jobs.pop(message["id"]).set_result(message["verdict"])
                elif "unavailable" in message:
                    reason = VerifierUnavailableError(message["unavailable"])
                    self.open_jobs.pop(message["id"]).set_exception(reason)
                elif "ready" in message:
                    self.ready.set()
                elif "failed" in message:
                    self.failure = message["failed"]
        with self.lock:
            self.alive = False
            left, self.open_jobs = list(self.open_jobs.values()), {}
        for future in left:
            future.set_exception(_SupervisorGoneError())
        was_ready = self.ready.is_set()
        self.process.wait()
        if not was_ready and self.failure is None:
            self.failure = f"the process ended with code {self.process.returncode} before it was ready"
        self.ready.set()


class VerifierPool:
    """Compares pairs by computer algebra in processes that end at the limit; safe to call from any thread."""

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers or default_workers()
        self.lock = threading.Lock()
        self.connection: _Connection | None = None

    def start(self) -> _Connection:
        """The running supervisor, started when there is none; returns before it is ready."""
        with self.lock:
            if self.connection is None or not self.connection.alive:
                if self.connection is not None and self.connection.failure:
                    raise VerifierUnavailableError(
                        "the answer verifier could not start; are the package's requirements installed?\n"
                        + self.connection.failure
                    )
                self.connection = _Connection(self.workers)
            return self.connection

    def check(self, pairs: Sequence[tuple[str, str]], timeout: float, method: str = FIRST) -> list[Verdict]:
        """Verdict for each (prediction, gold), within the bounds that this module's text states.

        `timeout` is in seconds of processor time, for one pair in the last round. `method` is a name in
        `methods.METHODS`; one whose packages are missing is a VerifierUnavailableError.
        """
        if method not in METHODS:
            raise ValueError(f"method={method!r} is not known; use one of {', '.join(METHODS)}")
        verdicts: dict[int, Verdict] = {}
        left = _in_fair_order(pairs)
        for one in ROUNDS:
            room = one.room(len(pairs))
            verdicts.update((i, "batch_limit") for i in left[room:])
            left = left[:room]
            cpu = min(timeout, max(SHORTEST_LIMIT, one.share * timeout))
            verdicts.update(
                zip(left, self._ask([pairs[i] for i in left], cpu, method, one.alone), strict=True)
            )
            left = [i for i in left if verdicts[i] in OPEN]
        return [verdicts[i] for i in range(len(pairs))]

    def _ask(self, pairs: Sequence[tuple[str, str]], cpu: float, method: str, alone: bool) -> list[Verdict]:
        """Verdicts of one round."""
        verdicts: dict[int, Verdict] = {}
        for _ in range(2):  # a supervisor that somebody killed is replaced once
            missing = [i for i in range(len(pairs)) if i not in verdicts]
            if not missing:
                break
            connection = self.start()
            with contextlib.suppress(_SupervisorGoneError):
                futures = connection.submit([pairs[i] for i in missing], cpu, method, alone)
                for i, future in zip(missing, futures, strict=True):
                    with contextlib.suppress(_SupervisorGoneError):
                        verdicts[i] = connection.wait(future)
            connection.ready.wait(timeout=STALL_SECONDS)
            if connection.failure:
                self.start()  # raises with the reason
        return [verdicts.get(i, "error") for i in range(len(pairs))]

    def warm_up(self) -> None:
        """Block until computer algebra is imported and the first comparison would start at once."""
        connection = self.start()
        if not connection.ready.wait(timeout=STALL_SECONDS) or connection.failure:
            connection.close()
            self.start()

    def close(self) -> None:
        """End the processes; a later check starts new ones."""
        with self.lock:
            connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()


def _in_fair_order(pairs: Sequence[tuple[str, str]]) -> list[int]:
    """Positions of the pairs: the shortest prediction of each gold, then the second of each, and so on."""
    of_gold: Counter[str] = Counter()
    rank = {}
    for i in sorted(range(len(pairs)), key=lambda i: (len(pairs[i][0]), pairs[i])):
        gold = pairs[i][1]
        rank[i] = of_gold[gold]
        of_gold[gold] += 1
    return sorted(rank, key=rank.__getitem__)


_pool: VerifierPool | None = None
_pool_lock = threading.Lock()


def shared_pool() -> VerifierPool:
    """This process's pool; a forked child gets its own."""
    global _pool
    with _pool_lock:
        if _pool is None:
            _pool = VerifierPool()
        return _pool


def warm_up(*, wait: bool = True) -> None:
    """Start the verifier's processes now, so that the first step does not pay for the import of sympy."""
    if wait:
        shared_pool().warm_up()
    else:
        shared_pool().start()


def shut_down() -> None:
    """End the verifier's processes; the next grading starts new ones."""
    if _pool is not None:
        _pool.close()


def _forget_after_fork() -> None:
    global _pool, _pool_lock
    _pool_lock = threading.Lock()
    if _pool is not None and _pool.connection is not None:
        _abandoned.append(_pool.connection)  # kept: its destructor would wait for a process that is not ours
        _pool.connection.abandon()
    _pool = None


_abandoned: list[_Connection] = []
atexit.register(shut_down)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
