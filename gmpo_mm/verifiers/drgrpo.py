"""The grader of Dr. GRPO (arXiv 2503.20783), for numbers that are to be set beside that paper's.

It reproduces `boxed_reward_fn` and `answer_tag_reward_fn` of github.com/sail-sg/understand-r1-zero, with these
differences:

- Each comparison has a limit of its own and ends as `timeout`. In the original, fast mode has no limit, and slow mode
  gives math-verify a second for each text and each comparison of values, and grades 0 beyond it.
- Text is not evaluated as Python. What the original decides by doing so is different here: `x==5` equals `x==6` there,
  since both are false.
- A list of golds may hold numbers.
"""

from collections.abc import Iterable, Mapping, Sequence

from gmpo_mm.verifiers.drgrpo_text import Extraction, boxed_answer, tagged_answer
from gmpo_mm.verifiers.grading import DEFAULT_TIMEOUT, Grade
from gmpo_mm.verifiers.pool import STATUS, Verdict, shared_pool

Gold = str | float | Sequence[str | float]
_EXTRACTIONS = {"boxed": boxed_answer, "answer_tags": tagged_answer}


def grade_drgrpo(
    responses: Sequence[str | None],
    golds: Sequence[Gold],
    *,
    fast: bool,
    extraction: Extraction,
    timeout: float = DEFAULT_TIMEOUT,
) -> list[Grade]:
    """Grade each response as Dr. GRPO's evaluation does; a gold that is a sequence is right when any of its entries is.

    `extraction="boxed"` takes the last `\\boxed{}` (templates qwen_math and no); `answer_tags` demands
    `</think> <answer>...</answer>` (template r1). A response that the original calls not formatted has status
    `no_answer`, and so has one whose answer tags hold a box that is not closed. Fast mode is the grader of training,
    slow mode (`fast=False`) that of evaluation. `timeout` in seconds of processor time bounds each comparison.
    """
    if len(responses) != len(golds):
        raise ValueError(f"{len(responses)} responses for {len(golds)} golds; give one gold for each response")
    if extraction not in _EXTRACTIONS:
        raise ValueError(f"extraction={extraction!r} is not known; use one of {', '.join(_EXTRACTIONS)}")
    if not timeout > 0 or timeout == float("inf"):
        raise ValueError(f"timeout={timeout!r} must be a positive number of seconds")
    answers = [_EXTRACTIONS[extraction](text) if isinstance(text, str) else None for text in responses]
    pairs = [
        [] if answer is None else [(answer, text) for text in _gold_texts(gold)]
        for answer, gold in zip(answers, golds, strict=True)
    ]
    open_pairs = list(dict.fromkeys(pair for row in pairs if not any(a == b for a, b in row) for pair in row))
    method = "drgrpo_fast" if fast else "drgrpo_slow"
    checked = shared_pool().check(open_pairs, timeout, method=method) if open_pairs else []
    verdicts = dict(zip(open_pairs, checked, strict=True))
    return [_grade(answer, row, verdicts) for answer, row in zip(answers, pairs, strict=True)]


def _gold_texts(gold: Gold) -> list[str]:
    """The gold's texts, each freed of its box; one whose box is not closed can't be met."""
    entries = gold if isinstance(gold, Iterable) and not isinstance(gold, str) else [gold]
    texts = [boxed_answer(str(entry)) if "\\boxed" in str(entry) else str(entry) for entry in entries]
    return [text for text in texts if text is not None]


def _grade(answer: str | None, pairs: list[tuple[str, str]], verdicts: Mapping[tuple[str, str], Verdict]) -> Grade:
    if answer is None:
        return Grade(False, "no_answer", None, "no answer in the asked-for format")
    if any(answer == gold for _, gold in pairs):
        return Grade(True, "graded", answer, "equal as text")
    found = {STATUS.get(verdicts[pair], verdicts[pair]) for pair in pairs}
    if "equal" in found:
        return Grade(True, "graded", answer, "equal")
    if "timeout" in found:
        return Grade(False, "timeout", answer, "timeout")
    if "error" in found:
        return Grade(False, "error", answer, "error")
    return Grade(False, "graded", answer, "different")
