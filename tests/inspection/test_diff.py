"""What `gmpo-mm diff` says of equal steps, of other orders, of runs, and to programs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import gmpo_mm
from gmpo_mm.cli import app
from gmpo_mm.errors import DataError
from gmpo_mm.inspection.recipes import loss_recipe
from gmpo_mm.runs.metrics_file import MetricsFile
from gmpo_mm.runs.step_record import StepRecord
from tests.inspection.faults import TENSORS
from tests.inspection.recorded import STEP, Recorded


def reorder(record: StepRecord, order: list[int]) -> None:
    """The same step with its rows in another order; the updates keep their responses."""
    place = {row: new for new, row in enumerate(order)}
    for name in (*TENSORS, "group_ids_B"):
        setattr(record, name, getattr(record, name)[order])
    record.reward_parts = {name: part_B[order] for name, part_B in record.reward_parts.items()}
    for name in ("texts", "stop_reasons", "lengths_B"):
        setattr(record, name, [getattr(record, name)[row] for row in order])
    record.updates = [[place[row] for row in rows] for rows in record.updates]


def test_a_step_written_twice_is_equal_in_every_stage(recorded: Recorded, tmp_path: Path) -> None:
    found = gmpo_mm.diff(recorded.write(tmp_path / "a"), recorded.write(tmp_path / "b"))
    assert found.equal and {stage.status for stage in found.stages} == {"equal"}
    assert (
        len(found.stages) == 18
        and not found.settings
        and repr(found).endswith("are equal in all that can be compared")
    )


def test_samples_in_another_order_are_aligned(recorded: Recorded, tmp_path: Path) -> None:
    order = torch.randperm(32, generator=torch.Generator().manual_seed(3)).tolist()
    found = gmpo_mm.diff(
        recorded.write(tmp_path / "a"), recorded.write(tmp_path / "b", lambda record: reorder(record, order))
    )
    assert len(found.aligned.same) == 32
    assert found.equal, found.first


def test_prompts_in_another_order_and_under_other_names_are_aligned(
    recorded: Recorded, tmp_path: Path
) -> None:
    def change(record: StepRecord) -> None:
        record.prompts = [replace(p, id=f"other {i}") for i, p in enumerate(reversed(record.prompts))]
        record.group_ids_B = 7 - record.group_ids_B

    assert gmpo_mm.diff(recorded.write(tmp_path / "a"), recorded.write(tmp_path / "b", change)).equal


def test_float32_rounding_is_equal_and_its_bound_is_shown(recorded: Recorded, tmp_path: Path) -> None:
    def change(record: StepRecord) -> None:
        assert record.old_log_probs_BT is not None
        record.old_log_probs_BT = record.old_log_probs_BT - 5e-6 * record.mask_BT

    found = gmpo_mm.diff(recorded.write(tmp_path / "a"), recorded.write(tmp_path / "b", change))
    stage = next(stage for stage in found.stages if stage.name == "old log-probs")
    assert found.equal and stage.status == "equal to rounding" and "2e-05" in stage.words
    assert stage.max == pytest.approx(5e-6, rel=1e-2)


def test_the_largest_the_mean_and_the_share_of_a_difference_are_those_of_its_tokens(
    recorded: Recorded, tmp_path: Path
) -> None:
    def change(record: StepRecord) -> None:
        assert record.ref_log_probs_BT is not None
        record.ref_log_probs_BT[3, 5] -= 0.25
        record.ref_log_probs_BT[9, 2] -= 0.75

    found = gmpo_mm.diff(recorded.write(tmp_path / "a"), recorded.write(tmp_path / "b", change))
    first = found.first
    tokens = sum(recorded.record().lengths_B)
    assert first is not None and first.name == "reference log-probs" and first.compared == tokens
    assert (
        first.max == pytest.approx(0.75)
        and first.mean == pytest.approx(1.0 / tokens)
        and first.share == pytest.approx(2 / tokens)
    )
    assert first.example is not None and (first.example.row_a, first.example.token) == (9, 2)
    value = float(recorded.record().ref_log_probs_BT[9, 2])  # type: ignore[index]
    assert float(first.example.a) == pytest.approx(value, rel=1e-4) and float(
        first.example.b
    ) == pytest.approx(value - 0.75, rel=1e-4)
    assert "[" in first.example.around


def test_what_differs_after_the_first_stage_is_in_the_table(recorded: Recorded, tmp_path: Path) -> None:
    def change(record: StepRecord) -> None:
        record.rewards_B = 0.5 * record.reward_parts["accuracy"] + 0.5 * record.reward_parts["format"]
        record.learning_rate = 1e-5

    found = gmpo_mm.diff(recorded.write(tmp_path / "a"), recorded.write(tmp_path / "b", change))
    assert [stage.name for stage in found.stages if stage.status == "differs"] == ["rewards", "learning rate"]


def test_other_responses_are_not_compared_token_by_token(recorded: Recorded, tmp_path: Path) -> None:
    def change(record: StepRecord) -> None:
        record.response_ids_BT = record.response_ids_BT.flip(1) + 1
        record.texts = [f"other {row}" for row in range(32)]
        record.lengths_B = [17] * 32

    found = gmpo_mm.diff(recorded.write(tmp_path / "a"), recorded.write(tmp_path / "b", change))
    assert (
        found.first is not None
        and found.first.name == "responses"
        and found.first.causes[0].code == "sampling"
    )
    status = {stage.name: stage.status for stage in found.stages}
    assert status["rewards"] == status["old log-probs"] == status["ratio"] == "can't be compared"


def test_the_recorded_loss_follows_from_the_recorded_tensors(recorded: Recorded) -> None:
    found = loss_recipe(gmpo_mm.diff(recorded.run, recorded.run).a)
    assert found is not None and found.loss_type == "gmpo"


def run_copy(
    recorded: Recorded, folder: Path, change: Callable[[StepRecord], None] = lambda record: None
) -> Path:
    shutil.copytree(recorded.run, folder, ignore=shutil.ignore_patterns("checkpoints"))
    recorded.write(folder, change)
    return folder


def test_two_runs_are_compared_at_their_first_common_record_and_by_their_metrics(
    recorded: Recorded, tmp_path: Path
) -> None:
    other = run_copy(recorded, tmp_path / "b")
    found = gmpo_mm.diff(recorded.run, other)
    assert found.equal and found.a.step == STEP and "equal in all 2 steps" in found.notes[-1]
    line = next(
        json.loads(line) for line in (other / "metrics.jsonl").read_text().splitlines() if '"train"' in line
    )
    (other / "metrics.jsonl").write_text("")
    MetricsFile(other / "metrics.jsonl").log_metrics(1, "train", line | {"critic/score/mean": 0.75})
    note = gmpo_mm.diff(recorded.run, other).notes[-1]
    assert "part at step 1: critic/score/mean" in note and "trainer.record_steps=[1]" in note


def test_runs_without_records_are_compared_by_configuration_and_metrics(
    recorded: Recorded, tmp_path: Path
) -> None:
    sides = [run_copy(recorded, tmp_path / name) for name in "ab"]
    for side in sides:
        shutil.rmtree(side / "rollouts")
    config = sides[1] / "config.yaml"
    config.write_text(config.read_text().replace("max_grad_norm: 1.0", "max_grad_norm: 0.5", 1))
    found = gmpo_mm.diff(*sides, 2)
    assert found.equal and found.settings == {"worker.actor.max_grad_norm": (1.0, 0.5)}
    status = {stage.name: stage.status for stage in found.stages}
    assert (
        status["loss"] == status["gradient norm"] == status["learning rate"] == "equal"
        and status["prompts"] == "not there"
    )


def test_a_step_that_a_run_has_not_is_named(recorded: Recorded) -> None:
    with pytest.raises(DataError, match="step 1 has no record; there are step 2"):
        gmpo_mm.diff(recorded.run, recorded.run, 1)
    record = recorded.run / "rollouts" / f"step_{STEP}.json"
    with pytest.raises(DataError, match="is step 2, not 3"):
        gmpo_mm.diff(record, record, 3)


def test_sides_without_a_common_step_are_an_error(recorded: Recorded, tmp_path: Path) -> None:
    def change(record: StepRecord) -> None:
        record.step = 5

    with pytest.raises(DataError, match="no step in common: step 2 against step 5"):
        gmpo_mm.diff(recorded.run, recorded.write(tmp_path / "b", change))


def test_a_group_that_is_no_prompt_of_the_record_is_an_error(recorded: Recorded, tmp_path: Path) -> None:
    def change(record: StepRecord) -> None:
        record.group_ids_B = record.group_ids_B + 1

    with pytest.raises(DataError, match="a response's group is none of its 8 prompts"):
        gmpo_mm.diff(recorded.run, recorded.write(tmp_path / "b", change))


def test_the_command_ends_with_0_for_equal_1_for_different_and_2_for_an_error(
    recorded: Recorded, tmp_path: Path
) -> None:
    a = recorded.write(tmp_path / "a")

    def change(record: StepRecord) -> None:
        record.temperature, record.old_log_probs_BT = 0.5, recorded.otherwise["temperature 0.5"]

    b = recorded.write(tmp_path / "b", change)
    runner = CliRunner()
    assert runner.invoke(app, ["diff", str(a), str(a)]).exit_code == 0
    shown = runner.invoke(app, ["diff", str(a), str(b), "--json", str(tmp_path / "found.json")])
    assert shown.exit_code == 1
    assert "They part at: old log-probs." in shown.output and "temperature 0.5 in B, 0.8 in A" in shown.output
    written = json.loads((tmp_path / "found.json").read_text())
    assert (
        written["first"] == "old log-probs"
        and written["causes"][0]["code"] == "temperature"
        and not written["equal"]
    )
    printed = runner.invoke(app, ["diff", str(a), str(b), "--json"])
    assert json.loads(printed.stdout) == written
    with pytest.raises(DataError):
        runner.invoke(app, ["diff", str(a), str(tmp_path / "none")], catch_exceptions=False)
