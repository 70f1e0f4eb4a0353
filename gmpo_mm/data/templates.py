"""Jinja templates of others, format prompts and models' chat templates, rendered in a process of its own with limits.

Jinja's sandbox keeps a template from Python, not from computing for ever or filling the memory. The process is started
when it is first needed and kept; a template that goes beyond its time or memory ends it, and the next one gets a new one.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any, Literal

from gmpo_mm.errors import GMPOError, TrainingError

SECONDS = 5
"""Of processor time for one rendering; a usual one takes less than a thousandth of that."""
MAX_CHARACTERS = 4_000_000
"""Of a rendered text."""
MAX_BYTES = 1 << 30
"""Of memory of the process."""

Kind = Literal["format", "chat", "prompt"]
"""`format`: a format prompt, over `content`. `chat`: a model's chat template, in transformers' environment. `prompt`: a
template of an evaluation's, in jinja2's with the same whitespace rules."""

_BOOTSTRAP = (
    "import json, sys; arguments = json.loads(sys.argv[1]); sys.path[:] = arguments['path']; "
    "import runpy; runpy.run_path(arguments['file'])['serve'](arguments)"
)


class TemplateError(GMPOError):
    """A template that is broken, that the sandbox refuses, or that goes beyond its limits; the text says which."""


def render(kind: Kind, template: str, values: Mapping[str, Any]) -> str:
    """The rendered text. Raises TemplateError."""
    return str(_ask({"kind": kind, "template": template, "values": values})["text"])


def variables(kind: Kind, template: str) -> set[str]:
    """The variables that a template reads and does not set. Raises TemplateError for one that does not compile."""
    return set(_ask({"kind": kind, "template": template})["variables"])


_lock = threading.Lock()
_process: tuple[int, subprocess.Popen[bytes]] | None = None
"""The process, and which process of ours started it: after a fork another one is needed."""


def _ask(question: dict[str, Any]) -> dict[str, Any]:
    global _process
    with _lock:
        is_new = _process is None or _process[0] != os.getpid() or _process[1].poll() is not None
        if _process is None or is_new:
            _process = (os.getpid(), _start())
        process = _process[1]
        assert process.stdin is not None and process.stdout is not None
        line = b""
        try:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps(question).encode() + b"\n")
                process.stdin.flush()
                line = process.stdout.readline()
        except BaseException:  # Ctrl-C: the answer would be taken for that of the next question
            process.kill()
            process.wait()
            raise
        if not line.endswith(b"\n"):
            status = process.wait()
            if is_new and status > 0:  # Python itself or an import failed: so would it with the next template
                raise TrainingError(
                    f"the process that renders templates could not start (status {status}); is there memory for it? Raise the "
                    "limit on the address space (ulimit -v unlimited), or end other programs"
                )
            raise TemplateError(_why_it_ended(status))
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise TemplateError(answer["error"])
    return answer


def _start() -> subprocess.Popen[bytes]:
    limits = {"seconds": SECONDS, "characters": MAX_CHARACTERS, "bytes": MAX_BYTES}
    path = [entry or os.getcwd() for entry in sys.path]
    file = os.path.join(os.path.dirname(__file__), "template_process.py")
    return subprocess.Popen(
        [sys.executable, "-c", _BOOTSTRAP, json.dumps({"path": path, "file": file, **limits})],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        start_new_session=True,  # a Ctrl-C in the terminal is not for it
    )  # fmt: skip


def _why_it_ended(status: int) -> str:
    if status == -signal.SIGPROF:
        return f"it takes more than {SECONDS} s of processor time; does one of its loops never end?"
    return f"its process ended with status {status}, as when it takes more than {MAX_BYTES >> 20} MiB of memory"


def _forget() -> None:
    global _process, _lock
    _process, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)
