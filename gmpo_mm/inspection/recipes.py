"""By which formula did a side make its advantages, and its loss? Known ones are tried on its numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from gmpo_mm.algorithms import compute_policy_loss, count_units
from gmpo_mm.algorithms.config import PolicyLossConfig, loss_keys, make_loss_config
from gmpo_mm.algorithms.registry import known_loss_types
from gmpo_mm.inspection.findings import Cause
from gmpo_mm.inspection.sources import Source

_EXACT = 2e-6
"""Relative error up to which float32 advantages follow from a formula."""
_SUM = "+"
_EPSILONS = (1e-6, 1e-8, 1e-5, 1e-4, 1e-3, 0.0)


@dataclass(frozen=True)
class Recipe:
    """How advantages follow from rewards: what is taken off, and what it is divided by."""

    reward: str = "overall"
    grouping: str = "group"
    baseline: str = "mean"
    std: str | None = "unbiased"
    std_over: str = "group"
    eps: float = 1e-6

    def __str__(self) -> str:
        whose = {"group": "the group's", "batch": "the batch's", "position": "the group by position's"}[
            self.grouping
        ]
        name = {"overall": "the reward", _SUM: "the parts' sum"}.get(
            self.reward, f"the part {self.reward!r} alone"
        )
        text = f"{name} minus {whose} {'mean' if self.baseline == 'mean' else 'mean of the others (RLOO)'}"
        if self.std is None:
            return f"{text}, without std"
        over = "the batch's" if self.std_over == "batch" else whose
        return f"{text}, divided by {over} {self.std} std + {self.eps:g}"


_DIFFERENCES = (
    ("reward", "reward_part_only", "advantages are made of other rewards"),
    ("baseline", "rloo", "RLOO (the mean of the others) on one side, GRPO (the group's mean) on the other"),
    ("grouping", "grouping", "advantages are normalised over other groups"),
    (
        "std_over",
        "batch_std",
        "the standard deviation is the batch's on one side and the group's on the other",
    ),
    ("std", "std", "another division by the standard deviation"),
    ("eps", "epsilon", "another epsilon beside the standard deviation"),
)


def advantages(a: Source, b: Source, differing_rows: Sequence[tuple[int, int]]) -> list[Cause]:
    """Why the advantages of equal rewards differ."""
    both = [(a.samples[i], b.samples[j]) for i, j in differing_rows]
    for place, side in ((1, "B"), (0, "A")):
        if both and all(
            pair[place].advantage == 0 and "length" in (pair[0].stop_reason, pair[1].stop_reason)
            for pair in both
        ):
            words = f"truncated responses are left out in {side}: their advantage is 0"
            return [Cause("truncated_left_out", words, f"{len(both)} responses, all of which were cut off")]
    found = recipe(a), recipe(b)
    evidence = "; ".join(
        f"{side}: {one}" if one is not None else f"{side}: no known formula fits"
        for side, one in zip("AB", found)
    )
    if found[0] is not None and found[1] is not None and found[0] != found[1]:
        return [_named(found[0], found[1], evidence)]
    x, y = (
        (np.array([s.advantage or 0.0 for s in side]) for side in zip(*both))
        if both
        else (np.zeros(0), np.zeros(0))
    )
    if len(x) and np.abs(x + y).max() < _EXACT * np.abs(x).max():
        return [Cause("sign", "another sign", evidence)]
    if len(x) and (x * x).sum():
        scale = float((x * y).sum() / (x * x).sum())
        if np.abs(y - scale * x).max() < 1e-5 * np.abs(y).max():
            return [Cause("advantage_scaled", f"all advantages are scaled by {scale:.4g}", evidence)]
        limit = np.abs(y).max()
        if np.allclose(np.clip(x, -limit, limit), y, atol=1e-5):
            return [Cause("advantage_clipped", f"advantages are clipped to {limit:.3g} in B", evidence)]
    return [Cause("advantage", "another normalisation of the advantages", evidence)]


def _named(one: Recipe, other: Recipe, evidence: str) -> Cause:
    field, code, words = next(d for d in _DIFFERENCES if getattr(one, d[0]) != getattr(other, d[0]))
    values = {getattr(one, field), getattr(other, field)}
    if field == "grouping":
        if "batch" in values:
            code, words = (
                "batch_normalised",
                "advantages are normalised over the whole batch in place of the group",
            )
        elif "position" in values:
            code, words = (
                "groups_by_position",
                "advantages are normalised over groups by position in place of the prompt's",
            )
    if field == "std":
        if None in values:
            code, words = (
                "no_std",
                f"{'A' if one.std is None else 'B'} does not divide by the standard deviation",
            )
        else:
            code, words = (
                "biased_std",
                "the biased standard deviation (1/n) on one side, the unbiased (1/(n-1)) on the other",
            )
    return Cause(code, words, evidence)


def recipe(source: Source) -> Recipe | None:
    """The formula that gives a side's own advantages; None where none does."""
    rows = [s for s in source.samples if not s.left_out]
    if not rows or any(s.advantage is None for s in rows):
        return None
    target = np.array([s.advantage for s in rows], dtype=float)
    if not np.abs(target).max():
        return None
    kept = np.array([not s.left_out for s in source.samples])
    best, error = None, _EXACT
    for candidate, values in _candidates(source):
        found = float(np.abs(values[kept] - target).max() / np.abs(target).max())
        if found < error * 0.999:
            best, error = candidate, found
            if error < 1e-7:
                break
    return best


def _candidates(source: Source) -> Iterator[tuple[Recipe, np.ndarray]]:
    count = len(source.samples)
    rewards = {}
    if all(s.reward is not None for s in source.samples):
        rewards["overall"] = np.array([s.reward for s in source.samples], dtype=float)
    common = set.intersection(*(set(s.parts) for s in source.samples))
    rewards |= {name: np.array([s.parts[name] for s in source.samples]) for name in sorted(common)}
    if "overall" not in rewards and len(common) > 1:
        rewards[_SUM] = np.array([sum(s.parts[name] for name in sorted(common)) for s in source.samples])
    given = [s.group if s.group is not None else id(s.prompt) for s in source.samples]
    groupings = {"group": np.unique(np.array(given, dtype=object).astype(str), return_inverse=True)[1]}
    sizes = Counter(given)
    if len(set(sizes.values())) == 1:
        size, number = next(iter(sizes.values())), len(sizes)
        for by_position in (np.arange(count) // size, np.arange(count) % number):
            if len(np.unique(np.stack([by_position, groupings["group"]]), axis=1).T) != number:
                groupings[f"position{len(groupings)}"] = by_position
    groupings["batch"] = np.zeros(count, dtype=int)
    for name, reward in rewards.items():
        if not np.isfinite(reward).all() or reward.std() == 0:
            continue
        for grouping, index in groupings.items():
            base = Recipe(name, grouping.rstrip("0123456789"))
            n = np.bincount(index)[index]
            mean = (np.bincount(index, reward) / np.bincount(index))[index]
            centred = reward - mean
            yield replace(base, std=None), centred
            if n.min() < 2:
                continue
            yield replace(base, std=None, baseline="others"), centred * n / (n - 1)
            squares = np.bincount(index, centred * centred)[index]
            stds = {
                ("unbiased", "group"): np.sqrt(squares / (n - 1)),
                ("biased", "group"): np.sqrt(squares / n),
            }
            if grouping != "batch":
                stds[("unbiased", "batch")] = np.full(count, reward.std(ddof=1))
                stds[("biased", "batch")] = np.full(count, reward.std())
            for (kind, over), std in stds.items():
                for eps in _EPSILONS:
                    with np.errstate(divide="ignore", invalid="ignore"):
                        values = np.where(np.abs(centred) < 1e-12, 0.0, centred / (std + eps))
                    yield replace(base, std=kind, std_over=over, eps=eps), values


@dataclass(frozen=True)
class LossRecipe:
    """A loss and the unit of its mean."""

    loss_type: str
    loss_avg_mode: str
    kept: bool
    """Whether rows that are left out count in the mean."""

    def __str__(self) -> str:
        unit = "tokens" if self.loss_avg_mode == "token" else "sequences"
        return f"{self.loss_type}, mean over {unit}"


def loss(a: Source, b: Source) -> list[Cause]:
    """Why the losses of equal ratios and advantages differ: the losses that give each side's own number."""
    found = loss_recipe(a), loss_recipe(b)
    evidence = "; ".join(
        f"{side}: {one}" if one is not None else f"{side}: no known loss gives its number"
        for side, one in zip("AB", found)
    )
    one, other = found
    if one is None or other is None or one == other:
        return []
    if one.loss_type != other.loss_type:
        return [Cause("loss_type", "another policy loss", evidence)]
    if one.loss_avg_mode != other.loss_avg_mode:
        return [
            Cause(
                "loss_mean",
                "the mean over tokens on one side, over sequences on the other (loss_avg_mode)",
                evidence,
            )
        ]
    return [Cause("loss_units", "rows that are left out count in the mean on one side", evidence)]


def loss_recipe(source: Source) -> LossRecipe | None:
    """The loss that gives `actor/pg_loss` from a side's own tensors; None where none does."""
    target = source.metrics.get("actor/pg_loss")
    rows = source.samples
    complete = all(
        "log_probs" in s.tokens and s.behaviour_T is not None and s.advantages_T is not None for s in rows
    )
    if target is None or not complete or not rows or abs(target) < 1e-7:
        return None

    def padded(values: Sequence[torch.Tensor | None]) -> torch.Tensor:
        return pad_sequence([v for v in values if v is not None], batch_first=True)

    log_probs_BT, old_BT = (
        padded([s.tokens["log_probs"] for s in rows]),
        padded([s.behaviour_T for s in rows]),
    )
    advantages_BT, mask_BT = padded([s.advantages_T for s in rows]), padded([s.mask_T for s in rows])
    kept_B = torch.tensor([not s.left_out for s in rows])
    # rows whose group has no advantage may be left out of the update: they have no log-probs and no loss
    log_probs_BT = torch.where((log_probs_BT == 0) & (advantages_BT == 0), old_BT, log_probs_BT)
    base = _configured(source)
    names = [base.loss_type, *(name for name in known_loss_types() if name != base.loss_type)]
    modes = [base.loss_avg_mode, "seq" if base.loss_avg_mode == "token" else "token"]
    for name in names:
        for mode in modes:
            for kept in (True, False):
                config = replace(base, loss_type=name, loss_avg_mode=mode)
                counted_BT = mask_BT & kept_B[:, None] if kept else mask_BT
                try:
                    total = compute_policy_loss(
                        log_probs_BT, old_BT, advantages_BT, mask_BT, config, with_metrics=False
                    ).sum
                    value = float(total) / float(count_units(counted_BT, config))
                except (ValueError, RuntimeError):
                    continue
                if abs(value / target - 1) < 1e-4:
                    return LossRecipe(name, mode, kept)
    return None


def _configured(source: Source) -> PolicyLossConfig:
    """The side's own loss with its bounds; defaults where the configuration is not there."""
    values: dict[str, Any] = {"loss_type": "default"}
    for key in ("loss_type", *loss_keys()):
        if (value := source.config.get(f"worker.actor.{key}")) is not None:
            section, _, name = key.rpartition(".")
            (values.setdefault(section, {}) if section else values)[name] = value
    try:
        return make_loss_config(values)
    except (TypeError, ValueError):  # another project's names
        return PolicyLossConfig(loss_type="default")
