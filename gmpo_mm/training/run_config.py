"""Two configurations of one run directory: where they differ, and what of that changes what is trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

FREE_KEYS = (
    "trainer.resume",
    "trainer.run_dir",
    "trainer.logger",
    "trainer.project_name",
    "trainer.experiment_name",
    "trainer.save_freq",
    "trainer.save_limit",
    "trainer.save_model_only",
    "trainer.save_checkpoint_path",
    "trainer.load_checkpoint_path",
    "trainer.find_last_checkpoint",
    "trainer.val_freq",
    "trainer.val_before_train",
    "trainer.val_only",
    "trainer.val_generations_to_log",
    "trainer.log_samples",
    "trainer.ray_timeline",
    "ray_address",
    "trainer.nnodes",
    "trainer.n_gpus_per_node",
    "trainer.threads",
    "worker.rollout.disable_tqdm",
    "worker.rollout.gpu_memory_utilization",
)
"""Keys that may differ when a run is resumed: they say where, how often and from where, not what is trained. (`threads`
changes rounding, so bit-for-bit equality holds for equal threads only.) A change is written into the resume event."""

STEP_COUNT_KEYS = ("trainer.max_steps", "trainer.total_epochs")
"""May differ too, which is how a run is extended, unless the learning rate is computed from the number of steps."""

SCHEDULE = "worker.actor.optim."
_ABSENT = "(not set)"


def yaml_differences(old: Any, new: Any) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (old, new) where two configurations (nested mappings or YAML text) differ."""
    old_flat, new_flat = flatten(parse_config(old)), flatten(parse_config(new))
    keys = [*old_flat, *(key for key in new_flat if key not in old_flat)]
    pairs = {key: (old_flat.get(key, _ABSENT), new_flat.get(key, _ABSENT)) for key in keys}
    # true and 1 are equal to Python, not to a reader.
    return {
        key: (old_value, new_value)
        for key, (old_value, new_value) in pairs.items()
        if old_value != new_value or isinstance(old_value, bool) != isinstance(new_value, bool)
    }


def schedule_needs_step_count(config: dict[str, Any]) -> bool:
    """Whether EasyR1's schedule depends on the total: cosine, or a warm-up given as a ratio."""
    flat = flatten(config)
    warmup_by_ratio = bool(flat.get(SCHEDULE + "lr_warmup_ratio")) and flat.get(SCHEDULE + "lr_warmup_steps") is None
    return warmup_by_ratio or flat.get(SCHEDULE + "lr_scheduler_type", "constant") != "constant"


def parse_config(config: Any) -> dict[str, Any]:
    """A configuration as nested dicts, from YAML text or mappings."""
    parsed = yaml.safe_load(config) if isinstance(config, str) else plain(config)
    assert isinstance(parsed, dict) or parsed is None
    return parsed or {}


def plain(value: Any) -> Any:
    """Mappings and sequences as dict and list, as they come back from YAML."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
