"""Two workers of verl on the CPU: reference model, KL in the loss, checkpoints, `kill -9`, the same command again."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from tests.verl.runs import LIMIT, finish, lines, start, text, wait_for


@pytest.mark.timeout(3 * LIMIT)
def test_two_workers_save_are_killed_and_go_on_where_they_were(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(text(data, run))
    wait_for(run / "latest_checkpointed_iteration.txt", process)
    process.send_signal(signal.SIGKILL)
    assert next(line["step"] for line in lines(run, "train")) == 1, "no checkpoint is ahead of its metrics"
    process.communicate()
    time.sleep(2)
    done = int((run / "latest_checkpointed_iteration.txt").read_text())
    output = finish(start(text(data, run, "trainer.save_limit=1")))
    assert f"resuming the run in {run} (killed at step" in output and f"global_step_{done}" in output
    assert json.loads((run / "run.json").read_text())["state"] == "finished"
    train = lines(run, "train")
    assert [line["step"] for line in train] == [1, 2, 3]
    assert all(line["rollout/kl"] < 1e-5 for line in train)
    assert train[0]["actor/kl_loss"] == pytest.approx(0, abs=1e-6) and train[2]["actor/kl_ref"] > 1e-7
    assert [path.name for path in run.glob("global_step_*")] == ["global_step_3"], "older ones go after the new one is whole"
    shards = {path.name for path in (run / "global_step_3" / "actor").glob("model_*.pt")}
    assert shards == {"model_world_size_2_rank_0.pt", "model_world_size_2_rank_1.pt"}
