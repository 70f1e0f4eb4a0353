"""Evaluate a model on benchmarks: sample, grade, write every sample down, sum up. Killed anywhere, it goes on."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gmpo_mm.config.schema import Config
from gmpo_mm.data.images import load_image
from gmpo_mm.errors import ConfigError, DataError, GMPOError
from gmpo_mm.evaluation.benchmark import load_benchmark, to_problem
from gmpo_mm.evaluation.early_stop import batches_until_decided, used_problems
from gmpo_mm.evaluation.generators import Generated, Generator, LocalGenerator, LocalModel
from gmpo_mm.evaluation.page import scale_picture, write_page
from gmpo_mm.evaluation.results import (
    Result,
    Sample,
    Spec,
    read_result,
    read_spec,
    spec_to_json,
    to_json_line,
    write_summary,
)
from gmpo_mm.evaluation.settings import EvaluateSettings, with_own_keys
from gmpo_mm.evaluation.statistics import summarise
from gmpo_mm.evaluation.task import (
    Task,
    check_names,
    make_task,
    model_hash,
    prepare_directory,
    prompt_options,
    set_damaged_aside,
    without_secrets,
)
from gmpo_mm.machine_errors import memory_for, writing
from gmpo_mm.rollout.seeds import evaluation_seed
from gmpo_mm.runs.environment import describe_environment
from gmpo_mm.runs.files import make_own_folder, open_appending, open_new, write_atomically
from gmpo_mm.runs.lock import DirectoryLock
from gmpo_mm.runs.progress import Progress
from gmpo_mm.runs.reading import read_rows
from gmpo_mm.runs.usable_model import usable_model
from gmpo_mm.verifiers import warm_up
from gmpo_mm.verifiers.graders import grade_responses

if TYPE_CHECKING:
    from gmpo_mm.evaluation.server import ServerGenerator

GRADE_AT_ONCE = 64
"""Responses that are graded, and written down, together."""

MEMORY_ADVICE = (
    "lower batch (responses sampled at once) or max_tokens, end what else uses the device, or take a smaller model; the same "
    "command goes on"
)


def evaluate(settings: EvaluateSettings, command: Sequence[str] = (), progress: Progress | None = None) -> list[Result]:
    """Evaluate `settings.model` on every benchmark; returns the results in that order.

    Everything that can be wrong in settings, data and prompts is found before the first sample. Raises ConfigError and
    DataError.
    """
    with progress or Progress() as progress:
        try:
            return _evaluate(settings, command, progress)
        except GMPOError as error:
            raise with_own_keys(error) from error


def _evaluate(settings: EvaluateSettings, command: Sequence[str], progress: Progress) -> list[Result]:
    model = settings.model if settings.server is not None else usable_model(settings.model, "model", progress.log)
    command = without_secrets(command, settings.server)
    benchmarks = [load_benchmark(name) for name in settings.benchmarks]
    check_names(settings, benchmarks)
    tasks = [make_task(settings, benchmark, model, command, progress) for benchmark in benchmarks]
    if settings.server is None:
        weights = model_hash(model, progress)
        tasks = [replace(task, spec=replace(task.spec, model_hash=weights)) for task in tasks]
    open_tasks = []
    for task in tasks:
        if not settings.overwrite and (what := set_damaged_aside(task.path)):
            progress.warn(f"{task.path}: finished, but {what}; what is missing is sampled again")
        if prepare_directory(task, settings.overwrite):
            progress.log(f"{task.spec.name}: finished before, in {task.path}; overwrite=true would start again")
        else:
            open_tasks.append(task)
    if open_tasks:
        _evaluate_tasks(settings, open_tasks, model, progress)
    return [read_result(task.path) for task in tasks]


def _evaluate_tasks(settings: EvaluateSettings, tasks: Sequence[Task], model: str, progress: Progress) -> None:
    """Load the model once, or ask the server, and evaluate task after task."""
    if settings.server is not None:
        for task in tasks:
            with contextlib.closing(_server_generator(settings, task, progress)) as server:
                named = replace(task, spec=replace(task.spec, model=server.model))
                _evaluate_task(settings, named, server, None, progress)
                for caveat in server.caveats:
                    progress.warn(caveat)
        return
    with contextlib.closing(_local_model(settings, tasks, model, progress)) as local:
        measured = [local.measure(task.records, prompt_options(task), task.spec.protocol) for task in tasks]
        local.start()
        for task, tokens in zip(tasks, measured):
            task = replace(task, prompt_tokens=tuple(tokens))
            generator = LocalGenerator(local, prompt_options(task), settings.batch)
            _evaluate_task(settings, task, generator, str(local.device), progress)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with writing(path, "out: "):
        path.mkdir(parents=True, exist_ok=True)
        lock = DirectoryLock(path / ".lock")
    try:
        yield
    finally:
        lock.release()


def _evaluate_task(
    settings: EvaluateSettings, task: Task, generator: Generator, device: str | None, progress: Progress
) -> None:
    """Sample and grade what is missing, then sum up."""
    environment = describe_environment(device) | {"caveats": list(generator.caveats)}
    spec = replace(task.spec, backend=generator.name, environment=environment)
    with _locked(task.path):
        _begin(task, spec)
        done = keep_whole_problems(task.path / "samples.jsonl", spec.protocol.n, progress)
        if done:
            progress.log(f"{spec.name}: going on in {task.path}; {len(done)} of {len(task.records)} problems are there")
        if spec.stop_when_decided is not None:
            at_once = max(1, settings.batch // spec.protocol.n)
            batches = batches_until_decided(spec.seed, spec.problems, spec.stop_when_decided, done, at_once)
        else:
            missing = [i for i in range(len(task.records)) if i not in done]
            if task.prompt_tokens:  # prompts of one call are about equally long, and what takes most memory comes first
                missing.sort(key=lambda i: -task.prompt_tokens[i])
            batches = iter([missing] if missing else [])
        _sample(settings, task, spec, generator, batches, done, progress)
        finish(task.path, progress)


def _server_generator(settings: EvaluateSettings, task: Task, progress: Progress) -> ServerGenerator:
    from gmpo_mm.evaluation.server import ServerGenerator, without_credentials

    assert settings.server is not None
    with progress.stage(f"asking {without_credentials(settings.server)} for its models"):
        return ServerGenerator(
            settings.server, settings.model or None, concurrency=settings.concurrency, retries=settings.retries,
            timeout=settings.request_timeout, **asdict(prompt_options(task)),
        )  # fmt: skip


def _local_model(settings: EvaluateSettings, tasks: Sequence[Task], model: str, progress: Progress) -> LocalModel:
    config = Config()
    config.worker.actor.model.model_path = model
    config.worker.actor.model.trust_remote_code = settings.trust_remote_code
    config.worker.actor.model.enable_gradient_checkpointing = False
    config.worker.rollout.name = settings.backend
    config.data.max_response_length = max(task.spec.protocol.max_tokens for task in tasks)
    config.worker.rollout.gpu_memory_utilization = settings.gpu_memory_utilization
    config.worker.rollout.limit_images = max(len(record.images) for task in tasks for record in task.records)
    config.trainer.device, config.trainer.dtype = settings.device, settings.dtype
    if settings.threads is not None:
        import torch

        torch.set_num_threads(settings.threads)
    return LocalModel(config, progress)


def _begin(task: Task, spec: Spec) -> None:
    """Write what is asked for and the problems, where they are not there; on going on, check that the sampler is the same."""
    path = task.path
    going_on = (path / "evaluation.json").is_file()
    if going_on:
        old = read_spec(path)
        for key in ("backend", "model"):
            if getattr(old, key) != getattr(spec, key):
                raise ConfigError(
                    f"{path}: {key} was {getattr(old, key)!r} when the evaluation began and is {getattr(spec, key)!r} now; "
                    "restore it, or give overwrite=true or another out=FOLDER"
                )
    with writing(path / "pictures"):
        make_own_folder(path / "pictures")
    lines = []
    for index, record in enumerate(task.records):
        names = [f"pictures/{index:05d}_{number}.png" for number in range(len(record.images))]
        for name, image in zip(names, record.images, strict=True):
            if not (going_on and (path / name).is_file()):
                picture = scale_picture(load_image(image, None, None, record.where))
                with writing(path / name), open_new(path / name, "wb") as file:
                    file.write(picture)
        lines.append(to_json_line(to_problem(index, record, task.benchmark.type_key, tuple(names))))
    text = "".join(lines)
    problems = path / "problems.jsonl"
    if not (going_on and problems.is_file() and problems.read_bytes() == text.encode()):
        write_atomically(problems, text)
    if not going_on:
        write_atomically(path / "evaluation.json", spec_to_json(spec))


def keep_whole_problems(path: Path, n: int, progress: Progress) -> dict[int, float]:
    """Problem -> its share of right samples, where all `n` are on the disk; lines of others, cut short by a kill, are removed.

    A damaged file is kept as samples.jsonl.damaged, and nothing of it is used.
    """
    try:
        samples = read_rows(path, Sample, "it is set aside, and all is sampled again")
    except DataError as error:
        progress.warn(str(error))
        with writing(path):
            path.replace(path.with_name(f"{path.name}.damaged"))
        return {}
    count, right = Counter(sample.index for sample in samples), Counter(sample.index for sample in samples if sample.correct)
    whole = {index: right[index] / n for index, there in count.items() if there == n}
    if path.is_file():
        write_atomically(path, "".join(to_json_line(sample) for sample in samples if sample.index in whole))
    return whole


def _sample(
    settings: EvaluateSettings,
    task: Task,
    spec: Spec,
    generator: Generator,
    batches: Iterable[list[int]],
    done: dict[int, float],
    progress: Progress,
) -> None:
    """Sample the problems of each batch; grade, append and add to `done` whenever enough are there.

    The next batch is asked for when all of one is in `done`.
    """
    first = next(batches := iter(batches), None)
    if first is None:
        return
    protocol = spec.protocol
    warm_up(wait=False)
    waiting: list[tuple[int, list[Generated]]] = []
    with (
        _appended(task.path / "samples.jsonl") as append,
        progress.stage(f"{spec.name}: sampling with {generator.name}", len(task.records), "problems") as stage,
    ):
        finished, batch = len(done), first

        def flush() -> None:
            samples = grade(task, spec, waiting)
            append("".join(map(to_json_line, samples)))
            right = Counter(sample.index for sample in samples if sample.correct)
            done.update({index: right[index] / protocol.n for index, _ in waiting})
            waiting.clear()

        def on_done(position: int, responses: list[Generated]) -> None:
            nonlocal finished
            waiting.append((batch[position], responses))
            finished += 1
            stage.update(finished)
            if len(waiting) * protocol.n >= GRADE_AT_ONCE:
                flush()

        try:
            with memory_for(f"{spec.name}: sampling", MEMORY_ADVICE):
                for batch in itertools.chain([first], batches):
                    records, seeds = [task.records[i] for i in batch], [evaluation_seed(settings.seed, i) for i in batch]
                    generator.generate(records, protocol, seeds, on_done, lambda text: stage.update(finished, text))
                    flush()
        finally:
            flush()  # what is finished is kept, whatever ended the sampling


@contextlib.contextmanager
def _appended(path: Path) -> Iterator[Callable[[str], None]]:
    """A function that writes text at the end of a file and flushes it to the disk."""
    with writing(path):
        file = open_appending(path, "ab", buffering=0)
    with file:

        def append(text: str) -> None:
            left = memoryview(text.encode("utf-8"))
            with writing(path):
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())

        yield append


def grade(task: Task, spec: Spec, groups: Sequence[tuple[int, list[Generated]]]) -> list[Sample]:
    """Grade the responses of (problem's index, its responses)."""
    flat = [(index, number, response) for index, responses in groups for number, response in enumerate(responses)]
    grades = grade_responses(
        spec.grader.name,
        [response.text for _, _, response in flat],
        [task.records[index].answers for index, _, _ in flat],
        extraction=spec.grader.extraction,
        timeout=spec.grader.timeout,
        problems=[task.records[index].problem for index, _, _ in flat],
        unevaluated=spec.grader.unevaluated,
    )
    return [
        Sample(
            index=index, id=task.records[index].id, sample=number, response=response.text, extracted=grade.extracted,
            correct=grade.correct, status=grade.status, why=grade.why, tokens=response.tokens, stop_reason=response.stop_reason,
        )
        for (index, number, response), grade in zip(flat, grades, strict=True)
    ]  # fmt: skip


def finish(path: Path, progress: Progress) -> Result:
    """Put the samples in order and write the numbers and the page: the same bytes whatever was killed on the way."""
    result = read_result(path)
    with progress.stage(f"{result.spec.name}: summing up"):
        if (used := used_problems(result)) is not None:  # a batch may go on beyond the decision
            result = replace(result, samples=tuple(sample for sample in result.samples if sample.index in set(used)))
        write_atomically(path / "samples.jsonl", "".join(map(to_json_line, result.samples)))
        summary = summarise(result, seed=result.spec.seed)
        write_page(path)
        write_summary(path, summary)
    return result
