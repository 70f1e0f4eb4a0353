"""What a person sees while a run works: a table and a live line on a terminal, plain lines elsewhere, never silence.

On a terminal the steps are rows under one header, and a bar and a status line are redrawn below them (rich). When the output is
a file or a pipe, whole lines without control characters are printed, and a heartbeat says what is being waited for whenever
nothing was printed for a while. All that is printed stands, as plain lines with their time, in the log (`log_to`).
"""

from __future__ import annotations

import statistics
import sys
import threading
import time
import traceback
import unicodedata
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from gmpo_mm.credentials import clean as without_secrets
from gmpo_mm.credentials import hide_command
from gmpo_mm.errors import GMPOError, StoppedRun
from gmpo_mm.runs import third_party
from gmpo_mm.runs.files import open_appending
from gmpo_mm.runs.shown_samples import Sample
from gmpo_mm.runs.step_table import STEP_SECONDS, TableLayout, kl_kind, step_line, validation_line

if TYPE_CHECKING:
    from typing_extensions import Self

LOG_NAME = "run.log"


class Stage:
    """A piece of work that is going on; made by `Progress.stage`."""

    def __init__(self, progress: Progress, name: str, total: int | None, unit: str, started: float) -> None:
        self.name, self.total, self.unit, self.started = name, total, unit, started
        self.done: int | None = None
        self.note = ""
        self._progress = progress

    def update(self, done: int | None = None, note: str | None = None) -> None:
        """Say how far it is; either argument may be left out."""
        self.done = self.done if done is None else done
        self.note = self.note if note is None else note
        self._progress.heartbeat()

    def describe(self, now: float) -> str:
        """One line: name, how far, since when, note."""
        parts = [self.name]
        if self.done is not None or self.total is not None:
            of = "" if self.total is None else f"/{self.total}"
            parts.append(f"{self.done or 0}{of} {self.unit}".rstrip())
        parts.append(f"for {format_seconds(now - self.started)}")
        return ", ".join(parts) + (f" ({self.note})" if self.note else "")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._progress._end(self)


class Progress:
    """Prints a run's progress; a context manager. Every method may be called from any thread.

    If writing fails (closed pipe, full disk) the progress goes quiet; it never ends a run.
    """

    def __init__(
        self,
        file: TextIO | None = None,
        *,
        live: bool | None = None,
        heartbeat_seconds: float = 8.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`live`: redraw a status line (None: when `file`, by default the standard output, is a terminal)."""
        self._file = file or sys.stdout
        self._console = Console(file=self._file, highlight=False)
        self._is_live = self._console.is_terminal and not self._console.is_dumb_terminal if live is None else live
        self._heartbeat_seconds = heartbeat_seconds
        self._clock = clock
        self._lock = threading.RLock()
        self._stages: list[Stage] = []
        self._broken = False
        self._started = self._last_output = self._waiting_since = clock()
        self._step_seconds: deque[float] = deque(maxlen=20)
        self._steps_began: float | None = None
        self._steps_done, self._all_step_seconds = 0, 0.0
        self._at: tuple[int, int] | None = None
        self._layout: TableLayout | None = None
        self._lines_below_header = 0
        self._log: TextIO | None = None
        self._unlogged: list[str] | None = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._live: Live | None = None
        self._spinner = Spinner("line")

    def __enter__(self) -> Self:
        if self._is_live:
            self._live = Live(get_renderable=self._status, console=self._console, refresh_per_second=4, transient=True)
            self._live.start()
        else:
            self._thread = threading.Thread(target=self._beat, name="progress-heartbeat", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, GMPOError) and not isinstance(error, StoppedRun):
            self.log_only(f"error: {error}")  # the command line prints it
        elif isinstance(error, KeyboardInterrupt):
            self.log_only(f"ended at once: {error or 'interrupted from the keyboard'}")
        elif error is not None and not isinstance(error, StoppedRun):
            self.log_only("".join(traceback.format_exception(kind, error, trace)).rstrip())
        self.close()

    def close(self) -> None:
        """Stop the status line and the heartbeat; a second call does nothing."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._live is not None:
            try:
                self._live.stop()
            except (OSError, ValueError):
                self._broken = True
            self._live = None
        with self._lock:
            if self._log is not None:
                third_party.hand_to(None)
                self._log.close()
            self._log, self._unlogged = None, None

    def log_to(self, path: Path, command: Sequence[str] = ()) -> None:
        """Append everything that was and will be printed to a file, which is not worth ending a run for when it can't be."""
        with self._lock:
            try:
                self._log = log = open_appending(path, encoding="utf-8", errors="backslashreplace")
                log.write(f"==== {time.strftime('%Y-%m-%d %H:%M:%S')}  {' '.join(hide_command(command))}\n")
            except OSError as error:
                self.warn(f"{path} can't be written ({error.strerror}); the run goes on without a log")
            unlogged, self._unlogged = self._unlogged or [], None
            for line in unlogged:
                self._write_log(line)
        third_party.hand_to(self.log_only)

    def log_only(self, text: str) -> None:
        """Write something into the log that the terminal is spared: other packages' warnings, the end of a traceback."""
        self._write_log(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {clean(without_secrets(text), newlines=True)}")

    def _write_log(self, line: str) -> None:
        with self._lock:
            if self._unlogged is not None:
                self._unlogged.append(line)
            elif self._log is not None:
                try:
                    self._log.write(line + "\n")
                    self._log.flush()
                except (OSError, ValueError):  # a full disk
                    self._log = None
                except RuntimeError:  # a signal came within a write, and its handler has something to say
                    pass

    def stage(self, name: str, total: int | None = None, unit: str = "") -> Stage:
        """`with progress.stage("sampling", 128, "responses") as stage: ... stage.update(done)`."""
        with self._lock:
            stage = Stage(self, name, total, unit, self._clock())
            self._stages.append(stage)
        return stage

    def log(self, text: str) -> None:
        """Print a note."""
        self._print(clean(without_secrets(text), newlines=True))

    def warn(self, text: str) -> None:
        """Print a warning."""
        self._print(f"warning: {clean(without_secrets(text), newlines=True)}", style="yellow")

    def step(self, step: int, total_steps: int, metrics: Mapping[str, Any]) -> None:
        """Print a step's numbers and what is left of the run."""
        with self._lock:
            seconds = next((float(metrics[name]) for name in STEP_SECONDS if name in metrics), 0.0)
            if self._steps_began is None:
                self._steps_began = self._clock() - seconds
            self._step_seconds.append(seconds)
            self._steps_done += 1
            self._all_step_seconds += seconds
            self._at = (step, total_steps)
            left = format_seconds(self.seconds_left(step, total_steps))
            line = f"step {step}/{total_steps}  {step_line(metrics)}  left {left}"
            if self._is_live:
                self._show_header(total_steps, metrics)
                assert self._layout is not None
                self._emit(line, Text(self._layout.row(step, metrics), no_wrap=True, overflow="crop"))
                self._lines_below_header += 1
            else:
                self._print(line)

    def validation(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Print a validation's numbers."""
        self._print(f"validation after step {step}  {validation_line(metrics)}", style="green")

    def sample(self, step: int, sample: Sample) -> None:
        """Show one response of a step."""
        title = f"sample of step {step}: {_WHICH[sample.kind]}, reward {sample.reward:.3f}"
        fields = _sample_fields(sample)
        line = f"  {title} | " + " | ".join(f"{name}: {text}" for name, text in fields)
        # Text, never markup: what a model wrote may contain [red] or [link=...].
        body = Text("\n").join(Text.assemble((f"{name:<9}", "dim"), self._encodable(text)) for name, text in fields)
        with self._lock:
            panel = Panel(body, title=title, title_align="left")
            self._emit(line, panel)
            if self._is_live:
                self._lines_below_header += len(self._console.render_lines(panel))

    def _show_header(self, total_steps: int, metrics: Mapping[str, Any]) -> None:
        """Above the first row, and again before it would leave the screen."""
        if self._layout is None:
            self._layout = TableLayout(self._console.width, total_steps, kl_kind(metrics))
            if self._layout.left_out:
                self.log(
                    f"{self._console.width} characters a line have no room for {', '.join(self._layout.left_out)}; "
                    f"{LOG_NAME} and metrics.jsonl have all"
                )
        elif self._lines_below_header < self._console.height - 6:
            return
        for text in self._layout.header():
            self._console_print(Text(text, style="bold cyan", no_wrap=True, overflow="crop"))
        self._lines_below_header = 0

    def seconds_left(self, step: int, total_steps: int) -> float:
        """Steps left times the median of the last 20 steps' seconds and what came between steps: validations, saving."""
        if not self._step_seconds or self._steps_began is None:
            return 0.0
        between = max(0.0, self._clock() - self._steps_began - self._all_step_seconds) / self._steps_done
        return max(total_steps - step, 0) * (statistics.median(self._step_seconds) + between)

    def heartbeat(self) -> bool:
        """If nothing was printed for `heartbeat_seconds`, print what is being waited for; returns whether it did."""
        if self._is_live:
            return False  # the status line is redrawn four times a second and counts the time itself
        with self._lock:
            now = self._clock()
            if self._broken or now - self._last_output < self._heartbeat_seconds:
                return False
            self._print(f"... {self._describe(now)}")
            return True

    def _describe(self, now: float) -> str:
        stages = list(self._stages)
        if not stages:
            return f"working for {format_seconds(now - self._waiting_since)}"
        return clean(without_secrets(" > ".join(stage.describe(now) for stage in stages)))

    def _status(self) -> RenderableType:
        # Without our lock: rich calls this under its own, and printing takes the two in the other order.
        now = self._clock()
        self._spinner.update(text=Text(self._encodable(self._describe(now)), style="cyan"))
        if self._at is None:
            return self._spinner
        done, total = self._at
        line = Table.grid(padding=(0, 1, 0, 0))
        gone, left = format_seconds(now - self._started), format_seconds(self.seconds_left(done, total))
        bar = ProgressBar(total=max(total, 1), completed=done, width=30)
        line.add_row(f"step {done}/{total}", bar, f"{done / max(total, 1):.0%}", f"{gone} gone, about {left} left")
        return Group(self._spinner, line)

    def _end(self, stage: Stage) -> None:
        with self._lock:
            if stage in self._stages:
                self._stages.remove(stage)
            self._waiting_since = self._clock()

    def _beat(self) -> None:
        while not self._stop.wait(self._heartbeat_seconds / 8):  # so silence lasts 9/8 of the bound at most
            self.heartbeat()

    def _print(self, text: str, style: str = "") -> None:
        shown = self._encodable(text)
        with self._lock:
            self._emit(shown, Text(shown, style=style))
            self._lines_below_header += 1 + shown.count("\n")

    def _emit(self, line: str, shown: RenderableType | None = None) -> None:
        """Log the line, and print it, or on a terminal what is shown there instead."""
        with self._lock:
            self._last_output = self._clock()
            self._write_log(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}")
            if self._is_live:
                self._console_print(shown if shown is not None else Text(line))
            elif not self._broken:
                try:
                    self._file.write(f"{self._encodable(line)}\n")
                    self._file.flush()
                except (OSError, ValueError):  # a closed pipe, a full disk, a closed file
                    self._broken = True
                except RuntimeError:  # as in the log
                    pass

    def _console_print(self, what: RenderableType) -> None:
        if self._broken:
            return
        try:
            self._console.print(what)
        except (OSError, ValueError):
            self._broken = True

    def _encodable(self, text: str) -> str:
        encoding = getattr(self._file, "encoding", None) or "utf-8"
        return text.encode(encoding, "backslashreplace").decode(encoding)


def format_seconds(seconds: float) -> str:
    """`4.2 s`, `3:07`, `1:02:33`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def clean(text: str, newlines: bool = False) -> str:
    """Text without control characters (they could move the cursor or forge lines); line breaks stay only if asked."""
    keep = "\n" if newlines else ""
    return "".join(" " if unicodedata.category(c) in _CONTROL and c not in keep else c for c in str(text))


_CONTROL = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def shorten(text: str, limit: int) -> str:
    """One line of at most `limit` characters: the middle goes, since a response's answer stands at its end."""
    text = " ".join(clean(text[: 4 * limit] + " " + text[-4 * limit :] if len(text) > 8 * limit else text).split())
    if len(text) <= limit:
        return text
    head = (limit - 5) // 2
    return f"{text[:head]} ... {text[len(text) - (limit - 5 - head) :]}"


_WHICH = {"best": "the best one", "worst": "the worst one", "random": "a random one"}


def _sample_fields(sample: Sample) -> list[tuple[str, str]]:
    fields = [
        ("problem", shorten(sample.problem, 160)),
        ("response", shorten(sample.response, 240)),
        ("answer", shorten(sample.answer, 80)),
    ]
    return [(name, text) for name, text in fields if text or name == "response"]
