"""data_tools/synthetic_geometry.py writes records that the package reads back as the same problems."""

from PIL import ImageChops

from gmpo_mm.data import RecordKeys, load_image, load_records
from gmpo_mm.toys.synthetic_geometry import SPLITS, draw, make_problem
from tests.data.tools import run_tool


def run(*arguments):
    return run_tool("synthetic_geometry.py", *arguments)


def test_the_three_splits_read_back_as_the_problems_of_the_generator(tmp_path):
    result = run("--out", tmp_path / "task", "--train-size", 20, "--test-size", 10)
    assert result.returncode == 0, result.stderr
    for split, size in zip(SPLITS, (20, 10, 10)):
        records = load_records(str(tmp_path / "task" / f"{split}.parquet"), RecordKeys(prompt_key="problem"))
        assert len(records) == size
        for index, record in enumerate(records):
            problem = make_problem(split, index)
            assert (record.problem, record.answer, record.id) == (problem.text, problem.answer, problem.id)
            assert record.source == "synthetic_geometry"
            assert record.extra["kind"] == problem.combination.kind
            picture = load_image(record.images[0], None, None, record.where)
            assert ImageChops.difference(picture, draw(problem)).getbbox() is None


def test_another_seed_says_that_the_bundled_model_has_seen_its_held_out_pairs(tmp_path):
    result = run("--out", tmp_path, "--train-size", 1, "--test-size", 1, "--seed", 5)
    assert result.returncode == 0
    assert "seed 5" in result.stderr
    assert "note:" not in run("--out", tmp_path, "--train-size", 1, "--test-size", 1).stderr


def test_more_problems_than_exist_is_an_error_that_says_how_many_do(tmp_path):
    result = run("--out", tmp_path / "none", "--train-size", 1, "--test-size", 10**5)
    assert result.returncode == 2
    assert "take one from 0 to" in result.stderr
    assert not (tmp_path / "none").exists()
