"""The columns of a step: as a row of the terminal's table, and as one line where there is no terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gmpo_mm.runs.accuracy import accuracy_of

STEP_SECONDS = ("perf/time_per_step", "timing_s/step")
ACCURACY = ("reward/accuracy_normalized", "reward/accuracy")
"""A reward whose accuracy is -1 or 1 (DAPO's) gives the share of right answers beside it."""
KL_KINDS = {
    "actor/kl_ref": "to reference",
    "actor/kl_loss": "in the loss",
    "actor/kl_penalty": "in the reward",
    "actor/ppo_kl": "to old policy",
}
"""The KLs that a step may have measured; the first that is there is shown, and named."""
_SHORT_KL = {"to reference": "ref.", "in the loss": "loss", "in the reward": "reward", "to old policy": "old"}


@dataclass(frozen=True)
class Column:
    """`names`: the first metric that is there counts, or their `sum`, or all as a `range`. `drop`: leaves first when narrow."""

    label: str
    head: tuple[str, str]
    names: tuple[str, ...]
    width: int
    decimals: int = 3
    percent: bool = False
    how: str = "first"  # first | sum | range
    drop: int = 0


COLUMNS = (
    Column("reward", ("", "reward"), ("reward/overall", "critic/score/mean"), 6),
    Column("accuracy", ("", "acc."), ACCURACY, 5),
    Column("length", ("", "len."), ("response_length/mean",), 5, decimals=1),
    Column("truncated", ("cut", "%"), ("response/truncated_frac",), 4, decimals=1, percent=True),
    Column("no-advantage groups", ("idle", "%"), ("group/zero_advantage_frac",), 4, decimals=1, percent=True),
    Column("ratio", ("ratio", "min  max"), ("ratio/token_min", "ratio/token_max"), 9, how="range"),
    Column("clipped", ("clip", "%"), ("clip/high_frac", "clip/low_frac"), 4, decimals=1, percent=True, how="sum", drop=4),
    Column("entropy", ("ent-", "ropy"), ("actor/entropy",), 5, drop=2),
    Column("KL", ("KL", ""), tuple(KL_KINDS), 6, decimals=4),
    Column("gradient norm", ("grad", "norm"), ("actor/grad_norm",), 5, drop=1),
    Column("rate", ("", "rate"), ("actor/lr",), 7, drop=3),
    Column("seconds", ("", "sec."), STEP_SECONDS, 4, decimals=1),
)
CLIP_OF_RATIO_LOSSES = ("actor/pg_clipfrac_higher", "actor/pg_clipfrac_lower")
VALIDATION = (
    Column("reward", ("", ""), ("val/reward_score",), 6),
    Column("length", ("", ""), ("val_response_length/mean",), 5, decimals=1),
    Column("truncated", ("", ""), ("val/truncated_frac",), 4, decimals=1, percent=True),
)


LINE_WIDTH = 24
"""Characters for a number where it need not fit a column."""


def number(value: float, width: int, decimals: int) -> str:
    """The value with as many decimals as fit, else as `6e-05`; never a 0 for what is not 0."""
    for places in range(decimals, -1, -1):
        text = f"{value:.{places}f}"
        if len(text) <= width and (float(text) != 0.0 or value == 0.0):
            return text
    for places in (1, 0):
        text = f"{value:.{places}e}"
        if len(text) <= width:
            return text
    return text


def cell(column: Column, metrics: Mapping[str, Any], width: int, between: str = " ") -> str | None:
    """The column's text in `width` characters, `between` the ends of a range; None where nothing of it was measured."""
    names = column.names
    if column.label == "clipped" and not any(name in metrics for name in names):
        names = CLIP_OF_RATIO_LOSSES
    found = [float(metrics[name]) * (100 if column.percent else 1) for name in names if name in metrics]
    if not found or (column.how == "range" and len(found) < len(names)):
        return None
    if column.how != "range":
        found = [sum(found)] if column.how == "sum" else found[:1]
    each = (width - len(between) * (len(found) - 1)) // len(found)
    return between.join(number(value, each, column.decimals) for value in found)


def kl_kind(metrics: Mapping[str, Any]) -> str | None:
    """Which KL the KL column shows; None where none was measured."""
    return next((kind for name, kind in KL_KINDS.items() if name in metrics), None)


def step_line(metrics: Mapping[str, Any]) -> str:
    """`reward 0.500  accuracy 0.250  ...`: what was measured, with names for people."""
    return "  ".join(_named(COLUMNS, metrics))


def _named(columns: Sequence[Column], metrics: Mapping[str, Any]) -> list[str]:
    parts = []
    for column in columns:
        text = cell(column, metrics, LINE_WIDTH, "..")
        if text is not None:
            label = f"KL {kl_kind(metrics)}" if column.label == "KL" else column.label
            parts.append(f"{label} {text}{'%' if column.percent else ''}")
    return parts


def validation_line(metrics: Mapping[str, Any]) -> str:
    """The accuracy, with what it is, and the rest of a validation."""
    parts = _named(VALIDATION, metrics)
    found = accuracy_of(metrics)
    if found is not None:
        words = "accuracy" if found.is_share else "mean accuracy (not a share of right answers)"
        parts.insert(0, f"{words} {float(metrics[found.name]):.3f}")
    return "  ".join(parts)


def _words(column: Column, kl: str | None) -> tuple[str, str]:
    """The head of a column where the terminal is wide: the same words as in a line."""
    if column.how == "range":
        return column.label, column.head[1]
    if column.label == "KL":
        return "KL", kl or ""
    first, _, second = column.label.rpartition(" ")
    if column.percent:
        return (first, f"{second} %") if first else (second, "%")
    return first, second


class TableLayout:
    """Which columns a terminal of `width` characters has room for, and how far apart."""

    def __init__(self, width: int, steps: int, kl: str | None) -> None:
        self.step_width = max(4, len(str(steps)))
        self.columns = [replace(column, head=_words(column, kl)) for column in COLUMNS]
        self.columns = [replace(column, width=max(column.width, *map(len, column.head))) for column in self.columns]
        if self._wide(2) > width:  # no room for the words
            short = _SHORT_KL.get(kl or "", "")
            self.columns = [replace(column, head=("KL", short)) if column.label == "KL" else column for column in COLUMNS]
        while self._wide(1) > width and any(column.drop for column in self.columns):
            self.columns.remove(max(self.columns, key=lambda column: column.drop))
        self.gap = 2 if self._wide(2) <= width else 1

    @property
    def left_out(self) -> list[str]:
        """Labels of the columns that had no room."""
        there = {column.label for column in self.columns}
        return [column.label for column in COLUMNS if column.label not in there]

    def header(self) -> list[str]:
        """Two lines."""
        return [self._line(["step" if row else "", *(column.head[row] for column in self.columns)]) for row in (0, 1)]

    def row(self, step: int, metrics: Mapping[str, Any]) -> str:
        """A step's numbers; what was not measured is a dash."""
        return self._line([str(step), *(cell(column, metrics, column.width) or "-" for column in self.columns)])

    def _wide(self, gap: int) -> int:
        return self.step_width + sum(column.width + gap for column in self.columns)

    def _line(self, cells: Sequence[str]) -> str:
        widths = [self.step_width, *(column.width for column in self.columns)]
        return (" " * self.gap).join(text.rjust(width) for text, width in zip(cells, widths, strict=True))
