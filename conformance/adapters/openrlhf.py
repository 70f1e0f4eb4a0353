"""OpenRLHF: `PolicyLoss` and the KL penalty as its `ActorPPOTrainer.training_step` uses them, with the
normalizers of an optimizer step and DeepSpeed's 1 / (number of micro-batches).

Only three files are run, without the package around them, which imports DeepSpeed, vLLM and Ray.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from conformance.torch_side import NotOffered, Rows, accumulate

KL = {"k1", "k2", "k3"}
NEVER = 1e9  # a bound that no vector reaches


def load(folder: Path) -> Any:
    """The adapter of an OpenRLHF in a folder, as `pip install --no-deps --target FOLDER openrlhf` puts it
    there."""
    for name in ("openrlhf", "openrlhf.models", "openrlhf.utils"):
        package = ModuleType(name)  # without running its __init__
        package.__path__ = [str(folder.joinpath(*name.split(".")))]
        sys.modules[name] = package
    sys.modules.setdefault("deepspeed", ModuleType("deepspeed"))  # imported by models/utils.py, not used here
    parts = SimpleNamespace(
        losses=importlib.import_module("openrlhf.models.loss"),
        utils=importlib.import_module("openrlhf.models.utils"),
        norms=importlib.import_module("openrlhf.utils.loss_utils"),
    )
    (version,) = folder.glob("openrlhf-*.dist-info")

    def loss(config: dict[str, Any], batch: dict[str, Any], cut: list[list[int]]) -> dict[str, Any]:
        return _loss(parts, config, batch, cut)

    name = f"OpenRLHF {version.name.removeprefix('openrlhf-').removesuffix('.dist-info')}"
    return SimpleNamespace(loss=loss, NAME=name, TOLERANCE=1e-6)  # its counts and its KL are float32


def _loss(parts: Any, config: dict[str, Any], batch: dict[str, Any], cut: list[list[int]]) -> dict[str, Any]:
    policy_loss = parts.losses.PolicyLoss(**settings(config))

    def step(part: Rows, whole: Rows) -> Any:
        info = parts.norms._optimizer_step_loss_norm([whole.mask], None, 1, len(cut))
        total, clip_ratio, *_ = policy_loss(
            part.log_probs, part.old_log_probs, part.advantages, part.mask, part.sampler_log_probs, **info
        )
        if "kl" in config:
            kl = parts.utils.compute_approx_kl(
                part.log_probs, part.ref_log_probs, part.old_log_probs, config["kl"]["kind"]
            )
            total = total + config["kl"]["coef"] * parts.losses.aggregate_loss(kl, part.mask, **info)
        return total / len(cut), {"any": float(clip_ratio.detach())}

    return accumulate(batch, cut, step)


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `PolicyLoss` for a vector's configuration."""
    name = config["loss"]
    average = "sequences" if name == "gspo" else config.get("average")
    if name not in ("ppo", "gspo") or average == "fixed":
        raise NotOffered(name if name not in ("ppo", "gspo") else f"average {average}")
    if config.get("kl", {}).get("kind", "k1") not in KL:
        raise NotOffered(f"KL {config['kl']['kind']}")
    return _correction(config) | {
        "clip_eps_low": NEVER if config["ratio_min"] is None else 1 - config["ratio_min"],
        "clip_eps_high": config["ratio_max"] - 1,
        "dual_clip": config["dual_clip"],
        "token_level_loss": average == "tokens",
        "policy_loss_type": name,
    }


def _correction(config: dict[str, Any]) -> dict[str, Any]:
    """`gspo` with a correction takes the ratio to the sampler's log-probabilities in place of weights, and
    the gate by sequence keeps each token's own weight, which no vector has."""
    own = config.get("correction")
    if own is None:
        return {}
    if config["loss"] != "ppo" or own["kind"] not in ("truncated", "masked") or not own.get("counted", True):
        raise NotOffered(f"{config['loss']} with {own}")
    return {
        "is_correction_level": "token",
        "is_correction_mode": "clip" if own["kind"] == "truncated" else "mask",
        "is_correction_threshold": [own.get("floor", 0.0), own["cap"]],
    }
