"""What the golds of real data are, and which column is taken where the configuration names none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gmpo_mm.data import load_records
from gmpo_mm.data.columns import other_columns
from gmpo_mm.data.gold_check import check_golds
from gmpo_mm.data.sources import Part, Rows, first_rows
from gmpo_mm.errors import DataError
from tests.data.conftest import SHARED_DATA
from tests.data.helpers import KEYS, records_of, write_lines

DEFAULTS = {"prompt_key": "prompt", "answer_key": "answer", "image_key": "images"}


@pytest.mark.parametrize(
    "name", ["eval_math500", "eval_minerva", "eval_olympiadbench", "geometry3k_train", "math_l3to5_train"]
)
def test_the_golds_of_real_data_are_answers(name: str) -> None:
    file = SHARED_DATA / f"{name}.parquet"
    if not file.is_file():
        pytest.skip("the real data is not beside this repository (../shared/data)")
    report = check_golds(load_records(str(file), KEYS), name)
    assert report.faulty <= 1 and report.solutions == 0 and not report.is_hopeless


def test_one_good_gold_of_several_is_enough_and_exactly_half_is_not_most() -> None:
    prose = "this is a long sentence that says nothing short"
    report = check_golds(records_of({"answers": [prose, "2"], "answer": None}, {"answer": prose}), "x")
    assert (report.faulty, report.is_hopeless) == (1, False)
    assert check_golds(records_of({"answer": prose}, {"answer": "a\nb"}, {}), "x").is_hopeless


def rows(*given: dict[str, Any]) -> Rows:
    return Rows(list(given), (Part("a.jsonl", None, 0),))


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({"problem": "x", "answer": "1"}, {"prompt_key": "problem"}),
        ({"question": "x", "ground_truth": "1"}, {"prompt_key": "question", "answer_key": "ground_truth"}),
        ({"problem": "x", "answers": ["1"], "gold": "1"}, {"prompt_key": "problem"}),
        ({"prompt": "x", "problem": "y", "answer": "1"}, {}),
        ({"problem": "x", "solution": "1"}, {"prompt_key": "problem", "answer_key": "solution"}),
        ({"problem": "x", "solution": "1", "gold": "1"}, {"prompt_key": "problem", "answer_key": "gold"}),
        (
            {"problem": "<image>x", "image": "a.png", "answer": "1"},
            {"prompt_key": "problem", "image_key": "image"},
        ),
        ({"problem": "x", "image": "a.png", "answer": "1"}, {"prompt_key": "problem"}),
        ({"text": "x", "label": "1"}, {}),
    ],
)
def test_the_one_column_that_can_be_meant_is_taken(row: dict[str, Any], found: dict[str, str]) -> None:
    assert other_columns(rows(row), DEFAULTS, (), "a.jsonl") == found
    assert other_columns(rows(row), DEFAULTS, DEFAULTS, "a.jsonl") == {}


def test_columns_that_may_both_be_meant_are_an_error() -> None:
    with pytest.raises(
        DataError, match="a.jsonl: no column 'answer', and 'ground_truth' or 'gold' may be meant"
    ):
        other_columns(rows({"prompt": "x", "gold": "1", "ground_truth": "1"}), DEFAULTS, (), "a.jsonl")


def test_the_first_rows_are_read_without_the_rest(tmp_path: Path) -> None:
    spec = write_lines(tmp_path / "a.jsonl", [{"problem": "x"}] * 200)
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write("broken\n")
    assert len(first_rows(spec)) == 100
    (tmp_path / "b.jsonl").write_text('[{"problem": "x"}, {"answer": "1"}]')
    assert first_rows(str(tmp_path / "b.jsonl")).columns == ["problem", "answer"]
    (tmp_path / "c.parquet").write_text("no table")
    with pytest.raises(DataError, match="c.parquet: can't be read"):
        first_rows(str(tmp_path / "c.parquet"))
