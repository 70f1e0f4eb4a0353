"""A benchmark as a task for another evaluation tool: `gmpo-mm export-task NAME --for lm_eval`.

problems.jsonl   id, problem, prompt (after the template), answers, type, pictures (files), one line a problem
pictures/        what the model sees: RGB, within the benchmark's min_pixels and max_pixels, without loss
task.json        grader, protocol, template, problem set; `lm_eval_task` reads it
functions.py     two lines that lead lm-eval to `gmpo_mm.evaluation.lm_eval_task`
task.yaml        the task as lm-eval reads it (written last; without it the folder is no task)
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from gmpo_mm.data import templates
from gmpo_mm.data.prompts import build_messages, load_images
from gmpo_mm.data.records import IMAGE_MARK, Record
from gmpo_mm.errors import ConfigError
from gmpo_mm.evaluation.benchmark import Template, load_benchmark, to_problem
from gmpo_mm.evaluation.lm_eval_task import FORMAT, PROBLEMS, TASK, metric_names
from gmpo_mm.evaluation.results import Protocol
from gmpo_mm.evaluation.settings import load_settings
from gmpo_mm.evaluation.task import Task, make_task
from gmpo_mm.machine_errors import writing
from gmpo_mm.runs.files import make_own_folder, open_new, remove_tree, sha256, write_atomically
from gmpo_mm.runs.progress import Progress
from gmpo_mm.version import VERSION

TOOLS = ("lm_eval",)
KEYS = (
    "records", "limit", "template", "grader", "extraction", "grade_timeout", "unevaluated",
    "n", "temperature", "top_p", "top_k", "max_tokens",
)  # fmt: skip
"""Keys of an evaluation that say what is asked and how it is graded; the others are the tool's own affair."""
TASK_FILE, FUNCTIONS, PICTURES = "task.yaml", "functions.py", "pictures"
_FUNCTIONS = """from gmpo_mm.evaluation.lm_eval_task import task_class

Task = task_class(__file__)
"""


@dataclass(frozen=True)
class ExportedTask:
    """Where a task was written, and what is needed to run it."""

    path: Path
    name: str
    problems: int
    has_pictures: bool
    chat: bool
    """Whether the tool has to apply the model's chat template; otherwise the prompt holds all."""

    def command(self) -> str:
        """The command of lm-eval; MODEL stands for a folder or a hub name."""
        model = "hf-multimodal" if self.has_pictures else "hf"
        chat = " --apply_chat_template" if self.chat else ""
        return (
            f"lm-eval run --model {model} --model_args pretrained=MODEL --include_path {self.path} "
            f"--tasks {self.name}{chat} --log_samples --output_path OUT"
        )


def export_task(
    name: str, changes: Sequence[str] = (), *, tool: str = "lm_eval", out: str | None = None,
    overwrite: bool = False, progress: Progress | None = None,
) -> ExportedTask:  # fmt: skip
    """Write the benchmark `name`, with `changes` (key=value), as a task for `tool`.

    Raises ConfigError for what the tool could not follow, DataError for problems that are not in order.
    """
    if tool.replace("-", "_") not in TOOLS:
        raise ConfigError(f"--for={tool} is not known; use one of {', '.join(TOOLS)}")
    for change in changes:
        key = change.partition("=")[0].partition(".")[0].strip()
        if key not in KEYS:
            raise ConfigError(
                f"{change}: an exported task has no such key; those that it has are {', '.join(KEYS)}"
            )
    # The model is the tool's; the settings only want one to be named.
    settings = load_settings(None, changes, {"benchmarks": [name], "model": tool})
    benchmark = load_benchmark(name)
    with progress or Progress() as progress:
        task = make_task(settings, benchmark, "", (), progress)
        folder = Path(out) if out is not None else Path("lm_eval_tasks") / benchmark.name
        _check_folder(folder, overwrite)
        prompts = [prompt(record, task.template) for record in task.records]
        return _write(task, prompts, folder, progress)


def prompt(record: Record, template: Template) -> str:
    """The prompt's text, IMAGE_MARK for each picture: what the model's chat template gets, or all of it where
    the template brings its own.
    """
    messages = build_messages(record, template.format_prompt)
    content = messages[0]["content"]
    if not isinstance(content, str):
        content = "".join(part.get("text", IMAGE_MARK) for part in content)
    if template.chat_template is None:
        return content
    if record.images:
        raise ConfigError(
            f"template={template.name}: it stands in for the chat template and has no place for "
            f"{record.where}'s pictures; choose one with format_prompt, as geometry3k"
        )
    try:
        unknown = templates.variables("chat", template.chat_template) - {"messages", "add_generation_prompt"}
        if unknown:
            raise ConfigError(
                f"template={template.name}: it uses {', '.join(sorted(unknown))}, which only a model's "
                "tokenizer knows; write the text itself, or choose a template without it"
            )
        return templates.render(
            "chat", template.chat_template, {"messages": messages, "add_generation_prompt": True}
        )
    except templates.TemplateError as error:
        raise ConfigError(
            f"template={template.name}: chat_template can't be rendered: {error}; correct it"
        ) from None


def _check_folder(folder: Path, overwrite: bool) -> None:
    """ConfigError for a folder that holds anything but the beginning of an export."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out {folder}: is a file; name a folder")
    if (folder / TASK_FILE).exists() and not overwrite:
        raise ConfigError(f"--out {folder}: holds a task; give --overwrite to replace it, or another folder")
    ours = (TASK_FILE, FUNCTIONS, PICTURES, TASK, PROBLEMS, "__pycache__")
    held = [item.name for item in folder.iterdir()] if folder.is_dir() else []
    foreign = sorted(name for name in held if name not in ours and name[1:].removesuffix(".tmp") not in ours)
    if foreign:
        raise ConfigError(
            f"--out {folder}: holds {', '.join(foreign[:5])}, which are no task's files; name another folder"
        )


def _write(task: Task, prompts: Sequence[str], folder: Path, progress: Progress) -> ExportedTask:
    spec, chat = task.spec, task.template.chat_template is None
    with writing(folder, "--out: "):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / TASK_FILE).unlink(missing_ok=True)
        remove_tree(folder / PICTURES)
    lines, has_pictures = [], False
    with progress.stage(f"writing {folder}", len(prompts), "problems") as stage:
        for index, (record, text) in enumerate(zip(task.records, prompts, strict=True)):
            pictures = _write_pictures(task, record, index, folder)
            has_pictures = has_pictures or bool(pictures)
            problem = to_problem(index, record, task.benchmark.type_key)
            row = {
                "id": problem.id, "problem": problem.text, "prompt": text, "answers": list(problem.golds),
                "type": problem.type, "pictures": pictures,
            }  # fmt: skip
            # escaped, so that no text holds what a reader takes for the end of a line
            lines.append(json.dumps(row) + "\n")
            stage.update(index + 1)
    write_atomically(folder / PROBLEMS, "".join(lines))
    about = {
        "format": FORMAT, "gmpo_mm": VERSION, "benchmark": spec.benchmark, "protocol": asdict(spec.protocol),
        "grader": asdict(spec.grader), "problem_set": spec.problem_set,
        "chat": chat, "problems_sha256": sha256(folder / PROBLEMS),
    }  # fmt: skip
    write_atomically(folder / TASK, json.dumps(about, indent=2) + "\n")
    write_atomically(folder / FUNCTIONS, _FUNCTIONS)
    name = task_name(spec.benchmark, spec.protocol)
    write_atomically(folder / TASK_FILE, _yaml(name, task, has_pictures))
    return ExportedTask(folder, name, len(lines), has_pictures, chat)


def _write_pictures(task: Task, record: Record, index: int, folder: Path) -> list[str]:
    """Write a problem's pictures; their names from the folder on."""
    names = []
    limits = {"min_pixels": task.benchmark.min_pixels, "max_pixels": task.benchmark.max_pixels}
    for number, picture in enumerate(load_images(record, **limits)):
        names.append(f"{PICTURES}/{index:05d}_{number}.png")
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        with writing(folder / names[-1]):
            make_own_folder(folder / PICTURES)
            with open_new(folder / names[-1], "wb") as file:
                file.write(buffer.getvalue())
    return names


def task_name(benchmark: str, protocol: Protocol) -> str:
    """`gmpo_geometry3k`; what departs from the protocol is part of it: `gmpo_geometry3k_n_4`."""
    changes = protocol.name.partition("(")[2]
    return "gmpo_" + re.sub(r"[^A-Za-z0-9.]+", "_", f"{benchmark} {changes}").strip("_.")


def generation(protocol: Protocol) -> dict[str, Any]:
    """The protocol in the words of lm-eval and transformers.

    Everything that a model's own generation_config.json could bring in is set: Qwen2.5-VL's has a repetition
    penalty. No text stops the sampling: lm-eval cuts a stop text off, and </answer> is part of an answer;
    responses are cut when they are graded.
    """
    sampled = {
        "do_sample": True,
        "temperature": protocol.temperature,
        "top_p": protocol.top_p,
        "top_k": max(protocol.top_k, 0),
    }
    how = sampled if protocol.temperature > 0 else {"do_sample": False, "temperature": 0.0}
    return {**how, "repetition_penalty": 1.0, "max_gen_toks": protocol.max_tokens, "until": []}


def _yaml(name: str, task: Task, has_pictures: bool) -> str:
    protocol, grader = task.spec.protocol, task.spec.grader
    values: dict[str, Any] = {
        "task": name,
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "prompt",
        **({"doc_to_image": "pictures"} if has_pictures else {}),
        "doc_to_target": "answers",
        "generation_kwargs": generation(protocol),
        "repeats": protocol.n,
        "filter_list": [{"name": "all", "filter": [{"function": "take_first_k", "k": protocol.n}]}],
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": metric.startswith("pass@")}
            for metric in metric_names(protocol.n)
        ],
        "metadata": {"version": grader.version, "protocol": protocol.describe(), "grader": grader.name},
    }
    head = (
        f"# {task.spec.name}, {len(task.records)} problems.\n"
        f"# Written by gmpo-mm {VERSION}, which has to be installed beside lm-eval.\n"
    )
    return (
        head
        + "class: !function functions.Task\n"
        + yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    )
