"""MATH for training: the right levels, the right golds, none of MATH500."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gmpo_mm.data import RecordKeys, check_records, load_records
from gmpo_mm.datasets.preparing import problem_key
from gmpo_mm.errors import DataError
from tests.data.conftest import SHARED_DATA
from tests.data.helpers import write_lines
from tests.data.tools import FOLDER, ROOT, assert_refused, load_tool, run_offline, run_tool

tool = load_tool("math_levels.py")


def write_math500(path: Path, *problems: str) -> Path:
    filled = [*problems, *(f"filler {i}" for i in range(500 - len(problems)))]
    pq.write_table(pa.table({"problem": filled}), path)
    return path


def problem(number: int, level: str = "Level 3", solution: str = "So \\boxed{1}.", **more: Any) -> dict[str, Any]:
    return {"problem": f"What is ${number}$?", "level": level, "type": "Algebra", "solution": solution, **more}


def write_original(root: Path, *rows: dict[str, Any]) -> Path:
    for number, row in enumerate(rows):
        folder = root / ("train" if number % 2 == 0 else "test") / row["type"].lower()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.json").write_text(json.dumps(row), encoding="utf-8")
    return root


def test_the_original_folder_gives_golds_levels_and_ids(tmp_path: Path) -> None:
    rows = (
        problem(0, solution="First \\boxed{7}, so \\boxed{\\frac{1}{2}}."),
        problem(1, "Level 2"),
        problem(2, "Level 5", "Thus $\\boxed 2$."),
        problem(3, "Level 4", "\\fbox{ x = \\{1, 2\\} }"),
        problem(4, "Level ?"),
        problem(5, "Level 4", "No box."),
        problem(6, "Level 4"),
    )
    math500 = write_math500(tmp_path / "math500.parquet", "What   is $6 $?")
    done = run_tool(
        "math.py", "files", write_original(tmp_path / "MATH", *rows), "--math500", math500, "--out", tmp_path / "out.parquet",
        "--expect", 3,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    records = load_records(str(tmp_path / "out.parquet"), RecordKeys(prompt_key="problem"))
    check_records(records)
    found = {record.id: (record.answer, record.extra["level"], record.extra["subject"]) for record in records}
    assert found == {
        "train/algebra/0.json": ("\\frac{1}{2}", 3, "Algebra"),
        "train/algebra/2.json": ("2", 5, "Algebra"),
        "test/algebra/3.json": ("x = \\{1, 2\\}", 4, "Algebra"),
    }
    counts = {line.split(maxsplit=1)[1]: int(line.split()[0]) for line in done.stdout.splitlines()[:-1]}
    assert counts == {
        "rows": 7, "of another level": 2, "without a gold": 1, "in MATH500": 1, "problems of MATH500 found": 1,
        "repeated, kept": 0, "left": 3,
    }  # fmt: skip


def test_math500_is_found_by_id_and_by_text() -> None:
    rows = [problem(0, unique_id="test/a/0.json"), problem(1, unique_id="test/a/1.json"), problem(2)]
    math500 = [{"problem": "Another copy's wording", "unique_id": "test/a/0.json"}, {"problem": "What is \\(1\\)"}]
    records, counts = tool.select(rows, math500, {3})
    assert [record["problem"] for record in records] == ["What is $2$?"] and counts["in MATH500"] == 2


def test_an_answer_column_goes_before_the_solution() -> None:
    assert tool.gold(problem(0, answer=" 5 "), "row 0") == "5"
    assert tool.gold(problem(0, answer=""), "row 0") == ""
    with pytest.raises(DataError, match="row 0: neither answer nor solution"):
        tool.gold({"problem": "x", "level": "Level 3"}, "row 0")


def test_the_one_wrong_gold_of_the_copies_is_corrected() -> None:
    row = {"problem": tool._BOXED_NUMBERS, "level": "Level 4", "answer": "the correct answer as we normally do"}
    records, counts = tool.select([row, {**row, "answer": "6"}], [], {4})
    assert [record["answer"] for record in records] == ["6", "6"] and counts["golds corrected"] == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (problem(0, "Level 6"), "row 0: level 'Level 6'"),
        ({"problem": "x", "answer": "1"}, "row 0: level None"),
        (problem(0) | {"problem": None}, "row 0: problem None is no text"),
        (problem(0, answer=float("nan")), "row 0: answer nan"),
    ],
)
def test_a_broken_row_is_named(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        tool.select([row], [], {3})


def test_a_wrong_count_writes_nothing(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "rows.jsonl", [problem(i) for i in range(3)])
    math500 = write_math500(tmp_path / "math500.parquet")
    out = tmp_path / "out" / "train.parquet"
    done = run_tool("math.py", "files", source, "--math500", math500, "--out", out)
    assert_refused(done, "3 problems came out, not 8,886", "--expect 0")
    assert not out.parent.exists()


def test_math500_has_to_be_whole(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "rows.jsonl", [problem(0)])
    part = write_lines(tmp_path / "part.jsonl", [{"problem": "x"}])
    assert_refused(run_tool("math.py", "files", source, "--math500", part), "1 problems, not 500")
    assert_refused(run_tool("math.py", "files", source, "--math500", tmp_path / "none.parquet"), "data eval_suite prepares")
    assert_refused(run_tool("math.py", "files", source, "--math500", part, "--levels", "7"), "--levels 7")


def test_the_same_problem_has_one_key_and_others_have_others() -> None:
    key = problem_key("Find $\\dfrac{1}{2} + x$  if\n\\text{the} point is $(0,1)\\,$.")
    assert key == problem_key("find \\(\\frac12+x\\) if the point is \\left( 0, 1 \\right)")
    assert key != problem_key("Find $\\dfrac{1}{2} - x$  if the point is $(0,1)\\,$.")
    assert problem_key("\\leftarrow 1") != problem_key("arrow 1")


def test_the_real_set_holds_none_of_the_real_math500(tmp_path: Path) -> None:
    """The selection run over its own result, together with MATH500's problems, gives the result back."""
    paths = (SHARED_DATA / "math_l3to5_train.parquet", SHARED_DATA / "eval_math500.parquet")
    if not all(path.is_file() for path in paths):
        pytest.skip("MATH and MATH500 are not beside this repository (../shared/data)")
    train, test = (pq.read_table(path).to_pylist() for path in paths)
    held_out = [{"problem": " " + row["problem"], "answer": row["answer"], "level": 4} for row in test]
    records, counts = tool.select([*held_out, *train], test, {3, 4, 5})
    assert counts["in MATH500"] == counts["problems of MATH500 found"] == 500
    assert [(r["problem"], r["answer"]) for r in records] == [(r["problem"], r["answer"].strip()) for r in train]
    assert len(records) == tool.EXPECTED == 8886


def test_the_scripts_name_does_not_hide_pythons_math(tmp_path: Path) -> None:
    """Python looks into a script's folder first, and there stands a `math.py`."""
    (tmp_path / "math.py").write_bytes((FOLDER / "math.py").read_bytes())
    (tmp_path / "probe.py").write_text("import math, datetime, random\nprint(math.floor(2.5), math.pi)\n")
    done = subprocess.run([sys.executable, str(tmp_path / "probe.py")], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == f"2 {math.pi}\n", done.stderr
    assert run_offline("countdown.py", "--help").returncode == 0
