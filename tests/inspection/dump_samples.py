"""The samples of tests/inspection/dumps: four prompts with two responses each."""

from __future__ import annotations

SYSTEM = "<|im_start|>system\nThink first.<|im_end|>\n"
PROBLEMS = (
    "What is 3 + 4?",
    "Use 2, 3 and 5 to make 11.",
    "What is 3 + 4?\nAnswer in words.",
    "Was ist 1/2 von 8?",
)
ANSWERS = ("7", "11", "seven", "4")
RESPONSES = (
    ("<think>3+4=7</think>\n\\boxed{7}", "<think>3+4=8</think>\n\\boxed{8}"),
    ("2*3+5 = 11, so \\boxed{2*3+5}", "I do not know.\n\n[score] 5"),
    ("seven", "acht"),
    ("\\boxed{4}", "Die Hälfte: \\boxed{4} ✓"),
)
SCORES = ((1.0, 0.1), (1.0, 0.0), (1.0, 0.0), (0.9, 1.0))


def chat_text(problem: str) -> str:
    """As Qwen's template makes it."""
    return f"{SYSTEM}<|im_start|>user\n{problem}<|im_end|>\n<|im_start|>assistant\n"


def rows() -> list[tuple[str, str, str, float]]:
    """(chat text, response, answer, score) of each response, group by group."""
    return [
        (chat_text(problem), response, answer, score)
        for problem, answer, responses, scores in zip(PROBLEMS, ANSWERS, RESPONSES, SCORES, strict=True)
        for response, score in zip(responses, scores, strict=True)
    ]
