"""One side of a comparison in a process of its own: reports, then runs one round for each line that it is sent."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.clock import PhaseClock
from benchmarks.reporter import Pipe, Reporter
from benchmarks.workload import Workload


def main() -> None:
    """Run the side named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=["local", "trl"])
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    pipe, clock = Pipe(), PhaseClock()
    workload = Workload.read(arguments.folder)

    import torch

    torch.set_num_threads(workload.threads)
    torch.set_num_interop_threads(1)
    if arguments.side == "trl":
        from benchmarks.trl_side import run
    else:
        from benchmarks.local_side import run
    run(workload, arguments.folder, Reporter(pipe, clock))


if __name__ == "__main__":
    main()
