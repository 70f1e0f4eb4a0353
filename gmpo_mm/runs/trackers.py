"""Where metrics go: EasyR1's `trainer.logger` names, console, file, tensorboard, wandb, mlflow and swanlab.

`file` is metrics.jsonl and always on. `console` belongs to `progress.Progress`, which reads `Trackers.console`. The other
trackers keep what they write locally inside the run directory; a resumed run continues its own entry there.

A tracker that can't start is a ConfigError, before any model is loaded. One that fails later does not end a run: its first
error is said aloud and written as a `tracker_failed` event into metrics.jsonl, later ones are counted, and the counts are
written as `tracker_failures` at the end.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from gmpo_mm.config.backends import TRACKERS
from gmpo_mm.credentials import clean
from gmpo_mm.errors import ConfigError
from gmpo_mm.runs.files import write_atomically
from gmpo_mm.runs.reading import read_json
from gmpo_mm.runs.run_directory import RunDirectory
from gmpo_mm.runs.sample_table import SampleTable

if TYPE_CHECKING:
    from typing_extensions import Self



class Tracker(Protocol):
    """One destination of metrics."""

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Send finite or non-finite numbers of one step."""
        ...

    def log_samples(self, kind: str, table: SampleTable, step: int) -> None:
        """Send a few responses of a step, `kind` train or validation."""
        ...

    def finish(self) -> None:
        """Flush and close."""
        ...


def check_trackers(names: Iterable[str]) -> tuple[str, ...]:
    """The names of `trainer.logger` without repeats; ConfigError for an unknown one or one that is not installed."""
    names = tuple(dict.fromkeys([names] if isinstance(names, str) else names))
    known = ("console", "file", *TRACKERS)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(f"trainer.logger: unknown tracker {name!r}; {hint}Known: {', '.join(known)}")
        if name in TRACKERS and not TRACKERS[name].is_installed():
            raise ConfigError(
                f"trainer.logger asks for {name!r}, but the package {TRACKERS[name].package} is not installed: "
                f"pip install {TRACKERS[name].install}, or set trainer.logger=[console,file]"
            )
    return names


class Trackers:
    """Every tracker of a run behind one `log`; a context manager that finishes them."""

    def __init__(
        self,
        names: Iterable[str],
        config: Mapping[str, Any],
        run: RunDirectory,
        warn: Callable[[str], None] = print,
    ) -> None:
        """Start them; `config` is the resolved configuration as nested mappings, `warn` says a tracker's first failure."""
        names = check_trackers(names)
        self.console = "console" in names
        self._run = run
        self._warn = warn
        self._failures: Counter[str] = Counter()
        self._trackers: dict[str, Tracker] = {}
        for name in names:
            if name in TRACKERS:
                try:
                    self._trackers[name] = TRACKERS[name].load()(config, run)
                except Exception as error:
                    self.finish()
                    raise ConfigError(
                        f"trainer.logger: {name} can't start ({type(error).__name__}: {error}); {TRACKERS[name].remedy}, "
                        "or leave it out of trainer.logger"
                    ) from error

    def log(self, step: int, kind: str, metrics: Mapping[str, Any]) -> None:
        """Write a line into metrics.jsonl, then send its numbers to the other trackers."""
        self._run.log_metrics(step, kind, metrics)
        numbers = {name: number for name, value in metrics.items() if (number := _number(value)) is not None}
        for name, tracker in self._trackers.items():
            try:
                tracker.log(numbers, step)
            except Exception as error:  # any package's any error
                self._failed(name, step, error)

    def log_samples(
        self, step: int, kind: str, rows: Sequence[Mapping[str, Any]], pictures: Sequence[Sequence[Image.Image]]
    ) -> None:
        """Send a table of these rows of `samples/`, with the pictures of each, to the trackers that can show one."""
        if not self._trackers or not rows:
            return
        table = SampleTable.of(rows, pictures)
        for name, tracker in self._trackers.items():
            try:
                tracker.log_samples(kind, table, step)
            except Exception as error:  # any package's any error
                self._failed(name, step, error)

    def finish(self) -> None:
        """Close every tracker and write how often each failed; a second call does nothing."""
        for name, tracker in self._trackers.items():
            try:
                tracker.finish()
            except Exception as error:
                self._failed(name, None, error)
        self._trackers = {}
        if self._failures:
            self._run.metrics.log_event("tracker_failures", counts=dict(self._failures))
        self._failures.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def _failed(self, name: str, step: int | None, error: Exception) -> None:
        self._failures[name] += 1
        if self._failures[name] == 1:
            text = clean(f"{type(error).__name__}: {error}")
            when = "while closing" if step is None else f"at step {step}"
            self._warn(
                f"{name} failed {when} ({text}); the run goes on, metrics.jsonl has every number, later failures are counted"
            )
            self._run.metrics.log_event("tracker_failed", tracker=name, step=step, error=text)


class TensorBoard:
    """TensorBoard files in the run directory."""

    def __init__(self, config: Mapping[str, Any], run: RunDirectory) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Steps after the one that a resumed run starts from are written again: TensorBoard drops the former ones.
        purge = run.from_step + 1 if run.resuming else None
        self.writer = SummaryWriter(str(run.path / "tensorboard"), purge_step=purge)
        if not run.resuming:
            self.writer.add_text("config", f"```yaml\n{run.config_text}\n```")

    def log(self, metrics: dict[str, float], step: int) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def log_samples(self, kind: str, table: SampleTable, step: int) -> None:
        self.writer.add_text(f"samples/{kind}", table.markdown(), step)
        for number, pictures in enumerate(table.pictures):
            for i, picture in enumerate(pictures):
                self.writer.add_image(f"samples_{kind}/row_{number}_picture_{i}", np.asarray(picture), step, dataformats="HWC")
        self.writer.flush()

    def finish(self) -> None:
        self.writer.close()


class Wandb:
    """Weights & Biases."""

    def __init__(self, config: Mapping[str, Any], run: RunDirectory) -> None:
        import wandb

        identity = _identity(run, "wandb") or secrets.token_hex(4)
        self.run = wandb.init(
            project=_trainer(config, run, "project_name"),
            name=_trainer(config, run, "experiment_name"),
            config=dict(config),
            dir=str(run.path),
            id=identity,
            resume="allow",
        )
        _remember(run, "wandb", identity)

    def log(self, metrics: dict[str, float], step: int) -> None:
        self.run.log(metrics, step=step)

    def log_samples(self, kind: str, table: SampleTable, step: int) -> None:
        import wandb

        columns, rows = list(table.columns), [list(row) for row in table.rows]
        for i in range(max(map(len, table.pictures))):
            columns.append(f"picture_{i}")
            for row, pictures in zip(rows, table.pictures, strict=True):
                row.append(wandb.Image(pictures[i]) if i < len(pictures) else None)
        self.run.log({f"samples/{kind}": wandb.Table(columns, rows)}, step=step)

    def finish(self) -> None:
        self.run.finish()


class Mlflow:
    """MLflow: a server, or files in the run directory."""

    def __init__(self, config: Mapping[str, Any], run: RunDirectory) -> None:
        import mlflow

        if not os.environ.get("MLFLOW_TRACKING_URI"):
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # mlflow 3 asks for it; a database would need SQL drivers
            mlflow.set_tracking_uri((run.path / "mlflow").absolute().as_uri())
        mlflow.set_experiment(_trainer(config, run, "project_name"))
        self.mlflow = mlflow
        active = mlflow.start_run(run_id=_identity(run, "mlflow"), run_name=_trainer(config, run, "experiment_name"))
        _remember(run, "mlflow", active.info.run_id)
        self._tables: list[dict[str, str]] = json.loads(active.data.tags.get("mlflow.loggedArtifacts", "[]"))
        # As a file: a parameter can't change when a run is extended, and servers bound its length and number.
        mlflow.log_text(run.config_text, "config.yaml")

    def log(self, metrics: dict[str, float], step: int) -> None:
        self.mlflow.log_metrics({re.sub(r"[^\w./: -]", "_", name): value for name, value in metrics.items()}, step=step)

    def log_samples(self, kind: str, table: SampleTable, step: int) -> None:
        """A table as `mlflow.log_table` writes it, which appends to a file that is there; a resumed run replaces it."""
        name = f"samples/{kind}_step_{step}"
        data = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
        for i in range(max(map(len, table.pictures))):
            for number, (row, pictures) in enumerate(zip(data, table.pictures, strict=True)):
                row[f"picture_{i}"] = None
                if i < len(pictures):
                    file = f"{name}/row_{number}_picture_{i}.png"
                    self.mlflow.log_image(pictures[i], file)
                    row[f"picture_{i}"] = {"type": "image", "filepath": file, "compressed_filepath": file}
        split = {"columns": list(data[0]), "data": [list(row.values()) for row in data]}
        self.mlflow.log_text(json.dumps(split, ensure_ascii=False), f"{name}.json")
        entry = {"path": f"{name}.json", "type": "table"}
        if entry not in self._tables:
            self._tables.append(entry)
        self.mlflow.set_tag("mlflow.loggedArtifacts", json.dumps(self._tables))

    def finish(self) -> None:
        self.mlflow.end_run()


class Swanlab:
    """SwanLab."""

    def __init__(self, config: Mapping[str, Any], run: RunDirectory) -> None:
        import swanlab

        # EasyR1's environment variables; SWANLAB_API_KEY is read by swanlab itself.
        folder = Path(os.environ.get("SWANLAB_DIR", str(run.path / "swanlog")))
        folder.mkdir(parents=True, exist_ok=True)
        identity = _identity(run, "swanlab") or secrets.token_hex(8)
        self.swanlab = swanlab
        swanlab.init(
            project=_trainer(config, run, "project_name"),
            experiment_name=_trainer(config, run, "experiment_name"),
            config=dict(config),
            logdir=str(folder),
            mode=os.environ.get("SWANLAB_MODE", "cloud"),
            id=identity,
            resume="allow",
        )
        _remember(run, "swanlab", identity)

    def log(self, metrics: dict[str, float], step: int) -> None:
        self.swanlab.log(metrics, step=step)

    def log_samples(self, kind: str, table: SampleTable, step: int) -> None:
        swanlab = self.swanlab
        lines = [swanlab.Text("\n".join(f"{name}: {cell}" for name, cell in zip(table.columns, row))) for row in table.rows]
        found: dict[str, Any] = {f"samples/{kind}": lines}
        pictures = [
            swanlab.Image(picture, caption=f"row {number}") for number, row in enumerate(table.pictures) for picture in row
        ]
        if pictures:
            found[f"samples/{kind}_pictures"] = pictures
        swanlab.log(found, step=step)

    def finish(self) -> None:
        self.swanlab.finish()


def _number(value: Any) -> float | None:
    if hasattr(value, "item"):
        value = value.item()
    return float(value) if isinstance(value, (int, float)) else None


def _trainer(config: Mapping[str, Any], run: RunDirectory, key: str) -> str:
    """A name that the run has in a tracker, its interpolations resolved."""
    return clean(str(run.interpolated.get(f"trainer.{key}") or config.get("trainer", {}).get(key) or "gmpo_mm"))


def _identity(run: RunDirectory, tracker: str) -> str | None:
    """The tracker's own name of the run that is resumed; None for a new run."""
    return _identities(run).get(tracker) if run.resuming else None


def _remember(run: RunDirectory, tracker: str, identity: str | None) -> None:
    file = _identity_file(run)
    write_atomically(file, json.dumps(_identities(run) | {tracker: identity}) + "\n")


def _identities(run: RunDirectory) -> dict[str, str | None]:
    file = _identity_file(run)
    advice = "remove it: the trackers then begin a run of their own"
    return read_json(file, dict[str, str | None], advice, ConfigError) if file.exists() else {}


def _identity_file(run: RunDirectory) -> Path:
    return run.path / "trackers.json"
