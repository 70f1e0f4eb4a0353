"""Rows come from each kind of source, and what can't be read says so."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gmpo_mm.data import load_records, sources
from gmpo_mm.errors import DataError
from tests.data.helpers import KEYS, plain, write_lines

ROWS = [{"problem": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(10)]


def write_parquet(path: Path, rows: list[dict]) -> str:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


def problems(spec: str | Path) -> list[str]:
    return [record.problem for record in load_records(str(spec), KEYS)]


def test_the_same_rows_come_from_parquet_lines_and_array(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps(ROWS, indent=1), encoding="utf-8")
    specs = [write_parquet(tmp_path / "a.parquet", ROWS), write_lines(tmp_path / "b.jsonl", ROWS), tmp_path / "c.json"]
    for spec in specs:
        records = load_records(str(spec), KEYS)
        assert [(r.problem, r.answer, r.row) for r in records] == [
            (row["problem"], row["answer"], i) for i, row in enumerate(ROWS)
        ]
        assert records[-1].problem == ROWS[-1]["problem"]
        assert [r.problem for r in records[2:4]] == [ROWS[2]["problem"], ROWS[3]["problem"]]
        with pytest.raises(IndexError):
            records[10]


def test_a_folder_gives_all_its_files_and_names_the_row_within_its_file(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", ROWS[:4])
    write_lines(tmp_path / "b.jsonl", ROWS[4:])
    (tmp_path / "notes.txt").write_text("not data", encoding="utf-8")
    records = load_records(str(tmp_path), KEYS)
    assert [r.problem for r in records] == [row["problem"] for row in ROWS]
    wheres = [record.where for record in records]
    assert wheres[3:6] == ["row 3 of a.jsonl", "row 0 of b.jsonl", "row 1 of b.jsonl"]
    assert records[5].row == 5


def test_a_split_takes_the_files_that_carry_its_name(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-00000-of-00002.parquet", ROWS[:3])
    write_parquet(tmp_path / "train-00001-of-00002.parquet", ROWS[3:5])
    write_parquet(tmp_path / "geometry3k_val.parquet", ROWS[5:7])
    write_parquet(tmp_path / "test.parquet", ROWS[7:])
    assert problems(f"{tmp_path}@train") == problems(tmp_path) == [row["problem"] for row in ROWS[:5]]
    assert problems(f"{tmp_path}@validation") == problems(f"{tmp_path}@val") == [row["problem"] for row in ROWS[5:7]]
    assert problems(f"{tmp_path}@test") == [row["problem"] for row in ROWS[7:]]


def test_a_split_may_carry_a_slice(tmp_path: Path) -> None:
    for spec in (write_lines(tmp_path / "a.jsonl", ROWS), write_parquet(tmp_path / "a.parquet", ROWS)):
        assert problems(f"{spec}@train[2:4]") == [ROWS[2]["problem"], ROWS[3]["problem"]]
        assert problems(f"{spec}@train[-20%:]") == [ROWS[8]["problem"], ROWS[9]["problem"]]
        records = load_records(f"{spec}@train[2:4]", KEYS)
        assert len(records) == 2 and records[0].row == 0 and records[0].where.startswith("row 2 of a.")
        assert records.rows.column("answer") == ["3", "4"]


def test_a_path_with_an_at_sign_is_a_path(tmp_path: Path) -> None:
    folder = tmp_path / "v1@home"
    folder.mkdir()
    assert problems(write_lines(folder / "a.jsonl", ROWS)) == [row["problem"] for row in ROWS]
    assert problems(f"{folder}@train") == [row["problem"] for row in ROWS]


def test_large_parquet_is_memory_mapped_and_gives_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"problem": "<image>?", "answer": str(i), "images": [{"bytes": plain(), "path": None}]} for i in range(3)]
    spec = write_parquet(tmp_path / "a.parquet", rows)
    in_memory = list(load_records(spec, KEYS))
    monkeypatch.setattr(sources, "MEMORY_LIMIT", 0)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    assert list(load_records(spec, KEYS)) == in_memory
    assert list((tmp_path / "cache").rglob("*.arrow"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "data.train_files"),
        ("{tmp}/missing.parquet", "there is no file or folder"),
        ("./missing@train", "there is no file or folder"),
        ("{tmp}/empty", "no .parquet, .jsonl, .json file"),
        ("{tmp}/mixed", "several types"),
        ("{tmp}/halfnamed", "extra.jsonl not"),
        ("{tmp}/splits@validation", "no file of split 'validation'; found test.jsonl, train.jsonl"),
        ("{tmp}/plain@test", "no file is named after split 'test'"),
        ("{tmp}/plain/a.jsonl@test", "a single file has no split 'test'"),
        ("{tmp}/plain/a.jsonl@train[oops]", "can't take slice"),
        ("{tmp}/plain/a.jsonl@train+test", "can't read split"),
        ("{tmp}/table.csv", "can't read this type"),
        ("{tmp}/outer", "name the folder that holds them"),
        ("{tmp}/cut.parquet", "can't read as Parquet"),
        ("{tmp}/cut.jsonl", "broken JSON in line 2"),
        ("{tmp}/cut.json", "broken JSON in line 1"),
        ("{tmp}/long.jsonl", "broken JSON in line 2"),
        ("{tmp}/deep.jsonl", "broken JSON in line 2"),
        ("{tmp}/list.jsonl", "row 1 of list.jsonl: expected an object"),
        ("{tmp}/latin.jsonl", "UTF-8"),
    ],
)
def test_a_source_that_cannot_be_read_says_what_is_wrong(tmp_path: Path, spec: str, message: str) -> None:
    line = json.dumps(ROWS[0]) + "\n"
    files = {
        "empty/picture.png": "x",
        "mixed/a.jsonl": line,
        "mixed/b.json": "[]",
        "halfnamed/train.jsonl": line,
        "halfnamed/extra.jsonl": line,
        "splits/train.jsonl": line,
        "splits/test.jsonl": line,
        "plain/a.jsonl": line,
        "table.csv": "problem,answer\n",
        "outer/data/a.jsonl": line,
        "cut.parquet": "PAR1",
        "cut.jsonl": line + '{"problem": ',
        "cut.json": '[{"problem": ',
        "long.jsonl": line + '{"answer": ' + "9" * 5000 + "}",
        "deep.jsonl": line + '{"answer": ' + "[" * 100_000,
        "list.jsonl": line + "[1]\n",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    (tmp_path / "latin.jsonl").write_bytes(b'{"problem": "\xe9"}\n')
    with pytest.raises(DataError) as caught:
        load_records(spec.replace("{tmp}", str(tmp_path)), KEYS)
    assert message in str(caught.value)


def test_a_data_set_that_the_hub_does_not_give_is_named_with_a_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="no-one/no-such-data-set@test: neither a file .* check the name") as caught:
        load_records("no-one/no-such-data-set@test", KEYS)
    assert caught.value.__cause__ is not None


def test_a_hub_data_set_is_read_by_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` reads a local folder by the same call as a hub name; only the network is left out here."""
    repository = tmp_path / "owner" / "name"
    (repository / "data").mkdir(parents=True)
    image = {"bytes": plain(), "path": "a.png"}
    write_parquet(
        repository / "data" / "train-00000.parquet", [{"problem": "<image>", "answer": "1", "images": [image]}]
    )
    write_parquet(repository / "data" / "test-00000.parquet", ROWS)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    rows = sources._read_hub("owner/name@test[:2]")
    assert [rows.row(i)["problem"] for i in range(len(rows))] == [row["problem"] for row in ROWS[:2]]
    assert sources._read_hub("owner/name").row(0)["images"] == [image]
