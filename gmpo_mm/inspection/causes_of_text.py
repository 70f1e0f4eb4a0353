"""Likely causes where prompts, pictures, responses or masks differ."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from gmpo_mm.inspection.alignment import Pair, common_start, plain_text
from gmpo_mm.inspection.findings import Cause, short
from gmpo_mm.inspection.findings import other_side as _other
from gmpo_mm.inspection.findings import settings_that_differ as _settings
from gmpo_mm.inspection.sources import Picture, Source

Ids = tuple[int, ...]
_MOST = 0.95
"""Share of the differing pairs that a cause has to explain."""


def other_prompts(a: Source, b: Source) -> list[Cause]:
    """Why a side has prompts that the other lacks."""
    if len(a.prompts) != len(b.prompts):
        return [
            Cause(
                "batch_size",
                "another number of prompts a step",
                f"A has {len(a.prompts)}, B {len(b.prompts)}",
            )
        ]
    keys = (
        "data.seed",
        "data.shuffle",
        "data.train_files",
        "data.max_prompt_length",
        "data.filter_overlong_prompts",
    )
    found = _settings(a, b, keys)
    words = "another order of the data: seed, shuffling, or which prompts were filtered out"
    if a.engine != b.engine and a.config.get("data.shuffle") and not found:
        found = "two engines shuffle differently with one seed; data.shuffle=false keeps the file's order"
    return [Cause("data_order", words, found or "the configurations on file do not say why")]


def prompt_text(pairs: Sequence[tuple[str, str]]) -> list[Cause]:
    """Of pairs of texts that differ."""
    cuts = [_middles(x, y) for x, y in pairs]
    first = cuts[0]
    constant = all(cut[:2] == first[:2] for cut in cuts)
    extra, side = (first[1], "B") if not first[0] else (first[0], "A")
    if constant and not (first[0] and first[1]):
        evidence = f"only {side} has {short(extra, 120)!r} in every prompt"
        at_end = all(cut[2] == 0 for cut in cuts)
        if at_end:
            words = f"the generation prompt (the beginning of the answer's turn) is missing in {_other(side)}"
            return [Cause("generation_prompt", words, evidence)]
        if "system" in extra.lower():
            return [Cause("system_prompt", f"a system prompt that only {side} has", evidence)]
        if not plain_text(extra):
            return [Cause("special_tokens", f"special tokens that only {side} has in its text", evidence)]
        return [
            Cause(
                "instruction",
                f"an instruction that only {side} has (data.format_prompt, or the data set's own)",
                evidence,
            )
        ]
    if all(plain_text(x) == plain_text(y) for x, y in pairs):
        evidence = (
            f"the words are the same; {short(first[0], 60)!r} stands where B has {short(first[1], 60)!r}"
        )
        return [Cause("template", "another chat template: special tokens, roles or white space", evidence)]
    if constant:
        evidence = f"{short(first[0], 80)!r} in every prompt of A, {short(first[1], 80)!r} in B"
        before = pairs[0][0][: len(pairs[0][0]) - len(first[0]) - first[2]].lower()
        if before.rfind("system") > before.rfind("user"):
            return [Cause("system_prompt", "another system prompt", evidence)]
        return [Cause("template", "another chat template or instruction", evidence)]
    for one, other, side in ((0, 1, "A"), (1, 0, "B")):
        if all(pair[other].endswith(pair[one]) for pair in pairs):
            return [Cause("cut_left", f"{side}'s prompts are cut on the left", _lengths(pairs, "characters"))]
        if all(pair[other].startswith(pair[one]) for pair in pairs):
            return [
                Cause("cut_right", f"{side}'s prompts are cut on the right", _lengths(pairs, "characters"))
            ]
    return [
        Cause(
            "template",
            "another chat template, or other text around the problem",
            f"e.g. {short(first[0], 60)!r} and {short(first[1], 60)!r}",
        )
    ]


def prompt_ids(pairs: Sequence[tuple[Ids, Ids]], same_text: bool, some: bool) -> list[Cause]:
    """Of pairs of token ids that differ; `some`: other prompts are equal."""
    for one, other, side in ((0, 1, "B"), (1, 0, "A")):
        pairs_here = [(pair[one], pair[other]) for pair in pairs]  # the second is the longer one
        if all(len(x) < len(y) and y[-len(x) :] == x for x, y in pairs_here):
            return [_extra_at_start([(x, y[: len(y) - len(x)]) for x, y in pairs_here], side, some)]
        if all(len(x) < len(y) and y[: len(x)] == x for x, y in pairs_here):
            return [_extra_at_end([(x, y[len(x) :]) for x, y in pairs_here], side, some)]
    for x, y, left in ((0, 1, "A"), (1, 0, "B")):
        if all(
            len(pair[0]) == len(pair[1]) and _overlap(pair[x], pair[y]) > len(pair[0]) // 4 for pair in pairs
        ):
            words = f"long prompts are cut on the left in {left} and on the right in {_other(left)}"
            return [Cause("truncation_side", words, f"both have {len(pairs[0][0])} tokens, which overlap")]
    if same_text:
        at = common_start(*pairs[0])
        first, second = (ids[at : at + 4] for ids in pairs[0])
        evidence = f"the same text gives {first} in A and {second} in B at token {at}"
        words = "another tokenizer, or special tokens that are read as plain text on one side"
        return [Cause("tokenizer", words, evidence)]
    return [Cause("template", "another chat template (the texts differ too)")]


def _extra_at_start(found: Sequence[tuple[Ids, Ids]], side: str, some: bool) -> Cause:
    cut = some and len({len(ids) for ids, _ in found}) == 1
    extras = {extra for _, extra in found}
    ids = {i for extra in extras for i in extra}
    first = next(iter(extras))
    if len(extras) == 1 and len(first) == 1:
        if all(short_ids[0] == first[0] for short_ids, _ in found):
            words = (
                f"the first token is doubled in {side} (one BOS from the template, one from the tokenizer)"
            )
            return Cause(
                "doubled_bos", words, f"id {first[0]} stands twice at the start of all {len(found)} prompts"
            )
        return Cause(
            "bos",
            f"only {side} begins with a BOS token",
            f"id {first[0]} at the start of all {len(found)} prompts",
        )
    if len(ids) == 1:
        most = max(len(extra) for extra in extras)
        evidence = f"id {next(iter(ids))} up to {most} times at the start of {len(found)} prompts"
        return Cause("left_padding", f"the left padding was not removed in {side}", evidence)
    if len(extras) == 1 and not cut:
        return Cause(
            "template",
            f"only {side} has {len(first)} tokens more at the start: a system prompt or another template",
        )
    length = {len(ids) for ids, _ in found}
    other = _other(side)
    evidence = (
        f"{len(found)} prompts have {_numbers(length)} tokens in {other}, which are the end of {side}'s"
    )
    return Cause(
        "cut_left", f"long prompts are cut on the left in {_other(side)} (data.max_prompt_length)", evidence
    )


def _extra_at_end(found: Sequence[tuple[Ids, Ids]], side: str, some: bool) -> Cause:
    cut = some and len({len(ids) for ids, _ in found}) == 1
    extras = {extra for _, extra in found}
    ids = {i for extra in extras for i in extra}
    if len(ids) == 1 and (len(extras) > 1 or len(next(iter(extras))) > 1):
        evidence = f"id {next(iter(ids))} at the end of {len(found)} prompts"
        return Cause("right_padding", f"padding at the end of the prompt was not removed in {side}", evidence)
    if len(extras) == 1 and not cut:
        words = f"the generation prompt (the beginning of the answer's turn) is missing in {_other(side)}"
        return Cause(
            "generation_prompt", words, f"only {side} ends with the ids {list(next(iter(extras)))[:12]}"
        )
    length = {len(ids) for ids, _ in found}
    other = _other(side)
    evidence = (
        f"{len(found)} prompts have {_numbers(length)} tokens in {other}, which are the beginning of {side}'s"
    )
    return Cause(
        "cut_right", f"long prompts are cut on the right in {_other(side)} (data.max_prompt_length)", evidence
    )


def pictures(pairs: Sequence[tuple[Picture, Picture]], a: Source, b: Source) -> list[Cause]:
    """Of pairs of pictures that differ in size, grid or pixels."""
    settings = _settings(a, b, ("data.min_pixels", "data.max_pixels"))
    sized = [(x, y) for x, y in pairs if x.size != y.size and x.size and y.size]
    if sized or any(x.grid != y.grid for x, y in pairs):
        x, y = (sized or [pair for pair in pairs if pair[0].grid != pair[1].grid])[0]
        evidence = f"{picture(x)} in A, {picture(y)} in B"
        evidence += f"; {settings}" if settings else ""
        return [
            Cause(
                "picture_size",
                "pictures are scaled to another size (max_pixels, min_pixels, patch size)",
                evidence,
            )
        ]
    with_files = [(x.file, y.file) for x, y in pairs if x.file and y.file]
    if not with_files:
        return [
            Cause(
                "pixels",
                "pictures of the same size with other pixels",
                "their files are not there to be compared",
            )
        ]
    try:
        x_HWC, y_HWC = (np.asarray(Image.open(file).convert("RGB")).astype(int) for file in with_files[0])
    except OSError as error:
        evidence = f"one of them can't be read: {' '.join(str(error).split())[:120]}"
        return [Cause("pixels", "pictures of the same size with other pixels", evidence)]
    if (x_HWC == y_HWC[..., ::-1]).all():
        return [
            Cause("channels", "red and blue are exchanged (RGB read as BGR)", f"in {len(pairs)} pictures")
        ]
    gap = np.abs(x_HWC - y_HWC)
    evidence = f"up to {gap.max()} of 255, on average {gap.mean():.3g}"
    words = (
        "another decoder or resizing filter"
        if gap.mean() < 16
        else "other pictures: another row of the data, or another order"
    )
    return [Cause("pixels", words, evidence)]


def responses(pairs: Sequence[Pair], a: Source, b: Source) -> list[Cause]:
    """Of pairs whose responses differ."""
    with_ids = [(p.a.ids, p.b.ids) for p in pairs if p.a.ids is not None and p.b.ids is not None]
    if not with_ids:
        texts = [(p.a.text, p.b.text) for p in pairs]
        return _shorter(texts, "characters") or _sampling(pairs, a, b)
    if all(p.a.text == p.b.text for p in pairs if p.a.ids is not None):
        ends = _end_token(with_ids)
        return ends or [
            Cause("tokenizer", "the same text as other tokens: responses were decoded and tokenized again")
        ]
    return _end_token(with_ids) or _shorter(with_ids, "tokens") or _sampling(pairs, a, b)


def _end_token(pairs: Sequence[tuple[Ids, Ids]]) -> list[Cause]:
    for one, other, side in ((0, 1, "A"), (1, 0, "B")):
        extras = {
            pair[other][len(pair[one]) :] if pair[other][: len(pair[one])] == pair[one] else ()
            for pair in pairs
        }
        if len(extras) == 1 and len(extra := next(iter(extras))) == 1:
            evidence = f"id {extra[0]} ends {len(pairs)} responses of {_other(side)} only"
            return [Cause("end_token_missing", f"the end token is missing from {side}'s responses", evidence)]
    return []


def _shorter(pairs: Sequence[tuple[Sequence[object], Sequence[object]]], unit: str) -> list[Cause]:
    for one, other, side in ((0, 1, "A"), (1, 0, "B")):
        if all(len(p[one]) < len(p[other]) and p[other][: len(p[one])] == p[one] for p in pairs):
            lengths = {len(p[one]) for p in pairs}
            words = f"{side}'s responses are cut off (data.max_response_length)"
            return [Cause("response_cut", words, f"{len(pairs)} of them after {_numbers(lengths)} {unit}")]
    return []


def _sampling(pairs: Sequence[Pair], a: Source, b: Source) -> list[Cause]:
    starts = [common_start(p.a.ids or p.a.text, p.b.ids or p.b.text) for p in pairs]
    unit = "token" if pairs[0].a.ids is not None and pairs[0].b.ids is not None else "character"
    evidence = f"the responses part at {unit} {int(np.median(starts))} on average"
    found = []
    if a.temperature is not None and b.temperature is not None and a.temperature != b.temperature:
        words = f"another sampling temperature: {a.temperature:g} in A, {b.temperature:g} in B"
        found.append(Cause("temperature", words, evidence))
    if (
        a.engine == b.engine
        and a.weights_before
        and b.weights_before
        and a.weights_before != b.weights_before
    ):
        found.append(
            Cause("weights_before", "the weights before the step differ: look at an earlier step", evidence)
        )
    if settings := _settings(
        a, b, ("worker.rollout.seed", "worker.rollout.top_p", "worker.rollout.top_k", "worker.rollout.name")
    ):
        found.append(Cause("sampling_seed", "the sampler is set otherwise", f"{settings}; {evidence}"))
    if not found:
        words = (
            "another random number: two samplers draw differently even with one seed"
            if a.engine != b.engine or not a.engine
            else "another random number, or rounding that turned a choice over"
        )
        found.append(Cause("sampling", words, evidence))
    return found


def masks(pairs: Sequence[tuple[Pair, list[bool], list[bool]]]) -> list[Cause]:
    """Of pairs whose masks, or whose part in the loss, differ."""
    left = [
        p for p, _, _ in pairs if p.a.left_out != p.b.left_out and None not in (p.a.left_out, p.b.left_out)
    ]
    emptied = [p for p, x, y in pairs if any(x) != any(y)]
    out = left or emptied
    if len(out) >= _MOST * len(pairs) and all("length" in (p.a.stop_reason, p.b.stop_reason) for p in out):
        side = "B" if (out[0].b.left_out if left else not any(pairs[0][2])) else "A"
        words = (
            f"truncated responses are left out of the loss in {side} (algorithm.mask_truncated_completions)"
        )
        return [Cause("truncated_left_out", words, f"{len(out)} responses, all of which were cut off")]
    for x_first, side in ((True, "B"), (False, "A")):
        rows = [(p, (x, y) if x_first else (y, x)) for p, x, y in pairs]
        if _most(y == [False, *x[:-1]] for _, (x, y) in rows):
            words = f"the mask is shifted by one to the right in {side}: the first token is left out"
            return [Cause("mask_shifted", words, f"in {len(rows)} responses")]
        if _most(y == [*x[1:], False] for _, (x, y) in rows):
            stops = {p.a.stop_reason or p.b.stop_reason for p, _ in rows}
            if "length" in stops or any(x[:-1] != y[:-1] for _, (x, y) in rows):
                words = f"the mask is shifted by one to the left in {side}: every last token is left out"
                return [Cause("mask_shifted", words, f"in {len(rows)} responses")]
        if _most(x[-1] and not y[-1] and x[:-1] == y[:-1] for _, (x, y) in rows):
            evidence = f"the last token of {len(rows)} responses, and of no truncated one"
            return [Cause("end_token_masked", f"the end token is left out of the loss in {side}", evidence)]
    if _most(x == [not v for v in y] for _, x, y in pairs):
        return [
            Cause(
                "mask_inverted",
                "the mask is turned round: True and False exchanged",
                f"in {len(pairs)} responses",
            )
        ]
    more = sum(sum(y) - sum(x) for _, x, y in pairs)
    return [
        Cause(
            "mask", "other tokens are trained on", f"B trains on {more:+,} tokens in {len(pairs)} responses"
        )
    ]


def _middles(x: str, y: str) -> tuple[str, str, int]:
    """What stands between the common beginning and the common end, in both; and that end's length."""
    start = common_start(x, y)
    end = min(common_start(x[::-1], y[::-1]), min(len(x), len(y)) - start)
    return x[start : len(x) - end], y[start : len(y) - end], end


def _overlap(x: Ids, y: Ids) -> int:
    """The longest end of y with which x begins: of one text, x cut on the left and y on the right."""
    return next((n for n in range(len(x) - 1, 0, -1) if x[:n] == y[-n:]), 0)


def _most(flags: object) -> bool:
    values = list(flags)  # type: ignore[call-overload]
    return bool(values) and sum(values) >= _MOST * len(values)


def picture(picture: Picture) -> str:
    """Size and grid in words."""
    size = f"{picture.size[0]} x {picture.size[1]} pixels" if picture.size else "a picture"
    return size + (f" (grid {' x '.join(map(str, picture.grid))})" if picture.grid else "")


def _numbers(values: set[int]) -> str:
    return f"{min(values)}" if len(values) == 1 else f"{min(values)} to {max(values)}"


def _lengths(pairs: Sequence[tuple[str, str]], unit: str) -> str:
    return f"at most {max(len(x) for x, _ in pairs)} {unit} in A, {max(len(y) for _, y in pairs)} in B"
