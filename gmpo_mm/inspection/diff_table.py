"""A difference to read: the answer, one row a stage, an example, and what else is known."""

from __future__ import annotations

import sys

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gmpo_mm.inspection.diff import Diff
from gmpo_mm.inspection.findings import ABSENT, DIFFERS, UNKNOWN, Example, Stage

WIDTH = 140
_LISTED = 12
_STYLE = {DIFFERS: "red", ABSENT: "dim", UNKNOWN: "yellow"}


def print_diff(found: Diff, console: Console | None = None) -> None:
    """Print what `diff` found."""
    console = console or Console(width=None if sys.stdout.isatty() else WIDTH)

    def say(text: str, style: str | None = None) -> None:
        console.print(text, style=style, highlight=False, markup=False)

    for side, source in (("A", found.a), ("B", found.b)):
        step = f", step {source.step}" if source.step is not None else ""
        say(
            f"{side}: {source.path}\n   {source.kind}{step}: "
            f"{len(source.prompts)} prompts, {len(source.samples)} responses"
        )
    say("")
    _print_answer(found, say)
    console.print(_table(found))
    if found.settings:
        say(f"Configuration keys that differ (for information): {len(found.settings)}")
        for key, (x, y) in list(found.settings.items())[:_LISTED]:
            say(f"  {key}: {x!r} in A, {y!r} in B")
        if len(found.settings) > _LISTED:
            say(f"  and {len(found.settings) - _LISTED} more, which --json lists")
    elif found.a.config and found.b.config:
        say("Configuration: equal in every key that decides the training.")
    for note in found.notes:
        say(f"Note: {note}.")
    if found.first is not None:
        say(
            "Stages after the first that differs may follow from it, or have a cause of their own: "
            "repair the first, then compare again."
        )


def _print_answer(found: Diff, say: object) -> None:
    assert callable(say)
    first = found.first
    if first is None:
        say("Equal in all that can be compared (float32 rounding aside).", "bold green")
        return
    say(f"They part at: {first.name}. {_sentence(first.words)}", "bold red")
    for cause in first.causes:
        say(f"  likely cause: {cause.words}")
        if cause.evidence:
            say(f"    because: {cause.evidence}")
    if first.example is not None:
        _print_example(first.example, say)


def _print_example(example: Example, say: object) -> None:
    assert callable(say)
    where = f"prompt {example.prompt!r}" if example.prompt else "the step"
    if example.row_a >= 0:
        where += f", response {example.row_a} of A and {example.row_b} of B"
    if example.token >= 0:
        where += f", token {example.token}"
    say(f"  example: {where}")
    say(f"    A: {example.a}")
    say(f"    B: {example.b}")
    if example.around:
        say(f"    around it: {example.around}")


def _table(found: Diff) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, title="All stages in the data's order", title_justify="left"
    )
    table.add_column("stage", no_wrap=True)
    table.add_column("result", no_wrap=True)
    for name in ("largest", "mean", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("what", overflow="fold")
    for stage in found.stages:
        style = _STYLE.get(stage.status)
        status = f"[{style}]{stage.status}[/]" if style else stage.status
        table.add_row(escape(stage.name), status, *_numbers(stage), escape(_what(stage)))
    return table


def _numbers(stage: Stage) -> tuple[str, str, str]:
    if stage.status in (ABSENT, UNKNOWN):
        return "", "", ""
    share = "" if stage.share is None else f"{stage.share:.1%}"
    return *("" if value is None else f"{value:.2g}" for value in (stage.max, stage.mean)), share  # type: ignore[return-value]


def _what(stage: Stage) -> str:
    causes = "; ".join(cause.words for cause in stage.causes)
    return f"{stage.words}: {causes}" if stage.words and causes else stage.words or causes


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:] + "." if words else ""
