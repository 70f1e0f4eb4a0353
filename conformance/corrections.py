"""Corrections of a sampler that differs from the trainer: the naive reference of their weights and of what a
loss does with them, the cases, and the sampler's log-probabilities."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

from conformance.cases import BASES, SEQUENCES, kl
from conformance.dual import Dual
from conformance.tokens import Row, Shares, Token

Config = dict[str, Any]
SOURCE = (
    "Ionides (2008) (truncated), arXiv 2510.18855, its equation as in 2512.16144 (masked), "
    "richardli.xyz/rl-collapse, parts 2 and 3 (sequence_truncated, sequence_masked, geometric_masked)"
)
KINDS = ("truncated", "masked", "sequence_truncated", "sequence_masked", "geometric_masked")


def weights(correction: Config, old: list[float], sampler: list[float]) -> list[float]:
    """The constant weight of each token of a response: 0 masks.

    r = pi_old / pi_sampler is a token's ratio, R their product. `truncated`: min(r, cap). `masked` (IcePop):
    r within the bounds, else 0. `sequence_truncated` and `sequence_masked`: the same of R, for all tokens of
    the response. `geometric_masked`: 1 if R^(1/|o|) is within the bounds, else 0.
    """
    kind, cap, floor = correction["kind"], correction["cap"], correction.get("floor", 0.0)
    ratios = [math.exp(o) / math.exp(s) for o, s in zip(old, sampler, strict=True)]
    if kind == "truncated":
        return [min(r, cap) for r in ratios]
    if kind == "masked":
        return [r if floor <= r <= cap else 0.0 for r in ratios]
    whole = math.prod(ratios)
    if kind == "sequence_truncated":
        whole = min(whole, cap)
    elif kind == "sequence_masked":
        whole = whole if floor <= whole <= cap else 0.0
    else:
        assert kind == "geometric_masked"
        whole = 1.0 if floor <= whole ** (1 / len(ratios)) <= cap else 0.0
    return [whole for _ in ratios]


def weight_of(correction: Config, weights: list[float]) -> float:
    """The one weight that a loss of responses is multiplied by.

    No paper says what it is where tokens have weights of their own: `mean` is `geometric`, over the tokens, a
    masked one as 1, and 0 where all are masked; or `arithmetic`. Where all weights are one, both are that.
    """
    if correction.get("mean") == "arithmetic":
        return sum(weights) / len(weights)
    kept = [w for w in weights if w > 0]
    return math.prod(w ** (1 / len(weights)) for w in kept) if kept else 0.0


def weighted(correction: Config, rows: list[Row], sampler_log_probs: list[list[float]]) -> list[Row]:
    """The rows with their weights. What is masked goes on to count in every denominator and in the KL, unless
    `counted` is false: then it is left out, as padding is."""
    for row, sampler in zip(rows, sampler_log_probs, strict=True):
        if row:
            found = weights(correction, [token.old for token in row], sampler[: len(row)])
            for token, weight in zip(row, found, strict=True):
                token.weight = weight
    if correction.get("counted", True):
        return rows
    return [[token for token in row if token.weight] for row in rows]


def of_response(function: Callable[..., Dual]) -> Callable[..., Dual]:
    """A loss of a response times its weight. With a geometric mean a masked token has the ratio 1 besides."""

    def one(config: Config, row: Row, shares: Shares) -> Dual:
        weight = weight_of(config["correction"], [token.weight for token in row])
        if config["correction"].get("mean") != "arithmetic":
            row = [t if t.weight else Token(Dual(t.old), t.old, t.ref, t.a) for t in row]
        return function(config, row, shares) * weight

    return one


TRUNCATED = {"kind": "truncated", "cap": 2.0}
MASKED = {"kind": "masked", "cap": 2.0, "floor": 0.5, "counted": True}
SEQUENCE_TRUNCATED = {"kind": "sequence_truncated", "cap": 2.0}
SEQUENCE_MASKED = {"kind": "sequence_masked", "cap": 3.0, "floor": 0.4, "counted": True}
GEOMETRIC_MASKED = {"kind": "geometric_masked", "cap": 1.2, "floor": 0.9, "counted": True}
GEOMETRIC, ARITHMETIC = {"mean": "geometric"}, {"mean": "arithmetic"}
LEFT_OUT = {"counted": False}


def _case(loss: str, correction: Config, **change: Any) -> Config:
    return {"loss": loss, **BASES[loss], **change, "correction": correction}


CASES: dict[str, Config] = {
    "ppo tokens truncated": _case("ppo", TRUNCATED),
    "ppo tokens truncated cap=1.3": _case("ppo", TRUNCATED | {"cap": 1.3}),
    "ppo sequences truncated": _case("ppo", TRUNCATED, **SEQUENCES),
    "ppo tokens masked": _case("ppo", MASKED),
    "ppo tokens masked floor=0.8": _case("ppo", MASKED | {"floor": 0.8}),
    "ppo tokens masked cap=1.1": _case("ppo", MASKED | {"cap": 1.1}),
    "ppo tokens masked left_out": _case("ppo", MASKED | LEFT_OUT),
    "ppo tokens masked kl=k3": _case("ppo", MASKED, **kl("k3")),
    "ppo sequences masked": _case("ppo", MASKED, **SEQUENCES),
    "ppo tokens sequence_truncated": _case("ppo", SEQUENCE_TRUNCATED),
    "ppo tokens sequence_masked": _case("ppo", SEQUENCE_MASKED),
    "ppo tokens sequence_masked floor=0": _case("ppo", SEQUENCE_MASKED | {"floor": 0.0}),
    "ppo tokens sequence_masked cap=2": _case("ppo", SEQUENCE_MASKED | {"cap": 2.0}),
    "ppo tokens geometric_masked": _case("ppo", GEOMETRIC_MASKED),
    "ppo tokens geometric_masked floor=0.7": _case("ppo", GEOMETRIC_MASKED | {"floor": 0.7}),
    "ppo tokens geometric_masked cap=1.5": _case("ppo", GEOMETRIC_MASKED | {"cap": 1.5}),
    "ppo tokens geometric_masked left_out": _case("ppo", GEOMETRIC_MASKED | LEFT_OUT),
    "ppo sequences geometric_masked": _case("ppo", GEOMETRIC_MASKED, **SEQUENCES),
    "gmpo truncated geometric": _case("gmpo", TRUNCATED | GEOMETRIC),
    "gmpo masked geometric": _case("gmpo", MASKED | GEOMETRIC),
    "gmpo sequence_truncated": _case("gmpo", SEQUENCE_TRUNCATED),
    "gmpo sequence_masked": _case("gmpo", SEQUENCE_MASKED),
    "gmpo geometric_masked": _case("gmpo", GEOMETRIC_MASKED),
    "gspo_token truncated": _case("gspo_token", TRUNCATED),
    "gspo_token masked": _case("gspo_token", MASKED),
    "gspo truncated geometric": _case("gspo", TRUNCATED | GEOMETRIC),
    "gspo truncated arithmetic": _case("gspo", TRUNCATED | ARITHMETIC),
    "gspo masked geometric": _case("gspo", MASKED | GEOMETRIC),
    "gspo masked arithmetic": _case("gspo", MASKED | ARITHMETIC),
    "gspo sequence_truncated": _case("gspo", SEQUENCE_TRUNCATED),
    "gspo sequence_masked": _case("gspo", SEQUENCE_MASKED),
    "gspo geometric_masked": _case("gspo", GEOMETRIC_MASKED),
}
# log r of each token, as far as the sampler's log-probability stays below 0
MIXED = (
    (0.15, 0.19, 0.12, 0.16, 0.08, 0.14),  # R above 2 and below 3
    (1.0,),  # one token, masked
    (),
    (0.9, -0.05, 0.06, 0.02),  # one token above the cap
    (-0.95, -0.1, -0.15, -0.3, 0.02),  # one below the floor, and R too
    (0.1, -0.04, 0.05),
    (0.38, 0.33, 0.29, 0.41, 0.27, 0.36),  # no token masked, R far above
    (0.02, -0.03),
    (-1.05, -0.92, -1.2, -0.88),  # every token masked
    (0.05,),
    (0.8, -0.45, -0.85, 0.75, -0.28),  # tokens masked on both sides, R near 1
    (-0.03, 0.04, 0.02, -0.02, 0.28, -0.25),  # within all bounds but the narrow ones
)
FAR = (
    (-8.0, 0.1, -0.1, 6.0, 0.02),
    (0.02, -0.03, 0.01, 0.04),
    (11.0, 0.1, 10.0),
    (0.1, 0.2, 7.0, 8.0, -0.01),
    (),
    (0.03, -0.02, 0.04, 0.12, 0.01),
    (9.0, 9.0, 9.0, 8.0, 9.0),
    (-6.0, -6.0),
    (5.0,),
    (-0.02, 0.05, 0.1, -0.04),
)


def sampler_log_probs(rng: random.Random, name: str, batch: dict[str, Any]) -> list[list[float]]:
    """log pi_sampler for a batch of the losses; in `padding` other numbers than 0 where the mask is 0."""
    wanted = FAR if name == "far" else MIXED
    result = []
    for old, mask, ratios in zip(batch["old_log_probs"], batch["mask"], wanted, strict=True):
        length = sum(mask)
        row = [round(min(o - d, -0.004), 3) for o, d in zip(old[:length], ratios, strict=True)]
        hidden = [-round(rng.uniform(0.1, 5), 3) if name == "padding" else 0.0 for _ in mask[length:]]
        result.append(row + hidden)
    return result
