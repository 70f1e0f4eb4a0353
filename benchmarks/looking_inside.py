"""What it costs to look inside updates: steps with compared losses and with records beside the same steps without.

Each variant is a training run in a process of its own. They take turns, step by step, and since nothing that is measured
changes a run, step k is the same work in all of them: a ratio is the median over the steps of one variant's time divided by
that of the plain run's same step. A busy machine moves them by several percent, so the CPU time of what is added is also
taken by itself, inside the step ("added alone").
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import long_prompts_vs_trl, round_vs_trl
from benchmarks.ratios import Ratios
from benchmarks.side_by_side import work_folder
from benchmarks.workload import Workload

LOSSES = ["default", "gspo", "cispo", "power_mean"]
GOAL = 0.03
PLAIN = "without"
VARIANTS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "compare_losses, four": {"compare_losses": LOSSES},
    "and compare_losses_gradients_every: 1": {"compare_losses": LOSSES, "compare_losses_gradients_every": 1},
    "record_steps: every 1": {"record_steps": "every 1"},
}


@dataclass
class Steps:
    """Seconds of a variant's counted steps, and how many bytes a step left in the run directory."""

    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    added_s: list[float] = field(default_factory=list)
    """CPU seconds of what a variant adds, measured by itself."""
    bytes_a_step: float = 0.0


def run_in_turn(turn: Connection, workload: Workload, folder: Path, name: str) -> None:
    """One variant: train, and wait before each step until the parent says go."""
    import torch

    from benchmarks.local_side import build_config
    from gmpo_mm.engines.local import launch as local
    from gmpo_mm.runs.trackers import Trackers
    from gmpo_mm.training.actor import Actor
    from gmpo_mm.training.compare_losses import KIND, LossComparison
    from gmpo_mm.training.recording import StepRecorder
    from gmpo_mm.training.trainer import Trainer

    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    step, added = Trainer._step, [0.0]
    for owner, method in ((LossComparison, "line"), (Actor, "accumulate"), (StepRecorder, "begin"), (StepRecorder, "end")):
        setattr(owner, method, counted(getattr(owner, method), added))
    log = Trackers.log
    compared = counted(log, added)
    Trackers.log = lambda self, *args: (compared if args[1] == KIND else log)(self, *args)  # type: ignore[method-assign]

    def measured(self: Trainer, *args: Any) -> None:
        turn.recv()
        wall, cpu, before = time.perf_counter(), time.process_time(), added[0]
        step(self, *args)
        turn.send((time.perf_counter() - wall, time.process_time() - cpu, added[0] - before))

    Trainer._step = measured  # type: ignore[method-assign]
    loaded = build_config(workload, folder)
    for key, value in VARIANTS[name].items():
        setattr(loaded.config.trainer, key, value)
    run = folder / "runs" / str(list(VARIANTS).index(name))
    loaded.config.trainer.run_dir = str(run)
    with contextlib.redirect_stdout(io.StringIO()):
        local.train(loaded)
    kept = [file for file in run.rglob("*") if file.is_file() and file.parts[len(run.parts)] in ("rollouts", "metrics.jsonl")]
    turn.send(sum(file.stat().st_size for file in kept))


def counted(function: Callable[..., Any], total: list[float]) -> Callable[..., Any]:
    """The function, with its CPU seconds added to `total[0]`."""

    def inner(*args: Any, **kwargs: Any) -> Any:
        started = time.process_time()
        result = function(*args, **kwargs)
        total[0] += time.process_time() - started
        return result

    return inner


def prepare(long_prompts: bool, arguments: argparse.Namespace, folder: Path) -> Workload:
    """The work that `round_vs_trl` or `long_prompts_vs_trl` does; writes its problems and model."""
    module = long_prompts_vs_trl if long_prompts else round_vs_trl
    counts = [f"--rounds={arguments.rounds if not long_prompts else max(2, arguments.rounds // 4)}", "--warmup=1"]
    more = [] if long_prompts else ["--exact-length"]  # else most responses of a group are equal, and share work
    with contextlib.redirect_stdout(io.StringIO()):
        return module.prepare(module.build_parser().parse_args([*counts, *more]), folder, freeze_vision=True)


def measure(long_prompts: bool, arguments: argparse.Namespace, console: Console) -> dict[str, Steps]:
    """Steps of all variants in turn; the first of each is thrown away."""
    spawn = multiprocessing.get_context("spawn")
    measured = {name: Steps() for name in VARIANTS}
    with work_folder() as name:
        folder = Path(name)
        workload = prepare(long_prompts, arguments, folder)
        pipes = {name: spawn.Pipe() for name in VARIANTS}
        workers = [
            spawn.Process(target=run_in_turn, args=(pipes[name][1], workload, folder, name)) for name in VARIANTS
        ]
        for worker, (_, child) in zip(workers, pipes.values(), strict=True):
            worker.start()
            child.close()  # so that a worker's end ends the wait for it
        try:
            for step in range(workload.total_rounds):
                for name, (parent, _) in pipes.items():
                    parent.send("go")
                    wall, cpu, added = parent.recv()
                    if step:
                        measured[name].wall_s.append(wall)
                        measured[name].cpu_s.append(cpu)
                        measured[name].added_s.append(added)
                console.print(f"step {step + 1}/{workload.total_rounds}", style="dim", highlight=False)
            for name, (parent, _) in pipes.items():
                measured[name].bytes_a_step = parent.recv() / workload.total_rounds
            for worker in workers:
                worker.join()
        finally:
            for worker in workers:
                worker.kill()
    return measured


def extra(found: Steps, plain: Steps, kind: str) -> float:
    """By which share a step takes longer than the plain run's: median over the steps."""
    pairs = zip(getattr(found, kind), getattr(plain, kind), strict=True)
    return statistics.median(one / other for one, other in pairs) - 1


def main() -> None:
    """Measure both workloads and print a table of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="counted steps; a quarter of them with long prompts")
    parser.add_argument("--json", type=Path, help="file for what was measured")
    parser.add_argument("--only", choices=("short", "long"), help="one of the two workloads: answers or prompts")
    arguments = parser.parse_args()
    console, ratios, numbers = Console(width=110), Ratios(), {}
    for title, long_prompts in (("bundled model, short answers", False), ("17 M model, long prompts", True)):
        if arguments.only == ("short" if long_prompts else "long"):
            continue
        measured = measure(long_prompts, arguments, console)
        plain = measured[PLAIN]
        table = Table(title=f"{title}: a step, median of {len(plain.cpu_s)}", title_justify="left")
        for header in ("", "CPU s", "wall s", "CPU more", "wall more", "added alone", "KB a step"):
            table.add_column(header, justify="left" if not header else "right")
        for name, found in measured.items():
            more = [f"{extra(found, plain, kind):+.1%}" for kind in ("cpu_s", "wall_s")]
            seconds = [f"{statistics.median(getattr(found, kind)):.3f}" for kind in ("cpu_s", "wall_s")]
            alone = statistics.median(found.added_s) / statistics.median(plain.cpu_s)
            table.add_row(name, *seconds, *more, f"{alone:.1%}", f"{found.bytes_a_step / 1000:.1f}")
            if name != PLAIN:
                ratios.add(f"{title}: CPU time of {name} / of a step", alone, 1, better="lower")
        console.print(table)
        numbers[title] = {name: vars(found) for name, found in measured.items()}
    console.print(f"Goal: compare_losses under {GOAL:.0%}.")
    if arguments.json:
        ratios.write(arguments.json, {"steps": numbers})


if __name__ == "__main__":
    main()
