"""The table at the end of an evaluation."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gmpo_mm.evaluation.early_stop import stopping_words
from gmpo_mm.evaluation.paper import paper_numbers
from gmpo_mm.evaluation.results import Result

WIDTH = 160
"""Columns of the table in a file or a pipe, where no terminal says how many there are."""


def results_json(results: Sequence[Result]) -> list[dict[str, Any]]:
    """For programs: each result's name, folder, what was asked and its numbers (summary.json)."""
    return [
        {"name": result.spec.name, "path": str(result.path), "spec": asdict(result.spec), "summary": result.summary}
        for result in results
    ]


def print_results(results: Sequence[Result], console: Console | None = None) -> None:
    """One row for each result: its name with the protocol, Pass@1 with interval, and what went wrong in how many samples.

    Below, for each: the protocol's numbers, the grader, the paper's numbers for this benchmark, and where the page is.
    """
    console = console or Console(width=None if sys.stdout.isatty() else WIDTH)
    table = Table(title=Text(results[0].spec.model or results[0].spec.backend), title_justify="left")
    numbers = ("problems", "Pass@1 (95 % interval)", "cut off", "no answer", "timed out")
    table.add_column("benchmark [protocol]", no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    for result in results:
        summary = result.summary
        score = summary["pass_at_1"]
        shares = [f"{summary[key]:.1%}" for key in ("truncated", "no_answer", "timeout")]
        interval = f"{score['value']:.3f} ({score['low']:.3f} - {score['high']:.3f})"
        used = f"{summary['problems']} of {len(result.problems)}" if "stopped_early" in summary else str(len(result.problems))
        table.add_row(Text(result.spec.name), used, interval, *shares)
    console.print(table)
    for result in results:
        spec = result.spec
        lines = [f"{spec.benchmark}: {spec.protocol.describe()}; grader {spec.grader.name} ({spec.grader.extraction})"]
        if (early := stopping_words(result.summary)) is not None:
            lines.append(f"  {early}")
        papers = [number for number in paper_numbers(spec.benchmark) if number.method in ("GMPO", "GRPO")]
        if papers:
            other = "" if papers[0].protocol.fits(spec.protocol) else "; another protocol than ours"
            shown = ", ".join(f"{number.model} {number.value:g} %" for number in papers)
            lines.append(f"  the paper's, not ours ({papers[0].protocol.describe()}{other}): {shown}")
        lines.append(f"  {result.path / 'page.html'}")
        console.print(Text("\n".join(lines)), soft_wrap=True)
