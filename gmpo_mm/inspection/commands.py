"""The commands that look inside updates, thin: what each does is imported when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gmpo_mm.errors import ConfigError
from gmpo_mm.json_output import AsJson, print_json, words_to_stderr


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="A run directory, a record, or a dump of verl, EasyR1 or TRL.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another one, of any of these kinds.")],
    file: Annotated[
        str | None, typer.Argument(metavar="[FILE]", help="With --json: a file to write the JSON into, beside the words.")
    ] = None,
    step: Annotated[int | None, typer.Option(min=1, help="The step; the first that both have when not given.")] = None,
    as_json: AsJson = False,
) -> None:
    """Name the first stage at which the same step of A and B parts, and the likely cause; 0: equal, 1: different."""
    from gmpo_mm.inspection.diff import diff as compare_steps
    from gmpo_mm.inspection.diff import write_diff
    from gmpo_mm.inspection.diff_table import print_diff

    if file is not None and not as_json:
        raise ConfigError(f"{file}: a third path is where --json writes; diff takes two sides, or add --json")
    with words_to_stderr(as_json and file is None):
        found = compare_steps(a, b, step)
        if file is not None:
            write_diff(found, Path(file))
        print_diff(found)
    if as_json and file is None:
        print_json(found.to_json())
    if not found.equal:
        raise typer.Exit(1)


def replay(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run directory with recorded steps, or a record's file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Keys of another update from the same rollouts, shown beside the run's."),
    ] = None,
    step: Annotated[int | None, typer.Option(min=1, help="The recorded step (trainer.record_steps).")] = None,
    weights: Annotated[
        str | None, typer.Option(help="A checkpoint or model with the weights before the step, where the run kept none.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="An HTML file; RUN/report/replay_step_N.html when not given, if keys are.")
    ] = None,
    trust_code: Annotated[
        bool, typer.Option("--trust-code", help="Run code that the record names: a loss in a file, a model's own code.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Do the update of a recorded step again: the same bytes, or what differs first (exit code 1); or do another update."""
    from gmpo_mm.inspection.print_replay import print_replay
    from gmpo_mm.inspection.replay import replay as replay_step
    from gmpo_mm.inspection.replay_page import default_page, write_page
    from gmpo_mm.inspection.replay_words import replay_json

    with words_to_stderr(as_json):
        done = replay_step(
            run, step, overrides or [], weights=weights, trust_code=trust_code,
            note=lambda text: typer.echo(text, err=True),
        )  # fmt: skip
        print_replay(done)
        if out is not None or done.two is not None:
            typer.echo(f"The page: {write_page(done, out or default_page(done))}")
    if as_json:
        print_json(replay_json(done))
    if not done.same:
        raise typer.Exit(1)
