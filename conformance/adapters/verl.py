"""verl: the registered loss functions with `ActorConfig`, called as `verl.workers.utils.losses.ppo_loss`
calls them: with the tokens and responses of the whole mini-batch, and the KL penalty added."""

from __future__ import annotations

import os
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

for key, value in {"VERL_PLATFORM": "cpu", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}.items():
    os.environ.setdefault(key, value)

from verl.trainer.config import AlgoConfig  # noqa: E402
from verl.trainer.ppo.core_algos import (  # noqa: E402
    agg_loss,
    compute_policy_loss_reinforce,
    get_adv_estimator_fn,
    get_policy_loss_fn,
    kl_penalty,
)
from verl.trainer.ppo.rollout_corr_helper import compute_rollout_correction_and_rejection_mask  # noqa: E402
from verl.workers.config import ActorConfig  # noqa: E402
from verl.workers.config.actor import PolicyLossConfig  # noqa: E402

from conformance.torch_side import NotOffered, Rows, accumulate, rewards_by_token  # noqa: E402

NAME = f"verl {version('verl')}"
TOLERANCE = 1e-6
"""verl adds 1e-8 to a response's length before it divides by it."""
LOSSES = {
    "ppo": "vanilla", "gmpo": "geo_mean", "gspo": "gspo", "gspo_token": "gspo", "cispo": "cispo",
    "sapo": "sapo", "gpg": "gpg", "reinforce": "reinforce", "dppo_tv": "dppo_tv", "dppo_kl": "dppo_kl",
    "clip_cov": "clip_cov", "kl_cov": "kl_cov",
}  # fmt: skip
AVERAGE = {
    "tokens": "token-mean",
    "sequences": "seq-mean-token-mean",
    "fixed": "seq-mean-token-sum-norm",
}
NEVER = 1e9  # a bound that no vector reaches
FLOOR = 1e-30  # for none, as a lower bound has to be above 0


def loss(config: dict[str, Any], batch: dict[str, Any], cut: list[list[int]]) -> dict[str, Any]:
    """Loss, gradient and clip share of the batch."""
    mode, actor, correction = LOSSES.get(config["loss"]), settings(config), _correction(config)
    kept, weights = _weights(correction, batch) if correction else (None, None)

    def step(part: Rows, whole: Rows) -> Any:
        if kept is not None:  # as the trainer does: before the batch is cut; what is rejected is padding then
            part, whole = replace(part, mask=kept[part.numbers_B]), replace(whole, mask=kept)
        actor.global_batch_info.update(
            dp_size=1,
            batch_num_tokens=int(whole.mask.sum()),
            global_batch_size=len(whole.mask),
            loss_scale_factor=actor.loss_scale_factor,
        )
        advantages = part.advantages
        if mode == "reinforce":
            total, metrics = compute_policy_loss_reinforce(
                part.old_log_probs, part.log_probs, advantages, part.mask, actor.loss_agg_mode, actor
            )
        else:
            total, metrics = get_policy_loss_fn(mode)(
                old_log_prob=part.old_log_probs,
                log_prob=part.log_probs,
                advantages=advantages,
                response_mask=part.mask,
                loss_agg_mode=actor.loss_agg_mode,
                config=actor,
                rollout_is_weights=None if weights is None else weights[part.numbers_B],
            )
        if actor.use_kl_loss:
            kl = kl_penalty(part.log_probs, part.ref_log_probs, actor.kl_loss_type)
            mean = agg_loss(kl, part.mask, actor.loss_agg_mode, **actor.global_batch_info)
            total = total + actor.kl_loss_coef * mean
        return total, _shares(config["loss"], metrics)

    return accumulate(batch, cut, step)


def _weights(correction: dict[str, Any], batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The mask without what is rejected, and the weights, of the whole batch."""
    names = ("old_log_probs", "sampler_log_probs")
    old, sampler = (torch.tensor(batch[name], dtype=torch.float64) for name in names)
    mask = torch.tensor(batch["mask"])
    found, kept, _ = compute_rollout_correction_and_rejection_mask(old, sampler, mask, **correction)
    return kept.bool(), None if found is None else found.batch["rollout_is_weights"]


def _correction(config: dict[str, Any]) -> dict[str, Any]:
    """`algorithm.rollout_correction`. `rollout_is` weighs, and what it masks counts; `rollout_rs` rejects, by
    the bounds of pi_sampler / pi_old, and takes the rejected out of the number of tokens."""
    own = config.get("correction")
    if own is None:
        return {}
    kind, cap, floor = own["kind"], own["cap"], own.get("floor")
    if "mean" in own and config["loss"] == "gspo":
        raise NotOffered("each token has its own weight, as in gspo_token")
    rejected = {} if floor is None else {"rollout_rs_threshold": f"{1 / cap!r}_{1 / max(floor, FLOOR)!r}"}
    if kind == "geometric_masked":
        if own["counted"] and config.get("average") == "tokens":
            raise NotOffered("what is rejected is left out of the number of tokens")
        return {"rollout_is": None, "rollout_rs": "seq_mean_k1", **rejected}
    unit = "sequence" if kind.startswith("sequence") else "token"
    if not own.get("counted", True):
        return {"rollout_is": unit, "rollout_is_threshold": NEVER, "rollout_rs": "token_k1", **rejected}
    bounds = cap if floor is None else f"{max(floor, FLOOR)!r}_{cap!r}"
    return {"rollout_is": unit, "rollout_is_threshold": bounds}


def _shares(name: str, metrics: dict[str, float]) -> dict[str, float]:
    """verl's `pg_clipfrac` is both bounds together; in `geo_mean` the upper one."""
    if "actor/pg_clipfrac" not in metrics or name == "sapo":
        return {}
    both, lower = metrics["actor/pg_clipfrac"], metrics.get("actor/pg_clipfrac_lower", 0.0)
    if name == "gmpo":
        return {"high": both, "low": lower}
    if name == "clip_cov":
        return {"chosen": both}
    return {"any": both, "dual": lower} if name == "ppo" else {"any": both}


def settings(config: dict[str, Any]) -> ActorConfig:
    """`ActorConfig` for a vector's configuration."""
    name = config["loss"]
    if name not in LOSSES:
        raise NotOffered(name)
    options: dict[str, Any] = {"policy_loss": PolicyLossConfig(loss_mode=LOSSES[name], **_own(name, config))}
    average = "sequences" if name in ("gmpo", "gspo") else config.get("average", "")
    options["loss_agg_mode"] = "seq-mean-token-sum" if name == "reinforce" else AVERAGE[average]
    if average == "fixed":
        options["loss_scale_factor"] = config["max_tokens"]
    if "ratio_max" in config:
        low = NEVER if config["ratio_min"] is None else 1 - config["ratio_min"]
        options |= {"clip_ratio_low": low, "clip_ratio_high": config["ratio_max"] - 1}
    elif name == "gmpo":
        if config["clip"] != "token" or not config["normalize"]:
            raise NotOffered("Table 4's ablations")
        options |= {"clip_ratio_low": -config["log_ratio_min"], "clip_ratio_high": config["log_ratio_max"]}
    elif name.startswith("dppo"):
        options |= {"clip_ratio_low": config["max_fall"], "clip_ratio_high": config["max_rise"]}
        options["clip_ratio_c"] = config["ratio_cap"]
    elif name == "sapo":
        options |= {"tau_pos": config["tau_positive"], "tau_neg": config["tau_negative"]}
    if name == "ppo":
        options["clip_ratio_c"] = config["dual_clip"] or NEVER
    elif config.get("dual_clip"):
        raise NotOffered(f"{name} with a dual clip")
    if "kl" in config:
        kind, coef = config["kl"]["kind"], config["kl"]["coef"]
        options |= {"use_kl_loss": True, "kl_loss_type": kind, "kl_loss_coef": coef}
    return ActorConfig(strategy="fsdp", rollout_n=2, ppo_micro_batch_size_per_gpu=1, **options)


def _own(name: str, config: dict[str, Any]) -> dict[str, float]:
    if name == "clip_cov":
        names = {"share": "clip_cov_ratio", "cov_min": "clip_cov_lb", "cov_max": "clip_cov_ub"}
    elif name == "kl_cov":
        names = {"share": "kl_cov_ratio", "coef": "ppo_kl_coef"}
    else:
        names = {}
    return {key: config[own] for own, key in names.items()}


def advantages(config: dict[str, Any], batch: dict[str, Any]) -> list[list[float]]:
    """Advantages of the batch, B x T. Dr. GRPO's is `grpo` without the standard deviation."""
    name = config["advantages"]
    if name == "max_rl":
        raise NotOffered(name)
    algorithm = AlgoConfig(gamma=config.get("gamma", 1.0), norm_adv_by_std_in_grpo=name != "dr_grpo")
    options: dict[str, dict[str, Any]] = {
        "grpo": {"norm_adv_by_std_in_grpo": True},
        "dr_grpo": {"norm_adv_by_std_in_grpo": False},
        "remax": {"reward_baselines": torch.tensor(batch["baselines"])},
    }
    own = options.get(name, {})
    if name == "gdpo":
        names = [f"reward_{k}" for k in range(len(config["weights"]))]
        algorithm = replace(algorithm, gdpo_reward_keys=names, gdpo_reward_weights=config["weights"])
        rewards = {key: np.array(part) for key, part in zip(names, batch["parts"], strict=True)}
        mask = torch.tensor(batch["mask"])
        prompts = torch.ones(len(mask), 1, dtype=mask.dtype)
        own["non_tensor_batch"] = rewards
        own["batch"] = {"prompts": prompts, "attention_mask": torch.cat([prompts, mask], dim=1)}
    if not name.startswith(("remax", "reinforce")):
        own["index"] = np.array(batch["groups"])
    found, _ = get_adv_estimator_fn("grpo" if name == "dr_grpo" else name)(
        token_level_rewards=rewards_by_token(batch),
        response_mask=torch.tensor(batch["mask"]),
        config=algorithm,
        **own,
    )
    return found.tolist()
