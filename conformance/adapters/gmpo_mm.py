"""gmpo_mm: `compute_policy_loss`, divided by the units of the whole batch, as each engine does."""

from __future__ import annotations

import math
from typing import Any

import torch

from conformance.torch_side import NotOffered, Rows, accumulate
from gmpo_mm.algorithms import (
    aggregate,
    compute_advantages,
    compute_kl,
    compute_policy_loss,
    correction_weights,
    count_units,
    finalize_metrics,
    loss_unit,
)
from gmpo_mm.algorithms.config import PolicyLossConfig, make_loss_config
from gmpo_mm.algorithms.correction_keys import Correction, make_correction
from gmpo_mm.version import VERSION

NAME = f"gmpo_mm {VERSION}"
TOLERANCE = 1e-9
AVERAGE = {"tokens": "token", "sequences": "seq", "fixed": "token"}
"""Dr. GRPO here is `default` with its mean over tokens and the advantage estimator `dr_grpo`."""
KL = {"k1": "kl", "abs": "abs", "k2": "mse", "k3": "low_var_kl"}
SHARES = {
    "high": "clip/high_frac",
    "low": "clip/low_frac",
    "dual": "actor/pg_clipfrac_lower",
    "chosen": "cov/chosen_frac",
}


def loss(config: dict[str, Any], batch: dict[str, Any], cut: list[list[int]]) -> dict[str, Any]:
    """Loss, gradient and clip share of the batch."""
    keys, correction = settings(config), sampler_correction(config)

    def step(part: Rows, whole: Rows) -> Any:
        weights = None
        if correction is not None:
            weights = correction_weights(part.old_log_probs, part.sampler_log_probs, part.mask, correction)
        result = compute_policy_loss(
            part.log_probs, part.old_log_probs, part.advantages, part.mask, keys, token_weights_BT=weights
        )
        total, units = result.sum, count_units(whole.mask, keys)
        if "kl" in config:
            kl = compute_kl(part.log_probs, part.ref_log_probs, KL[config["kl"]["kind"]], part.mask)
            total = total + config["kl"]["coef"] * aggregate(kl, part.mask, loss_unit(keys))
        found = finalize_metrics(result.metrics)
        return total / units, {name: found[key] for name, key in SHARES.items() if key in found}

    return accumulate(batch, cut, step)


def sampler_correction(config: dict[str, Any]) -> Correction | None:
    """`worker.rollout.correction` and its bounds."""
    own = config.get("correction")
    if own is None:
        return None
    if not own.get("counted", True):
        raise NotOffered("what is masked goes on to count")
    if own.get("mean") == "arithmetic":
        raise NotOffered("the weight of a response is a geometric mean")
    return make_correction(own["kind"], own["cap"], own.get("floor"))


def settings(config: dict[str, Any]) -> PolicyLossConfig:
    """The keys of `worker.actor` for a vector's configuration."""
    name = config["loss"]
    values: dict[str, Any] = {"loss_type": "default" if name == "ppo" else name}
    if "average" in config:
        values["loss_avg_mode"] = AVERAGE[config["average"]]
    if "ratio_max" in config:
        values["clip_ratio_low"] = 1.0 if config["ratio_min"] is None else 1.0 - config["ratio_min"]
        values["clip_ratio_high"] = config["ratio_max"] - 1.0
    if config.get("dual_clip", 3.0) is None:
        values["clip_ratio_dual"] = 1e6
    elif "dual_clip" in config:
        values["clip_ratio_dual"] = config["dual_clip"]
    if name == "sapo":
        values |= {key: config[key] for key in ("tau_positive", "tau_negative")}
    section = _section(name, config)
    if section:
        values["dppo" if name.startswith("dppo") else name] = section
    return make_loss_config(values)


def _section(name: str, config: dict[str, Any]) -> dict[str, Any]:
    if name in ("gmpo", "power_mean"):
        own = {"log_clip_low": -config["log_ratio_min"], "log_clip_high": config["log_ratio_max"]}
        return own | {key: config[key] for key in ("clip", "normalize", "p") if key in config}
    if name.startswith("dppo"):
        kind = name.removeprefix("dppo_")
        return {
            f"{kind}_low": config["max_fall"],
            f"{kind}_high": config["max_rise"],
            "ratio_cap": config["ratio_cap"],
        }
    if name == "m2po":
        return {"budget": config["budget"]}
    if name == "clip_cov":
        return {"share": config["share"], "cov_low": config["cov_min"], "cov_high": config["cov_max"]}
    if name == "kl_cov":
        return {key: config[key] for key in ("share", "coef")}
    if name == "vespo":
        return {key: config[key] for key in config if key.startswith(("k_", "lambda_"))}
    if name == "fipo":
        one_sided = config["weight_min"] == 1
        clip = config["weight_max"] - 1
        if not one_sided and not math.isclose(config["weight_min"], 1 - clip):
            raise NotOffered("fipo: bounds of the weight that are not symmetric")
        own = {"clip": clip, "clip_high_only": one_sided}
        return own | {key: config[key] for key in ("half_life", "safe_ratio")}
    return {}


def advantages(config: dict[str, Any], batch: dict[str, Any]) -> list[list[float]]:
    """Advantages of the batch, B x T."""
    name = config["advantages"]
    baselines = torch.tensor(batch["baselines"], dtype=torch.float64) if name == "remax" else None
    parts = torch.tensor(batch["parts"], dtype=torch.float64) if name == "gdpo" else None
    return compute_advantages(
        name,
        torch.tensor(batch["rewards"], dtype=torch.float64),
        torch.tensor(batch["groups"]),
        response_mask_BT=torch.tensor(batch["mask"]).bool(),
        baselines_B=baselines,
        parts_KB=parts,
        weights_K=config.get("weights"),
        gamma=config.get("gamma", 1.0),
    ).tolist()
