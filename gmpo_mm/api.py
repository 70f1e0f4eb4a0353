"""What the commands do, for scripts and notebooks: `import gmpo_mm`, then `gmpo_mm.train(...)` and so on.

Each function checks what its command checks, and raises `gmpo_mm.errors.GMPOError` (ConfigError, DataError, ...) with the
command's words. What is imported for a function, torch included, is imported when it is called.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from gmpo_mm.errors import ConfigError, DataError

if TYPE_CHECKING:
    import pandas as pd

    from gmpo_mm.config import LoadedConfig
    from gmpo_mm.evaluation.compare import Comparison  # noqa: F401  (named in text)
    from gmpo_mm.evaluation.grade_file import GradeFileReport
    from gmpo_mm.evaluation.results import Result
    from gmpo_mm.inspection.diff import Diff
    from gmpo_mm.inspection.replay import Replay
    from gmpo_mm.reports.report import Report
    from gmpo_mm.runs.step_record import StepRecord
    from gmpo_mm.verifiers import Grade  # noqa: F401

T = TypeVar("T")
Overrides = Mapping[str, Any] | Sequence[str]


class Rows(list[dict[str, Any]]):
    """Rows of numbers: a list of dicts that a notebook shows as a table, and `frame()` turns into a pandas DataFrame."""

    def frame(self) -> pd.DataFrame:
        """The rows as a pandas DataFrame. Raises ConfigError where pandas is not installed."""
        try:
            import pandas
        except ImportError:
            raise ConfigError("frame() needs pandas: pip install pandas; without it, this is a list of dicts") from None
        return pandas.DataFrame(list(self))

    def _repr_html_(self) -> str:
        names = list(dict.fromkeys(name for row in self for name in row))
        head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
        body = "".join("<tr>" + "".join(f"<td>{_cell(row.get(name))}</td>" for name in names) + "</tr>" for row in self)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


class _Shown(Generic[T], Sequence[T]):
    """A sequence of results that shows its `rows`."""

    def __init__(self, items: Iterable[T]) -> None:
        self.items = tuple(items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: Any) -> Any:
        return self.items[index]

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    @property
    def rows(self) -> Rows:
        """The numbers, a row for each result."""
        raise NotImplementedError

    def frame(self) -> pd.DataFrame:
        """The rows as a pandas DataFrame. Raises ConfigError where pandas is not installed."""
        return self.rows.frame()

    def __repr__(self) -> str:
        return f"{type(self).__name__}\n" + "\n".join(f"  {_line(row)}" for row in self.rows)

    def _repr_html_(self) -> str:
        return self.rows._repr_html_()


@dataclass(frozen=True, repr=False)
class Run:
    """A run's directory; reads what is in it when it is asked."""

    path: Path

    @property
    def results(self) -> dict[str, Any]:
        """State, steps, last checkpoint and last metrics, as `gmpo-mm train --json` prints them."""
        from gmpo_mm.runs.run_results import run_results

        return run_results(self.path)

    def metrics(self, kind: str = "train") -> Rows:
        """The metrics of a kind ("train", "validation", "updates" or "experts"), a row a step.

        >>> gmpo_mm.load_run("runs/quickstart/gmpo").metrics("validation").frame()  # doctest: +SKIP
        """
        from gmpo_mm.runs.metrics_file import read_metrics

        return Rows({k: v for k, v in line.items() if k != "kind"} for line in read_metrics(self.path) if line["kind"] == kind)

    def __repr__(self) -> str:
        results = self.results
        of = f" of {results['total_steps']}" if results["total_steps"] else ""
        lines = [f"Run {self.path}: {results['state']}, step {results['step']}{of}"]
        lines += [f"  {kind}: {_line(_headline(results[kind]))}" for kind in ("train", "validation") if results[kind]]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        results = self.results
        rows = Rows({"kind": kind, **_headline(results[kind])} for kind in ("train", "validation") if results[kind])
        first = html.escape(repr(self).splitlines()[0])
        return f"<p>{first}</p>{rows._repr_html_()}"


class Evaluation(_Shown["Result"]):
    """The results of an evaluation, one for each benchmark, in the order they were asked for."""

    @property
    def rows(self) -> Rows:
        """Benchmark, Pass@1 with its 95 % interval, and shares of answers that were cut off, missing or not decided in time."""
        return Rows(
            {
                "benchmark": result.spec.name, "problems": result.summary["problems"],
                "pass_at_1": result.summary["pass_at_1"]["value"], "low": result.summary["pass_at_1"]["low"],
                "high": result.summary["pass_at_1"]["high"],
                **{key: result.summary[key] for key in ("truncated", "no_answer", "timeout")},
                **({"stopped_early_of": early["of"]} if (early := result.summary.get("stopped_early")) else {}),
            }
            for result in self
        )  # fmt: skip

    @property
    def path(self) -> Path:
        """The folder that holds the results."""
        return cast("Path", self.items[0].path.parent)


class Grades(_Shown["Grade"]):
    """One grade for each response."""

    @property
    def accuracy(self) -> float:
        """The share that is right."""
        return sum(grade.correct for grade in self) / len(self)

    @property
    def rows(self) -> Rows:
        """What was compared, whether it is right, and why."""
        return Rows({"correct": one.correct, "status": one.status, "extracted": one.extracted, "why": one.why} for one in self)

    def __repr__(self) -> str:
        return f"Grades: {sum(grade.correct for grade in self)} of {len(self)} right"


class Comparisons(_Shown["Comparison"]):
    """B against A, one for each benchmark that both have."""

    @property
    def rows(self) -> Rows:
        """Scores between 0 and 1, the difference B - A with its interval, and the p-value."""
        return Rows(
            {
                "benchmark": one.name, "problems": one.problems, "a": one.score_a, "b": one.score_b,
                "difference": one.difference, "low": one.interval.low, "high": one.interval.high, "p": one.p_holm,
                "verdict": one.verdict,
            }
            for one in self
        )  # fmt: skip


@dataclass(frozen=True, repr=False)
class WrittenReport:
    """A report's folder with its page (`html`), and the numbers on it (`numbers`)."""

    report: Report

    @property
    def html(self) -> Path:
        """The page."""
        return self.report.folder / "report.html"

    @property
    def numbers(self) -> dict[str, Any]:
        """report.json, as a dict."""
        return self.report.numbers

    @property
    def rows(self) -> Rows:
        """Mean scores and differences, a row for each score and variant."""
        return Rows(
            {
                "score": table["title"], "variant": row["variant"], "seeds": len(row["by_seed"]),
                **{key: row[key] and row[key].get("mean") for key in ("mean", "difference")},
            }
            for table in self.numbers["scores"]
            for row in table["rows"]
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"{self.report.headline}\n  {self.html}"

    def _repr_html_(self) -> str:
        link = html.escape(str(self.html))
        return f'<p>{html.escape(self.report.headline)}</p>{self.rows._repr_html_()}<p><a href="{link}">{link}</a></p>'


def load_config(config: str | Path | Mapping[str, Any] | None = None, overrides: Overrides = ()) -> LoadedConfig:
    """A run's configuration: a file, a shipped name or a mapping of sections, then the overrides; checked key by key.

    Overrides are `["worker.rollout.n=8"]` or `{"worker.rollout.n": 8}`. Raises ConfigError for unknown keys and wrong types.

    >>> loaded = gmpo_mm.load_config("quickstart", {"worker.rollout.n": 4})
    >>> loaded.config.worker.rollout.n
    4
    """
    from gmpo_mm.config import load_config as load

    if isinstance(config, Mapping):
        return load(None, [*_texts(config), *_texts(overrides)])
    return load(config, _texts(overrides))


def train(
    config: str | Path | Mapping[str, Any] | LoadedConfig, overrides: Overrides = (), *, overwrite: bool = False
) -> Run:
    """Train, and give back the run; a run that is there already goes on, as with `gmpo-mm train`.

    `overwrite` starts over. Raises ConfigError, DataError and RewardError before anything long begins, and StoppedRun when
    the process is asked to stop (the same call goes on then).

    >>> run = gmpo_mm.train("quickstart", {"trainer.max_steps": 3})  # doctest: +SKIP
    >>> run.metrics("validation").frame()  # doctest: +SKIP
    """
    from gmpo_mm.config import LoadedConfig
    from gmpo_mm.engines.checks import validate_for_training

    _quiet()
    if isinstance(config, LoadedConfig):
        if overrides:
            raise ConfigError("train: the configuration is loaded already; give the overrides to load_config")
        loaded = config
    else:
        loaded = load_config(config, overrides)
    validate_for_training(loaded)
    shown = str(config) if isinstance(config, (str, Path)) else "a configuration made in Python"
    return Run(start_training(loaded, ["gmpo_mm.train", shown, *_texts(overrides)], overwrite=overwrite))


def start_training(loaded: LoadedConfig, command: Sequence[str], *, overwrite: bool = False) -> Path:
    """Train a checked configuration on its engine; returns the run directory. `command` is what the run says made it."""
    from gmpo_mm.engines.checks import notes
    from gmpo_mm.engines.registry import engine_of
    from gmpo_mm.runs.progress import Progress

    progress = Progress()
    for line in notes(loaded):
        progress.log(line)
    return engine_of(loaded.config).train(loaded, list(command), progress, overwrite=overwrite)


def load_run(path: str | Path) -> Run:
    """The run in a directory, whether it is finished or not. Raises DataError where there is none.

    >>> gmpo_mm.load_run("runs/quickstart/gmpo").results["state"]  # doctest: +SKIP
    'finished'
    """
    run = Run(Path(path))
    if not (run.path / "run.json").is_file():
        raise DataError(f"{path}: no run is in this folder (no run.json); name a run directory, as runs/quickstart/gmpo")
    return run


def evaluate(
    model: str | Path | Run | None = None,
    benchmarks: str | Sequence[str] | None = None,
    *,
    config: str | Path | None = None,
    **settings: Any,
) -> Evaluation:
    """Evaluate a model (a folder, a hub name, `bundled:NAME`, a run) on benchmarks, by name or as YAML files.

    `config` is an evaluation's file or shipped name; `settings` are its keys (`n`, `limit`, `out`, `temperature`, ...). A
    finished evaluation in the same folder is read, not repeated. Raises ConfigError and DataError.

    >>> gmpo_mm.evaluate("bundled:qwen2_5_vl_tiny", "synthetic_pictures", limit=4, n=2)  # doctest: +SKIP
    """
    from gmpo_mm.evaluation.evaluate import evaluate as evaluate_model
    from gmpo_mm.evaluation.settings import load_settings

    _quiet()
    given = {**settings, "model": None if model is None else str(model.path if isinstance(model, Run) else model)}
    if benchmarks is not None:
        given["benchmarks"] = benchmarks if isinstance(benchmarks, str) else list(benchmarks)
    options = {key: str(value) if isinstance(value, Path) else value for key, value in given.items() if value is not None}
    loaded = load_settings(None if config is None else str(config), [], options)
    return Evaluation(evaluate_model(loaded, command=["gmpo_mm.evaluate", *_texts(options)]))


def grade(
    responses: Sequence[str | None],
    golds: Sequence[Any],
    *,
    grader: str = "math",
    extraction: str = "auto",
    kind: str = "response",
    timeout: float = 3.0,
    problems: Sequence[str | None] | None = None,
    unevaluated: str = "accept",
) -> Grades:
    """Grade responses against golds (a gold may be a list: any of them counts); see `gmpo-mm grade --help` for the rest.

    Raises ConfigError for an argument that can't be meant. A file is graded by `grade_file`.

    >>> gmpo_mm.grade(["It is \\\\boxed{1/2}", "\\\\boxed{3}"], ["0.5", "4"])
    Grades: 1 of 2 right
    """
    from gmpo_mm.verifiers import grade_responses

    if isinstance(responses, str) or isinstance(golds, str):
        raise ConfigError("grade: give lists, grade([response], [gold]); a file is graded by grade_file")
    if not len(responses):
        raise ConfigError("grade: no responses were given, so there is nothing to grade")
    try:
        grades = grade_responses(
            grader, responses, golds, extraction=extraction, timeout=timeout, kind=kind, problems=problems,
            unevaluated=unevaluated,
        )  # fmt: skip
    except ValueError as error:
        raise ConfigError(f"grade: {error}") from error
    return Grades(grades)


def grade_file(file: str | Path, **settings: Any) -> GradeFileReport:
    """Grade a file of responses; `settings` are the options of `gmpo-mm grade` (`gold_key`, `by`, `out`, ...).

    >>> gmpo_mm.grade_file("responses.jsonl", gold_key="answer").total.accuracy  # doctest: +SKIP
    """
    from dataclasses import fields

    from gmpo_mm.evaluation.grade_file import GradeFileSettings
    from gmpo_mm.evaluation.grade_file import grade_file as grade_rows

    known = [item.name for item in fields(GradeFileSettings)]
    if unknown := sorted(set(settings) - set(known)):
        raise ConfigError(f"grade_file: {unknown[0]} is not known; there are {', '.join(known[1:])}")
    return grade_rows(GradeFileSettings(str(file), **settings))


def compare(a: str | Path | Evaluation | Result, b: str | Path | Evaluation | Result) -> Comparisons:
    """Compare two results on the same problems, or the benchmarks that two folders of results both hold: B against A.

    Raises DataError for results that can't be compared, naming every difference.

    >>> gmpo_mm.compare("evaluations/before", "evaluations/after")[0].verdict  # doctest: +SKIP
    """
    from gmpo_mm.evaluation.compare import compare as compare_folders

    return Comparisons(compare_folders(_folder(a), _folder(b)))


def load_step(run: str | Path, step: int | None = None) -> StepRecord:
    """A recorded step of a run (`trainer.record_steps`), as tensors: `load_step("runs/r", 37).advantages_BT`.

    `run` may also be one of the record's files. Raises DataError where there is no such record, or a damaged one.
    """
    from gmpo_mm.runs.step_record import load_step

    return load_step(run, step)


def diff(a: str | Path | Run, b: str | Path | Run, step: int | None = None) -> Diff:
    """The first stage at which a step of two runs, records or dumps of other projects parts, and the likely cause.

    Raises DataError for what can't be read, or has nothing in common.

    >>> gmpo_mm.diff("runs/local", "runs/verl", 1).first.causes  # doctest: +SKIP
    """
    from gmpo_mm.inspection.diff import diff as compare_steps

    one, other = (side.path if isinstance(side, Run) else side for side in (a, b))
    return compare_steps(one, other, step)


def replay(
    run: str | Path | Run,
    step: int | None = None,
    overrides: Overrides = (),
    *,
    weights: str | Path | None = None,
    trust_code: bool = False,
) -> Replay:
    """Do the update of a recorded step again (`same`, `stages`), and with overrides another one beside it (`two`).

    Writes nothing. `trust_code` lets code run that the record names (a loss in a file, a model's own code). Raises DataError
    where the record or the weights before the step are missing, ConfigError for overrides that no update reads.

    >>> gmpo_mm.replay("runs/r", 37, {"worker.actor.loss_type": "default"}).two.cosine  # doctest: +SKIP
    """
    from gmpo_mm.inspection.replay import replay as replay_step

    _quiet()
    path = run.path if isinstance(run, Run) else run
    given = None if weights is None else str(weights)
    return replay_step(path, step, _texts(overrides), weights=given, trust_code=trust_code)


def report(*runs: str | Path | Run, out: str | Path | None = None, target_score: float | None = None) -> WrittenReport:
    """Write the report of runs or sweeps: one page, pictures, tables. Raises DataError for what can't be read.

    >>> gmpo_mm.report("runs/quickstart/gmpo", "runs/quickstart/grpo").html  # doctest: +SKIP
    """
    from gmpo_mm.reports.report import write_report

    if not runs:
        raise ConfigError("report: no run was given; name run directories or a sweep's")
    paths = [run.path if isinstance(run, Run) else Path(run) for run in runs]
    return WrittenReport(write_report(paths, None if out is None else Path(out), target_score=target_score))


def _quiet() -> None:
    from gmpo_mm.runs import third_party

    third_party.quiet()


def _folder(result: str | Path | Evaluation | Result) -> Path:
    return Path(result) if isinstance(result, (str, Path)) else result.path


def _texts(overrides: Overrides) -> list[str]:
    """`key=value` for each; a value that is no text is written as JSON, which YAML reads as the same value."""
    if isinstance(overrides, str):
        raise ConfigError(f"overrides = {overrides!r}: a list of key=value or a mapping is expected, [{overrides!r}]")
    if not isinstance(overrides, Mapping):
        return [str(text) for text in overrides]
    return [f"{key}={json.dumps(value, default=str)}" for key, value in overrides.items()]


def _headline(line: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics that say how a run goes, of a line of metrics.jsonl."""
    wanted = (
        "step", "reward/accuracy", "reward/overall", "val/accuracy_reward", "val/overall_reward", "actor/entropy",
        "response_length/mean", "val_response_length/mean",
    )  # fmt: skip
    return {name: line[name] for name in wanted if name in line}


def _line(row: Mapping[str, Any]) -> str:
    return "  ".join(f"{name} {_text(value)}" for name, value in row.items())


def _text(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "-" if value is None else str(value)


def _cell(value: Any) -> str:
    return html.escape(_text(value))
