r"""CountDown: an expression that uses every given number exactly once and gives the target (TinyZero's task).

    answer  := sum | sum = integer | integer = sum
    sum     := product ((+ | -) product)*
    product := signed ((* | /) signed)*
    signed  := (+ | -)* atom
    atom    := integer | ( sum ) | { sum } | \frac group group

A text outside this grammar is no expression; `_COMMANDS` and `_CHARACTERS` are other spellings of its signs.
Nothing is evaluated as code: length and depth are bounded, and what uses the right numbers is computed in
exact fractions.
"""

import json
import operator
import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from gmpo_mm.verifiers.extraction import Extraction, extract_answer, remove_invisible
from gmpo_mm.verifiers.grading import DEFAULT_TIMEOUT, Gold, Grade, Kind

VERSION = 1
MAX_LENGTH = 1024  # characters of an answer
MAX_DEPTH = 64
MAX_DIGITS = 18
MAX_SHOWN = 60

_CHARACTERS = str.maketrans("×·⋅∗✕÷∕⁄−–—﹣\u00a0\u2009\u202f", "*****///----   ")
_CHARACTERS |= {0xFF01 + i: 0x21 + i for i in range(94)}  # full-width ASCII
_COMMANDS = {"times": "*", "cdot": "*", "ast": "*", "div": "/"}  # the others are fractions
_TOKEN = re.compile(
    r"\s+|\$|\\[()\[\],;:! ]|\\(?:left|right|[bB]ig[lr]?|displaystyle|quad)(?![A-Za-z])"
    r"|([0-9]+|[-+*/(){}=])|\\(times|cdot|ast|div|[dt]?frac)(?![A-Za-z])|(.)",
    re.DOTALL,
)
_CLOSING = {"(": ")", "{": "}"}
_OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
_PRIORITY = {"+": 1, "-": 1, "*": 2, "/": 2}

Item = int | str  # a number, an operator or `negate`, in postfix order


class NotAnExpression(ValueError):
    """The text is outside the grammar or its bounds; the message says where."""


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
    if extraction != "auto":
        return extract_answer(response, extraction)
    return extract_answer(response, "answer_tags") or extract_answer(response, "boxed")


def check_expression(answer: str, problem: Problem) -> Verdict:
    """Does the answer solve the problem? No text can make this raise, and its time is linear in the text."""
    try:
        postfix, stated = parse(answer)
    except NotAnExpression as error:
        return Verdict(False, False, f"not an expression: {error}")
    used = [item for item in postfix if isinstance(item, int)]
    if Counter(used) != Counter(problem.numbers):
        why = f"uses {used[:12]} where {list(problem.numbers[:12])} must each be used once"
        return Verdict(False, True, why)
    try:
        value = compute(postfix)
    except ZeroDivisionError:
        return Verdict(False, True, "divides by zero")
    if value != problem.target:
        return Verdict(False, True, f"gives {str(value)[:MAX_SHOWN]}, not {problem.target}")
    if stated not in (None, problem.target):
        return Verdict(False, True, f"says that the result is {stated}, not {problem.target}")
    return Verdict(True, True, f"uses every number once and gives {problem.target}")


def grade_countdown(
    predictions: Sequence[str | None],
    golds: Sequence[Gold],
    kind: Kind = "response",
    *,
    extraction: Extraction = "auto",
    timeout: float = DEFAULT_TIMEOUT,
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


def parse(answer: str) -> tuple[list[Item], int | None]:
    """The expression in postfix order, and the result that the answer states beside it (None without one)."""
    sides, stated = _sides(answer), None
    if len(sides) == 2:
        for side in reversed(sides):
            if side[-1:] and side[-1].isdigit() and side[:-1] in ([], ["-"]):
                sides.remove(side)
                stated = int("".join(side))
                break
    if len(sides) > 1:
        raise NotAnExpression("more than one =, or no number beside it")
    tokens = sides[0][::-1]  # the next one is the last
    postfix = _operation(tokens, 0, 1)
    if tokens:
        raise NotAnExpression(f"{tokens[-1]!r} after the expression")
    return postfix, stated


def compute(postfix: Sequence[Item]) -> Fraction:
    """Exact value of an expression in postfix order; ZeroDivisionError where it divides by zero."""
    stack: list[Fraction] = []
    for item in postfix:
        if isinstance(item, int):
            stack.append(Fraction(item))
        elif item == "negate":
            stack.append(-stack.pop())
        else:
            right = stack.pop()
            stack.append(_OPERATORS[item](stack.pop(), right))
    return stack[0]


def _sides(text: str) -> list[list[str]]:
    """The tokens on each side of a `=`."""
    if len(text) > MAX_LENGTH:
        raise NotAnExpression(f"longer than {MAX_LENGTH} characters")
    sides: list[list[str]] = [[]]
    for match in _TOKEN.finditer(remove_invisible(text).translate(_CHARACTERS).strip().removesuffix(".")):
        token, command, other = match.groups()
        if other:
            raise NotAnExpression(f"{match.string[match.start() :][:12]!r}")
        if token and len(token) > MAX_DIGITS:
            raise NotAnExpression(f"a number of more than {MAX_DIGITS} digits")
        if token == "=":
            sides.append([])
        elif token or command:
            sides[-1].append(token or _COMMANDS.get(command, "\\frac"))
    return sides


def _operation(tokens: list[str], priority: int, depth: int) -> list[Item]:
    """An operand and all that follows it by operators of a higher priority; takes them off the tokens."""
    if depth > MAX_DEPTH:
        raise NotAnExpression("nested too deep")
    negative = False
    while tokens and tokens[-1] in "+-":
        negative ^= tokens.pop() == "-"
    postfix = _atom(tokens, depth)
    if negative:
        postfix.append("negate")
    while tokens and _PRIORITY.get(tokens[-1], 0) > priority:
        sign = tokens.pop()
        postfix += [*_operation(tokens, _PRIORITY[sign], depth), sign]
    return postfix


def _atom(tokens: list[str], depth: int, in_fraction: bool = False) -> list[Item]:
    r"""A number, group or fraction; of the digits in `\frac12` one, as TeX reads it."""
    token = tokens.pop() if tokens else "the end"
    if in_fraction and token[1:].isdigit():
        tokens.append(token[1:])
        token = token[0]
    if token.isdigit():
        return [int(token)]
    if token == "\\frac" and not in_fraction:
        return [*_atom(tokens, depth, True), *_atom(tokens, depth, True), "/"]
    if token != "{" and (token != "(" or in_fraction):
        raise NotAnExpression(f"unexpected {token}")
    postfix = _operation(tokens, 0, depth + 1)
    if not tokens or tokens.pop() != _CLOSING[token]:
        raise NotAnExpression(f"{token!r} is not closed by {_CLOSING[token]!r}")
    return postfix
