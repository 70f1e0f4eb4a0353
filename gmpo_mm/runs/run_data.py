"""A run's data, on any engine, before anything is loaded: columns, every row and picture, golds."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gmpo_mm.config import LoadedConfig
from gmpo_mm.config.paths import DATA_SUFFIXES, data_is_local, looks_like_path, split_data_spec
from gmpo_mm.config.schema import Config
from gmpo_mm.data.columns import OTHER_NAMES, other_columns
from gmpo_mm.data.gold_check import check_golds
from gmpo_mm.data.records import Fault, Record, RecordKeys, Records, describe_faults, find_faults, load_records
from gmpo_mm.data.sources import first_rows
from gmpo_mm.errors import DataError
from gmpo_mm.rewards.loading import RewardFunction
from gmpo_mm.rewards.parts import check_part_names
from gmpo_mm.runs.progress import Progress
from gmpo_mm.verifiers.golds import gold_fault


@dataclass(frozen=True)
class RunData:
    """The checked records of a run. Without training data (`trainer.val_only`) the validation data stands in."""

    training: Records
    validation: Records | None


def with_columns(loaded: LoadedConfig, note: Callable[[str], None], *, download: bool = True) -> LoadedConfig:
    """The configuration with `data.prompt_key` and the like set to the data's own columns where the file leaves them open.

    A key that the file sets is never touched. `note` says what was found. Without `download` data sets of the hub are not
    looked at. Raises DataError where several columns can be meant.
    """
    data = loaded.config.data
    keys = {key: getattr(data, key) for key in OTHER_NAMES}
    given = {key for key in OTHER_NAMES if f"data.{key}" in loaded.explicit_keys}
    found: dict[str, dict[str, str]] = {}
    for spec in dict.fromkeys(filter(None, (data.train_files, data.val_files))):
        if len(given) < len(keys) and (data_is_local(spec) or (download and not _is_missing(spec))):
            found[spec] = other_columns(first_rows(spec), keys, given, spec)
    changes: dict[str, str] = {}
    for key in OTHER_NAMES:
        columns = {spec: columns.get(key) for spec, columns in found.items()}
        names = set(columns.values()) if key != "image_key" else set(columns.values()) - {None}
        if len(names) > 1:
            listed = ", ".join(f"{spec} has {name or keys[key]!r}" for spec, name in columns.items())
            raise DataError(
                f"data.{key} is not set, and the data sets differ: {listed}; give their columns one name"
            )
        if name := next(iter(names), None):
            changes[key] = name
            note(
                f"data.{key} is not set and there is no column {keys[key]!r}: {name!r} is used (data.{key}={name})"
            )
    if not changes:
        return loaded
    config = copy.deepcopy(loaded.config)
    for key, name in changes.items():
        setattr(config.data, key, name)
    return replace(loaded, config=config)


def _is_missing(spec: str) -> bool:
    """Whether a spec is a path that leads nowhere, which the configuration's checks tell better."""
    return looks_like_path(split_data_spec(spec)[0], DATA_SUFFIXES)


def read_run_data(config: Config, reward: RewardFunction, progress: Progress) -> RunData:
    """Read training and validation data, check every row and decode every picture (pictures known from an earlier start
    are not decoded again), and tell what the golds are.

    Raises one DataError that names all faulty rows of both, and DataError where most golds are no answer that this
    package's rewards could find equal to a response.
    """
    data = config.data
    specs = {"training data": data.train_files or data.val_files}
    if data.val_files:
        specs["validation data"] = data.val_files
    keys = RecordKeys.from_data_config(data)
    read: dict[str, Records] = {}
    for spec in dict.fromkeys(specs.values()):
        with progress.stage(f"reading {spec}"):
            read[spec] = load_records(spec, keys)
    _check_rows(read, reward, progress)
    for records in read.values():
        _tell_golds(records, reward, progress)
    first = read[specs["training data"]][0]
    check_part_names(config, reward, first.problem, first.answers)
    return RunData(read[specs["training data"]], read[data.val_files] if data.val_files else None)


def _check_rows(read: Mapping[str, Records], reward: RewardFunction, progress: Progress) -> None:
    messages = []
    for spec, records in read.items():
        with progress.stage(f"checking rows and pictures of {spec}", len(records), "rows") as stage:
            faults = find_faults(records, True, lambda done, _, stage=stage: stage.update(done))  # type: ignore[misc]
        if not faults and reward.check_gold is not None:
            faults = _rejected_golds(records, reward.check_gold)
        if faults:
            messages.append(describe_faults(records, faults))
    if messages:
        raise DataError("\n".join(messages))


def look_at_rows(read: Mapping[str, Records], reward: RewardFunction, progress: Progress) -> str:
    """What `read_run_data` checks, quickly, for a dry run: of a picture the header, of large data rows all over it.

    Returns what was looked at. Raises DataError as `read_run_data` does.
    """
    messages, words = [], []
    samples = {spec: _SomeRows(records) for spec, records in read.items()}
    for spec, rows in samples.items():
        faults = find_faults(rows)
        if not faults and reward.check_gold is not None:
            faults = _rejected_golds(rows, reward.check_gold)
        if faults:
            found = [Fault(rows.numbers[fault.row], fault.message) for fault in faults]
            messages.append(describe_faults(rows.records, found) + (f"\n({rows.share} were looked at)" if rows.is_part else ""))
        words.append(f"{rows.share} of {spec}")
    if messages:
        raise DataError("\n".join(messages))
    for rows in samples.values():
        _tell_golds(rows, reward, progress)
    return (
        f"Looked at {' and '.join(words)}: texts, golds and the headers of pictures are good. Before it trains, a run looks at "
        "every row and decodes every picture."
    )


LOOKED_AT = 10_000
"""Rows of a data set that a dry run looks at, in about three seconds."""


class _SomeRows(Sequence[Record]):
    """At most LOOKED_AT records, evenly spread, with the first and the last."""

    def __init__(self, records: Records) -> None:
        self.records, self.name = records, records.name
        count, last = min(len(records), LOOKED_AT), len(records) - 1
        self.numbers = [round(i * last / max(count - 1, 1)) for i in range(count)]
        self.is_part = count < len(records)
        self.share = f"{count:,} of {len(records):,} rows" if self.is_part else f"all {count:,} rows"

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: Any) -> Any:
        return self.records[self.numbers[index]]


def _rejected_golds(records: Sequence[Record], check: Callable[[object], object]) -> list[Fault]:
    """The rows whose gold the reward function can't grade by, which would end the run in the middle."""
    faults = []
    for index, record in enumerate(records):
        try:
            check(record.answer if len(record.answers) == 1 else list(record.answers))
        except ValueError as error:
            faults.append(Fault(index, f"{record.where}: {error}"))
    return faults


def _tell_golds(records: Records | _SomeRows, reward: RewardFunction, progress: Progress) -> None:
    if reward.check_gold is not None:
        return  # golds of a form of their own
    own = reward.gold_fault
    report = check_golds(records, records.name, own or gold_fault)
    if own is not None:
        for text in report.notes():
            progress.warn(text) if report.faulty else progress.log(text)
        if report.is_hopeless:
            raise DataError(report.refusal("data.answer_key"))
    elif report.is_hopeless:  # a function of the user's may read such golds well
        progress.warn(
            f"{report.notes()[-1]}\n  {reward.path} gets them as they are; make sure that it can grade by them"
        )
