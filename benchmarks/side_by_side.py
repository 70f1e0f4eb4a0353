"""Run both sides in turn, round by round, in two processes on one machine, and compare them."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table

from benchmarks.ratios import Ratios
from benchmarks.workload import REPOSITORY, Workload

NAMES = {"local": "gmpo_mm", "trl": "TRL"}
PHASES = ["sampling", "rewards", "old log-probs", "update", "rest"]


@dataclass
class Side:
    """What one side reported: its set-up and its counted rounds."""

    ready: dict[str, Any]
    rounds: list[dict[str, Any]] = field(default_factory=list)

    def seconds(self, kind: str, phases: list[str] | None = None) -> float:
        """Median over the rounds of `wall_s` or `cpu_s`, summed over the phases (all of them by default)."""
        return statistics.median(
            sum(value for phase, value in one[kind].items() if phases is None or phase in phases) for one in self.rounds
        )

    def peak_mib(self, phases: list[str] | None = None) -> float:
        """Highest resident set of the counted rounds above the one after loading."""
        peaks = [value for one in self.rounds for phase, value in one["peak_mib"].items() if phases is None or phase in phases]
        return max(peaks, default=0.0) - self.ready["baseline_mib"]

    def fact(self, name: str) -> float:
        """Mean over the rounds of what the side said about its work."""
        return statistics.fmean(one["facts"][name] for one in self.rounds)


class WorkerProcess:
    """A side in its own process, with the threads of the workload and its chatter in a log file."""

    def __init__(self, side: str, folder: Path, workload: Workload) -> None:
        threads = str(workload.threads)
        environment = dict(
            os.environ,
            OMP_NUM_THREADS=threads,
            MKL_NUM_THREADS=threads,
            TOKENIZERS_PARALLELISM="false",
            HF_HUB_OFFLINE="1",
            TRL_EXPERIMENTAL_SILENCE="1",
            CUDA_VISIBLE_DEVICES="",
        )
        self.side, self._log_path = side, folder / f"{side}.log"
        self._log = self._log_path.open("w")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", side, str(folder)],
            cwd=REPOSITORY,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def read(self) -> dict[str, Any]:
        """The next message; a dead worker ends the benchmark with its log."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            self._log.flush()
            raise SystemExit(f"The {NAMES[self.side]} side failed:\n{self._log_path.read_text()[-6000:]}")
        return json.loads(line)

    def go(self) -> dict[str, Any]:
        """Let it run one round."""
        stdin: TextIO | None = self._process.stdin
        assert stdin
        stdin.write("go\n")
        stdin.flush()
        return self.read()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        self._log.close()


def compare(workload: Workload, folder: Path, sides: list[str], console: Console) -> dict[str, Side]:
    """Rounds of the sides in turn; the warm-up rounds are thrown away."""
    workload.write(folder)
    workers = {side: WorkerProcess(side, folder, workload) for side in sides}
    try:
        measured = {side: Side(worker.read()) for side, worker in workers.items()}
        check_same_prompts(measured)
        for number in range(workload.total_rounds):
            for side, worker in workers.items():
                result = worker.go()
                counted = number >= workload.warmup
                if counted:
                    measured[side].rounds.append(result)
                console.print(
                    f"{workload.name} round {number + 1}/{workload.total_rounds} {NAMES[side]:8} "
                    f"{sum(result['wall_s'].values()):7.2f} s wall {sum(result['cpu_s'].values()):7.2f} s CPU"
                    f"{'' if counted else '  (warm-up)'}",
                    style="dim",
                    highlight=False,
                )
    finally:
        for worker in workers.values():
            worker.close()
    return measured


def check_same_prompts(measured: dict[str, Side]) -> None:
    """Both sides have to train on the same tokens and the same parameters."""
    readies = [side.ready for side in measured.values()]
    for other in readies[1:]:
        if other["prompts"] != readies[0]["prompts"]:
            raise SystemExit("The sides build different prompt tokens: the comparison would be of different work.")
        if other["trainable_parameters"] != readies[0]["trainable_parameters"]:
            raise SystemExit("The sides train a different number of parameters.")


def ratio(theirs: float, ours: float) -> str:
    """How many times ours theirs is."""
    return f"{theirs / ours:.2f} x" if ours > 1e-4 else "-"


def show(workload: Workload, measured: dict[str, Side], console: Console) -> None:
    """Print one table: seconds and memory by phase."""
    if set(measured) != {"local", "trl"}:
        for name, side in measured.items():
            phases = {phase: round(side.seconds("cpu_s", [phase]), 3) for phase in PHASES}
            console.print(name, phases, "CPU s a round", round(side.seconds("cpu_s"), 3))
        return
    ours, theirs = measured["local"], measured["trl"]
    table = Table(title=title(workload, ours), title_justify="left")
    table.add_column("phase")
    for header in ("gmpo_mm wall s", "TRL wall s", "ratio", "gmpo_mm CPU s", "TRL CPU s", "ratio"):
        table.add_column(header, justify="right")
    rows = [(phase, [phase]) for phase in PHASES]
    rows += [("old log-probs + update", ["old log-probs", "update"]), ("round", PHASES)]
    for label, phases in rows:
        cells = []
        for kind in ("wall_s", "cpu_s"):
            mine, other = ours.seconds(kind, phases), theirs.seconds(kind, phases)
            cells += [f"{mine:.3f}", f"{other:.3f}", ratio(other, mine)]
        table.add_row(label, *cells, style="bold" if label == "round" else None)
    console.print(table)
    memory = Table(title="Peak resident memory above the one after loading, MiB", title_justify="left")
    for header in ("phase", "gmpo_mm", "TRL", "gmpo_mm / TRL"):
        memory.add_column(header, justify="left" if header == "phase" else "right")
    for label, phases in (("sampling", ["sampling"]), ("update", ["old log-probs", "update"]), ("round", PHASES)):
        mine, other = ours.peak_mib(phases), theirs.peak_mib(phases)
        memory.add_row(label, f"{mine:.0f}", f"{other:.0f}", f"{mine / other:.2f}")
    console.print(memory)
    for name, side in measured.items():
        console.print(
            f"{NAMES[name]}: mean reward {side.fact('reward'):.3f}; {side.fact('samples'):.0f} samples a round, "
            f"{side.fact('distinct'):.0f} of them distinct, {side.fact('response_tokens'):.0f} response tokens; "
            + ", ".join(f"{package} {version}" for package, version in side.ready["versions"].items()),
            highlight=False,
        )


def title(workload: Workload, side: Side) -> str:
    """The shape of the work in one line."""
    tokens = statistics.fmean(len(ids) for ids in side.ready["prompts"])
    return (
        f"{workload.name}: {workload.prompts} prompts of {tokens:.0f} tokens x {workload.samples} samples x "
        f"{'' if workload.exact_length else 'at most '}{workload.new_tokens} new tokens, {workload.mini_batches} "
        f"optimizer steps, {side.ready['trainable_parameters'] / 1e6:.2f} M trained parameters (vision tower "
        f"{'frozen' if workload.freeze_vision else 'trained'}), {workload.threads} thread, float32; "
        f"median of {workload.rounds} rounds"
    )


def to_json(workload: Workload, measured: dict[str, Side]) -> dict[str, Any]:
    """Everything that was measured, and the medians, for a file."""
    result: dict[str, Any] = {"workload": vars(workload)}
    for name, side in measured.items():
        ready = {key: value for key, value in side.ready.items() if key != "prompts"}
        medians = {
            kind: {phase: side.seconds(kind, [phase]) for phase in PHASES} | {"round": side.seconds(kind)}
            for kind in ("wall_s", "cpu_s")
        }
        memory = {"update": side.peak_mib(["old log-probs", "update"]), "round": side.peak_mib()}
        result[name] = {"setup": ready, "median": medians, "peak_mib_above_load": memory, "rounds": side.rounds}
    return result


def add_ratios(ratios: Ratios, workload: Workload, measured: dict[str, Side]) -> None:
    """TRL's CPU seconds over ours, and our peak memory over TRL's; nothing where only one side ran."""
    if set(measured) != {"local", "trl"}:
        return
    ours, theirs = measured["local"], measured["trl"]
    tower = "vision frozen" if workload.freeze_vision else "vision trained"
    parts = {"round": PHASES, "sampling": ["sampling"], "update": ["update"]}
    parts["old log-probs + update"] = ["old log-probs", "update"]
    for name, phases in parts.items():
        seconds = theirs.seconds("cpu_s", phases), ours.seconds("cpu_s", phases)
        ratios.add(f"{tower}: CPU time of {name}, TRL / ours", *seconds, better="higher")
    ratios.add(f"{tower}: peak memory, ours / TRL", ours.peak_mib(), theirs.peak_mib(), better="lower")


def add_common_options(parser: argparse.ArgumentParser, rounds: int, warmup: int) -> None:
    """The options that both comparisons have."""
    parser.add_argument("--rounds", type=int, default=rounds, help="counted rounds of each side")
    parser.add_argument("--warmup", type=int, default=warmup, help="rounds before them that are thrown away")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--vision", choices=["frozen", "trained", "both"], default="both", help="the vision tower")
    parser.add_argument("--sides", nargs="+", choices=["local", "trl"], default=["local", "trl"])
    parser.add_argument("--json", type=Path, help="file for everything that was measured")


def run_comparison(arguments: argparse.Namespace, prepare: Callable[[argparse.Namespace, Path, bool], Workload]) -> None:
    """Compare with the vision tower frozen on both sides, trained on both, or first one, then the other."""
    console, results, ratios = Console(width=110), [], Ratios()
    for freeze_vision in {"frozen": [True], "trained": [False], "both": [True, False]}[arguments.vision]:
        with work_folder() as name:
            workload = prepare(arguments, Path(name), freeze_vision)
            measured = compare(workload, Path(name), arguments.sides, console)
        show(workload, measured, console)
        results.append(to_json(workload, measured))
        add_ratios(ratios, workload, measured)
    if arguments.json:
        ratios.write(arguments.json, {"comparisons": results})


def work_folder() -> tempfile.TemporaryDirectory[str]:
    """Where problems, models and logs of a run lie."""
    return tempfile.TemporaryDirectory(prefix="gmpo-mm-benchmark-")
