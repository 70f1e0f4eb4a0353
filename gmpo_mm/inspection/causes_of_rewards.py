"""Likely causes where rewards or groups differ: each is a hypothesis that is tried on the numbers."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from gmpo_mm.inspection.alignment import Pair
from gmpo_mm.inspection.findings import Cause
from gmpo_mm.inspection.sources import Sample, Source


def rewards(pairs: Sequence[Pair], differing_parts: Sequence[str]) -> list[Cause]:
    """Of pairs with rewards; `differing_parts` are the parts that differ."""
    if differing_parts:
        name = differing_parts[0]
        gap = [(p.a.parts[name], p.b.parts[name], p) for p in pairs if p.a.parts[name] != p.b.parts[name]]
        higher = sum(y > x for x, y, _ in gap)
        words = f"the part {name!r} is graded otherwise: another grader, answer extraction or format rule"
        return [
            Cause(
                "reward_part",
                words,
                f"{len(gap)} responses, of which B gives {higher} more and {len(gap) - higher} less",
            )
        ]
    scored = [p for p in pairs if p.a.reward is not None and p.b.reward is not None]
    fits = [_weights(side) for side in ([p.a for p in scored], [p.b for p in scored])]
    if fits[0] and fits[1] and fits[0] != fits[1]:
        shown = [", ".join(f"{name} {weight:.4g}" for name, weight in fit.items()) for fit in fits if fit]
        return [
            Cause(
                "reward_weights", "other weights of the reward's parts", f"{shown[0]} in A; {shown[1]} in B"
            )
        ]
    gap = [(p.a.reward or 0.0, p.b.reward or 0.0, p) for p in scored if p.a.reward != p.b.reward]
    lengths = [len(p.a.ids) if p.a.ids is not None else len(p.a.text) for _, _, p in gap]
    rest = [
        len(p.a.ids) if p.a.ids is not None else len(p.a.text) for p in scored if p.a.reward == p.b.reward
    ]
    if rest and min(lengths) > max(rest):
        evidence = f"the {len(gap)} responses that differ are the longest: from {min(lengths)} on"
        return [
            Cause(
                "length_penalty",
                "a penalty on long responses on one side (worker.reward.overlong_buffer)",
                evidence,
            )
        ]
    line = _line([x for x, _, _ in gap], [y for _, y, _ in gap])
    if line is not None:
        evidence = f"B = {line[0]:.4g} x A {line[1]:+.4g} in all {len(gap)} responses that differ"
        return [Cause("reward_scale", "rewards on another scale", evidence)]
    return [
        Cause("reward", "another reward function, or another answer in the data", f"{len(gap)} responses")
    ]


def _weights(samples: Sequence[Sample]) -> dict[str, float] | None:
    """Weights of the fewest parts of which the reward is an exact sum; None where it is none."""
    names = [
        name for name in samples[0].parts if all(math.isfinite(s.parts.get(name, math.nan)) for s in samples)
    ]
    names = [name for name in names if len({s.parts[name] for s in samples}) > 1]
    target = np.array([s.reward for s in samples], dtype=float)
    for count in range(1, min(4, len(names)) + 1):
        for chosen in itertools.combinations(names, count):
            columns = np.array([[s.parts[name] for name in chosen] for s in samples])
            weights, _, rank, _ = np.linalg.lstsq(columns, target, rcond=None)
            if rank == count and np.abs(columns @ weights - target).max() < 1e-6:
                return {name: round(float(weight), 6) for name, weight in zip(chosen, weights, strict=True)}
    return None


def _line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float] | None:
    """Slope and offset of a line through all points; None without one, or with too few points."""
    if len(set(x)) < 3 and not (len(set(x)) == 2 and len(x) > 2):
        return None
    slope, offset = np.polyfit(x, y, 1)
    return (
        (float(slope), float(offset))
        if np.abs(slope * np.array(x) + offset - np.array(y)).max() < 1e-6
        else None
    )


def groups(a: Source, b: Source, moved: int) -> list[Cause]:
    """Why responses stand in other groups; `moved` responses of A stand under another prompt in B."""
    by_position = {
        side: pattern for side, s in (("A", a), ("B", b)) if (pattern := _position_pattern(s)) is not None
    }
    mixed = [side for side, s in (("A", a), ("B", b)) if _mixes_prompts(s)]
    at_fault = [side for side in mixed if side in by_position] or ([*by_position] if moved else [])
    if len(at_fault) == 1:
        words = f"{at_fault[0]}'s group ids are the rows' positions in place of the prompt's id"
        return [Cause("groups_by_position", words, by_position[at_fault[0]])]
    if at_fault:
        words = "one side's rows were put in another order and its group ids taken from their positions"
        evidence = (
            f"A: {by_position['A']}; B: {by_position['B']}; but {moved} responses stand under other prompts"
        )
        return [Cause("groups_by_position", words, evidence)]
    where = f"groups of {' and '.join(mixed)} hold several prompts" if mixed else ""
    return [Cause("groups", "responses are grouped otherwise", where)]


def _position_pattern(source: Source) -> str | None:
    """In words, if a row's group is its number divided by the group's size, or its remainder."""
    number: dict[object, int] = {}
    found = [number.setdefault(s.group, len(number)) for s in source.samples]
    size = len(found) // max(1, len(number))
    if size and found == [row // size for row in range(len(found))]:
        return f"the group of row i is i // {size} for all {len(found)} rows"
    if number and found == [row % len(number) for row in range(len(found))]:
        return f"the group of row i is i modulo {len(number)} for all {len(found)} rows"
    return None


def _mixes_prompts(source: Source) -> bool:
    """Whether a group holds responses to several prompts, which its own texts show."""
    prompts: dict[object, set[int]] = defaultdict(set)
    for sample in source.samples:
        prompts[sample.group].add(id(sample.prompt))
    return any(len(each) > 1 for each in prompts.values())
