"""The run directory: everything a run leaves behind, and who may write there, from which step.

    config.yaml        the resolved configuration
    environment.json   versions, commit, device, CPU, threads
    run.json           created, running, finished, interrupted or failed; last step; command; reason (rewritten whole)
    run.log            everything that was printed, and other packages' warnings (progress.py)
    metrics.jsonl      appended, never truncated (metrics_file.py)
    samples/           step_N_train.jsonl, step_N_validation.jsonl
    rollouts/          step_N.safetensors and .json of recorded steps (step_record.py)
    checkpoints/       step_N, complete or absent (checkpoint.py)
    .lock              held while a process uses the directory

Order within a step, for a resumed run to repeat nothing and miss nothing: metrics and validation of step N first, then
`save_checkpoint(N)`, which may go on in another thread while step N + 1 trains; a run resumed from N goes on with N + 1.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

import yaml
from pydantic import with_config
from typing_extensions import NotRequired, TypedDict

from gmpo_mm.credentials import clean, hide_command
from gmpo_mm.errors import ConfigError, DataError, TrainingError
from gmpo_mm.runs import checkpoint as checkpoints
from gmpo_mm.runs.checkpoint_layout import LOCAL_LAYOUT, CheckpointLayout, step_of
from gmpo_mm.runs.environment import describe_environment
from gmpo_mm.runs.files import write_atomically
from gmpo_mm.runs.lock import DirectoryLock
from gmpo_mm.runs.metrics_file import FILE_NAME as METRICS_FILE
from gmpo_mm.runs.metrics_file import MetricsFile, lost_lines, read_events, read_metrics
from gmpo_mm.runs.overwrite import ASIDE, FOLDERS, FormerRun, recover
from gmpo_mm.runs.reading import read_json, read_text, read_yaml
from gmpo_mm.runs.run_config import (
    FREE_KEYS,
    SCHEDULE,
    STEP_COUNT_KEYS,
    Hashes,
    flatten,
    parse_config,
    plain,
    saved_differences,
    schedule_needs_step_count,
)

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["RunDirectory", "read_events", "read_metrics"]

RESUME_WORDS = ("auto", "never", "must")
START_OVER = "`gmpo-mm train ... --overwrite`"

RESTORE = "restore the file, start over with --overwrite, or give another trainer.run_dir"


@with_config(extra="allow")
class _RunState(TypedDict):
    state: NotRequired[str]
    begun: NotRequired[bool]
    step: NotRequired[int]
    started_from: NotRequired[str]
    start_checkpoint: NotRequired[str]


@dataclass
class RunDirectory:
    """An opened, locked run directory; a context manager that writes down how the run ended and frees the lock.

    `resuming`: it continues a run that is here. `checkpoint`: what to load before training (None: start from the model).
    `from_step`: steps already done. `notes`: lines for the user. Nothing of the run is changed until `begin`.
    `config` has the interpolations as they are written; `interpolated`: dotted key -> what each stands for, of which only
    hashes are saved.
    """

    path: Path
    config: dict[str, Any]
    config_text: str
    command: list[str]
    interpolated: Mapping[str, Any] = field(default_factory=dict, repr=False)
    resuming: bool = False
    checkpoint: Path | None = None
    from_step: int = 0
    notes: list[str] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    layout: CheckpointLayout = LOCAL_LAYOUT
    _run: dict[str, Any] = field(default_factory=dict)
    _changed: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    _lock: DirectoryLock | None = None
    _ended: bool = False
    _only_looks: bool = False
    _former: FormerRun | None = None
    """The run that this one replaces, until this one begins."""
    _run_lock: threading.Lock = field(default_factory=threading.Lock)
    """A checkpoint may be written in another thread than the metrics; both write run.json."""

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        resume: str,
        config: Mapping[str, Any] | str,
        command: list[str],
        interpolated: Mapping[str, Any] | None = None,
        device: Any = None,
        layout: CheckpointLayout = LOCAL_LAYOUT,
        overwrite: bool = False,
    ) -> RunDirectory:
        """Lock the directory and decide what `trainer.resume` means here; ConfigError when it can't be done.

        `auto` continues a run of the same configuration, else starts one; `never` refuses a directory that holds a run;
        `must` refuses one without a complete checkpoint; a path (a checkpoint, or a run directory for its latest one)
        starts a new run from that checkpoint, and continues that new run when the same command is given again.
        `overwrite` removes the run that is here when the new one begins; until then nothing of it is lost.
        """
        text = config if isinstance(config, str) else yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True)
        path = Path(path)
        _create(path)
        _check_no_links(path)
        run = cls(
            path=path,
            config=parse_config(text),
            config_text=text,
            command=hide_command(command),
            interpolated=interpolated or {},
            layout=layout,
            _lock=DirectoryLock(path / ".lock"),
        )
        try:
            run.environment = describe_environment(device)
            recover(path)
            if overwrite:
                run._set_former_aside(resume)
            run._decide(resume)
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def check(
        cls, path: str | Path, *, resume: str, config: str, layout: CheckpointLayout = LOCAL_LAYOUT, overwrite: bool = False,
        interpolated: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Raise ConfigError wherever `open` would for the same arguments, and change nothing: for a dry run."""
        path = Path(path)
        check_usable(path)
        run = cls(path, parse_config(config), config, [], interpolated or {}, layout=layout, _only_looks=True)
        for folder in (path / "samples", run.checkpoints_dir):
            check_usable(folder)
        if (path / ASIDE).is_dir():  # what a killed --overwrite left is put in order by the start
            return
        replaced = overwrite and run._is_replaced(resume)
        if replaced:
            given = None if resume in RESUME_WORDS else Path(resume).absolute()
            run._start(given)
        else:
            run._decide(resume)

    @property
    def checkpoints_dir(self) -> Path:
        """The folder that holds the checkpoints."""
        return self.path / self.layout.folder

    @property
    def metrics(self) -> MetricsFile:
        """The metrics file, for lines and events."""
        return MetricsFile(self.path / METRICS_FILE)

    def is_complete(self, total_steps: int) -> bool:
        """Whether the run here has finished and `total_steps` asks for nothing more.

        DataError where its metrics have lost a step; a damaged environment.json is written anew.
        """
        step = int(self._run.get("step", 0))
        if not self.resuming or self._run.get("state") != "finished" or step < total_steps:
            return False
        self._old_environment()
        if step and (what := lost_lines(self.path, step, finished=True)):
            raise DataError(f"{self.path}: {what}; {RESTORE}")
        return True

    def begin(self, total_steps: int | None = None) -> None:
        """The training starts now: write the configuration, the state, and for a resumed run the resume event."""
        for folder in (self.path / "samples", self.checkpoints_dir):
            _create(folder)
        if self.resuming:
            old_environment = self._old_environment()
            changed = {
                key: [old_environment.get(key), value]
                for key, value in self.environment.items()
                if old_environment.get(key) != value
            }
            extra: dict[str, Any] = {"environment_changed": changed} if changed else {}
            if self._changed:
                extra["config_changed"] = {key: list(pair) for key, pair in self._changed.items()}
            self.metrics.log_event("resume", from_step=self.from_step, time=_now(), command=self.command, **extra)
        else:
            write_atomically(self.path / "environment.json", json.dumps(self.environment, indent=2) + "\n")
        write_atomically(self.path / "config.yaml", self.config_text + Hashes.make(self.interpolated).lines())
        self._write_run(state="running", begun=True, step=self.from_step, total_steps=total_steps, exit_reason=None)
        if self._former is not None:
            former, self._former = self._former, None
            former.remove()

    def log_metrics(self, step: int, kind: str, metrics: Mapping[str, Any]) -> None:
        """Append a line to metrics.jsonl; a "train" line also moves the last step in run.json."""
        self.metrics.log_metrics(step, kind, metrics)
        if kind == "train":
            self._write_run(step=step)

    def write_samples(self, step: int, kind: str, rows: Iterable[Mapping[str, Any]]) -> Path:
        """Write samples/step_N_<kind>.jsonl, whole or not at all; a repeated step replaces its file."""
        target = self.path / "samples" / f"step_{step}_{kind}.jsonl"
        write_atomically(target, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        return target

    def save_checkpoint(self, step: int, **contents: Any) -> Path:
        """`checkpoint.save_checkpoint` into this run, after its metrics are safely on the disk; may run in another thread."""
        self.metrics.flush_to_disk()
        saved = checkpoints.save_checkpoint(self.checkpoints_dir, step, **contents)
        self.note_checkpoint(step)
        return saved

    def note_checkpoint(self, step: int) -> None:
        """Write down that the checkpoint of `step` is complete."""
        self._write_run(last_checkpoint=step)

    def load_checkpoint(self) -> checkpoints.CheckpointData | None:
        """The checkpoint to start from, checked; None when the run starts from the model itself."""
        return None if self.checkpoint is None else checkpoints.load_checkpoint(self.checkpoint)

    def finish(self, state: str = "finished", reason: str | None = None) -> None:
        """Write down how the run ended: finished, interrupted or failed."""
        assert state in ("finished", "interrupted", "failed"), state
        self._write_run(state=state, exit_reason=reason and clean(reason))
        self._ended = True

    def close(self) -> None:
        """Put back a run that was to be replaced if this one has not begun, and free the lock."""
        former, self._former = self._former, None
        if former is not None:
            former.put_back()
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is not None and self._run.get("begun") and not self._ended:
                interrupted = isinstance(error, KeyboardInterrupt)
                reason = str(error) or "interrupted from the keyboard" if interrupted else f"{type(error).__name__}: {error}"
                with contextlib.suppress(TrainingError):  # when the disk is what failed, the error on its way says so
                    self.finish("interrupted" if interrupted else "failed", reason)
        finally:
            self.close()

    def _is_replaced(self, resume: str) -> bool:
        """Whether there is a run for --overwrite to replace. ConfigError where `resume` contradicts that."""
        if resume == "must":
            raise ConfigError("--overwrite and trainer.resume=must contradict each other; leave one of them out")
        if resume not in RESUME_WORDS and Path(resume).absolute().is_relative_to(self.path.absolute()):
            raise ConfigError(
                f"--overwrite removes the run in {self.path}, and trainer.resume={resume} would start from it; give another "
                "trainer.run_dir"
            )
        return (self.path / "run.json").is_file()

    def _set_former_aside(self, resume: str) -> None:
        if not self._is_replaced(resume):
            return
        try:
            self._run = self._read_run()
        except ConfigError:
            self._run = {"state": "damaged"}
        self.notes.append(f"starting over: the run in {self.path} ({self._describe_run()}) is replaced")
        self._former = FormerRun(self.path)
        self._former.set_aside()

    def _decide(self, resume: str) -> None:
        self._run = self._read_run()
        if not self._only_looks:
            checkpoints.remove_leftovers(self.checkpoints_dir)
        own = self.layout.latest(self.path)
        begun = bool(self._run.get("begun"))
        given = None if resume in RESUME_WORDS else Path(resume).absolute()
        if resume == "never" and begun:
            raise ConfigError(
                f"trainer.resume=never, but {self.path} already holds a run ({self._describe_run()}); give another "
                f"trainer.run_dir, go on with trainer.resume=auto, or start over with {START_OVER}"
            )
        if resume == "must" and own is None:
            raise ConfigError(
                f"trainer.resume=must, but {self.path} holds no complete checkpoint; is trainer.run_dir={self.path} the "
                "directory of the run to go on with? trainer.resume=auto starts a new run when there is none"
            )
        if given is not None and begun and self._run.get("started_from") != str(given):
            raise ConfigError(
                f"trainer.resume={resume} starts a new run from that checkpoint, but {self.path} already holds a run "
                f"({self._describe_run()}); give another trainer.run_dir, go on with trainer.resume=auto, or start over with "
                f"{START_OVER}"
            )
        if begun:
            self._continue(own)
        else:
            self._start(given)

    def _start(self, given: Path | None) -> None:
        """A new run; from a checkpoint of another run when one is given."""
        self._run = {"state": "created", "begun": False, "created": _now(), "step": 0}
        if given is not None:
            self.checkpoint = self._find_checkpoint(given)
            self._run |= {"started_from": str(given), "start_checkpoint": str(self.checkpoint)}
            self.layout.check(self.checkpoint)
            self.from_step = step_of(self.checkpoint)
            self.notes.append(f"starting from {self.checkpoint} in the new run directory {self.path}")
        if not self._only_looks:
            self._write_run(command=self.command)

    def _continue(self, own: Path | None) -> None:
        """The run that is here goes on from its latest checkpoint, or from where it started when it has none."""
        file = self.path / "config.yaml"
        old = read_yaml(file, RESTORE, ConfigError)
        if not old:
            raise ConfigError(f"{file} is empty; {RESTORE}")
        self._compare(old, read_text(file, RESTORE, ConfigError))
        self.resuming = True
        self.checkpoint = own
        if own is not None:
            if what := lost_lines(self.path, step_of(own), finished=False):  # they were flushed before the checkpoint
                raise DataError(f"{self.path}: {what}; {RESTORE}")
            self._run["last_checkpoint"] = step_of(own)  # a kill right after it got its name leaves that unwritten
        if own is None and self._run.get("start_checkpoint"):
            self.checkpoint = self._find_checkpoint(Path(self._run["start_checkpoint"]))
        self.from_step = 0 if self.checkpoint is None else step_of(self.checkpoint)
        if self._run.get("state") == "finished":
            self.notes.append(
                f"the run in {self.path} finished at step {self._run['step']}; only more steps would be trained "
                f"(trainer.max_steps, trainer.total_epochs); {START_OVER} starts over"
            )
        else:
            origin = "from the beginning: no checkpoint was complete" if self.checkpoint is None else f"from {self.checkpoint}"
            self.notes.append(f"resuming the run in {self.path} ({self._describe_run()}) {origin}; {START_OVER} starts over")

    def _compare(self, old: dict[str, Any], old_text: str) -> None:
        free: tuple[str, ...] = FREE_KEYS
        now = flatten(self.config) | dict(self.interpolated)
        there = {key: now.get(key) for key in Hashes.read(old_text).of}  # other values are refused below
        scheduled = schedule_needs_step_count(self.config, self.interpolated) or schedule_needs_step_count(old, there)
        if not scheduled:
            free += STEP_COUNT_KEYS
        self._changed = saved_differences(old_text, self.config_text, self.interpolated)
        fatal = {key: pair for key, pair in self._changed.items() if key not in free}
        if not fatal:
            return
        lines = [f"  {key}: {old!r} there, {new!r} now" for key, (old, new) in fatal.items()]
        if scheduled and any(key in STEP_COUNT_KEYS for key in fatal):
            lines.append(f"  (the learning-rate schedule of {SCHEDULE}* is computed from the number of steps)")
        if self.interpolated:
            lines.append("  (an interpolation has to stand for what it stood for when the run began)")
        raise ConfigError(
            f"{self.path} holds a run of another configuration ({self._describe_run()}; its config.yaml is compared):\n"
            + "\n".join(lines) + "\n"
            f"To go on with that run, give its values. To train this configuration, start over with {START_OVER} "
            "(it removes that run) or give another trainer.run_dir; with "
            f"trainer.resume={self.layout.latest(self.path) or 'PATH'} it starts from a checkpoint"
        )

    def _find_checkpoint(self, path: Path) -> Path:
        if found := self.layout.find(path):
            return found
        raise ConfigError(
            f"trainer.resume={path}: no checkpoint there; give a checkpoint's folder like RUN_DIR/checkpoints/step_20 (of "
            "engine=easyr1: RUN_DIR/global_step_20), a run directory with a complete checkpoint, or auto, never or must"
        )

    def _read_run(self) -> dict[str, Any]:
        """run.json, {} in a directory without a run; ConfigError in a directory of something else."""
        file = self.path / "run.json"
        if os.path.lexists(file):
            try:
                return cast("dict[str, Any]", read_json(file, _RunState, RESTORE, ConfigError))
            except ConfigError as error:
                return self._rebuilt(error)
        ours = ("config.yaml", "environment.json", METRICS_FILE, "samples", "checkpoints")
        foreign = [name for name in ours if (self.path / name).exists()]
        if "config.yaml" in foreign and self.layout.latest(self.path) is not None:
            return self._rebuilt(ConfigError(f"{file} is not there; {RESTORE}"))
        if foreign:
            raise ConfigError(
                f"trainer.run_dir={self.path} has no run.json, but already holds {', '.join(foreign)}, which a run would "
                "write; give another trainer.run_dir, or move these away"
            )
        return {}

    def _rebuilt(self, error: ConfigError) -> dict[str, Any]:
        """What a damaged run.json said, from what is whole: the configuration and the checkpoints. Else `error` is raised."""
        file = self.path / "config.yaml"
        if not file.is_file() or not read_yaml(file, RESTORE, ConfigError):
            raise error
        own = self.layout.latest(self.path)
        self.notes.append(f"{str(error).partition(';')[0]}: it is made anew from config.yaml and the checkpoints")
        return {"state": "running", "begun": True, "created": _now(), "step": 0 if own is None else step_of(own)}

    def _old_environment(self) -> dict[str, Any]:
        """environment.json of the run that goes on; a damaged one is written anew."""
        file = self.path / "environment.json"
        try:
            return read_json(file, dict[str, Any], RESTORE, ConfigError)
        except ConfigError:
            write_atomically(file, json.dumps(self.environment, indent=2) + "\n")
            return {}

    def _describe_run(self) -> str:
        state = self._run.get("state")
        return f"{'killed' if state == 'running' else state} at step {self._run.get('step', 0)}"

    def _write_run(self, **changes: Any) -> None:
        with self._run_lock:
            self._run |= changes | {"updated": _now()}
            text = json.dumps(self._run, indent=2) + "\n"
            write_atomically(self.path / "run.json", text, durable=changes.keys() != {"step"})


def _create(path: Path) -> None:
    check_usable(path, probe=False)  # making it is the probe
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(path, error.strerror) from error


def check_usable(path: Path, *, probe: bool = True) -> None:
    """ConfigError unless `path` is a folder that can be written to, or one can be made there. Leaves nothing behind."""
    try:
        above = path
        while not os.path.lexists(above):
            above = above.parent
        if not above.is_dir():  # a file, or a link that leads nowhere
            raise NotADirectoryError(errno.ENOTDIR, f"{above} is no folder")
        os.listdir(above)
        longest = os.pathconf(above, "PC_NAME_MAX")
        if any(len(os.fsencode(part)) > longest for part in path.parts):
            raise OSError(errno.ENAMETOOLONG, f"a name in it has more than {longest} bytes")
        writable = os.access(above, os.W_OK | os.X_OK)
        if os.statvfs(above).f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, "Read-only file system")
        if probe and writable and above != path:  # /proc and full disks show themselves only now
            os.rmdir(tempfile.mkdtemp(prefix=".gmpo_", dir=above))
    except (OSError, ValueError) as error:  # ValueError: a zero character
        raise _unusable(path, getattr(error, "strerror", None) or str(error)) from error
    if not writable:
        raise _unusable(path, f"no permission to write in {above}")


def _unusable(path: Path, why: str | None) -> ConfigError:
    return ConfigError(f"trainer.run_dir={path} can't be used ({why}); give another trainer.run_dir")


def _check_no_links(path: Path) -> None:
    """What a run writes into or removes from has to be a folder in the run directory itself."""
    for name in FOLDERS:
        if (path / name).is_symlink():
            raise ConfigError(
                f"{path / name} is a symbolic link, and a run writes and removes in folders of its own only; remove the link. "
                "To keep all of a run on another disk, name a trainer.run_dir there"
            )


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
