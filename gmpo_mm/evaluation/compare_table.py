"""A comparison to read: one row a benchmark, the verdict in words, and the problems that changed; and as a JSON file."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gmpo_mm.errors import DataError
from gmpo_mm.evaluation.compare import FORMAT, Change, Comparison
from gmpo_mm.evaluation.table import WIDTH

ONE_RUN_EACH = (
    "This is about these two models. Two training runs of one method differ too, by their seed: to compare methods, train each "
    "several times."
)


def print_comparison(comparisons: Sequence[Comparison], listed: int = 5, console: Console | None = None) -> None:
    """Print what `compare` found, with up to `listed` wins and losses of each benchmark."""
    console = console or Console(width=None if sys.stdout.isatty() else WIDTH)
    console.print(
        f"A: {_label(comparisons, 'a')}\nB: {_label(comparisons, 'b')}", soft_wrap=True, highlight=False, markup=False
    )
    console.print(_table(comparisons))
    for comparison in comparisons:
        console.print(f"[bold]{escape(comparison.name)}[/]: {escape(comparison.verdict)}", highlight=False)
        won, lost = len(comparison.wins), len(comparison.losses)
        console.print(f"  problems that B won {won}, lost {lost}, tied {comparison.ties}", highlight=False)
        if comparison.counts is not None:
            both, only_a, only_b, neither = (comparison.counts[key] for key in ("both", "only_a", "only_b", "neither"))
            console.print(f"  right: both {both}, only A {only_a}, only B {only_b}, neither {neither}", highlight=False)
        tried = (
            f", with Holm's correction for {len(comparisons)} benchmarks {_p(comparison.p_holm)}"
            if len(comparisons) > 1
            else ""
        )
        console.print(f"  interval: {comparison.interval.method}; p: {comparison.p_method}{tried}", highlight=False)
        _print_changes(console, "B did better on", comparison.wins, listed)
        _print_changes(console, "A did better on", comparison.losses, listed)
    for note in dict.fromkeys(note for comparison in comparisons for note in comparison.notes):
        console.print(f"Note: {note}.", style="yellow", highlight=False, markup=False)
    if len(comparisons) > 1:
        console.print("The verdicts go by the corrected p: of many benchmarks one differs by chance.", highlight=False)
    console.print(ONE_RUN_EACH, highlight=False)


def _label(comparisons: Sequence[Comparison], side: str) -> str:
    models = dict.fromkeys(getattr(comparison, f"model_{side}") or "a server's model" for comparison in comparisons)
    path = Path(getattr(comparisons[0], side))
    return f"{', '.join(models)} ({path if len(comparisons) == 1 else path.parent})"


def _table(comparisons: Sequence[Comparison]) -> Table:
    """One row a benchmark; never an average over them."""
    table = Table(title="Pass@1 on the same problems", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(escape("benchmark [protocol]"), overflow="fold", min_width=16)
    level = f"{comparisons[0].interval.level * 100:g} % interval"
    for name in ("problems", "A", "B", "B - A", level, "p"):
        table.add_column(name, justify="right", no_wrap=True)
    for comparison in comparisons:
        interval = comparison.interval
        table.add_row(
            escape(comparison.name),
            f"{comparison.problems:,}" + (f" of {comparison.of_problems:,}" if comparison.of_problems else ""),
            f"{comparison.score_a:.3f}",
            f"{comparison.score_b:.3f}",
            f"{comparison.difference:+.3f}",
            f"{interval.low:+.3f} .. {interval.high:+.3f}",
            _p(comparison.p_value),
        )
    return table


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _print_changes(console: Console, what: str, changes: Sequence[Change], listed: int) -> None:
    if not changes or listed <= 0:
        return
    shown = ", ".join(f"{change.id} ({change.a:.3g} -> {change.b:.3g})" for change in changes[:listed])
    rest = f" and {len(changes) - listed} more" if len(changes) > listed else ""
    console.print(f"  {what}: {shown}{rest}", highlight=False, markup=False)


def comparison_json(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """For programs: everything that was found, each changed problem included."""
    return {"format": FORMAT, "comparisons": [comparison.to_json() for comparison in comparisons]}


def write_comparison(comparisons: Sequence[Comparison], file: Path) -> None:
    """Write everything, each changed problem included, as JSON. Raises DataError when the file can't be written."""
    text = json.dumps(comparison_json(comparisons), indent=2, ensure_ascii=False)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise DataError(f"--json {file}: can't be written ({error.strerror}); name another file") from None
