"""Two Ray nodes on one machine, one worker of verl on each; one of them is killed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.verl.runs import LIMIT, ROOT, start, text, wait_for

NO_TOKEN = {"RAY_AUTH_MODE": "disabled"}  # else the second node could not join without the first one's token


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.fixture
def two_nodes(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A Ray cluster of a head and a second node on this machine, one declared GPU each: address, and the nodes' processes."""
    ray = str(Path(sys.executable).with_name("ray"))
    port = next(port for port in range(20_000 + os.getpid() % 5_000, 30_000) if _is_free(port))  # below Ray's own default ports
    short = tempfile.mkdtemp(prefix="r")  # Ray puts sockets there, whose paths may not be long
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("VERL_")},
        "OMP_NUM_THREADS": "1", "RAY_TMPDIR": short, **NO_TOKEN,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }  # fmt: skip
    common = ["--block", "--num-cpus=6", "--num-gpus=1", "--disable-usage-stats", "--object-store-memory=200000000"]
    processes = []
    try:
        for role in (["--head", f"--port={port}", "--include-dashboard=false"], [f"--address=127.0.0.1:{port}"]):
            log = (tmp_path / f"ray_{len(processes)}.log").open("w")
            command = [ray, "start", *role, *common]
            processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True))
            deadline = time.monotonic() + 120
            while "Ray runtime started" not in (tmp_path / f"ray_{len(processes) - 1}.log").read_text():
                assert processes[-1].poll() is None and time.monotonic() < deadline, Path(log.name).read_text()
                time.sleep(0.2)
        yield f"127.0.0.1:{port}", processes
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(short, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.timeout(2 * LIMIT)
def test_two_ray_nodes_train_together_and_a_killed_worker_ends_the_run_with_a_checkpoint(
    two_nodes: tuple[str, list[subprocess.Popen[bytes]]], data: Path, tmp_path: Path
) -> None:
    address, nodes = two_nodes
    run = tmp_path / "run"
    spread = ["trainer.nnodes=2", "trainer.n_gpus_per_node=1", f"ray_address={address}", "trainer.max_steps=500"]
    process = start(text(data, run, *spread), **NO_TOKEN)
    wait_for(run / "latest_checkpointed_iteration.txt", process)
    workers = [p for p in psutil.Process(nodes[1].pid).children(recursive=True) if "WorkerDict" in " ".join(p.cmdline())]
    assert len(workers) == 1, "one worker on each node"
    workers[0].send_signal(signal.SIGKILL)
    output, _ = process.communicate(timeout=LIMIT)
    assert process.returncode != 0
    assert "2 node(s)" in output
    assert "a worker process died" in output and "with the same command" in " ".join(output.split())
    assert json.loads((run / "run.json").read_text())["state"] == "failed"
    saved = int((run / "latest_checkpointed_iteration.txt").read_text())
    shards = {path.name for path in (run / f"global_step_{saved}" / "actor").glob("model_*.pt")}
    assert shards == {"model_world_size_2_rank_0.pt", "model_world_size_2_rank_1.pt"}
    three = text(data, tmp_path / "other", *spread, "trainer.nnodes=3", "data.rollout_batch_size=6")
    refused = start([*three, "worker.actor.global_batch_size=6"], **NO_TOKEN)
    output, _ = refused.communicate(timeout=LIMIT)
    assert refused.returncode != 0 and "so 2 of 3 groups fit" in " ".join(output.split())
