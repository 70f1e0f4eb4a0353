"""Numbers about a step's batch, under EasyR1's names where it has one."""

from __future__ import annotations

import torch

from gmpo_mm.training.batch import Batch


def _range(name: str, values: torch.Tensor) -> dict[str, float]:
    return {f"{name}/mean": values.mean().item(), f"{name}/max": values.max().item(), f"{name}/min": values.min().item()}


def batch_metrics(batch: Batch, timings: dict[str, float], max_response_length: int) -> dict[str, float]:
    """Rewards, advantages, lengths, shares of truncated answers and idle groups, and times in seconds."""
    response_length_B = batch.mask_BT.sum(1).double()
    prompt_length_R = torch.tensor([len(g.prompt.input_ids_S) for g in batch.groups], dtype=torch.float64)
    responses = [r for g in batch.groups for r in g.responses]
    truncated = sum(r.stop_reason == "length" for r in responses) / len(responses)
    idle_B = (batch.advantages_BT == 0).all(1).view(len(batch.groups), -1).all(1)
    timeouts = [s["verifier_timeout"] for g in batch.groups for s in g.scores if "verifier_timeout" in s]
    # a prompt is processed once for its whole group, and is counted once
    tokens = int(prompt_length_R.sum()) + int(response_length_B.sum())
    metrics = {
        **_range("critic/score", batch.rewards_B),
        **_range("critic/advantages", batch.advantages_BT[batch.mask_BT].double()),
        **_range("response_length", response_length_B),
        "response_length/clip_ratio": (response_length_B == max_response_length).double().mean().item(),
        **_range("prompt_length", prompt_length_R),
        "response/truncated_frac": truncated,
        "group/zero_advantage_frac": idle_B.double().mean().item(),
        "perf/total_num_tokens": float(tokens),
        "perf/time_per_step": timings["step"],
        "perf/throughput": tokens / timings["step"],
        **{f"timing_s/{name}": seconds for name, seconds in timings.items()},
    }
    if timeouts:
        metrics["verifier/timeout_frac"] = sum(timeouts) / len(timeouts)
    return metrics
