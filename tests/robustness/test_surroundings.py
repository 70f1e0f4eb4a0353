"""Full and read-only disks, little memory, impatient Ctrl-C: one clear error, nothing lost, and nothing hangs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gmpo_mm.errors import TrainingError
from gmpo_mm.machine_errors import machine_error, memory_for, writing
from gmpo_mm.runs import stopping
from tests.engine.runs import arguments, run_here, start_process, train_metrics, write_data
from tests.robustness.forked import Commands, Ended, Request

EVALUATION = [
    "evaluate", "--model", "bundled:qwen2_5_vl_tiny", "--benchmark", "synthetic_pictures", "limit=6", "n=16", "batch=32",
    "threads=1",
]  # fmt: skip
FULL_QUICK, FULL_SLOW = (44,), (4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 48, 52, 56, 60, 64, 72, 80, 96, 128)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    with Commands() as commands:
        yield commands


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A function that mounts a small file system with options, or mounts it again with other ones."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options: str) -> Path:
        again = ["-o", f"remount,{options}"] if os.path.ismount(place) else ["-o", options]
        made = subprocess.run(["mount", "-t", "tmpfs", *again, "tmpfs", str(place)], capture_output=True, text=True)
        if made.returncode != 0:
            pytest.skip(f"mounting a small file system needs root: {made.stderr.strip()}")
        return place

    yield mount
    if os.path.ismount(place):
        subprocess.run(["umount", "-l", str(place)], check=True)


def run(commands: Commands, tmp_path: Path, argv: list[str]) -> tuple[int, str]:
    log = tmp_path / "log.txt"
    log.unlink(missing_ok=True)
    ended: Ended = commands.run(Request(argv=argv, cwd=str(tmp_path), log=str(log), seconds=200))
    return ended.status, log.read_text()


def is_clear(status: int, text: str, word: str) -> bool:
    return status == 2 and "Traceback" not in text and word in text


def files(folder: Path) -> dict[str, bytes]:
    clocked = (".lock", "evaluation.json", "page.html", "summary.json")
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name not in clocked}


@pytest.fixture(scope="module")
def evaluated(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("evaluated")
    status, text = run(commands, folder, [*EVALUATION, f"out={folder}/out"])
    assert status == 0, text
    return files(folder / "out")


@pytest.mark.parametrize("kib", [*FULL_QUICK, *(pytest.param(kib, marks=pytest.mark.slow) for kib in FULL_SLOW)])
def test_evaluation_on_a_full_disk_goes_on_when_there_is_room(
    commands: Commands, evaluated: dict[str, bytes], tmp_path: Path, disk: Callable[[str], Path], kib: int
) -> None:
    place = disk(f"size={kib}k")
    argv = [*EVALUATION, f"out={place}/out"]
    status, text = run(commands, tmp_path, argv)
    assert status == 0 or is_clear(status, text, "free some space"), text
    disk("size=100m")
    status, text = run(commands, tmp_path, argv)
    assert status == 0, text
    assert files(place / "out") == evaluated


@pytest.mark.parametrize(
    "command", ["evaluate", "grade", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sweep", "report", "train"))]
)
def test_read_only_disk(
    commands: Commands, data: Path, tmp_path: Path, disk: Callable[[str], Path], command: str
) -> None:
    place = disk("size=1m,ro")
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"response": r"\boxed{1}", "answer": "1"}) + "\n")
    sweep = tmp_path / "sweep.yaml"
    train = arguments(data, place / "run")
    small = [text for text in train[1:] if "run_dir" not in text]
    sweep.write_text(json.dumps({"base": train[0], "overrides": small, "seeds": [1], "variants": {"gmpo": {"overrides": []}}}))
    log = tmp_path / "run"
    if command == "report":
        log = run_here(arguments(data, log, "trainer.max_steps=1"))
    argv = {
        "evaluate": [*EVALUATION, f"out={place}/out"], "grade": ["grade", str(rows), "--out", f"{place}/g.jsonl"],
        "sweep": ["sweep", str(sweep), "--out", f"{place}/sweep"], "report": ["report", str(log), "--out", f"{place}/r"],
        "train": ["train", *train],
    }[command]  # fmt: skip
    status, text = run(commands, tmp_path, argv)
    assert is_clear(status, text, "Read-only file system") and str(place) in text, text


def test_grades_on_a_full_disk_leave_nothing(commands: Commands, tmp_path: Path, disk: Callable[[str], Path]) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text((json.dumps({"response": r"\boxed{1}", "answer": "1"}) + "\n") * 500)
    place = disk("size=8k")
    status, text = run(commands, tmp_path, ["grade", str(rows), "--out", f"{place}/g.jsonl"])
    assert is_clear(status, text, "free some space"), text
    assert not list(place.iterdir())


OUT_OF_MEMORY = {
    "update": ("gmpo_mm.training.actor", "Actor.update", "micro_batch_size_per_device_for_update"),
    "sampling": ("gmpo_mm.rollout.hf", "HFRollout.generate", "rollout_batch_size"),
}


@pytest.mark.parametrize("phase", ["update", pytest.param("sampling", marks=pytest.mark.slow)])
def test_memory_that_runs_out_names_the_key_and_saves_the_last_step(data: Path, tmp_path: Path, phase: str) -> None:
    """Torch's own allocator refuses a tensor of 2^50 bytes in step 2."""
    import importlib

    import torch

    module, name, key = OUT_OF_MEMORY[phase]
    owner, method = name.split(".")
    kind = getattr(importlib.import_module(module), owner)
    whole, calls = getattr(kind, method), 0

    def second_is_too_large(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 2:
            torch.empty(1 << 50, dtype=torch.uint8)
        return whole(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(TrainingError) as error:
        patch.setattr(kind, method, second_is_too_large)
        run_here(arguments(data, tmp_path / "run"))
    assert f"step 2: {phase}" in str(error.value) and key in str(error.value) and "out of memory" in str(error.value)
    assert len(train_metrics(tmp_path / "run")) == 1
    run_here(arguments(data, tmp_path / "run"))
    assert len(train_metrics(tmp_path / "run")) == 2


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: 9"),
        RuntimeError("can't start new thread"), ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        OSError(12, "Cannot allocate memory"), type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried ..."),
    ],
    ids=["Python", "CPU", "thread", "library", "system", "GPU"],
)  # fmt: skip
def test_every_form_of_no_memory_is_known(error: Exception) -> None:
    with pytest.raises(TrainingError, match=r"sampling: out of memory .*; lower batch"), memory_for("sampling", "lower batch"):
        raise error
    assert "out of memory" in str(machine_error(error))
    outer = RuntimeError("the library could not be loaded")
    outer.__cause__ = error
    assert "out of memory" in str(machine_error(outer))


def test_what_is_no_fault_of_the_machine_keeps_its_traceback(tmp_path: Path) -> None:
    assert machine_error(RuntimeError("shapes differ")) is None and machine_error(FileNotFoundError(2, "no", "x")) is None
    with pytest.raises(TrainingError, match=r"could not write .*/x .*another folder"), writing(tmp_path / "x"):
        (tmp_path / "x").mkdir()
        (tmp_path / "x").write_text("")


def limited(mib: int, argv: list[str], tmp_path: Path) -> tuple[int, str]:
    command = f'ulimit -v {mib * 1024}; exec "$@"'
    done = subprocess.run(
        ["sh", "-c", command, "sh", sys.executable, "-m", "gmpo_mm.cli", *argv],
        cwd=tmp_path, capture_output=True, text=True, timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("mib", [1200, *(pytest.param(n, marks=pytest.mark.slow) for n in (300, 600, 900, 1500, 1699))])
def test_too_little_address_space_is_refused_at_once(data: Path, tmp_path: Path, mib: int) -> None:
    status, text = limited(mib, ["train", *arguments(data, tmp_path / "run")], tmp_path)
    assert is_clear(status, text, "ulimit -v"), text


@pytest.mark.slow
@pytest.mark.parametrize("mib", range(1700, 2900, 100))
def test_any_limit_above_trains_or_says_what_lacks(data: Path, tmp_path: Path, mib: int) -> None:
    status, text = limited(mib, ["train", *arguments(data, tmp_path / "run")], tmp_path)
    assert status == 0 or is_clear(status, text, "memory"), text


TEN_SIGNALS = """
import os, signal, threading, time
def compute_score(rows):
    me = os.getpid()
    threading.Thread(target=lambda: [(os.kill(me, signal.{name}), time.sleep({gap})) for _ in range(10)], daemon=True).start()
    time.sleep(0.1)
    return [{{"overall": float(len(row["response"]) % 3), "accuracy": 0.0}} for row in rows]
"""


@pytest.mark.parametrize(
    ("name", "gap", "status"),
    [("SIGINT", 0.01, 130), *(pytest.param(*case, marks=pytest.mark.slow) for case in
     [("SIGINT", 0.0, 130), ("SIGINT", 0.2, 130), ("SIGTERM", 0.01, 143), ("SIGTERM", 0.1, 143), ("SIGHUP", 0.02, 129)])],
)  # fmt: skip
def test_ten_signals_leave_no_traceback(data: Path, tmp_path: Path, name: str, gap: float, status: int) -> None:
    file = tmp_path / "reward.py"
    file.write_text(TEN_SIGNALS.format(name=name, gap=gap))
    more = [f"worker.reward.reward_function={file}:compute_score", "worker.reward.reward_function_kwargs={}"]
    process = start_process(arguments(data, tmp_path / "run", *more, "trainer.max_steps=9"))
    output, _ = process.communicate(timeout=240)
    assert "Traceback" not in output and process.returncode == status, output


def test_only_the_first_signal_stops_and_the_rest_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "_ending_since", None)
    with pytest.raises(stopping.StopNow) as stop:
        stopping.stop_now(signal.SIGTERM)
    assert stop.value.status == 143
    for _ in range(10):
        stopping.stop_now(signal.SIGINT)
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr(stopping, "_ending_since", time.monotonic() - stopping.PATIENCE - 1)
    stopping.stop_now(signal.SIGINT)  # an end that hangs can be ended
    assert ended == [130]


@pytest.mark.parametrize("mib", [60, pytest.param(130, marks=pytest.mark.slow)])
def test_verifier_without_memory_says_so_and_does_not_hang(tmp_path: Path, mib: int) -> None:
    """The verifier's process gets too little address space for computer algebra, or for a worker."""
    program = (
        "import subprocess, resource, sys\n"
        "import gmpo_mm.verifiers.pool as pool\n"
        f"limit = {mib} << 20\n"
        "whole = subprocess.Popen\n"
        "pool.subprocess.Popen = lambda *a, **k: whole(\n"
        "    *a, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)), **k)\n"
        "try:\n"
        "    print(pool.VerifierPool(1).check([('x + 1', '1 + x')], 3.0))\n"
        "except pool.VerifierUnavailableError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=100, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0 and "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
    assert "memory" in done.stdout or done.stdout.strip() in ("['equal']", "['error']"), done.stdout
