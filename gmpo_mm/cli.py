"""The commands: train, plan, sweep, evaluate, grade, compare, report, doctor; thin: heavy imports are inside a command."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

import gmpo_mm
from gmpo_mm.errors import ConfigError, GMPOError, StoppedRun, print_error
from gmpo_mm.json_output import print_json, words_to_stderr

if TYPE_CHECKING:
    from gmpo_mm.config import Config, LoadedConfig
    from gmpo_mm.planning.counts import RunPlan
    from gmpo_mm.planning.report import CardPlan

USER_ERROR = 2
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the results as JSON; the words go to the standard error.")
]


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
    as_json: AsJson = False,
) -> None:
    """Train the model of CONFIG; `worker.rollout.n=8` and the like override its keys."""
    from gmpo_mm.config import load_config, validate_for_training

    loaded = load_config(config, overrides or [])
    validate_for_training(loaded)
    if dry_run and as_json:
        raise ConfigError("--json: a dry run of train has no results; gmpo-mm plan CONFIG --json prints what it would need")
    if dry_run:
        _print_dry_run(loaded)
        return
    from gmpo_mm.training.run_results import run_results

    try:
        with words_to_stderr(as_json):
            path = _train(loaded)
    except StoppedRun as stop:
        if as_json:
            print_json(run_results(stop.path))
        raise
    if as_json:
        print_json(run_results(path))


def _train(loaded: LoadedConfig) -> Path:
    from gmpo_mm.training.progress import Progress

    progress = Progress()
    for line in _ineffective(loaded):
        progress.log(line)
    if loaded.config.engine == "easyr1":
        from gmpo_mm.engines.easyr1.launch import train as train_on_easyr1

        return train_on_easyr1(loaded, sys.argv, progress)
    if loaded.config.engine == "verl":
        from gmpo_mm.engines.verl.launch import train as train_on_verl

        return train_on_verl(loaded, sys.argv, progress)
    from gmpo_mm.engines.local import train as train_locally

    return train_locally(loaded, sys.argv, progress)


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
    as_json: AsJson = False,
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
    lengths = dict(prompt=prompt_tokens, response=response_tokens, image=image_tokens)
    if as_json:
        from gmpo_mm.planning.report import plan_json

        with words_to_stderr():
            device_plan = _device_plan(loaded, counts, console, gpu, **lengths)
        known = {"why_not": device_plan} if isinstance(device_plan, str) else plan_json(device_plan)
        print_json({"run": {name: rows[name] for name in wanted if name in rows}, "counts": asdict(counts), **known})
        return
    console.print(_table("What would happen", ((name, rows[name]) for name in wanted if name in rows)))
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
    as_json: AsJson = False,
) -> None:
    """Train every variant of SWEEP with every seed, each in a process of its own; killed anywhere, it goes on."""
    from gmpo_mm.sweeps.sweep import sweep as run_sweep

    command = ["gmpo-mm", *sys.argv[1:]]
    told: list[dict[str, Any]] = []
    with words_to_stderr(as_json):
        code = run_sweep(
            file, overrides or [], jobs=jobs, out=out, dry_run=dry_run, command=command, tell=told.append if as_json else None
        )
    for results in told:
        print_json(results)
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
    as_json: AsJson = False,
) -> None:
    """Evaluate a model on benchmarks; sampling, grades and numbers go to disk, and a killed evaluation goes on."""
    from gmpo_mm.evaluation.evaluate import evaluate as evaluate_model
    from gmpo_mm.evaluation.settings import load_settings
    from gmpo_mm.evaluation.table import print_results, results_json

    texts = list(arguments or [])
    config = texts.pop(0) if texts and "=" not in texts[0] else None
    given = {"model": model, "benchmarks": benchmark, "server": server, "out": out}
    settings = load_settings(config, texts, {key: value for key, value in given.items() if value is not None})
    with words_to_stderr(as_json):
        results = evaluate_model(settings, command=["gmpo-mm", *sys.argv[1:]])
        print_results(results)
    if as_json:
        print_json(results_json(results))


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
    as_json: AsJson = False,
) -> None:
    """Grade a file of responses from anywhere."""
    from gmpo_mm.evaluation.grade_file import GradeFileSettings, grade_file, print_report, report_json

    settings = GradeFileSettings(
        file=file, response_key=response_key, gold_key=gold_key, grader=grader, extraction=extraction, kind=kind,
        timeout=timeout, out=out, overwrite=overwrite, by=by, problem_key=problem_key, unevaluated=unevaluated,
    )  # fmt: skip
    with words_to_stderr(as_json):
        report = grade_file(settings)
        print_report(report)
    if as_json:
        print_json(report_json(report))


@app.command()
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A result's folder, or a folder with one for each benchmark.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another model's on the same benchmark; the difference is B - A.")],
    file: Annotated[
        str | None, typer.Argument(metavar="[FILE]", help="With --json: a file to write the JSON into, beside the words.")
    ] = None,
    as_json: AsJson = False,
    listed: Annotated[int, typer.Option("--list", min=0, help="Problems won and lost that are named.")] = 5,
) -> None:
    """Tell what two results on the same problems show: the paired difference, its interval, and what it would take."""
    from gmpo_mm.evaluation.compare import compare as compare_folders
    from gmpo_mm.evaluation.compare_table import comparison_json, print_comparison, write_comparison

    if file is not None and not as_json:
        raise ConfigError(f"{file}: a third path is where --json writes; compare takes two results, or add --json")
    with words_to_stderr(as_json and file is None):
        comparisons = compare_folders(Path(a), Path(b))
        if file is not None:
            write_comparison(comparisons, Path(file))
        print_comparison(comparisons, listed)
    if as_json and file is None:
        print_json(comparison_json(comparisons))


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
    as_json: AsJson = False,
) -> None:
    """Which variant is better, by how much and how sure, and what the training looked like: one page, pictures, tables."""
    from gmpo_mm.reports.print_report import print_report as print_words
    from gmpo_mm.reports.report import write_report

    with words_to_stderr(as_json):
        written = write_report([Path(run) for run in runs], None if out is None else Path(out), target_score=target_score)
        print_words(written)
    if as_json:
        print_json(written.numbers)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Tell what this machine can run: devices, versions, engines, rollout backends, trackers."""
    from gmpo_mm.doctor import diagnose, print_report

    with words_to_stderr(as_json):
        report = diagnose()
        print_report(report)
    if as_json:
        print_json(report)


def _ineffective(loaded: LoadedConfig) -> list[str]:
    """One line a reason: which keys of the file this run does not read."""
    from gmpo_mm.config import ineffective_keys

    by_reason: dict[str, list[str]] = {}
    for key, value, reason in ineffective_keys(loaded):
        by_reason.setdefault(reason, []).append(f"{key}={str(value).lower() if isinstance(value, bool) else value}")
    lines = [f"  {reason}: {', '.join(keys)}" for reason, keys in by_reason.items()]
    return ["Set, but without effect here:", *lines] if lines else []


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
    for line in _ineffective(loaded):
        typer.echo(line)
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
    from gmpo_mm.planning.report import print_plan

    plan = _device_plan(config, counts, console, gpu, **lengths)
    if isinstance(plan, str):
        console.print(plan, markup=False)
    else:
        print_plan(plan, console)


def _device_plan(
    config: Config, counts: RunPlan, console: Any, gpu: str | None, **lengths: int | None
) -> CardPlan | str:
    """Memory and time on a card by its name, else on this machine's device; a sentence where it can't be planned."""
    import torch

    from gmpo_mm.models.cards import card_of_this_machine, find_card
    from gmpo_mm.models.loading import resolve_device
    from gmpo_mm.planning.report import make_plan

    device = torch.device("cuda:0") if gpu is not None else resolve_device(config.trainer.device)
    card = find_card(gpu) if gpu is not None else card_of_this_machine(device) if device.type == "cuda" else None
    with console.status("rehearsing a micro-batch"):
        return make_plan(config, counts, device, card, stop_early=gpu is None, **lengths)


if __name__ == "__main__":
    main()
