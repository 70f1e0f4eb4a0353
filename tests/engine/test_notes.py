"""What a run tells: that it can't learn, what its accuracy is, and everything once more in its log."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from gmpo_mm.config import load_config
from gmpo_mm.engines.local.launch import train
from gmpo_mm.errors import RewardError, TrainingError
from gmpo_mm.reports.report import write_report
from tests.engine.runs import arguments, run_here, train_metrics


def reward(folder: Path, score: str) -> str:
    file = folder / "reward.py"
    file.write_text(f"def compute_score(rows):\n    return [{score} for i, row in enumerate(rows)]\n")
    return f"worker.reward.reward_function={file}:compute_score"


def log_of(run_dir: Path) -> str:
    return (run_dir / "run.log").read_text()


@pytest.mark.parametrize("number", ["0.0", "1.0"])
def test_a_reward_that_is_always_the_same_is_told_after_the_first_step_and_at_the_end(
    data: Path, tmp_path: Path, number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = run_here(arguments(data, tmp_path / "run", reward(tmp_path, f"{{'overall': {number}}}")))
    printed = capsys.readouterr().out
    first, second = printed.index("step 1 shows"), printed.index("step 2/2")
    assert first < second < printed.index(f"in 2 of 2 steps: every response got the reward {float(number):g}")
    assert printed.count("likeliest causes:\n  1. ") == 2
    for line in printed.splitlines():
        assert line in log_of(run_dir)


def test_responses_that_are_all_cut_off_are_told(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_here(arguments(data, tmp_path / "run", "data.max_response_length=3"))
    assert "every response was cut off" in capsys.readouterr().out


def test_samples_are_shown_as_often_as_asked_for(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_here(arguments(data, tmp_path / "every", "trainer.log_samples=1"))
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  sample of step")]
    assert ["the best one" in shown[0], "the worst one" in shown[1], len(shown)] == [True, True, 2]
    run_here(arguments(data, tmp_path / "never", "trainer.log_samples=0"))
    printed = capsys.readouterr().out
    assert "sample of step" not in printed
    assert [line.split()[1] for line in printed.splitlines() if line.startswith("step ")] == ["1/2", "2/2"]
    run_here(arguments(data, tmp_path / "never", "trainer.log_samples=3", "trainer.max_steps=3"))  # may change in a resume


@pytest.mark.parametrize(
    ("score", "words", "value"),
    [("{'overall': 1.0 - 2 * (i % 2), 'accuracy': 1.0 - 2 * (i % 4 < 3)}", "mean accuracy", -0.5),
     ("{'overall': i % 2, 'accuracy': 1.0 - 2 * (i % 4 < 3), 'accuracy_normalized': float(i % 4 == 3)}", "Pass@1", 0.25),
     ("{'overall': i % 2, 'accuracy': 0.5 * (i % 2)}", "mean accuracy", 0.25)],
)  # fmt: skip
def test_an_accuracy_that_is_not_0_or_1_is_called_no_pass_at_1(
    data: Path, tmp_path: Path, score: str, words: str, value: float, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = run_here(arguments(data, tmp_path / "run", reward(tmp_path, score)))
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("validation"))
    assert f"{value:.3f}" in line and ("not a share" in line) == (words != "Pass@1")
    table = write_report([run_dir], tmp_path / "report").numbers["scores"][0]
    assert words in json.dumps(table), table


def test_a_part_that_is_not_finite_is_missing_and_hides_no_other_rows_number(data: Path, tmp_path: Path) -> None:
    score = "{'overall': float(i % 2), 'length': float('nan') if i == 1 else 2.0}"
    run_dir = run_here(arguments(data, tmp_path / "run", reward(tmp_path, score)))
    first = train_metrics(run_dir)[0]
    assert first["reward/length"] == 2.0 and first["reward/length_not_finite"] == 1 / 16
    rows = [json.loads(line) for line in (run_dir / "samples/step_1_train.jsonl").read_text().splitlines()]
    assert "length" not in rows[1] and rows[1]["length_not_finite"] == 1.0 and rows[0]["length"] == 2.0
    assert "length that is no finite number for 6.2%" in log_of(run_dir)
    assert all(math.isfinite(value) for value in first.values() if isinstance(value, float))


def test_filtering_by_a_part_that_is_not_finite_says_so(data: Path, tmp_path: Path) -> None:
    score = "{'overall': float(i % 2), 'accuracy': float('inf') if i == 1 else 0.0}"
    with pytest.raises(TrainingError, match="algorithm.filter_key=accuracy: .*not finite"):
        run_here(arguments(data, tmp_path / "run", reward(tmp_path, score), "algorithm.online_filtering=true",
                           "algorithm.filter_key=accuracy"))  # fmt: skip


def test_an_error_stands_in_the_log_with_what_was_printed_before(data: Path, tmp_path: Path) -> None:
    with pytest.raises(RewardError):
        run_here(arguments(data, tmp_path / "run", reward(tmp_path, "1 / 0")))
    assert "training prompts" in log_of(tmp_path / "run") and "ZeroDivisionError" in log_of(tmp_path / "run")


def test_a_resumed_run_goes_on_in_the_same_log(data: Path, tmp_path: Path) -> None:
    args = arguments(data, tmp_path / "run", "trainer.max_steps=1")
    run_here(args)
    train(load_config(args[0], [*args[1:], "trainer.max_steps=2"]), ["gmpo-mm", "train", "again"])
    text = log_of(tmp_path / "run")
    assert text.count("==== ") == 2 and text.index("step 1/1") < text.index("gmpo-mm train again") < text.index("step 2/2")


REWARD_THAT_WARNS = """
import warnings
def compute_score(rows):
    warnings.warn("of the user's own file")
    return [{"overall": float(i % 2)} for i, row in enumerate(rows)]
"""


def test_warnings_of_other_packages_go_to_the_log_and_a_users_own_are_shown(data: Path, tmp_path: Path) -> None:
    """LoRA makes peft ask transformers for something that it warns of; so this is a real one of theirs."""
    (tmp_path / "reward.py").write_text(REWARD_THAT_WARNS)
    args = arguments(data, tmp_path / "run", f"worker.reward.reward_function={tmp_path}/reward.py:compute_score",
                     "worker.actor.model.lora.rank=2", "trainer.max_steps=1")  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHONWARN")}
    ran = subprocess.run(
        [sys.executable, "-m", "gmpo_mm.cli", "train", *args], capture_output=True, text=True,
        env={**environment, "OMP_NUM_THREADS": "1"}, timeout=240,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "of the user's own file" in ran.stderr
    assert "FutureWarning" not in ran.stderr + ran.stdout and "deprecated" not in ran.stderr + ran.stdout
    if int(version("transformers").partition(".")[0]) >= 5:  # earlier ones do not warn of it
        assert "FutureWarning" in log_of(tmp_path / "run") or "deprecated" in log_of(tmp_path / "run")


def test_a_tracker_gets_tables_of_responses_with_pictures_grades_and_advantages(data: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_dir = run_here(arguments(data, tmp_path / "run", "trainer.logger=[tensorboard]", "trainer.log_samples=2",
                                 "trainer.max_steps=3", "trainer.val_freq=3", "trainer.val_generations_to_log=3"))  # fmt: skip
    board = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"tensors": 0, "images": 0})
    board.Reload()
    train, validation = (board.Tensors(f"samples/{kind}/text_summary") for kind in ("train", "validation"))
    assert [event.step for event in train] == [1, 3] and [event.step for event in validation] == [3]
    table = train[0].tensor_proto.string_val[0].decode().splitlines()
    assert len(table) == 2 + 8 and "advantage" in table[0] and "accuracy" in table[0]
    assert len(validation[0].tensor_proto.string_val[0].decode().splitlines()) == 2 + 3
    assert len([tag for tag in board.Tags()["images"] if tag.startswith("samples_train/row_")]) == 8
    run_dir = run_here(arguments(data, tmp_path / "none", "trainer.logger=[tensorboard]", "trainer.log_samples=0"))
    board = EventAccumulator(str(run_dir / "tensorboard"))
    board.Reload()
    assert not board.Tags()["images"] and "samples/train/text_summary" not in board.Tags()["tensors"]
