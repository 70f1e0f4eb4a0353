"""Does an answer equal the gold one? Extraction, equivalence, and processes that can be killed."""

from gmpo_mm.verifiers.extraction import extract_answer, last_boxed
from gmpo_mm.verifiers.graders import GRADERS, check_grader, grade_responses, grader_info
from gmpo_mm.verifiers.grading import DEFAULT_TIMEOUT, Grade, grade_batch
from gmpo_mm.verifiers.pool import VerifierUnavailableError, shut_down, warm_up

__all__ = [
    "DEFAULT_TIMEOUT", "GRADERS", "Grade", "VerifierUnavailableError", "check_grader", "extract_answer",
    "grade_batch", "grade_responses", "grader_info", "last_boxed", "shut_down", "warm_up",
]  # fmt: skip
