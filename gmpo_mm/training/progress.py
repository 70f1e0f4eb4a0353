"""What a person sees while a run works: stages with a live line on a terminal, plain lines elsewhere, never silence.

On a terminal one status line is redrawn (rich). When the output is a file or a pipe, whole lines without control
characters are printed, and a heartbeat says what is being waited for whenever nothing was printed for a while.
"""

from __future__ import annotations

import statistics
import sys
import threading
import time
import unicodedata
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from typing_extensions import Self

SUMMARY = (
    ("reward", ("reward/overall",), "{:.3f}"),
    ("accuracy", ("reward/accuracy",), "{:.3f}"),
    ("entropy", ("actor/entropy",), "{:.3f}"),
    ("ratio", ("ratio/token_min", "ratio/token_max"), "{:.3g}..{:.3g}"),
    ("kl", ("actor/kl_ref", "actor/kl_loss", "actor/ppo_kl"), "{:.4f}"),
    ("grad", ("actor/grad_norm",), "{:.3g}"),
    ("val accuracy", ("val/accuracy_reward",), "{:.3f}"),
)
"""Label, metric names and format of what a step's line shows: a format with one field takes the first name that is there."""

STEP_SECONDS = ("perf/time_per_step", "timing_s/step")


@dataclass(frozen=True)
class BestSample:
    """The best response of a step. All text is untrusted: control characters and markup are shown, not obeyed."""

    problem: str
    response: str
    answer: str
    reward: float


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
        self._last_output = self._waiting_since = clock()
        self._step_seconds: deque[float] = deque(maxlen=20)
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

    def stage(self, name: str, total: int | None = None, unit: str = "") -> Stage:
        """`with progress.stage("sampling", 128, "responses") as stage: ... stage.update(done)`."""
        with self._lock:
            stage = Stage(self, name, total, unit, self._clock())
            self._stages.append(stage)
        return stage

    def log(self, text: str) -> None:
        """Print a note."""
        self._print(clean(text, newlines=True))

    def warn(self, text: str) -> None:
        """Print a warning."""
        self._print(f"warning: {clean(text, newlines=True)}", style="yellow")

    def step_summary(
        self, step: int, total_steps: int, metrics: Mapping[str, Any], best_sample: BestSample | None = None
    ) -> None:
        """Print a step's numbers, what is left of the run, and its best sample."""
        with self._lock:
            cells = summary_cells(metrics)
            seconds = next((float(metrics[name]) for name in STEP_SECONDS if name in metrics), None)
            if seconds is not None:  # a validation's numbers have none, and say nothing about the steps
                self._step_seconds.append(seconds)
                cells.append(("step time", format_seconds(seconds)))
            if self._step_seconds:
                cells.append(("left", format_seconds(self.seconds_left(step, total_steps))))
            if self._is_live:
                self._emit(_summary_table(step, total_steps, cells, best_sample, self._encodable))
            else:
                line = f"step {step}/{total_steps}  " + "  ".join(f"{name} {value}" for name, value in cells)
                self._print("\n".join([line, *(_sample_lines(best_sample) if best_sample else [])]))

    def seconds_left(self, step: int, total_steps: int) -> float:
        """Steps left times the median of the last 20 steps' seconds."""
        return max(total_steps - step, 0) * (statistics.median(self._step_seconds) if self._step_seconds else 0.0)

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
        return clean(" > ".join(stage.describe(now) for stage in stages))

    def _status(self) -> RenderableType:
        # Without our lock: rich calls this under its own, and printing takes the two in the other order.
        self._spinner.update(text=Text(self._encodable(self._describe(self._clock())), style="cyan"))
        return self._spinner

    def _end(self, stage: Stage) -> None:
        with self._lock:
            if stage in self._stages:
                self._stages.remove(stage)
            self._waiting_since = self._clock()

    def _beat(self) -> None:
        while not self._stop.wait(self._heartbeat_seconds / 8):  # so silence lasts 9/8 of the bound at most
            self.heartbeat()

    def _print(self, text: str, style: str = "") -> None:
        self._emit(Text(self._encodable(text), style=style))

    def _emit(self, what: RenderableType) -> None:
        with self._lock:
            if self._broken:
                return
            self._last_output = self._clock()
            try:
                if self._is_live:
                    self._console.print(what)
                else:
                    self._file.write(f"{what}\n")
                    self._file.flush()
            except (OSError, ValueError):  # a closed pipe, a full disk, a closed file
                self._broken = True

    def _encodable(self, text: str) -> str:
        encoding = getattr(self._file, "encoding", None) or "utf-8"
        return text.encode(encoding, "backslashreplace").decode(encoding)


def summary_cells(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(label, value) of the metrics that a step's line shows; those that are missing are left out."""
    cells = []
    for label, names, form in SUMMARY:
        there = [float(metrics[name]) for name in names if name in metrics]
        fields = form.count("{")
        if len(there) >= fields:
            cells.append((label, form.format(*there[:fields])))
    return cells


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


def _sample_fields(sample: BestSample) -> list[tuple[str, str]]:
    return [
        ("problem", shorten(sample.problem, 160)),
        ("response", shorten(sample.response, 240)),
        ("answer", shorten(sample.answer, 80)),
    ]


def _sample_lines(sample: BestSample) -> list[str]:
    return [
        f"  best sample, reward {sample.reward:.3f}",
        *(f"    {name}: {text}" for name, text in _sample_fields(sample)),
    ]


def _summary_table(
    step: int,
    total_steps: int,
    cells: list[tuple[str, str]],
    sample: BestSample | None,
    encodable: Callable[[str], str],
) -> RenderableType:
    title = Text(f"step {step}/{total_steps}", style="bold cyan")
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name, _ in cells:
        table.add_column(name, style="bold", header_style="dim", no_wrap=True)
    table.add_row(*(Text(value) for _, value in cells))
    if sample is None:
        return Group(title, table)
    # Text, never markup: what a model wrote may contain [red] or [link=...].
    body = Text("\n").join(Text.assemble((f"{name:<9}", "dim"), encodable(text)) for name, text in _sample_fields(sample))
    return Group(title, table, Panel(body, title=f"best sample, reward {sample.reward:.3f}", title_align="left"))
