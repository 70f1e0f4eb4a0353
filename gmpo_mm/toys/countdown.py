"""CountDown problems: write an expression that uses each given number exactly once and gives the target (TinyZero's task).

A problem is made from its solution: numbers are drawn, then joined two by two by `+ - * /` until one value is left, which is
the target if it lies in range. All values on the way are positive integers. So each problem can be solved, but not each
solvable problem can be drawn (those that need a fraction or a negative number on the way can't).

The same seed and ranges give the same problems on each machine. The first n problems of a larger split are the smaller split,
and the test split does not depend on the training split's size.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gmpo_mm.errors import DataError

HOLD_OUTS = ("problems", "numbers")
OPERATORS = "+-*/"
FRUITLESS = 200_000
"""Draws without a new problem after which the ranges are taken to be used up."""

PROMPTS = {
    "ours": (
        "Write an arithmetic expression that equals {target}. It has to use each of the numbers {listed} exactly once, and "
        "nothing else but +, -, *, / and parentheses. Think about it first; then give the expression between <answer> and "
        "</answer>, for example <answer>(1 + 2) / 3</answer>."
    ),
    # The question as TinyZero publishes it (Jiayi-Pan/TinyZero, examples/data_preprocess/countdown.py, Apache 2.0), without
    # the frame of a conversation around it, which the chat template gives.
    "tinyzero": (
        "Using the numbers {numbers}, create an equation that equals {target}. You can use basic arithmetic operations (+, -, "
        "*, /) and each number can only be used once. Show your work in <think> </think> tags. And return the final answer in "
        "<answer> </answer> tags, for example <answer> (1 + 2) / 3 </answer>."
    ),
    # For models of a million parameters, which read neither instructions nor long texts.
    "short": "{spaced} -> {target}",
}

_SUM, _PRODUCT, _ATOM = 1, 2, 3
_Part = tuple[int, Any]
"""A value, and what it was made from: (part, sign, part), or None for a given number."""


@dataclass(frozen=True)
class CountdownSettings:
    """What is drawn: how many numbers a problem has, their range, the operators, and the range of targets, ends included."""

    operands: tuple[int, ...] = (3, 4)
    min_number: int = 1
    max_number: int = 99
    min_target: int = 1
    max_target: int = 100
    seed: int = 0
    operators: str = OPERATORS

    def __post_init__(self) -> None:
        """Raises DataError for ranges without a problem in them."""
        if not self.operands or min(self.operands) < 2 or max(self.operands) > 8:
            raise DataError(f"numbers: {self.operands} must be counts from 2 to 8")
        if not self.operators or set(self.operators) - set(OPERATORS) or len(set(self.operators)) < len(self.operators):
            raise DataError(f"operators: {self.operators!r} must be some of {OPERATORS}, each once")
        if not 1 <= self.min_number <= self.max_number:
            raise DataError(f"numbers from {self.min_number} to {self.max_number}: give 1 <= the least <= the largest")
        if not 1 <= self.min_target <= self.max_target:
            raise DataError(f"targets from {self.min_target} to {self.max_target}: give 1 <= the least <= the largest")


TINY = CountdownSettings(operands=(3,), operators="+-", max_number=20, max_target=60, seed=0)
"""What models of a million parameters can learn, and the bundled text models have seen: three numbers to add and subtract."""
TINY_TRAIN_SIZE, TINY_TEST_SIZE = 4096, 256
TRAIN_SIZE, TEST_SIZE = 100_000, 1024
"""Of the set that `gmpo-mm data countdown` makes by default."""


@dataclass(frozen=True)
class CountdownProblem:
    """Numbers in the order in which they are shown, the target, and one solution."""

    numbers: tuple[int, ...]
    target: int
    solution: str

    @property
    def key(self) -> tuple[tuple[int, ...], int]:
        """Equal for two problems that differ in the order of their numbers only."""
        return tuple(sorted(self.numbers)), self.target

    @property
    def gold(self) -> str:
        """What the grader reads."""
        return json.dumps({"numbers": list(self.numbers), "target": self.target})

    def text(self, prompt: str = "ours") -> str:
        """The question in one of the wordings of `PROMPTS`."""
        shown = [str(number) for number in self.numbers]
        listed = f"{', '.join(shown[:-1])} and {shown[-1]}"
        return PROMPTS[prompt].format(target=self.target, numbers=list(self.numbers), listed=listed, spaced=" ".join(shown))


def draw_problems(settings: CountdownSettings, stream: str) -> Iterator[CountdownProblem | None]:
    """Problems without end, in an order that settings and stream decide; None for a draw that gave none."""
    # Python promises the same sequence on each version for random() and for text seeds, not for its other draws.
    uniform = random.Random(f"countdown {settings.seed} {stream}").random
    low, span = settings.min_number, settings.max_number - settings.min_number + 1
    count = 0
    while True:
        # A count is kept until a problem has it: drawn anew for each try, the counts that fit the targets more often would win.
        count = count or settings.operands[int(uniform() * len(settings.operands))]
        numbers = tuple(low + int(uniform() * span) for _ in range(count))
        parts: list[_Part] = [(number, None) for number in numbers]
        while len(parts) > 1:
            a = parts.pop(int(uniform() * len(parts)))
            b = parts.pop(int(uniform() * len(parts)))
            joined = _join(a, b, settings.operators[int(uniform() * len(settings.operators))])
            if joined is None:
                break
            parts.append(joined)
        else:
            target = parts[0][0]
            if settings.min_target <= target <= settings.max_target:
                yield CountdownProblem(numbers, target, _write(parts[0])[0])
                count = 0
                continue
        yield None


def make_splits(
    settings: CountdownSettings, train_size: int, test_size: int, hold_out: str = "problems"
) -> dict[str, list[CountdownProblem]]:
    """The splits `train` and `test`; no problem is in them twice, whatever the order of its numbers.

    `hold_out="numbers"` also keeps the numbers of each test problem out of training, in any order and with any target. Raises
    DataError when the ranges hold too few problems.
    """
    if hold_out not in HOLD_OUTS:
        raise DataError(f"hold_out: {hold_out!r} is unknown; take one of {', '.join(HOLD_OUTS)}")
    taken: set[tuple[tuple[int, ...], int]] = set()
    splits: dict[str, list[CountdownProblem]] = {}
    for split, size in (("test", test_size), ("train", train_size)):
        barred = {problem.key[0] for problem in splits.get("test", ())} if hold_out == "numbers" else set()
        splits[split] = _fill(settings, split, size, taken, barred)
    return {"train": splits["train"], "test": splits["test"]}


def make_rows(problems: list[CountdownProblem], split: str, seed: int, prompt: str = "ours") -> list[dict[str, Any]]:
    """Problems as records. Raises DataError for an unknown prompt."""
    if prompt not in PROMPTS:
        raise DataError(f"prompt: {prompt!r} is unknown; take one of {', '.join(PROMPTS)}")
    return [
        {
            "problem": problem.text(prompt),
            "answer": problem.gold,
            "id": f"{split}-{seed}-{index}",
            "source": "countdown",
            "operands": len(problem.numbers),
            "numbers": list(problem.numbers),
            "target": problem.target,
            "solution": problem.solution,
        }
        for index, problem in enumerate(problems)
    ]


def _fill(
    settings: CountdownSettings,
    split: str,
    size: int,
    taken: set[tuple[tuple[int, ...], int]],
    barred: set[tuple[int, ...]],
) -> list[CountdownProblem]:
    """The first `size` problems of a split's stream that are new; their keys are added to `taken`."""
    problems: list[CountdownProblem] = []
    fruitless = 0
    draws = draw_problems(settings, split)
    while len(problems) < size:
        problem = next(draws)
        key = problem.key if problem else None
        if problem is None or key is None or key in taken or key[0] in barred:
            fruitless += 1
            if fruitless == FRUITLESS:
                raise DataError(
                    f"{split}: only {len(problems):,} of {size:,} problems found, and none in the last {FRUITLESS:,} draws; "
                    "ask for fewer, or widen the ranges of numbers and targets"
                )
            continue
        fruitless = 0
        taken.add(key)
        problems.append(problem)
    return problems


def _join(a: _Part, b: _Part, sign: str) -> _Part | None:
    """Two values as one, the larger first where the order matters; None where the result is no positive integer."""
    if sign == "+":
        return a[0] + b[0], (a, sign, b)
    if sign == "*":
        return a[0] * b[0], (a, sign, b)
    if a[0] < b[0]:
        a, b = b, a
    if sign == "-":
        return (a[0] - b[0], (a, sign, b)) if a[0] > b[0] else None
    return (a[0] // b[0], (a, sign, b)) if a[0] % b[0] == 0 else None


def _write(part: _Part) -> tuple[str, int]:
    """The part as text with the parentheses that it needs, and how strongly its outermost operation binds."""
    value, operation = part
    if operation is None:
        return str(value), _ATOM
    a, sign, b = operation
    binds = _SUM if sign in "+-" else _PRODUCT
    right_least = {"+": _SUM, "-": _PRODUCT, "*": _PRODUCT, "/": _ATOM}[sign]
    return f"{_grouped(a, binds)} {sign} {_grouped(b, right_least)}", binds


def _grouped(part: _Part, least: int) -> str:
    """The part's text, in parentheses when it binds less than `least`."""
    text, binds = _write(part)
    return text if binds >= least else f"({text})"
