"""The commands of a first hour, thin: what each does is in a module of its own, imported when it is called."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from gmpo_mm.errors import ConfigError

DATA_TOOLS = {
    "synthetic_geometry": "The bundled task: toy pictures with a question each.",
    "countdown": "CountDown problems: reach a number with + - * /.",
    "word_problems": "Arithmetic in words: what SmolLM2-135M can nearly do.",
    "geometry3k": "Geometry3K: geometry problems with pictures.",
    "math": "MATH without MATH500, levels 3 to 5.",
    "deepscaler": "DeepScaleR-Preview: contest problems.",
    "eval_suite": "AIME24, AMC, MATH500, Minerva and OlympiadBench.",
    "smollm2": "SmolLM2-135M-Instruct as a model folder, from the package registry.",
    "smollm2_form": "SmolLM2-135M-Instruct after a few supervised steps on word problems.",
}
OTHER_NAMES = {"math_levels": "math"}


class DataCommands(TyperGroup):
    """The modules of `gmpo_mm.datasets`, imported when one is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(DATA_TOOLS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        name = cmd_name.replace("-", "_")
        name = OTHER_NAMES.get(name, name)
        if name not in DATA_TOOLS:
            return None
        command = typer.main.get_command(importlib.import_module(f"gmpo_mm.datasets.{name}").app)
        command.name, command.short_help = cmd_name, DATA_TOOLS[name]
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Typer's own, but for a name that is none of these the error lists those that there are."""
        if args and self.get_command(ctx, args[0]) is None:
            from gmpo_mm.config.keys import nearest

            meant = nearest(args[0], list(DATA_TOOLS))
            hint = f" Did you mean {meant}?" if meant else ""
            ctx.fail(f"No such data set {args[0]!r}.{hint} There are {', '.join(DATA_TOOLS)}.")
        return super().resolve_command(ctx, args)


data = typer.Typer(
    cls=DataCommands,
    help="Make or convert a data set: each writes Parquet files, smollm2 a model. `gmpo-mm data NAME --help` tells the rest.",
    epilog="Example: gmpo-mm data countdown --tiny --out data/countdown_tiny",
    no_args_is_help=True,
)


def quickstart(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Keys of the configuration `quickstart`.")
    ] = None,
) -> None:
    """Train the bundled model on the CPU in two minutes, evaluate it before and after, and show what it learnt."""
    from gmpo_mm.start.quickstart import main

    main(overrides or [])


def configs(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Print this one, to read or to keep in a file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """List the shipped configurations; train, plan, sweep and evaluate take them by name."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from gmpo_mm.config.shipped import describe, find_file, shipped_hint, shipped_names
    from gmpo_mm.json_output import print_json

    if name is not None:
        path = find_file(name)
        if not path.is_file():
            raise ConfigError(f"{name}: no shipped configuration has this name.{shipped_hint(name)}")
        typer.echo(path.read_text(encoding="utf-8"), nl=False)
        return
    about = {shipped: describe(find_file(shipped)) for shipped in shipped_names()}
    if as_json:
        print_json(about)
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for shipped, text in about.items():
        table.add_row(Text(shipped, style="bold"), Text(text))
    Console(soft_wrap=False, width=None if typer.get_text_stream("stdout").isatty() else 160).print(table)


def init(
    kind: Annotated[
        str, typer.Argument(metavar="[KIND]", help="quickstart, geometry3k, countdown, math or smollm2.")
    ] = "quickstart",
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Folder for the two files.")] = Path(),
) -> None:
    """Write a configuration of 30 lines and a reward file to change, and say what to type next; nothing is overwritten."""
    from gmpo_mm.config.keys import nearest
    from gmpo_mm.start.init import KINDS
    from gmpo_mm.start.init import init as write_files

    if kind not in KINDS:
        meant = nearest(kind, list(KINDS))
        hint = f" Did you mean {meant}?" if meant else ""
        listed = "\n".join(f"  {known}: {what}" for known, what in KINDS.items())
        raise ConfigError(f"{kind}: there is no such kind.{hint} There are\n{listed}")
    started = write_files(kind, folder)
    for path in started.files:
        typer.echo(f"wrote {path}")
    typer.echo("next:")
    width = max(len(command) for command in started.commands if len(command) < 60)
    for command, what in started.commands.items():
        typer.echo(f"  {command:{width}}  # {what}" if what else f"  {command}")
