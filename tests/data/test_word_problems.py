"""Arithmetic in words: right solutions, splits that share no story and no numbers; and the supervised steps on the form."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from gmpo_mm.errors import DataError
from gmpo_mm.toys.word_problem_texts import KINDS
from gmpo_mm.toys.word_problems import HELD_OUT_SHARE, SPLITS, WordProblem, is_held_out, make_problems, make_rows
from gmpo_mm.verifiers import grade_batch
from tests.data.tools import assert_refused, run_tool
from tests.engine.test_text_models import make_text_model

CALCULATION = re.compile(r"(\d+) ([+*/-]) (\d+) = (\d+)\.")
FIRST = "19 + 13 = 32. \\boxed{32}"
SIZES = {"train": 1024, "test": 128, "transfer": 128}


@pytest.fixture(scope="module")
def splits() -> dict[str, list[WordProblem]]:
    return {split: make_problems(split, size) for split, size in SIZES.items()}


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**40), st.sampled_from(SPLITS))
def test_each_solution_calculates_rightly_from_the_questions_numbers(seed: int, split: str) -> None:
    for problem in make_problems(split, 40, seed):
        lines = CALCULATION.findall(problem.solution)
        known = [int(number) for number in re.findall(r"\d+", problem.text)]
        assert sorted(known) == sorted(problem.numbers) and len(lines) == len(problem.calculations)
        for left, sign, right, result in lines:
            a, b, c = int(left), int(right), int(result)
            assert {"+": a + b == c, "-": a - b == c, "*": a * b == c, "/": a == b * c}[sign] and c > 0, problem
            for used in (a, b):
                assert used in known or used == 2, problem  # 2: the half of an average, the two of a perimeter
            known.append(c)
        assert problem.solution.endswith(f" \\boxed{{{known[-1]}}}") and problem.answer == known[-1]


def test_the_stories_say_the_calculation_that_their_kind_does() -> None:
    """A story that was written for another kind would be solved wrongly; each names all numbers, and no other placeholder."""
    stories = [(kind, story) for kind in KINDS for story in (*kind.train, *kind.test, *kind.transfer)]
    assert len({story for _, story in stories}) == len(stories)
    for kind, story in stories:
        names = set(re.findall(r"\{(\w+)\}", story))
        assert names - {"name", "friend", "items"} == set(kind.ranges), story
        assert "friend" not in names or "name" in names or story.count("{friend}") == 1, story


def test_no_story_and_no_numbers_are_in_training_and_test(splits: dict[str, list[WordProblem]]) -> None:
    train, test, transfer = (splits[split] for split in SPLITS)
    for held_out in (test, transfer):
        assert not {p.story for p in train} & {p.story for p in held_out}
        assert not {tuple(sorted(p.numbers)) for p in train} & {tuple(sorted(p.numbers)) for p in held_out}
        assert all(is_held_out(p.numbers) for p in held_out)
    assert {p.kind for p in train} == {p.kind for p in test} and not {p.kind for p in train} & {p.kind for p in transfer}
    for problems in splits.values():
        assert len({p.text for p in problems}) == len(problems)


def test_one_set_of_numbers_in_four_is_held_out_in_any_order() -> None:
    pairs = [(a, b) for a in range(2, 60) for b in range(2, 60)]
    assert all(is_held_out((a, b)) == is_held_out((b, a)) for a, b in pairs)
    assert abs(sum(map(is_held_out, pairs)) / len(pairs) - 1 / HELD_OUT_SHARE) < 0.03


def test_a_smaller_split_is_the_start_of_a_larger_one_and_a_seed_decides() -> None:
    assert make_problems("train", 50) == make_problems("train", 200)[:50]
    assert make_problems("train", 50, seed=1) != make_problems("train", 50)
    assert make_problems("test", 1)[0].solution == FIRST


def test_the_grader_accepts_each_solution() -> None:
    rows = make_rows("test", 64) + make_rows("transfer", 64)
    solutions, golds = [row["solution"] for row in rows], [row["answer"] for row in rows]
    grades = grade_batch(solutions, golds, kind="response", extraction="boxed")
    assert all(grade.correct for grade in grades)


def test_more_problems_than_there_are_and_an_unknown_split_are_refused() -> None:
    with pytest.raises(DataError, match="10,001 problems were asked for; ask for at most 10,000"):
        make_problems("transfer", 10_001)
    with pytest.raises(DataError, match="take one of train, test, transfer"):
        make_problems("tset", 1)


def test_the_command_writes_three_files(tmp_path: Path) -> None:
    done = run_tool("word_problems.py", "--out", tmp_path / "data", "--train-size", 30, "--test-size", 16, "--transfer-size", 8)
    assert done.returncode == 0, done.stderr
    for split, size in (("train", 30), ("test", 16), ("transfer", 8)):
        assert pq.read_table(tmp_path / "data" / f"{split}.parquet").to_pylist() == make_rows(split, size)


def test_a_few_supervised_steps_teach_a_real_model_the_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_text_model(tmp_path / "model", "dense")
    done = run_tool("smollm2_form.py", "--model", "model", "--out", "taught", "--steps", 12, "--batch-size", 4, "--rate", 0.01)
    assert done.returncode == 0, done.stderr
    facts = json.loads(Path("taught/form.json").read_text())
    assert len(facts["losses"]) == 12 and facts["losses"][-1] < facts["losses"][0] - 0.5
    assert "48 solutions shown once" in done.stdout
    before, after = (transformers.AutoModelForCausalLM.from_pretrained(name) for name in ("model", "taught"))
    assert any((a != b).any() for a, b in zip(before.parameters(), after.parameters()))
    again = run_tool("smollm2_form.py", "--model", "model", "--out", "again", "--steps", 12, "--batch-size", 4, "--rate", 0.01)
    assert again.returncode == 0
    assert Path("again/model.safetensors").read_bytes() == Path("taught/model.safetensors").read_bytes()


def test_a_folder_without_a_model_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = run_tool("smollm2_form.py", "--model", tmp_path / "empty", "--out", tmp_path / "taught")
    assert_refused(done, "no model folder", "gmpo-mm data smollm2")
    assert not (tmp_path / "taught").exists()
