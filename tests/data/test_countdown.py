"""CountDown problems can be solved, occur once, stay out of training when they are for the test, and come again by seed."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmpo_mm.data import RecordKeys, check_records, load_records
from gmpo_mm.errors import DataError
from gmpo_mm.toys.countdown import (
    PROMPTS,
    TINY,
    TINY_TEST_SIZE,
    TINY_TRAIN_SIZE,
    CountdownProblem,
    CountdownSettings,
    make_rows,
    make_splits,
)
from gmpo_mm.verifiers.countdown import check_expression, parse, read_problem
from tests.data.tools import assert_refused, run_offline, run_tool


def solutions_exist(numbers: tuple[Fraction, ...], target: int) -> bool:
    """Search over every way to join the numbers, in exact fractions."""
    if len(numbers) == 1:
        return numbers[0] == target
    for i, j in itertools.permutations(range(len(numbers)), 2):
        rest = tuple(n for k, n in enumerate(numbers) if k not in (i, j))
        a, b = numbers[i], numbers[j]
        joined = [a + b, a - b, a * b] + ([a / b] if b else [])
        if any(solutions_exist((*rest, value), target) for value in joined):
            return True
    return False


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**40), st.lists(st.integers(2, 6), min_size=1, max_size=3, unique=True), st.integers(1, 30),
    st.integers(20, 200), st.integers(1, 50), st.integers(0, 950),
)  # fmt: skip
def test_every_solution_is_graded_right(
    seed: int, operands: list[int], low: int, span: int, least_target: int, target_span: int
) -> None:
    chosen = CountdownSettings(tuple(operands), low, low + span, least_target, least_target + 50 + target_span, seed)
    splits = make_splits(chosen, 40, 10)
    for problem in splits["train"] + splits["test"]:
        verdict = check_expression(problem.solution, read_problem(problem.gold))
        assert verdict.correct, (problem, verdict.why)
        assert len(problem.numbers) in operands
        assert all(chosen.min_number <= number <= chosen.max_number for number in problem.numbers)
        assert chosen.min_target <= problem.target <= chosen.max_target


def test_an_independent_search_solves_them_too() -> None:
    for problem in make_splits(CountdownSettings(seed=5), 60, 1)["train"]:
        assert solutions_exist(tuple(map(Fraction, problem.numbers)), problem.target), problem


def keys(problems: list[CountdownProblem]) -> set[tuple[tuple[int, ...], int]]:
    return {(tuple(sorted(problem.numbers)), problem.target) for problem in problems}


@pytest.mark.parametrize("hold_out", ["problems", "numbers"])
def test_no_problem_comes_twice_even_where_few_exist(hold_out: str) -> None:
    """Numbers to 12 and targets to 20 hold few problems, so that draws collide all the time."""
    splits = make_splits(CountdownSettings((3,), 1, 12, 1, 20, seed=1), 1500, 150, hold_out)
    train, test = splits["train"], splits["test"]
    assert len(keys(train)) == len(train) == 1500 and len(keys(test)) == len(test) == 150
    assert not keys(train) & keys(test)
    shared = {numbers for numbers, _ in keys(train)} & {numbers for numbers, _ in keys(test)}
    assert bool(shared) == (hold_out == "problems")


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path: Path) -> None:
    """Also in another process, where texts hash otherwise."""
    for name, seed, run in (("a", 3, run_tool), ("b", 3, run_offline), ("c", 4, run_tool)):
        done = run("countdown.py", "--out", tmp_path / name, "--train-size", 300, "--test-size", 50, "--seed", seed)
        assert done.returncode == 0, done.stderr
    for split in ("train.parquet", "test.parquet"):
        a, b, c = ((tmp_path / name / split).read_bytes() for name in "abc")
        assert a == b != c


def test_the_draws_are_the_known_ones() -> None:
    """Another Python, or a change of the generator, must not change published problems unseen."""
    (problem,) = make_splits(CountdownSettings(), 1, 1)["test"]
    assert problem == CountdownProblem((66, 30, 36), 1, "(30 + 36) / 66")


def test_a_larger_training_split_changes_neither_the_test_nor_its_own_beginning() -> None:
    small, large = (make_splits(CountdownSettings(seed=9), size, 100) for size in (50, 400))
    assert small["test"] == large["test"] and small["train"] == large["train"][:50]


def test_only_the_operators_asked_for_occur() -> None:
    splits = make_splits(CountdownSettings((3,), max_number=20, operators="+*"), 300, 50)
    for problem in splits["train"] + splits["test"]:
        assert not set(problem.solution) & set("-/")
    with pytest.raises(DataError, match="operators"):
        CountdownSettings(operators="")


def test_the_tiny_form_is_the_one_that_the_bundled_models_were_shown(tmp_path: Path) -> None:
    done = run_tool("countdown.py", "--tiny", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    splits = make_splits(TINY, TINY_TRAIN_SIZE, TINY_TEST_SIZE)
    for split, problems in splits.items():
        assert pq.read_table(tmp_path / f"{split}.parquet")["problem"].to_pylist() == [p.text("short") for p in problems]
    assert (len(splits["train"]), len(splits["test"])) == (4096, 256)
    assert not keys(splits["train"]) & keys(splits["test"])


def test_counts_of_numbers_have_equal_shares() -> None:
    train = make_splits(CountdownSettings((3, 4), seed=2), 4000, 10)["train"]
    shares = Counter(len(problem.numbers) for problem in train)
    assert set(shares) == {3, 4} and abs(shares[3] - 2000) < 200


def test_all_four_operations_occur_and_parentheses_where_they_change_the_reading() -> None:
    solutions = [problem.solution for problem in make_splits(CountdownSettings(), 2000, 10)["train"]]
    assert all(any(sign in text for text in solutions) for sign in "+-*/()")
    for text in solutions:
        for start in (i for i, sign in enumerate(text) if sign == "("):
            depths = list(itertools.accumulate((sign == "(") - (sign == ")") for sign in text[start:]))
            end = start + depths.index(0)
            without = text[:start] + text[start + 1 : end] + text[end + 1 :]
            assert parse(without)[0] != parse(text)[0], text


def test_records_load_and_hold_what_rewards_read(tmp_path: Path) -> None:
    done = run_tool("countdown.py", "--out", tmp_path, "--train-size", 40, "--test-size", 20, "--numbers", "4")
    assert done.returncode == 0, done.stderr
    for split, size in (("train", 40), ("test", 20)):
        records = load_records(f"{tmp_path}@{split}", RecordKeys(prompt_key="problem"))
        check_records(records)
        assert len(records) == size
        for record in records:
            gold = json.loads(record.answer)
            assert gold == {"numbers": record.extra["numbers"], "target": record.extra["target"]}
            assert record.extra["operands"] == len(gold["numbers"]) == 4 and record.source == "countdown"
            assert all(str(number) in record.problem for number in [*gold["numbers"], gold["target"]])
    assert len(set(pq.read_table(tmp_path / "train.parquet")["id"].to_pylist())) == 40


def test_prompts_name_numbers_target_and_tags() -> None:
    problem = CountdownProblem((44, 19, 35), 98, "44 + 19 + 35")
    assert set(PROMPTS) == {"ours", "tinyzero", "short"}
    assert problem.text("short") == "44 19 35 -> 98"
    assert "44, 19 and 35" in problem.text() and "98" in problem.text() and "<answer>" in problem.text()
    assert problem.text("tinyzero").startswith("Using the numbers [44, 19, 35], create an equation that equals 98.")
    with pytest.raises(DataError, match="prompt: 'base' is unknown"):
        make_rows([problem], "train", 0, "base")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--numbers", "3;4"), "--numbers 3;4"),
        (("--numbers", "1"), "counts from 2 to 8"),
        (("--min-number", "0"), "numbers from 0 to 99"),
        (("--max-number", "0"), "numbers from 1 to 0"),
        (("--min-target", "101"), "targets from 101 to 100"),
        (("--hold-out", "all"), "hold_out: 'all'"),
        (("--prompt", "base", "--train-size", "1", "--test-size", "1"), "prompt: 'base'"),
        (("--numbers", "2", "--max-number", "3"), "of 1,024 problems found"),
        (("--operators", "+^"), "operators: '+^' must be some of +-*/"),
        (("--operators", "++"), "each once"),
        (("--tiny", "--seed", "3"), "--seed was given too"),
    ],
)
def test_what_cannot_be_made_is_refused(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    assert_refused(run_tool("countdown.py", "--out", tmp_path / "out", *arguments), message)
    assert not (tmp_path / "out").exists()
