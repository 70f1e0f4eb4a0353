"""The data's way through a step, stage by stage: where A and B are equal, where they part, and the likely cause."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch

from gmpo_mm.inspection import causes_of_numbers, causes_of_text, recipes
from gmpo_mm.inspection.alignment import Alignment, Pair, plain_text
from gmpo_mm.inspection.findings import (
    DIFFERS,
    EQUAL,
    ROUNDING,
    UNKNOWN,
    Example,
    Stage,
    Tolerance,
    absent,
    compare_numbers,
    example_of,
    short,
)
from gmpo_mm.inspection.sources import MESSAGES, WITH_SPECIALS, Prompt, Source

REWARD = Tolerance(1e-6, 0.0)
ADVANTAGE = Tolerance(1e-6, 2e-6)
LOG_PROB = Tolerance(2e-5, 1e-5)
RATIO = Tolerance(1e-4, 1e-4)
METRIC = Tolerance(1e-6, 1e-4)
RATE = Tolerance(0.0, 1e-6)
RATIO_METRICS = ("ratio/token_min", "ratio/token_max", "ratio/seq_geo_mean_min", "ratio/seq_geo_mean_max")
LOSS_METRICS = ("actor/pg_loss", "actor/kl_loss")

Walk = Callable[[Source, Source, Alignment], Stage]


def walk(a: Source, b: Source, aligned: Alignment) -> Iterator[Stage]:
    """All stages in order, as they are compared."""
    for stage in (
        prompts, prompt_text, prompt_ids, pictures, responses, masks, rewards, group_ids, advantages, _log_probs("sampler_log_probs"),
        old_log_probs, _log_probs("ref_log_probs"), mini_batches, ratio, loss, gradient_norm, rate, weights,
    ):  # fmt: skip
        yield stage(a, b, aligned)


# ---- prompts and pictures ---------------------------------------------------------------------------------------------


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
    stage.words = f"{len(aligned.prompts)} prompts are in both, {len(alone[0])} only in A, {len(alone[1])} only in B"
    texts = [short(side[0].problem or side[0].text) if side else "-" for side in alone]
    stage.example = Example(texts[0] if alone[0] else texts[1], -1, -1, texts[0], texts[1])
    stage.causes = causes_of_text.other_prompts(a, b)
    return stage


def prompt_text(a: Source, b: Source, aligned: Alignment) -> Stage:
    """Text with its template where both sides have it, else the words."""
    name = "prompt text"
    if not aligned.prompts:
        return _no_pairs(name, a.prompts, b.prompts, "no prompt is in both")
    kinds = {a.text_kind, b.text_kind}
    if kinds == {WITH_SPECIALS}:
        note, off = "", [(x, y) for x, y in aligned.prompts if x.text != y.text]
    elif MESSAGES in kinds:
        note = "compared without template and special tokens, which a side does not have"
        off = [(x, y) for x, y in aligned.prompts if not _contains(x.text, y.text) and not _contains(y.text, x.text)]
    else:
        note = "compared without special tokens, which a side does not have"
        off = [(x, y) for x, y in aligned.prompts if plain_text(x.text) != plain_text(y.text)]
    stage = _counted(name, len(off), len(aligned.prompts), "prompts", note)
    if off:
        texts = [(x.text, y.text) if not note else (plain_text(x.text), plain_text(y.text)) for x, y in off]
        stage.example = _text_example(off[0], *texts[0])
        stage.causes = causes_of_text.prompt_text(texts)
    return stage


def _contains(whole: str, messages: str) -> bool:
    text = plain_text(whole)
    return all(plain_text(line) in text for line in messages.split("\n"))


def _text_example(pair: tuple[Prompt, Prompt], x: str, y: str) -> Example:
    at = next((i for i, (p, q) in enumerate(zip(x, y)) if p != q), min(len(x), len(y)))
    start = max(0, at - 25)
    shown = [repr(text[start : at + 35]) + ("" if at + 35 >= len(text) else "...") for text in (x, y)]
    return Example(short(pair[0].problem or pair[0].text), -1, -1, *shown, around=f"from character {start} on, the first difference at {at}")


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
    stage = _counted(name, len(off), len(aligned.prompts), "prompts", "")
    if off:
        (x, y), (ids_x, ids_y) = off[0]
        at = next((i for i, (p, q) in enumerate(zip(ids_x, ids_y)) if p != q), min(len(ids_x), len(ids_y)))
        stage.example = Example(
            short(x.problem or x.text), -1, -1, f"{len(ids_x)} ids: {_ids_around(ids_x, at)}", f"{len(ids_y)} ids: {_ids_around(ids_y, at)}", at, ids_x
        )  # fmt: skip
        same_text = all(x.text == y.text for (x, y), _ in off)
        stage.causes = causes_of_text.prompt_ids([ids for _, ids in off], same_text, len(off) < len(aligned.prompts))
    return stage


def _without_image_tokens(x: Prompt, y: Prompt) -> tuple[Sequence[int], Sequence[int]]:
    """Both prompts' ids, without the placeholder that stands once for each image token if the grids are different."""
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
        stage = _counted(name, len(counts), len(aligned.prompts), "prompts have another number of pictures;", "")
        values = [str(len(side.pictures or ())) for side in (x, y)]
        stage.example = Example(short(x.problem or x.text), -1, -1, f"{values[0]} pictures", f"{values[1]} pictures")
        stage.causes = [causes_of_text.Cause("picture_count", "pictures are left out on one side (data.image_key, limit_images)")]
        return stage
    stage = _counted(name, len(off), total, "pictures", "")
    if off:
        (x, _), p, q = next((item for item in off if item[1].size != item[2].size), off[0])
        stage.example = Example(short(x.problem or x.text), -1, -1, causes_of_text.picture(p), causes_of_text.picture(q))
        stage.causes = causes_of_text.pictures([(p, q) for _, p, q in off], a, b)
    return stage


# ---- responses, masks, rewards, groups, advantages ----------------------------------------------------------------------


def responses(a: Source, b: Source, aligned: Alignment) -> Stage:
    """Token ids where both have them, else text."""
    name = "responses"
    if not aligned.pairs:
        return _no_pairs(name, a.samples, b.samples, "no prompt is in both")
    off = [p for p in aligned.pairs if not p.same_tokens]
    ids = all(p.a.ids is not None and p.b.ids is not None for p in aligned.pairs)
    alone = len(aligned.samples_only_a), len(aligned.samples_only_b)
    stage = _counted(name, len(off), len(aligned.pairs), "responses", "" if ids else "compared as text: a side has no ids")
    only = (aligned.prompts_only_a, aligned.prompts_only_b)
    if sum(alone) and not any(only):
        stage.status = DIFFERS
        stage.words += f"{'; ' if stage.words else ''}{alone[0]} responses are only in A, {alone[1]} only in B"
        counts = len(a.samples) / max(1, len(a.prompts)), len(b.samples) / max(1, len(b.prompts))
        if counts[0] != counts[1]:
            evidence = f"{counts[0]:g} responses a prompt in A, {counts[1]:g} in B"
            stage.causes = [causes_of_text.Cause("samples", "another number of responses a prompt (worker.rollout.n)", evidence)]
    if off:
        pair = off[0]
        x, y = (pair.a.ids, pair.b.ids) if ids else (pair.a.text, pair.b.text)
        assert x is not None
        assert y is not None
        at = next((i for i, (p, q) in enumerate(zip(x, y)) if p != q), min(len(x), len(y)))
        shown = [short(repr(sample.text), 70) for sample in (pair.a, pair.b)]
        stage.example = example_of(pair, *shown, at if ids else -1)
        stage.causes = stage.causes or causes_of_text.responses(off, a, b)
    return stage


def masks(a: Source, b: Source, aligned: Alignment) -> Stage:
    """Which tokens are trained on, and which responses are left out of the loss."""
    name = "masks"
    in_a, in_b = (bool(s.samples) and all(x.mask_T is not None for x in s.samples) for s in (a, b))
    if not in_a or not in_b:
        return absent(name, in_a, in_b)
    if not aligned.same:
        return _after_sampling(name)
    off = []
    for pair in aligned.same:
        assert pair.a.mask_T is not None
        assert pair.b.mask_T is not None
        x, y = pair.a.mask_T.tolist(), pair.b.mask_T.tolist()
        if x != y or pair.a.left_out != pair.b.left_out:
            off.append((pair, x, y))
    stage = _counted(name, len(off), len(aligned.same), "responses", "")
    if off:
        pair, x, y = off[0]
        at = next((i for i, (p, q) in enumerate(zip(x, y)) if p != q), -1)
        values = [_mask_text(side, s.left_out) for side, s in ((x, pair.a), (y, pair.b))]
        stage.example = example_of(pair, *values, at)
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
        return _after_sampling(name)
    pairs = aligned.same
    common = [part for part in pairs[0].a.parts if all(part in p.a.parts and part in p.b.parts for p in pairs)]
    found = []
    for part in common:
        values = ((p, _one(p.a.parts[part]), _one(p.b.parts[part])) for p in pairs)
        found.append((part, compare_numbers(name, values, REWARD, f"values of the part {part!r}", False)))
    scored = [p for p in pairs if p.a.reward is not None and p.b.reward is not None]
    total = compare_numbers(name, ((p, _one(p.a.reward), _one(p.b.reward)) for p in scored), REWARD, "rewards", False)
    off = [(part, stage) for part, stage in found if stage.status == DIFFERS]
    if total.status == UNKNOWN and not found:
        return Stage(name, UNKNOWN, "the sides have no part in common")
    stage = off[0][1] if off else total if total.status != UNKNOWN else found[0][1]
    if off and len(off) > 1:
        stage.words += f"; also {', '.join(part for part, _ in off[1:])}"
    if off and total.status == DIFFERS:
        stage.words += "; so does the reward"
    if stage.status == DIFFERS:
        stage.causes = causes_of_numbers.rewards(pairs, [part for part, _ in off])
    elif len(common) > 0 and not stage.words:
        stage.words = f"and the parts {', '.join(common)}"
    return stage


def _one(value: float | None) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def group_ids(a: Source, b: Source, aligned: Alignment) -> Stage:
    """Whether the same responses stand together."""
    name = "group ids"
    in_a, in_b = (bool(s.samples) and all(x.group is not None for x in s.samples) for s in (a, b))
    if not in_a or not in_b:
        return absent(name, in_a, in_b)
    pairs = aligned.same or aligned.pairs
    if not pairs:
        return _after_sampling(name)
    seen: dict[object, dict[object, int]] = {}
    for pair in pairs:
        seen.setdefault(pair.a.group, {}).setdefault(pair.b.group, 0)
        seen[pair.a.group][pair.b.group] += 1
    usual = {group: max(others, key=lambda other: others[other]) for group, others in seen.items()}
    taken: dict[object, object] = {}
    for group, other in usual.items():
        taken.setdefault(other, group)
    off = [p for p in pairs if p.b.group != usual[p.a.group] or taken[p.b.group] != p.a.group]
    stage = _counted(name, len(off), len(pairs), "responses stand in another group:", "")
    if off:
        stage.words = f"{len(off):,} of {len(pairs):,} responses stand in another group"
        stage.example = example_of(off[0], f"group {off[0].a.group}", f"group {off[0].b.group}")
        stage.causes = causes_of_numbers.groups(a, b, aligned.moved)
    return stage


def advantages(a: Source, b: Source, aligned: Alignment) -> Stage:
    """Token by token, or one a response where a side has no more."""
    name = "advantages"
    in_a, in_b = (any(x.advantages_T is not None or x.advantage is not None for x in s.samples) for s in (a, b))
    if not in_a or not in_b:
        return absent(name, in_a, in_b)
    if not aligned.same:
        return _after_sampling(name)
    if all(p.a.advantage is not None and p.b.advantage is not None for p in aligned.same):
        values = [(p, _one(p.a.advantage), _one(p.b.advantage)) for p in aligned.same]
        stage = compare_numbers(name, values, ADVANTAGE, "responses' advantages", False)
    else:
        stage = compare_numbers(name, _tokens(aligned.same, lambda s: s.advantages_T), ADVANTAGE, "tokens' advantages", True)
    if stage.status == DIFFERS:
        rows = [(p.a.row, p.b.row) for p in aligned.same if p.a.advantage != p.b.advantage]
        stage.causes = recipes.advantages(a, b, rows)
    return stage


# ---- log-probabilities and the update -----------------------------------------------------------------------------------


def _log_probs(tensor: str) -> Walk:
    shown = {"sampler_log_probs": "sampler's log-probs", "ref_log_probs": "reference log-probs"}[tensor]

    def stage(a: Source, b: Source, aligned: Alignment) -> Stage:
        return _of_tokens(shown, tensor, a, b, aligned)

    return stage


def old_log_probs(a: Source, b: Source, aligned: Alignment) -> Stage:
    """Of the old policy; where a side has none of its own, the sampler's serve."""
    own = [bool(s.samples) and all("old_log_probs" in x.tokens for x in s.samples) for s in (a, b)]
    sampled = [bool(s.samples) and all("sampler_log_probs" in x.tokens for x in s.samples) for s in (a, b)]
    if not any(own):
        return absent("old log-probs", False, False, "the sampler's serve" if all(sampled) else "")
    return _of_tokens("old log-probs", "old", a, b, aligned)


def _of_tokens(shown: str, tensor: str, a: Source, b: Source, aligned: Alignment) -> Stage:
    def of(sample: object) -> torch.Tensor | None:
        return sample.behaviour_T if tensor == "old" else sample.tokens.get(tensor)  # type: ignore[attr-defined]

    in_a, in_b = (bool(s.samples) and all(of(x) is not None for x in s.samples) for s in (a, b))
    if not in_a or not in_b:
        return absent(shown, in_a, in_b)
    if not aligned.same:
        return _after_sampling(shown)
    stage = compare_numbers(shown, _tokens(aligned.same, of), LOG_PROB, "tokens", True)
    if stage.status == DIFFERS:
        stage.causes = causes_of_numbers.log_probs(tensor, aligned.same, a, b)
    return stage


def mini_batches(a: Source, b: Source, aligned: Alignment) -> Stage:
    """Which responses each optimizer step has."""
    name = "mini-batches"
    if a.updates is None or b.updates is None or not a.samples or not b.samples:
        return absent(name, bool(a.updates), bool(b.updates))
    if not aligned.pairs:
        return _after_sampling(name)
    place = {p.a.row: n for n, p in enumerate(aligned.pairs)}, {p.b.row: n for n, p in enumerate(aligned.pairs)}
    cuts = [
        [frozenset(rows[row] for row in update if row in rows) for update in source.updates or ()]
        for source, rows in ((a, place[0]), (b, place[1]))
    ]
    if cuts[0] == cuts[1]:
        return Stage(name, EQUAL, f"{len(cuts[0])} updates", compared=len(cuts[0]))
    off = sum(x != y for x, y in zip(*cuts)) + abs(len(cuts[0]) - len(cuts[1]))
    total = max(map(len, cuts))
    stage = Stage(name, DIFFERS, f"{off} of {total} updates have other responses", total, share=off / total)
    sizes = [", ".join(str(len(update)) for update in source.updates or ()) for source in (a, b)]
    stage.example = Example("", -1, -1, f"updates of {short(sizes[0], 60)} rows", f"updates of {short(sizes[1], 60)} rows")
    if sorted(map(sorted, cuts[0])) == sorted(map(sorted, cuts[1])):
        cause = causes_of_text.Cause("update_order", "the same mini-batches in another order")
    elif sizes[0] == sizes[1]:
        cause = causes_of_text.Cause("update_shuffle", "mini-batches of the same size with other responses: another shuffle, or rows balanced over ranks")
    else:
        cause = causes_of_text.Cause("update_count", "another cut into mini-batches (global_batch_size, ppo_epochs, or its unit: prompts or responses)")
    stage.causes = [cause]
    return stage


def ratio(a: Source, b: Source, aligned: Alignment) -> Stage:
    """log pi - log pi_old of the last epoch's forward passes; from the metrics where a side has no such log-probs."""
    name = "ratio"
    complete = [
        bool(s.samples) and all("log_probs" in x.tokens and x.behaviour_T is not None for x in s.samples) for s in (a, b)
    ]
    if not all(complete):
        return _of_metrics(name, RATIO_METRICS, RATIO, a, b)
    if not aligned.same:
        return _after_sampling(name)
    # a row whose group has no advantage may be left out of the update; it has no log-probs then
    pairs = [p for p in aligned.same if all(bool((s.tokens["log_probs"] != 0).any()) for s in (p.a, p.b))]
    values = _tokens(pairs, lambda s: (s.tokens["log_probs"] - s.behaviour_T).exp())
    stage = compare_numbers(name, values, RATIO, "tokens' ratios", True)
    if stage.status == DIFFERS:
        stage.causes = causes_of_numbers.ratio(pairs, a, b)
    return stage


def loss(a: Source, b: Source, aligned: Alignment) -> Stage:
    """The policy loss, and the KL term where there is one."""
    stage = _of_metrics("loss", LOSS_METRICS, METRIC, a, b)
    if stage.status == DIFFERS:
        x, y = (s.metrics["actor/pg_loss"] for s in (a, b)) if all("actor/pg_loss" in s.metrics for s in (a, b)) else (0.0, 0.0)
        stage.causes = recipes.loss(a, b) or causes_of_numbers.scaled_loss(x, y)
        if not stage.causes:
            words = "another loss, another mean, or what differs before it"
            stage.causes = [causes_of_text.Cause("loss", words, causes_of_numbers.loss_settings(a, b))]
    return stage


def gradient_norm(a: Source, b: Source, aligned: Alignment) -> Stage:
    """Mean over the step's updates, before clipping."""
    stage = _of_metrics("gradient norm", ("actor/grad_norm",), METRIC, a, b)
    if stage.status == DIFFERS:
        stage.causes = causes_of_numbers.gradient_norm(a.metrics["actor/grad_norm"], b.metrics["actor/grad_norm"], a, b)
    return stage


def rate(a: Source, b: Source, aligned: Alignment) -> Stage:
    """Of the step's updates."""
    name = "learning rate"
    if a.learning_rate is None or b.learning_rate is None:
        return absent(name, a.learning_rate is not None, b.learning_rate is not None)
    stage = _scalars(name, [("", a.learning_rate, b.learning_rate)], RATE)
    if stage.status == DIFFERS:
        stage.causes = causes_of_numbers.rate(a.learning_rate, b.learning_rate, a, b)
    return stage


def weights(a: Source, b: Source, aligned: Alignment) -> Stage:
    """By their hashes before and after the step, which are equal bit for bit or not at all."""
    name = "weights"
    in_a, in_b = (bool(s.weights_before or s.weights_after) for s in (a, b))
    if not in_a or not in_b:
        return absent(name, in_a, in_b)
    off = [
        when
        for when, x, y in (("before", a.weights_before, b.weights_before), ("after", a.weights_after, b.weights_after))
        if x != y
    ]
    if not off:
        return Stage(name, EQUAL, "before and after the step, bit for bit", compared=2)
    if a.engine != b.engine:
        return Stage(name, UNKNOWN, f"the hashes {' and '.join(off)} the step differ, as one different bit makes them")
    stage = Stage(name, DIFFERS, f"{' and '.join(off)} the step", 2, share=len(off) / 2)
    when = off[0]
    values = [getattr(s, f"weights_{when}")[:12] for s in (a, b)]
    stage.example = Example("", -1, -1, f"{when}: {values[0]}", f"{when}: {values[1]}")
    if when == "before":
        cause = causes_of_text.Cause("weights_before", "the weights before the step differ: look at an earlier step, or at the model's files")
    else:
        words = "the optimizer makes another step of the same gradient (or the gradient differs in what the norm does not show)"
        cause = causes_of_text.Cause("optimizer", words, causes_of_numbers.optimizer_settings(a, b))
    stage.causes = [cause]
    return stage


# ---- shared -------------------------------------------------------------------------------------------------------------


def _tokens(
    pairs: Iterable[Pair], of: Callable[..., torch.Tensor | None]
) -> list[tuple[Pair, torch.Tensor, torch.Tensor]]:
    """Values of the tokens on which both sides train, elsewhere 0 on both."""
    found = []
    for pair in pairs:
        x, y = of(pair.a), of(pair.b)
        assert x is not None
        assert y is not None
        mask = torch.ones(len(x), dtype=torch.bool)
        for mask_T in (pair.a.mask_T, pair.b.mask_T):
            mask = mask if mask_T is None else mask & mask_T
        found.append((pair, torch.where(mask, x, 0.0), torch.where(mask, y, 0.0)))
    return found


def _counted(name: str, off: int, total: int, unit: str, note: str) -> Stage:
    stage = Stage(name, DIFFERS if off else EQUAL, note, total, share=off / total if total else None)
    if off:
        stage.words = f"{off:,} of {total:,} {unit} differ" + (f" ({note})" if note else "")
    return stage


def _no_pairs(name: str, in_a: Sequence[object], in_b: Sequence[object], why: str) -> Stage:
    return Stage(name, UNKNOWN, why) if in_a and in_b else absent(name, bool(in_a), bool(in_b))


def _after_sampling(name: str) -> Stage:
    return Stage(name, UNKNOWN, "no response is equal in both")


def _of_metrics(name: str, keys: Sequence[str], tolerance: Tolerance, a: Source, b: Source) -> Stage:
    common = [key for key in keys if key in a.metrics and key in b.metrics]
    if not common:
        return absent(name, any(k in a.metrics for k in keys), any(k in b.metrics for k in keys))
    return _scalars(name, [(key, a.metrics[key], b.metrics[key]) for key in common], tolerance)


def _scalars(name: str, values: Sequence[tuple[str, float, float]], tolerance: Tolerance) -> Stage:
    """A stage of single numbers."""
    gaps = [(key, x, y, 0.0 if x == y or (x != x and y != y) else abs(x - y)) for key, x, y in values]
    off = [item for item in gaps if not item[3] <= tolerance.absolute + tolerance.relative * abs(item[1])]
    largest = max(gap for *_, gap in gaps)
    status = DIFFERS if off else ROUNDING if largest else EQUAL
    stage = Stage(name, status, compared=len(gaps), max=largest, share=len(off) / len(gaps), tolerance=str(tolerance))
    key, x, y, gap = (off or gaps)[0]
    stage.mean = sum(item[3] for item in gaps) / len(gaps)
    if status == EQUAL:
        stage.words = f"{x:.6g}"
    elif status == ROUNDING:
        stage.words = f"{x:.6g}; largest difference {largest:.2g}, within float32 rounding ({tolerance})"
    else:
        stage.words = f"{x:.6g} in A, {y:.6g} in B" + (f" ({key})" if key else "")
        stage.example = Example("", -1, -1, f"{x:.6g}", f"{y:.6g}")
    return stage
