"""Which response of A is which of B: by prompt (text, ids, name, problem), then response, else number."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from gmpo_mm.inspection.sources import Prompt, Sample, Source

_SPECIALS = re.compile(
    r"<\|[^|<>]{1,40}\|>|</?s>|<bos>|<eos>|<pad>|<(?:start|end)_of_turn>|<image>|<video>|\[/?INST\]"
)
_ROLE_LINE = re.compile(r"^\s*(?:system|user|assistant|model|human)\s*$", re.MULTILINE)
_ALIKE = 0.8
"""Share of equal characters from which on prompts without a common name are paired by their number."""


@dataclass(frozen=True, eq=False)
class Pair:
    """The same response on both sides; `same_tokens` where it is word for word the same."""

    a: Sample
    b: Sample
    same_tokens: bool


@dataclass(eq=False)
class Alignment:
    """Pairs in the order of A, prompts that both have, and what one side has alone."""

    pairs: list[Pair]
    prompts: list[tuple[Prompt, Prompt]]
    prompts_only_a: list[Prompt]
    prompts_only_b: list[Prompt]
    samples_only_a: list[Sample]
    samples_only_b: list[Sample]
    by: Counter[str]
    """How many responses were matched by what."""
    moved: int = 0
    """Responses that stand under another prompt in B."""

    @property
    def same(self) -> list[Pair]:
        """The pairs whose responses are equal, of which everything after sampling can be compared."""
        return [pair for pair in self.pairs if pair.same_tokens]


def plain_text(text: str) -> str:
    """A text without special tokens, lines that only name a role, and differences of white space."""
    return " ".join(_ROLE_LINE.sub(" ", _SPECIALS.sub("\n", text)).split())


def _names(prompt: Prompt) -> tuple[str, ...]:
    return tuple(picture.name for picture in prompt.pictures or ())


def align(a: Source, b: Source) -> Alignment:
    """Match the prompts, then the responses of each, then those that stand under another prompt."""
    matched, only_a, only_b = _match_prompts(a, b)
    of_a, of_b = _by_prompt(a.samples), _by_prompt(b.samples)
    by: Counter[str] = Counter()
    pairs: list[Pair] = []
    open_pairs: list[tuple[list[Sample], list[Sample]]] = []
    for one, other in matched:
        found, left_a, left_b = _match_exactly(of_a[id(one)], of_b[id(other)], by)
        pairs += found
        open_pairs.append((left_a, left_b))
    moved = 0
    rest_a, rest_b = (
        ([s for group in side for s in group] for side in zip(*open_pairs)) if open_pairs else ([], [])
    )
    if rest_a and Counter(map(_ids_or_text, rest_a)) == Counter(map(_ids_or_text, rest_b)):
        found, _, _ = _match_exactly(rest_a, rest_b, by)  # the same responses, under other prompts
        moved = len(found)
        pairs += found
        open_pairs = []
    samples_only_a = [s for prompt in only_a for s in of_a[id(prompt)]]
    samples_only_b = [s for prompt in only_b for s in of_b[id(prompt)]]
    for left_a, left_b in open_pairs:
        found, left_a, left_b = _match_by_beginning(left_a, left_b, by)
        pairs += found
        pairs += [Pair(x, y, False) for x, y in zip(left_a, left_b)]
        by["number"] += min(len(left_a), len(left_b))
        samples_only_a += left_a[len(left_b) :]
        samples_only_b += left_b[len(left_a) :]
    pairs.sort(key=lambda pair: pair.a.row)
    return Alignment(pairs, matched, only_a, only_b, samples_only_a, samples_only_b, by, moved)


def _match_prompts(a: Source, b: Source) -> tuple[list[tuple[Prompt, Prompt]], list[Prompt], list[Prompt]]:
    """By ever looser keys; among prompts with the same key those first that have most responses in common."""
    answers = {"of_a": _texts_by_prompt(a), "of_b": _texts_by_prompt(b)}
    core_a, core_b = _core(a.prompts), _core(b.prompts)
    with_answers = all(p.answer is not None for p in (*a.prompts, *b.prompts))

    ids = {p.id for p in a.prompts if p.id} & {p.id for p in b.prompts if p.id}
    named = all(p.problem for p in (*a.prompts, *b.prompts))

    def content(p: Prompt) -> Hashable:
        return (p.problem, p.answer, _names(p)) if p.problem else None

    keys: list[Callable[[Prompt], Hashable]] = [
        lambda p: (p.text, p.ids, p.id, _names(p), p.answer),
        lambda p: (p.id, p.problem) if p.id and p.problem else None,
        lambda p: p.id or None,
    ]
    if not ids:  # the sides name their prompts otherwise
        keys.append(content)
    if not named:
        keys += [
            lambda p: (plain_text(p.text), p.answer if with_answers else None),
            lambda p: plain_text(p.text),
            lambda p: core_a.get(id(p), core_b.get(id(p))) or None,
        ]
    left_a, left_b = list(a.prompts), list(b.prompts)
    found: list[tuple[Prompt, Prompt]] = []
    for key in keys:
        buckets: dict[Hashable, list[Prompt]] = defaultdict(list)
        for prompt in left_b:
            buckets[key(prompt)].append(prompt)
        rest_a = []
        for prompt in left_a:
            value = key(prompt)
            candidates = buckets[value] if value is not None else []
            if not candidates:
                rest_a.append(prompt)
                continue
            mine = answers["of_a"][id(prompt)]
            common = [(mine & answers["of_b"][id(other)]).total() for other in candidates]
            other = candidates.pop(max(range(len(candidates)), key=lambda i: common[i]))
            found.append((prompt, other))
            left_b = [p for p in left_b if p is not other]
        left_a = rest_a
    if left_a and len(left_a) == len(left_b) and not named:
        for one, other in zip(list(left_a), list(left_b)):
            texts = plain_text(one.text)[-2000:], plain_text(other.text)[-2000:]
            if (
                (texts[0] and texts[0] in texts[1])
                or (texts[1] and texts[1] in texts[0])
                or _ratio(*texts) > _ALIKE
            ):
                found.append((one, other))
                left_a.remove(one)
                left_b.remove(other)
    place = {id(p): i for i, p in enumerate(a.prompts)}
    return sorted(found, key=lambda pair: place[id(pair[0])]), left_a, left_b


def _ratio(a: str, b: str) -> float:
    return SequenceMatcher(None, a, b, autojunk=False).ratio()


def _core(prompts: Sequence[Prompt]) -> dict[int, str]:
    """Each prompt's text without what all prompts begin and end with: its template is gone."""
    texts = [plain_text(p.text) for p in prompts]
    if len(texts) < 2:
        return {}
    first, last = min(texts), max(texts)
    start = common_start(first, last)
    backwards = sorted(text[::-1] for text in texts)
    end = min(common_start(backwards[0], backwards[-1]), min(map(len, texts)) - start)
    return {id(p): text[start : len(text) - end] for p, text in zip(prompts, texts)}


def common_start(a: Sequence[object], b: Sequence[object]) -> int:
    """How many elements two sequences begin with in common."""
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def _by_prompt(samples: Sequence[Sample]) -> dict[int, list[Sample]]:
    found: dict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        found[id(sample.prompt)].append(sample)
    return found


def _texts_by_prompt(source: Source) -> dict[int, Counter[str]]:
    found: dict[int, Counter[str]] = defaultdict(Counter)
    for sample in source.samples:
        found[id(sample.prompt)][plain_text(sample.text)] += 1
    return found


def _ids_or_text(sample: Sample) -> Hashable:
    return sample.ids if sample.ids is not None else plain_text(sample.text)


def _match_exactly(
    of_a: Sequence[Sample], of_b: Sequence[Sample], by: Counter[str]
) -> tuple[list[Pair], list[Sample], list[Sample]]:
    """Equal ids, else equal text; copies within a group in their order."""
    pairs: list[Pair] = []
    left_a, left_b = list(of_a), list(of_b)
    both_have_ids = all(s.ids is not None for s in (*of_a, *of_b))
    kinds: list[tuple[str, bool, Callable[[Sample], Hashable]]] = [
        ("text", not both_have_ids, lambda s: plain_text(s.text))
    ]
    if both_have_ids:
        kinds.insert(0, ("ids", True, lambda s: s.ids))
    for name, same, key in kinds:
        buckets: dict[Hashable, list[Sample]] = defaultdict(list)
        for sample in left_b:
            buckets[key(sample)].append(sample)
        rest = []
        taken = set()
        for sample in left_a:
            candidates = buckets[key(sample)]
            if candidates and (same or sample.text):
                other = candidates.pop(0)
                taken.add(id(other))
                pairs.append(Pair(sample, other, same))
                by[name] += 1
            else:
                rest.append(sample)
        left_a, left_b = rest, [s for s in left_b if id(s) not in taken]
    return pairs, left_a, left_b


def _match_by_beginning(
    left_a: list[Sample], left_b: list[Sample], by: Counter[str]
) -> tuple[list[Pair], list[Sample], list[Sample]]:
    """A response that goes on where the other ends: one of them was cut, or lost its end token."""
    pairs = []
    for one in list(left_a):
        first = one.ids or plain_text(one.text)
        for other in left_b:
            second = other.ids or plain_text(other.text)
            if (
                type(first) is type(second)
                and first
                and second
                and common_start(first, second) == min(len(first), len(second))
            ):
                pairs.append(Pair(one, other, False))
                by["beginning"] += 1
                left_a.remove(one)
                left_b.remove(other)
                break
    return pairs, left_a, left_b
