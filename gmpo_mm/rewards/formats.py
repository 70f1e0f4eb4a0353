"""Does a response keep the form that its prompt template asked for? Linear in the length of the response.

A rule is strict or EasyR1's. Strict: each tag stands once, the thought holds a letter or a digit outside LaTeX's commands, and
the box or the answer something that is seen. EasyR1's own patterns (its `examples/reward_function/math.py` and `r1v.py`) take
`<think></think>\boxed{}` for a form, which a policy finds out; they are here for a run that must match one of EasyR1's.
"""

import re
from collections.abc import Callable

from gmpo_mm.verifiers import last_boxed
from gmpo_mm.verifiers.extraction import Extraction, is_empty

RULES: tuple[str, ...] = ("strict", "easyr1")

# Some models write tags with spaces inside, as `< think >`. Each run of spaces belongs to one `<`: no backtracking.
_THINK_TAG = re.compile(r"<\s*(/?)\s*think\s*>")
_TAG = re.compile(r"<(/?)(think|answer)>")
_ANSWER_TAIL = re.compile(r"\s*<answer>")
_SAYS_SOMETHING = re.compile(r"\\[A-Za-z]+|([^\W_])")
_SIGN_OF_TAG = re.compile(r"([<>/])")


def think_boxed(response: str, strict: bool = True) -> bool:
    r"""`<think>...</think>` first, then text with a complete `\boxed{}` (EasyR1's `math` template)."""
    if not strict:
        return _easyr1_think_boxed(response)
    tags = list(_THINK_TAG.finditer(response))
    if [tag.group(1) for tag in tags] != ["", "/"] or response[: tags[0].start()].strip():
        return False
    return _thinks(response[tags[0].end() : tags[1].start()]) and qwen_math(response[tags[1].end() :])


def answer_tags(response: str, strict: bool = True) -> bool:
    """Exactly `<think>...</think><answer>...</answer>`, each tag once, spaces between and around allowed."""
    if not strict:
        return _easyr1_answer_tags(response)
    text = response.strip()
    tags = list(_TAG.finditer(text))
    if [tag.group() for tag in tags] != ["<think>", "</think>", "<answer>", "</answer>"]:
        return False
    if tags[0].start() or tags[3].end() < len(text) or text[tags[1].end() : tags[2].start()].strip():
        return False
    return _thinks(text[tags[0].end() : tags[1].start()]) and not is_empty(
        text[tags[2].end() : tags[3].start()]
    )


def qwen_math(response: str, strict: bool = True) -> bool:
    r"""A complete `\boxed{}` anywhere (Dr. GRPO's qwen_math template, arXiv 2503.20783)."""
    box = last_boxed(response)
    return box is not None and not (strict and is_empty(box))


FORMATS: dict[str, tuple[Callable[[str, bool], bool], Extraction]] = {
    "think_boxed": (think_boxed, "boxed"),
    "answer_tags": (answer_tags, "answer_tags"),
    "qwen_math": (qwen_math, "boxed"),
}


def _thinks(thought: str) -> bool:
    return any(said.group(1) for said in _SAYS_SOMETHING.finditer(thought))


def _easyr1_think_boxed(response: str) -> bool:
    r"""What `re.fullmatch(r"<think>.*</think>.*\\boxed\{.*\}.*", response, re.DOTALL)` says.

    Spaces beside `<`, `>` and `/` are removed first, as EasyR1 does.
    """
    pieces = _SIGN_OF_TAG.split(response)
    if len(pieces) > 1:
        pieces = [pieces[0].rstrip(), *(piece.strip() for piece in pieces[1:-1]), pieces[-1].lstrip()]
    text = "".join(pieces)
    closing = text.find("</think>", len("<think>"))
    box = text.find("\\boxed{", closing)
    return text.startswith("<think>") and closing >= 0 and box >= 0 and "}" in text[box:]


def _easyr1_answer_tags(response: str) -> bool:
    """What `re.fullmatch(r"<think>.*?</think>\\s*<answer>.*?</answer>", response, re.DOTALL)` says."""
    closing = response.find("</think>", len("<think>"))
    if not (response.startswith("<think>") and response.endswith("</answer>")):
        return False
    while closing >= 0:
        closing += len("</think>")
        answer = _ANSWER_TAIL.match(response, closing)
        if answer is not None:
            return answer.end() <= len(response) - len("</answer>")
        closing = response.find("</think>", closing)
    return False
