"""Two real FSDP processes: the gradient is that of the full batch, and EasyR1's own is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from verl.workers.actor.dp_actor import DataParallelPPOActor

from gmpo_mm.engines.easyr1.actor import UPDATES, GMPOActor
from tests.distributed.ranks import on_ranks
from tests.easyr1.batches import Setting, build_policy, gradients_and_metrics, to_data_proto, without_packing
from tests.training.builders import make_batch

ROWS = ([0, 1, 4, 6, 9, 10, 12, 15], [2, 3, 5, 7, 8, 11, 13, 14])  # other lengths on each rank
GMPO = {"loss_type": "gmpo"}
GRPO_SEQ = {"loss_type": "default", "loss_avg_mode": "seq"}


class _KeepsFullGradients(torch.optim.SGD):
    """SGD of rate 0 that keeps the gradients of all ranks together, as FSDP averaged them."""

    def __init__(self, module: Any) -> None:
        super().__init__(module.parameters(), lr=0.0)
        self.module = module
        self.flat = torch.zeros(0)

    def step(self, closure: Any = None) -> None:
        with FSDP.summon_full_params(self.module, with_grads=True, writeback=False):
            named = sorted(self.module.named_parameters())
            self.flat = torch.cat([p.grad.flatten().clone() for _, p in named if p.grad is not None])


def _gradients(rank: int) -> dict[str, torch.Tensor]:
    policy = build_policy("qwen2")
    batch = make_batch(policy)
    data = to_data_proto(batch, policy)[ROWS[rank]]
    module = FSDP(without_packing(policy), device_id=torch.device("cpu"), use_orig_params=True)
    found: dict[str, torch.Tensor] = {}
    for name, options, actor_class in (
        ("gmpo", GMPO, GMPOActor), ("grpo", GRPO_SEQ, GMPOActor), ("stock", GRPO_SEQ, DataParallelPPOActor)
    ):  # fmt: skip
        for micro in (1, 2, 4):
            optimizer = _KeepsFullGradients(module)
            actor = actor_class(Setting(8, micro, **options).config(), module, optimizer)
            metrics = actor.update_policy(data)
            found[f"{name}/{micro}"] = optimizer.flat
            if UPDATES in metrics:
                found[f"{name}/{micro}/loss"] = torch.tensor([metrics["actor/pg_loss"], metrics["ratio/token_max"]])
    return found


def test_two_ranks_have_the_full_batchs_gradient_and_metrics_and_easyr1s_own_have_not(tmp_path: Path) -> None:
    first, second = on_ranks(2, _gradients, tmp_path)
    policy = build_policy("qwen2")
    batch = make_batch(policy)
    data, module = to_data_proto(batch, policy), without_packing(policy)
    for name, options in (("gmpo", GMPO), ("grpo", GRPO_SEQ)):
        gradients, metrics = gradients_and_metrics(data, module, Setting(16, 16, **options))
        whole = torch.cat([gradients[key].flatten() for key in sorted(gradients)])
        for micro in (1, 2, 4):
            key = f"{name}/{micro}"
            assert torch.equal(first[key], second[key])
            assert float((first[key] - whole).norm() / whole.norm()) < 1e-6
            assert torch.equal(first[f"{key}/loss"], second[f"{key}/loss"])
            expected = torch.tensor([metrics["actor/pg_loss"], metrics["ratio/token_max"]])
            assert torch.allclose(first[f"{key}/loss"], expected, rtol=1e-5)
            if name == "grpo":
                assert float((first[f"stock/{micro}"] - whole).norm() / whole.norm()) > 0.02
