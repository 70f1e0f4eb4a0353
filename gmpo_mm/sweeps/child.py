"""A sweep's child: `python -m gmpo_mm.sweeps.child PARENT COMMAND ...` is `gmpo-mm COMMAND ...` that ends with its parent.

The sweep is killed, and its runs are too: on Linux the kernel does it, even inside an operation that runs no Python; elsewhere
a thread looks twice a second.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
import threading
import time

from gmpo_mm.verifiers.supervisor import die_with_parent

ARGUMENTS = "GMPO_MM_ARGUMENTS"
"""The command line, in an environment variable, where the one that everybody may read has secrets left out."""


def main() -> None:
    """Run the command line that follows the parent's process id."""
    parent = int(sys.argv[1])
    die_with_parent(parent)
    if sys.platform != "linux":
        threading.Thread(target=_watch, args=(parent,), name="parent-watch", daemon=True).start()
    given = os.environ.pop(ARGUMENTS, None)
    sys.argv = ["gmpo-mm", *(sys.argv[2:] if given is None else json.loads(given))]
    runpy.run_module("gmpo_mm.cli", run_name="__main__")


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
