"""Benchmarks, prompt templates and protocols: what ships, what a wrong file is told."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from gmpo_mm.data.prompts import build_messages
from gmpo_mm.errors import ConfigError, DataError
from gmpo_mm.evaluation.benchmark import (
    TEMPLATES_FILE,
    Benchmark,
    load_benchmark,
    load_template,
    make_protocol,
    open_benchmark,
    shipped_benchmarks,
)
from gmpo_mm.evaluation.generators import Generated, LocalGenerator, LocalModel, PromptOptions
from gmpo_mm.evaluation.task import Task, make_task
from gmpo_mm.rollout.protocol import Response
from gmpo_mm.runs.progress import Progress
from gmpo_mm.start.commands import DATA_TOOLS
from gmpo_mm.verifiers.graders import grade_responses
from tests.evaluation.evaluations import DATA, ROOT, settings

LANGUAGE = {"aime24": 30, "amc": 83, "math500": 500, "minerva": 272, "olympiadbench": 675}
MESSAGES = [{"role": "user", "content": "1 + 1?"}]


def test_the_papers_benchmarks_ship_with_the_papers_protocols() -> None:
    assert {*LANGUAGE, "geometry3k", "countdown", "synthetic_pictures", "synthetic_combinations"} <= set(shipped_benchmarks())
    geometry = load_benchmark("geometry3k")
    protocol = make_protocol(geometry, load_template(geometry.template), {})
    assert (protocol.temperature, protocol.n, protocol.top_p, protocol.top_k) == (0.5, 16, 1.0, -1)
    assert geometry.count == 601
    for name, count in LANGUAGE.items():
        benchmark = load_benchmark(name)
        protocol = make_protocol(benchmark, load_template(benchmark.template), {})
        assert (protocol.name, protocol.temperature, protocol.n, protocol.max_tokens) == ("language", 0.0, 1, 3000)
        assert benchmark.count == count and protocol.template == "qwen_math"


@pytest.mark.parametrize("name", [*LANGUAGE, "geometry3k"])
def test_real_problems_open_and_their_golds_are_right_to_the_benchmarks_grader(name: str) -> None:
    file = DATA / (f"eval_{name}.parquet" if name in LANGUAGE else "geometry3k_test.parquet")
    if not file.is_file():
        pytest.skip(f"no {file.name}: the project's shared data is not here")
    benchmark = load_benchmark(name)
    records = open_benchmark(benchmark, str(file))
    assert len(records) == benchmark.count
    sample = records[:: max(1, len(records) // 60)]
    boxed = [f"so it is \\boxed{{{record.answers[-1].strip()}}}." for record in sample]
    grades = grade_responses(benchmark.grader, boxed, [record.answers for record in sample])
    assert [r.answers for r, g in zip(sample, grades, strict=True) if not g.correct] == []


def test_an_aime_gold_with_leading_zeros_and_an_amc_gold_that_was_a_float_are_graded_as_numbers(tmp_path: Path) -> None:
    pq.write_table(pa.table({"problem": ["a?", "b?"], "answer": ["025", "142.0"]}), tmp_path / "two.parquet")
    records = open_benchmark(_own(tmp_path, records=str(tmp_path / "two.parquet")))
    grades = grade_responses("math", [r"\boxed{25}", r"\boxed{142}"], [record.answers for record in records])
    assert [grade.correct for grade in grades] == [True, True]


def test_missing_data_names_the_command_that_makes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"gmpo-mm data eval_suite.*\n.*records.math500="):
        open_benchmark(load_benchmark("math500"))


def test_another_number_of_problems_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"problem": ["a?"], "answer": ["1"], "difficulty": [1.0]}), tmp_path / "one.parquet")
    with pytest.raises(DataError, match="has 1 problems, the benchmark 500"):
        open_benchmark(load_benchmark("math500"), str(tmp_path / "one.parquet"))


def test_the_commands_in_the_shipped_benchmarks_name_tools_that_exist() -> None:
    for name in shipped_benchmarks():
        command = load_benchmark(name).make
        if command is not None:
            assert command.split()[:2] == ["gmpo-mm", "data"] and command.split()[2] in DATA_TOOLS, command


def test_the_geometry3k_prompt_is_the_one_that_the_configs_train_with() -> None:
    trained = (ROOT / "configs/prompts/geometry3k.jinja").read_text(encoding="utf-8")
    evaluated = load_template("geometry3k").format_prompt
    assert evaluated is not None and evaluated.strip() == trained.strip()


def test_dr_grpos_templates_render_to_the_published_texts(bundled: LocalModel) -> None:
    assert _rendered(bundled, "qwen_math") == (
        "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
        "<|im_start|>user\n1 + 1?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert _rendered(bundled, "no") == "1 + 1?"
    r1 = _rendered(bundled, "r1")
    assert r1.startswith("A conversation between User and Assistant. The User asks a question, and the Assistant solves it.")
    assert r1.endswith("<answer> answer here </answer>.\nUser: 1 + 1?\nAssistant: <think>")


def test_a_stop_text_ends_the_response_and_its_count_of_tokens(bundled: LocalModel) -> None:
    bundled.use_template(PromptOptions())
    tokenizer = bundled.processor.tokenizer
    text = "<think>two</think> <answer>2</answer>"
    import torch

    ids = torch.tensor(tokenizer.encode(text + " and more, and more", add_special_tokens=False))
    generator = LocalGenerator.__new__(LocalGenerator)
    generator.model = bundled
    cut = generator._text(Response(ids, torch.zeros(len(ids)), "length"), ("</answer>",))
    assert cut == Generated(text, len(tokenizer.encode(text, add_special_tokens=False)), "stop")
    assert generator._text(Response(ids, torch.zeros(len(ids)), "length"), ()).stop_reason == "length"


def test_every_template_keeps_the_problem_and_every_shipped_key_is_known() -> None:
    for name in yaml.safe_load(TEMPLATES_FILE.read_text(encoding="utf-8")):
        template = load_template(name)
        if template.format_prompt is not None:
            record = open_benchmark(load_benchmark("synthetic_pictures"), limit=1)[0]
            assert build_messages(record, template.format_prompt)[0]["content"][0] == {"type": "image"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("format_prompt: prompts/mine.jinja", "must use the problem as {{ content }}"),
        ("format_prompt: '{{ content }} {{ problem }}'", "it uses content, problem"),
        ("format_prompt: '{{ content'", "the Jinja text itself, not the path of a file"),
        ("format_prompt: [a]", "is no text"),
        ("chat_template: chat.jinja", "it leaves the problem out"),
        ("chat_template: '{% for m in messages %}'", "the Jinja text itself"),
    ],
)
def test_a_template_of_ones_own_that_leaves_the_problem_out_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=re.escape(said)):
        load_template(str(tmp_path / "mine.yaml"))


def test_a_template_of_ones_own_is_read(tmp_path: Path) -> None:
    text = "format_prompt: '{{ content | trim }} Box it.'\nchat_template: '{{ messages[-1].content }}'"
    (tmp_path / "mine.yaml").write_text(text)
    assert load_template(str(tmp_path / "mine.yaml")).format_prompt == "{{ content | trim }} Box it."


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "synthetic"),
        ({"n": 16, "temperature": 0.5}, "synthetic"),
        ({"n": 4}, "synthetic(n=4)"),
        ({"temperature": 0.6, "max_tokens": 99}, "synthetic(temperature=0.6,max_tokens=99)"),
    ],
)
def test_what_departs_from_a_protocol_is_part_of_its_name(changes: dict, name: str) -> None:
    benchmark = load_benchmark("synthetic_pictures")
    assert make_protocol(benchmark, load_template("model"), changes).name == name


def test_another_template_is_another_protocol() -> None:
    assert make_protocol(load_benchmark("math500"), load_template("r1"), {}).name == "language(template=r1)"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 4, "temperature": 0.0}, "greedy samples are all the same"),
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"n": 1, "temperature": 0.0, "top_p": 0.9}, "no effect at temperature=0"),
    ],
)
def test_a_protocol_that_no_sampler_can_follow_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_protocol(load_benchmark("synthetic_pictures"), load_template("model"), changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grader": "maths"}, "grader=maths is not known; use one of math"),
        ({"records": None}, "give either records"),
        ({"protocol": {"name": "x", "n": 1}}, "needs name, temperature, n and max_tokens"),
        ({"protocol": {"name": "x", "temprature": 1}}, "protocol.temprature is not known"),
        ({"recods": "x"}, "recods is not a key of a benchmark .did you mean records"),
        ({"template": "qwenmath"}, "did you mean qwen_math"),
    ],
)
def test_a_wrong_benchmark_file_names_key_and_fix(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _own(tmp_path, **change)


def test_an_unknown_benchmark_names_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="did you mean math500"):
        load_benchmark("math50")


def test_an_unknown_type_column_is_told_the_known_ones(tmp_path: Path) -> None:
    pq.write_table(pa.table({"problem": ["a?"], "answer": ["1"], "level": ["x"]}), tmp_path / "one.parquet")
    with pytest.raises(DataError, match="no column 'kind'.*problem, answer, level"):
        open_benchmark(_own(tmp_path, type_key="kind", records=str(tmp_path / "one.parquet")))


@pytest.fixture(scope="module")
def bundled() -> LocalModel:
    from gmpo_mm.config.schema import Config
    from gmpo_mm.runs.progress import Progress

    config = Config()
    config.worker.actor.model.model_path = "bundled:qwen2_5_vl_tiny"
    config.worker.actor.model.enable_gradient_checkpointing = False
    with Progress() as progress:
        return LocalModel(config, progress)


def _rendered(model: LocalModel, template: str) -> str:
    model.use_template(PromptOptions(chat_template=load_template(template).chat_template))
    return model.processor.chat_text(MESSAGES)


def _own(folder: Path, **change: object) -> Benchmark:
    values = {
        "name": "own", "records": "x.parquet", "template": "model", "grader": "math",
        "protocol": {"name": "own", "temperature": 0.0, "n": 1, "max_tokens": 8},
    }  # fmt: skip
    values = {key: value for key, value in (values | change).items() if value is not None}
    (folder / "own.yaml").write_text(yaml.safe_dump(values))
    return load_benchmark(str(folder / "own.yaml"))


def _task(tmp_path: Path, *rows: dict[str, Any]) -> Task:
    pq.write_table(pa.Table.from_pylist(list(rows)), tmp_path / "rows.parquet")
    benchmark = _own(tmp_path, records=str(tmp_path / "rows.parquet"))
    with Progress() as progress:
        return make_task(settings(tmp_path / "out", n=1, limit=None), benchmark, "model", [], progress)


def test_golds_that_are_no_answers_are_refused_before_a_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prose = {"problem": "x?", "answer": "two lines\nand no answer"}
    solved = {"problem": "x?", "answer": "1 + 1 = 2\n#### 2"}
    with pytest.raises(DataError, match=r"(?s)2 of 3 golds are no short answer \(2 several lines\).*answer_key in"):
        _task(tmp_path, prose, prose, solved)
    assert len(_task(tmp_path, prose, solved, solved).records) == 3
    said = capsys.readouterr().out
    assert "1 of 3 golds are no short answer" in said and "2 of 3 golds hold a whole solution" in said


def test_every_faulty_problem_of_a_benchmark_is_named_at_once(tmp_path: Path) -> None:
    picture = io.BytesIO()
    Image.effect_noise((120, 120), 90).save(picture, "JPEG")
    rows = [{"problem": "<image>?", "answer": "1", "images": [data]} for data in (picture.getvalue()[:3000], b"")]
    with pytest.raises(DataError, match=r"(?s)3 of 4 rows.*row 0 .*truncated.*row 1 .*0 bytes.*row 2 .*no usable answer"):
        _task(tmp_path, *rows, {"problem": "?", "answer": "", "images": []}, {"problem": "?", "answer": "1", "images": []})
