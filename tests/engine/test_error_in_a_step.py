"""An error inside a step saves the last finished step first; the same command then goes on as if nothing had happened."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gmpo_mm.errors import DataError, GMPOError, RewardError
from gmpo_mm.runs.checkpoint import latest_checkpoint
from tests.engine.runs import arguments, file_bytes, metrics_without_times, run_here
from tests.engine.test_bad_ends import good_row, own_data

REWARD = """
import pathlib, shutil
calls = 0

def compute_score(inputs):
    global calls
    calls += 1
    if calls == {call} and pathlib.Path({marker!r}).exists():
        {action}
    return [{{"overall": float(len(row["response"]) % 3), "accuracy": 0.0}} for row in inputs]
"""


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """The cause of the error is there as long as this file is."""
    path = tmp_path / "marker"
    path.touch()
    return path


def text_run(tmp_path: Path, marker: Path, name: str, call: int, action: str, *overrides: str) -> list[str]:
    """Four steps of the bundled text model with a reward that does `action` in its call number `call`."""
    rows = [{"problem": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(16)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "reward.py").write_text(REWARD.format(call=call, marker=str(marker), action=action))
    return arguments(
        tmp_path, tmp_path / name, f"data.train_files={tmp_path}/rows.jsonl", f"data.val_files={tmp_path}/rows.jsonl",
        "worker.actor.model.model_path=bundled:qwen2_tiny", "worker.actor.model.freeze_vision_tower=false",
        "data.max_response_length=8", "trainer.max_steps=4", "algorithm.use_kl_loss=false", "algorithm.kl_type=adaptive",
        "algorithm.disable_kl=false", f"worker.reward.reward_function={tmp_path}/reward.py:compute_score",
        "worker.reward.reward_function_kwargs={}", *overrides,
    )  # fmt: skip


def saved(run_dir: Path) -> str | None:
    found = latest_checkpoint(run_dir / "checkpoints")
    return None if found is None else found.name


def test_after_a_reward_that_raised_the_same_command_ends_with_the_bytes_of_an_unbroken_run(
    tmp_path: Path, marker: Path
) -> None:
    args = text_run(tmp_path, marker, "run", 3, "raise KeyError('gone')")
    with pytest.raises(RewardError, match="gone"):
        run_here(args)
    assert saved(tmp_path / "run") == "step_2"
    assert json.loads((tmp_path / "run/run.json").read_text())["state"] == "failed"
    marker.unlink()
    whole = run_here(text_run(tmp_path, marker, "whole", 3, "raise KeyError('gone')"))
    assert file_bytes(run_here(args), 4) == file_bytes(whole, 4)
    assert metrics_without_times(tmp_path / "run") == metrics_without_times(whole)


def test_a_validation_that_raised_is_made_up_for(tmp_path: Path, marker: Path) -> None:
    args = text_run(tmp_path, marker, "run", 3, "raise KeyError('gone')", "trainer.val_freq=2")
    with pytest.raises(RewardError, match="gone"):
        run_here(args)
    assert saved(tmp_path / "run") == "step_2"
    marker.unlink()
    whole = run_here(text_run(tmp_path, marker, "whole", 3, "raise KeyError('gone')", "trainer.val_freq=2"))
    assert file_bytes(run_here(args), 4) == file_bytes(whole, 4)
    assert metrics_without_times(tmp_path / "run") == metrics_without_times(whole)


def test_a_step_that_could_not_be_written_down_is_saved_with_its_weights(
    tmp_path: Path, marker: Path
) -> None:
    samples = tmp_path / "run/samples"
    spoil = f"shutil.rmtree({str(samples)!r}); pathlib.Path({str(samples)!r}).touch()"
    with pytest.raises(GMPOError, match="samples"):
        run_here(text_run(tmp_path, marker, "run", 2, spoil))
    assert saved(tmp_path / "run") == "step_2"


def test_an_error_before_the_first_step_is_done_leaves_no_checkpoint(tmp_path: Path, marker: Path) -> None:
    with pytest.raises(RewardError):
        run_here(text_run(tmp_path, marker, "run", 1, "raise KeyError('gone')"))
    assert saved(tmp_path / "run") is None


LOSS = """
from gmpo_mm.algorithms import register_policy_loss
calls = 0

@register_policy_loss("{name}")
def {name}(log_probs_BT, old_log_probs_BT, advantages_BT, response_mask_BT, config):
    global calls
    calls += 1
    if calls == {call}:
        raise RuntimeError("out of memory")
    return -advantages_BT * (log_probs_BT - old_log_probs_BT).exp()
"""


@pytest.mark.parametrize(("call", "last"), [(7, "step_2"), (9, None)])
def test_an_error_in_an_update_saves_the_step_before_where_no_weight_has_changed_yet(
    tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str], call: int, last: str | None
) -> None:
    """Three calls a step, in two updates: before the seventh the weights are those after step 2."""
    (tmp_path / "loss.py").write_text(LOSS.format(name=f"fails_at_{call}", call=call))
    args = text_run(
        tmp_path, marker, "run", 99, "pass", f"worker.actor.loss_type={tmp_path}/loss.py:fails_at_{call}",
        "algorithm.drop_zero_advantage=false", "worker.actor.dynamic_batching=false",
        "worker.actor.micro_batch_size_per_device_for_update=8",
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="out of memory"):
        run_here(args)
    assert saved(tmp_path / "run") == last
    assert ("saved step 2 first" if last else "between the updates of step 3") in capsys.readouterr().out


def test_a_picture_that_vanishes_while_training_costs_one_step(
    data: Path, tmp_path: Path, marker: Path
) -> None:
    gone = tmp_path / "rows/8_0.png"
    (tmp_path / "reward.py").write_text(
        REWARD.format(
            call=1, marker=str(marker), action=f"pathlib.Path({str(gone)!r}).rename({str(gone) + 'x'!r})"
        )
    )
    args = own_data(data, tmp_path, [good_row() for _ in range(16)], "data.shuffle=false", "trainer.max_steps=4",
                    f"worker.reward.reward_function={tmp_path}/reward.py:compute_score",
                    "worker.reward.reward_function_kwargs={}")  # fmt: skip
    with pytest.raises(DataError, match="row 8 of rows.jsonl, image 0: can't read"):
        run_here(args)
    assert saved(tmp_path / "run") == "step_2"
    Path(f"{gone}x").rename(gone)
    marker.unlink()
    assert saved(run_here(args)) == "step_4"
