"""Bad input and bad luck, end to end through the command line: a clear error, and nothing lost."""

from __future__ import annotations

import io
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gmpo_mm.config import load_config
from gmpo_mm.engines.local.launch import train
from gmpo_mm.errors import DataError, RewardError, TrainingError
from gmpo_mm.runs.checkpoint import latest_checkpoint, load_checkpoint
from gmpo_mm.runs.progress import Progress
from tests.engine.runs import arguments, run_here, run_process, start_process, train_metrics


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "white").save(file, format="PNG")
    return file.getvalue()


def write_rows(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows as JSONL with pictures as files beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for i, row in enumerate(rows):
        for j, content in enumerate(row.get("images", [])):
            (folder / f"{i}_{j}.png").write_bytes(content)
        names = [f"{i}_{j}.png" for j in range(len(row.get("images", [])))]
        lines.append(json.dumps({**row, "images": names}))
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "rows.jsonl"


def good_row(answer: str = "12", size: tuple[int, int] = (56, 56)) -> dict[str, Any]:
    return {"problem": "<image>Find the area of the rectangle.", "answer": answer, "images": [png(*size)]}


def own_data(data: Path, tmp_path: Path, rows: list[dict[str, Any]], *overrides: str) -> list[str]:
    file = write_rows(tmp_path / "rows", rows)
    return arguments(data, tmp_path / "run", f"data.train_files={file}", *overrides)


def test_reward_file_that_raises_ends_the_run_with_row_and_traceback(data: Path, tmp_path: Path) -> None:
    (tmp_path / "reward.py").write_text(
        "def compute_score(inputs):\n    return [{'overall': 1.0 / (len(inputs) - 16)} for _ in inputs]\n"
    )
    code, output = run_process(
        arguments(data, tmp_path / "run", f"worker.reward.reward_function={tmp_path}/reward.py:compute_score")
    )
    assert code == 2
    assert "ZeroDivisionError" in output and "reward.py" in output and "line 2" in output
    assert json.loads((tmp_path / "run/run.json").read_text())["state"] == "failed"


def test_reward_that_raises_on_one_answer_names_it(data: Path, tmp_path: Path) -> None:
    (tmp_path / "reward.py").write_text(
        "REWARD_TYPE = 'sequential'\n\n\ndef compute_score(row):\n    raise KeyError(row['ground_truth'])\n"
    )
    with pytest.raises(RewardError, match="ground truth"):
        run_here(arguments(data, tmp_path / "run", f"worker.reward.reward_function={tmp_path}/reward.py:compute_score"))


def test_empty_data_set_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="rows.jsonl"):
        run_here(own_data(data, tmp_path, []))
    assert not (tmp_path / "run/metrics.jsonl").exists()


def test_pictures_of_every_size_train(data: Path, tmp_path: Path) -> None:
    sizes = [(1, 1), (10_000, 60), (56, 56), (3, 200)]
    rows = [good_row(size=size) for size in sizes]
    run_dir = run_here(own_data(data, tmp_path, rows, "data.max_pixels=12544", "data.max_prompt_length=128"))
    assert [line["step"] for line in train_metrics(run_dir)] == [1, 2]


def test_picture_too_thin_for_the_model_names_its_row(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="row 1"):
        run_here(own_data(data, tmp_path, [good_row(), good_row(size=(10_000, 1)), *[good_row()] * 6]))


def test_broken_picture_names_its_row_before_any_training(data: Path, tmp_path: Path) -> None:
    rows = [*[good_row()] * 3, {**good_row(), "images": [png(56, 56)[:50]]}, *[good_row()] * 4]
    with pytest.raises(DataError, match="row 3"):
        run_here(own_data(data, tmp_path, rows))
    assert not (tmp_path / "run/samples").exists()


def test_hostile_ground_truth_and_answers_cost_nothing_but_their_reward(data: Path, tmp_path: Path) -> None:
    rows = [good_row("9**9**9**9"), good_row("{" * 100_000), good_row("12"), good_row("x" * 10_000)]
    run_dir = run_here(own_data(data, tmp_path, rows))
    lines = train_metrics(run_dir)
    assert len(lines) == 2 and all(0 <= line["critic/score/mean"] <= 1 for line in lines)


def test_empty_responses_train(data: Path, tmp_path: Path) -> None:
    """A response of the end token alone decodes to the empty text."""
    run_dir = run_here(arguments(data, tmp_path / "run", "data.max_response_length=1"))
    rows = [json.loads(line) for line in (run_dir / "samples/step_1_train.jsonl").read_text().splitlines()]
    assert {row["tokens"] for row in rows} == {1}
    assert len(train_metrics(run_dir)) == 2


def test_two_runs_can_not_share_a_directory(data: Path, tmp_path: Path) -> None:
    args = arguments(data, tmp_path / "run", "trainer.max_steps=200")
    first = start_process(args)
    try:
        while not (tmp_path / "run/metrics.jsonl").exists():
            assert first.poll() is None, first.stdout.read()
            time.sleep(0.05)
        code, output = run_process(args)
        assert code == 2 and str(tmp_path / "run") in output.replace("\n", "")
    finally:
        first.kill()
        first.wait()


def test_other_configuration_in_the_same_directory_names_the_keys(data: Path, tmp_path: Path) -> None:
    run_here(arguments(data, tmp_path / "run", "trainer.save_freq=1"))
    code, output = run_process(arguments(data, tmp_path / "run", "trainer.save_freq=1", "worker.actor.optim.lr=5e-5"))
    assert code == 2
    assert "worker.actor.optim.lr" in output and "5e-05" in output and "6e-05" in output and "trainer.run_dir" in output


def test_a_first_validation_speaks_while_it_samples(data: Path, tmp_path: Path) -> None:
    """A heartbeat within a validation that has nothing else to say; how long a silence may last is the heartbeat's own test."""
    args = arguments(
        data, tmp_path / "run", "trainer.val_before_train=true", "trainer.val_only=true", "worker.rollout.ignore_eos=true",
        "data.max_response_length=48", "worker.rollout.val_override_config={n: 32, temperature: 0.5}",
    )  # fmt: skip
    output = io.StringIO()
    train(load_config(args[0], args[1:]), [], Progress(output, heartbeat_seconds=0.02))
    lines = output.getvalue().splitlines()
    beats = [i for i, line in enumerate(lines) if line.startswith("... step 0: validation, ")]
    (end,) = (i for i, line in enumerate(lines) if line.startswith("validation after step 0"))
    assert len(beats) >= 3 and beats[-1] < end


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 16 MB: room for one checkpoint (10 MB), not for two."""
    mount = tmp_path / "disk"
    mount.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(mount)], capture_output=True, text=True)
    if made.returncode != 0:
        pytest.skip(f"mounting a small file system needs root: {made.stderr.strip()}")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def test_full_disk_keeps_the_former_checkpoint_and_says_so(data: Path, small_disk: Path) -> None:
    with pytest.raises(TrainingError) as failure:
        run_here(arguments(data, small_disk / "run", "trainer.save_freq=1", "trainer.max_steps=3"))
    assert "step_2" in str(failure.value) and "step_1" in str(failure.value)
    kept = latest_checkpoint(small_disk / "run/checkpoints")
    assert kept is not None and kept.name == "step_1"
    assert load_checkpoint(kept).step == 1  # every file is checked against its manifest
    assert json.loads((small_disk / "run/run.json").read_text())["state"] == "failed"
