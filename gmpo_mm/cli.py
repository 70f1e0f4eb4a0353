"""The commands: train, plan, sweep, evaluate, grade, compare, report, doctor; thin: heavy imports are inside a command."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

import gmpo_mm
from gmpo_mm.errors import GMPOError, StoppedRun, print_error

if TYPE_CHECKING:
    from gmpo_mm.config import Config, LoadedConfig
    from gmpo_mm.planning.counts import RunPlan

USER_ERROR = 2


class _Commands(TyperGroup):
    """Gives a command that was asked to stop the status of the signal; Typer itself knows Ctrl-C alone."""

    def invoke(self, ctx: Any) -> Any:
        from gmpo_mm.training.stopping import StopNow

        try:
            return super().invoke(ctx)
        except (StopNow, StoppedRun) as stop:
            raise SystemExit(stop.status) from None


app = typer.Typer(
    cls=_Commands,
    name="gmpo-mm",
    help="Train vision-language and language models with GMPO or GRPO from EasyR1's configuration, and evaluate them.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """The console script: an error that a user can mend is one red paragraph and exit code 2, a stop 128 + its signal."""
    from gmpo_mm.training import third_party
    from gmpo_mm.training.stopping import stop_at_once

    stop_at_once()
    third_party.quiet()
    try:
        app()
    except GMPOError as error:
        print_error(str(error))
        raise SystemExit(USER_ERROR) from None


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gmpo-mm {gmpo_mm.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass


@app.command()
def train(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file: EasyR1's keys and ours.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Keys that go before the file's.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and print what would happen; load no model.")] = False,
) -> None:
    """Train the model of CONFIG; `worker.rollout.n=8` and the like override its keys."""
    from gmpo_mm.config import load_config, validate_for_training

    loaded = load_config(config, overrides or [])
    validate_for_training(loaded)
    if dry_run:
        _print_dry_run(loaded)
        return
    _print_ineffective(loaded)
    if loaded.config.engine == "easyr1":
        from gmpo_mm.engines.easyr1.launch import train as train_on_easyr1

        train_on_easyr1(loaded, command=sys.argv)
        return
    if loaded.config.engine == "verl":
        from gmpo_mm.engines.verl.launch import train as train_on_verl

        train_on_verl(loaded, command=sys.argv)
        return
    from gmpo_mm.engines.local import train as train_locally

    train_locally(loaded, command=sys.argv)


@app.command()
def plan(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file: EasyR1's keys and ours.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Keys that go before the file's.")
    ] = None,
    gpu: Annotated[
        str | None, typer.Option(help="h100, h200, a100, l40s, 4090, ...; this machine's device when not given.")
    ] = None,
    prompt_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of every prompt; the longest ones when not given.")
    ] = None,
    response_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of every response; the longest ones when not given.")
    ] = None,
    image_tokens: Annotated[
        int | None, typer.Option(min=0, help="Tokens of each prompt's image; the largest when not given, 0 for text.")
    ] = None,
) -> None:
    """Tell what training CONFIG needs on a GPU that need not be here: memory, time, the largest micro-batch that fits."""
    from rich.console import Console

    from gmpo_mm.config import load_config
    from gmpo_mm.config.paths import data_is_local
    from gmpo_mm.planning.counts import count_records, describe_plan, plan_run

    loaded = load_config(config, overrides or []).config
    console = Console()
    records = count_records(loaded, loaded.data.train_files) if data_is_local(loaded.data.train_files) else None
    counts = plan_run(loaded, records, None)
    rows = dict(describe_plan(loaded, counts))
    wanted = ("model", "algorithm", "steps", "a step", "updates a step", "in total")
    console.print(_table("What would happen", ((name, rows[name]) for name in wanted if name in rows)))
    lengths = dict(prompt=prompt_tokens, response=response_tokens, image=image_tokens)
    _print_device_plan(loaded, counts, console, gpu, **lengths)


@app.command()
def sweep(
    file: Annotated[str, typer.Argument(metavar="SWEEP", help="A YAML file: base, variants, seeds, evaluation, budget.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Keys of the sweep file: seeds=[1], budget.hours=1.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs at once; by default one, and with CUDA one a GPU.")] = None,
    out: Annotated[str | None, typer.Option(help="Folder of the sweep; sweeps/NAME when not given.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check, and print what would run and for how long.")] = False,
) -> None:
    """Train every variant of SWEEP with every seed, each in a process of its own; killed anywhere, it goes on."""
    from gmpo_mm.sweeps.sweep import sweep as run_sweep

    command = ["gmpo-mm", *sys.argv[1:]]
    code = run_sweep(file, overrides or [], jobs=jobs, out=out, dry_run=dry_run, command=command)
    if code:
        raise typer.Exit(code)


@app.command()
def evaluate(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CONFIG] [KEY=VALUE]...", help="An evaluation's YAML file, and keys that go before its own."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="A folder, a hub name, bundled:NAME or a run directory.")] = None,
    benchmark: Annotated[str | None, typer.Option(help="Names with commas between, as geometry3k,math500.")] = None,
    server: Annotated[str | None, typer.Option(help="URL of an OpenAI-compatible server, as http://127.0.0.1:8000/v1.")] = None,
    out: Annotated[str | None, typer.Option(help="Folder of the results; evaluations/MODEL when not given.")] = None,
) -> None:
    """Evaluate a model on benchmarks; sampling, grades and numbers go to disk, and a killed evaluation goes on."""
    from gmpo_mm.evaluation.evaluate import evaluate as evaluate_model
    from gmpo_mm.evaluation.settings import load_settings
    from gmpo_mm.evaluation.table import print_results

    texts = list(arguments or [])
    config = texts.pop(0) if texts and "=" not in texts[0] else None
    given = {"model": model, "benchmarks": benchmark, "server": server, "out": out}
    settings = load_settings(config, texts, {key: value for key, value in given.items() if value is not None})
    print_results(evaluate_model(settings, command=["gmpo-mm", *sys.argv[1:]]))


@app.command()
def grade(
    file: Annotated[str, typer.Argument(metavar="FILE", help="JSON Lines, JSON or Parquet: responses and golds, a row each.")],
    response_key: Annotated[str, typer.Option(help="The responses' column; a row may hold a list of samples.")] = "response",
    gold_key: Annotated[
        str | None, typer.Option(help="The golds' column; answers, answer, ground_truth or gold when not given.")
    ] = None,
    grader: Annotated[
        str, typer.Option(help="math, geometry3k, minerva, olympiadbench, countdown, drgrpo_fast or drgrpo_slow.")
    ] = "math",
    extraction: Annotated[str, typer.Option(help="Where the answer stands: boxed, answer_tags or auto (either).")] = "auto",
    kind: Annotated[str, typer.Option(help="response, or answer when the column holds bare answers.")] = "response",
    timeout: Annotated[float, typer.Option(help="Seconds that one comparison may run.")] = 3.0,
    by: Annotated[str | None, typer.Option(help="A column: accuracy for each of its values.")] = None,
    problem_key: Annotated[str | None, typer.Option(help="The problems' column, for --unevaluated reject.")] = None,
    unevaluated: Annotated[
        str, typer.Option(help="accept or reject a right expression that is only copied out of its problem.")
    ] = "accept",
    out: Annotated[str | None, typer.Option(help="A JSON Lines file for the rows with their grades.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file of --out.")] = False,
) -> None:
    """Grade a file of responses from anywhere."""
    from gmpo_mm.evaluation.grade_file import GradeFileSettings, grade_file, print_report

    print_report(
        grade_file(
            GradeFileSettings(
                file=file, response_key=response_key, gold_key=gold_key, grader=grader, extraction=extraction, kind=kind,
                timeout=timeout, out=out, overwrite=overwrite, by=by, problem_key=problem_key,
                unevaluated=unevaluated,
            )
        )
    )  # fmt: skip


@app.command()
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A result's folder, or a folder with one for each benchmark.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another model's on the same benchmark; the difference is B - A.")],
    as_json: Annotated[str | None, typer.Option("--json", metavar="FILE", help="Write everything as JSON too.")] = None,
    listed: Annotated[int, typer.Option("--list", min=0, help="Problems won and lost that are named.")] = 5,
) -> None:
    """Tell what two results on the same problems show: the paired difference, its interval, and what it would take."""
    from pathlib import Path

    from gmpo_mm.evaluation.compare import compare as compare_folders
    from gmpo_mm.evaluation.compare_table import print_comparison, write_comparison

    comparisons = compare_folders(Path(a), Path(b))
    if as_json is not None:
        write_comparison(comparisons, Path(as_json))
    print_comparison(comparisons, listed)


@app.command()
def report(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN_OR_SWEEP...",
            help="A sweep's directory, run directories, EasyR1's experiment_log.jsonl, TensorBoard folders. The first variant "
            "is the one that others are compared with.",
        ),
    ],
    out: Annotated[str | None, typer.Option(help="Folder of the report; RUN_OR_SWEEP/report when not given.")] = None,
    target_score: Annotated[
        float | None, typer.Option(help="Count the steps to this validation score; a sweep's own when not given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON instead of the words.")] = False,
) -> None:
    """Which variant is better, by how much and how sure, and what the training looked like: one page, pictures, tables."""
    from pathlib import Path

    from gmpo_mm.reports.print_report import print_report as print_words
    from gmpo_mm.reports.report import write_report

    written = write_report([Path(run) for run in runs], None if out is None else Path(out), target_score=target_score)
    if as_json:
        import json

        typer.echo(json.dumps(written.numbers, indent=2))
    else:
        print_words(written)


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False) -> None:
    """Tell what this machine can run: devices, versions, engines, rollout backends, trackers."""
    from gmpo_mm.doctor import diagnose, print_report

    report = diagnose()
    if as_json:
        import json

        typer.echo(json.dumps(report, indent=2))
    else:
        print_report(report)


def _print_ineffective(loaded: LoadedConfig) -> None:
    """One line a reason: which keys of the file this run does not read."""
    from gmpo_mm.config import ineffective_keys

    by_reason: dict[str, list[str]] = {}
    for key, value, reason in ineffective_keys(loaded):
        by_reason.setdefault(reason, []).append(f"{key}={str(value).lower() if isinstance(value, bool) else value}")
    if by_reason:
        typer.echo("Set, but without effect here:")
    for reason, keys in by_reason.items():
        typer.echo(f"  {reason}: {', '.join(keys)}")


def _print_dry_run(loaded: LoadedConfig) -> None:
    from rich.console import Console

    from gmpo_mm.config import to_yaml
    from gmpo_mm.planning.counts import count_records, describe_plan, plan_run
    from gmpo_mm.training.trackers import check_trackers

    config = loaded.config
    check_trackers(config.trainer.logger)
    train_records = None if config.trainer.val_only else count_records(config, config.data.train_files)
    val_records = count_records(config, config.data.val_files) if config.data.val_files else None
    plan = plan_run(config, train_records, val_records)
    typer.echo(to_yaml(config))
    _print_ineffective(loaded)
    console = Console()
    console.print(_table("What would happen", describe_plan(config, plan)))
    if config.engine == "easyr1":
        _print_easyr1(config, console)
    elif config.engine == "verl":
        _print_verl(config, console, plan.steps)
    else:
        _print_device_plan(config, plan, console)
    console.print("Dry run: no weights were loaded, nothing was sampled or written.")


def _print_easyr1(config: Config, console: Any) -> None:
    """What EasyR1 would need on the GPU nodes, and what of it is missing on this machine."""
    from gmpo_mm.config import run_directory
    from gmpo_mm.engines.easyr1.preflight import check_directory, check_installation
    from gmpo_mm.errors import ConfigError

    check_directory(run_directory(config))
    try:
        found = f"EasyR1 {check_installation()} can train here"
    except ConfigError as error:
        found = f"not on this machine: {error}"
    trainer = config.trainer
    console.print(f"Engine easyr1: {trainer.nnodes} node(s) x {trainer.n_gpus_per_node} GPUs. {found}", markup=False)


def _print_verl(config: Config, console: Any, steps: int | None) -> None:
    """The translation to verl's configuration, and what of verl is missing on this machine."""
    from gmpo_mm.config import run_directory
    from gmpo_mm.config.verl_keys import OURS
    from gmpo_mm.engines.verl.preflight import check_directory, check_installation
    from gmpo_mm.engines.verl.translate import described, is_cpu, to_verl
    from gmpo_mm.errors import ConfigError

    check_directory(run_directory(config))
    try:
        found = f"verl {check_installation(is_cpu(config))} can train here"
    except ConfigError as error:
        found = f"not on this machine: {error}"
    typer.echo("As verl is told:")
    for ours, theirs in described(config, to_verl(config, total_steps=steps)):
        typer.echo(f"  {ours} -> {theirs}")
    typer.echo("Read by gmpo_mm's own parts of the run, not by verl:")
    for reader in dict.fromkeys(OURS.values()):
        typer.echo(f"  {reader}: {', '.join(key for key, who in OURS.items() if who == reader)}")
    trainer = config.trainer
    kind = "processes on the CPU" if is_cpu(config) else "GPUs"
    console.print(f"Engine verl: {trainer.nnodes} node(s) x {trainer.n_gpus_per_node} {kind}. {found}", markup=False)


def _table(title: str, rows: Iterable[tuple[str, ...]]) -> Any:
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_header=False)
    for row in rows:
        table.add_row(*row)
    return table


def _print_device_plan(config: Config, counts: RunPlan, console: Any, gpu: str | None = None, **lengths: int | None) -> None:
    """Memory and time on a card by its name, else on this machine's device."""
    import torch

    from gmpo_mm.models.cards import card_of_this_machine, find_card
    from gmpo_mm.models.loading import resolve_device
    from gmpo_mm.planning.report import make_plan, print_plan

    device = torch.device("cuda:0") if gpu is not None else resolve_device(config.trainer.device)
    card = find_card(gpu) if gpu is not None else card_of_this_machine(device) if device.type == "cuda" else None
    with console.status("rehearsing a micro-batch"):
        plan = make_plan(config, counts, device, card, stop_early=gpu is None, **lengths)
    if isinstance(plan, str):
        console.print(plan, markup=False)
    else:
        print_plan(plan, console)


if __name__ == "__main__":
    main()
