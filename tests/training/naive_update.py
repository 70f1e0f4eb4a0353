"""A slow reference for one step's updates: float64, one row at a time through transformers, plain loops.

It shares no line with the product: the loss, its terms and their weights, gradient clipping and AdamW are
written out here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import transformers

from gmpo_mm.data.prompts import EncodedPrompt

IS_V5 = int(transformers.__version__.split(".")[0]) >= 5


@dataclass(frozen=True)
class Settings:
    """The numbers of an update. `weight_power` -1 inverts the importance weights, as a mutant would."""

    loss: str
    kl: str
    old: str
    """Old log-probabilities: `recompute` or `sampler` throughout; `auto`: the policy's own until the first
    optimizer step, the sampler's afterwards."""
    cap: float | None
    max_grad_norm: float
    unit: str = "seq"
    kl_coef: float = 0.3
    entropy_coef: float = 0.2
    temperature: float = 0.8
    mini_batch_prompts: int = 2
    epochs: int = 2
    lr: float = 2e-4
    betas: tuple[float, float] = (0.4, 0.8)
    weight_decay: float = 20.0
    weight_power: int = 1


@dataclass(frozen=True)
class Row:
    """One response with all that an update knows of it; lists hold one number a token."""

    group: int
    prompt: EncodedPrompt
    tokens: torch.Tensor
    advantage: float
    sampler: list[float]
    ref: list[float]
    start: list[float] = field(default_factory=list)
    """Log-probabilities under the weights before the first update."""


@dataclass(frozen=True)
class Step:
    """One optimizer step: the gradients that it took, their norm before clipping, the weights after it."""

    gradients: dict[str, torch.Tensor]
    norm: float
    weights: dict[str, torch.Tensor]


def outputs(
    model: torch.nn.Module, row: Row, temperature: float, forbidden: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities (T,) and entropies (T,) of a response: one unpadded row through the whole model."""
    ids = torch.cat([row.prompt.input_ids_S, row.tokens])[None]
    inputs: dict = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if row.prompt.pixel_values is not None:
        model.model.rope_deltas = None
        inputs |= {
            "pixel_values": row.prompt.pixel_values.double(),
            "image_grid_thw": row.prompt.image_grid_thw_N3,
        }
        if IS_V5:
            inputs["mm_token_type_ids"] = (ids == model.config.image_token_id).int()
    logits = model(**inputs, use_cache=False).logits[0, len(row.prompt.input_ids_S) - 1 : -1]
    log_probs, entropies = [], []
    allowed = [token for token in range(logits.shape[1]) if token not in forbidden]
    for t, token in enumerate(row.tokens.tolist()):
        scaled = logits[t, allowed] / temperature
        log_p = scaled - scaled.exp().sum().log()
        log_probs.append(log_p[allowed.index(token)])
        entropies.append(-(log_p.exp() * log_p).sum())
    return torch.stack(log_probs), torch.stack(entropies)


def kl_estimate(x: torch.Tensor, kind: str) -> torch.Tensor:
    """EasyR1's estimators of one token's KL from x = log pi - log pi_ref."""
    if kind == "kl":
        return x
    if kind == "mse":
        return x * x / 2
    low_variance = torch.exp(-x) + x - 1
    return low_variance if float(low_variance.detach()) < 10 else torch.full_like(x, 10.0)  # EasyR1's bound


def row_loss(
    log_probs: torch.Tensor, entropies: torch.Tensor, row: Row, old: list[float], s: Settings
) -> dict[str, torch.Tensor]:
    """The policy loss, the KL and the entropy of one response, each summed over the loss's units."""
    n, a = len(old), row.advantage
    weights = [1.0] * n
    if s.cap is not None:
        weights = [
            min(math.exp(s.weight_power * (o - q)), s.cap) for o, q in zip(old, row.sampler, strict=True)
        ]
    ratios = [torch.exp(log_probs[t] - old[t]) for t in range(n)]
    if s.loss == "gmpo":
        product = torch.ones((), dtype=torch.float64)
        for ratio in ratios:
            if a > 0 and float(ratio.detach()) > math.exp(0.4):
                ratio = torch.tensor(math.exp(0.4), dtype=torch.float64)
            if a < 0 and float(ratio.detach()) < math.exp(-0.4):
                ratio = torch.tensor(math.exp(-0.4), dtype=torch.float64)
            product = product * ratio
        policy = -a * product ** (1 / n) * math.prod(weights) ** (1 / n)
    else:
        policy = torch.zeros((), dtype=torch.float64)
        for ratio, weight in zip(ratios, weights, strict=True):
            value = float(ratio.detach())
            if a > 0:
                kept = ratio if value < 1.3 else torch.tensor(1.3, dtype=torch.float64)
            else:
                kept = (
                    ratio
                    if 0.8 < value < 3.0
                    else torch.tensor(max(0.8, min(value, 3.0)), dtype=torch.float64)
                )
            policy = policy - a * kept * weight
    kl = torch.zeros((), dtype=torch.float64)
    for t in range(n):
        kl = kl + kl_estimate(log_probs[t] - row.ref[t], s.kl)
    entropy = sum(entropies.split(1))
    if s.unit == "seq":
        kl, entropy = kl / n, entropy / n
        policy = policy if s.loss == "gmpo" else policy / n  # GMPO's own loss is one number a sequence
    return {"policy": policy, "kl": kl, "entropy": entropy}


def reference_update(
    model: torch.nn.Module, rows: Sequence[Row], s: Settings, forbidden: Sequence[int]
) -> tuple[list[Step], dict[str, float]]:
    """All optimizer steps of one training step, and the numbers that the metrics should show.

    Changes the model's weights.
    """
    names = {name: p for name, p in model.named_parameters() if p.requires_grad}
    first = {name: torch.zeros_like(p) for name, p in names.items()}
    second = {name: torch.zeros_like(p) for name, p in names.items()}
    with torch.no_grad():
        rows = [
            Row(**{**vars(r), "start": outputs(model, r, s.temperature, forbidden)[0].tolist()}) for r in rows
        ]
    groups = sorted({row.group for row in rows})
    steps: list[Step] = []
    seen: dict[str, list[float]] = {
        "policy": [],
        "kl": [],
        "entropy": [],
        "kl_ref": [],
        "ratio": [],
        "gap": [],
    }
    all_units = tokens = 0
    for _ in range(s.epochs):
        for begin in range(0, len(groups), s.mini_batch_prompts):
            mini = [row for row in rows if row.group in groups[begin : begin + s.mini_batch_prompts]]
            units = len(mini) if s.unit == "seq" else sum(len(row.tokens) for row in mini)
            loss = torch.zeros((), dtype=torch.float64)
            for row in mini:
                log_probs, entropies = outputs(model, row, s.temperature, forbidden)
                starts = s.old == "recompute" or (s.old == "auto" and not steps)
                old = row.start if starts else row.sampler
                parts = row_loss(log_probs, entropies, row, old, s)
                loss = (
                    loss
                    + (parts["policy"] + s.kl_coef * parts["kl"] - s.entropy_coef * parts["entropy"]) / units
                )
                for t, value in enumerate(log_probs.tolist()):
                    seen["ratio"].append(math.exp(value - old[t]))
                    seen["kl_ref"].append(float(kl_estimate(torch.tensor(value - row.ref[t]), "low_var_kl")))
                    seen["gap"] += [] if steps else [abs(value - row.sampler[t])]
                seen["policy"].append(float(parts["policy"].detach()))
                seen["kl"].append(float(parts["kl"].detach()))
                seen["entropy"] += entropies.tolist()
                tokens += len(row.tokens)
            all_units += units
            model.zero_grad()
            loss.backward()
            gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in names.items()}
            norm = math.sqrt(sum(float((g * g).sum()) for g in gradients.values()))
            shrink = min(1.0, s.max_grad_norm / norm)
            gradients = {name: g * shrink for name, g in gradients.items()}
            count = len(steps) + 1
            with torch.no_grad():
                for name, parameter in names.items():
                    g = gradients[name]
                    first[name] = s.betas[0] * first[name] + (1 - s.betas[0]) * g
                    second[name] = s.betas[1] * second[name] + (1 - s.betas[1]) * g * g
                    mean = first[name] / (1 - s.betas[0] ** count)
                    root = (second[name] / (1 - s.betas[1] ** count)).sqrt()
                    parameter.copy_(
                        parameter - s.lr * s.weight_decay * parameter - s.lr * mean / (root + 1e-8)
                    )
            steps.append(Step(gradients, norm, {name: p.detach().clone() for name, p in names.items()}))
    numbers = {
        "actor/pg_loss": sum(seen["policy"]) / all_units,
        "actor/kl_loss": sum(seen["kl"]) / all_units,
        "actor/kl_ref": sum(seen["kl_ref"]) / tokens,
        "actor/entropy": sum(seen["entropy"]) / tokens,
        "actor/grad_norm": sum(step.norm for step in steps) / len(steps),
        "ratio/token_min": min(seen["ratio"]),
        "ratio/token_max": max(seen["ratio"]),
        "rollout/log_prob_gap_mean": sum(seen["gap"]) / len(seen["gap"]),
        "rollout/log_prob_gap_max": max(seen["gap"]),
    }
    return steps, numbers
