"""Two workers of verl on the CPU: reference model, KL in the loss, checkpoints, `kill -9`, the same command again.

Two mini-batches and two epochs a step; every step is recorded, and losses are compared.
"""

from __future__ import annotations

import json
import math
import signal
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

import gmpo_mm
from gmpo_mm.algorithms import StepTokens, UpdateRows, compare_losses, compared_configs
from gmpo_mm.config import load_config, policy_loss_config
from tests.verl.repeated import hash_of, repeated_on_local
from tests.verl.runs import LIMIT, finish, lines, start, text, wait_for

LEFT = "rollouts/.step_9.safetensors.tmp"
REWARD = """
def compute_score(rows):
    return [{"overall": sum(map(ord, row["response"])) % 7 / 6} for row in rows]
"""
"""Other responses have other rewards, so nearly every group has advantages."""
COMPARED = ["default", "gspo", "cispo", "power_mean"]


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    """The run, the step at which it was killed, and the output of its second start; the first step's batch is beside it."""
    run = tmp_path_factory.mktemp("killed") / "run"
    (run.parent / "reward.py").write_text(REWARD)
    texts = text(
        data, run, "worker.actor.global_batch_size=2", "worker.actor.ppo_epochs=2", "trainer.record_steps=every 1",
        f"worker.reward.reward_function={run.parent}/reward.py:compute_score",
        f"trainer.compare_losses={json.dumps(COMPARED)}", "worker.rollout.temperature=1.2",
        "worker.actor.optim.lr=2e-5", "worker.actor.optim.lr_scheduler_type=cosine", "worker.actor.optim.min_lr_ratio=0.5",
    )  # fmt: skip
    process = start(texts, str(run.parent / "batch.pt"))
    wait_for(run / "latest_checkpointed_iteration.txt", process)
    process.send_signal(signal.SIGKILL)
    assert next(line["step"] for line in lines(run, "train")) == 1, "no checkpoint is ahead of its metrics"
    process.communicate()
    time.sleep(2)
    (run / LEFT).touch()
    done = int((run / "latest_checkpointed_iteration.txt").read_text())
    return run, done, finish(start([*texts, "trainer.save_limit=2"]))


@pytest.mark.timeout(3 * LIMIT)
def test_two_workers_save_are_killed_and_go_on_where_they_were(finished: tuple[Path, int, str]) -> None:
    run, done, output = finished
    assert f"resuming the run in {run} (killed at step" in output and f"global_step_{done}" in output
    assert json.loads((run / "run.json").read_text())["state"] == "finished"
    train = lines(run, "train")
    assert [line["step"] for line in train] == [1, 2, 3]
    assert all(line["rollout/kl"] < 1e-5 for line in train)
    assert lines(run, "updates")[0]["actor/kl_ref"][0] == pytest.approx(0, abs=1e-6) and train[2]["actor/kl_ref"] > 1e-7
    kept = {path.name for path in run.glob("global_step_*")}
    assert kept == {"global_step_2", "global_step_3"}, "older ones go after the new one is whole"
    shards = {path.name for path in (run / "global_step_3" / "actor").glob("model_*.pt")}
    assert shards == {"model_world_size_2_rank_0.pt", "model_world_size_2_rank_1.pt"}


def test_a_killed_run_has_a_whole_record_of_every_step_and_no_leftovers(finished: tuple[Path, int, str]) -> None:
    run, _, output = finished
    assert "step records: 3 of 3 steps" in " ".join(output.split())
    assert not (run / LEFT).exists()
    records = [gmpo_mm.load_step(run, step) for step in (1, 2, 3)]
    rates = [record.learning_rate for record in records]
    assert rates[0] == 2e-5 and rates == sorted(set(rates), reverse=True), "the rate of this step, not of the next"
    for former, record in pairwise(records):
        assert former.weights_after == record.weights_before != record.weights_after
    assert records[2].weights_before == hash_of(run / "global_step_2"), "as the local engine hashes the same weights"
    assert records[2].weights_after == hash_of(run / "global_step_3")
    for record in records:
        assert record.engine == "verl" and record.versions["verl"] == "0.9.1" and record.temperature == 1.2
        assert record.kl_coef == 0.01 and not record.left_out
        assert record.config["worker"]["actor"]["ppo_epochs"] == 2


def test_a_record_is_the_batch_that_both_workers_trained_on_in_the_mini_batches_that_they_had(
    finished: tuple[Path, int, str],
) -> None:
    """verl cuts the rows of its queue into one half a worker, and each half into mini-batches, in order."""
    run, _, _ = finished
    record = gmpo_mm.load_step(run, 1)
    kept = torch.load(run.parent / "batch.pt", weights_only=True)
    in_queue = [(kept["id"][i], tuple(kept["responses"][i].tolist())) for i in range(16)]
    names = [record.prompts[group].id for group in record.group_ids_B.tolist()]
    rows = [(name, tuple(record.response_ids_BT[row, : record.lengths_B[row]].tolist())) for row, name in enumerate(names)]
    assert record.group_ids_B.tolist() == [group for group in range(4) for _ in range(4)] and len(set(names)) == 4
    assert sorted(rows) == sorted(in_queue)
    columns = {
        "advantages": record.advantages_BT, "old_log_probs": record.old_log_probs_BT, "ref_log_prob": record.ref_log_probs_BT,
    }  # fmt: skip
    for row, content in enumerate(rows):
        length, at = record.lengths_B[row], in_queue.index(content)
        assert torch.equal(record.prompts[record.group_ids_B[row]].input_ids_S, kept["prompts"][at])
        assert record.mask_BT[row].tolist() == [True] * length + [False] * (record.mask_BT.shape[1] - length)
        for name, values_BT in columns.items():
            torch.testing.assert_close(values_BT[row, :length], kept[name][at].float(), rtol=0, atol=1e-6)
    found = [sorted(rows[row] for row in update) for update in record.updates]
    first, second = (sorted(in_queue[start : start + 4] + in_queue[start + 8 : start + 12]) for start in (0, 4))
    assert found == [first, second, first, second]


@pytest.mark.timeout(LIMIT)
def test_the_local_engine_repeats_the_recorded_steps(finished: tuple[Path, int, str]) -> None:
    """All three, four optimizer steps each; of the last one also log-probabilities, loss, gradient norm and what it changed."""
    repeated_on_local(finished[0], 3)


def test_the_compared_losses_are_those_of_all_workers_together(finished: tuple[Path, int, str]) -> None:
    run, _, _ = finished
    config = policy_loss_config(load_config(run / "config.yaml").config)
    configs = compared_configs(config, COMPARED)
    found = lines(run, "compare")
    assert [line["step"] for line in found] == [1, 2, 3]
    for line in found:
        record = gmpo_mm.load_step(run, line["step"])
        updates = [UpdateRows.counted(rows, record.mask_BT) for rows in record.updates[-2:]]
        seen = StepTokens(
            record.log_probs_BT, record.old_log_probs_BT, record.advantages_BT, record.mask_BT, updates
        )
        expected = compare_losses(seen, configs, "gmpo")
        assert line["compare/losses"] == ["gmpo", *COMPARED]
        for name, value in expected.items():
            assert same(line[name], value), name
        assert len(line["compare/gmpo/clipped_by_entropy"]) == 10
        assert line["compare/gspo/cosine"] < 1 == pytest.approx(line["compare/gmpo/cosine"])


def same(one: Any, other: Any) -> bool:
    """Equal numbers, lists of them, or texts; NaN equals NaN."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other or (isinstance(one, float) and math.isnan(one) and math.isnan(other)) or one == pytest.approx(other)
