"""vLLM's part on the CPU: verl's replica and adapter around our sampling server, fed by verl's own weight sync."""

from __future__ import annotations

from typing import Any

import ray
import torch
from verl.workers.rollout.base import BaseRollout
from verl.workers.rollout.replica import RolloutReplica

from gmpo_mm.engines.verl.cpu.server import HFServer, ServerSettings
from gmpo_mm.engines.verl.translate import HF_ROLLOUT


class HFReplica(RolloutReplica):
    """One server for one worker, on the worker's node."""

    async def launch_servers(self) -> None:
        """Start the server and wait until its model is loaded."""
        assert len(self.workers) == self.world_size == 1, "tensor_parallel_size is 1 on the CPU"
        node = await self.workers[0].__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id())
        affinity = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node_id=node, soft=False)
        name = server_name(self.replica_rank)
        actor: Any = ray.remote(HFServer).options(
            scheduling_strategy=affinity, name=name, max_concurrency=self.max_concurrency, num_cpus=0
        )
        model, config = self.model_config, self.config
        override = {name: value for name, value in dict(model.override_config).items() if name != "attn_implementation"}
        settings = ServerSettings(
            model.path, model.tokenizer_path, override, bool(model.trust_remote_code), int(config.response_length),
            bool(config.ignore_eos), int(config.seed),
        )  # fmt: skip
        server = actor.remote(settings)
        await server.ready.remote()
        self.servers.append(server)
        self._server_handle, self._server_address = server, name


class HFServerAdapter(BaseRollout):
    """In the worker: hands the trained weights to the server beside it."""

    async def resume(self, tags: list[str]) -> None:
        """Nothing: the server never sleeps."""

    async def release(self) -> None:
        """Nothing: the server never sleeps."""

    async def update_weights(self, weights: Any, global_steps: int | None = None, **others: Any) -> None:
        """Every rank takes part in gathering, and gives its own server all of the weights."""
        whole = {name: weight.detach().clone() for name, weight in weights}
        server = ray.get_actor(server_name(torch.distributed.get_rank()))
        await server.load_weights.remote(whole, global_steps)


def server_name(rank: int) -> str:
    """Ray's name of the server beside a worker."""
    return f"{HF_ROLLOUT}_server_{rank}"
