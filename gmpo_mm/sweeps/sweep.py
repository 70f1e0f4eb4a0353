"""`gmpo-mm sweep`: read, check, then run or tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gmpo_mm.config import Config
from gmpo_mm.credentials import hide_argument
from gmpo_mm.engines.registry import all_engines, engine_of
from gmpo_mm.engines.run_setup import configured_reward
from gmpo_mm.errors import ConfigError
from gmpo_mm.planning.dry_run import open_records, reward_words
from gmpo_mm.runs.progress import Progress
from gmpo_mm.sweeps.directory import SweepDirectory
from gmpo_mm.sweeps.display import Estimator, SweepDisplay, all_seconds_left, print_dry_run
from gmpo_mm.sweeps.planning import PlannedRun, benchmark_names, plan_evaluation, plan_sweep
from gmpo_mm.sweeps.processes import Launcher, LocalLauncher, choose_jobs, visible_gpus
from gmpo_mm.sweeps.ray_jobs import RayLauncher, check_for_ray, cluster_address
from gmpo_mm.sweeps.rounds import check_stop_rule
from gmpo_mm.sweeps.runner import SweepRunner
from gmpo_mm.sweeps.sweep_file import load_sweep


def sweep(
    file: str, overrides: Sequence[str], *, jobs: int | None, out: str | None, dry_run: bool, command: Sequence[str],
    tell: Callable[[dict[str, Any]], None] | None = None,
) -> int:  # fmt: skip
    """Run the sweep of a file; returns the exit code (0, 1 when a run failed, 130 after Ctrl-C, 143 after SIGTERM).

    `tell` gets how the runs stand in the end, or for a dry run now. Everything that can be wrong in the file, its
    configurations and its directory is a ConfigError before a run starts.
    """
    wanted = load_sweep(file, overrides)
    path = Path(out) if out else Path("sweeps") / wanted.name
    with Progress() as progress:
        planned = plan_sweep(wanted, path, progress, prepared=not dry_run)
        tasks = plan_evaluation(wanted, progress, prepared=not dry_run)
    if wanted.stop_rule is not None:
        check_stop_rule(wanted.stop_rule, wanted.seeds, planned, benchmark_names(wanted))
    configs = [run.config for run in planned]
    address = cluster_address(wanted.ray_address, configs)
    gpus = visible_gpus() if address is None else ()
    if address is not None:
        check_for_ray(address, configs)
        _check_nothing_secret(planned)
        chosen = jobs or 1
    else:
        chosen = choose_jobs(jobs, configs, gpus)
    if dry_run:
        _try_rewards(configs)
        looked_at = SweepDirectory.look(path, wanted, planned, tasks, command)
        print_dry_run(looked_at, chosen)
        if tell is not None:
            tell(_results(looked_at, chosen))
        return 0
    launcher: Launcher = LocalLauncher(gpus) if address is None else RayLauncher(address)
    if address is None:
        _check_engines(configs)
    lock = SweepDirectory.lock(path)
    try:
        directory = SweepDirectory.look(path, wanted, planned, tasks, command)
        directory.begin()
        with SweepDisplay(directory, chosen) as display:
            kept = sum(record.state == "finished" for record in directory.records.values())
            for note in directory.notes:
                display.say(note, "yellow")
            display.say(f"{len(planned)} runs in {path}, {chosen} at once; {kept} are finished and kept")
            code = SweepRunner(directory, launcher, chosen, display).run()
            display.say(_summary(directory))
        if tell is not None:
            tell(_results(directory, chosen))
        return code
    finally:
        lock.release()


def _check_nothing_secret(planned: Sequence[PlannedRun]) -> None:
    """A cluster shows the command lines of its jobs to everybody who can reach it."""
    for text in (text for run in planned for text in run.overrides):
        if hide_argument(text) != text:
            raise ConfigError(
                f"overrides: {hide_argument(text)}: a Ray cluster would show this value with its jobs; set it in the "
                "environment of the cluster and write KEY=${oc.env:NAME}, or put it into the base file"
            )


def _try_rewards(configs: Sequence[Config]) -> None:
    """Import and call each reward function once, as the dry run of a single run does. Raises ConfigError, RewardError."""
    tried: dict[str, Config] = {}
    for config in configs:
        tried.setdefault(repr((config.worker.reward, config.data.train_files)), config)
    for config in tried.values():
        records = open_records(config, config.data.train_files or config.data.val_files)
        reward_words(config, configured_reward(config), records)


def _results(directory: SweepDirectory, jobs: int) -> dict[str, Any]:
    """The sweep's entry of each run, with how far it is; seconds that are left, None while nothing was measured."""
    estimates = Estimator(directory).estimates()
    runs = [
        directory.record(run).to_json()
        | {"step": found.progress.step, "total_steps": found.total, "score": found.progress.score, "seconds_left": found.left}
        for run, found in zip(directory.planned, estimates, strict=True)
    ]
    left = all_seconds_left(estimates, jobs)
    return {"name": directory.sweep.name, "path": str(directory.path), "jobs": jobs, "seconds_left": left, "runs": runs}


def _check_engines(configs: Sequence[Config]) -> None:
    """An engine that is not installed is one error now, not one a run."""
    for engine in all_engines():
        own = [config for config in configs if engine_of(config) is engine]
        if own:
            engine.preflight(own)


def _summary(directory: SweepDirectory) -> str:
    states = [record.state for record in directory.records.values()]
    counts = ", ".join(f"{states.count(state)} {state.replace('_', ' ')}" for state in dict.fromkeys(states))
    again = "" if set(states) <= {"finished", "not_needed"} else "; the same command goes on with what is not finished"
    return f"{counts}; everything is in {directory.path}{again}"
