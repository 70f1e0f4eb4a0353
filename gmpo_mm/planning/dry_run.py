"""What `train --dry-run` and `plan` print: the plan first, then what it rests on; no weights are loaded, nothing is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from gmpo_mm.config import Config, LoadedConfig, resolve_model_path, resume_choice, run_directory, to_yaml
from gmpo_mm.config.paths import data_is_local
from gmpo_mm.config.preparations import missing_preparations, preparing_command
from gmpo_mm.credentials import clean
from gmpo_mm.engines.checks import notes
from gmpo_mm.engines.registry import engine_of
from gmpo_mm.errors import ConfigError
from gmpo_mm.planning.counts import RunPlan, describe_plan, plan_run
from gmpo_mm.planning.model_files import check_adapter, check_weights_there
from gmpo_mm.planning.report import CardPlan, make_plan, print_plan, summary

if TYPE_CHECKING:
    from gmpo_mm.data.records import Record
    from gmpo_mm.engines.protocol import Engine
    from gmpo_mm.rewards.loading import RewardFunction

TITLE = "What would happen"
RENDERED = 32
"""Rows of each data set whose prompts a dry run makes."""


def print_dry_run(loaded: LoadedConfig, *, print_config: bool = False, overwrite: bool = False) -> None:
    """Check everything that a run would find wrong before its first step, and say what it would do.

    `overwrite`: a run that is in the run directory would be replaced.

    Raises ConfigError, DataError and RewardError as the run would. Data and models that a command of ours makes may be
    missing: their rows stay open, and the command is named.
    """
    from rich.console import Console

    from gmpo_mm.engines.run_setup import configured_reward
    from gmpo_mm.runs.progress import Progress
    from gmpo_mm.runs.run_data import look_at_rows, with_columns
    from gmpo_mm.runs.trackers import check_trackers

    loaded = with_columns(loaded, typer.echo, download=False)
    config = loaded.config
    check_trackers(config.trainer.logger)
    unchecked = check_adapter(config)
    _check_directory(loaded, overwrite)
    train = None if config.trainer.val_only else open_records(config, config.data.train_files)
    val = open_records(config, config.data.val_files) if config.data.val_files else None
    counts = plan_run(config, None if train is None else len(train), None if val is None else len(val))
    function = configured_reward(config)
    reward = reward_words(config, function, train if train is not None else val)
    console = Console()
    rows = dict(describe_plan(config, counts)) | {"reward": reward}
    engine = engine_of(config)
    if engine.distributed:
        rows |= {"engine": _installed(engine, config), "memory and time": "not planned here: see gmpo-mm plan FILE --gpu h100"}
    console.print(table(TITLE, rows.items()))  # before the rehearsal, which can take minutes on a CPU
    here = {config.data.train_files: train, config.data.val_files: val}
    if found := {spec: records for spec, records in here.items() if records is not None}:
        typer.echo(look_at_rows(found, function, Progress()))
    check_templates(config, [*(train or [])[:RENDERED], *(val or [])[:RENDERED]])
    if not engine.distributed:
        check_weights_there(config)
    details = None if engine.distributed else rehearse(config, counts, console)
    if details is not None:
        console.print(table("Memory and time", summary(details)))
    for line in notes(loaded):
        typer.echo(clean(line))
    if isinstance(details, CardPlan):
        print_plan(details, console)
    for line in engine.translation(config, counts.steps):
        typer.echo(line)
    if print_config:
        typer.echo(to_yaml(config, loaded.written))
    for line in (*missing_lines([config]), *filter(None, [unchecked])):
        typer.echo(line)
    console.print("Dry run: no weights were loaded, nothing was sampled or written.")


def print_device_plan(config: Config, counts: RunPlan, console: Any, gpu: str | None, **lengths: int | None) -> None:
    """Memory and time on a card by its name, else on this machine's device."""
    plan = rehearse(config, counts, console, gpu, **lengths)
    if isinstance(plan, str):
        console.print(plan, markup=False)
    else:
        print_plan(plan, console)


def table(title: str, rows: Iterable[tuple[str, ...]]) -> Any:
    """Rows without a header; text in brackets is text."""
    from rich.table import Table
    from rich.text import Text

    made = Table(title=title, title_justify="left", show_header=False)
    for row in rows:
        made.add_row(*(Text(clean(cell)) for cell in row))
    return made


def open_records(config: Config, spec: str) -> Any | None:
    """The records of a local data set; None where it isn't here."""
    from gmpo_mm.data import RecordKeys, load_records

    return load_records(spec, RecordKeys.from_data_config(config.data)) if data_is_local(spec) else None


def _check_directory(loaded: LoadedConfig, overwrite: bool) -> None:
    """ConfigError unless the run could begin, or go on, in its directory."""
    config = loaded.config
    from gmpo_mm.runs.run_directory import RunDirectory

    RunDirectory.check(
        run_directory(config), resume=resume_choice(config), config=to_yaml(config, loaded.written),
        layout=engine_of(config).layout(config), overwrite=overwrite, interpolated=loaded.interpolated,
    )  # fmt: skip


def check_templates(config: Config, records: Sequence[Record]) -> None:
    """Render `records` with the run's format prompt and chat template, where the model's small files are on this machine.

    Raises ConfigError and DataError.
    """
    from gmpo_mm.data.prompts import load_format_prompt, prompt_length
    from gmpo_mm.models.loading import describe_model, read_chat_template

    data, model = config.data, config.worker.actor.model
    format_prompt, chat_template = load_format_prompt(data.format_prompt), read_chat_template(data.override_chat_template)
    if not all(Path(resolve_model_path(name)).is_dir() for name in filter(None, (model.model_path, model.tokenizer_path))):
        return
    processor = describe_model(model, chat_template).processor
    for record in records:
        prompt_length(
            record, processor, format_prompt=format_prompt, min_pixels=data.min_pixels, max_pixels=data.max_pixels
        )


def reward_words(config: Config, function: RewardFunction, records: Any | None) -> str:
    """Call the reward function once on a made row, and say what came of it."""
    from gmpo_mm.rewards.parts import check_tried
    from gmpo_mm.rewards.trial import try_reward

    first = records[0] if records is not None else None
    words, score = try_reward(function, None if first is None else first.problem, () if first is None else first.answers)
    check_tried(config, score)
    return f"{config.worker.reward.reward_function} ({function.reward_type}): {words}"


def rehearse(
    config: Config, counts: RunPlan, console: Any, gpu: str | None = None, **lengths: int | None
) -> CardPlan | str:
    """Memory and time on a card by its name, else on this machine's device; a sentence where it can't be planned."""
    import torch

    from gmpo_mm.models.cards import card_of_this_machine, find_card
    from gmpo_mm.models.loading import resolve_device

    device = torch.device("cuda:0") if gpu is not None else resolve_device(config.trainer.device)
    card = find_card(gpu) if gpu is not None else card_of_this_machine(device) if device.type == "cuda" else None
    with console.status("rehearsing a micro-batch"):
        return make_plan(config, counts, device, card, stop_early=gpu is None, **lengths)


def _installed(engine: Engine, config: Config) -> str:
    """The engine, and whether it can train on this machine. Raises ConfigError for a directory that holds another run."""
    engine.check_directory(run_directory(config))
    try:
        return f"{engine.name}: {engine.preflight([config])} can train here"
    except ConfigError as error:
        return f"{engine.name}: not on this machine: {error}"


def missing_lines(configs: Iterable[Config], more: Iterable[tuple[str, str]] = ()) -> Iterator[str]:
    """What isn't there yet and the one command that makes it; `more` is (path, command) of an evaluation's problems."""
    missing = {item.path: item.preparation for config in configs for item in missing_preparations(config)}
    others = {path: command for path, command in more if path not in missing}
    if not missing and not others:
        return
    command = preparing_command(list(missing.values()))
    commands = [command, *(text for text in dict.fromkeys(others.values()) if text not in command)]
    yield f"Not there yet: {', '.join([*missing, *others])}. Training starts once this has made it:"
    yield f"  {' && '.join(filter(None, commands))}"
