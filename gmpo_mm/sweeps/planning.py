"""Every run of a sweep, loaded and checked before the first one starts."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gmpo_mm.config import Config, LoadedConfig, config_differences, load_config, resume_choice
from gmpo_mm.config.keys import flatten
from gmpo_mm.config.loss import ACTOR, loss_unit_of, unread_loss_keys
from gmpo_mm.credentials import clean, hide
from gmpo_mm.engines.checks import validate_for_training
from gmpo_mm.errors import ConfigError, DataError, GMPOError
from gmpo_mm.evaluation.benchmark import load_benchmark
from gmpo_mm.evaluation.settings import EvaluateSettings, load_settings
from gmpo_mm.evaluation.task import Task, check_names, make_task
from gmpo_mm.planning.counts import RunPlan, count_records, plan_run
from gmpo_mm.planning.model_files import check_adapter
from gmpo_mm.runs.progress import Progress
from gmpo_mm.runs.run_data import with_columns
from gmpo_mm.runs.trackers import check_trackers
from gmpo_mm.sweeps.sweep_file import Sweep
from gmpo_mm.sweeps.sweep_map import Variant

NAMES_OF_A_RUN = (
    "trainer.run_dir", "trainer.save_checkpoint_path", "trainer.project_name", "trainer.experiment_name",
)  # fmt: skip
"""Keys that say what a run is called and where it lies, not what it does."""


@dataclass(frozen=True)
class PlannedRun:
    """One variant with one seed: what `gmpo-mm train BASE OVERRIDES...` is given, and what that resolves to."""

    variant: Variant
    seed: int
    base: str
    overrides: tuple[str, ...]
    loaded: LoadedConfig
    plan: RunPlan

    @property
    def name(self) -> str:
        """`gmpo, seed 2`."""
        return f"{self.variant.name}, seed {self.seed}"

    @property
    def config(self) -> Config:
        return self.loaded.config


def plan_sweep(sweep: Sweep, out: Path, progress: Progress, *, prepared: bool = True) -> list[PlannedRun]:
    """All runs, seed by seed with the variants side by side, so that a sweep cut short can be compared.

    Loads no model. With `prepared=False`, for a dry run, data that a command of ours makes may be missing. Raises
    ConfigError: of each variant's mistakes at once, and of two variants that are the same.
    """
    problems: dict[str, None] = {}
    runs = []
    counter = _RecordCounter()
    with progress.stage("checking the runs", len(sweep.seeds) * len(sweep.variants), "runs") as stage:
        for seed in sweep.seeds:
            for variant in sweep.variants:
                try:
                    runs.append(_plan_run(sweep, variant, seed, out, counter, prepared))
                except (ConfigError, DataError) as error:
                    problems[f"variant {variant.name}: {error}"] = None
                stage.update(len(runs))
    if problems:
        raise ConfigError("\n\n".join(problems))
    _check_variants_differ(runs[: len(sweep.variants)])
    return runs


def _plan_run(
    sweep: Sweep, variant: Variant, seed: int, out: Path, counter: _RecordCounter, prepared: bool
) -> PlannedRun:
    base = variant.base or sweep.base
    overrides = (
        *sweep.overrides, *variant.overrides, f"worker.rollout.seed={seed}", f"data.seed={seed}",
        f"trainer.experiment_name={sweep.name}_{variant.name}_seed_{seed}",
        f"trainer.run_dir={_quoted(str(out / 'runs' / variant.name / f'seed_{seed}'))}",
    )  # fmt: skip
    loaded = load_config(base, overrides)
    validate_for_training(loaded, prepared=prepared)
    loaded = with_columns(loaded, lambda _: None)  # as each run will find them, and say so
    config = loaded.config
    check_trackers(config.trainer.logger)
    check_adapter(config)
    choice = resume_choice(config)
    if choice in ("never", "must"):
        raise ConfigError(f"trainer.resume: {choice}, and the sweep itself goes on with runs; set trainer.resume=auto")
    train = None if config.trainer.val_only else counter.count(config, config.data.train_files)
    return PlannedRun(variant, seed, base, overrides, loaded, plan_run(config, train, None))


class _RecordCounter:
    """Counts each data set once, however many runs name it."""

    def __init__(self) -> None:
        self._counts: dict[tuple[Any, ...], int | None] = {}

    def count(self, config: Config, spec: str) -> int | None:
        data = config.data
        key = (spec, data.prompt_key, data.answer_key, data.image_key, data.image_dir)
        if key not in self._counts:
            self._counts[key] = count_records(config, spec)
        return self._counts[key]


def _quoted(value: str) -> str:
    """A path as an override's value: in quotes where YAML would read it as something else."""
    return value if re.fullmatch(r"[\w./-]+", value, re.ASCII) else json.dumps(value, ensure_ascii=False)


def _check_variants_differ(runs: Sequence[PlannedRun]) -> None:
    seen: dict[str, PlannedRun] = {}
    for run in runs:  # one look-up each: a map has hundreds of variants
        values = {key: value for key, value in flatten(run.config).items() if key not in NAMES_OF_A_RUN}
        other = seen.setdefault(repr(values), run)
        if other is not run:
            raise ConfigError(
                f"variants.{run.variant.name}: it resolves to the same configuration as variants.{other.variant.name}, "
                "which would then be trained twice; change its overrides, or remove it"
            )


def variant_differences(a: PlannedRun, b: PlannedRun) -> list[tuple[str, Any, Any]]:
    """(key, value in a, value in b) of everything in which two variants differ; names and folders don't count."""
    return [item for item in config_differences(a.config, b.config) if item[0] not in NAMES_OF_A_RUN]


_THE_LOSS = re.compile(r"worker\.actor\.(loss_type|loss_avg_mode|clip_ratio_\w+|tau_\w+|(gmpo|power_mean)\.\w+)")
_NO_DUAL_CLIP = 1e6
"""A bound on the ratio that is never reached: how a file switches the dual clip off."""


def beyond_the_loss(runs: Sequence[PlannedRun]) -> dict[str, dict[str, list[str]]]:
    """Key -> value -> the variants that have it, for everything but the loss and its clip range in which they differ.

    The mean that a loss takes and the dual clip are counted as they work: gmpo and gspo are means over sequences without
    the key, and a dual clip that a loss does not read, or at 1e6, is none. A comparison across such a key confounds it
    with the loss.
    """
    seen = [_working_values(run.config) for run in runs]
    found: dict[str, dict[str, list[str]]] = {}
    for key in seen[0]:
        by_value: dict[str, list[str]] = {}
        for run, values in zip(runs, seen, strict=True):
            by_value.setdefault(clean(str(hide(key, values[key]))), []).append(run.variant.name)
        if len(by_value) > 1:
            found[key] = by_value
    return found


def _working_values(config: Config) -> dict[str, Any]:
    actor = config.worker.actor
    dual = f"{ACTOR}clip_ratio_dual"
    has_dual = dual not in unread_loss_keys(config, compared=False) and actor.clip_ratio_dual < _NO_DUAL_CLIP
    working = {
        f"the mean ({ACTOR}loss_avg_mode)": {"seq": "over sequences", "token": "over tokens"}[loss_unit_of(config)],
        f"the dual clip ({dual})": actor.clip_ratio_dual if has_dual else "none",
    }
    rest = {key: value for key, value in flatten(config).items() if key not in NAMES_OF_A_RUN and not _THE_LOSS.fullmatch(key)}
    return working | rest


def missing_problems(sweep: Sweep) -> dict[str, str]:
    """Path -> command of the evaluation's problems that a command of ours makes and that aren't there yet."""
    if sweep.evaluation is None:
        return {}
    settings = _evaluation_settings(sweep)
    benchmarks = [load_benchmark(name) for name in settings.benchmarks]
    return {
        str(benchmark.records): benchmark.make
        for benchmark in benchmarks
        if benchmark.make and benchmark.name not in settings.records and not Path(str(benchmark.records)).exists()
    }


def plan_evaluation(sweep: Sweep, progress: Progress, *, prepared: bool = True) -> list[Task]:
    """The evaluation's benchmarks, opened and checked; [] without one. `task_of` puts a run in. Raises ConfigError.

    With `prepared=False`, for a dry run, benchmarks whose problems aren't there yet are left out.
    """
    if sweep.evaluation is None:
        return []
    settings = _evaluation_settings(sweep)
    missing = {} if prepared else missing_problems(sweep)
    if settings.server is not None:
        raise ConfigError(f"evaluation = {sweep.evaluation!r}: it asks a server, not the trained model; remove server from it")
    if settings.overwrite:
        raise ConfigError(f"evaluation = {sweep.evaluation!r}: overwrite=true would repeat it each time; remove it")
    if settings.stop_when_decided is not None:
        raise ConfigError(
            f"evaluation = {sweep.evaluation!r}: stop_when_decided={settings.stop_when_decided:g}, and a report compares "
            "the runs on all problems; remove it"
        )
    benchmarks = [load_benchmark(name) for name in settings.benchmarks]
    check_names(settings, benchmarks)
    try:
        there = [benchmark for benchmark in benchmarks if benchmark.records not in missing]
        return [make_task(settings, benchmark, "", [], progress) for benchmark in there]
    except GMPOError as error:
        raise ConfigError(f"evaluation = {sweep.evaluation!r}: {error}") from error


def benchmark_names(sweep: Sweep) -> list[str]:
    """The benchmarks of the evaluation; [] without one."""
    return [] if sweep.evaluation is None else [load_benchmark(name).name for name in _evaluation_settings(sweep).benchmarks]


def _evaluation_settings(sweep: Sweep) -> EvaluateSettings:
    return load_settings(sweep.evaluation, [], {"model": "of each run", "out": "of each run"})


def task_of(task: Task, folder: Path) -> Task:
    """The task for one run's folder of evaluations."""
    return replace(task, path=folder / task.path.name)
