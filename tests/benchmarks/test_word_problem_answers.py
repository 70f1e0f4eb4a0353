"""Right signs and right results are counted apart."""

from __future__ import annotations

import pytest

from benchmarks.word_problem_answers import shares, signs


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"6 * 4 = 24. 24 + 5 = 29. \boxed{29}", "*+"),
        (r"6 x 4 = 24. 24+5 = 29. \boxed{29} 1 + 1", "*+"),
        (r"6 × 4 = 24. \boxed{24}", "*"),
        (r"9 - 11 + 6 = 4. \boxed{4}", "-+"),
        (r"about -5, or 1/2", "/"),
        ("no numbers", ""),
    ],
)
def test_signs_are_those_between_two_numbers_before_the_box(text: str, found: str) -> None:
    assert signs(text) == found


def test_shares() -> None:
    solutions = {"a": r"2 + 3 = 5. \boxed{5}", "b": r"2 * 3 = 6. \boxed{6}"}
    answers = [
        ("a", r"2 + 3 = 5. \boxed{5}", True), ("a", r"2 + 3 = 6. \boxed{6} and on", False),
        ("b", r"2 x 3 = 6. \boxed{6}", True), ("b", r"6. \boxed{6}", True),
    ]  # fmt: skip
    samples = [{"id": name, "response": text, "correct": correct} for name, text, correct in answers]
    found = shares(samples, solutions)
    assert found == {"right": 0.75, "right signs": 0.75, "right, of those": 2 / 3, "text after the box": 0.25}
