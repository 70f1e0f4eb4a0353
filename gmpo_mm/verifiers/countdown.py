r"""CountDown: an expression that uses every given number exactly once and gives the target (TinyZero's task).

Of the grammar of `expressions`, only integers, `+ - * /`, brackets and fractions are taken; the result may
stand behind or before a `=`.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from gmpo_mm.verifiers.expressions import NotExpression, parse_expression
from gmpo_mm.verifiers.extraction import Extraction, extract_answer
from gmpo_mm.verifiers.grading import DEFAULT_TIMEOUT, Gold, Grade, Kind
from gmpo_mm.verifiers.normalize import canonical
from gmpo_mm.verifiers.trees import Tree, subtrees
from gmpo_mm.verifiers.values import constant_of

MAX_LENGTH = 400  # characters of an answer
MAX_SHOWN = 60
_ALLOWED = re.compile(r"(?:\\frac(?![A-Za-z])|[-+*/(){}= ]|(?<!\d)\d{1,18}(?!\d))+", re.ASCII)
_KINDS = {"num", "neg", "add", "mul", "div"}
_NUMBER = re.compile(r" ?(?:- ?)?\d+ ?")


class Problem(NamedTuple):
    """The given numbers and the target."""

    numbers: tuple[int, ...]
    target: int


class Verdict(NamedTuple):
    """`is_expression` is what the format score asks for; `why` says what was wrong."""

    correct: bool
    is_expression: bool
    why: str


def read_problem(gold: Any) -> Problem:
    """A gold, `{"numbers": [..], "target": ..}` as JSON text or as a mapping; ValueError for another."""
    try:
        data = json.loads(gold) if isinstance(gold, (str, bytes)) else gold
        target, *numbers = (_integer(number) for number in [data["target"], *data["numbers"]])
        if min(numbers) < 0:
            raise ValueError
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
        form = '{"numbers": [..], "target": ..} with integers, one number at least and none below 0'
        raise ValueError(f"CountDown gold {str(gold)[:MAX_SHOWN]!r} must be {form}") from None
    return Problem(tuple(numbers), target)


def read_problems(gold: Any) -> list[Problem]:
    """The problems of a gold that is one or a list of them; ValueError also for an empty list."""
    gold = gold.tolist() if hasattr(gold, "tolist") else gold
    return [read_problem(one) for one in (gold if isinstance(gold, (list, tuple)) and gold else [gold])]


def _integer(value: Any) -> int:
    if isinstance(value, (bool, str)) or int(value) != value:
        raise ValueError(value)
    return int(value)


def extract_expression(response: str, extraction: Extraction = "auto") -> str | None:
    r"""The answer's text; `auto` takes the last `<answer>` pair (or a box in it), else the last box."""
    ways: Sequence[Extraction] = ("answer_tags", "boxed") if extraction == "auto" else (extraction,)
    return next(filter(None, (extract_answer(response, way) for way in ways)), None)


def check_expression(answer: str, problem: Problem) -> Verdict:
    """Does the answer solve the problem? No text can make this raise, and its time is bounded."""
    try:
        tree, stated = parse(answer)
    except NotExpression as error:
        return Verdict(False, False, f"not an expression: {error}")
    used = sorted(int(node[1]) for node in subtrees(tree) if node[0] == "num")
    value = constant_of(tree)
    if used != sorted(problem.numbers):
        why = f"uses {used[:12]} where {list(problem.numbers[:12])} must each be used once"
    elif value != problem.target:
        why = "divides by zero" if value is None else f"gives {str(value)[:MAX_SHOWN]}, not {problem.target}"
    elif stated not in (None, problem.target):
        why = f"says that the result is {stated}, not {problem.target}"
    else:
        return Verdict(True, True, f"uses every number once and gives {problem.target}")
    return Verdict(False, True, why)


def grade_countdown(
    predictions: Sequence[str | None], golds: Sequence[Gold], kind: Kind = "response", *,
    extraction: Extraction = "auto", timeout: float = DEFAULT_TIMEOUT,
) -> list[Grade]:
    """Grades of a batch; each gold is a problem (see `read_problem`) or a list of them. No time is needed.

    A gold that can't be read gives status `error`, since no answer could be right.
    """
    return [_grade(*row, kind, extraction) for row in zip(predictions, golds, strict=True)]


def _grade(prediction: object, gold: Gold, kind: str, extraction: Extraction) -> Grade:
    answer = None
    if isinstance(prediction, str):
        answer = extract_expression(prediction, extraction) if kind == "response" else prediction.strip()
    try:
        problems = read_problems(gold)
    except ValueError as error:
        return Grade(False, "error", answer or None, str(error))
    if not answer:
        return Grade(False, "no_answer", None, "no answer")
    verdicts = [check_expression(answer, problem) for problem in problems]
    best = max(verdicts, key=lambda verdict: verdict.correct)
    return Grade(best.correct, "graded", answer, best.why)


def parse(answer: str) -> tuple[Tree, int | None]:
    """The expression, and the result that the answer states beside it; NotExpression for any other text."""
    text, stated = answer.strip().removesuffix("."), None
    if len(text) > MAX_LENGTH:
        raise NotExpression(f"longer than {MAX_LENGTH} characters")
    # In canonical texts, `0.(3)` is a fraction and `3+5}` has lost its brace.
    repaired = re.search("[.．]", text) or text.count("}") > text.count("{")
    text = canonical(text)
    if repaired or not _ALLOWED.fullmatch(text):
        raise NotExpression("more than integers, brackets and signs of arithmetic")
    for pattern in (r"(?P<formula>[^=]*)=(?P<stated>[- \d]+)", r"(?P<stated>[- \d]+)=(?P<formula>[^=]*)"):
        if stated is None and (found := re.fullmatch(pattern, text)) and _NUMBER.fullmatch(found["stated"]):
            text, stated = found["formula"], int(found["stated"].replace(" ", ""))
    tree = parse_expression(text)
    kinds = Counter(node[0] for node in subtrees(tree))
    if kinds["mul"] != text.count("*") or not kinds.keys() <= _KINDS:
        raise NotExpression("a product without a sign")
    if any(node[0] == "num" and node[1].denominator != 1 for node in subtrees(tree)):
        raise NotExpression("a mixed number")
    return tree, stated
