"""EasyR1: `compute_policy_loss` of a checkout, then as its `DataParallelPPOActor.update_policy` does: the KL
penalty, and each micro-batch weighted by its share of the tokens."""

from __future__ import annotations

from typing import Any

import torch
from verl import __version__
from verl.trainer.core_algos import average_loss, compute_advantage_return, compute_kl, compute_policy_loss

from conformance.torch_side import NotOffered, Rows, accumulate, rewards_by_token

NAME = f"EasyR1 {__version__}"
TOLERANCE = 1e-6
"""EasyR1 adds 1e-8 to counts before it divides by them, and computes the KL in float32."""
LOSSES = {"ppo": "default", "gspo": "gspo", "gspo_token": "gspo_token", "cispo": "cispo", "sapo": "sapo"}
AVERAGE = {"tokens": "token", "sequences": "seq"}
KL = {"k1": "kl", "abs": "abs", "k2": "mse", "k3": "low_var_kl"}
NEVER = 1e9  # a bound that no vector reaches


def loss(config: dict[str, Any], batch: dict[str, Any], cut: list[list[int]]) -> dict[str, Any]:
    """Loss, gradient and clip share of the batch."""
    options = settings(config)

    def step(part: Rows, whole: Rows) -> Any:
        total, metrics = compute_policy_loss(
            part.old_log_probs, part.log_probs, part.advantages, part.mask, **options
        )
        if "kl" in config:
            kl = compute_kl(part.log_probs, part.ref_log_probs, KL[config["kl"]["kind"]])
            mean = average_loss(kl, part.mask, mode=options["loss_avg_mode"])
            total = total + mean * config["kl"]["coef"]
        names = {"any": "pg_clipfrac_higher", "dual": "pg_clipfrac_lower"}
        shares = {name: metrics[key] for name, key in names.items() if key in metrics}
        return total * part.mask.sum() / whole.mask.sum(), shares

    return accumulate(batch, cut, step)


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """The keys of `worker.actor` for a vector's configuration."""
    name = config["loss"]
    if "correction" in config:
        raise NotOffered("corrections of the sampler")
    average = "sequences" if name == "gspo" else config.get("average")
    if name not in LOSSES or average not in AVERAGE:
        raise NotOffered(name if name not in LOSSES else f"average {average}")
    no_lower = config.get("ratio_min", 0.0) is None
    return {
        "loss_type": LOSSES[name],
        "loss_avg_mode": AVERAGE[average],
        "clip_ratio_low": 1.0 if no_lower else 1 - config.get("ratio_min", 0.8),
        "clip_ratio_high": config.get("ratio_max", 1.3) - 1,
        "clip_ratio_dual": config.get("dual_clip") or NEVER,
        "tau_positive": config.get("tau_positive", 1.0),
        "tau_negative": config.get("tau_negative", 1.05),
    }


def advantages(config: dict[str, Any], batch: dict[str, Any]) -> list[list[float]]:
    """Advantages of the batch, B x T."""
    name = config["advantages"]
    if name in ("dr_grpo", "opo", "max_rl", "gdpo"):
        raise NotOffered(name)
    found, _ = compute_advantage_return(
        name,
        token_level_rewards=rewards_by_token(batch),
        response_mask=torch.tensor(batch["mask"]),
        index=batch["groups"],
        reward_baselines=torch.tensor(batch["baselines"]),
        gamma=config.get("gamma", 1.0),
    )
    return found.tolist()
