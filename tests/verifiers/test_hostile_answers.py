"""Inputs that hang or break other graders: bounded, counted apart, and without harm to the answers around them."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gmpo_mm.verifiers import Grade, grade_batch, pool
from gmpo_mm.verifiers.supervisor import MEMORY_LIMIT, RESIDENT_LIMIT

TIMEOUT = 2.0
HANGING = [
    ("\\sum_{k=1}^{2} 1000000000!", "a + 3b"),
    ("\\sum_{k=1}^{3} 2^{2^{2^{2^{9}}}}", "60"),
    ("\\sum_{k=1}^{2} (10^8)!", "7"),
]
OTHERS = [
    "9**9**9**9",
    "1000000000!",
    "2^{2^{2^{2^{9}}}}",
    "(10^8)!",
    "(9**9)**(9**9)",
    "9^{9^{9^{9}}}",
    "{" * 100_000,
    "}" * 100_000,
    r"\frac{" * 70,
    r"\frac{1}{" * 50 + "2" + "}" * 50,
    r"\sqrt{" * 60 + "2" + "}" * 60,
    "\u200b" * 300 + "7",
    "\x00\ud800",
    "$" * 500,
    "x" * 512,
    "+".join(["x^y"] * 100),
    "(" * 250 + "1" + ")" * 250,
]
HOSTILE = [*HANGING, *((text, "a + 3b") for text in OTHERS), *((text, "60") for text in OTHERS)]
FEW = HOSTILE[:1] + HOSTILE[4:10]
# Each needs the process: its text and its numbers do not decide.
GOOD = [(r"\sum_{k=1}^{1} k", "1"), (r"\sum_{k=1}^{2} (2k-1)", "4"), (r"\sum_{k=1}^{3} k", "6"), (r"\prod_{k=1}^{3} k", "6")]


def grade_hostile_among_good(hostile: list[tuple[str, str]]) -> tuple[list[Grade], list[Grade]]:
    """Grades of the hostile answers, and of good ones before, between and after them."""
    pairs = list(hostile)
    for i, good in enumerate(GOOD):
        pairs.insert(i * 3, good)
    pairs += GOOD
    grades = grade_batch([p for p, _ in pairs], [g for _, g in pairs], timeout=TIMEOUT)
    good = [grade for pair, grade in zip(pairs, grades, strict=True) if pair in GOOD]
    return [grade for pair, grade in zip(pairs, grades, strict=True) if pair not in GOOD], good


def assert_survived(grades: tuple[list[Grade], list[Grade]]) -> None:
    hostile, good = grades
    assert not any(grade.correct for grade in hostile)
    assert hostile[0].status == "timeout"
    assert [(grade.correct, grade.status) for grade in good] == [(True, "graded")] * (2 * len(GOOD))


@pytest.mark.timeout(120)
def test_good_answers_among_hostile_ones_are_graded_right_from_the_main_thread() -> None:
    grades = grade_hostile_among_good(HOSTILE)
    assert_survived(grades)
    assert [grade.status for grade in grades[0][: len(HANGING)]] == ["timeout"] * len(HANGING)


@pytest.mark.timeout(120)
def test_good_answers_among_hostile_ones_are_graded_right_from_threads() -> None:
    results: list[tuple[list[Grade], list[Grade]]] = []
    threads = [threading.Thread(target=lambda: results.append(grade_hostile_among_good(FEW))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    for result in results:
        assert_survived(result)


@pytest.mark.timeout(120)
def test_good_answers_among_hostile_ones_are_graded_right_from_asyncio() -> None:
    async def main() -> tuple[list[Grade], list[Grade]]:
        return await asyncio.to_thread(grade_hostile_among_good, FEW)

    assert_survived(asyncio.run(main()))


@pytest.mark.timeout(240)
def test_good_answers_among_hostile_ones_are_graded_right_from_a_ray_actor() -> None:
    ray = pytest.importorskip("ray", reason="ray is not installed in this environment")
    root = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])

    class Grader:
        def grade(self) -> list[tuple[bool, str]]:
            pairs = [*GOOD, *HANGING, *GOOD]
            grades = grade_batch([p for p, _ in pairs], [g for _, g in pairs], timeout=TIMEOUT)
            return [(grade.correct, grade.status) for grade in grades]

    ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": paths}})
    try:
        actor = ray.remote(Grader).remote()
        good = [(True, "graded")] * len(GOOD)
        assert ray.get(actor.grade.remote()) == good + [(False, "timeout")] * len(HANGING) + good
    finally:
        ray.shutdown()


def test_text_is_never_executed(tmp_path: Path) -> None:
    target = tmp_path / "executed"
    command = f"touch {target}"
    attempts = [
        f'__import__("os").system("{command}")',
        f"__import__('os').system('{command}')",
        f"eval(\"__import__('os').system('{command}')\")",
        f"\\text{{__import__('os').system('{command}')}}",
        f"(lambda: __import__('os').system('{command}'))()",
        f"open('{target}', 'w')",
        f"${{{command}}}$(`{command}`)",
        f"\\write18{{{command}}}",
    ]
    assert all(len(attempt) < 512 for attempt in attempts)
    grades = grade_batch(attempts, ["a + b"] * len(attempts)) + grade_batch(["a + b"] * len(attempts), attempts)
    assert not any(grade.correct for grade in grades)
    assert not target.exists()


def test_a_hostile_gold_is_bounded_too() -> None:
    grades = grade_batch(["60", r"\sum_{k=1}^{1} (2k-1)"], [HANGING[0][0], "1"], timeout=TIMEOUT)
    assert [(grade.correct, grade.status) for grade in grades] == [(False, "timeout"), (True, "graded")]


def test_the_same_pair_is_compared_once_in_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[str, str]] = []
    shared = pool.shared_pool()
    real = shared.check

    def recorded(pairs: list[tuple[str, str]], timeout: float, **other: str) -> list[pool.Verdict]:
        sent.extend(pairs)
        return real(pairs, timeout, **other)

    monkeypatch.setattr(shared, "check", recorded)
    first, second = (r"\sum_{k=1}^{1} (2k-1)", "1"), (r"\sum_{k=1}^{1} (3k-1)", "1")
    grades = grade_batch([first[0]] * 50 + [second[0]] * 50, ["1"] * 100)
    assert [grade.correct for grade in grades] == [True] * 50 + [False] * 50
    assert sorted(sent) == [first, second]


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no RLIMIT_AS")
def test_a_worker_that_asks_for_too_much_memory_ends_as_an_error_and_is_replaced() -> None:
    """Runs the real supervisor with a comparison that allocates, as a runaway expansion in sympy would."""
    code = """
import os, sys
from gmpo_mm.verifiers import supervisor
def compare(prediction, gold):
    return len(bytearray(int(prediction))) > 0 and os.getpid() > 0
supervisor.METHODS["math"] = (lambda: compare, "")
supervisor.main(1, int(sys.argv[1]))
"""
    sizes = [1000, 4 * MEMORY_LIMIT, 1000, supervisor_resident(), 1000]
    job = {"method": pool.FIRST, "gold": "", "cpu": 20.0, "wall": 100.0, "alone": False}
    jobs = [json.dumps({"id": i, "prediction": str(n), **job}) for i, n in enumerate(sizes)]
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(os.getpid())], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("\n".join(jobs) + "\n")
    process.stdin.flush()
    messages = map(json.loads, process.stdout)
    answered = (message for message in messages if "working" not in message)  # a slow machine has signs of life too
    verdicts = [next(answered)["verdict"] for _ in jobs]
    process.stdin.close()
    assert process.wait(timeout=200) == 0
    assert verdicts == ["equal", "error", "equal", "equal", "equal"]


def hostile_text(i: int) -> str:
    """Ten kinds of them, each text of its own so that no cache answers."""
    n = i % 97 + 2
    return (
        f"{i}**9**9**9**9",
        f"\\sum_{{k=1}}^{{2}} ({i} + 10^8)!" if i % 200 == 1 else f"{i}" + "\\sin(" * n,
        "{" * 100_000 + str(i),
        r"\frac{1}{" * n + str(i) + "}" * n,
        f"x_{i}" + "\u200b" * 300,
        f"__import__('os').system('exit {i}')",
        "+".join(f"x^{{{k}}}y_{{{i}}}" for k in range(n)),
        ",".join(str(k + i) for k in range(10_000 if i % 100 == 7 else 200)),
        r"\begin{pmatrix}" + f"{i} & " * n,
        f"{i}{i}{i}000!" if i % 20 == 9 else r"\sqrt{" * n + str(i),
    )[i % 10]


def resident(pid: int) -> int:
    """Bytes in memory of a live process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
@pytest.mark.slow
@pytest.mark.timeout(280)
def test_ten_thousand_hostile_answers_leave_memory_and_processes_as_they_were() -> None:
    """One in two hundred hangs; their workers are replaced. Measured once the caches are full, then at the end."""
    step, golds = 500, ["60", "x^2 + y", r"\{1, 2\}", "(3, 4)", "x < 7"]
    after_warm_up: tuple[int, int] | None = None
    for start in range(0, 10_000, step):
        texts = [hostile_text(i) for i in range(start, start + step)]
        pairs = [(text, golds[i % len(golds)]) for i, text in enumerate(texts)] + GOOD
        grades = grade_batch([p for p, _ in pairs], [g for _, g in pairs], timeout=1.0 if start == 0 else 0.25)
        assert not any(grade.correct for grade in grades[:step])
        assert all(grade.correct or grade.status == "timeout" for grade in grades[step:])  # a loaded machine may be late
        connection = pool.shared_pool().connection
        assert connection is not None
        if start == 4 * step:
            after_warm_up = resident(os.getpid()), resident(connection.process.pid)
    assert after_warm_up is not None and connection is not None
    assert resident(os.getpid()) - after_warm_up[0] < 48 << 20
    assert resident(connection.process.pid) - after_warm_up[1] < 16 << 20
    workers = children(connection.process.pid)
    assert len(workers) <= pool.default_workers()
    assert all(resident(worker) < RESIDENT_LIMIT + (64 << 20) for worker in workers)
    assert all(grade.correct for grade in grade_batch([p for p, _ in GOOD], [g for _, g in GOOD], timeout=20.0))


def children(pid: int) -> list[int]:
    """Live child processes."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if entry.name.isdigit():
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if int(parent) == pid and state != "Z":
                    found.append(int(entry.name))
    return found


def supervisor_resident() -> int:
    """More than a worker may keep, less than it may ask for."""
    return 3 * MEMORY_LIMIT // 4
