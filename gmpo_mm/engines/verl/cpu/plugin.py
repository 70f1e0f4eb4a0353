"""FSDP2 on gloo and a transformers sampler for verl, loaded by each process as `model.external_lib`."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

from verl.workers import engine_workers
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp import transformer_impl
from verl.workers.rollout.base import _ROLLOUT_REGISTRY
from verl.workers.rollout.replica import RolloutReplicaRegistry

from gmpo_mm.engines.verl.translate import HF_ROLLOUT

TOUCHED = {
    "verl.workers.rollout.base._ROLLOUT_REGISTRY": "a table without a function to register in",
    "verl.workers.engine_workers.initialize_global_process_group_ray": "asks for a backend for the CPU twice",
    "verl.workers.engine.fsdp.transformer_impl.CPUOffloadPolicy": "pins memory of a forward-only model, which needs a GPU",
}
"""Internals of verl that are replaced, and why; each has a canary in tests/verl/test_canaries.py."""


@EngineRegistry.register(model_type="language_model", backend=["fsdp2"], device="cpu")
class CPUEngine(transformer_impl.FSDPEngineWithLMHead):
    """verl's FSDP2 engine; a forward-only model stays where it is instead of being offloaded to pinned memory."""

    def _build_fsdp_module(self, module: Any) -> Any:
        with patch.object(transformer_impl, "CPUOffloadPolicy", lambda pin_memory: None):
            built = super()._build_fsdp_module(module)
        self._uses_fsdp2_cpu_offload_policy = False
        return built


def _gloo_only(timeout_second: Any = None, backend: str | None = None) -> None:
    from verl.utils.distributed import initialize_global_process_group_ray

    initialize_global_process_group_ray(timeout_second=timeout_second, backend=backend or "gloo")


def _load_replica() -> Any:
    from gmpo_mm.engines.verl.cpu.rollout import HFReplica

    return HFReplica


engine_workers.initialize_global_process_group_ray = _gloo_only
_ROLLOUT_REGISTRY[(HF_ROLLOUT, "async")] = "gmpo_mm.engines.verl.cpu.rollout.HFServerAdapter"
RolloutReplicaRegistry.register(HF_ROLLOUT, _load_replica)
