"""`worker.actor.model.freeze_vision_tower` for verl's FSDP engine, loaded by each process as `model.external_lib`.

verl looks for an engine of the machine's vendor before the device's own; it has none of the former for FSDP, and this is one.
"""

from __future__ import annotations

import os
from typing import Any

from verl.utils.device import get_device_name, get_vendor
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from gmpo_mm.errors import ConfigError


def _engine_here() -> type[FSDPEngineWithLMHead]:
    """The engine that verl would take without this one."""
    if os.environ.get("VERL_PLATFORM") != "cpu":
        return FSDPEngineWithLMHead
    from gmpo_mm.engines.verl.cpu.plugin import CPUEngine

    return CPUEngine


class FrozenTowerEngine(_engine_here()):  # type: ignore[misc]
    """verl's FSDP2 engine; the vision tower takes no gradient, from before the model is sharded."""

    def _build_module(self) -> Any:
        module = super()._build_module()
        tower = getattr(getattr(module, "model", None), "visual", None)
        if tower is not None:
            tower.requires_grad_(False)
        elif hasattr(self.model_config.hf_config, "vision_config"):
            raise ConfigError(
                "worker.actor.model.freeze_vision_tower = true: the model has no model.visual, where the tower is looked for; "
                "set it to false"
            )
        return module


EngineRegistry.register(
    model_type="language_model", backend="fsdp2", device=get_device_name(), vendor=get_vendor()
)(FrozenTowerEngine)
