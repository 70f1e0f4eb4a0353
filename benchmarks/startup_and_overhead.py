"""How long `gmpo-mm --help` takes, and which share of an update goes into the loss and its metrics."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.ratios import Ratios
from benchmarks.side_by_side import work_folder

HELP_GOAL_S = 0.7
OVERHEAD_GOAL = 0.02


def measure_help(repetitions: int) -> dict[str, float]:
    """Median wall and CPU seconds of `gmpo-mm --help` in a fresh process, and CPU seconds of an idle Python."""
    help_command = [str(Path(sys.executable).parent / "gmpo-mm"), "--help"]
    commands = {"help": help_command, "python": [sys.executable, "-c", "pass"]}
    wall: dict[str, list[float]] = {name: [] for name in commands}
    cpu: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(repetitions):
        for name, command in commands.items():
            before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            wall[name].append(time.perf_counter() - started)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu[name].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return {
        "wall_s": statistics.median(wall["help"]),
        "cpu_s": statistics.median(cpu["help"]),
        "python_cpu_s": statistics.median(cpu["python"]),
    }


class OverheadMeter:
    """CPU seconds of the loss (forward, metrics, and its part of the backward pass) and of merging, within updates."""

    def __init__(self) -> None:
        self.updates: list[float] = []
        self.overheads: list[float] = []
        self._overhead = self._own = 0.0

    def install(self) -> None:
        """Wrap the actor's methods; the wrappers' own work is taken off the update again."""
        from gmpo_mm.training import actor

        update, loss = actor.Actor.update, actor.Actor._loss

        def measured_update(*args: Any, **kwargs: Any) -> Any:
            self._overhead = self._own = 0.0
            started = time.process_time()
            result = update(*args, **kwargs)
            self.updates.append(time.process_time() - started - self._own)
            self.overheads.append(self._overhead)
            return result

        def measured_loss(this: Any, batch: Any, rows: Any, output: Any, *rest: Any) -> Any:
            started = time.process_time()
            result = loss(this, batch, rows, output, *rest)
            done = time.process_time()
            # the loss's part of the backward pass, seen alone: the same loss of log-probabilities that end there
            leaf = output.log_probs_BT.detach().requires_grad_()
            alone = loss(this, batch, rows, replace(output, log_probs_BT=leaf), *rest)
            backward = time.process_time()
            alone.backward()
            end = time.process_time()
            self._overhead += done - started + end - backward
            self._own += end - done
            return result

        actor.Actor.update, actor.Actor._loss = measured_update, measured_loss  # type: ignore[method-assign]
        for name in ("update_metrics", "merge_metrics", "finalize_metrics"):
            setattr(actor, name, self._counted(getattr(actor, name)))

    def _counted(self, function: Any) -> Any:
        def counted(*args: Any, **kwargs: Any) -> Any:
            started = time.process_time()
            result = function(*args, **kwargs)
            self._overhead += time.process_time() - started
            return result

        return counted


def measure_overhead(arguments: argparse.Namespace, long_prompts: bool) -> dict[str, float]:
    """Medians over the counted rounds of one training run with our engine."""
    import torch

    from benchmarks import long_prompts_vs_trl, round_vs_trl
    from benchmarks.local_side import build_config
    from gmpo_mm.engines.local import launch as local

    torch.set_num_threads(1)
    meter = OverheadMeter()
    meter.install()
    module = long_prompts_vs_trl if long_prompts else round_vs_trl
    defaults = module.build_parser().parse_args([f"--rounds={arguments.rounds}", "--warmup=1"])
    with work_folder() as name, contextlib.redirect_stdout(io.StringIO()):
        folder = Path(name)
        workload = module.prepare(defaults, folder, freeze_vision=True)
        local.train(build_config(workload, folder))
    updates, overheads = meter.updates[workload.warmup :], meter.overheads[workload.warmup :]
    shares = [overhead / update for overhead, update in zip(overheads, updates, strict=True)]
    return {
        "update_cpu_s": statistics.median(updates),
        "loss_and_metrics_cpu_s": statistics.median(overheads),
        "share": statistics.median(shares),
    }


def measure_in_own_process(long_prompts: bool, rounds: int) -> dict[str, float]:
    """`measure_overhead` in a fresh process, since it changes the actor."""
    command = [sys.executable, "-m", "benchmarks.startup_and_overhead", "--overhead-only", f"--rounds={rounds}"]
    environment = dict(os.environ, OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    command += ["--long"] if long_prompts else []
    finished = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(finished.stdout.splitlines()[-1])


def main() -> None:
    """Measure all and print a table with the goals."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds for the share of the update")
    parser.add_argument("--repetitions", type=int, default=9, help="starts of gmpo-mm --help")
    parser.add_argument("--json", type=Path, help="file for what was measured")
    parser.add_argument("--overhead-only", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--long", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.overhead_only:
        print(json.dumps(measure_overhead(arguments, arguments.long)))
        return
    started = measure_help(arguments.repetitions)
    overhead = {
        "bundled model, short answers": measure_in_own_process(False, arguments.rounds),
        "17 M model, long prompts": measure_in_own_process(True, max(1, arguments.rounds // 2)),
    }
    table = Table(title="Start-up, and loss + metrics within an update", title_justify="left")
    for header in ("what", "measured", "goal"):
        table.add_column(header)
    table.add_row("gmpo-mm --help, wall", f"{started['wall_s']:.2f} s", f"< {HELP_GOAL_S} s")
    table.add_row("gmpo-mm --help, CPU", f"{started['cpu_s']:.2f} s", "")
    for name, found in overhead.items():
        detail = f"{1000 * found['loss_and_metrics_cpu_s']:.1f} of {1000 * found['update_cpu_s']:.0f} CPU ms"
        table.add_row(f"loss + metrics, {name}", f"{found['share']:.2%} ({detail})", f"< {OVERHEAD_GOAL:.0%}")
    Console(width=110).print(table)
    if arguments.json:
        ratios = Ratios()
        python_s = started["python_cpu_s"]
        ratios.add("CPU time of gmpo-mm --help / of an idle Python", started["cpu_s"], python_s, better="lower")
        for name, found in overhead.items():
            ratios.add(f"CPU time of loss + metrics / of update: {name}", found["share"], 1.0, better="lower")
        ratios.write(arguments.json, {"help": started, "overhead": overhead})


if __name__ == "__main__":
    main()
