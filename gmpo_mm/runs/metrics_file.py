"""metrics.jsonl: one JSON object per line, appended, never truncated, readable while a run writes it and after a kill.

{"step": 3, "kind": "train", "reward/overall": 0.41, ...}      a line of metrics
{"step": 3, "kind": "updates", "ratio/token_max": [1.0, 1.2]}  one value for each optimizer update of the step (engine easyr1)
{"step": 3, "kind": "experts", "moe/expert_share": [[0.1, ..]]} a mixture of experts: each expert's share, a list a layer
{"step": 3, "kind": "weights", "actor/weights_sha256": "5f2a.."} worker.rollout.staleness: which weights sampled (off_policy.py)
{"step": 3, "kind": "compare", "compare/gspo/cosine": 0.97, ..} trainer.compare_losses (algorithms/compared_losses.py)
{"event": "resume", "from_step": 2, ...}                       what happened to the run
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gmpo_mm.errors import DataError, TrainingError
from gmpo_mm.machine_errors import writing
from gmpo_mm.runs.files import open_own
from gmpo_mm.runs.reading import read_bytes

FILE_NAME = "metrics.jsonl"

# JSON has no such numbers; every strict reader can read these strings, and read_metrics turns them back.
_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class MetricsFile:
    """Appends whole lines; each is one write, so a kill can tear only the last one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def log_metrics(self, step: int, kind: str, metrics: Mapping[str, Any]) -> None:
        """Append one line of numbers, texts, and lists and mappings of them. TrainingError when the disk refuses."""
        values = {name: _plain(value) for name, value in metrics.items() if name not in ("step", "kind")}
        self._append({"step": step, "kind": kind, **values})

    def log_event(self, event: str, **fields: Any) -> None:
        """Append an event line."""
        self._append({"event": event, **fields})

    def flush_to_disk(self) -> None:
        """fsync; called before a checkpoint gets its name, so that no checkpoint is ahead of its metrics after a power cut.

        TrainingError when the disk refuses.
        """
        if not self.path.exists():
            return
        try:
            with self.path.open("rb") as file:
                os.fsync(file.fileno())
        except OSError as error:
            raise self._refused(error) from error

    def _append(self, line: dict[str, Any]) -> None:
        data = json.dumps(line, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        with writing(self.path):
            descriptor = open_own(self.path, os.O_RDWR | os.O_APPEND)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                data = b"\n" + data  # a kill tore the last line: close it, in the same write as the line that explains it
            try:
                written = 0
                while written < len(data):
                    written += os.write(descriptor, data[written:])
            except OSError:
                os.ftruncate(descriptor, size)  # takes back this half line, nothing else
                raise
        except OSError as error:
            raise self._refused(error) from error
        finally:
            os.close(descriptor)

    def _refused(self, error: OSError) -> TrainingError:
        return TrainingError(
            f"could not append to {self.path} ({error.strerror}); free some space or give another trainer.run_dir, "
            "then run the same command again to go on from the last checkpoint"
        )


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The metrics of a run directory (or of a metrics.jsonl): for each (kind, step) the line that counts, in file order.

    A resume from step N takes back everything after step N: a resumed run writes those steps again, and the later line
    wins. A half line at the end of the file, or before a resume event, is the trace of a kill and is dropped; any other
    line that is not JSON is a DataError naming its number.
    """
    lines, file = _read_lines(path)
    entries: dict[tuple[str, int], dict[str, Any]] = {}
    for number, line in enumerate(lines, start=1):
        if line.get("event") == "resume":
            if not isinstance(line.get("from_step"), int):
                raise DataError(f"{file}, line {number}: a resume without from_step; was the file edited? Remove the line")
            entries = {key: entry for key, entry in entries.items() if key[1] <= line["from_step"]}
        elif "event" not in line and line:
            if not (isinstance(line.get("step"), int) and isinstance(line.get("kind"), str)):
                raise DataError(f"{file}, line {number}: metrics without step and kind; was the file edited? Remove the line")
            key = (line["kind"], line["step"])
            entries.pop(key, None)
            entries[key] = {name: _read(value) for name, value in line.items()}
    return list(entries.values())


def lost_lines(path: Path, step: int, *, finished: bool, lines: Sequence[Mapping[str, Any]] | None = None) -> str | None:
    """What the metrics of a run that came to that step have lost; None for whole ones. DataError where one is damaged.

    `lines` are its metrics where `read_metrics` has read them already. A run that has not `finished` may end with a line
    that a kill tore.
    """
    file = path / FILE_NAME
    if lines is None:
        lines = read_metrics(path) if file.is_file() else []
    found = max((line["step"] for line in lines if line["kind"] == "train"), default=0)
    if found < step or (finished and not file.read_bytes().endswith(b"\n")):
        return f"{FILE_NAME} was cut or removed: it ends with step {found} of the {step} that the run finished"
    return None


def read_events(path: str | Path) -> list[dict[str, Any]]:
    """The event lines of a run directory (or of a metrics.jsonl), in file order."""
    return [line for line in _read_lines(path)[0] if "event" in line]


def _read_lines(path: str | Path) -> tuple[list[dict[str, Any]], Path]:
    """Every line as a dict, an empty one for a half line that a kill explains."""
    file = Path(path) / FILE_NAME if Path(path).is_dir() else Path(path)
    if not file.exists():
        raise DataError(f"{file} does not exist; give a run directory that has begun to train")
    raw = read_bytes(file, "restore it, or leave this run out").split(b"\n")
    lines: list[dict[str, Any]] = []
    torn: int | None = None
    for number, data in enumerate(raw if raw[-1] else raw[:-1], start=1):
        line = _parse(data)
        lines.append(line or {})
        if line is None:
            torn = torn or number
        elif line.get("event") == "resume":
            torn = None
        elif torn is not None:
            raise _damaged(file, torn)
    if torn is not None and not raw[-1]:  # a line that a kill tore has no end
        raise _damaged(file, torn)
    return lines, file


def _damaged(file: Path, line: int) -> DataError:
    return DataError(f"{file}, line {line}: not a JSON object; the file was damaged or edited. Remove the line")


def _parse(data: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(data)
    except (ValueError, RecursionError):  # includes a torn multi-byte character
        return None
    return line if isinstance(line, dict) else None


def _read(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _read(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_read(item) for item in value]
    return _NON_FINITE.get(value, value) if isinstance(value, str) else value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
