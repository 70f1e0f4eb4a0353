"""Check what a GPU makes of this package: right, memory, speed, sampling, learning. One JSON, one Markdown
table.

    python -m benchmarks.gpu_check --minutes 8

Parts run in order of worth; one that no longer fits into the time is skipped, and the table says so. A part
that fails is recorded and the next goes on; then the exit code is 1. See benchmarks/README.md, "With a GPU at
hand".
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu_check.wheels import ROOT, extend_path_of_children, use_wheels

GROUPS = ("card", "correctness", "speed", "memory", "comparisons", "sampling", "learning")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="time for everything")
    parser.add_argument("--out", type=Path, help="folder of the results: $OUT if set, else runs/gpu_check")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--only", help=f"some of {','.join(GROUPS)}")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes; always on a CPU")
    parser.add_argument("--commit", help="the commit to note down where there is no git")
    parser.add_argument("--resume", action="store_true", help="go on with the results in --out")
    options = parser.parse_args(arguments)
    options.out = options.out or Path(os.environ.get("OUT") or "runs/gpu_check")
    options.only = options.only.split(",") if options.only else list(GROUPS)
    if unknown := sorted(set(options.only) - set(GROUPS)):
        parser.error(f"--only {unknown[0]}: known are {', '.join(GROUPS)}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the check; returns the exit code."""
    options = parse(arguments)
    wheels = use_wheels()
    extend_path_of_children(str(ROOT))  # gmpo_mm need not be installed
    from benchmarks.gpu_check.run import check  # imports gmpo_mm, which may need the wheels

    return check(options, wheels, arguments)


if __name__ == "__main__":
    sys.exit(main())
