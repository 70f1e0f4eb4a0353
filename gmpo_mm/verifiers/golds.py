r"""Golds as data sets store them: the answer in a whole solution, and golds that no answer can be.

The forms: `<answer> 145° </answer>`; GSM8K's last line `#### 72`; the last sentence with a `\boxed{...}`; a
last line `The answer is 72.`. Only a gold is read so; what a model writes is read by `extraction` alone.
"""

import re
from functools import lru_cache
from itertools import pairwise

from gmpo_mm.verifiers.extraction import all_boxes, is_empty, last_boxed, remove_invisible
from gmpo_mm.verifiers.reading import read
from gmpo_mm.verifiers.structure import balanced
from gmpo_mm.verifiers.words import has_words

MAX_LENGTH = 2000  # characters; a longer answer is never read as mathematics (see `equivalence`)
MAX_LINE = 200  # characters; a longer line, and several lines, are a solution and no answer
MAX_SOLUTION = 20_000  # characters at a gold's end in which an answer is looked for
# Words of a name (`not enough information`), and beside a number; of more, prose is a sentence.
MAX_NAME_WORDS, MAX_WORDS_BESIDE_NUMBER = 5, 2

_LABEL = (
    r"[#*_ \t]*(?:(?:so|thus|hence|therefore|and|then)[, ]+)?(?:the |our |my )?(?:(?:final|correct|right) )?"
    r"(?:answer|result|solution|答案)[*_ \t]*"
)
_SAID = re.compile(
    rf"(?i)(?:^|[.!?;:。]){_LABEL}(?:[::=]|(?:is|are|equals)\b|是|为)[::*_ \t]*"
    r"(?P<value>\S.*?)(?:\.?\s*I hope it is correct)?\.?\s*$"
)
_HEADING = re.compile(rf"(?i){_LABEL}[::]?[*_ \t]*")
_TAG = re.compile(r"(?i)<\s*(/?)\s*(?:answer|final_?answer|ans)\s*>")
_MARKS = re.compile(r"(?i)####|boxed|fbox|</|answer|result|solution|答案")
_SENTENCE_END = re.compile(r"[.!?。](?=\s)|\n")
_MAY_HAVE_LINES = re.compile(r"(?s)\\begin\s*\{[^{}]*\}.*?\\end\s*\{[^{}]*\}|\{[^{}]*\}")
_WORD = re.compile(r"[^\W\d_]{2,}(?:['’-][^\W\d_]+)*")
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_LATEX = re.compile(r"\\(?:text|textbf|textit|mathrm|mbox)\s*(?=\{)|\\[A-Za-z]+|[{}$]")


@lru_cache(maxsize=8192)
def gold_answer(gold: str) -> str:
    """The answer of a gold that holds a whole solution in a known form; any other gold as it is."""
    text = remove_invisible(gold[-MAX_SOLUTION:]).strip() if _MARKS.search(gold) else ""
    text = _TAG.sub(r"<\1answer>", text)
    _, opened, tagged = text.rpartition("</answer>")[0].rpartition("<answer>")
    text = (opened and tagged.strip()) or text
    if not text:
        return gold
    before, hashes, behind = text.rpartition("####")
    value, _, rest = behind.strip(" \t").partition("\n")
    if hashes and value and not before[-1:].strip() and (not rest or _SAID.fullmatch(rest[: MAX_LINE + 1])):
        return value.strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if (len(lines) > 1 or len(text) > MAX_LINE) and (boxed := _last_boxes(text)) is not None:
        return boxed
    if said := _SAID.search(lines[-1][-MAX_LINE:]):
        return said["value"].strip("*_ \t").removesuffix(".")
    return lines[-1] if len(lines) > 1 and _HEADING.fullmatch(lines[-2][:MAX_LINE]) else text


def _last_boxes(text: str) -> str | None:
    """The last sentence with a box, which may have several, or a unit behind it."""
    spans = all_boxes(text)
    if not spans:
        return last_boxed(text)
    outside = text
    for start, end in spans:
        outside = outside[:start] + "x" * (end - start) + outside[end:]
    ends = [0, *(found.end() for found in _SENTENCE_END.finditer(outside)), len(text)]
    return next(text[a:b].strip() for a, b in pairwise(ends) if spans[-1][0] < b)


def gold_fault(gold: str) -> str | None:
    """Why no answer equals a gold: `sentence`, `several lines` or `not readable`; None for a good one."""
    text = gold_answer(gold).strip()
    if is_empty(text):
        return "not readable"
    if "\n" in _MAY_HAVE_LINES.sub("", text[:MAX_LENGTH]):
        return "several lines"
    value = read(text).text if len(text) <= MAX_LENGTH else text[:MAX_LENGTH]
    limit = MAX_WORDS_BESIDE_NUMBER if any(map(str.isdigit, value)) else MAX_NAME_WORDS
    is_prose = has_words(value) and len(_WORD.findall(_LATEX.sub(" ", value))) > limit
    if is_prose or len(_CJK.findall(value)) > 4 * MAX_NAME_WORDS:
        return "sentence"
    return "not readable" if len(text) > MAX_LENGTH or not value or not balanced(value) else None
