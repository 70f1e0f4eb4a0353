"""A replay on the console: what was compared, both updates side by side, and tokens coloured by weight."""

from __future__ import annotations

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gmpo_mm.inspection.replay import Replay
from gmpo_mm.inspection.replay_words import (
    COSINE_COLUMNS,
    NOTES,
    changed_words,
    cosine_rows,
    headline,
    number_rows,
    response_title,
    settings,
    signed,
)
from gmpo_mm.inspection.two_updates import ResponseWeights, TwoUpdates

SHOWN_TOKENS = 80
"""Of one response; the page shows all."""
UP, DOWN = (0, 114, 178), (213, 94, 0)
"""The colours of weights above and below 0."""


def print_replay(replay: Replay, console: Console | None = None) -> None:
    """Print it. Texts are untrusted: markup in them is only shown, control characters are replaced."""
    console = console or Console()
    good = replay.first_difference is None
    console.print(Text(headline(replay), style="bold green" if good else "bold red"), soft_wrap=True)
    if words := changed_words(replay):
        console.print(Text(words), soft_wrap=True)
    for stage in replay.stages:
        mark = "=" if stage.same else "·" if stage.same is None else "≠"
        console.print(Text(f"  {mark} {stage.name}: {stage.words}"), soft_wrap=True)
    if replay.two is not None:
        _print_two(replay, replay.two, console)


def _print_two(replay: Replay, two: TwoUpdates, console: Console) -> None:
    console.print()
    console.print(
        Text(f"Another update of the same rollouts: {settings(replay)}", style="bold"), soft_wrap=True
    )
    table = _table("", "the run's own", "the other")
    for row in number_rows(two):
        table.add_row(row.name, row.own, row.other)
    console.print(table)
    table = _table(*COSINE_COLUMNS)
    for cells in cosine_rows(two):
        table.add_row(*cells)
    console.print(table)
    for note in NOTES:
        console.print(Text(note, style="dim"), soft_wrap=True)
    if not two.responses:
        console.print(Text("No token's weight differs."))
    for found in two.responses:
        console.print()
        console.print(Text(response_title(found), style="bold"), soft_wrap=True)
        for line in _coloured(found) if console.is_terminal else _plain(found):
            console.print(line, soft_wrap=True)


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place == 0 else "right", no_wrap=True)
    return table


def _coloured(found: ResponseWeights) -> list[Text]:
    """The tokens three times: coloured by the weight in the own and the other update, and by the change."""
    scale = max(float(found.own_T.abs().max()), float(found.other_T.abs().max()), 1e-30)
    change_T = found.other_T - found.own_T
    rows = (
        ("own   ", found.own_T, scale),
        ("other ", found.other_T, scale),
        ("change", change_T, max(float(change_T.abs().max()), 1e-30)),
    )
    return [_line(name, found, weights_T, top) for name, weights_T, top in rows]


def _line(name: str, found: ResponseWeights, weights_T: torch.Tensor, top: float) -> Text:
    line = Text(f"  {name} ")
    for token, weight in zip(found.tokens[:SHOWN_TOKENS], weights_T.tolist(), strict=False):
        share = abs(weight) / top
        colour = UP if weight > 0 else DOWN
        red, green, blue = (round(255 - share * (255 - part)) for part in colour)
        line.append(visible(token), style=f"black on rgb({red},{green},{blue})" if weight else "underline")
    return line.append(_rest(found))


def _plain(found: ResponseWeights) -> list[Text]:
    """Each token with both weights, as numbers."""
    shown = zip(found.tokens[:SHOWN_TOKENS], found.own_T.tolist(), found.other_T.tolist(), strict=False)
    parts = [f"{visible(token)!r} {signed(own)} {signed(other)}" for token, own, other in shown]
    return [Text(f"  (token, own weight, other weight) {' | '.join(parts)}{_rest(found)}")]


def _rest(found: ResponseWeights) -> str:
    more = len(found.tokens) - SHOWN_TOKENS
    return f" ... and {more} more tokens (the page shows all)" if more > 0 else ""


def visible(text: str) -> str:
    """A token without control characters; line breaks are shown as one."""
    return "".join(c if c.isprintable() else "↵" if c == "\n" else "·" for c in text)
