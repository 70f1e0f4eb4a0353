"""What `gmpo-mm export-task` writes, and the grades of a task; tests/lm_eval runs it in lm-eval."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from gmpo_mm.cli import app
from gmpo_mm.data.prompts import load_images
from gmpo_mm.errors import ConfigError, DataError
from gmpo_mm.evaluation.benchmark import load_benchmark, open_benchmark
from gmpo_mm.evaluation.export_task import export_task
from gmpo_mm.evaluation.lm_eval_task import check_prompt, read_task, scores
from gmpo_mm.evaluation.response_files import read_responses
from gmpo_mm.evaluation.shipped import BENCHMARKS


def exported(
    folder: Path, name: str, *changes: str, **options: Any
) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    """task.yaml without its class, task.json and the problems."""
    export_task(name, changes, out=str(folder), **options)
    text = (folder / "task.yaml").read_text()
    assert "class: !function functions.Task\n" in text
    about, problems = read_task(folder)
    return yaml.safe_load(text.replace("class: !function functions.Task\n", "")), about, problems


def own_benchmark(folder: Path, like: str, rows: list[dict[str, Any]]) -> str:
    """A shipped benchmark with problems of ours."""
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    values = yaml.safe_load((BENCHMARKS / f"{like}.yaml").read_text()) | {
        "records": str(folder / "rows.parquet")
    }
    (folder / "own.yaml").write_text(yaml.safe_dump(values | {"count": len(rows), "make": None}))
    return str(folder / "own.yaml")


def test_a_task_has_the_benchmarks_problems_golds_and_the_very_pictures_that_a_model_would_get(
    tmp_path: Path,
) -> None:
    task, about, problems = exported(tmp_path, "synthetic_pictures", "limit=3", "n=4")
    records = open_benchmark(load_benchmark("synthetic_pictures"), limit=3)
    assert [(row["id"], row["problem"], row["answers"]) for row in problems] == [
        (record.id, record.problem, list(record.answers)) for record in records
    ]
    for row, record in zip(problems, records, strict=True):
        (picture,) = load_images(record)
        assert row["prompt"] == record.problem and row["type"] == record.extra["kind"]
        assert np.array_equal(np.asarray(Image.open(tmp_path / row["pictures"][0])), np.asarray(picture))
    assert task["task"] == "gmpo_synthetic_pictures_3_n_4"
    assert (task["doc_to_text"], task["doc_to_image"], task["doc_to_target"]) == (
        "prompt",
        "pictures",
        "answers",
    )
    assert task["repeats"] == 4 and task["filter_list"][0]["filter"] == [{"function": "take_first_k", "k": 4}]
    assert [metric["metric"] for metric in task["metric_list"]][:3] == ["pass@1", "pass@2", "pass@4"]
    assert (about["grader"]["name"], about["grader"]["extraction"], about["chat"]) == ("math", "boxed", True)


def test_geometry3ks_task_has_its_protocol_its_prompt_and_pictures_within_its_pixels(tmp_path: Path) -> None:
    Image.new("RGB", (90, 61), "red").save(tmp_path / "small.png")
    row = {
        "problem": "<image>Find x. ",
        "answer": "5",
        "images": ["small.png"],
        "problem_type_goal": ["Length"],
    }
    task, about, problems = exported(tmp_path / "task", own_benchmark(tmp_path, "geometry3k", [row]))
    assert task["task"] == "gmpo_geometry3k" and task["repeats"] == 16
    assert task["generation_kwargs"] == {
        "do_sample": True, "temperature": 0.5, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0,
        "max_gen_toks": 2048, "until": [],
    }  # fmt: skip
    assert problems[0]["prompt"].startswith("<image>Find x.\n\nWork through the figure")
    assert "\\boxed{answer}" in problems[0]["prompt"]
    with Image.open(tmp_path / "task" / problems[0]["pictures"][0]) as picture:
        assert 255_000 < picture.width * picture.height <= 4_194_304  # sides are cut down to whole pixels
    assert about["grader"]["name"] == "geometry3k" and about["protocol"]["template"] == "geometry3k"


def test_a_template_that_replaces_the_chat_template_is_the_whole_prompt_and_its_protocol_is_greedy(
    tmp_path: Path,
) -> None:
    name = own_benchmark(
        tmp_path, "math500", [{"problem": "a\u2028b\n1 + 1?", "answer": "2", "difficulty": 1.0}]
    )
    task, about, problems = exported(tmp_path / "task", name)
    assert problems[0]["problem"] == "a\u2028b\n1 + 1?"
    assert problems[0]["prompt"].startswith("<|im_start|>system\nPlease reason step by step")
    assert problems[0]["prompt"].endswith("1 + 1?<|im_end|>\n<|im_start|>assistant\n")
    assert "doc_to_image" not in task and about["chat"] is False
    assert (
        task["generation_kwargs"]["do_sample"] is False and task["generation_kwargs"]["max_gen_toks"] == 3000
    )
    with pytest.raises(DataError, match="leave --apply_chat_template out"):
        check_prompt(0, about["chat"], {"apply_chat_template": True})


def test_the_command_prints_how_lm_eval_runs_the_task(tmp_path: Path) -> None:
    arguments = [
        "export-task",
        "synthetic_pictures",
        "limit=1",
        "--for",
        "lm-eval",
        "--out",
        str(tmp_path / "task"),
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "lm-eval run --model hf-multimodal --model_args pretrained=MODEL" in result.output
    assert (
        f"--include_path {tmp_path / 'task'} --tasks gmpo_synthetic_pictures_1 --apply_chat_template"
        in result.output
    )


def test_what_the_other_tool_could_not_follow_is_refused(tmp_path: Path) -> None:
    out = str(tmp_path / "task")
    text = own_benchmark(tmp_path, "math500", [{"problem": "1?", "answer": "2", "difficulty": 1.0}])
    (tmp_path / "template.yaml").write_text("chat_template: '{{ bos_token }}{{ messages[-1].content }}'\n")
    for name, change, tool, told in (
        (
            text,
            "backend=hf",
            "lm_eval",
            "backend=hf: an exported task has no such key; those that it has are records",
        ),
        (
            text,
            f"template={tmp_path / 'template.yaml'}",
            "lm_eval",
            "it uses bos_token, which only a model's tokenizer knows",
        ),
        ("synthetic_pictures", "template=qwen_math", "lm_eval", "no place for .*pictures"),
        (text, "n=1", "lighteval", "--for=lighteval is not known; use one of lm_eval"),
    ):
        with pytest.raises(ConfigError, match=told):
            export_task(name, [change], tool=tool, out=out)
    assert not Path(out).exists()


def test_a_folder_with_other_files_or_a_finished_task_is_kept_and_one_killed_on_the_way_is_finished(
    tmp_path: Path,
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(ConfigError, match=r"holds notes.txt, which are no task's files"):
        export_task("synthetic_pictures", ["limit=1"], out=str(tmp_path / "mine"))
    exported(tmp_path / "task", "synthetic_pictures", "limit=2")
    with pytest.raises(ConfigError, match="holds a task; give --overwrite"):
        export_task("synthetic_pictures", ["limit=1"], out=str(tmp_path / "task"))
    assert len(exported(tmp_path / "task", "synthetic_pictures", "limit=1", overwrite=True)[2]) == 1
    assert len(list((tmp_path / "task" / "pictures").iterdir())) == 1
    (tmp_path / "task" / "task.yaml").unlink()
    (tmp_path / "task" / ".problems.jsonl.tmp").write_text("{")
    assert len(exported(tmp_path / "task", "synthetic_pictures", "limit=2")[2]) == 2


def test_scores_are_pass_at_k_and_shares_of_the_same_grader(tmp_path: Path) -> None:
    _, about, problems = exported(tmp_path, "synthetic_pictures", "limit=1", "n=4")
    gold = problems[0]["answers"][0]
    found = scores(about, problems[0], [f"\\boxed{{{gold}.0}}", "\\boxed{-1}", gold, "no box"])
    assert found == {
        "pass@1": 0.25,
        "pass@2": 0.5,
        "pass@4": 1.0,
        "no_answer": 0.5,
        "timeout": 0.0,
        "error": 0.0,
    }


def test_a_response_ends_for_its_grade_where_the_template_stops(tmp_path: Path) -> None:
    name = own_benchmark(tmp_path, "math500", [{"problem": "1 + 1?", "answer": "2", "difficulty": 1.0}])
    task, about, problems = exported(tmp_path / "task", name, "template=r1")
    assert about["protocol"]["stop"] == ["</answer>"]
    assert task["generation_kwargs"]["until"] == []
    assert (
        scores(about, problems[0], ["so </think> <answer> 2 </answer> User: <answer> 3 </answer>"])["pass@1"]
        == 1.0
    )
    assert scores(about, problems[0], ["so </think> <answer> 2"])["pass@1"] == 0.0


def test_problems_that_were_changed_after_the_export_are_refused(tmp_path: Path) -> None:
    exported(tmp_path, "synthetic_pictures", "limit=1")
    file = tmp_path / "problems.jsonl"
    file.write_text(file.read_text().replace("segment", "side"))
    with pytest.raises(DataError, match="changed since it was exported"):
        read_task(tmp_path)


def test_a_list_of_golds_that_lm_eval_logged_as_text_is_read_as_the_list(tmp_path: Path) -> None:
    doc = {"problem": "x?", "answers": ["\\frac{1}{2}", "0.5"], "pictures": []}
    row = {
        "doc_id": 0,
        "doc": doc,
        "target": str(doc["answers"]),
        "resps": [["\\boxed{0.5}", "1"]],
        "filter": "all",
    }
    (tmp_path / "samples_x.jsonl").write_text(json.dumps(row) + "\n")
    rows, form = read_responses(str(tmp_path / "samples_x.jsonl"))
    assert form == "lm_eval" and rows.row(0)["answer"] == ["\\frac{1}{2}", "0.5"]
