"""Two configurations of one run directory: where they differ, and what of that changes what is trained."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gmpo_mm.config.keys import default_of, schema_keys
from gmpo_mm.config.loss import untrained_loss_keys
from gmpo_mm.credentials import fingerprint, hide, is_credential, is_hidden
from gmpo_mm.errors import ConfigError

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
    "trainer.record_steps",
    "trainer.compare_losses",
    "trainer.compare_losses_gradients_every",
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
_SALT = re.compile(r"^# salt: ([0-9a-f]+)$", re.MULTILINE)
_HASH = re.compile(r'^# sha256 ("(?:[^"\\]|\\.)*"): ([0-9a-f]{64})$', re.MULTILINE)


@dataclass(frozen=True)
class Hashes:
    """Of the values that `${...}` had when config.yaml was written, with which they are compared and not shown."""

    salt: str = ""
    of: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, text: str) -> Hashes:
        """From the end of a config.yaml."""
        salt = _SALT.search(text)
        return cls(salt[1] if salt else "", {json.loads(key): value for key, value in _HASH.findall(text)})

    @classmethod
    def make(cls, values: Mapping[str, Any], salt: str | None = None) -> Hashes:
        """Of these values, with a new salt unless one is given."""
        salt = salt or secrets.token_hex(16)
        return cls(salt, {key: fingerprint(value, salt) for key, value in values.items()})

    def lines(self) -> str:
        """Comments for the end of config.yaml; nothing where nothing is interpolated."""
        if not self.of:
            return ""
        head = "# Hashes of what the interpolations above stood for; a run that goes on compares them.\n"
        return head + f"# salt: {self.salt}\n" + "".join(f"# sha256 {json.dumps(key)}: {self.of[key]}\n" for key in self.of)


def saved_differences(old: str, new: str, values: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (old, new) where a configuration differs from a run's config.yaml.

    Loss keys that the new one's trained loss doesn't read are no part of the comparison. `values` are what the `${...}` of the
    new one stand for. An interpolation is compared by its hash, so that neither how it
    is written matters nor its value is shown. A credential that was given as it is (`<hidden>`) is no part of the comparison:
    keys are exchanged while a run goes on, and the hash of a short one could be guessed.
    """
    hashes, found = Hashes.read(old), {}
    plain_new = flatten(parse_config(new))
    untrained = untrained_loss_keys(str(plain_new.get("worker.actor.loss_type", "")))
    for key, (there, now) in yaml_differences(old, new).items():
        if key in untrained:  # it is there for trainer.compare_losses
            continue
        if key in hashes.of or is_hidden(there) or is_hidden(now):
            continue
        if there == _ABSENT and _is_default(key, now):  # a key that is newer than the run: its default does what was done then
            continue
        if key in values and (values[key] == there or is_credential(key)):  # there it was saved as a value
            continue
        found[key] = hide(key, there), hide(key, now)
    for key, hashed in hashes.of.items():
        if key not in values and key not in plain_new:
            found[key] = "an interpolation", _ABSENT
        elif not is_hidden(plain_new.get(key)) and fingerprint(values.get(key, plain_new.get(key)), hashes.salt) != hashed:
            found[key] = "another value (only its hash is kept)", plain_new.get(key)
    return found


def _is_default(key: str, value: Any) -> bool:
    return key in schema_keys() and value == default_of(key)


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


def schedule_needs_step_count(config: dict[str, Any], values: Mapping[str, Any]) -> bool:
    """Whether EasyR1's schedule depends on the total: cosine, or a warm-up given as a ratio. `values`: of interpolations."""
    flat = flatten(config) | dict(values)
    warmup_by_ratio = bool(flat.get(SCHEDULE + "lr_warmup_ratio")) and flat.get(SCHEDULE + "lr_warmup_steps") is None
    return warmup_by_ratio or flat.get(SCHEDULE + "lr_scheduler_type", "constant") != "constant"


def parse_config(config: Any) -> dict[str, Any]:
    """A configuration as nested dicts, from YAML text or mappings."""
    parsed = yaml.safe_load(config) if isinstance(config, str) else plain(config)
    if not isinstance(parsed, dict) and parsed is not None:
        raise ConfigError(f"the configuration is a {type(parsed).__name__}; a mapping of sections is expected")
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
