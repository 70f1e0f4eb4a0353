"""The converter gives the known rows of Geometry3K, from the original's folders and from the hub's form."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gmpo_mm.data import check_records, load_records
from gmpo_mm.errors import DataError
from tests.data.helpers import KEYS, plain

SCRIPT = Path(__file__).resolve().parents[2] / "data_tools" / "geometry3k.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return importlib.import_module("gmpo_mm.datasets.geometry3k")


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, cwd=SCRIPT.parents[1],
        env={"PYTHONPATH": str(SCRIPT.parents[1]), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip


def original(row: dict[str, Any]) -> dict[str, Any]:
    """`data.json` of the original release, from a converted row; the unused keys are there as in the original."""
    return {
        "problem_text": row["problem_text"],
        "choices": row["choices"],
        "answer": row["letter"],
        "problem_type_graph": row["problem_type_graph"],
        "problem_type_goal": row["problem_type_goal"],
        "source": "a textbook",
        "id": row["id"],
        "precise_value": ["a text" if value is None else value for value in row["precise_value"]],
        "annotat_text": row["problem"].removeprefix("<image>"),
        "data_type": "test",
    }


def write_original(folder: Path, row: dict[str, Any]) -> Path:
    problem = folder / str(row["id"])
    problem.mkdir(parents=True)
    (problem / "data.json").write_text(json.dumps(original(row), indent=2), encoding="utf-8")
    (problem / "img_diagram.png").write_bytes(row["images"][0]["bytes"])
    return problem


def made_up(number: int) -> dict[str, Any]:
    return {
        "images": [{"bytes": plain(), "path": ""}], "problem": "<image>Find $x$.\r\n", "id": number, "letter": "B",
        "choices": ["1", "5 \\sqrt { 5 }"], "problem_text": "Find x.", "precise_value": [1.0, None],
        "problem_type_graph": ["Line"], "problem_type_goal": ["Length"],
    }  # fmt: skip


def test_real_rows_come_back_to_the_byte(geometry3k: Path, tmp_path: Path) -> None:
    """Forty problems of the test split, among them the three without numeric choices, in folders as released."""
    table = pq.read_table(geometry3k / "geometry3k_test.parquet")
    wordy = [i for i, values in enumerate(table["precise_value"].to_pylist()) if None in values]
    chosen = sorted({*range(0, 601, 16), *wordy})
    expected = table.take(chosen)
    for row in expected.to_pylist():
        write_original(tmp_path / "source" / "test", row)
    done = run("intergps", tmp_path / "source", "--out", tmp_path / "out", "--allow-partial")
    assert done.returncode == 0, done.stderr
    written = pq.read_table(tmp_path / "out" / "geometry3k_test.parquet")
    assert written.equals(expected)
    assert written.schema.equals(expected.schema, check_metadata=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["geometry3k_test.parquet"]
    check_records(load_records(f"{tmp_path}/out@test", KEYS), decode_images=True)


def test_splits_are_named_and_sorted_by_number(tmp_path: Path, tool: ModuleType) -> None:
    for number in (10, 9, 100):
        write_original(tmp_path / "val", made_up(number))
    rows = tool.read_intergps(tmp_path, "validation")
    assert [row["id"] for row in rows] == [9, 10, 100]
    assert rows[0]["images"][0]["path"] == "val_9_img_diagram.png"
    assert rows[0]["problem"] == "<image>Find $x$.\r\n" and rows[0]["answer"] == "5 \\sqrt { 5 }"
    assert rows[0]["precise_value"] == [1.0, None]


def test_a_wrong_count_writes_nothing(tmp_path: Path) -> None:
    write_original(tmp_path / "source" / "train", made_up(0))
    done = run("intergps", tmp_path / "source", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "expected train 2101, validation 300, test 601 rows, found train 1, validation 0, test 0" in done.stderr
    assert "--allow-partial" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_full_counts_pass(tool: ModuleType) -> None:
    tool.check_counts({"train": [{}] * 2101, "validation": [{}] * 300, "test": [{}] * 601}, allow_partial=False)
    with pytest.raises(DataError, match="found train 2101, validation 300, test 600"):
        tool.check_counts({"train": [{}] * 2101, "validation": [{}] * 300, "test": [{}] * 600}, allow_partial=False)
    with pytest.raises(DataError, match="no problem found"):
        tool.check_counts({"train": [], "validation": [], "test": []}, allow_partial=True)


def test_a_failed_write_leaves_the_former_files_whole(tmp_path: Path, tool: ModuleType) -> None:
    write_original(tmp_path / "train", made_up(0))
    good = tool.read_intergps(tmp_path, "train")
    (path,) = tool.write_splits({"train": good}, tmp_path / "out")
    before = path.read_bytes()
    with pytest.raises(pa.ArrowInvalid):
        tool.write_splits({"train": good * 2, "test": [{**good[0], "id": "not a number"}]}, tmp_path / "out")
    assert path.read_bytes() == before
    assert list((tmp_path / "out").iterdir()) == [path]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "E"}, "answer 'E' is none of its 2 choices"),
        ({"answer": "C"}, "answer 'C' is none of its 2 choices"),
        ({"answer": None}, "answer None is none"),
        ({"choices": ["1", " "]}, "answer 'B' is none"),
        ({"id": 8}, "id 8 differs from the folder's name"),
        ({"annotat_text": ...}, "no annotat_text"),
        ("{", "can't read data.json"),
        ("picture", "img_diagram.png: broken image"),
        ("no picture", "can't read data.json and img_diagram.png"),
    ],
)
def test_a_broken_problem_is_named(tmp_path: Path, tool: ModuleType, change: Any, message: str) -> None:
    folder = write_original(tmp_path / "train", made_up(7))
    if change == "picture":
        (folder / "img_diagram.png").write_bytes(plain()[:-20])
    elif change == "no picture":
        (folder / "img_diagram.png").unlink()
    elif change == "{":
        (folder / "data.json").write_text("{", encoding="utf-8")
    else:
        data = {key: value for key, value in {**original(made_up(7)), **change}.items() if value is not ...}
        (folder / "data.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        tool.read_intergps(tmp_path, "train")
    assert str(folder) in str(caught.value) and message in str(caught.value)


def test_the_hub_form_keeps_its_three_columns_and_order(geometry3k: Path, tmp_path: Path) -> None:
    """A folder of the hub's Parquet files stands for the hub; its other columns don't exist there."""
    (tmp_path / "hub").mkdir()
    names = ["images", "problem", "answer"]
    for split, count in (("train", 3), ("validation", 2), ("test", 4)):
        table = pq.read_table(geometry3k / f"geometry3k_{split}.parquet", columns=names).slice(5, count)
        pq.write_table(table, tmp_path / "hub" / f"{split}-00000-of-00001.parquet")
    done = run("hub", tmp_path / "hub", "--out", tmp_path / "out", "--allow-partial")
    assert done.returncode == 0, done.stderr
    for split, count in (("train", 3), ("validation", 2), ("test", 4)):
        written = pq.read_table(tmp_path / "out" / f"geometry3k_{split}.parquet")
        source = pq.read_table(geometry3k / f"geometry3k_{split}.parquet", columns=names).slice(5, count)
        assert written.select(names).equals(source) and written.column_names == names and len(written) == count
