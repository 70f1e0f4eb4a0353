"""What an evaluation will do, found out before any model is loaded: problems, protocol, grader, directory."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gmpo_mm.config import resolve_model_path
from gmpo_mm.credentials import hide_command
from gmpo_mm.data.gold_check import check_golds
from gmpo_mm.data.records import Record, check_records
from gmpo_mm.errors import ConfigError, DataError
from gmpo_mm.evaluation.benchmark import Benchmark, Template, load_template, make_protocol, open_benchmark, problem_set_hash
from gmpo_mm.evaluation.generators import PromptOptions
from gmpo_mm.evaluation.results import SUMMARY, GraderInfo, Spec, damage, read_spec
from gmpo_mm.evaluation.settings import EvaluateSettings, protocol_changes
from gmpo_mm.machine_errors import writing
from gmpo_mm.models.adapters import lineage
from gmpo_mm.runs.progress import Progress
from gmpo_mm.verifiers.graders import GRADERS, grader_info


@dataclass(frozen=True)
class Task:
    """One benchmark of an evaluation, resolved and checked."""

    benchmark: Benchmark
    template: Template
    records: list[Record]
    spec: Spec
    path: Path
    prompt_tokens: tuple[int, ...] = ()
    """Of each problem; empty until a local model has measured them."""


def check_names(settings: EvaluateSettings, benchmarks: Sequence[Benchmark]) -> None:
    names = [benchmark.name for benchmark in benchmarks]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"benchmarks: {name} is named twice; its results would lie in one directory")
    for name in settings.records:
        if name not in names:
            raise ConfigError(f"records.{name}: {name} is not among the benchmarks {', '.join(names)}")


def make_task(
    settings: EvaluateSettings, benchmark: Benchmark, model: str, command: Sequence[str], progress: Progress
) -> Task:
    """Open and check one benchmark's problems and say what will be done with them."""
    template = load_template(settings.template or benchmark.template)
    protocol = make_protocol(benchmark, template, protocol_changes(settings))
    grader = settings.grader or benchmark.grader
    if grader not in GRADERS:
        raise ConfigError(f"grader={grader} is not known; use one of {', '.join(GRADERS)}")
    extraction = settings.extraction or (
        benchmark.extraction if benchmark.extraction and settings.template is None else template.extraction
    )
    info = GraderInfo(**grader_info(grader, extraction, settings.grade_timeout, settings.unevaluated))
    rows = open_benchmark(benchmark, settings.records.get(benchmark.name), settings.limit)
    with progress.stage(f"checking {benchmark.name}", len(rows), "problems") as stage:
        check_records(rows, decode_images=True, progress=lambda done, _: stage.update(done))
    records = list(rows)
    _check_golds(records, grader, benchmark, progress)
    label = benchmark.name if settings.limit is None else f"{benchmark.name}[:{settings.limit}]"
    spec = Spec(
        benchmark=label,
        protocol=protocol,
        grader=info,
        model=model or settings.model,
        backend="",
        seed=settings.seed,
        problems=len(records),
        problem_set=problem_set_hash(records),
        stop_when_decided=settings.stop_when_decided,
        command=tuple(hide_command(command)),
    )
    return Task(benchmark, template, records, spec, output_folder(settings, model) / _slug(label))


def _check_golds(records: list[Record], grader: str, benchmark: Benchmark, progress: Progress) -> None:
    """Tell what golds no short answer can equal; DataError where most are such, or one is none of the grader's."""
    check = GRADERS[grader].check_gold
    if check is None:
        report = check_golds(records, benchmark.name)
        for text in report.notes():
            progress.warn(text) if report.faulty else progress.log(text)
        if report.is_hopeless:
            raise DataError(report.refusal(f"answer_key in {benchmark.where}"))
        return
    for record in records:
        try:
            check(list(record.answers))
        except ValueError as error:
            raise DataError(f"{record.where}: {error}") from None


def output_folder(settings: EvaluateSettings, model: str) -> Path:
    """`out`, else evaluations/<model>."""
    if settings.out is not None:
        return Path(settings.out)
    name = (model or settings.model or "server").rstrip("/")
    silent = ("", ".", "..", "~", "huggingface", "actor", "checkpoints", "bundled")
    parts = [part for part in re.split(r"[/\\:]", name) if part not in silent]
    return Path("evaluations") / _slug("-".join(parts[-3:]) or "model")


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "x"


def prepare_directory(task: Task, overwrite: bool) -> bool:
    """Whether the evaluation is finished already; ConfigError for a directory that holds something else."""
    path = task.path
    if (path / "evaluation.json").is_file():
        if overwrite:
            for name in (SUMMARY, "samples.jsonl", "page.html", "evaluation.json"):
                with writing(path / name):
                    (path / name).unlink(missing_ok=True)
            return False
        different = spec_differences(read_spec(path), task.spec)
        if different:
            raise ConfigError(
                f"{path} holds another evaluation:\n"
                + "\n".join(f"  {key}: {old!r} there, {new!r} now" for key, old, new in different)
                + "\nGive another out=FOLDER, or overwrite=true to replace it"
            )
        return (path / SUMMARY).is_file()
    ours = ("problems.jsonl", "pictures", ".lock", ".problems.jsonl.tmp", ".evaluation.json.tmp")  # killed at its beginning
    foreign = sorted(item.name for item in path.iterdir() if item.name not in ours) if path.is_dir() else []
    if foreign:
        held = ", ".join(foreign[:5])
        raise ConfigError(f"out: {path} holds {held} and no evaluation.json; restore it, or give another out=FOLDER")
    return False


def set_damaged_aside(path: Path) -> str | None:
    """Make a finished evaluation whose files were damaged an unfinished one; what was wrong, or None.

    Damaged samples are kept as samples.jsonl.damaged: which of them are still right is not known.
    """
    try:
        what = damage(path) if (path / SUMMARY).is_file() else None
    except DataError as error:
        what = str(error)
    if what is not None:
        with writing(path):
            if (path / "samples.jsonl").exists() and "samples.jsonl" in what:
                (path / "samples.jsonl").replace(path / "samples.jsonl.damaged")
            (path / SUMMARY).unlink()
    return what


def spec_differences(old: Spec, new: Spec) -> list[tuple[str, Any, Any]]:
    """(key, old, new) of everything that decides the samples and grades; backend and versions are checked later."""
    free: tuple[str, ...] = ("environment", "command", "backend")
    a, b = _flat(asdict(old)), _flat(asdict(new))
    if not new.model:  # a server's only model, whose name is known when it has been asked
        free += ("model",)
    return [(key, a.get(key), b.get(key)) for key in {**a, **b} if key.split(".")[0] not in free and a.get(key) != b.get(key)]


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def without_secrets(command: Sequence[str], server: str | None) -> list[str]:
    """The command line as a result may show it: of the server's URL without user, password and query."""
    if server is None:
        return hide_command(command)
    from gmpo_mm.evaluation.server import without_credentials

    return hide_command(argument.replace(server, without_credentials(server)) for argument in command)


def model_hash(model: str, progress: Progress) -> str:
    """SHA-256 over a local model's weights and configuration, so that a result can be traced to them; "" for a hub name.

    Of an adapter those of its base go in as well, unless that is the hub's.
    """
    folders = [Path(name) for name in lineage(resolve_model_path(model)) if Path(name).is_dir()]
    suffixes = (".safetensors", ".json", ".jinja", ".txt", ".model")
    files = [file for folder in folders for file in sorted(folder.iterdir()) if file.suffix in suffixes]
    if not files:
        return ""
    digest = hashlib.sha256()
    with progress.stage(f"hashing {model}", len(files), "files") as stage:
        for done, file in enumerate(files, start=1):
            digest.update(file.name.encode() + b"\0")
            with file.open("rb") as stream:
                while block := stream.read(1 << 22):
                    digest.update(block)
            stage.update(done)
    return digest.hexdigest()


def prompt_options(task: Task) -> PromptOptions:
    benchmark, template = task.benchmark, task.template
    return PromptOptions(template.format_prompt, benchmark.min_pixels, benchmark.max_pixels, template.chat_template)
