"""Commands in processes forked from one that has imported everything: a start takes a hundredth of a second, not seconds.

    python -m tests.docs.command_server SOCKET

`CommandServer` starts it and puts `gmpo-mm` and `python` into a folder for the PATH: small clients that hand their
arguments, environment, folder and streams to the server, and end with the status of what was run there.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import runpy
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CLIENT = f"""#!{sys.executable} -SE
import array, json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect(os.environ["DOCS_COMMAND_SERVER"])
server.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))])
request = {{"argv": [os.path.basename(sys.argv[0]), *sys.argv[1:]], "cwd": os.getcwd(), "env": dict(os.environ)}}
server.sendall(json.dumps(request).encode() + b"\\n")
sys.exit(int(server.makefile().readline() or 1))
"""
READY = "ready"


class CommandServer:
    """The forking process, as a context manager; `bin` is the folder with the clients."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.socket = folder / "bin", folder / "socket"

    def __enter__(self) -> CommandServer:
        self.bin.mkdir(parents=True)
        for name in ("gmpo-mm", "python", "python3"):
            (self.bin / name).write_text(CLIENT)
            (self.bin / name).chmod(0o755)
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(self.socket)],
            cwd=Path(__file__).parents[2], env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() == READY
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()

    @contextmanager
    def python(self, folder: Path, environment: dict[str, str], log: Path) -> Iterator[PythonSession]:
        """A Python process that runs one block after the other, in one namespace; what it prints goes to `log`."""
        with (
            socket.socket(socket.AF_UNIX) as connection,
            log.open("ab") as output,
            open(os.devnull, "rb") as nothing,
        ):
            connection.connect(str(self.socket))
            streams = array.array("i", [nothing.fileno(), output.fileno(), output.fileno()])
            connection.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
            request = {"argv": ["--session"], "cwd": str(folder), "env": environment}
            connection.sendall(json.dumps(request).encode() + b"\n")
            yield PythonSession(connection)


class PythonSession:
    """A namespace in a process of its own."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._answers = connection, connection.makefile()

    def run(self, code: str, name: str, line: int) -> str | None:
        """Run code that begins at a line of file `name`; returns the traceback, None where all went well."""
        self._connection.sendall(json.dumps({"code": code, "name": name, "line": line}).encode() + b"\n")
        answer = self._answers.readline()
        return json.loads(answer)["error"] if answer else "the Python process ended"


def serve(path: str) -> None:
    """Answer until the starting process ends."""
    import torch
    import transformers.models.qwen2_5_vl.modeling_qwen2_5_vl  # noqa: F401

    import gmpo_mm.engines.local.launch
    import gmpo_mm.evaluation.evaluate
    import gmpo_mm.planning.dry_run
    import gmpo_mm.reports.report
    import gmpo_mm.sweeps.sweep  # noqa: F401

    torch.set_num_threads(1)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    print(READY, flush=True)
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            os._exit(_answer(connection))
        connection.close()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _answer(connection: socket.socket) -> int:
    _, rights, _, _ = connection.recvmsg(1, socket.CMSG_SPACE(3 * array.array("i").itemsize))
    streams = array.array("i")
    streams.frombytes(rights[0][2])
    reader = connection.makefile()
    request = json.loads(reader.readline())
    for stream, descriptor in enumerate(streams):
        os.dup2(descriptor, stream)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    if request["argv"] == ["--session"]:
        _session(connection, reader)
        return 0
    status = _run(request["argv"])
    connection.sendall(f"{status}\n".encode())
    return 0


def _session(connection: socket.socket, reader: Any) -> None:
    sys.path.insert(0, "")
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for line in reader:
        block = json.loads(line)
        error = None
        try:
            exec(compile("\n" * (block["line"] - 1) + block["code"], block["name"], "exec"), namespace)
        except BaseException:
            error = traceback.format_exc()
        sys.stdout.flush()
        connection.sendall(json.dumps({"error": error}).encode() + b"\n")


def _run(argv: list[str]) -> int:
    sys.argv = argv
    sys.modules["__main__"].__package__ = None  # for usage texts to begin with gmpo-mm
    try:
        if argv[0] == "gmpo-mm":
            from gmpo_mm.cli import main

            main()
        else:
            _run_python(argv[1:])
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _run_python(arguments: list[str]) -> None:
    """`python FILE ...`, `python -m MODULE ...`, `python -c CODE`; anything else by Python itself."""
    if arguments[:1] == ["-m"]:
        sys.argv, sys.path[:0] = arguments[1:], [os.getcwd()]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    elif arguments[:1] == ["-c"]:
        sys.argv = ["-c", *arguments[2:]]
        exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
    elif arguments and not arguments[0].startswith("-"):
        sys.argv, sys.path[:0] = arguments, [str(Path(arguments[0]).parent)]
        runpy.run_path(arguments[0], run_name="__main__")
    else:
        os.execv(sys.executable, [sys.executable, *arguments])


if __name__ == "__main__":
    serve(sys.argv[1])
