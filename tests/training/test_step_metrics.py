"""Numbers about a step's batch, and the rows of `samples/`, against loops over its responses."""

from __future__ import annotations

import math

import pytest
import torch

from gmpo_mm.rollout.protocol import Response
from gmpo_mm.training.batch import Batch, SampledGroup, mean_of_scores, sample_rows
from gmpo_mm.training.step_metrics import batch_metrics
from tests.models.model_zoo import make_prompt

LENGTHS = [[3, 8], [5, 1], [8, 8]]
"""Tokens of each response; 8 is the longest allowed."""
REWARDS = [[1.0, 0.0], [0.5, 0.5], [0.25, 1.0]]
ADVANTAGES = [[2.0, -2.0], [0.0, 0.0], [0.0, 1.0]]


@pytest.fixture
def batch() -> Batch:
    groups = []
    for g, (lengths, rewards) in enumerate(zip(LENGTHS, REWARDS, strict=True)):
        responses = [
            # one response of the longest length ended by itself
            Response(torch.arange(n), torch.zeros(n), "length" if n == 8 and (g, i) != (2, 1) else "stop")
            for i, n in enumerate(lengths)
        ]
        scores = [
            {"overall": r} | ({"verifier_timeout": float(g == 0)} if i == 0 else {})
            for i, r in enumerate(rewards)
        ]
        groups.append(SampledGroup(make_prompt(6 + 2 * g, seed=g), responses, [f"{g}a", f"{g}b"], scores))
    made = Batch(groups)
    made.advantages_BT = torch.tensor(ADVANTAGES).flatten()[:, None] * made.mask_BT
    return made


def test_numbers_of_a_batch(batch: Batch) -> None:
    metrics = batch_metrics(batch, {"step": 4.0, "gen": 1.0}, max_response_length=8)
    lengths, prompts = [3, 8, 5, 1, 8, 8], [len(g.prompt.input_ids_S) for g in batch.groups]
    by_token = [2.0] * 3 + [-2.0] * 8 + [0.0] * 6 + [0.0] * 8 + [1.0] * 8
    tokens = sum(lengths) + sum(prompts)
    assert metrics == pytest.approx({
        "critic/score/mean": 3.25 / 6, "critic/score/max": 1.0, "critic/score/min": 0.0,
        "critic/advantages/mean": sum(by_token) / 33,
        "critic/advantages/max": 2.0, "critic/advantages/min": -2.0,
        "response_length/mean": 33 / 6, "response_length/max": 8, "response_length/min": 1,
        "response_length/clip_ratio": 3 / 6, "response/truncated_frac": 2 / 6,
        "prompt_length/mean": sum(prompts) / 3,
        "prompt_length/max": max(prompts), "prompt_length/min": min(prompts),
        "group/zero_advantage_frac": 1 / 3, "verifier/timeout_frac": 1 / 3,
        "perf/total_num_tokens": tokens, "perf/time_per_step": 4.0, "perf/throughput": tokens / 4.0,
        "timing_s/step": 4.0, "timing_s/gen": 1.0,
    })  # fmt: skip


def test_means_of_scores_run_over_the_responses_that_have_the_number(batch: Batch) -> None:
    assert mean_of_scores(batch.groups) == pytest.approx({"overall": 3.25 / 6, "verifier_timeout": 1 / 3})


def test_rows_of_samples_hold_their_own_numbers(batch: Batch) -> None:
    rows = sample_rows(
        batch.groups, batch.advantages_BT[:, 0].tolist(), [0.1, 0.2, math.nan, math.nan, 0.5, 0.6]
    )
    assert [row["response"] for row in rows] == ["0a", "0b", "1a", "1b", "2a", "2b"]
    assert [row["advantage"] for row in rows] == [2.0, -2.0, 0.0, 0.0, 0.0, 1.0]
    assert [row["log_ratio"] for row in rows] == [0.1, 0.2, None, None, 0.5, 0.6]
    assert [row["overall"] for row in rows] == [1.0, 0.0, 0.5, 0.5, 0.25, 1.0]
    assert [row["tokens"] for row in rows] == [3, 8, 5, 1, 8, 8]
    assert [row["sample"] for row in rows] == [0, 1] * 3
    assert [row["id"] for row in rows] == [g.prompt.record.id for g in batch.groups for _ in range(2)]
