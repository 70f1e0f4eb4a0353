"""Evaluations that stop when Pass@1 is known well enough: which problems, which bytes, and that all who show it say so."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from gmpo_mm.data.prompts import EncodedPrompt
from gmpo_mm.errors import ConfigError, DataError
from gmpo_mm.evaluation.compare import compare
from gmpo_mm.evaluation.compare_table import print_comparison
from gmpo_mm.evaluation.confidence_sequence import decided_after, sequence_interval
from gmpo_mm.evaluation.early_stop import batches_until_decided, problem_order, used_problems
from gmpo_mm.evaluation.evaluate import finish
from gmpo_mm.evaluation.regrade import regrade
from gmpo_mm.evaluation.results import Result, read_result
from gmpo_mm.evaluation.settings import load_settings
from gmpo_mm.evaluation.statistics import check_complete, summarise
from gmpo_mm.evaluation.table import print_results
from gmpo_mm.rollout.hf import HFRollout
from gmpo_mm.runs.progress import Progress
from gmpo_mm.sweeps.planning import plan_evaluation
from gmpo_mm.sweeps.sweep_file import Sweep, Variant
from tests.evaluation.evaluations import BUNDLED, evaluate_one, start_process
from tests.evaluation.made_results import make_result, write_result
from tests.evaluation.test_kill import kill_while_sampling

FILES = ("samples.jsonl", "summary.json", "problems.jsonl", "page.html")
WIDTH = 0.35


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return evaluate_one(tmp_path_factory.mktemp("whole") / "out", limit=40)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return evaluate_one(
        tmp_path_factory.mktemp("stopped") / "out", limit=40, stop_when_decided=WIDTH, batch=8
    )


def made(path: Path, grades: list[list[bool]], **changes: object) -> Result:
    """A made evaluation that may stop early, written and finished as a real one is."""
    write_result(make_result(grades, path, **changes))
    return finish(path, Progress())


def test_it_stops_at_the_first_problem_of_its_order_whose_interval_is_narrow(
    stopped: Result, whole: Result
) -> None:
    order = problem_order(1, 40)
    used = used_problems(stopped)
    assert (
        used is not None
        and 5 < len(used) < 35
        and used == order[: len(used)]
        and sorted(order) == list(range(40))
    )
    scores = [sum(sample.correct for sample in whole.by_problem[index]) / 4 for index in used]
    before, after = (sequence_interval(scores[:count], 40, WIDTH) for count in (len(used) - 1, len(used)))
    assert before.high - before.low >= WIDTH > after.high - after.low
    score = stopped.summary["pass_at_1"]
    assert (score["low"], score["high"], score["method"]) == (after.low, after.high, after.method)
    assert score["value"] == pytest.approx(sum(scores) / len(used), abs=1e-12)


def test_its_samples_are_those_of_the_whole_evaluation(stopped: Result, whole: Result) -> None:
    used = used_problems(stopped) or []
    assert stopped.samples == tuple(sample for sample in whole.samples if sample.index in used)
    assert (stopped.path / "problems.jsonl").read_bytes() == (whole.path / "problems.jsonl").read_bytes()


def test_the_batch_changes_no_byte_and_no_decision(stopped: Result, tmp_path: Path) -> None:
    again = evaluate_one(tmp_path / "out", limit=40, stop_when_decided=WIDTH, batch=256)  # all 40 in one call
    for name in FILES[:3]:
        assert (again.path / name).read_bytes() == (stopped.path / name).read_bytes(), name


@pytest.mark.parametrize("left", [0.0, 0.3, 0.999])
def test_cut_short_anywhere_it_goes_on_to_the_same_bytes(
    stopped: Result, tmp_path: Path, left: float
) -> None:
    folder = tmp_path / "out" / stopped.path.name
    shutil.copytree(stopped.path, folder)
    for name in ("summary.json", "page.html"):
        (folder / name).unlink()
    samples = (folder / "samples.jsonl").read_bytes()
    (folder / "samples.jsonl").write_bytes(samples[: int(left * len(samples))])
    evaluate_one(tmp_path / "out", limit=40, stop_when_decided=WIDTH, batch=16)
    for name in FILES:
        assert (folder / name).read_bytes() == (stopped.path / name).read_bytes(), name


def test_samples_beyond_the_decision_are_not_counted(stopped: Result, whole: Result, tmp_path: Path) -> None:
    """A batch that was written whole before a kill holds problems that the decision doesn't need."""
    folder = tmp_path / stopped.path.name
    shutil.copytree(stopped.path, folder)
    (folder / "summary.json").unlink()
    shutil.copy(whole.path / "samples.jsonl", folder / "samples.jsonl")
    finish(folder, Progress())
    for name in FILES:
        assert (folder / name).read_bytes() == (stopped.path / name).read_bytes(), name


@pytest.mark.slow
def test_killed_while_sampling_it_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    arguments = (
        "--model", BUNDLED, "--benchmark", "synthetic_pictures", "threads=1", "batch=16", "n=16",
        "--stop-when-decided", "0.12",
    )  # fmt: skip
    output, _ = start_process(*arguments, "--out", str(tmp_path / "whole")).communicate(timeout=200)
    assert "stopped early, after" in output
    folder = tmp_path / "killed" / "synthetic_pictures"
    kill_while_sampling(start_process(*arguments, "--out", str(tmp_path / "killed")), folder)
    assert not (folder / "summary.json").exists()
    output, _ = start_process(*arguments, "--out", str(tmp_path / "killed")).communicate(timeout=200)
    assert "going on in" in output
    for name in FILES[:3]:
        assert (folder / name).read_bytes() == (
            tmp_path / "whole" / "synthetic_pictures" / name
        ).read_bytes(), name


def test_everything_that_shows_it_says_that_it_stopped_early(stopped: Result) -> None:
    count = stopped.summary["problems"]
    assert stopped.summary["stopped_early"] == {"problems": count, "of": 40, "width": WIDTH}
    assert (stopped.summary["samples"], stopped.summary["missing"]) == (4 * count, 0)
    said = f"stopped early, after {count} of 40 problems in a random order"
    file = StringIO()
    print_results([stopped], Console(file=file, width=160))
    assert said in file.getvalue() and f"{count} of 40" in file.getvalue().split(said)[0]
    page = (stopped.path / "page.html").read_text(encoding="utf-8")
    assert (
        f"<b>Stopped early</b>, after {count} of 40 problems in a random order" in page
        and "Not finished" not in page
    )
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert len(data["problems"]) == count and all(
        len(problem["samples"]) == 4 for problem in data["problems"]
    )
    assert any(said in note for note in regrade(str(stopped.path), ["ours"]).notes)


def test_accuracies_of_a_part_have_intervals_that_allow_for_the_stop(stopped: Result) -> None:
    used = used_problems(stopped) or []
    for name, row in stopped.summary["by_type"].items():
        there = [index for index in used if stopped.problems[index].type == name]
        total = sum(problem.type == name for problem in stopped.problems)
        scores = [sum(sample.correct for sample in stopped.by_problem[index]) / 4 for index in there]
        interval = sequence_interval(scores, total, WIDTH)
        assert (row["problems"], row["low"], row["high"]) == (len(there), interval.low, interval.high)


def test_a_width_that_takes_all_problems_gives_the_numbers_of_a_whole_evaluation(tmp_path: Path) -> None:
    grades = [[i % 3 == 0, i % 2 == 0] for i in range(20)]
    asked = made(tmp_path / "asked", grades, stop_when_decided=1e-4)
    plain = made(tmp_path / "plain", grades)
    assert asked.summary == plain.summary and "stopped_early" not in asked.summary


def test_a_stopped_result_is_compared_on_the_problems_that_both_have(
    stopped: Result, whole: Result, tmp_path: Path
) -> None:
    used = used_problems(stopped) or []
    (found,) = compare(stopped.path, whole.path)
    assert (found.problems, found.of_problems, found.difference, found.ties) == (
        len(used),
        40,
        0.0,
        len(used),
    )
    file = StringIO()
    print_comparison([found], console=Console(file=file, width=160))
    assert (
        f"{len(used)} of 40" in file.getvalue()
        and f"A stopped early, after {len(used)} of 40" in file.getvalue()
    )
    longer = evaluate_one(tmp_path / "longer", limit=40, stop_when_decided=WIDTH - 0.05)
    (found,) = compare(longer.path, stopped.path)
    assert found.problems == len(used) < len(used_problems(longer) or [])
    assert [note.split(",")[0] for note in found.notes[:2]] == ["A stopped early", "B stopped early"]


def test_two_that_stopped_in_different_orders_are_not_compared(tmp_path: Path) -> None:
    grades = [[i % 7 == 0] * 4 for i in range(100)]
    a, b = (
        made(tmp_path / str(seed), grades, seed=seed, stop_when_decided=0.3, model=str(seed))
        for seed in (1, 2)
    )
    with pytest.raises(
        DataError, match=r"different orders \(seed 1 in A, 2 in B\); evaluate one of them again"
    ):
        compare(a.path, b.path)


def test_a_difference_that_is_shown_has_an_interval_without_0(tmp_path: Path) -> None:
    worse = made(tmp_path / "a", [[i % 5 == 0] * 4 for i in range(100)], stop_when_decided=0.25)
    better = made(tmp_path / "b", [[i % 5 > 0] * 4 for i in range(100)], model="b")
    (found,) = compare(worse.path, better.path)
    assert (
        found.problems < 100
        and found.shown
        and 0 < found.interval.low < found.difference < found.interval.high
    )
    assert (
        found.difference == pytest.approx(0.6, abs=0.2) and "on the benchmark's 100 problems" in found.verdict
    )


def test_what_needs_all_problems_refuses_it_and_says_why(stopped: Result, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="stopped early, after .* of 40 problems, and all are needed here"):
        check_complete(stopped)
    file = tmp_path / "evaluation.yaml"
    file.write_text("benchmarks: [synthetic_pictures]\nstop_when_decided: 0.1\n")
    sweep = Sweep(name="s", base="b", variants=(Variant("a", "A"),), seeds=(1,), evaluation=str(file))
    with pytest.raises(
        ConfigError, match="stop_when_decided=0.1, and a report compares the runs on all problems; remove it"
    ):
        plan_evaluation(sweep, Progress())


def test_an_unfinished_one_says_that_it_is_not_decided(stopped: Result) -> None:
    some = set((used_problems(stopped) or [])[:4])
    part = replace(stopped, samples=tuple(sample for sample in stopped.samples if sample.index in some))
    with pytest.raises(DataError, match="its interval is not narrower than 0.35 yet; run the same"):
        summarise(part)


def test_another_width_is_another_evaluation(stopped: Result) -> None:
    with pytest.raises(ConfigError, match=r"stop_when_decided: 0.35 there, 0.2 now"):
        evaluate_one(stopped.path.parent, limit=40, stop_when_decided=0.2)


def test_a_width_outside_of_0_and_1_is_refused() -> None:
    for width in (0, -0.1, 1.5):
        with pytest.raises(ConfigError, match=f"stop_when_decided={width}.*it must be above 0"):
            load_settings(None, ["model=m", "benchmarks=[math500]", f"stop_when_decided={width}"], {})


def test_batches_skip_what_is_there_and_end_with_the_decision() -> None:
    order, scores = problem_order(7, 50), {}
    scores[order[1]] = 0.0
    batches = batches_until_decided(7, 50, 0.4, scores, 3)
    assert next(batches) == [order[0], order[2], order[3]]
    scores.update(dict.fromkeys(order[:4], 0.0))
    taken: list[int] = []
    for batch in batches:
        scores.update(dict.fromkeys(batch, 0.0))
        taken += batch
    assert taken == order[4 : 4 + len(taken)] and len(taken) < 20


def test_the_order_is_another_for_another_seed_and_the_same_for_the_same() -> None:
    assert problem_order(1, 30) == problem_order(1, 30) != problem_order(2, 30)


def test_a_whole_result_reads_as_before(whole: Result) -> None:
    assert whole.complete and used_problems(read_result(whole.path)) is None
    assert "stopped_early" not in whole.summary


def test_problems_of_one_call_are_about_equally_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    generate = HFRollout.generate

    def spy(self: HFRollout, prompts: list[EncodedPrompt], *rest: Any) -> Any:
        lengths.extend(len(prompt.input_ids_S) for prompt in prompts)
        return generate(self, prompts, *rest)

    monkeypatch.setattr(HFRollout, "generate", spy)
    evaluate_one(tmp_path / "out", limit=10, n=1, batch=4)
    assert lengths == sorted(lengths, reverse=True) and lengths[0] > lengths[-1]


def test_one_problem_at_a_time_none_is_sampled_beyond_the_decision() -> None:
    for total, width in ((50, 0.4), (7, 0.01)):
        scores: dict[int, float] = {}
        for batch in batches_until_decided(7, total, width, scores, 1):
            scores.update(dict.fromkeys(batch, 0.25))
            assert len(scores) <= total and batch
        values = [scores[index] for index in problem_order(7, total) if index in scores]
        assert len(values) == decided_after(values, total, width)
