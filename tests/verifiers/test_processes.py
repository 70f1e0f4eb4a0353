"""Life and death of the verifier's processes. Linux: the processes are found through /proc."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gmpo_mm.verifiers import VerifierUnavailableError, grade_batch, pool, shut_down, warm_up

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
ROOT = Path(__file__).resolve().parents[2]


def parent_of(pid: int) -> int | None:
    """Parent of a live process; None for one that is gone or only waits to be reaped."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state == "Z" else int(parent)


def children(pid: int) -> set[int]:
    return {int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and parent_of(int(entry.name)) == pid}


def eventually(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Wait for another process's doing; the bound only ends a test that has failed."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def supervisor_pid() -> int:
    connection = pool.shared_pool().connection
    assert connection is not None
    return connection.process.pid


def test_an_overrunning_worker_is_killed_and_the_supervisor_stays() -> None:
    grade_batch(["\\sum_{k=1}^{1} (2k-1)"], ["1"])
    supervisor = supervisor_pid()
    workers = children(supervisor)
    assert workers
    overrunning = ["\\sum_{k=1}^{2} 1000000000!"] * 2 + ["\\sum_{k=1}^{2} (10^8)!"]
    assert grade_batch(overrunning, ["60"] * 3, timeout=0.5)[0].status == "timeout"
    assert supervisor_pid() == supervisor
    assert not children(supervisor) & workers or len(children(supervisor)) < pool.default_workers()
    assert grade_batch(["\\sum_{k=1}^{1} (2k-1)"], ["1"])[0].correct
    assert len(children(supervisor)) <= pool.default_workers()


def test_a_killed_worker_or_supervisor_costs_no_later_grade() -> None:
    grade_batch(["\\sum_{k=1}^{1} (2k-1)"], ["1"])
    for worker in children(supervisor_pid()):
        os.kill(worker, signal.SIGKILL)
    assert grade_batch(["\\sum_{k=1}^{2} (2k-1)"], ["4"])[0].correct
    killed = supervisor_pid()
    workers = children(killed)
    os.kill(killed, signal.SIGKILL)
    assert grade_batch(["\\sum_{k=1}^{3} (2k-1)"], ["9"])[0].correct
    assert supervisor_pid() != killed
    assert eventually(lambda: all(parent_of(worker) is None for worker in workers))


def test_shut_down_ends_every_process_and_the_next_grade_starts_new_ones() -> None:
    warm_up()
    grade_batch(["\\sum_{k=1}^{1} (2k-1)"], ["1"])
    processes = {supervisor_pid()} | children(supervisor_pid())
    assert len(processes) >= 2
    shut_down()
    assert eventually(lambda: all(parent_of(pid) is None for pid in processes))
    assert grade_batch(["\\sum_{k=1}^{1} (2k-1)"], ["1"])[0].correct


PARENT = """
import sys, threading
from gmpo_mm.verifiers import grade_batch, pool, warm_up
warm_up()
grade_batch(["\\\\sum_{{k=1}}^{{1}} (2k-1)", "\\\\sum_{{k=1}}^{{2}} (2k-1)"], ["1", "4"])
{busy}
print(pool.shared_pool().connection.process.pid, flush=True)
{end}
"""
BUSY = (
    "threading.Thread(target=grade_batch, args=([r'\\sum_{k=1}^{2} 1000000000!', r'\\sum_{k=1}^{2} (10^8)!'], ['6', '7']), "
    "kwargs={'timeout': 3600.0}, daemon=True).start()"
)


def busy_workers(supervisor: int) -> set[int]:
    """Workers that have computed for half a second: far inside a comparison that does not end."""
    ticks = os.sysconf("SC_CLK_TCK")
    return {
        pid
        for pid in children(supervisor)
        if int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11]) > ticks / 2
    }


def start_parent(busy: bool) -> tuple[subprocess.Popen[str], int, set[int]]:
    """A program with live verifier processes; it ends by itself when it gets a line."""
    code = PARENT.format(busy=BUSY if busy else "", end="sys.stdin.readline()")
    command = [sys.executable, "-c", code]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, cwd=ROOT)
    assert parent.stdout is not None
    supervisor = int(parent.stdout.readline())
    assert eventually(lambda: bool(busy_workers(supervisor) if busy else children(supervisor)))
    return parent, supervisor, {supervisor} | children(supervisor)


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.timeout(120)
def test_no_process_outlives_a_parent_that_was_killed(busy: bool) -> None:
    """Busy: the workers have an hour to go in one comparison."""
    parent, _, processes = start_parent(busy)
    parent.kill()
    parent.communicate()
    assert eventually(lambda: all(parent_of(pid) is None for pid in processes))


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.timeout(120)
def test_no_process_outlives_a_parent_that_ends_by_itself(busy: bool) -> None:
    parent, _, processes = start_parent(busy)
    parent.communicate("\n")
    assert parent.returncode == 0
    assert eventually(lambda: all(parent_of(pid) is None for pid in processes))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a busy worker ends at its own limit")
@pytest.mark.timeout(120)
def test_busy_workers_end_with_a_supervisor_that_was_killed() -> None:
    parent, supervisor, processes = start_parent(busy=True)
    parent.send_signal(signal.SIGSTOP)  # so that it starts no other supervisor
    os.kill(supervisor, signal.SIGKILL)
    assert eventually(lambda: all(parent_of(pid) is None for pid in processes))
    parent.kill()
    parent.communicate()


@pytest.mark.timeout(120)
def test_a_worker_without_a_supervisor_is_ended_by_the_kernels_timer_inside_one_integer_operation() -> None:
    code = """
from gmpo_mm.verifiers.supervisor import run_worker
run_worker({"any": lambda prediction, gold: pow(9, 9 ** 10) > 0}, 0, 1)
"""
    job = '{"id": 0, "method": "any", "prediction": "", "gold": "", "cpu": 0.1, "wall": 60.0}\n'
    ended = subprocess.run([sys.executable, "-c", code], input=job, text=True, cwd=ROOT, capture_output=True)
    assert ended.returncode == -signal.SIGPROF


@pytest.mark.timeout(120)
def test_a_forked_child_gets_its_own_processes_and_leaves_its_parents_alone() -> None:
    code = """
import os
from gmpo_mm.verifiers import grade_batch, pool
assert grade_batch(["\\\\sum_{k=1}^{1} (2k-1)"], ["1"])[0].correct
first = pool.shared_pool().connection.process.pid
child = os.fork()
if child == 0:
    right = grade_batch(["\\\\sum_{k=1}^{2} (2k-1)"], ["4"])[0].correct and pool.shared_pool().connection.process.pid != first
    pool.shut_down()
    os._exit(0 if right else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert grade_batch(["\\\\sum_{k=1}^{3} (2k-1)"], ["9"])[0].correct
assert pool.shared_pool().connection.process.pid == first
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=ROOT, timeout=100)


@pytest.mark.timeout(120)
def test_the_main_program_is_not_run_again_and_torch_not_imported_by_the_processes(tmp_path: Path) -> None:
    """Multiprocessing's spawn would import an unguarded main program once more in each worker."""
    (tmp_path / "torch.py").write_text("import os\nopen(os.environ['MARK'], 'a').write('torch')\n")
    script = tmp_path / "train.py"
    script.write_text(
        "import os\nopen(os.environ['MARK'], 'a').write('main')\n"
        "from gmpo_mm.verifiers import grade_batch\nassert grade_batch(['\\\\sum_{k=1}^{1} (2k-1)'], ['1'])[0].correct\n"
    )
    mark = tmp_path / "mark"
    environment = {**os.environ, "MARK": str(mark), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, str(script)], check=True, env=environment, timeout=100)
    assert mark.read_text() == "main"


@pytest.mark.timeout(120)
def test_a_machine_without_sympy_is_an_error_and_not_a_batch_of_zeros(tmp_path: Path) -> None:
    (tmp_path / "sympy.py").write_text("raise ImportError('no sympy on this machine')\n")
    code = """
import sys
from gmpo_mm.verifiers import VerifierUnavailableError, grade_batch, warm_up
for call in (lambda: grade_batch(["\\\\sum_{k=1}^{1} (2k-1)"], ["1"]), warm_up):
    try:
        call()
    except VerifierUnavailableError as error:
        assert "no sympy on this machine" in str(error)
    else:
        sys.exit("no error")
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=100)
    assert issubclass(VerifierUnavailableError, RuntimeError)


@pytest.mark.timeout(120)
def test_a_method_is_loaded_once_at_first_need_and_workers_that_lack_it_are_replaced() -> None:
    own = pool.VerifierPool(2)
    try:
        assert own.check([("\\sum_{k=1}^{1} (2k-1)", "1")] * 4, 20.0) == ["equal"] * 4
        assert own.connection is not None
        supervisor = own.connection.process.pid
        before = children(supervisor)
        assert own.check([("x(x+1)", "x^2+x"), ("x", "y")], 20.0, method="drgrpo_fast") == ["equal", "different"]
        after = children(supervisor)
        assert after and not after & before
        assert own.check([("\\sum_{k=1}^{1} (2k-1)", "1")], 20.0) == ["equal"]
        assert own.check([("x(x+1)", "x^2+x")], 20.0, method="drgrpo_fast") == ["equal"]
        assert children(supervisor) == after
    finally:
        own.close()


@pytest.mark.timeout(120)
def test_a_worker_that_is_busy_when_a_method_is_loaded_finishes_its_job_and_is_then_replaced() -> None:
    own = pool.VerifierPool(1)
    try:
        own.warm_up()
        with ThreadPoolExecutor() as threads:
            busy = threads.submit(own.check, [("\\sum_{k=1}^{2} (10^8)!", "60")], 1.0)
            assert own.connection is not None
            supervisor = own.connection.process.pid
            assert eventually(lambda: bool(children(supervisor)))
            first = children(supervisor)
            assert own.check([("x(x+1)", "x^2+x")], 20.0, method="drgrpo_fast") == ["equal"]
            assert busy.result() == ["timeout"]
        assert not children(supervisor) & first
    finally:
        own.close()


@pytest.mark.timeout(120)
def test_a_method_without_its_package_is_an_error_that_names_the_fix_and_the_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "pylatexenc.py").write_text("raise ModuleNotFoundError('No module named pylatexenc', name='pylatexenc')\n")
    code = """
import sys
from gmpo_mm.verifiers import VerifierUnavailableError, grade_batch
from gmpo_mm.verifiers.drgrpo import grade_drgrpo
for fast in (True, False, True):
    try:
        grade_drgrpo(["\\\\boxed{1}", "\\\\boxed{2}"], ["2", "3"], fast=fast, extraction="boxed")
    except VerifierUnavailableError as error:
        assert "pip install 'gmpo-mm[drgrpo]'" in str(error) and "pylatexenc" in str(error), error
    else:
        sys.exit("no error")
assert grade_batch(["\\\\sum_{k=1}^{1} (2k-1)"], ["1"])[0].correct
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=100)


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.mark.timeout(240)
def test_many_calls_leave_no_processes_no_open_files_and_no_jobs_behind() -> None:
    """Calls of each kind: answered, ended at the limit, with another method, by several threads."""
    own = pool.VerifierPool(2)

    def calls(count: int) -> None:
        with ThreadPoolExecutor(4) as threads:
            for verdicts in threads.map(lambda i: own.check([(f"{i} + b + a", f"a + b + {i}")], 20.0), range(count)):
                assert verdicts == ["equal"]
        for i in range(count // 5):
            assert own.check([(f"{i}x + x", f"{i + 1}x")], 20.0, method="drgrpo_fast") == ["equal"]
        ended = own.check([("\\sum_{k=1}^{2} (10^8)!", "60")] * (count // 10), 0.1)
        assert set(ended) == {"timeout", "batch_limit"}

    def left_behind() -> tuple[int, int, int, int]:
        assert own.connection is not None
        supervisor = own.connection.process.pid
        workers = children(supervisor)
        assert len(workers) <= 2
        files = open_files(supervisor) - len(workers)  # a pipe to each worker
        return supervisor, files, open_files(os.getpid()), len(own.connection.open_jobs) + threading.active_count()

    try:
        own.warm_up()
        gc.collect()  # closes what earlier tests left open in this process
        first = left_behind()
        for _ in range(4):
            calls(50)
            # A killed worker's pipes are closed after its verdict was sent.
            assert eventually(lambda: left_behind() == first), (left_behind(), first)
    finally:
        own.close()
    assert eventually(lambda: parent_of(first[0]) is None)
