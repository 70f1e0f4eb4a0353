"""A written report on the console: the words, the first table, and where the rest is."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gmpo_mm.reports.page import Part
from gmpo_mm.reports.report import Report

SHOWN_COLUMNS = 7


def print_report(report: Report) -> None:
    """Print it; labels are untrusted and never read as markup."""
    console = Console()
    console.print(report.headline, style="bold", highlight=False, markup=False)
    for note in report.numbers["notes"]:
        console.print(f"Note: {note}", style="yellow", highlight=False, markup=False)
    if report.numbers["scores"]:
        first = report.tables[0]
        table = Table(title=escape(first.title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for column in first.columns[:SHOWN_COLUMNS]:
            table.add_column(escape(column), overflow="fold")
        for row in first.rows:
            table.add_row(*map(escape, row.cells[:SHOWN_COLUMNS]))
        console.print(table)
    for part in report.summary:
        _print_part(console, part, part.title)
    if report.why is not None:
        for part in report.why.parts:
            _print_part(console, part, f"{report.why.title}: {part.title}")
        for note in report.why.notes:
            console.print(f"Note: {note}", style="yellow", highlight=False, markup=False)
    console.print(f"The page: {report.folder / 'report.html'}", soft_wrap=True, highlight=False, markup=False)


def _print_part(console: Console, part: Part, title: str) -> None:
    console.print(title, style="bold", highlight=False, markup=False)
    for line in part.lines:
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
