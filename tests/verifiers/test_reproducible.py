"""A grade depends on the answers and not on how busy the machine is: limits, rounds and the bound of a batch.

Most tests run the real processes with comparisons of their own, which use a known amount of processor time.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from gmpo_mm.verifiers import grade_batch, grading, pool
from gmpo_mm.verifiers.budget import OverBudget, budget, spend
from gmpo_mm.verifiers.grading import Grade
from gmpo_mm.verifiers.pool import ROUNDS, VerifierPool

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")

# A comparison's prediction says what it does: `burn 0.3` uses 0.3 s of processor time; `log FILE 0.3` also
# writes when it began and ended, and in which process.
COMPARE = """
import os, random, signal, time
from gmpo_mm.verifiers import supervisor

held = []

def burn(seconds):
    end = time.process_time() + float(seconds)
    while time.process_time() < end:
        pass

def log(path, seconds):
    with open(path, "a") as file:
        file.write(f"{time.monotonic()} begin {os.getpid()}\\n")
        file.flush()
        burn(seconds)
        file.write(f"{time.monotonic()} end {os.getpid()}\\n")

def compare(prediction, gold):
    kind, *arguments = prediction.split()
    if kind == "burn":
        burn(*arguments)
    elif kind == "log":
        log(*arguments)
    elif kind == "sleep":
        time.sleep(float(arguments[0]))
    elif kind == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif kind == "random":
        return random.random() == float(gold)
    elif kind == "hash":
        return hash("gmpo") == int(gold)
    elif kind == "hold":
        held.append(None)
    elif kind == "memory" and held:
        raise MemoryError
    return True

supervisor.METHODS["math"] = (lambda: compare, "")
"""


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[VerifierPool]:
    """Two workers that compare by COMPARE."""
    start = "from gmpo_mm.verifiers.supervisor import main"
    assert start in pool._BOOTSTRAP
    monkeypatch.setattr(pool, "_BOOTSTRAP", pool._BOOTSTRAP.replace(start, f"exec({COMPARE!r}); {start}"))
    made = VerifierPool(2)
    made.warm_up()
    yield made
    made.close()


def stat(pid: int) -> list[str]:
    """State, parent and the rest of a process; empty where it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def workers(own: VerifierPool) -> list[int]:
    assert own.connection is not None
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if stat(pid)[1:2] == [str(own.connection.process.pid)]]


def computing(own: VerifierPool) -> list[int]:
    """Workers that have used a twentieth of a second."""
    ticks = os.sysconf("SC_CLK_TCK") / 20
    return [
        pid
        for pid in workers(own)
        if len(fields := stat(pid)) > 12 and int(fields[11]) + int(fields[12]) > ticks
    ]


def eventually(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Wait for another process's doing; the bound only ends a test that has failed."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """Programs that compute on the processor of this one and its children, and on no other."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
        os.sched_setaffinity(0, before)


@pytest.mark.timeout(120)
def test_a_worker_that_the_machine_stops_for_longer_than_the_limit_is_graded_the_same(
    own: VerifierPool,
) -> None:
    limit, stopped = 1.0, False
    with ThreadPoolExecutor() as threads:
        while not stopped:  # a worker may reach the limit of its round before it is stopped
            asked = threads.submit(own.check, [("burn 0.6", "")], limit)
            assert eventually(lambda: bool(computing(own)))
            for worker in computing(own):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGSTOP)
                    time.sleep(2 * limit)
                    os.kill(worker, signal.SIGCONT)
                    stopped = True
            assert asked.result() == ["equal"]


@pytest.mark.timeout(120)
def test_a_comparison_beside_busy_loops_on_its_processor_is_graded_the_same(own: VerifierPool) -> None:
    """Six programs share one processor: 0.5 s of its time last 3 s, well beyond the limit of 1 s."""
    own.close()
    with busy_loops(5):
        assert own.check([("burn 0.5", ""), ("burn 30", "")], 1.0) == ["equal", "timeout"]
    own.close()
    assert own.check([("burn 0.5", ""), ("burn 30", "")], 1.0) == ["equal", "timeout"]


@pytest.mark.timeout(120)
def test_a_worker_that_waits_without_computing_is_stalled_and_told_apart(
    own: VerifierPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "WALL_SECONDS", 0.3)
    monkeypatch.setattr(pool, "WALL_SHARE", 0.0)
    assert own.check([("sleep 600", ""), ("stop", "")], 1.0) == ["stalled", "stalled"]
    monkeypatch.setattr(pool, "WALL_SECONDS", 100.0)
    assert own.check([("sleep 0.5", ""), ("burn 0.05", "")], 0.1) == ["equal", "equal"]


def test_a_stalled_comparison_is_an_error_that_says_so_and_never_a_plain_wrong_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def graded(verdict: pool.Verdict) -> Grade:
        monkeypatch.setattr(pool.shared_pool(), "check", lambda pairs, timeout, **_: [verdict] * len(pairs))
        return grade_batch([r"\sum_{k=1}^{1} (2k-1)"], ["1"], timeout=2.0)[0]

    stalled, over, alone = graded("stalled"), graded("batch_limit"), graded("timeout")
    assert (stalled.correct, stalled.status, stalled.why) == (
        False,
        "error",
        "algebra: the machine did not let it run",
    )
    assert (over.correct, over.status, over.why) == (
        False,
        "timeout",
        "algebra: no verdict within the batch's limit",
    )
    assert (alone.status, alone.why) == ("timeout", "algebra: no verdict within 2 s of processor time")


@pytest.mark.timeout(120)
def test_what_a_short_limit_leaves_open_is_asked_again_alone_in_a_fresh_process(
    own: VerifierPool, tmp_path: Path
) -> None:
    """`slow` needs more than the third round's limit; other threads ask for other pairs at the same time."""
    slow, others = tmp_path / "slow", tmp_path / "others"
    with ThreadPoolExecutor(4) as threads:
        asked = threads.submit(own.check, [(f"log {slow} 0.8", "")], 2.0)
        beside = [threads.submit(own.check, [(f"log {others} 0.05", str(i))], 2.0) for i in range(60)]
        assert asked.result() == ["equal"]
        assert [one.result() for one in beside] == [["equal"]] * 60
    events = [line.split() for line in slow.read_text().splitlines()]
    # Ended at each of three shorter limits, then given the whole one.
    assert [event[1] for event in events] == ["begin", "begin", "begin", "begin", "end"]
    began, ended, process = float(events[3][0]), float(events[4][0]), events[3][2]
    during = [line.split() for line in others.read_text().splitlines()]
    assert during
    assert not [event for event in during if began < float(event[0]) < ended]
    earlier = [event[2] for event in [*events[:3], *during] if float(event[0]) < began]
    assert process not in earlier


@pytest.mark.timeout(240)
def test_a_batch_of_hostile_pairs_has_a_bound_and_the_good_ones_in_it_are_graded_right(
    own: VerifierPool, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    hostile = [(f"log {log} 100{i:03}", f"gold {i % 3}") for i in range(32)]
    good = [("burn 0.01", f"gold {i}") for i in range(32)]
    pairs = [pair for both in zip(hostile, good, strict=True) for pair in both]
    verdicts = own.check(pairs, 0.6)  # 0.1, 0.15 and 0.6 s: a tenth of it would be the first once more
    assert verdicts[1::2] == ["equal"] * 32
    assert [room + len(pairs) // for_one_more for _, room, for_one_more in ROUNDS] == [64, 40, 12, 4]
    assert len(log.read_text().splitlines()) == 32 + 12 + 4
    assert verdicts[::2].count("timeout") == 4
    assert verdicts[::2].count("batch_limit") == 28


@pytest.mark.timeout(240)
def test_who_is_asked_within_the_bound_does_not_depend_on_the_order_of_a_batch(own: VerifierPool) -> None:
    """Twenty hostile pairs for one problem take no room from a slow pair for another."""
    slow, hostile = ("burn 0.2500", "its own gold"), [(f"burn 9{i:03}", "another") for i in range(20)]
    for pairs in ([*hostile, slow], [*hostile[10:], slow, *hostile[9::-1]]):
        verdicts = dict(zip(pairs, own.check(pairs, 0.4), strict=True))
        assert verdicts[slow] == "equal"
        assert sorted(pair for pair in hostile if verdicts[pair] == "timeout") == hostile[:2]


def test_a_comparison_draws_the_same_random_numbers_whatever_was_compared_before(own: VerifierPool) -> None:
    import random

    drawn = str(random.Random(0).random())
    assert own.check([("random", drawn)] * 6, 5.0) == ["equal"] * 6


def test_workers_go_through_sets_in_the_same_order_in_every_process(own: VerifierPool) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    code = "print(hash('gmpo'))"
    same = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert own.check([("hash", same)], 5.0) == ["equal"]


def test_a_comparison_short_of_memory_for_what_earlier_ones_left_is_asked_again_in_a_fresh_process(
    own: VerifierPool,
) -> None:
    pairs = [("hold", str(i)) for i in range(8)] + [("memory", "")]
    for pair in pairs:
        assert own.check([pair], 5.0) == ["equal"]


@pytest.mark.timeout(120)
def test_a_supervisor_tells_that_it_works_during_a_comparison_that_is_longer_than_the_allowed_silence(
    own: VerifierPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "STALL_SECONDS", 2.5)
    assert own.connection is not None
    supervisor = own.connection.process.pid
    assert own.check([("sleep 4", "")], 20.0) == ["equal"]
    assert own.connection.process.pid == supervisor


@pytest.mark.timeout(120)
def test_a_supervisor_that_falls_silent_is_replaced_and_its_pairs_are_asked_again(
    own: VerifierPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "STALL_SECONDS", 3.0)
    assert own.connection is not None
    silent = own.connection.process.pid
    os.kill(silent, signal.SIGSTOP)
    assert own.check([("burn 0.01", "")], 1.0) == ["equal"]
    assert own.connection.process.pid != silent


def test_what_a_batch_leaves_open_in_the_callers_process_is_graded_the_same_by_the_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Twenty pairs, and steps for some of them only; the first is decided without steps."""
    golds = ["7", *(f"(x + {i})^2" for i in range(20)), "x y"]
    answers = ["7", *(f"x^2 + {2 * i} x + {i * i}" for i in range(20)), "x z"]
    usual = grade_batch(answers, golds)
    assert [grade.why for grade in usual] == ["equal as text"] + ["equal as formulas"] * 20 + ["different"]
    monkeypatch.setattr(grading, "BATCH_STEPS", 600)
    monkeypatch.setattr(grading, "BATCH_STEPS_PER_PAIR", 0)
    bounded = grade_batch(answers, golds)
    assert bounded == usual
    assert {grade.why for grade in bounded[1:-1]} == {"equal as formulas", "algebra: equal"}
    assert bounded[-1].why == "algebra: different"


def test_a_budget_within_a_budget_spends_both() -> None:
    with budget(100):
        with budget(30):
            spend(20)
        with pytest.raises(OverBudget), budget(30):
            spend(40)
        spend(50)
        with budget(30), pytest.raises(OverBudget):
            spend(1)
    with budget(10), budget(None), pytest.raises(OverBudget):
        spend(11)
    spend(10**9)


REAL = [
    (r"\sum_{k=1}^{1} (2k-1)", "1"),
    (r"\sum_{k=1}^{1} (3k-1)", "1"),
    (r"\sum_{k=1}^{n} k 2^k", r"(n - 1) 2^{n + 1} + 2"),
    (r"\sum_{k=1}^{\infty} \frac{1}{2^k}", "1"),
    (r"\sum_{k=1}^{2} (10^8)!", "7"),
]


@pytest.mark.timeout(240)
def test_grades_by_computer_algebra_are_the_same_beside_busy_loops() -> None:
    """The real comparison, its processes started while four other programs share the processor."""

    def graded() -> list[tuple[bool, str]]:
        pool.shut_down()
        grades = grade_batch([p for p, _ in REAL], [g for _, g in REAL], timeout=1.0)
        return [(grade.correct, grade.status) for grade in grades]

    idle = graded()
    assert idle[0] == (True, "graded") and idle[-1] == (False, "timeout")
    with busy_loops(4):
        assert graded() == idle
    pool.shut_down()  # the next test's processes may use all processors
