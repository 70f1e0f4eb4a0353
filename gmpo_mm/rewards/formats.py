"""Does a response keep the form that its prompt template asked for? Linear in the length of the response."""

import re
from collections.abc import Callable

from gmpo_mm.verifiers import last_boxed
from gmpo_mm.verifiers.extraction import Extraction

# Some models write tags with spaces inside, as `< think >`. Each run of spaces belongs to one `<`: no backtracking.
_THINK_OPEN = re.compile(r"\s*<\s*think\s*>")
_THINK_CLOSE = re.compile(r"<\s*/\s*think\s*>")
_ANSWER_TAIL = re.compile(r"\s*<answer>")


def think_boxed(response: str) -> bool:
    r"""`<think>...</think>` first, then text with a complete `\boxed{}` (EasyR1's `math` template)."""
    opening = _THINK_OPEN.match(response)
    closing = _THINK_CLOSE.search(response, opening.end()) if opening else None
    return closing is not None and last_boxed(response[closing.end() :]) is not None


def answer_tags(response: str) -> bool:
    """Exactly `<think>...</think><answer>...</answer>`, each tag once, spaces between and around allowed."""
    text = response.strip()
    tags = ("<think>", "</think>", "<answer>", "</answer>")
    if any(text.count(tag) != 1 for tag in tags):
        return False
    if not (text.startswith("<think>") and text.endswith("</answer>")):
        return False
    return _ANSWER_TAIL.match(text, text.index("</think>") + len("</think>")) is not None


def qwen_math(response: str) -> bool:
    r"""A complete `\boxed{}` anywhere (Dr. GRPO's qwen_math template, arXiv 2503.20783)."""
    return last_boxed(response) is not None


FORMATS: dict[str, tuple[Callable[[str], bool], Extraction]] = {
    "think_boxed": (think_boxed, "boxed"),
    "answer_tags": (answer_tags, "answer_tags"),
    "qwen_math": (qwen_math, "boxed"),
}
