"""The directory of a sweep: who may write there, what it holds, and how each run stands.

    sweep.json            the sweep and the state of its runs (rewritten whole)
    sweep.yaml            the sweep file as resolved
    runs/VARIANT/seed_N/  run directories
    logs/                 output of the runs' processes, appended
    evaluations/VARIANT/seed_N/BENCHMARK/

sweep.yaml changes only when seeds or variants are added, or what decides no run (title, budget, ...).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import with_config
from typing_extensions import NotRequired, TypedDict

from gmpo_mm.config import to_yaml
from gmpo_mm.credentials import hide_command
from gmpo_mm.errors import ConfigError
from gmpo_mm.evaluation.results import read_spec
from gmpo_mm.evaluation.task import Task, spec_differences
from gmpo_mm.machine_errors import writing
from gmpo_mm.reports.stop_rule import StopRule
from gmpo_mm.runs.files import make_own_folder, write_atomically
from gmpo_mm.runs.lock import DirectoryLock
from gmpo_mm.runs.reading import read_json, read_text, read_yaml
from gmpo_mm.runs.run_config import FREE_KEYS, saved_differences
from gmpo_mm.sweeps.planning import PlannedRun, task_of
from gmpo_mm.sweeps.sweep_file import Sweep, variants_of

FORMAT = 1
State = Literal["waiting", "running", "finished", "failed", "interrupted", "out_of_budget", "not_needed"]
_ABSENT = "(not set)"
RESTORE = "restore the file, or give another --out"


@dataclass
class RunRecord:
    """A run's entry in sweep.json. `seconds` is the wall time of its training processes, all attempts together."""

    variant: str
    seed: int
    state: State = "waiting"
    reason: str | None = None
    seconds: float | None = None
    evaluation_seconds: float | None = None
    evaluations: dict[str, str] = field(default_factory=dict)

    @property
    def directory(self) -> str:
        return f"runs/{self.variant}/seed_{self.seed}"

    @property
    def log(self) -> str:
        return f"logs/{self.variant}_seed_{self.seed}.log"

    @property
    def evaluation_folder(self) -> str:
        return f"evaluations/{self.variant}/seed_{self.seed}"

    def to_json(self) -> dict[str, Any]:
        """The entry; paths are relative to the sweep's directory."""
        return {
            "variant": self.variant, "seed": self.seed, "directory": self.directory, "log": self.log,
            "evaluations": self.evaluations, "state": self.state, "reason": self.reason, "seconds": _rounded(self.seconds),
            "evaluation_seconds": _rounded(self.evaluation_seconds),
        }  # fmt: skip


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 2)


@dataclass
class SweepDirectory:
    """A sweep's directory. `look` reads it; `lock` and `save` are for the one process that runs the sweep."""

    path: Path
    sweep: Sweep
    planned: Sequence[PlannedRun]
    tasks: Sequence[Task]
    command: Sequence[str]
    records: dict[tuple[str, int], RunRecord] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """Lines for the user."""

    @classmethod
    def look(
        cls, path: Path, sweep: Sweep, planned: Sequence[PlannedRun], tasks: Sequence[Task], command: Sequence[str]
    ) -> SweepDirectory:
        """Compare with what is there and read how the runs stand; writes nothing. ConfigError for another sweep's."""
        directory = cls(path, sweep, planned, tasks, command)
        directory._compare_sweep()
        for run in planned:
            directory._compare_run(run)
        directory._read_records()
        return directory

    @staticmethod
    def lock(path: Path) -> DirectoryLock:
        """Keep other sweeps out of `path`. Raises ConfigError when one is working there, or the folder can't be used."""
        try:
            path.mkdir(parents=True, exist_ok=True)
            return DirectoryLock(path / ".lock")
        except OSError as error:
            raise ConfigError(f"--out {path} can't be used ({error.strerror}); give another --out") from error

    def record(self, run: PlannedRun) -> RunRecord:
        return self.records[run.variant.name, run.seed]

    def begin(self) -> None:
        """Make the folders and write what the sweep is."""
        text = yaml.safe_dump(self.sweep.to_dict(), sort_keys=False, allow_unicode=True, width=120)
        write_atomically(self.path / "sweep.yaml", text)  # first: it says whose the folders are
        for record in self.records.values():
            for name in (record.directory, record.evaluation_folder) if self.tasks else (record.directory,):
                with writing(self.path / name):
                    make_own_folder(self.path / Path(name).parts[0])
                    (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        with writing(self.path / "logs"):
            make_own_folder(self.path / "logs")
        self.save()

    def save(self, durable: bool = True) -> None:
        """Rewrite sweep.json. TrainingError when the disk refuses."""
        sweep = self.sweep
        variants = [
            {
                "name": variant.name, "label": sweep.saved(f"variants.{variant.name}.label", variant.label),
                "base": sweep.saved(f"variants.{variant.name}.base", variant.base),
                "overrides": hide_command(variant.overrides),
                "paper_line": variant.paper_line,
            }
            for variant in sweep.variants
        ]  # fmt: skip
        content = {
            "format": FORMAT, "name": sweep.name, "title": sweep.saved("title", sweep.title),
            "base": sweep.saved("base", sweep.base), "command": hide_command(self.command),
            "overrides": hide_command(sweep.overrides), "seeds": list(sweep.seeds), "target_score": sweep.target_score,
            "budget": sweep.budget,
            "paper": None if sweep.paper is None else sweep.saved("paper", dict(sweep.paper)), "variants": variants,
            "map": None if sweep.map is None else sweep.map.to_json(sweep.saved),
            "runs": [record.to_json() for record in self.records.values()],
        }  # fmt: skip
        write_atomically(self.path / "sweep.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n", durable)

    def finished_evaluations(self, record: RunRecord) -> dict[str, str]:
        """Benchmark -> its folder, of the evaluations that are complete."""
        folders = {task.spec.benchmark: f"{record.evaluation_folder}/{task.path.name}" for task in self.tasks}
        return {name: folder for name, folder in folders.items() if (self.path / folder / "summary.json").is_file()}

    # ---- what is there already ----------------------------------------------------------------------------------------

    def _compare_sweep(self) -> None:
        """Seeds and variants may be added; what was there before has to be there unchanged."""
        file = self.path / "sweep.yaml"
        if not file.is_file():
            ours = (".lock", ".sweep.yaml.tmp")
            foreign = sorted(item.name for item in self.path.iterdir() if item.name not in ours) if self.path.is_dir() else []
            if foreign:
                held = ", ".join(foreign[:5])
                raise ConfigError(f"--out {self.path} holds {held} and no sweep.yaml; restore it, or give another --out")
            return
        old = read_yaml(file, RESTORE, ConfigError, _SweepFile)
        try:
            rule = StopRule.from_budget(old.get("budget"))
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{file}: its budget can't be read; {RESTORE}") from error
        order = " (seeds at the end: their order decides)" if rule else ""
        lines = [f"  {key}: {there!r} there, {now!r} now" for key, there, now in sweep_differences(old, self.sweep.to_dict())]
        if lines:
            raise ConfigError(
                f"{self.path} holds another sweep:\n" + "\n".join(lines)
                + f"\nSeeds and variants may be added{order}, nothing else changed. To go on with that "
                "sweep, give its values; for a new one, give another --out"
            )

    def _compare_run(self, run: PlannedRun) -> None:
        """A base that was edited since would give runs of one variant two meanings."""
        file = self.path / "runs" / run.variant.name / f"seed_{run.seed}" / "config.yaml"
        if not file.is_file():
            return
        read_yaml(file, RESTORE, ConfigError)  # is it one?
        now = to_yaml(run.config, run.loaded.written)
        changed = saved_differences(read_text(file, RESTORE, ConfigError), now, run.loaded.interpolated)
        lines = [f"  {key}: {old!r} there, {new!r} now" for key, (old, new) in changed.items() if key not in FREE_KEYS]
        if lines:
            raise ConfigError(
                f"{file.parent} was begun with another configuration (was {run.base} edited since?):\n" + "\n".join(lines)
                + "\nRestore the values to go on with this sweep, or give another --out"
            )  # fmt: skip

    def _read_records(self) -> None:
        old = {(run["variant"], run["seed"]): run for run in self._former_runs()}
        for run in self.planned:
            record = RunRecord(run.variant.name, run.seed)
            there: Mapping[str, Any] = old.get((record.variant, record.seed), {})
            record.seconds, record.evaluation_seconds = there.get("seconds"), there.get("evaluation_seconds")
            record.evaluations = self.finished_evaluations(record)
            self.records[record.variant, record.seed] = record
            trained = read_run_json(self.path / record.directory).get("state") == "finished"
            for task in self.tasks:
                self._compare_evaluation(task_of(task, self.path / record.evaluation_folder))
            if trained and len(record.evaluations) == len(self.tasks):
                record.state = "finished"

    def _former_runs(self) -> Sequence[_Run]:
        """The entries of sweep.json. Of a damaged one only wall times are lost: how runs stand is read from their folders."""
        file = self.path / "sweep.json"
        try:
            return read_json(file, _SweepState, "", ConfigError).get("runs", []) if os.path.lexists(file) else []
        except ConfigError as error:
            self.notes.append(f"{str(error).removesuffix('; ')}: it is made anew, without the wall times of former attempts")
            return []

    def _compare_evaluation(self, task: Task) -> None:
        """The problems, protocol and grader are those that the results on the disk were made with."""
        if not (task.path / "evaluation.json").is_file():
            return
        changed = [item for item in spec_differences(read_spec(task.path), task.spec) if item[0] not in ("model", "model_hash")]
        lines = [f"  {key}: {old!r} there, {new!r} now" for key, old, new in changed]
        if lines:
            raise ConfigError(
                f"{task.path} was evaluated in another way (was {self.sweep.evaluation} edited since?):\n" + "\n".join(lines)
                + "\nRestore the values to go on with this sweep, or give another --out"
            )  # fmt: skip


def sweep_differences(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """(key, old, new) of what changes the meaning of runs that are there; added seeds and variants don't."""
    found = [(key, old.get(key, _ABSENT), new.get(key, _ABSENT)) for key in ("base", "overrides")]
    if "evaluation" in old:  # one may be added later
        found.append(("evaluation", old["evaluation"], new.get("evaluation", _ABSENT)))
    rule = StopRule.from_budget(old.get("budget"))
    if rule is not None:  # a rule that is chosen after a look at its scores keeps no error; hours decide nothing
        other = StopRule.from_budget(new.get("budget"))
        found.append(("budget", rule.to_dict(), _ABSENT if other is None else other.to_dict()))
    kept = new["seeds"][: len(old["seeds"])] == old["seeds"] if rule else set(old["seeds"]) <= set(new["seeds"])
    found.append(("seeds", old["seeds"], old["seeds"] if kept else new["seeds"]))
    now = variants_of(new)
    for name, variant in variants_of(old).items():
        if name not in now:
            found.append((f"variants.{name}", variant, _ABSENT))
            continue
        for key in ("base", "overrides"):
            found.append((f"variants.{name}.{key}", variant.get(key, _ABSENT), now[name].get(key, _ABSENT)))
    return [item for item in found if item[1] != item[2]]


@with_config(extra="allow")
class _SweepFile(TypedDict):
    seeds: list[int]
    variants: dict[str, dict[str, Any]]


@with_config(extra="allow")
class _Run(TypedDict):
    variant: str
    seed: int
    seconds: NotRequired[float | None]
    evaluation_seconds: NotRequired[float | None]


@with_config(extra="allow")
class _SweepState(TypedDict):
    runs: NotRequired[list[_Run]]


@with_config(extra="allow")
class _RunState(TypedDict):
    state: NotRequired[str]
    step: NotRequired[int]
    exit_reason: NotRequired[str | None]


def read_run_json(run_directory: Path) -> Mapping[str, Any]:
    """run.json of a run directory, {} where no run has begun. A damaged one says nothing either: the run makes it anew."""
    file = run_directory / "run.json"
    try:
        return read_json(file, _RunState, "", ConfigError) if os.path.lexists(file) else {}
    except ConfigError:
        return {}
