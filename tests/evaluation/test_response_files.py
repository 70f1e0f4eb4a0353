"""Files of other tools are recognised and read: `generations.log` and `verl/` were written by EasyR1's and verl's own code."""

import json
from pathlib import Path
from typing import Any

import pytest

from gmpo_mm.errors import ConfigError, DataError
from gmpo_mm.evaluation.grade_file import GradeFileSettings, grade_file
from gmpo_mm.evaluation.response_files import FORMATS, read_responses

FILES = Path(__file__).with_name("response_files")
NAMES = {
    "easyr1": "generations.log", "verl": "verl/10.jsonl", "lm_eval": "samples_geometry3k_2026-11-01.jsonl",
    "lmms_eval": "20261101_samples_geometry3k.jsonl", "vlmevalkit": "model_MathVista.tsv", "skythought": "results.json",
    "qwen_math": "test_qwen25-math-cot_-1_seed0_t0.0_s0_e-1.jsonl",
}  # fmt: skip
WANTED: dict[str, list[dict[str, Any]]] = {
    "easyr1": [
        {"response": "<think>\n2 + 3\n\n</think>\n\\boxed{5}", "answer": "5", "problem": "user\nFind x.\nassistant\n"},
        {"response": "So\n[output] is \\boxed{4}", "answer": "\\frac { 1 } { 2 }", "score": 0.1},
    ],
    "verl": [{"response": "<think>2 + 3</think>\\boxed{5}", "answer": "5"}, {"response": "\\boxed{10}", "answer": "10"}],
    "lm_eval": [
        {"response": ["\\boxed{5}", "\\boxed{6}"], "answer": "5", "problem": "Find x."},
        {"response": ["\\boxed{4}", "B"], "answers": ["4", "B"], "letter": "B", "choices": ["3", "4"]},
    ],
    "lmms_eval": [
        {"response": ["Answer: C"], "answers": ["5", "C"], "letter": "C", "choices": ["3", "4", "5", "6"]},
        {"response": ["<think>4</think> B", "A"], "answers": ["3", "A"]},
    ],
    "vlmevalkit": [
        {"response": "The answer is \\boxed{5}", "answers": ["5", "C"], "choices": ["3", "4", "5", "6"]},
        {"response": "several\nlines, \\boxed{8}", "answer": "7"},
    ],
    "skythought": [
        {"response": ["\\boxed{5}", "\\boxed{6}"], "answer": "5"}, {"response": ["4", "\\boxed{4}"], "answer": "4", "id": "1"}
    ],
    "qwen_math": [
        {"response": ["It is $\\boxed{5}$."], "answer": "5", "id": 0},
        {"response": ["It is $\\boxed{3}$."], "answer": "4"},
    ],
}  # fmt: skip


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("named", [True, False])
def test_a_tools_file_is_read_by_its_name_and_recognised_without(form: str, named: bool) -> None:
    rows, found = read_responses(str(FILES / NAMES[form]), form if named else "auto")
    assert found == form and len(rows) == len(WANTED[form])
    for index, wanted in enumerate(WANTED[form]):
        row = rows.row(index)
        assert {key: row.get(key) for key in wanted} == wanted


def test_of_verls_folder_the_last_step_is_read() -> None:
    rows, form = read_responses(str(FILES / "verl"))
    assert (form, rows.row(1)["response"]) == ("verl", "\\boxed{10}")


def test_a_sheet_of_excel_gives_the_rows_of_the_same_sheet_as_text(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl", reason="the sheets extra is not installed")
    rows, _ = read_responses(str(FILES / NAMES["vlmevalkit"]))
    book = openpyxl.Workbook()
    for row in (
        ("index", "question", "A", "B", "C", "D", "answer", "prediction"),
        (0, "Find x.", 3, 4, 5, 6, "C", "The answer is \\boxed{5}"),
        (1, "Find y.", None, None, None, None, 7, "several\nlines, \\boxed{8}"),
    ):
        book.active.append(row)
    book.save(tmp_path / "model.xlsx")
    same, form = read_responses(str(tmp_path / "model.xlsx"))
    assert form == "vlmevalkit"
    assert [same.row(i) for i in range(2)] == [rows.row(i) for i in range(2)]


def test_grade_takes_a_tools_file_and_says_so() -> None:
    report = grade_file(GradeFileSettings(str(FILES / NAMES["verl"])))
    assert (report.total.rows, report.total.accuracy, report.notes) == (2, 1.0, ("read as a file of verl",))
    named = grade_file(GradeFileSettings(str(FILES / NAMES["verl"]), response_key="output", gold_key="gts"))
    assert (named.total, named.notes) == (report.total, ())


@pytest.mark.parametrize(
    "name, text, form, error, said",
    [
        (
            "a.jsonl",
            "{}\n",
            "vlmeval",
            ConfigError,
            "--format='vlmeval' is not known; use one of auto, rows, easyr1",
        ),
        (
            "a.jsonl",
            '{"input": "x", "output": "y"}\n',
            "verl",
            DataError,
            "a row has no 'gts', which files of verl have",
        ),
        (
            "a.log",
            "[prompt] x\n[output] y\n",
            "auto",
            DataError,
            "record 0 has no .output., .ground_truth. and .score.",
        ),
        ("a.json", '{"0": {"responses": []}}', "auto", DataError, "problem 0 has no answer"),
        ("a.json", "{broken", "skythought", DataError, "broken JSON"),
        (
            "a.xlsx",
            "no sheet",
            "auto",
            (ConfigError, DataError),
            "can't be read as .xlsx|pip install 'gmpo-mm.sheets.'",
        ),
    ],
)
def test_a_file_of_another_form_is_an_error_that_says_what_is_missing(
    tmp_path: Path, name: str, text: str, form: str, error: type[Exception], said: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(error, match=said):
        read_responses(str(tmp_path / name), form)


def test_log_likelihoods_are_no_responses(tmp_path: Path) -> None:
    row = {"doc_id": 0, "doc": {}, "target": "0", "resps": [[[-1.5, False]]]}
    (tmp_path / "samples.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match="row 0 has log-likelihoods and no generated text"):
        read_responses(str(tmp_path / "samples.jsonl"))
