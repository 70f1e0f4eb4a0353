"""Two Ray nodes on one machine, one worker of verl on each; one of them is killed."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import psutil
import pytest

from tests.distributed.ray_nodes import NO_TOKEN, two_ray_nodes
from tests.verl.runs import LIMIT, start, text, wait_for


@pytest.mark.slow
@pytest.mark.timeout(2 * LIMIT)
def test_two_ray_nodes_train_together_and_a_killed_worker_ends_the_run_with_a_checkpoint(data: Path, tmp_path: Path) -> None:
    with two_ray_nodes(tmp_path, cores=6) as (address, nodes):
        run = tmp_path / "run"
        spread = ["trainer.nnodes=2", "trainer.n_gpus_per_node=1", f"ray_address={address}", "trainer.max_steps=500"]
        process = start(text(data, run, *spread), **NO_TOKEN)
        wait_for(run / "latest_checkpointed_iteration.txt", process)
        workers = [p for p in psutil.Process(nodes[1].pid).children(recursive=True) if "WorkerDict" in " ".join(p.cmdline())]
        assert len(workers) == 1, "one worker on each node"
        workers[0].send_signal(signal.SIGKILL)
        output, _ = process.communicate(timeout=LIMIT)
        assert process.returncode != 0
        assert "2 node(s)" in output
        assert "a worker process died" in output and "with the same command" in " ".join(output.split())
        assert json.loads((run / "run.json").read_text())["state"] == "failed"
        saved = int((run / "latest_checkpointed_iteration.txt").read_text())
        shards = {path.name for path in (run / f"global_step_{saved}" / "actor").glob("model_*.pt")}
        assert shards == {"model_world_size_2_rank_0.pt", "model_world_size_2_rank_1.pt"}
        three = text(data, tmp_path / "other", *spread, "trainer.nnodes=3", "data.rollout_batch_size=6")
        refused = start([*three, "worker.actor.global_batch_size=6"], **NO_TOKEN)
        output, _ = refused.communicate(timeout=LIMIT)
        assert refused.returncode != 0 and "so 2 of 3 groups fit" in " ".join(output.split())
