"""Where other projects' rules find an answer in a response, and what format they pay. Linear in the length of a text."""

import re
from collections.abc import Sequence

_BESIDE_MARKS = re.compile(r"(?<!\s)\s+(?=[<>/])|(?<=[<>/])\s+")
_NUMBER = re.compile(r"-?\d*\.?\d+")
LETTERS = ("A", "B", "C", "D")
# In this order; of the first kind that occurs the last one counts.
_LETTER_FORMS = tuple(
    re.compile(form)
    for form in (
        r"[Aa]nswer\s*[:=]\s*\(?([A-Da-d])\)?",  # Answer: (B), and also the D of `answer: Draw`
        r"\b([A-Da-d])\s*[.)\]]",
        r"^\s*\(?([A-Da-d])\)?$",
        r"\b([A-Da-d])\b",  # also the English article `a`
    )
)


def tight(response: str) -> str:
    """EasyR1's first step: no white space beside `<`, `>` and `/`."""
    return _BESIDE_MARKS.sub("", response)


def mathruler_answer(response: str) -> str | None:
    r"""What the last `\boxed{` holds, stripped; None where it is not closed."""
    start = response.rfind("\\boxed{")
    if start < 0:
        return None
    start += len("\\boxed{")
    depth = 0
    for brace in re.finditer("[{}]", response[start:]):
        depth += 1 if brace[0] == "{" else -1
        if depth < 0:
            return response[start : start + brace.start()].strip()
    return None


def in_order(text: str, *marks: str) -> bool:
    """Whether the marks occur one after the other, with anything between them."""
    end = 0
    for mark in marks:
        start = text.find(mark, end)
        if start < 0:
            return False
        end = start + len(mark)
    return True


def think_and_box(response: str) -> float:
    r"""verl's and EasyR1's format: all of the response is `<think>`, `</think>`, then a `\boxed{` and a `}`."""
    return float(
        response.startswith("<think>") and in_order(response, "<think>", "</think>", "\\boxed{", "}")
    )


def think_end_and_box(response: str) -> float:
    r"""NeMo-RL's geo3k format: `</think>`, later `\boxed{`, later `}`."""
    return float(in_order(response, "</think>", "\\boxed{", "}"))


def think_and_answer(response: str) -> float:
    """R1-V's format: a think pair at the start, an answer pair at the end, white space between."""
    if not response.startswith("<think>") or not response.endswith("</answer>"):
        return 0.0
    return float(re.search(r"</think>\s*<answer>", response[len("<think>") : -len("</answer>")]) is not None)


def think_or_answer(response: str) -> float:
    """NeMo-RL's format: 0.25 for a think pair and 0.75 for an answer pair, wherever they stand."""
    pairs = ((0.25, "think"), (0.75, "answer"))
    return sum(share for share, tag in pairs if in_order(response, f"<{tag}>", f"</{tag}>"))


def r1v_answer(response: str) -> str:
    """What the first answer pair that is on one line holds; without one all of the response."""
    for line in response.split("\n") if "</answer>" in response else ():
        answer, closed, _ = line.partition("<answer>")[2].partition("</answer>")
        if closed:
            return answer.strip()
    return response.strip()


def outer_answer(response: str) -> str | None:
    """From the first `<answer>` to the last `</answer>`."""
    _, opened, rest = response.partition("<answer>")
    answer, closed, _ = rest.rpartition("</answer>")
    return answer if opened and closed else None


def areal_answer(text: str) -> str | None:
    """The last `[...]` that is not empty; without one the last number."""
    found, start = None, text.find("[")
    while start >= 0 and (end := text.find("]", start + 1)) >= 0:
        if end == start + 1:
            start = text.find("[", start + 1)
            continue
        found, start = text[start + 1 : end], text.find("[", end + 1)
    if found is not None:
        return found
    numbers = _NUMBER.findall(text.replace(",", ""))
    return numbers[-1] if numbers else None


def chosen_letter(response: str, choices: Sequence[str]) -> str | None:
    """lmms-eval's letter: by four forms, then by the first choice whose text the response holds."""
    response = response.strip()
    for form in _LETTER_FORMS:
        if found := form.findall(response):
            return str(found[-1]).upper()
    lower = response.lower()
    return next((letter for letter, choice in zip(LETTERS, choices) if choice.lower() in lower), None)
