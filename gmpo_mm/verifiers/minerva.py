r"""Minerva's rule for its OCWCourses problems: several golds, any one counts, and numbers within one per cent.

Source: Lewkowycz et al., "Solving Quantitative Reasoning Problems with Language Models", arXiv 2206.14858. The appendix prints
how a numeric answer is judged: units are removed, both sides become floats, and `numeric_equality(n1, n2, threshold=0.01)`
compares their difference with 0.01 times their mean. Everything that is no number is an expression or an equation, which
SymPy compares.

Two details of that listing are not followed. Its branches stand the wrong way round (the one per cent is used only where a
number is nearly 0, and `numpy.isclose`, 1e-5, everywhere else), and the mean of two negative numbers is negative, so that no
negative number ever equals itself there. Here the threshold that the listing names holds for every number, by magnitude:

    equal  <=>  a == b  or  |a - b| < 0.01 * |a + b| / 2

so the rule is symmetric, opposite signs and other orders of magnitude are never equal, and only 0 equals a gold of 0.
Integers are numbers like any other (1,538 accepts 1,540), as in the paper. A unit that only one side writes is dropped; two
different units are not equal, and nothing is converted. All else is read and compared as the grader `math` does it.
"""

from collections.abc import Sequence
from typing import Literal

from gmpo_mm.verifiers.extraction import Extraction
from gmpo_mm.verifiers.grading import DEFAULT_TIMEOUT, Gold, Grade, grade_batch

VERSION = 2


def grade_minerva(
    predictions: Sequence[str | None],
    golds: Sequence[Gold],
    kind: Literal["answer", "response"] = "response",
    *,
    extraction: Extraction = "auto",
    timeout: float = DEFAULT_TIMEOUT,
) -> list[Grade]:
    """Grades of a batch by the rule above."""
    return grade_batch(predictions, golds, kind, extraction=extraction, timeout=timeout, rules="minerva")
