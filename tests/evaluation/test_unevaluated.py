"""An evaluation accepts a copy of the problem's own expression, as published numbers do, unless it is told to reject it."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from gmpo_mm.evaluation.evaluate import grade
from gmpo_mm.evaluation.generators import Generated
from gmpo_mm.evaluation.settings import EvaluateSettings
from gmpo_mm.verifiers import grader_info

RECORD = SimpleNamespace(id="p", problem="What is $2^{10}$?", answers=("1024",))


@pytest.mark.parametrize(("unevaluated", "status"), [("accept", "graded"), ("reject", "not_evaluated")])
def test_the_setting_decides_what_a_copy_of_the_problem_is(unevaluated: str, status: str) -> None:
    spec = SimpleNamespace(grader=SimpleNamespace(**grader_info("math", "boxed", 3.0, unevaluated)))
    responses = [Generated(text, 3, "stop") for text in (r"\boxed{2^{10}}", r"\boxed{1024}")]
    samples = grade(cast(Any, SimpleNamespace(records=[RECORD])), cast(Any, spec), [(0, responses)])
    assert [sample.status for sample in samples] == [status, "graded"]
    assert [sample.correct for sample in samples] == [unevaluated == "accept", True]


def test_published_protocols_accept_it_by_default_and_the_stamp_says_what_was_done() -> None:
    assert EvaluateSettings().unevaluated == "accept"
    assert [grader_info("math", "boxed", 3.0, value)["unevaluated"] for value in ("accept", "reject")] == ["accept", "reject"]
