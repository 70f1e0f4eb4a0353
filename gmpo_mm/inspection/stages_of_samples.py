"""Responses, masks, rewards, groups and advantages: what was sampled and what was made of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from gmpo_mm.inspection import causes_of_rewards, causes_of_text, recipes
from gmpo_mm.inspection.alignment import Alignment
from gmpo_mm.inspection.comparing import (
    ADVANTAGE,
    REWARD,
    after_sampling,
    compare_numbers,
    counted,
    no_pairs,
    one,
    tokens,
)
from gmpo_mm.inspection.findings import DIFFERS, UNKNOWN, Cause, Stage, absent, example_of, short
from gmpo_mm.inspection.sources import Source


def responses(a: Source, b: Source, aligned: Alignment) -> Stage:
    """Token ids where both have them, else text."""
    name = "responses"
    if not aligned.pairs:
        return no_pairs(name, a.samples, b.samples, "no prompt is in both")
    off = [p for p in aligned.pairs if not p.same_tokens]
    ids = all(p.a.ids is not None and p.b.ids is not None for p in aligned.pairs)
    alone = len(aligned.samples_only_a), len(aligned.samples_only_b)
    stage = counted(
        name, len(off), len(aligned.pairs), "responses", "" if ids else "compared as text: a side has no ids"
    )
    only = (aligned.prompts_only_a, aligned.prompts_only_b)
    if sum(alone) and not any(only):
        stage.status = DIFFERS
        stage.words += (
            f"{'; ' if stage.words else ''}{alone[0]} responses are only in A, {alone[1]} only in B"
        )
        counts = len(a.samples) / max(1, len(a.prompts)), len(b.samples) / max(1, len(b.prompts))
        if counts[0] != counts[1]:
            evidence = f"{counts[0]:g} responses a prompt in A, {counts[1]:g} in B"
            stage.causes = [
                Cause("samples", "another number of responses a prompt (worker.rollout.n)", evidence)
            ]
    if off:
        pair = off[0]
        x, y = (pair.a.ids, pair.b.ids) if ids else (pair.a.text, pair.b.text)
        assert x is not None
        assert y is not None
        at = next((i for i, (p, q) in enumerate(zip(x, y)) if p != q), min(len(x), len(y)))
        shown = [short(repr(sample.text), 70) for sample in (pair.a, pair.b)]
        stage.example = example_of(pair, shown[0], shown[1], at if ids else -1)
        stage.causes = stage.causes or causes_of_text.responses(off, a, b)
    return stage


def masks(a: Source, b: Source, aligned: Alignment) -> Stage:
    """Which tokens are trained on, and which responses are left out of the loss."""
    name = "masks"
    in_a, in_b = (bool(s.samples) and all(x.mask_T is not None for x in s.samples) for s in (a, b))
    if not in_a or not in_b:
        return absent(name, in_a, in_b)
    if not aligned.same:
        return after_sampling(name)
    off = []
    for pair in aligned.same:
        assert pair.a.mask_T is not None
        assert pair.b.mask_T is not None
        x, y = pair.a.mask_T.tolist(), pair.b.mask_T.tolist()
        if x != y or pair.a.left_out != pair.b.left_out:
            off.append((pair, x, y))
    stage = counted(name, len(off), len(aligned.same), "responses", "")
    if off:
        pair, x, y = off[0]
        at = next((i for i, (p, q) in enumerate(zip(x, y)) if p != q), -1)
        values = [_mask_text(side, s.left_out) for side, s in ((x, pair.a), (y, pair.b))]
        stage.example = example_of(pair, values[0], values[1], at)
        stage.causes = causes_of_text.masks(off)
    return stage


def _mask_text(mask: Sequence[bool], left_out: bool | None) -> str:
    return f"{sum(mask)} of {len(mask)} tokens" + (", left out of the loss" if left_out else "")


def rewards(a: Source, b: Source, aligned: Alignment) -> Stage:
    """Each part that both sides have, then the reward itself."""
    name = "rewards"
    in_a, in_b = (any(x.reward is not None or x.parts for x in s.samples) for s in (a, b))
    if not in_a or not in_b:
        return absent(name, in_a, in_b)
    if not aligned.same:
        return after_sampling(name)
    pairs = aligned.same
    common = [
        part for part in pairs[0].a.parts if all(part in p.a.parts and part in p.b.parts for p in pairs)
    ]
    found = []
    for part in common:
        values = ((p, one(p.a.parts[part]), one(p.b.parts[part])) for p in pairs)
        found.append((part, compare_numbers(name, values, REWARD, f"values of the part {part!r}", False)))
    scored = [p for p in pairs if p.a.reward is not None and p.b.reward is not None]
    total = compare_numbers(
        name, ((p, one(p.a.reward), one(p.b.reward)) for p in scored), REWARD, "rewards", False
    )
    off = [(part, stage) for part, stage in found if stage.status == DIFFERS]
    if total.status == UNKNOWN and not found:
        return Stage(name, UNKNOWN, "the sides have no part in common")
    stage = off[0][1] if off else total if total.status != UNKNOWN else found[0][1]
    if off and len(off) > 1:
        stage.words += f"; also {', '.join(part for part, _ in off[1:])}"
    if off and total.status == DIFFERS:
        stage.words += "; so does the reward"
    if stage.status == DIFFERS:
        stage.causes = causes_of_rewards.rewards(pairs, [part for part, _ in off])
    elif len(common) > 0 and not stage.words:
        stage.words = f"and the parts {', '.join(common)}"
    return stage


def group_ids(a: Source, b: Source, aligned: Alignment) -> Stage:
    """Whether the same responses stand together."""
    name = "group ids"
    in_a, in_b = (bool(s.samples) and all(x.group is not None for x in s.samples) for s in (a, b))
    if not in_a or not in_b:
        return absent(name, in_a, in_b)
    pairs = aligned.same or aligned.pairs
    if not pairs:
        return after_sampling(name)
    seen: dict[object, dict[object, int]] = {}
    for pair in pairs:
        seen.setdefault(pair.a.group, {}).setdefault(pair.b.group, 0)
        seen[pair.a.group][pair.b.group] += 1
    usual = {group: max(others, key=lambda other: others[other]) for group, others in seen.items()}
    taken: dict[object, object] = {}
    for group, other in usual.items():
        taken.setdefault(other, group)
    off = [p for p in pairs if p.b.group != usual[p.a.group] or taken[p.b.group] != p.a.group]
    stage = counted(name, len(off), len(pairs), "responses stand in another group:", "")
    if off:
        stage.words = f"{len(off):,} of {len(pairs):,} responses stand in another group"
        stage.example = example_of(off[0], f"group {off[0].a.group}", f"group {off[0].b.group}")
        stage.causes = causes_of_rewards.groups(a, b, aligned.moved)
    return stage


def advantages(a: Source, b: Source, aligned: Alignment) -> Stage:
    """Of groups whose responses are all equal, as others change them; token by token, or one a response."""
    name = "advantages"
    in_a, in_b = (
        any(x.advantages_T is not None or x.advantage is not None for x in s.samples) for s in (a, b)
    )
    if not in_a or not in_b:
        return absent(name, in_a, in_b)
    other = {id(p.a.prompt) for p in aligned.pairs if not p.same_tokens}
    other |= {id(s.prompt) for s in aligned.samples_only_a}
    sizes_a, sizes_b = (Counter(id(s.prompt) for s in source.samples) for source in (a, b))
    pairs = [
        p
        for p in aligned.same
        if id(p.a.prompt) not in other and sizes_a[id(p.a.prompt)] == sizes_b[id(p.b.prompt)]
    ]
    if not pairs:
        return (
            Stage(name, UNKNOWN, "no group has the same responses in both")
            if aligned.same
            else after_sampling(name)
        )
    if all(p.a.advantage is not None and p.b.advantage is not None for p in pairs):
        values = [(p, one(p.a.advantage), one(p.b.advantage)) for p in pairs]
        stage = compare_numbers(name, values, ADVANTAGE, "responses' advantages", False)
    else:
        stage = compare_numbers(
            name, tokens(pairs, lambda s: s.advantages_T), ADVANTAGE, "tokens' advantages", True
        )
    if stage.status == DIFFERS:
        rows = [(p.a.row, p.b.row) for p in pairs if p.a.advantage != p.b.advantage]
        stage.causes = recipes.advantages(a, b, rows)
    return stage
