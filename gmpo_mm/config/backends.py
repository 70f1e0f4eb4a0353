"""Samplers and trackers by name: one entry registers one, here and nowhere else.

The key's words, the checks, `gmpo-mm doctor` and the reference page read these tables. What an entry names is imported when a
run asks for it.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Backend:
    """`place` is `module:name` of what makes it; `package` what has to be installed, by `pip install INSTALL`."""

    place: str
    package: str | None = None
    install: str = ""
    remedy: str = ""
    """What to do where it can't start."""
    title: str = ""

    def load(self) -> Any:
        """The function or class at `place`."""
        module, _, name = self.place.partition(":")
        return getattr(importlib.import_module(module), name)

    def is_installed(self) -> bool:
        """Whether its package can be imported; a plain folder of that name (`./wandb`, made by wandb) doesn't count."""
        if self.package is None:
            return True
        spec = importlib.util.find_spec(self.package)
        return spec is not None and spec.origin is not None


SAMPLERS = {
    "hf": Backend("gmpo_mm.rollout.hf:build"),
    "vllm": Backend("gmpo_mm.rollout.vllm:build", "vllm", "'gmpo-mm[vllm]'", title="vLLM"),
}
"""`worker.rollout.name`, beside `auto` (`sampler.py`). `place` is a function of a `rollout.protocol.RolloutRequest`.

One with a package loads the model's files itself; one without samples with the policy of this process.
"""

_TRACKERS, _EXTRA = "gmpo_mm.runs.trackers:", "'gmpo-mm[trackers]'"
TRACKERS = {
    "tensorboard": Backend(_TRACKERS + "TensorBoard", "tensorboard", "tensorboard", "is the run directory writable?"),
    "wandb": Backend(
        _TRACKERS + "Wandb", "wandb", _EXTRA, "log in with `wandb login`, or set WANDB_MODE=offline"
    ),
    "mlflow": Backend(
        _TRACKERS + "Mlflow", "mlflow", _EXTRA, "check MLFLOW_TRACKING_URI, or unset it to write into the run directory"
    ),
    "swanlab": Backend(
        _TRACKERS + "Swanlab", "swanlab", _EXTRA, "log in with `swanlab login`, or set SWANLAB_MODE=offline"
    ),
}
"""`trainer.logger`, beside `console` and `file`. `place` is a class with a tracker's methods, made with (config, run)."""
