"""Find the final answer in a response. Every function here is linear in the length of the text."""

import re
from typing import Literal

Extraction = Literal["auto", "boxed", "answer_tags"]
EXTRACTIONS: tuple[str, ...] = ("auto", "boxed", "answer_tags")

BOX_OPENING = re.compile(r"\\{1,4}(?:boxed|fbox)\s*\{")
# An escaped character is one token, so that the braces of `\{1, 2\}` do not count as groups.
_BRACE_TOKEN = re.compile(r"\\{1,4}(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_INVISIBLE = dict.fromkeys(
    map(ord, "\u00ad\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u2060\u2061\u2062\u2063\u2064\ufeff")
)


def remove_invisible(text: str) -> str:
    """Drop zero-width and direction characters, which look like nothing and break every comparison."""
    return text.translate(_INVISIBLE)


_SHOWS_NOTHING = re.compile(
    r"\\(?:text|textbf|textit|mathrm|mathbf|boxed|mbox|phantom|quad|qquad|displaystyle|left|right)(?![A-Za-z])"
    r"|\\[,;:! ]|[\s{}$.~]|\\"
)


def is_empty(text: str) -> bool:
    r"""Whether nothing of an answer is seen: `\text{}`, `{ }`, `$$`, `\,`."""
    return not _SHOWS_NOTHING.sub("", remove_invisible(text[:2000]))


_BARE_BOX = re.compile(r"\\boxed[ \t]+(?=[^\s{])|\\boxed(?=[\d-])")
_BARE_END = re.compile(r"[{}\s$]|</")


def last_boxed(text: str) -> str | None:
    r"""Content of the last complete `\boxed{...}` (nested braces kept) or `\boxed 5`; None when there is none.

    Of two boxes the one that opens last counts: `\boxed{a} and \boxed{b}` is b, and a box within a box is its inside.
    """
    last = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if last < 0:
        return None
    # Nearly every response is decided here; the full pass is for a text that ends in the middle of a box.
    span = _last_box_from(text, last) or _bare_box_at(text, last) or _last_box_from(text, 0)
    return None if span is None else text[span[0] : span[1]]


def _last_box_from(text: str, start: int) -> tuple[int, int] | None:
    """One pass with a stack of open braces; the complete box that opens last wins."""
    opening = BOX_OPENING.search(text, start)
    if opening is None:
        return None
    open_boxes: list[int | None] = []
    best: tuple[int, int] | None = None
    for token in _BRACE_TOKEN.finditer(text, opening.start()):
        symbol = token.group()
        if symbol == "{":
            open_boxes.append(None)
        elif symbol == "}":
            content_start = open_boxes.pop() if open_boxes else None
            if content_start is not None and (best is None or content_start > best[0]):
                best = (content_start, token.start())
        elif symbol.endswith("{") and len(symbol) > 2:
            open_boxes.append(token.end())
    return best


def _bare_box_at(text: str, start: int) -> tuple[int, int] | None:
    r"""`\boxed 5` and `\boxed \frac{1}{2}`: up to the first space or `$` outside braces."""
    opening = _BARE_BOX.match(text, start)
    if opening is None:
        return None
    depth = 0
    for token in _BARE_END.finditer(text, opening.end()):
        if token.group() == "{":
            depth += 1
        elif token.group() == "}" and depth:
            depth -= 1
        elif depth == 0:
            return _without_punctuation(text, opening.end(), token.start())
    return _without_punctuation(text, opening.end(), len(text)) if depth == 0 else None


def _without_punctuation(text: str, start: int, end: int) -> tuple[int, int] | None:
    while end > start and text[end - 1] in ".,;:":
        end -= 1
    return (start, end) if end > start else None


def last_answer_tag(text: str) -> str | None:
    """Content of the last complete `<answer>...</answer>`, or None when there is none."""
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, end) if end >= 0 else -1
    return None if start < 0 else text[start + len("<answer>") : end]


def all_boxes(text: str) -> list[tuple[int, int]]:
    """Spans of the contents of all complete boxes that are in no other, in order."""
    spans: list[tuple[int, int]] = []
    open_boxes: list[int | None] = []
    for token in _BRACE_TOKEN.finditer(text):
        symbol = token.group()
        if symbol == "{":
            open_boxes.append(None)
        elif symbol == "}":
            start = open_boxes.pop() if open_boxes else None
            if start is not None:
                while spans and spans[-1][0] > start:
                    spans.pop()
                spans.append((start, token.start()))
        elif symbol.endswith("{") and len(symbol) > 2:
            open_boxes.append(token.end())
    return spans


def extract_answer(response: str, extraction: Extraction = "auto") -> str | None:
    r"""The final answer of a response, stripped, or None when it gives none (an empty box gives none).

    `boxed` takes the last `\boxed{}`; `answer_tags` the last `<answer>` pair and a box within it; `auto` takes the box
    and, where there is none, the tags. What follows the last `</think>` comes first: a box within the thinking counts
    only where nothing after it gives an answer.
    """
    if extraction not in EXTRACTIONS:
        raise ValueError(f"extraction={extraction!r} is not known; use one of {', '.join(EXTRACTIONS)}")
    thought, tag, rest = response.rpartition("</think>")
    answer = _answer_in(rest, extraction)
    if answer is None and tag:
        answer = _answer_in(thought, extraction)
    return None if answer is None else remove_invisible(answer).strip() or None


def _answer_in(text: str, extraction: str) -> str | None:
    answer = None
    if extraction in ("auto", "boxed"):
        answer = last_boxed(text)
    if answer is None and extraction in ("auto", "answer_tags"):
        answer = last_answer_tag(text)
        if answer is not None and "boxed" in answer:
            answer = last_boxed(answer) or answer
    return answer
