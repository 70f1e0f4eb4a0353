"""One run from the disk: a run directory of ours, EasyR1's experiment_log.jsonl, or a TensorBoard folder."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gmpo_mm.credentials import hide_command
from gmpo_mm.errors import DataError
from gmpo_mm.reports.compare_lines import read_compare
from gmpo_mm.reports.study import CLIP_SHARE, UNKNOWN, Run, Series
from gmpo_mm.runs.metrics_file import FILE_NAME as METRICS_FILE
from gmpo_mm.runs.metrics_file import lost_lines, read_metrics
from gmpo_mm.runs.reading import read_bytes, read_json, read_yaml

EASYR1_LOG = "experiment_log.jsonl"
EASYR1_CONFIG = "experiment_config.json"
EVENT_FILES = "*tfevents*"
LEAVE_OUT = "restore it, or leave this run out"
SEED_KEYS = (("worker", "rollout", "seed"), ("data", "seed"))


_OTHER_KEY = re.compile(r"\$\{([\w.]+)\}")
_STATES = {"waiting": "waiting", "created": "not begun", "running": "running or killed"}
"""States of run.json that tell a reader too little: a killed run can't write down that it was."""


def is_run_directory(path: Path) -> bool:
    """Whether a run of ours has begun there."""
    return (path / "run.json").is_file() or (path / METRICS_FILE).is_file()


def read_run(path: Path, **known: Any) -> Run:
    """A run directory; `known` are fields of `Run` that a sweep knows better. A run that has not begun has no series."""
    state = read_json(path / "run.json", dict[str, Any], LEAVE_OUT) if (path / "run.json").exists() else {}
    config = _resolved(read_yaml(path / "config.yaml", LEAVE_OUT)) if (path / "config.yaml").exists() else None
    lines = read_metrics(path) if (path / METRICS_FILE).is_file() else []
    if what := _missing(path, state, config, lines):
        raise DataError(f"{path}: {what}; {LEAVE_OUT}")
    fields: dict[str, Any] = {
        "path": path, "seed": seed_of(config), "source": "gmpo-mm", "config": config,
        "series": _series((line["step"], line) for line in lines if line["kind"] in ("train", "validation")),
        "state": _STATES.get(str(state.get("state", "waiting")), state.get("state")), "reason": state.get("exit_reason"),
        "command": tuple(hide_command(map(str, state.get("command") or ()))),
        "compare": read_compare(lines, str(path / METRICS_FILE), LEAVE_OUT),
    }  # fmt: skip
    return Run(**(fields | known))


def _missing(
    path: Path, state: dict[str, Any], config: dict[str, Any] | None, lines: Sequence[Mapping[str, Any]]
) -> str | None:
    """What a run's files lack, by what they say of each other; None for whole ones, and for metrics alone."""
    if not state and config is None:
        return None
    if not isinstance(state.get("state"), str):
        return "run.json is missing, or does not say how the run stands"
    if state.get("begun") and not config:
        return "config.yaml is missing or empty"
    if config and "data" in config and not read_bytes(path / "config.yaml", LEAVE_OUT).endswith(b"\n"):  # ours, whole
        return "config.yaml was cut"
    wanted = state.get("step")
    if state["state"] != "finished" or not isinstance(wanted, int) or not wanted:
        return None
    return lost_lines(path, wanted, finished=True, lines=lines)


def _resolved(config: dict[str, Any]) -> dict[str, Any]:
    """With the values of `${another.key}`; what came from the environment stays as it is written."""

    def value_of(value: Any, depth: int) -> Any:
        if isinstance(value, dict):
            return {name: value_of(inner, depth) for name, inner in value.items()}
        found = _OTHER_KEY.fullmatch(value) if isinstance(value, str) and depth < 10 else None
        if found is None:
            return value
        node: Any = config
        for part in found[1].split("."):
            node = node.get(part, value) if isinstance(node, dict) else value
        return value if node is value else value_of(node, depth + 1)

    return {name: value_of(inner, 0) for name, inner in config.items()}


def read_easyr1_log(file: Path) -> Run:
    """EasyR1's own log: one JSON object a step, its metrics nested at each `/` of their names."""
    config_file = file.with_name(EASYR1_CONFIG)
    config = read_json(config_file, dict[str, Any], LEAVE_OUT) if config_file.exists() else None
    series = _series(_easyr1_lines(file))
    if not series:
        raise DataError(f"{file}: no step with a metric in it; give the log of a run of EasyR1 that has begun to train")
    return Run(path=file, seed=seed_of(config), series=series, source="EasyR1", state=UNKNOWN, config=config)


def read_tensorboard(path: Path) -> Run:
    """The scalars of the event files that lie in a folder; those of its subfolders are other runs."""
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    events = EventAccumulator(str(path), size_guidance={"tensors": 0})
    events.Reload()
    series = {}
    for tag in events.Tags()["tensors"]:
        if events.SummaryMetadata(tag).plugin_data.plugin_name == "scalars":
            series[tag] = Series.of((event.step, float(make_ndarray(event.tensor_proto))) for event in events.Tensors(tag))
    if not series:
        raise DataError(f"{path}: its event files hold no scalars; give the folder of a run that logged some")
    return Run(path=path, seed=None, series=_with_clip_share(series), source="TensorBoard", state=UNKNOWN)


def tensorboard_folders(path: Path) -> list[Path]:
    """Folders at or below `path` that hold event files themselves; what lies below such a folder belongs to it.

    (`SummaryWriter.add_hparams`, which EasyR1 calls, leaves a subfolder of its own.)
    """
    found: list[Path] = []
    for folder in sorted({file.parent for file in path.rglob(EVENT_FILES) if file.is_file()}):
        if not any(other in folder.parents for other in found):
            found.append(folder)
    return found


def seed_of(config: Mapping[str, Any] | None) -> str | None:
    """`7` where sampling and data have the same seed, else `7/1` (sampling/data); None where the configuration has none."""
    seeds = []
    for keys in SEED_KEYS:
        value: Any = config
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        seeds.append(value)
    if None in seeds:
        return None
    return "/".join(dict.fromkeys(map(str, seeds)))


def _easyr1_lines(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    *lines, last = read_bytes(file, LEAVE_OUT).decode("utf-8", errors="replace").split("\n")
    for number, text in enumerate([*lines, last], start=1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
            step = line.pop("step")
            if not isinstance(step, int):
                raise TypeError(f"step is {step!r}")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            if number > len(lines):  # a kill tore the last line: it has no newline
                return
            raise DataError(
                f"{file}, line {number}: not one of EasyR1's ({error!r}); each is a JSON object with `step`. Remove the line, "
                f"or give the {EASYR1_LOG} that EasyR1 wrote"
            ) from None
        yield step, dict(_flat(line))


def _flat(line: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in line.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def _series(lines: Iterable[tuple[int, Mapping[str, Any]]]) -> dict[str, Series]:
    pairs: dict[str, list[tuple[int, float]]] = {}
    for step, line in lines:
        for name, value in line.items():
            if name not in ("step", "kind") and isinstance(value, (int, float)) and not isinstance(value, bool):
                pairs.setdefault(name, []).append((step, float(value)))
    return _with_clip_share(
        {name: Series.of(found) for name, found in pairs.items() if any(math.isfinite(value) for _, value in found)}
    )


def _with_clip_share(series: dict[str, Series]) -> dict[str, Series]:
    high, low = series.get("clip/high_frac"), series.get("clip/low_frac")
    if high is None or low is None:
        return series
    steps, at_high, at_low = np.intersect1d(high.steps, low.steps, return_indices=True)
    return series | ({CLIP_SHARE: Series(steps, high.values[at_high] + low.values[at_low])} if len(steps) else {})
