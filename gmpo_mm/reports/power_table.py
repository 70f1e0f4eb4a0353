"""What `gmpo-mm power` prints."""

from __future__ import annotations

import sys

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gmpo_mm.evaluation.table import WIDTH
from gmpo_mm.reports.power import Design, PowerReport

MEANINGS = {
    "problem": "problems are easy or hard",
    "seed": "a training run is lucky or not",
    "interaction": "which problems a run learns",
    "sampling": "one sample of a problem or another",
}


def print_power(report: PowerReport, console: Console | None = None) -> None:
    """The variances, what the design detects and what doubling a number would, and what a difference needs."""
    console = console or Console(width=None if sys.stdout.isatty() else WIDTH)

    def say(text: str, style: str = "") -> None:
        console.print(escape(text), style=style, highlight=False)

    count = len(report.evaluations)
    say(
        f"{report.spec.name}: {count} evaluation{'s' if count > 1 else ''}, Pass@1 {report.components.mean:.3f}"
    )
    console.print(_components(report))
    console.print(_designs(report))
    say(f"Test: {report.design.test}, alpha {report.alpha:g}, power {100 * report.power:g} %.")
    if report.needed is not None:
        needed, design = report.needed, report.design
        say(f"To detect a difference of {needed.difference:g} ({_points(needed.difference)}), one of:")
        rows = (
            ("problems", needed.problems, f"samples {design.samples}, seeds {design.seeds}"),
            ("samples", needed.samples, f"problems {design.problems:,}, seeds {design.seeds}"),
            ("seeds", needed.seeds, f"problems {design.problems:,}, samples {design.samples}"),
        )
        for name, number, others in rows:
            untold = name == "seeds" and report.components.seed is None
            found = (
                "not told by one evaluation"
                if untold
                else "no number of them"
                if number is None
                else f"{number:,}"
            )
            say(f"  {name}: {found} (with {others})")
    for note in report.notes:
        say(f"Note: {note}.", style="yellow")


def _components(report: PowerReport) -> Table:
    table = Table(title="Where scores vary", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("between", "variance", "standard deviation", ""):
        table.add_column(name, justify="left" if name in ("between", "") else "right")
    for name, meaning in MEANINGS.items():
        value = getattr(report.components, name)
        table.add_row(
            name, "not told" if value is None else f"{value:.3g}",
            "" if value is None else _points(max(0.0, value) ** 0.5), meaning,
        )  # fmt: skip
    return table


def _designs(report: PowerReport) -> Table:
    title = "Smallest difference that would be detected"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("design", "problems", "samples", "seeds", "difference"):
        table.add_column(name, justify="left" if name == "design" else "right")
    _add(table, "as given", report.design, report.detectable)
    for design, found in report.variations:
        changed = [
            n for n in ("problems", "samples", "seeds") if getattr(design, n) != getattr(report.design, n)
        ]
        _add(table, f"twice the {changed[0]}", design, found)
    return table


def _add(table: Table, name: str, design: Design, found: float) -> None:
    shown = "none" if found > 1 else _points(found)
    table.add_row(name, f"{design.problems:,}", f"{design.samples:,}", f"{design.seeds:,}", shown)


def _points(share: float) -> str:
    return f"{100 * share:.2g} points" if share < 0.1 else f"{100 * share:.1f} points"
