"""`gmpo-mm sweep` whose runs are stubs (`stub_run.py`): for tests of what it does with processes.

With CLOCK_JUMPS_AFTER=FILE in the environment its clock jumps ten hours ahead when the run that writes FILE has trained three
steps: a budget's end that no load of the machine moves.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from gmpo_mm.cli import main
from gmpo_mm.sweeps import processes, runner


def jumping_clock(file: Path) -> SimpleNamespace:
    """The `time` module as the runner uses it."""

    def monotonic() -> float:
        jumped = file.is_file() and '"step": 3, "kind": "train"' in file.read_text()
        return time.monotonic() + (36_000 if jumped else 0)

    return SimpleNamespace(monotonic=monotonic, sleep=time.sleep)


if __name__ == "__main__":
    processes.CHILD = "tests.sweeps.stub_run"
    if jumps_after := os.environ.get("CLOCK_JUMPS_AFTER"):
        runner.time = jumping_clock(Path(jumps_after))  # type: ignore[assignment]
    sys.argv[0] = "gmpo-mm"
    main()
