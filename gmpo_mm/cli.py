"""The commands, from train to doctor; thin: heavy imports are inside a command."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from gmpo_mm.errors import ConfigError, GMPOError, StoppedRun, print_error
from gmpo_mm.evaluation import commands as evaluating
from gmpo_mm.inspection import commands as inspecting
from gmpo_mm.json_output import AsJson, print_json, words_to_stderr
from gmpo_mm.start import commands as start
from gmpo_mm.version import VERSION

USER_ERROR = 2


class _Commands(TyperGroup):
    """Gives a command that was asked to stop the status of the signal; Typer itself knows Ctrl-C alone."""

    def invoke(self, ctx: Any) -> Any:
        from gmpo_mm.runs.stopping import StopNow

        try:
            return super().invoke(ctx)
        except (StopNow, StoppedRun) as stop:
            if isinstance(stop, StopNow):
                print_error(str(stop))
            raise SystemExit(stop.status) from None


app = typer.Typer(
    cls=_Commands,
    name="gmpo-mm",
    help="Train vision-language and language models with GMPO or GRPO from EasyR1's configuration, and evaluate them.",
    epilog="Example: gmpo-mm quickstart. Shell completion: gmpo-mm --install-completion",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """The console script: an error that a user can fix is one red paragraph and exit code 2, a stop 128 + its signal."""
    from gmpo_mm.runs.stopping import StopNow, ending, stop_at_once

    stop_at_once()
    try:
        _run_command()
    except StopNow as stop:  # it came outside of a command
        raise SystemExit(stop.status) from None
    finally:
        ending()


def _run_command() -> None:
    from gmpo_mm.machine_errors import check_address_space, machine_error
    from gmpo_mm.runs import third_party

    third_party.quiet()
    try:
        check_address_space(sys.argv[1:])
        app()
    except GMPOError as error:
        words = str(error)
    except Exception as error:
        known = machine_error(error)
        if known is None:
            raise
        words = str(known)
    print_error(words)  # out here, where what the error held is free again
    raise SystemExit(USER_ERROR)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gmpo-mm {VERSION}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass


app.command(epilog="Example: gmpo-mm quickstart worker.rollout.seed=2")(start.quickstart)
app.command(epilog="Example: gmpo-mm init countdown my_run")(start.init)
app.command(epilog="Example: gmpo-mm configs geometry3k/gmpo_qwen2_5_vl_7b")(start.configs)
app.add_typer(start.data, name="data")


@app.command(epilog="Example: gmpo-mm train quickstart worker.rollout.n=4 --dry-run")
def train(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file, or the name of a shipped one.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Keys that go before the file's.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and print what would happen; load no model.")] = False,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print every key as YAML; train nothing. With --dry-run after the plan.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start over: replace the run that is in the run directory.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train the model of CONFIG; `worker.rollout.n=8` and the like override its keys."""
    from gmpo_mm.config import load_config, to_yaml
    from gmpo_mm.engines.checks import validate_for_training

    loaded = load_config(config, overrides or [])
    validate_for_training(loaded, prepared=not (dry_run or print_config))
    if dry_run and as_json:
        raise ConfigError("--json: a dry run of train has no results; gmpo-mm plan CONFIG --json prints what it would need")
    if dry_run:
        from gmpo_mm.planning.dry_run import print_dry_run

        print_dry_run(loaded, print_config=print_config, overwrite=overwrite)
        return
    if print_config:
        typer.echo(to_yaml(loaded.config, loaded.written))
        return
    from gmpo_mm.api import start_training
    from gmpo_mm.runs.run_results import run_results

    try:
        with words_to_stderr(as_json):
            path = start_training(loaded, sys.argv, overwrite=overwrite)
    except StoppedRun as stop:
        if as_json:
            print_json(run_results(stop.path))
        raise
    if as_json:
        print_json(run_results(path))


@app.command(epilog="Example: gmpo-mm plan geometry3k/gmpo_qwen2_5_vl_7b --gpu h100")
def plan(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file, or the name of a shipped one.")],
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
    from gmpo_mm.planning.dry_run import TITLE, print_device_plan, rehearse, table
    from gmpo_mm.runs.run_data import with_columns

    loaded = with_columns(load_config(config, overrides or []), typer.echo, download=False).config
    console = Console()
    records = count_records(loaded, loaded.data.train_files) if data_is_local(loaded.data.train_files) else None
    counts = plan_run(loaded, records, None)
    rows = dict(describe_plan(loaded, counts))
    wanted = ("model", "algorithm", "steps", "a step", "updates a step", "in total", "tokens")
    lengths = dict(prompt=prompt_tokens, response=response_tokens, image=image_tokens)
    if as_json:
        from gmpo_mm.planning.report import plan_json

        with words_to_stderr():
            device_plan = rehearse(loaded, counts, console, gpu, **lengths)
        known = {"why_not": device_plan} if isinstance(device_plan, str) else plan_json(device_plan)
        print_json({"run": {name: rows[name] for name in wanted if name in rows}, "counts": asdict(counts), **known})
        return
    console.print(table(TITLE, ((name, rows[name]) for name in wanted if name in rows)))
    print_device_plan(loaded, counts, console, gpu, **lengths)


@app.command(epilog="Example: gmpo-mm sweep sweeps/quickstart --dry-run")
def sweep(
    file: Annotated[str, typer.Argument(metavar="SWEEP", help="A YAML file, or the name of a shipped one.")],
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
    collected: list[dict[str, Any]] = []
    with words_to_stderr(as_json):
        code = run_sweep(
            file, overrides or [], jobs=jobs, out=out, dry_run=dry_run, command=command,
            tell=collected.append if as_json else None,
        )
    for results in collected:
        print_json(results)
    if code:
        raise typer.Exit(code)


app.command(epilog="Example: gmpo-mm evaluate --model bundled:qwen2_5_vl_tiny --benchmark synthetic_pictures")(
    evaluating.evaluate
)


@app.command(epilog="Example: gmpo-mm merge runs/quickstart/gmpo --out my_model")
def merge(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A run directory, a checkpoint or an adapter's folder.")],
    out: Annotated[
        Path | None, typer.Option(help="A new folder for weights, tokenizer and a model card that says how it was trained.")
    ] = None,
    push: Annotated[
        str | None, typer.Option(metavar="NAME", help="Upload the folder of --out to the hub as NAME (owner/name); private.")
    ] = None,
) -> None:
    """Print the folder with MODEL as one whole model, for servers and other programs; merge adapters and shards first."""
    from gmpo_mm.runs.usable_model import usable_model

    if out is None:
        if push is not None:
            raise ConfigError("--push needs --out DIR: the folder that is uploaded")
        typer.echo(usable_model(model, "MODEL", lambda text: typer.echo(text, err=True), whole=True))
        return
    from gmpo_mm.publish import check_push, export
    from gmpo_mm.publish import push as upload

    if push is not None:
        check_push(push)
    typer.echo(export(model, out, lambda text: typer.echo(text, err=True)))
    if push is not None:
        typer.echo(upload(out, push))


app.command(epilog="Example: gmpo-mm grade responses.jsonl --gold-key answer --grader math")(evaluating.grade)
app.command(epilog="Example: gmpo-mm regrade evaluations/geometry3k --rules ours,easyr1,verl,trl")(evaluating.regrade)
app.command(epilog="Example: gmpo-mm export-task geometry3k --for lm_eval --out geometry3k_task")(evaluating.export_task)
app.command(epilog="Example: gmpo-mm compare evaluations/before evaluations/after")(evaluating.compare)
app.command(epilog="Example: gmpo-mm diff runs/local runs/verl --step 1")(inspecting.diff)
app.command(epilog="Example: gmpo-mm replay runs/quickstart/gmpo --step 37 worker.actor.loss_type=default")(inspecting.replay)


@app.command(epilog="Example: gmpo-mm report runs/quickstart/gmpo runs/quickstart/grpo")
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


@app.command(epilog="Example: gmpo-mm power evaluations/quickstart/synthetic_pictures --difference 0.02")
def power(
    evaluations: Annotated[
        list[str],
        typer.Argument(
            metavar="EVALUATION...", help="A benchmark's result, or those of one method's runs that differ in their seed only."
        ),
    ],
    problems: Annotated[int | None, typer.Option(min=2, help="Problems; the evaluation's when not given.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Samples a problem; the evaluation's.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Training runs of each method; as many as given.")] = None,
    difference: Annotated[float | None, typer.Option(help="Say what it takes to detect this one, as 0.02.")] = None,
    unpaired: Annotated[bool, typer.Option("--unpaired", help="The two methods are tried on different problems.")] = False,
    as_json: AsJson = False,
) -> None:
    """Tell the smallest difference that so many problems, samples and seeds detect, or what a difference needs."""
    from gmpo_mm.reports.power import power_of
    from gmpo_mm.reports.power_table import print_power

    with words_to_stderr(as_json):
        found = power_of(
            [Path(path) for path in evaluations], problems=problems, samples=samples, seeds=seeds, paired=not unpaired,
            difference=difference,
        )  # fmt: skip
        print_power(found)
    if as_json:
        print_json(found.to_json())


@app.command(epilog="Example: gmpo-mm doctor --json")
def doctor(as_json: AsJson = False) -> None:
    """Tell what this machine can run: devices, versions, engines, rollout backends, trackers."""
    from gmpo_mm.doctor import diagnose, print_report

    with words_to_stderr(as_json):
        report = diagnose()
        print_report(report)
    if as_json:
        print_json(report)


if __name__ == "__main__":
    main()
