"""The grader of Dr. GRPO (arXiv 2503.20783), for numbers that are to be set beside that paper's.

It reproduces `boxed_reward_fn` and `answer_tag_reward_fn` of github.com/sail-sg/understand-r1-zero, but for
what docs/reference/graders.md says.
"""

from collections.abc import Iterable, Sequence

from gmpo_mm.verifiers.drgrpo_text import boxed_answer, tagged_answer
from gmpo_mm.verifiers.equivalence import Decision
from gmpo_mm.verifiers.extraction import Extraction
from gmpo_mm.verifiers.grading import DEFAULT_TIMEOUT, Grade, Kind, check_arguments, grade_answers

Gold = str | float | Sequence[str | float]


def grade_drgrpo(
    responses: Sequence[str | None], golds: Sequence[Gold], kind: Kind = "response", *, fast: bool,
    extraction: Extraction = "auto", timeout: float = DEFAULT_TIMEOUT,
) -> list[Grade]:
    """Grade each response as Dr. GRPO's evaluation does; any entry of a gold that is a sequence counts.

    `boxed` and `auto` take the last `\\boxed{}` (templates qwen_math and no), `answer_tags` what template r1
    demands. Fast mode is the grader of training, slow mode that of evaluation.
    """
    check_arguments(responses, golds, kind, extraction, timeout)
    texts = [text if isinstance(text, str) else "" for text in responses]
    if kind == "answer":
        texts = [f"\\boxed{{{text}}}" if text.strip() else "" for text in texts]
    extract = tagged_answer if extraction == "answer_tags" and kind == "response" else boxed_answer
    method = "drgrpo_fast" if fast else "drgrpo_slow"
    return grade_answers([extract(text) for text in texts], map(_gold_texts, golds), timeout, method, _decide)


def _decide(answer: str, gold: str) -> Decision:
    return Decision(True if answer == gold else None, "equal as text")


def _gold_texts(gold: Gold) -> list[str]:
    """The gold's texts, each freed of its box; one whose box is not closed can't be met."""
    entries = gold if isinstance(gold, Iterable) and not isinstance(gold, str) else [gold]
    texts = [boxed_answer(str(entry)) if "\\boxed" in str(entry) else str(entry) for entry in entries]
    return [text for text in texts if text is not None]
