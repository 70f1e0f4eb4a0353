"""What a report was asked for becomes a study: sweeps as they are, runs grouped into variants by their configurations."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gmpo_mm.credentials import hide, hide_command
from gmpo_mm.errors import DataError
from gmpo_mm.reports.run_readers import (
    EASYR1_LOG,
    EVENT_FILES,
    LEAVE_OUT,
    is_run_directory,
    read_easyr1_log,
    read_run,
    read_tensorboard,
    tensorboard_folders,
)
from gmpo_mm.reports.stop_rule import StopRule
from gmpo_mm.reports.study import Run, Study, StudyMap, Variant
from gmpo_mm.reports.words import plural
from gmpo_mm.runs.reading import read_json
from gmpo_mm.runs.run_config import yaml_differences

SWEEP_FILE = "sweep.json"
SWEEP_FORMAT = 1
NOT_NEEDED = "not_needed"
"""The state of a run that a sweep leaves out, as its difference was decided before."""

SEED_AND_NAME_KEYS = frozenset(
    f"trainer.{key}"
    for key in (
        "run_dir", "project_name", "experiment_name", "save_checkpoint_path", "load_checkpoint_path", "find_last_checkpoint",
        "resume", "logger",
    )
) | {"worker.rollout.seed", "data.seed"}  # fmt: skip
"""Runs whose configurations differ in nothing else are seeds of one variant."""

MAX_SETTINGS = 12


def read_study(paths: Sequence[Path], *, target_score: float | None = None, title: str | None = None) -> Study:
    """Read everything that a report shows. DataError names a path that holds no run, and the fix.

    `target_score` goes before the one that a sweep has.
    """
    if not paths:
        raise DataError("no run to report on; give a sweep's directory, run directories, or another tool's logs")
    repeated = [str(path) for path, count in Counter(path.resolve() for path in paths).items() if count > 1]
    if repeated:
        raise DataError(f"given twice: {', '.join(repeated)}; a run that counts twice would make every interval too narrow")
    studies = [_read_sweep(path) for path in paths if _is_sweep(path)]
    runs = [run for path in paths if not _is_sweep(path) for run in _read_runs(path)]
    variants = [variant for study in studies for variant in study.variants] + _group(runs)
    targets = list(dict.fromkeys(study.target_score for study in studies if study.target_score is not None))
    if target_score is None and len(targets) > 1:
        raise DataError(f"the sweeps have different target scores, {targets}; choose one with --target-score")
    papers = [study.paper for study in studies]
    return Study(
        title=title or (studies[0].title if len(studies) == 1 and not runs else _join(variant.label for variant in variants)),
        variants=tuple(_distinct(variants)),
        sources=tuple(map(str, paths)),
        target_score=target_score if target_score is not None else next(iter(targets), None),
        paper=papers[0] if len(papers) == 1 else None,
        map=studies[0].map if len(studies) == 1 and not runs else None,
        seeds=studies[0].seeds if len(studies) == 1 and not runs else (),
        stop_rule=studies[0].stop_rule if len(studies) == 1 and not runs else None,
        commands=(*(command for study in studies for command in study.commands), *_commands(_group(runs))),
        notes=tuple(note for study in studies for note in study.notes) + _left_out(_group(runs)),
    )


def as_typed(words: Sequence[object]) -> str:
    """A command as it is typed, its program without the folder that it was found in."""
    program, *rest = [str(word) for word in words] or [""]
    return shlex.join([Path(program).name, *rest]) if program else ""


def _commands(variants: Sequence[Variant]) -> tuple[str, ...]:
    """The command of each variant's first run; those of other seeds differ in nothing but seeds and folders."""
    firsts = (variant.runs[0].command for variant in variants if variant.runs)
    return tuple(dict.fromkeys(as_typed(command) for command in firsts if command))


def _is_sweep(path: Path) -> bool:
    return (path / SWEEP_FILE).is_file()


def _read_runs(path: Path) -> list[Run]:
    """The runs at a path; DataError when there is none."""
    if path.is_file() and path.name == EASYR1_LOG:
        return [read_easyr1_log(path)]
    if not path.exists():
        raise DataError(f"{path} does not exist; give a sweep's directory, a run directory, or another tool's log")
    if path.is_dir():
        if is_run_directory(path):
            return [read_run(path)]
        if (path / EASYR1_LOG).is_file():
            return [read_easyr1_log(path / EASYR1_LOG)]
        inside = sorted(child for child in path.iterdir() if child.is_dir() and (is_run_directory(child) or _is_sweep(child)))
        if inside:
            names = " ".join(map(str, inside[:3])) + (" ..." if len(inside) > 3 else "")
            raise DataError(f"{path} holds no run itself, but folders inside it do; give those: gmpo-mm report {names}")
        if folders := tensorboard_folders(path):
            return [read_tensorboard(folder) for folder in folders]
    raise DataError(
        f"{path}: neither a sweep ({SWEEP_FILE}), nor a run directory (run.json, metrics.jsonl), nor EasyR1's {EASYR1_LOG}, "
        f"nor a folder with TensorBoard's event files ({EVENT_FILES}); give one of these"
    )


def _read_sweep(path: Path) -> Study:
    file = path / SWEEP_FILE
    data = read_json(file, dict[str, Any], "restore it, or run `gmpo-mm sweep` again")
    try:
        if data["format"] != SWEEP_FORMAT:
            raise DataError(f"{file}: format {data['format']!r}, and this version reads {SWEEP_FORMAT}; run the sweep again")
        variants = tuple(_sweep_variant(path, variant, data["runs"]) for variant in data["variants"])
        known = {variant.name for variant in variants}
        if strangers := {str(run["variant"]) for run in data["runs"]} - known:
            raise DataError(f"{file}: runs of variants that it doesn't list: {', '.join(sorted(strangers))}; restore the file")
        study = Study(
            title=str(data.get("title") or data["name"]), variants=variants, sources=(str(path),),
            target_score=None if data.get("target_score") is None else float(data["target_score"]),
            paper=data.get("paper"), seeds=tuple(map(str, data.get("seeds") or ())),
            stop_rule=StopRule.from_budget(data.get("budget")),
            commands=tuple(filter(None, [as_typed(hide_command(map(str, data.get("command") or ())))])),
            notes=_left_out(variants) if data.get("map") is None else _left_out_of_map(variants),
            map=None if data.get("map") is None else StudyMap.from_json(data["map"]),
        )  # fmt: skip
        if study.map is not None and (lost := [one.name for one in variants if one.name not in study.map.cells]):
            raise DataError(f"{file}: variants without a place in its map: {', '.join(lost)}; restore the file")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file} can't be read ({error!r}); restore it, or run `gmpo-mm sweep` again") from None
    if not study.variants:
        raise DataError(f"{file} lists no variants; restore it, or run `gmpo-mm sweep` again")
    return study


def _sweep_variant(path: Path, variant: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> Variant:
    return Variant(
        name=str(variant["name"]),
        label=str(variant.get("label") or variant["name"]),
        runs=tuple(
            _sweep_run(path, run) for run in runs if run["variant"] == variant["name"] and run["state"] != NOT_NEEDED
        ),
        settings=(*([f"base: {variant['base']}"] if variant.get("base") else []),
            *hide_command(map(str, variant.get("overrides") or ()))),
        paper_line=variant.get("paper_line"),
    )


def _sweep_run(path: Path, run: Mapping[str, Any]) -> Run:
    evaluations = {name: path / folder for name, folder in (run.get("evaluations") or {}).items()}
    for folder in evaluations.values() if run["state"] == "finished" else ():
        for file in (folder / "evaluation.json", folder / "summary.json"):
            if not file.is_file():
                raise DataError(f"{file} is not there, and the run's evaluation was finished; {LEAVE_OUT}")
    return read_run(
        path / run["directory"], place=str(run["directory"]), seed=str(run["seed"]), state=str(run["state"]),
        reason=run.get("reason"),
        seconds=None if run.get("seconds") is None else float(run["seconds"]),
        evaluations={name: folder for name, folder in evaluations.items() if (folder / "evaluation.json").is_file()},
    )  # fmt: skip


def _left_out(variants: Sequence[Variant]) -> tuple[str, ...]:
    """A sentence for every run whose last score is not a final one."""
    return tuple(
        f"{variant.label}, {run.name}: {run.state.replace('_', ' ')}"
        + (f" ({run.reason})" if run.reason else "")
        + (". Its curves are drawn as far as they go; it is not in the scores." if run.series else ". It has no numbers yet.")
        for variant in variants
        for run in variant.runs
        if not run.counts
    )


def _left_out_of_map(variants: Sequence[Variant]) -> tuple[str, ...]:
    """The same of a map, which may have hundreds of runs that are still to come: these are counted."""
    coming = Counter(run.state for variant in variants for run in variant.runs if run.state in ("waiting", "running"))
    counted = ", ".join(f"{plural(count, 'run')} {state}" for state, count in coming.items())
    others = tuple(
        replace(variant, runs=tuple(run for run in variant.runs if run.state not in coming)) for variant in variants
    )
    return (*([f"{counted}."] if counted else []), *_left_out(others))


def _group(runs: Sequence[Run]) -> list[Variant]:
    """Variants in the order of their first run. Runs without a configuration are variants of their own."""
    groups: list[list[Run]] = []
    for run in runs:
        same = [group for group in groups if _same_variant(group[0], run)]
        if same:
            twin = next((other for other in same[0] if other.seed == run.seed), None)
            if twin is not None:
                raise DataError(
                    f"{twin.path} and {run.path} are the same run: equal configurations, and equal seeds ({run.seed}). Leave "
                    "one out; counted twice, they would make every interval too narrow"
                )
            same[0].append(run)
        else:
            groups.append([run])
    settings = _settings([group[0] for group in groups])
    return [
        Variant(name=label, label=label, runs=tuple(group), settings=chosen)
        for group, label, chosen in zip(groups, _labels(groups), settings)
    ]


def _same_variant(a: Run, b: Run) -> bool:
    if a.config is None or b.config is None or a.source != b.source:
        return False
    return not set(yaml_differences(a.config, b.config)) - SEED_AND_NAME_KEYS


def _labels(groups: Sequence[Sequence[Run]]) -> list[str]:
    """The experiment's name where it tells the variants apart, else the folder's."""
    names = []
    for group in groups:
        trainers = [(run.config or {}).get("trainer") for run in group]
        found = {str(trainer.get("experiment_name") or "") if isinstance(trainer, dict) else "" for trainer in trainers}
        names.append(found.pop() if len(found) == 1 else "")
    if all(names) and len(set(names)) == len(names):
        return names
    return [(run.path.parent if run.path.is_file() else run.path).name for run, *_ in groups]


def _settings(firsts: Sequence[Run]) -> list[tuple[str, ...]]:
    """For each variant the values of the keys in which the configurations differ."""
    configs = [run.config for run in firsts if run.config is not None]
    pairs: dict[str, None] = {}
    for other in configs[1:]:
        pairs |= dict.fromkeys(key for key in yaml_differences(configs[0], other) if key not in SEED_AND_NAME_KEYS)
    return [() if run.config is None else _values(run.config, list(pairs)) for run in firsts]


def _values(config: Mapping[str, Any], keys: Sequence[str]) -> tuple[str, ...]:
    found = {key: hide(key, old) for key, (old, _) in yaml_differences(config, {}).items()}
    shown = [f"{key}={json.dumps(found[key], ensure_ascii=False, default=str)}" for key in keys if key in found]
    rest = len(shown) - MAX_SETTINGS
    return (*shown[:MAX_SETTINGS], f"and {rest} more") if rest > 0 else tuple(shown)


def _distinct(variants: Sequence[Variant]) -> list[Variant]:
    """Labels that name one variant each: where several are equal, as much of the path of its first run as tells them apart."""
    counts = Counter(variant.label for variant in variants)
    named: list[Variant] = []
    for variant in variants:
        if counts[variant.label] > 1:
            rivals = [other for other in variants if other.label == variant.label and other is not variant]
            label = _own_ending(_place(variant), [_place(other) for other in rivals])
            variant = replace(variant, name=label, label=label)
        named.append(variant)
    return named


def _place(variant: Variant) -> Path:
    return variant.runs[0].path if variant.runs else Path(variant.label)


def _own_ending(path: Path, others: Sequence[Path]) -> str:
    """The shortest ending of a path that no other one has; the whole path where there is none."""
    for length in range(1, len(path.parts) + 1):
        ending = path.parts[-length:]
        if not any(other.parts[-length:] == ending for other in others):
            return str(Path(*ending))
    return str(path)


def _join(labels: Any) -> str:
    names = list(dict.fromkeys(labels))
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
