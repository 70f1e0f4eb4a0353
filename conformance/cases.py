"""Which losses and options have a vector: for each loss a basis, and one case for each option that changes
it."""

from __future__ import annotations

from typing import Any

Config = dict[str, Any]
BOUNDS = {"ratio_min": 0.8, "ratio_max": 1.3}
LOG_BOUNDS = {"log_ratio_min": -0.4, "log_ratio_max": 0.4}
TOKENS = {"average": "tokens"}
SEQUENCES = {"average": "sequences"}
NO_DUAL = {"dual_clip": None}

BASES: dict[str, Config] = {
    "ppo": {**TOKENS, **BOUNDS, "dual_clip": 3.0},
    "gmpo": {"clip": "token", "normalize": True, **LOG_BOUNDS},
    "power_mean": {"p": 0.5, "clip": "token", **LOG_BOUNDS},
    "gspo": {**BOUNDS, **NO_DUAL},
    "gspo_token": {**SEQUENCES, **BOUNDS, **NO_DUAL},
    "luspo": {**BOUNDS, **NO_DUAL},
    "cispo": {**TOKENS, **BOUNDS},
    "sapo": {**SEQUENCES, "tau_positive": 1.0, "tau_negative": 1.05},
    "gpg": TOKENS,
    "reinforce": {},
    "dppo_tv": {**TOKENS, "max_fall": 0.15, "max_rise": 0.15, "ratio_cap": 20.0},
    "dppo_kl": {**TOKENS, "max_fall": 0.05, "max_rise": 0.05, "ratio_cap": 20.0},
    "m2po": {**TOKENS, "budget": 0.04},
    "clip_cov": {**TOKENS, **BOUNDS, "share": 0.5, "cov_min": 0.5, "cov_max": 5.0},
    "kl_cov": {**TOKENS, "share": 0.1, "coef": 1.0},
    "vespo": {**TOKENS, "k_positive": 2.0, "k_negative": 3.0, "lambda_positive": 3.0, "lambda_negative": 2.0},
    "fipo": {
        **TOKENS, **BOUNDS, "dual_clip": 3.0, "half_life": 32.0, "weight_min": 1.0, "weight_max": 1.2,
        "safe_ratio": 10.0,
    },
}  # fmt: skip

SOURCES = {
    "ppo": "arXiv 1707.06347, 1912.09729 (dual clip), 2402.03300 (GRPO), 2503.20783 (average fixed)",
    "gmpo": "arXiv 2507.20673, equations 3 and 4, Table 4",
    "power_mean": "arXiv 2601.22521 and 2605.12058",
    "gspo": "arXiv 2507.18071",
    "gspo_token": "arXiv 2507.18071",
    "luspo": "arXiv 2602.05261",
    "cispo": "arXiv 2506.13585",
    "sapo": "arXiv 2511.20347",
    "gpg": "arXiv 2504.02546",
    "reinforce": "Williams (1992)",
    "dppo_tv": "arXiv 2602.04879",
    "dppo_kl": "arXiv 2602.04879",
    "m2po": "arXiv 2510.01161",
    "clip_cov": "arXiv 2505.22617 and its code",
    "kl_cov": "arXiv 2505.22617 and its code",
    "vespo": "arXiv 2602.10693",
    "fipo": "arXiv 2603.19835 and its README",
}


def kl(kind: str, coef: float = 0.1) -> Config:
    """A KL penalty towards `ref_log_probs` in the loss."""
    return {"kl": {"kind": kind, "coef": coef}}


CHANGES: dict[str, dict[str, Config]] = {
    "ppo": {
        "tokens": {},
        "sequences": SEQUENCES,
        "fixed": {"average": "fixed", "max_tokens": 10, **NO_DUAL},
        "tokens no_dual": NO_DUAL,
        "sequences no_dual": {**SEQUENCES, **NO_DUAL},
        "tokens dual_clip=1.5": {"dual_clip": 1.5},
        "tokens ratio_min=0.6": {"ratio_min": 0.6},
        "tokens ratio_max=1.6": {"ratio_max": 1.6},
        "tokens no_lower": {"ratio_min": None, "ratio_max": 1.5},
        "tokens kl=k1": kl("k1"),
        "tokens kl=abs": kl("abs"),
        "tokens kl=k2": kl("k2"),
        "tokens kl=k3": kl("k3"),
        "tokens kl=k3*0.3": kl("k3", 0.3),
        "sequences kl=k3": {**SEQUENCES, **kl("k3")},
        "sequences no_dual kl=k3": {**SEQUENCES, **NO_DUAL, **kl("k3")},
    },
    "gmpo": {
        "token": {},
        "token log_ratio_min=-0.2": {"log_ratio_min": -0.2},
        "token log_ratio_max=0.7": {"log_ratio_max": 0.7},
        "sequence": {"clip": "sequence"},
        "none": {"clip": "none"},
        "token no_power": {"normalize": False},
        "sequence no_power": {"clip": "sequence", "normalize": False},
        "none no_power": {"clip": "none", "normalize": False},
        "token kl=k3": kl("k3"),
    },
    "power_mean": {
        "p=0.5": {},
        "p=0": {"p": 0.0},
        "p=0.25": {"p": 0.25},
        "p=1": {"p": 1.0},
        "p=-1": {"p": -1.0},
        "p=0.5 sequence": {"clip": "sequence"},
        "p=0.5 none": {"clip": "none"},
        "p=0.5 log_ratio_min=-0.2": {"log_ratio_min": -0.2},
        "p=0.5 log_ratio_max=0.7": {"log_ratio_max": 0.7},
    },
    "gspo": {
        "basis": {},
        "dual_clip=3": {"dual_clip": 3.0},
        "ratio_min=0.6": {"ratio_min": 0.6},
        "ratio_max=1.6": {"ratio_max": 1.6},
        "authors' bounds": {"ratio_min": 1 - 3e-4, "ratio_max": 1 + 4e-4},
    },
    "gspo_token": {
        "sequences": {},
        "tokens": TOKENS,
        "sequences dual_clip=3": {"dual_clip": 3.0},
        "sequences ratio_min=0.6": {"ratio_min": 0.6},
        "sequences ratio_max=1.6": {"ratio_max": 1.6},
    },
    "luspo": {
        "basis": {},
        "dual_clip=3": {"dual_clip": 3.0},
        "ratio_min=0.6": {"ratio_min": 0.6},
        "ratio_max=1.6": {"ratio_max": 1.6},
    },
    "cispo": {
        "tokens": {},
        "sequences": SEQUENCES,
        "tokens ratio_min=0.6": {"ratio_min": 0.6},
        "tokens ratio_max=1.6": {"ratio_max": 1.6},
        "tokens no_lower": {"ratio_min": None},
        "tokens no_lower ratio_max=5": {"ratio_min": None, "ratio_max": 5.0},
    },
    "sapo": {
        "sequences": {},
        "tokens": TOKENS,
        "sequences tau_positive=0.5": {"tau_positive": 0.5},
        "sequences tau_negative=2": {"tau_negative": 2.0},
    },
    "gpg": {"tokens": {}, "sequences": SEQUENCES},
    "reinforce": {"basis": {}},
    "dppo_tv": {
        "tokens": {},
        "sequences": SEQUENCES,
        "tokens max_fall=0.4": {"max_fall": 0.4},
        "tokens max_rise=0.4": {"max_rise": 0.4},
        "tokens ratio_cap=1.5": {"ratio_cap": 1.5},
    },
    "dppo_kl": {
        "tokens": {},
        "sequences": SEQUENCES,
        "tokens max_fall=0.3": {"max_fall": 0.3},
        "tokens max_rise=0.3": {"max_rise": 0.3},
        "tokens ratio_cap=1.5": {"ratio_cap": 1.5},
    },
    "m2po": {"tokens": {}, "sequences": SEQUENCES, "tokens budget=0.2": {"budget": 0.2}},
    "clip_cov": {
        "tokens": {},
        "sequences": SEQUENCES,
        "tokens cov_min=1": {"cov_min": 1.0},
        "tokens cov_max=1": {"cov_max": 1.0},
        "tokens ratio_min=0.3": {"ratio_min": 0.3},
        "tokens ratio_max=1.6": {"ratio_max": 1.6},
    },
    "kl_cov": {
        "tokens": {},
        "sequences": SEQUENCES,
        "tokens share=0.2": {"share": 0.2},
        "tokens coef=0.3": {"coef": 0.3},
    },
    "vespo": {
        "tokens": {},
        "sequences": SEQUENCES,
        "tokens k_positive=0.5": {"k_positive": 0.5},
        "tokens k_negative=1": {"k_negative": 1.0},
        "tokens lambda_positive=0.7": {"lambda_positive": 0.7},
        "tokens lambda_negative=0.2": {"lambda_negative": 0.2},
    },
    "fipo": {
        "tokens": {},
        "sequences": SEQUENCES,
        "tokens half_life=2": {"half_life": 2.0},
        "tokens weight_min=0.8": {"weight_min": 0.8},
        "tokens weight_max=1.5": {"weight_max": 1.5},
        "tokens safe_ratio=1.5": {"weight_min": 0.8, "safe_ratio": 1.5},
        "tokens ratio_min=0.6": {"ratio_min": 0.6},
        "tokens ratio_max=1.6": {"ratio_max": 1.6},
        "tokens dual_clip=1.5": {"dual_clip": 1.5},
    },
}  # fmt: skip


def every_case() -> dict[str, dict[str, Config]]:
    """loss -> name of the case -> its whole configuration."""
    return {
        loss: {name: {"loss": loss, **BASES[loss], **change} for name, change in changes.items()}
        for loss, changes in CHANGES.items()
    }
