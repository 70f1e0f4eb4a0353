"""Find the final answer in a response. Every function here is linear in the length of the text."""

import re
from collections.abc import Iterator
from functools import reduce
from typing import Literal

Extraction = Literal["auto", "boxed", "answer_tags"]
EXTRACTIONS: tuple[str, ...] = ("auto", "boxed", "answer_tags")

BOX_OPENING = re.compile(r"\\{1,4}(?:boxed|fbox)\s*\{")
# An escaped character is one token, so that the braces of `\{1, 2\}` do not count as groups.
_BRACE_TOKEN = re.compile(r"(\\{1,4}(?:boxed|fbox)\s*\{)|\\.|[{}]", re.DOTALL)
_INVISIBLE = dict.fromkeys(
    map(ord, "\u00ad\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u2060\u2061\u2062\u2063\u2064\ufeff")
)
_SHOWS_NOTHING = re.compile(
    r"\\(?:text(?:bf|it)?|math(?:rm|bf)|boxed|mbox|phantom|q?quad|displaystyle|left|right)(?![A-Za-z])"
    r"|\\[,;:! ]|[\s{}$.~]|\\"
)
_NESTED = reduce(lambda inner, _: rf"\{{(?:[^{{}}]|{inner})*\}}", range(4), r"\{[^{}]*\}")
# `\boxed 5` and `\boxed \frac{1}{2}`, up to the first space or `$` outside braces.
_BARE_BOX = re.compile(rf"\\boxed(?:[ \t]+|(?=[\d-]))((?:[^{{}}\s$<]|<(?!/)|{_NESTED})+)(?=[}}\s$]|</|\Z)")


_JOINT = re.compile(
    r"(?i)\}[\s$.]*(?:\\text\s*\{\s*)?(?:,|;|and\b|or\b)(?:[\s$,.}]|\\[ ,;]|and\b|or\b|\\text\s*\{)*\Z"
)
MAX_JOINED = 2000  # characters from the first to the last of several boxes


def remove_invisible(text: str) -> str:
    """Drop zero-width and direction characters, which look like nothing and break every comparison."""
    return text.translate(_INVISIBLE)


def is_empty(text: str) -> bool:
    r"""Whether nothing of an answer is seen: `\text{}`, `{ }`, `$$`, `\,`."""
    return not _SHOWS_NOTHING.sub("", remove_invisible(text[:2000]))


def last_boxed(text: str) -> str | None:
    r"""Content of the complete `\boxed{...}` that opens last, nested braces kept, or of `\boxed 5`."""
    last = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if last < 0:
        return None
    # Nearly every response is decided here; the full pass is for a text that ends in the middle of a box.
    span = max(_boxes(text, last), default=None)
    if span is None and (bare := _BARE_BOX.match(text, last)) and (content := bare[1].rstrip(".,;:")):
        return content
    if span and _JOINT.search(text, max(0, last - 60), last):
        return ", ".join(_joined(text[max(0, last - MAX_JOINED) :]))
    span = span or max(_boxes(text), default=None)
    return None if span is None else text[span[0] : span[1]]


def _joined(text: str) -> list[str]:
    r"""The last boxes of a text between which only `,`, `and`, `or` stand: `\boxed{1} and \boxed{2}`."""
    spans = all_boxes(text)
    first = len(spans) - 1
    while first and _JOINT.fullmatch(BOX_OPENING.sub("", text[spans[first - 1][1] : spans[first][0]])):
        first -= 1
    return list(dict.fromkeys(text[start:end].strip() for start, end in spans[first:]))


def _boxes(text: str, start: int = 0) -> Iterator[tuple[int, int]]:
    """Spans of the contents of all complete boxes, in the order in which they end."""
    opening = BOX_OPENING.search(text, start)
    opened: list[int] = []  # where a box's content starts; 0 for other braces
    for token in _BRACE_TOKEN.finditer(text, opening.start()) if opening else ():
        if token[1] or token[0] == "{":
            opened.append(token.end() if token[1] else 0)
        elif token[0] == "}" and opened and (content := opened.pop()):
            yield content, token.start()


def all_boxes(text: str) -> list[tuple[int, int]]:
    """Spans of the contents of all complete boxes that are in no other, in order."""
    spans: list[tuple[int, int]] = []
    for span in _boxes(text):
        while spans and spans[-1][0] > span[0]:
            spans.pop()
        spans.append(span)
    return spans


def extract_answer(response: str, extraction: Extraction = "auto") -> str | None:
    r"""The final answer of a response, stripped, or None when it gives none (an empty box gives none).

    `boxed` takes the last `\boxed{}`; `answer_tags` the last `<answer>` pair and a box within it; `auto` the
    box and, where there is none, the tags. The thinking counts where nothing behind `</think>` does.
    """
    if extraction not in EXTRACTIONS:
        raise ValueError(f"extraction={extraction!r} is not known; use one of {', '.join(EXTRACTIONS)}")
    thought, _, rest = response.rpartition("</think>")
    for text in (rest, thought):
        answer = last_boxed(text) if extraction != "answer_tags" else None
        if answer is None and extraction != "boxed":
            _, opened, tagged = text.rpartition("</answer>")[0].rpartition("<answer>")
            answer = (last_boxed(tagged) or tagged) if opened else None
        if answer is not None:
            return remove_invisible(answer).strip() or None
    return None
