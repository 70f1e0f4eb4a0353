"""Prompts and pictures: are they the same, as text, as ids, as pixels?"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gmpo_mm.inspection import causes_of_text
from gmpo_mm.inspection.alignment import Alignment, plain_text
from gmpo_mm.inspection.comparing import (
    counted,
    no_pairs,
)
from gmpo_mm.inspection.findings import DIFFERS, EQUAL, UNKNOWN, Cause, Example, Stage, absent, short
from gmpo_mm.inspection.sources import MESSAGES, WITH_SPECIALS, Prompt, Source


def prompts(a: Source, b: Source, aligned: Alignment) -> Stage:
    """Whether both sides have the same prompts."""
    name = "prompts"
    if not a.prompts or not b.prompts:
        return absent(name, bool(a.prompts), bool(b.prompts))
    alone = aligned.prompts_only_a, aligned.prompts_only_b
    if not alone[0] and not alone[1]:
        return Stage(name, EQUAL, compared=len(aligned.prompts))
    total = len(aligned.prompts) + max(map(len, alone))
    stage = Stage(name, DIFFERS, compared=total, share=1 - len(aligned.prompts) / total)
    stage.words = (
        f"{len(aligned.prompts)} prompts are in both, {len(alone[0])} only in A, {len(alone[1])} only in B"
    )
    texts = [short(side[0].problem or side[0].text) if side else "-" for side in alone]
    stage.example = Example(texts[0] if alone[0] else texts[1], -1, -1, texts[0], texts[1])
    stage.causes = causes_of_text.other_prompts(a, b)
    return stage


def prompt_text(a: Source, b: Source, aligned: Alignment) -> Stage:
    """Text with its template where both sides have it, else the words."""
    name = "prompt text"
    if not aligned.prompts:
        return no_pairs(name, a.prompts, b.prompts, "no prompt is in both")
    kinds = {a.text_kind, b.text_kind}
    if kinds == {WITH_SPECIALS}:
        note, off = "", [(x, y) for x, y in aligned.prompts if x.text != y.text]
    elif MESSAGES in kinds:
        note = "compared without template and special tokens, which a side does not have"
        off = [
            (x, y)
            for x, y in aligned.prompts
            if not _contains(x.text, y.text) and not _contains(y.text, x.text)
        ]
    else:
        note = "compared without special tokens, which a side does not have"
        off = [(x, y) for x, y in aligned.prompts if plain_text(x.text) != plain_text(y.text)]
    stage = counted(name, len(off), len(aligned.prompts), "prompts", note)
    if off:
        texts = [(x.text, y.text) if not note else (plain_text(x.text), plain_text(y.text)) for x, y in off]
        stage.example = _text_example(off[0], texts[0][0], texts[0][1])
        stage.causes = causes_of_text.prompt_text(texts)
    return stage


def _contains(whole: str, messages: str) -> bool:
    text = plain_text(whole)
    return all(plain_text(line) in text for line in messages.split("\n"))


def _text_example(pair: tuple[Prompt, Prompt], x: str, y: str) -> Example:
    at = next((i for i, (p, q) in enumerate(zip(x, y)) if p != q), min(len(x), len(y)))
    start = max(0, at - 25)
    shown = [repr(text[start : at + 35]) + ("" if at + 35 >= len(text) else "...") for text in (x, y)]
    return Example(
        short(pair[0].problem or pair[0].text),
        -1,
        -1,
        shown[0],
        shown[1],
        around=f"from character {start} on, the first difference at {at}",
    )


def prompt_ids(a: Source, b: Source, aligned: Alignment) -> Stage:
    """Token ids; where the pictures' grids differ, the number of image tokens is left to the pictures."""
    name = "prompt ids"
    in_a, in_b = (bool(s.prompts) and all(p.ids is not None for p in s.prompts) for s in (a, b))
    if not in_a or not in_b:
        return absent(name, in_a, in_b)
    if not aligned.prompts:
        return Stage(name, UNKNOWN, "no prompt is in both")
    off = []
    for x, y in aligned.prompts:
        assert x.ids is not None
        assert y.ids is not None
        if x.ids != y.ids:
            ids = _without_image_tokens(x, y)
            if ids[0] != ids[1]:
                off.append(((x, y), (x.ids, y.ids)))
    stage = counted(name, len(off), len(aligned.prompts), "prompts", "")
    if off:
        (x, y), (ids_x, ids_y) = off[0]
        at = next((i for i, (p, q) in enumerate(zip(ids_x, ids_y)) if p != q), min(len(ids_x), len(ids_y)))
        shown = [f"{len(ids)} ids: {_ids_around(ids, at)}" for ids in (ids_x, ids_y)]
        stage.example = Example(short(x.problem or x.text), -1, -1, shown[0], shown[1], at, ids_x)
        same_text = all(x.text == y.text for (x, y), _ in off)
        stage.causes = causes_of_text.prompt_ids(
            [ids for _, ids in off], same_text, len(off) < len(aligned.prompts)
        )
    return stage


def _without_image_tokens(x: Prompt, y: Prompt) -> tuple[Sequence[int], Sequence[int]]:
    """Both prompts' ids, without the image placeholder where the grids are different."""
    assert x.ids is not None
    assert y.ids is not None
    sizes = [sum(torch.tensor(p.grid or (0,)).prod().item() for p in side.pictures or ()) for side in (x, y)]
    if sizes[0] == sizes[1] or not all(sizes):
        return x.ids, y.ids
    for token in set(x.ids) & set(y.ids):
        if x.ids.count(token) * sizes[1] == y.ids.count(token) * sizes[0]:
            return [i for i in x.ids if i != token], [i for i in y.ids if i != token]
    return x.ids, y.ids


def _ids_around(ids: Sequence[int], at: int) -> str:
    shown = [f"[{i}]" if n == at else str(i) for n, i in enumerate(ids) if at - 3 <= n <= at + 4]
    return ("... " if at > 3 else "") + " ".join(shown) + (" ..." if at + 5 < len(ids) else "")


def pictures(a: Source, b: Source, aligned: Alignment) -> Stage:
    """Number, size, grid and pixels (by hash)."""
    name = "pictures"
    in_a, in_b = (bool(s.prompts) and all(p.pictures is not None for p in s.prompts) for s in (a, b))
    if not in_a or not in_b:
        return absent(name, in_a, in_b)
    if not any(x.pictures or y.pictures for x, y in aligned.prompts):
        return Stage(name, EQUAL, "no prompt has pictures")
    counts = [(x, y) for x, y in aligned.prompts if len(x.pictures or ()) != len(y.pictures or ())]
    both = [
        ((x, y), p, q) for x, y in aligned.prompts if (x, y) not in counts
        for p, q in zip(x.pictures or (), y.pictures or ())
    ]  # fmt: skip
    off = [(pair, p, q) for pair, p, q in both if (p.name, p.grid) != (q.name, q.grid)]
    total = len(both) + len(counts)
    if counts:
        x, y = counts[0]
        stage = counted(
            name, len(counts), len(aligned.prompts), "prompts have another number of pictures;", ""
        )
        values = [str(len(side.pictures or ())) for side in (x, y)]
        stage.example = Example(
            short(x.problem or x.text), -1, -1, f"{values[0]} pictures", f"{values[1]} pictures"
        )
        stage.causes = [
            Cause("picture_count", "pictures are left out on one side (data.image_key, limit_images)")
        ]
        return stage
    stage = counted(name, len(off), total, "pictures", "")
    if off:
        (x, _), p, q = next((item for item in off if item[1].size != item[2].size), off[0])
        stage.example = Example(
            short(x.problem or x.text), -1, -1, causes_of_text.picture(p), causes_of_text.picture(q)
        )
        stage.causes = causes_of_text.pictures([(p, q) for _, p, q in off], a, b)
    return stage
