"""Responses that are cut off, or nearly: left out of the loss, or punished, and what that does to everything around them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gmpo_mm.algorithms import PolicyLossConfig, aggregate, compute_advantages, compute_kl, compute_policy_loss
from gmpo_mm.errors import RewardError
from gmpo_mm.rewards.overlong import OverlongBuffer
from gmpo_mm.training.batch import Batch
from gmpo_mm.training.update_metrics import Observed, update_metrics
from tests.engine.runs import ROOT, SMALL, run_here, train_metrics
from tests.training.builders import gradients, make_actor, make_batch

CUT = {1, 2, 7, 8, 9, 10, 11}
"""Rows that are truncated: some of two groups, all of the third, none of the fourth."""


def batch_with_truncated(policy: object, rows: set[int] = CUT) -> Batch:
    made = make_batch(policy)
    groups, number = [], 0
    for group in made.groups:
        responses = []
        for response in group.responses:
            responses.append(replace(response, stop_reason="length" if number in rows else "stop"))
            number += 1
        groups.append(replace(group, responses=responses))
    batch = Batch(groups)
    batch.advantages_BT, batch.old_log_probs_BT = made.advantages_BT.clone(), made.old_log_probs_BT
    batch.ref_log_probs_BT = made.sampler_log_probs_BT - 0.2 * made.mask_BT
    return batch


@pytest.mark.parametrize("mode", ["token", "seq"])
def test_a_truncated_response_gives_no_gradient_and_counts_in_a_mean_over_sequences_alone(mode: str) -> None:
    """Against a loop over the other rows: their tokens are the units of a mean over tokens, all rows those of the other."""
    loss = PolicyLossConfig(loss_type="default", loss_avg_mode=mode)
    actor = make_actor(loss=loss, entropy_coef=0.02, kl_kind="low_var_kl")
    batch = batch_with_truncated(actor.policy)
    batch.leave_out_truncated()
    found = gradients(actor, batch, kl_coef=0.1)
    actor.policy.module.zero_grad()
    kept = [row for row in range(16) if row not in CUT]
    units = sum(batch.lengths[row] for row in kept) if mode == "token" else 16
    for row in kept:
        output = actor.policy.response_log_probs(batch.group_of([row]), 1.0)
        width, mask = output.mask_BT.shape[1], output.mask_BT
        old, advantages, ref = (
            getattr(batch, name)[row : row + 1, :width] for name in ("old_log_probs_BT", "advantages_BT", "ref_log_probs_BT")
        )
        total = compute_policy_loss(output.log_probs_BT, old, advantages, mask, loss).sum
        total = total + 0.1 * aggregate(compute_kl(output.log_probs_BT, ref, "low_var_kl", mask), mask, mode)
        ((total - 0.02 * aggregate(output.entropy_BT, mask, mode)) / units).backward()
    for name, parameter in actor.policy.module.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=2e-6)


def test_the_reward_of_a_truncated_response_counts_in_the_advantages_of_its_group() -> None:
    batch = batch_with_truncated(make_actor().policy)
    expected = compute_advantages("grpo", batch.rewards_B, batch.group_ids_B, response_mask_BT=batch.mask_BT).float()
    batch.advantages_BT = expected.clone()
    batch.leave_out_truncated()
    for row in range(16):
        wanted = torch.zeros_like(expected[row]) if row in CUT else expected[row]
        assert torch.equal(batch.advantages_BT[row], wanted)
    assert batch.groups_with_advantage() == [True, True, False, True]


def test_a_mini_batch_of_truncated_responses_alone_has_no_gradient_and_no_metric_that_is_not_finite() -> None:
    actor = make_actor(loss=PolicyLossConfig(loss_type="default", loss_avg_mode="token"))
    batch = batch_with_truncated(actor.policy, set(range(16)))
    batch.leave_out_truncated()
    assert gradients(actor, batch) == {}
    metrics = actor.update(batch)
    assert all(torch.isfinite(torch.tensor(value)) for value in metrics.values()), metrics


def test_metrics_of_the_loss_are_those_of_the_rows_that_are_trained_on() -> None:
    actor = make_actor(loss=PolicyLossConfig(loss_type="default", loss_avg_mode="token"))
    batch = batch_with_truncated(actor.policy)
    batch.leave_out_truncated()
    seen = Observed(batch)
    actor._accumulate(batch, batch.advantages_BT, range(16), 0.0, seen, False)
    assert [bool(row.any()) for row in seen.mask_BT] == [row not in CUT for row in range(16)]
    found = update_metrics(batch, batch.advantages_BT, seen, actor.config)["actor/pg_loss"]
    assert int(found.count) == sum(length for row, length in enumerate(batch.lengths) if row not in CUT)


@pytest.mark.parametrize(
    ("length", "expected"), [(1, 0.0), (12, 0.0), (13, -0.125), (16, -0.5), (19, -0.875), (20, -1.0), (25, -1.0)]
)
def test_the_punishment_of_a_long_response_is_equation_13(length: int, expected: float) -> None:
    """L_max = 20, L_cache = 8: 0 up to 12, (12 - |y|) / 8 up to 20, -1 beyond."""
    assert OverlongBuffer(8, 20).punishment(length) == expected
    assert OverlongBuffer(8, 20, 0.5).punishment(length) == expected / 2


def test_a_reward_function_with_a_punishment_of_that_name_is_refused() -> None:
    buffer = OverlongBuffer(8, 20)
    assert buffer.shaped({"overall": 1.0, "accuracy": 1.0}, 16) == {"overall": 0.5, "accuracy": 1.0, "overlong_reward": -0.5}
    with pytest.raises(RewardError, match="'overlong_reward' itself; rename it"):
        buffer.shaped({"overall": 1.0, "overlong_reward": 0.0}, 16)


REWARD = "def compute_score(rows):\n    return [{'overall': float(r['response'].count('+')), 'one': 1.0} for r in rows]\n"


def test_a_run_leaves_out_what_was_truncated_and_punishes_what_is_long_in_training_alone(tmp_path: Path) -> None:
    (tmp_path / "reward.py").write_text(REWARD)
    rows = [{"problem": f"8 {a} 7 -> 19", "answer": "19"} for a in range(10, 18)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run = run_here(
        [
            str(ROOT / "configs/quickstart.yaml"), *SMALL, "worker.actor.model.model_path=bundled:qwen2_tiny",
            f"data.train_files={tmp_path}/rows.jsonl", f"data.val_files={tmp_path}/rows.jsonl", "data.format_prompt=null",
            f"worker.reward.reward_function={tmp_path}/reward.py:compute_score", f"trainer.run_dir={tmp_path}/run",
            "worker.actor.model.freeze_vision_tower=false", "data.max_response_length=14", "worker.rollout.temperature=2",
            "algorithm.mask_truncated_completions=true", "worker.reward.overlong_buffer={enable: true, len: 4}",
            "trainer.max_steps=1", "trainer.val_freq=1",
        ]
    )  # fmt: skip
    (line,) = train_metrics(run)
    samples = [json.loads(text) for text in (run / "samples/step_1_train.jsonl").read_text().splitlines()]
    cut = [row["stop_reason"] == "length" for row in samples]
    assert 0 < sum(cut) < len(cut) and line["response/truncated_frac"] == sum(cut) / len(cut)
    for row, truncated in zip(samples, cut, strict=True):
        assert row["overlong_reward"] == OverlongBuffer(4, 14).punishment(row["tokens"])
        assert row["overall"] == pytest.approx(row["response"].count("+") + row["overlong_reward"])
        assert (row["log_ratio"] is None) == truncated and not (truncated and row["advantage"])
    overall = torch.tensor([row["overall"] for row in samples], dtype=torch.float64)
    expected = compute_advantages("grpo", overall, torch.arange(4).repeat_interleave(4))
    found = torch.tensor([row["advantage"] for row in samples])
    torch.testing.assert_close(found, torch.where(torch.tensor(cut), 0.0, expected.float()), rtol=1e-5, atol=1e-6)
    validated = [json.loads(text) for text in (run / "samples/step_1_validation.jsonl").read_text().splitlines()]
    assert all("overlong_reward" not in row and row["overall"] == row["response"].count("+") for row in validated)
