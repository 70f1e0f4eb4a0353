"""Has a benchmark become worse? Its ratios beside those in benchmarks/baselines.

    make benchmark-check                                          # what runs on a CPU without TRL
    make benchmark-check BENCHMARKS="verifier roofline"
    make benchmark-check BENCHMARKS=verifier CHECK_OPTIONS=--write

Exit code 0: nothing is worse by more than its tolerance. 1: something is, or a benchmark failed. 2: a baseline is
missing or damaged, or an option is wrong; then nothing was run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import baseline
from benchmarks.baseline import CheckError, Result

ROOT = Path(__file__).resolve().parents[1]
BASELINES = ROOT / "benchmarks" / "baselines"
TRL_PYTHON = ROOT / ".venv-benchmarks" / "bin" / "python"
RUNS_TO_WRITE, LEAST_RUNS_TO_WRITE = 5, 3


@dataclass(frozen=True)
class Benchmark:
    """What runs: arguments of a Python, to which `--json FILE` is added."""

    arguments: str
    python: Path = field(default_factory=lambda: Path(sys.executable))
    by_default: bool = True


BENCHMARKS = {
    "startup_and_overhead": Benchmark("-m benchmarks.startup_and_overhead --rounds 5"),
    "roofline": Benchmark("-m benchmarks.roofline"),
    "verifier": Benchmark("-m benchmarks.verifier --repetitions 1"),
    "grader_attack": Benchmark("-m benchmarks.grader_attack --count 1750"),
    "grader_load": Benchmark("-m benchmarks.grader_load --runs 2 --loops 4 --attacks 300 --hostile 2"),
    "round_vs_trl": Benchmark("-m benchmarks.round_vs_trl --rounds 5", TRL_PYTHON, by_default=False),
    "long_prompts_vs_trl": Benchmark(
        "-m benchmarks.long_prompts_vs_trl --rounds 2 --vision frozen", TRL_PYTHON, by_default=False
    ),
}


def run(name: str, benchmark: Benchmark) -> Result:
    """Run it once. Raises: CheckError with the end of its output where it left no result."""
    with tempfile.TemporaryDirectory(prefix="gmpo-mm-benchmark-") as folder:
        file = Path(folder) / "result.json"
        done = subprocess.run(
            [str(benchmark.python), *benchmark.arguments.split(), "--json", str(file)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "110"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        if not file.is_file():
            raise CheckError(f"failed with exit code {done.returncode}:\n{done.stdout[-2000:]}")
        return baseline.read(file, name, is_baseline=False)


def select(names: list[str], writing: bool, folder: Path) -> dict[str, Result]:
    """Benchmarks and their baselines (empty when they are to be written). Raises: CheckError before anything runs."""
    chosen = list(dict.fromkeys(names)) or [name for name, one in BENCHMARKS.items() if one.by_default]
    for name in chosen:
        if name not in BENCHMARKS:
            raise CheckError(f"{name} is no benchmark. Known are {', '.join(BENCHMARKS)}")
        python = BENCHMARKS[name].python
        if not python.is_file():
            raise CheckError(f"{name} needs {python}, which `make benchmark` installs")
    return {name: {} if writing else baseline.read(folder / f"{name}.json", name) for name in chosen}


def parse(given: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="benchmark-check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = f"all that need no TRL, or some of {', '.join(BENCHMARKS)}"
    parser.add_argument("names", nargs="*", metavar="BENCHMARK", help=known)
    parser.add_argument("--write", action="store_true", help="write the baselines anew, and compare nothing")
    counts = f"runs of each, of which the median counts (default: 1, {RUNS_TO_WRITE} with --write)"
    parser.add_argument("--runs", type=int, help=counts)
    where = "where they lie (default: benchmarks/baselines)"
    parser.add_argument("--baselines", type=Path, default=BASELINES, metavar="FOLDER", help=where)
    options = parser.parse_args(given)
    if options.runs is None:
        options.runs = RUNS_TO_WRITE if options.write else 1
    if options.runs < (LEAST_RUNS_TO_WRITE if options.write else 1):
        parser.error(
            f"--runs: at least 1; at least {LEAST_RUNS_TO_WRITE} with --write, which takes tolerances from them"
        )
    return options


def main(given: list[str] | None = None) -> int:
    """Run, then compare or write; returns the exit code."""
    options = parse(given)
    console = Console(
        width=None if sys.stdout.isatty() else 150, highlight=False, markup=False, soft_wrap=True
    )
    try:
        baselines = select(options.names, options.write, options.baselines)
    except CheckError as error:
        console.print(f"benchmark-check: {error}")
        return 2
    git = ["git", "describe", "--always", "--dirty", "--abbrev=9"]
    commit = subprocess.run(git, cwd=ROOT, capture_output=True, text=True).stdout.strip() or "unknown"
    table = Table("benchmark", "ratio", "baseline", "now", "moved by", "tolerance", "")
    failed, notes = [], []
    for name, before in baselines.items():
        benchmark = BENCHMARKS[name]
        command = f"python {benchmark.arguments}"
        console.print(f"{name}: {command}{f', {options.runs} times' if options.runs > 1 else ''}")
        try:
            now = baseline.merge([run(name, benchmark) for _ in range(options.runs)])
        except CheckError as error:
            console.print(f"{name} {error}")
            failed.append(f"{name} gave no result")
            continue
        if options.write:
            origin = {"command": command, "commit": commit, "runs": options.runs}
            baseline.write(options.baselines / f"{name}.json", now, **origin)
            continue
        rows = baseline.compare(now, before)
        for row in rows:
            table.add_row(name, *row)
        failed += [f"{name}: {row[0]}: {row[-1]}" for row in rows if row[-1] in ("WORSE", "MISSING")]
        notes += [f"{name}: {words}" for words in baseline.differences(now, before, command)]
    if table.row_count:
        console.print(table, soft_wrap=False)
    for line in [*notes, *failed]:
        console.print(line)
    if not failed and not options.write:
        console.print("Nothing is worse by more than its tolerance.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
