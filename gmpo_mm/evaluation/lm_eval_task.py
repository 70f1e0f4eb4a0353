"""What a task of `gmpo-mm export-task` does in lm-eval: gives problems and pictures, grades as we do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gmpo_mm.errors import DataError
from gmpo_mm.evaluation.statistics import pass_at_k, powers_of_two
from gmpo_mm.runs.files import sha256
from gmpo_mm.verifiers.graders import grade_responses

FORMAT = 1
"""Raised when a key of task.json changes its meaning."""
TASK, PROBLEMS = "task.json", "problems.jsonl"
STATUSES = ("no_answer", "timeout", "error")


def metric_names(n: int) -> list[str]:
    """What `scores` gives for `n` responses a problem: Pass@k for 1, 2, 4, ... and n, then shares."""
    return [*(f"pass@{k}" for k in powers_of_two(n)), *STATUSES]


def read_task(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """task.json and the problems. DataError for what is missing, changed or of another version."""
    again = "export the task again (gmpo-mm export-task)"
    try:
        about = json.loads((folder / TASK).read_text(encoding="utf-8"))
        lines = (folder / PROBLEMS).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: not readable as an exported task ({error}); {again}") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise DataError(f"{folder / TASK}: written by another version of gmpo-mm; {again}")
    if sha256(folder / PROBLEMS) != about["problems_sha256"]:
        raise DataError(
            f"{folder / PROBLEMS}: changed since it was exported, so a score would be another task's; {again}"
        )
    return about, [json.loads(line) for line in lines]


def scores(about: dict[str, Any], problem: dict[str, Any], responses: Sequence[str]) -> dict[str, float]:
    """One problem's metrics (`metric_names`); their means over problems are those of `gmpo-mm evaluate`."""
    grader = about["grader"]
    grades = grade_responses(
        grader["name"],
        [up_to_stop(text, about["protocol"]["stop"]) for text in responses],
        [problem["answers"]] * len(responses),
        extraction=grader["extraction"],
        timeout=grader["timeout"],
        problems=[problem["problem"]] * len(responses),
        unevaluated=grader["unevaluated"],
    )
    n, right = len(grades), sum(grade.correct for grade in grades)
    values = {f"pass@{k}": pass_at_k(n, right, k) for k in powers_of_two(n)}
    return values | {status: sum(grade.status == status for grade in grades) / n for status in STATUSES}


def up_to_stop(text: str, stops: Sequence[str]) -> str:
    """The text up to and with the first stop text, as a sampler that stops there gives it."""
    ends = [text.index(stop) + len(stop) for stop in stops if stop in text]
    return text[: min(ends)] if ends else text


def task_class(functions_file: str) -> type:
    """The lm-eval task of the folder that `functions_file` lies in."""
    import datasets
    from lm_eval.api.task import ConfigurableTask
    from PIL import Image

    folder = Path(functions_file).resolve().parent
    about, problems = read_task(folder)

    def process_results(doc: dict[str, Any], results: Sequence[Sequence[str]]) -> dict[str, float]:
        return scores(about, doc, results[0])

    class GradedByUs(ConfigurableTask):
        def __init__(self, config: dict[str, Any]) -> None:
            mine = {key: value for key, value in config.items() if key != "class"}
            super().__init__(
                config=mine | {"process_results": process_results}
            )  # so that it looks for no metrics of others

        def download(self, *_: Any, **__: Any) -> None:
            self.dataset = {"test": datasets.Dataset.from_list(problems)}

        def fewshot_context(self, doc: dict[str, Any], num_fewshot: int = 0, **options: Any) -> Any:
            check_prompt(num_fewshot, about["chat"], options)
            return super().fewshot_context(doc, num_fewshot=0, **options)

        def doc_to_image(self, doc: dict[str, Any], doc_to_image: Any = None) -> list[Image.Image]:
            return [Image.open(folder / name).convert("RGB") for name in doc["pictures"]]

    return GradedByUs


def check_prompt(num_fewshot: int, chat: bool, options: dict[str, Any]) -> None:
    """DataError for a prompt that is not the protocol's: its score would stand under the protocol's name."""
    if bool(options.get("apply_chat_template")) != chat:
        fix = (
            "add --apply_chat_template"
            if chat
            else "leave --apply_chat_template out: the prompt brings its own template"
        )
        raise DataError(f"this task's prompts are made for another use of the chat template; {fix}")
    for given, option in (
        (num_fewshot, "--num_fewshot"),
        (options.get("system_instruction"), "--system_instruction"),
    ):
        if given:
            raise DataError(f"{option} would change the prompts of this task's protocol; leave it out")
