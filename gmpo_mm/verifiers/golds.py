r"""Golds as data sets store them: the answer in one that holds a whole solution, and golds that no answer can be.

The forms that are known: `<answer> 145° </answer>`; GSM8K's last line `#### 72`; a `\boxed{...}`, of which the last line that
has one counts; a last line `The answer is 72.`, `Final answer: 72`. Only a gold is read in this way; what a model
writes is read by `extraction` alone.
"""

import re
from functools import lru_cache

from gmpo_mm.verifiers.extraction import BOX_OPENING, all_boxes, is_empty, last_boxed, remove_invisible
from gmpo_mm.verifiers.reading import read
from gmpo_mm.verifiers.structure import balanced
from gmpo_mm.verifiers.words import has_words

MAX_LENGTH = 2000
"""Characters; a longer answer is never read as mathematics (see `equivalence`)."""
MAX_LINE = 200
"""Characters; a longer line, and several lines, are a solution and no answer."""
MAX_NAME_WORDS, MAX_WORDS_BESIDE_NUMBER = 5, 2
"""Words of a name (`not enough information`), and of a name with a number in it; prose of more is a sentence."""

MAX_SOLUTION = 20_000
"""Characters at a gold's end in which an answer is looked for."""

_CLOSING = re.compile(r"<\s*/\s*(answer|final_?answer|ans)\s*>", re.IGNORECASE)
_HASHES = re.compile(r"(?:^|(?<=\s))####(?!#)(.*)$", re.MULTILINE)
_LABEL = (
    r"(?:(?:so|thus|hence|therefore|and|then)[, ]+)?(?:the |our |my )?(?:(?:final|correct|right) )?"
    r"(?:answer|result|solution|答案)"
)
_SAID = re.compile(
    rf"(?:^|[.!?;:。])[#*_ \t]*{_LABEL}[*_ \t]*(?:[::=]|(?:is|are|equals)\b|是|为)[::*_ \t]*(?P<value>\S.*)$",
    re.IGNORECASE,
)
_HEADING = re.compile(rf"[#*_ \t]*{_LABEL}[*_ \t]*[::]?[*_ \t]*", re.IGNORECASE)
_HOPE = re.compile(r"\.?\s*I hope it is correct\.?\s*$", re.IGNORECASE)
_MARKS = re.compile(r"####|boxed|fbox|</|answer|result|solution|答案", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?。](?=\s)|\n")
_ENVIRONMENT = re.compile(r"\\begin\s*\{[^{}]*\}.*?\\end\s*\{[^{}]*\}", re.DOTALL)
_GROUP = re.compile(r"\{[^{}]*\}")
_WORD = re.compile(r"[^\W\d_]{2,}(?:['’-][^\W\d_]+)*")
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_LATEX = re.compile(r"\\(?:text|textbf|textit|mathrm|mbox)\s*(?=\{)|\\[A-Za-z]+|[{}$]")


@lru_cache(maxsize=8192)
def gold_answer(gold: str) -> str:
    """The answer of a gold that holds a whole solution in a known form; any other gold as it is."""
    if not _MARKS.search(gold):
        return gold
    text = remove_invisible(gold[-MAX_SOLUTION:]).strip()
    return _without_solution(_in_tags(text) or text) if text else gold


def _in_tags(text: str) -> str | None:
    """What stands in the last pair of answer tags."""
    closing = list(_CLOSING.finditer(text))
    if not closing:
        return None
    opening = list(
        re.finditer(rf"<\s*{closing[-1].group(1)}\s*>", text[: closing[-1].start()], re.IGNORECASE)
    )
    return text[opening[-1].end() : closing[-1].start()].strip() or None if opening else None


def _without_solution(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return text
    if "####" in text and (found := _after_hashes(text)):
        return found
    several = len(lines) > 1 or len(text) > MAX_LINE
    if several and (boxed := _last_boxes(text)) is not None:
        return boxed
    if said := _SAID.search(_HOPE.sub("", lines[-1][-MAX_LINE:])):
        return said.group("value").strip("*_ \t").removesuffix(".")
    return lines[-1] if len(lines) > 1 and _HEADING.fullmatch(lines[-2][:MAX_LINE]) else text


def _after_hashes(text: str) -> str | None:
    """What stands behind the last `####`, where nothing follows but `The answer is ...` (MetaMathQA)."""
    found = list(_HASHES.finditer(text))
    if not found:
        return None
    behind = text[found[-1].end() :].strip()
    return (
        found[-1].group(1).strip() or None if not behind or _SAID.fullmatch(behind[: MAX_LINE + 1]) else None
    )


def _last_boxes(text: str) -> str | None:
    """The last box and, up to the end of the sentence, its unit; the whole sentence where that has several boxes."""
    openings = {found.end(): found.start() for found in BOX_OPENING.finditer(text)}
    spans = [(openings[start], end) for start, end in all_boxes(text) if start in openings]
    if not spans:
        return last_boxed(text)
    start, end = spans[-1]
    last = len(spans) - 1
    while last > 0 and not _SENTENCE_END.search(text, spans[last - 1][1], spans[last][0]):
        last -= 1
    if last < len(spans) - 1:
        ends = [found.end() for found in _SENTENCE_END.finditer(text, 0, spans[last][0])]
        start = ends[-1] if ends else 0
    behind = _SENTENCE_END.search(text, end)
    return text[start : behind.start() if behind else len(text)].strip()


def gold_fault(gold: str) -> str | None:
    """Why no short answer can equal a gold: `sentence`, `several lines` or `not readable`; None for a good one."""
    text = gold_answer(gold).strip()
    if not text or is_empty(text):
        return "not readable"
    if "\n" in _GROUP.sub("", _ENVIRONMENT.sub("", text)):
        return "several lines"
    if len(text) > MAX_LENGTH:
        return "sentence" if len(_words(text[:MAX_LENGTH])) > MAX_NAME_WORDS else "not readable"
    value = read(text).text
    if not value or not balanced(value):
        return "not readable"
    limit = MAX_WORDS_BESIDE_NUMBER if any(map(str.isdigit, value)) else MAX_NAME_WORDS
    if has_words(value) and len(_words(value)) > limit:
        return "sentence"
    if len(_CJK.findall(value)) > 4 * MAX_NAME_WORDS:
        return "sentence"
    return None


def _words(text: str) -> list[str]:
    return _WORD.findall(_LATEX.sub(" ", text))
