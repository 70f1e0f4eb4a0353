"""A Ray cluster of two nodes on this machine, for the tests of the engines that run on Ray."""

from __future__ import annotations

import contextlib
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

ROOT = Path(__file__).resolve().parents[2]
NO_TOKEN = {"RAY_AUTH_MODE": "disabled"}  # else the second node could not join without the first one's token


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@contextlib.contextmanager
def two_ray_nodes(logs: Path, cores: int) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A head and a second node with `cores` and one declared GPU each: the address, and the nodes' processes."""
    ray = str(Path(sys.executable).with_name("ray"))
    port = next(port for port in range(20_000 + os.getpid() % 5_000, 30_000) if _is_free(port))  # below Ray's own default ports
    short = tempfile.mkdtemp(prefix="r")  # Ray puts sockets there, whose paths may not be long
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("VERL_")},
        "OMP_NUM_THREADS": "1", "RAY_TMPDIR": short, **NO_TOKEN,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }  # fmt: skip
    common = ["--block", f"--num-cpus={cores}", "--num-gpus=1", "--disable-usage-stats", "--object-store-memory=200000000"]
    processes = []
    try:
        for role in (["--head", f"--port={port}", "--include-dashboard=false"], [f"--address=127.0.0.1:{port}"]):
            log = (logs / f"ray_{len(processes)}.log").open("w")
            command = [ray, "start", *role, *common]
            processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True))
            deadline = time.monotonic() + 120
            while "Ray runtime started" not in (logs / f"ray_{len(processes) - 1}.log").read_text():
                assert processes[-1].poll() is None and time.monotonic() < deadline, Path(log.name).read_text()
                time.sleep(0.2)
        yield f"127.0.0.1:{port}", processes
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(short, ignore_errors=True)
