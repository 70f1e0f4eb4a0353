"""The commands that evaluate and grade, thin: what each does is imported when it is called."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from gmpo_mm.errors import ConfigError
from gmpo_mm.json_output import AsJson, print_json, words_to_stderr

ResponseFormat = Annotated[
    str,
    typer.Option(
        "--format",
        help="Who wrote the file: auto, rows, easyr1, verl, lm_eval, lmms_eval, vlmevalkit, skythought or qwen_math.",
    ),
]


def evaluate(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CONFIG] [KEY=VALUE]...", help="An evaluation's YAML file, and keys that go before its own."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="A folder, a hub name, bundled:NAME or a run directory.")] = None,
    benchmark: Annotated[str | None, typer.Option(help="Names with commas between, as geometry3k,math500.")] = None,
    server: Annotated[str | None, typer.Option(help="URL of an OpenAI-compatible server, as http://127.0.0.1:8000/v1.")] = None,
    out: Annotated[str | None, typer.Option(help="Folder of the results; evaluations/MODEL when not given.")] = None,
    stop_when_decided: Annotated[
        float | None,
        typer.Option(metavar="WIDTH", help="Problems in a random order until the interval of Pass@1 is narrower than this."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate a model on benchmarks; sampling, grades and numbers go to disk, and a killed evaluation goes on."""
    from gmpo_mm.evaluation.evaluate import evaluate as evaluate_model
    from gmpo_mm.evaluation.settings import load_settings
    from gmpo_mm.evaluation.table import print_results, results_json

    texts = list(arguments or [])
    config = texts.pop(0) if texts and "=" not in texts[0] else None
    given = {"model": model, "benchmarks": benchmark, "server": server, "out": out, "stop_when_decided": stop_when_decided}
    settings = load_settings(config, texts, {key: value for key, value in given.items() if value is not None})
    with words_to_stderr(as_json):
        results = evaluate_model(settings, command=["gmpo-mm", *sys.argv[1:]])
        print_results(results)
    if as_json:
        print_json(results_json(results))


def grade(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="Responses and golds: JSON Lines, JSON, Parquet, or another tool's file.")
    ],
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
    form: ResponseFormat = "auto",
    as_json: AsJson = False,
) -> None:
    """Grade a file of responses from anywhere."""
    from gmpo_mm.evaluation.grade_file import GradeFileSettings, grade_file, print_report, report_json

    settings = GradeFileSettings(
        file=file, response_key=response_key, gold_key=gold_key, grader=grader, extraction=extraction, kind=kind,
        timeout=timeout, out=out, overwrite=overwrite, by=by, problem_key=problem_key, unevaluated=unevaluated,
        format=form,
    )  # fmt: skip
    with words_to_stderr(as_json):
        report = grade_file(settings)
        print_report(report)
    if as_json:
        print_json(report_json(report))


def regrade(
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help="A file of responses, an evaluation's folder, or a run (its last validation)."),
    ],
    rules: Annotated[
        str | None, typer.Option(help="Names with commas between; the others stand beside the first. All when not given.")
    ] = None,
    choices: Annotated[
        str | None, typer.Option(help="A data file with id, letter and choices, for rules that ask for a letter.")
    ] = None,
    form: ResponseFormat = "auto",
    response_key: Annotated[str, typer.Option(help="A file's column of responses.")] = "response",
    gold_key: Annotated[str | None, typer.Option(help="A file's column of golds.")] = None,
    examples: Annotated[int, typer.Option(min=0, help="Examples of each step and direction.")] = 2,
    timeout: Annotated[float, typer.Option(help="Seconds that one comparison may run.")] = 3.0,
    page: Annotated[str | None, typer.Option(help="A page to write as well: FILE.html or FILE.md.")] = None,
    in_page: Annotated[bool, typer.Option("--in-page", help="Show it on the evaluation's own page.html too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Score the same responses under the rules of several projects, and tell what of a difference comes from where."""
    from gmpo_mm.evaluation import regrade_words
    from gmpo_mm.evaluation.grade_file import GradeFileSettings
    from gmpo_mm.evaluation.regrade import regrade as score

    if page is not None:
        regrade_words.check_page(Path(page))
    if in_page:
        regrade_words.check_evaluation(Path(source))
    names = [name.strip() for name in (rules or "").split(",") if name.strip()]
    keys = GradeFileSettings(source, response_key=response_key, gold_key=gold_key)
    with words_to_stderr(as_json):
        report = score(source, names, form=form, choices=choices, examples=examples, timeout=timeout, keys=keys)
        regrade_words.print_regrade(report)
        if page is not None:
            regrade_words.write_page(report, Path(page))
        if in_page:
            from gmpo_mm.evaluation.page import write_page

            regrade_words.save_section(report, Path(source))
            typer.echo(str(write_page(Path(source))))
    if as_json:
        print_json(report.to_json())


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


def export_task(
    benchmark: Annotated[str, typer.Argument(metavar="BENCHMARK", help="A shipped benchmark's name, or a YAML file of one.")],
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Keys of an evaluation that go before its own: n=4.")
    ] = None,
    tool: Annotated[str, typer.Option("--for", help="The tool that runs it: lm_eval.")] = "lm_eval",
    out: Annotated[str | None, typer.Option(help="Folder of the task; lm_eval_tasks/BENCHMARK when not given.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the task in the folder.")] = False,
) -> None:
    """Write a benchmark as a task for another evaluation tool: same problems, prompts, protocol and grader."""
    from gmpo_mm.evaluation.export_task import export_task as export

    written = export(benchmark, changes or [], tool=tool, out=out, overwrite=overwrite)
    typer.echo(f"{written.path}: {written.problems} problems; to run them:\n  {written.command()}")
