"""The parent's side of the verifier's processes: started on first need, shared by all threads.

What a batch may cost is stated in docs/reference/graders.md, in seconds of processor time that workers themselves use,
so that a grade depends on the answers and not on how busy the machine is.
"""

import atexit
import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Literal

from gmpo_mm.verifiers.supervisor import FIRST, METHODS, OUT_OF_MEMORY_STATUS

# No verdict within the limit, when asked alone; none within a round's limit, and no room in the next; the
# machine did not let the worker compute; the comparison failed: memory, an exception, its process killed
# twice.
Verdict = Literal["equal", "different", "timeout", "batch_limit", "stalled", "error"]

# Of each round the share of the limit, the room for pairs, and one pair more for each so many of the batch.
# The second gives honest sums, which take 0.2 s, room to spare. In the last one pair is asked at a time.
ROUNDS = ((1 / 30, 0, 1), (1 / 10, 32, 8), (1 / 4, 8, 16), (1, 3, 64))
SHORTEST_LIMIT = 0.1  # seconds of processor time of a round, unless `timeout` is shorter; a start takes 0.01
WALL_SHARE, WALL_SECONDS = 20.0, 60.0  # a worker may be on the wall: 20 times its limit and a minute
STALL_SECONDS = 120.0  # silence after which the supervisor counts as dead; it tells each second that it works
MAX_WORKERS = 8

# The module path is handed over; the main program is not imported again, as multiprocessing would.
_BOOTSTRAP = (
    "import json, sys; arguments = json.loads(sys.argv[1]); sys.path[:] = arguments['path']; "
    "from gmpo_mm.verifiers.supervisor import main; main(arguments['workers'], arguments['parent'])"
)


OUT_OF_MEMORY = (
    "ran out of memory, so answers can't be compared; raise the limit on memory (ulimit -v) or end other programs"
)


class VerifierUnavailableError(RuntimeError):
    """The asked-for verifier can't run on this machine at all; grading on would score right answers 0."""


class _SupervisorGoneError(Exception):
    """The supervisor died or fell silent with jobs open."""


def default_workers() -> int:
    """One worker for each core this process may use, at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MAX_WORKERS, cores)


class _Connection:
    """One supervisor process, a thread that reads its replies, and the jobs it still owes."""

    def __init__(self, workers: int) -> None:
        path = [entry or os.getcwd() for entry in sys.path]
        arguments = json.dumps({"path": path, "workers": workers, "parent": os.getpid()})
        self.process = subprocess.Popen(
            [sys.executable, "-c", _BOOTSTRAP, arguments],
            env={**os.environ, "PYTHONHASHSEED": "0"},  # sympy goes through sets: always the same way
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # a Ctrl-C in the terminal is not for it
        )
        self.lock = threading.Lock()
        self.open_jobs: dict[int, Future[Verdict]] = {}
        self.ids = itertools.count()
        self.alive = True
        self.last_activity = time.monotonic()
        (self.warm_up,) = self.submit([("0", "0")], 10.0, FIRST, False)
        self.reader = threading.Thread(target=self._read, name="gmpo-verifier", daemon=True)
        try:
            self.reader.start()
        except RuntimeError:  # no memory, or no more threads
            self.process.kill()
            self.process.wait()
            raise

    def submit(
        self, pairs: Sequence[tuple[str, str]], cpu: float, method: str, alone: bool
    ) -> list[Future[Verdict]]:
        """Queue comparisons; futures raise when the supervisor goes or lacks the method."""
        assert self.process.stdin is not None
        limits = {"cpu": cpu, "wall": WALL_SHARE * cpu + WALL_SECONDS, "alone": alone}
        futures: list[Future[Verdict]] = [Future() for _ in pairs]
        with self.lock:
            if not self.alive:
                raise _SupervisorGoneError
            self.last_activity = time.monotonic()
            jobs = {next(self.ids): future for future in futures}
            self.open_jobs |= jobs
            lines = [
                json.dumps({"id": job, "method": method, "prediction": prediction, "gold": gold, **limits})
                for job, (prediction, gold) in zip(jobs, pairs, strict=True)
            ]
            data = memoryview("".join(f"{line}\n" for line in lines).encode())
            with contextlib.suppress(OSError):  # a broken pipe ends the reader too, which fails the futures
                while data:
                    data = data[self.process.stdin.write(data) or 0 :]
        return futures

    def wait(self, future: "Future[Verdict]") -> Verdict:
        """The verdict; kills a supervisor that has been silent for too long."""
        while True:
            try:
                return future.result(timeout=1.0)
            except FutureTimeout:
                if time.monotonic() - self.last_activity > STALL_SECONDS:
                    self.process.kill()
                if not self.reader.is_alive() and not future.done():
                    raise _SupervisorGoneError from None

    def close(self) -> None:
        """End the supervisor and its workers; open jobs fail."""
        self.process.kill()
        self.process.wait()
        self.reader.join(timeout=5.0)

    def _read(self) -> None:
        gone: Exception | None = None
        # without memory for a reply nobody would wait for the others in vain
        with contextlib.suppress(OSError, ValueError, MemoryError):
            for line in self.process.stdout or ():
                gone, self.last_activity = _SupervisorGoneError(), time.monotonic()
                message = json.loads(line)
                if "verdict" in message:
                    self.open_jobs.pop(message["id"]).set_result(message["verdict"])
                elif "unavailable" in message:
                    unavailable = VerifierUnavailableError(message["unavailable"])
                    self.open_jobs.pop(message["id"]).set_exception(unavailable)
        with self.lock:
            self.alive = False
        with contextlib.suppress(OSError):
            self.process.kill()  # gone already, or nobody reads what it says
        code = self.process.wait()
        why = OUT_OF_MEMORY if code == OUT_OF_MEMORY_STATUS else f"ended with code {code} at its start"
        reason = gone or VerifierUnavailableError(f"the verifier's process {why}")
        for future in self.open_jobs.values():
            future.set_exception(reason)
        self.open_jobs.clear()


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
                self.connection = _Connection(self.workers)
            return self.connection

    def check(self, pairs: Sequence[tuple[str, str]], timeout: float, method: str = FIRST) -> list[Verdict]:
        """Verdict for each (prediction, gold), within the bounds that this module's text states.

        `timeout` is in seconds of processor time, for one pair in the last round. `method` is a name in
        `supervisor.METHODS`; one whose packages are missing is a VerifierUnavailableError.
        """
        if method not in METHODS:
            raise ValueError(f"method={method!r} is not known; use one of {', '.join(METHODS)}")
        verdicts: dict[int, Verdict] = {}
        left, before = _in_fair_order(pairs), 0.0
        for share, room, pairs_for_one_more in ROUNDS:
            cpu, room = min(timeout, max(SHORTEST_LIMIT, share * timeout)), room + len(pairs) // pairs_for_one_more
            if before == cpu and share < 1:
                continue
            before = cpu
            verdicts.update((i, "batch_limit") for i in left[room:])
            verdicts.update(self._ask({i: pairs[i] for i in left[:room]}, cpu, method, share == 1))
            left = [i for i in left[:room] if verdicts[i] in ("timeout", "stalled")]
        return [verdicts[i] for i in range(len(pairs))]

    def _ask(
        self, pairs: dict[int, tuple[str, str]], cpu: float, method: str, alone: bool
    ) -> dict[int, Verdict]:
        """Verdicts of one round."""
        verdicts: dict[int, Verdict] = {}
        for _ in range(2):  # a supervisor that somebody killed is replaced once
            missing = [i for i in pairs if i not in verdicts]
            if not missing:
                break
            with contextlib.suppress(_SupervisorGoneError):
                connection = self.start()
                futures = connection.submit([pairs[i] for i in missing], cpu, method, alone)
                verdicts.update(zip(missing, map(connection.wait, futures), strict=True))
        return {i: verdicts.get(i, "error") for i in pairs}

    def close(self) -> None:
        """End the processes; a later check starts new ones."""
        with self.lock:
            connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()

    def warm_up(self, *, wait: bool = True) -> None:
        """Start the processes; wait until sympy is imported and a comparison would begin at once."""
        connection = self.start()
        if wait:
            connection.wait(connection.warm_up)


def _in_fair_order(pairs: Sequence[tuple[str, str]]) -> list[int]:
    """Positions of the pairs: the shortest prediction of each gold (hostile ones leave room), and so on."""
    ranks: defaultdict[str, Iterator[int]] = defaultdict(itertools.count)
    by_length = sorted(range(len(pairs)), key=lambda i: (len(pairs[i][0]), pairs[i]))
    rank = {i: next(ranks[pairs[i][1]]) for i in by_length}
    return sorted(by_length, key=rank.__getitem__)


# By process: a forked child needs its own, and must not end its parent's.
_pools: dict[int, VerifierPool] = {}


def shared_pool() -> VerifierPool:
    """This process's pool."""
    return _pools.setdefault(os.getpid(), VerifierPool())


def warm_up(*, wait: bool = True) -> None:
    """Start the verifier's processes now, so that the first step does not pay for the import of sympy."""
    shared_pool().warm_up(wait=wait)


def shut_down() -> None:
    """End the verifier's processes; the next grading starts new ones."""
    shared_pool().close()


atexit.register(shut_down)
