"""Does a response keep the form that its prompt template asked for? Linear in the length of the response.

A rule is strict or EasyR1's. Strict: the thought holds a letter or a digit, and the box or the answer something that is seen.
EasyR1's own patterns take `<think></think>\\boxed{}` for a form, which a policy finds out.
"""

import re
from collections.abc import Callable

from gmpo_mm.verifiers import last_boxed
from gmpo_mm.verifiers.extraction import Extraction, is_empty

# Some models write tags with spaces inside, as `< think >`. Each run of spaces belongs to one `<`: no backtracking.
_THINK_OPEN = re.compile(r"\s*<\s*think\s*>")
_THINK_CLOSE = re.compile(r"<\s*/\s*think\s*>")
_ANSWER_TAIL = re.compile(r"\s*<answer>")


_SAYS_SOMETHING = re.compile(r"[^\W_]")
RULES: tuple[str, ...] = ("strict", "easyr1")


def think_boxed(response: str, strict: bool = True) -> bool:
    r"""`<think>...</think>` first, then text with a complete `\boxed{}` (EasyR1's `math` template)."""
    opening = _THINK_OPEN.match(response)
    closing = _THINK_CLOSE.search(response, opening.end()) if opening else None
    if opening is None or closing is None or not qwen_math(response[closing.end() :], strict):
        return False
    return not strict or _SAYS_SOMETHING.search(response, opening.end(), closing.start()) is not None


def answer_tags(response: str, strict: bool = True) -> bool:
    """Exactly `<think>...</think><answer>...</answer>`, each tag once, spaces between and around allowed."""
    text = response.strip()
    tags = ("<think>", "</think>", "<answer>", "</answer>")
    if any(text.count(tag) != 1 for tag in tags):
        return False
    if not (text.startswith("<think>") and text.endswith("</answer>")):
        return False
    thought_end = text.index("</think>")
    answer = _ANSWER_TAIL.match(text, thought_end + len("</think>"))
    if answer is None or not strict:
        return answer is not None
    thought = _SAYS_SOMETHING.search(text, len("<think>"), thought_end)
    return thought is not None and not is_empty(text[answer.end() : -len("</answer>")])


def qwen_math(response: str, strict: bool = True) -> bool:
    r"""A complete `\boxed{}` anywhere (Dr. GRPO's qwen_math template, arXiv 2503.20783)."""
    box = last_boxed(response)
    return box is not None and not (strict and is_empty(box))


FORMATS: dict[str, tuple[Callable[[str, bool], bool], Extraction]] = {
    "think_boxed": (think_boxed, "boxed"),
    "answer_tags": (answer_tags, "answer_tags"),
    "qwen_math": (qwen_math, "boxed"),
}
