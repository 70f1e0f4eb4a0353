"""What a run does when it is asked to stop: what is saved, what is said, and its exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gmpo_mm import cli
from gmpo_mm.errors import StoppedRun, TrainingError
from gmpo_mm.runs.stopping import was_stopped
from tests.engine.runs import arguments, file_bytes, run_here, train_metrics, weights

# A stop can be asked for at an exact place: the reward function is called in every step, within this very process.
SIGNAL_IN_CALL = """
import os, signal
calls = 0
def compute_score(rows):
    global calls
    calls += 1
    if calls == {call}:
        os.kill(os.getpid(), signal.{name})
    return [{{"overall": {score}, "accuracy": 0.0}} for i, row in enumerate(rows)]
"""
VARIED = "float(len(row['response']) % 3)"
FILTERING = ["algorithm.online_filtering=true", "trainer.max_try_make_batch=-1"]


def stops_in_call(folder: Path, call: int, name: str, score: str) -> str:
    file = folder / f"reward_{call}_{name}.py"
    file.write_text(SIGNAL_IN_CALL.format(call=call, name=name, score=score))
    return f"worker.reward.reward_function={file}:compute_score"


def state_of(run_dir: Path) -> dict[str, object]:
    return json.loads((run_dir / "run.json").read_text())


def test_after_sigterm_a_chain_of_commands_does_not_go_on(data: Path, tmp_path: Path) -> None:
    args = arguments(data, tmp_path / "run", stops_in_call(tmp_path, 1, "SIGTERM", VARIED))
    chain = subprocess.run(
        ["sh", "-c", '"$@" && echo the chain went on', "sh", sys.executable, "-m", "gmpo_mm.cli", "train", *args],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=240,
    )  # fmt: skip
    assert chain.returncode == 143, chain.stdout + chain.stderr
    assert "the chain went on" not in chain.stdout and "the same command goes on there" in chain.stdout


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGHUP", 129), ("SIGTERM", 143)])
def test_every_order_ends_the_run_after_its_step_saved(data: Path, tmp_path: Path, name: str, status: int) -> None:
    run_dir = tmp_path / "run"
    with pytest.raises(StoppedRun) as stopped:
        run_here(arguments(data, run_dir, stops_in_call(tmp_path, 2, name, VARIED), "trainer.max_steps=4"))
    assert stopped.value.status == status
    state = state_of(run_dir)
    assert (state["state"], state["step"], state["last_checkpoint"]) == ("interrupted", 2, 2)
    assert ("Ctrl-C" if name == "SIGINT" else name) in str(state["exit_reason"])


def test_a_hang_up_that_nohup_ignores_stays_ignored(data: Path, tmp_path: Path) -> None:
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run_here(arguments(data, tmp_path / "run", stops_in_call(tmp_path, 1, "SIGHUP", VARIED)))
    finally:
        signal.signal(signal.SIGHUP, former)
    assert state_of(tmp_path / "run")["state"] == "finished"


def test_an_order_in_the_last_step_does_not_unmake_a_finished_run(data: Path, tmp_path: Path) -> None:
    run_here(arguments(data, tmp_path / "run", stops_in_call(tmp_path, 2, "SIGTERM", VARIED)))
    assert state_of(tmp_path / "run")["state"] == "finished"


def test_one_order_ends_endless_tries_and_the_resumed_run_is_the_one_that_was_not_stopped(data: Path, tmp_path: Path) -> None:
    """Half of the groups are dropped, so a step takes several tries; the order comes in the second step's first try."""
    score = "float(i // 4 % 4 == 0 and i % 4 == 0)"  # one kept group of the four in each try, so four tries a step
    options = [*FILTERING, "trainer.max_steps=3"]
    straight = tmp_path / "straight"
    run_here(arguments(data, straight, stops_in_call(tmp_path, 999, "SIGINT", score), *options))
    reward = stops_in_call(tmp_path, 6, "SIGINT", score)
    run_dir = tmp_path / "run"
    with pytest.raises(StoppedRun, match="stopped after step 1 of 3"):
        run_here(arguments(data, run_dir, reward, *options))
    assert [line["step"] for line in train_metrics(run_dir)] == [1]
    assert state_of(run_dir)["last_checkpoint"] == 1
    Path(reward.partition("=")[2].rpartition(":")[0]).write_text(SIGNAL_IN_CALL.format(call=999, name="SIGINT", score=score))
    run_here(arguments(data, run_dir, reward, *options))
    assert train_metrics(run_dir) == train_metrics(straight)
    ours, theirs = file_bytes(run_dir, 3), file_bytes(straight, 3)
    name = "huggingface/model.safetensors"
    assert ours[name] == theirs[name] and set(weights(run_dir, 3)) == set(weights(straight, 3))


def test_groups_that_are_always_equal_end_after_an_epoch_of_tries(data: Path, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    (tmp_path / "reward.py").write_text(
        f"def compute_score(rows):\n    open({str(seen)!r}, 'a').write('.')\n    return [{{'overall': 1.0}} for _ in rows]\n"
    )
    reward = f"worker.reward.reward_function={tmp_path}/reward.py:compute_score"
    with pytest.raises(TrainingError, match="a whole epoch.*max_try_make_batch=-1") as raised:
        run_here(arguments(data, tmp_path / "run", reward, *FILTERING))
    assert "algorithm.filter_low/filter_high" in str(raised.value)
    assert len(seen.read_text()) == 24 // 4  # every training prompt once


@pytest.fixture
def handlers() -> Iterator[None]:
    former = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in former.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGHUP", 129), ("SIGTERM", 143)])
def test_a_command_that_does_not_train_yet_ends_at_once_with_the_signals_status(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, status: int
) -> None:
    """Sent by the reward's file while it is loaded, which is before the first step."""
    code = (
        f"import os, signal, time\nos.kill(os.getpid(), signal.{name})\ntime.sleep(60)\ndef compute_score(rows): ...\n"
    )
    (tmp_path / "reward.py").write_text(code)
    reward = f"worker.reward.reward_function={tmp_path}/reward.py:compute_score"
    monkeypatch.setattr(sys, "argv", ["gmpo-mm", "train", *arguments(data, tmp_path / "run", reward)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == status


@pytest.mark.parametrize(("status", "stopped"), [(130, True), (143, True), (129, True), (-15, True), (0, False), (1, False),
                                                 (2, False), (-9, False), (137, False)])  # fmt: skip
def test_which_statuses_say_that_a_command_was_asked_to_stop(status: int, stopped: bool) -> None:
    assert was_stopped(status) is stopped
