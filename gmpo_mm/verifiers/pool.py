"""The parent's side of the verifier's processes: started on first need, shared by all threads, one per process."""

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Literal

from gmpo_mm.verifiers.methods import FIRST, METHODS
from gmpo_mm.verifiers.supervisor import wall_limit

Verdict = Literal["equal", "different", "timeout", "stalled", "error"]

STALL_SECONDS = 60.0  # silence beyond a job's own limit after which the supervisor counts as dead (imports included)
FIRST_SHARE = 0.25  # of the limit, for the first try of a comparison
CROWD = 16  # comparisons of a batch that are tried at once; so many timeouts in a batch make it hostile
HOSTILE_SHARE = 0.02  # of the limit, for the first tries in a hostile batch from then on
ASKED_AGAIN = 4  # comparisons of a batch that get the whole limit, alone, after a first try that was too short
MAX_WORKERS = 8

# The module path is handed over as it is here; the main program is not imported again, as multiprocessing would.
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
        arguments = {"path": [entry or os.getcwd() for entry in sys.path], "workers": workers, "parent": os.getpid()}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _BOOTSTRAP, json.dumps(arguments)],
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

    def submit(self, pairs: Sequence[tuple[str, str]], timeout: float, method: str) -> list[Future[Verdict]]:
        """Queue comparisons of (prediction, gold); their futures raise when the supervisor goes or lacks the method."""
        futures: list[Future[Verdict]] = []
        with self.lock:
            if not self.alive:
                raise _SupervisorGoneError
            self.last_activity = time.monotonic()
            lines = []
            for prediction, gold in pairs:
                future: Future[Verdict] = Future()
                self.open_jobs[self.next_id] = future
                futures.append(future)
                job = {"id": self.next_id, "method": method, "prediction": prediction, "gold": gold, "timeout": timeout}
                lines.append(json.dumps(job).encode() + b"\n")
                self.next_id += 1
            data = memoryview(b"".join(lines))
            with contextlib.suppress(OSError):  # a broken pipe ends the reader too, which fails the futures
                while data:
                    data = data[self.requests.write(data) or 0 :]
        return futures

    def wait(self, future: "Future[Verdict]", timeout: float) -> Verdict:
        """The verdict; kills a supervisor that has been silent for longer than any job may take."""
        while True:
            try:
                return future.result(timeout=1.0)
            except FutureTimeout:
                if time.monotonic() - self.last_activity > wall_limit(timeout) + STALL_SECONDS:
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
                else:
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
    """Compares pairs by computer algebra in processes that are killed at the limit; safe to call from any thread."""

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers or default_workers()
        self.lock = threading.Lock()
        self.alone = threading.Lock()  # one second try at a time
        self.connection: _Connection | None = None

    def start(self) -> _Connection:
        """The running supervisor, started when there is none; returns before it is ready."""
        with self.lock:
            if self.connection is None or not self.connection.alive:
                if self.connection is not None and self.connection.failure:
                    raise VerifierUnavailableError(
                        "the answer verifier could not start; is sympy installed in this environment?\n"
                        + self.connection.failure
                    )
                self.connection = _Connection(self.workers)
            return self.connection

    def check(self, pairs: Sequence[tuple[str, str]], timeout: float, method: str = FIRST) -> list[Verdict]:
        """Verdict for each (prediction, gold); `timeout` is a comparison's own CPU time in seconds.

        Each is tried with a quarter of it, CROWD at a time. What takes longer is asked again with all of it, alone, for the
        first ASKED_AGAIN of the batch; the others are `timeout`. Once CROWD comparisons of a batch took too long, the
        others are tried with a fiftieth. So n comparisons cost at most (2 CROWD / 4 + n / 50 + ASKED_AGAIN) limits of CPU time,
        and which is asked again depends on their order alone. `stalled` is a comparison that got no processor.
        `method` is a name in `methods.METHODS`; one whose packages are missing is a VerifierUnavailableError.
        """
        if method not in METHODS:
            raise ValueError(f"method={method!r} is not known; use one of {', '.join(METHODS)}")
        verdicts: list[Verdict] = []
        for start in range(0, len(pairs), CROWD):
            share = HOSTILE_SHARE if verdicts.count("timeout") >= CROWD else FIRST_SHARE
            verdicts += self._try(pairs[start : start + CROWD], timeout * share, method)
        for i in [i for i, verdict in enumerate(verdicts) if verdict == "timeout"][:ASKED_AGAIN]:
            with self.alone:
                verdicts[i] = self._try([pairs[i]], timeout, method)[0]
        return verdicts

    def _try(self, pairs: Sequence[tuple[str, str]], timeout: float, method: str) -> list[Verdict]:
        verdicts: dict[int, Verdict] = {}
        for _ in range(2):  # a supervisor that somebody killed is replaced once
            missing = [i for i in range(len(pairs)) if i not in verdicts]
            if not missing:
                break
            connection = self.start()
            with contextlib.suppress(_SupervisorGoneError):
                futures = connection.submit([pairs[i] for i in missing], timeout, method)
                for i, future in zip(missing, futures, strict=True):
                    with contextlib.suppress(_SupervisorGoneError):
                        verdicts[i] = connection.wait(future, timeout)
            connection.ready.wait(timeout=STALL_SECONDS)
            if connection.failure:
                self.start()  # raises with the reason
        return [verdicts.get(i, "error") for i in range(len(pairs))]

    def warm_up(self) -> None:
        """Block until sympy is imported and the first comparison would start at once."""
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
