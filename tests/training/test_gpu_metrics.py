"""`perf/mfu_actor`: the model FLOPs of what an update passed through the model, over its time and the peak."""

from __future__ import annotations

import pytest
import torch

from gmpo_mm.training.gpu_metrics import UpdateMeter, memory_metrics, meter_of
from tests.models.model_zoo import build_policy
from tests.training.builders import make_batch


def by_hand(policy: object, batch: object, groups: list[int]) -> float:
    """6 FLOPs a weight and token and 12 a pair and width, for a text model without tied weights."""
    config, total = policy.config, 0.0
    weights = sum(p.numel() for n, p in policy.module.named_parameters() if p.dim() == 2 and "embed" not in n)
    head = policy.lm_head.weight.numel()
    for index in groups:
        group = batch.groups[index]
        prompt, lengths = len(group.prompt.input_ids_S), [len(r.token_ids_T) for r in group.responses]
        inputs = [n - 1 for n in lengths]
        pairs = prompt * (prompt + 1) / 2 + sum(n * prompt + n * (n + 1) / 2 for n in inputs)
        total += 6 * ((weights - head) * (prompt + sum(inputs)) + head * sum(lengths))
        total += 12 * config.num_hidden_layers * config.hidden_size * pairs
    return total


@pytest.mark.parametrize("left_out", [False, True])
def test_utilisation_counts_each_epoch_and_the_groups_that_were_passed(left_out: bool) -> None:
    policy = build_policy("qwen2")
    batch = make_batch(policy, idle=(1,))
    share = UpdateMeter(policy, peak=1e9).utilisation(batch, 2, left_out, seconds=0.5)
    groups = [0, 2, 3] if left_out else [0, 1, 2, 3]
    assert share == pytest.approx(2 * by_hand(policy, batch, groups) / (0.5 * 1e9), rel=1e-9)


def test_a_cpu_has_no_such_numbers() -> None:
    assert meter_of(build_policy("qwen2")) is None and memory_metrics(torch.device("cpu")) == {}
