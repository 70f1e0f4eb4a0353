"""Arithmetic in words, one to three steps: what a small pretrained model can nearly do.

Splits, for one seed:

- ``train``: the stories of training with numbers that are not held out;
- ``test``: the same kinds of calculation in stories that training never shows, with the held-out numbers;
- ``transfer``: kinds of calculation that training never asks for, with the held-out numbers.

A set of numbers is held out or not, whatever its order and the kind of problem. The same seed gives the same problems on each
machine, and the first n problems of a larger split are the smaller split.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gmpo_mm.errors import DataError
from gmpo_mm.toys.word_problem_texts import ITEMS, KINDS, NAMES, Kind

SPLITS = ("train", "test", "transfer")
HELD_OUT_SHARE = 4
"""One set of numbers of this many is kept out of training."""
LARGEST = 10_000
"""Problems of a split at most; with more, kinds of few numbers would run out of new ones."""


@dataclass(frozen=True)
class WordProblem:
    """One problem: its question, the numbers in it, and the calculations that lead to the answer."""

    kind: str
    story: str
    text: str
    numbers: tuple[int, ...]
    calculations: tuple[str, ...]
    answer: int

    @property
    def solution(self) -> str:
        """The calculations one after the other, then the answer in a box."""
        return " ".join(f"{calculation}." for calculation in self.calculations) + f" \\boxed{{{self.answer}}}"


def is_held_out(numbers: tuple[int, ...]) -> bool:
    """Whether problems with these numbers, in any order, are kept out of training."""
    digest = hashlib.sha256(",".join(str(number) for number in sorted(numbers)).encode()).digest()
    return digest[0] % HELD_OUT_SHARE == 0


def make_problems(split: str, size: int, seed: int = 0) -> list[WordProblem]:
    """The first `size` problems of a split, in which the kinds take turns and no problem comes twice.

    Raises DataError for an unknown split and a size beyond `LARGEST`.
    """
    if split not in SPLITS:
        raise DataError(f"split: {split!r} is unknown; take one of {', '.join(SPLITS)}")
    if not 0 <= size <= LARGEST:
        raise DataError(f"{split}: {size:,} problems were asked for; ask for at most {LARGEST:,}")
    problems: dict[str, WordProblem] = {}
    draws = _draw(split, seed)
    while len(problems) < size:
        problem = next(draws)
        problems.setdefault(problem.text, problem)
    return list(problems.values())


def make_rows(split: str, size: int, seed: int = 0) -> list[dict[str, Any]]:
    """Problems as records. Raises DataError as `make_problems` does."""
    return [
        {
            "problem": problem.text,
            "answer": str(problem.answer),
            "id": f"{split}-{seed}-{index}",
            "source": "word_problems",
            "kind": problem.kind,
            "steps": len(problem.calculations),
            "numbers": list(problem.numbers),
            "solution": problem.solution,
        }
        for index, problem in enumerate(make_problems(split, size, seed))
    ]


def _draw(split: str, seed: int) -> Iterator[WordProblem]:
    """Problems without end, in an order that seed and split decide; the kinds take turns."""
    # Python promises the same sequence on each version for random() and for text seeds, not for its other draws.
    uniform = random.Random(f"word problems {seed} {split}").random
    kinds = [kind for kind in KINDS if getattr(kind, split)]
    while True:
        for kind in kinds:
            while (found := _numbers(kind, uniform)) is None or is_held_out(tuple(found.values())) != (split != "train"):
                pass
            stories = getattr(kind, split)
            story = stories[int(uniform() * len(stories))]
            name, friend = (int(uniform() * (len(NAMES) - less)) for less in (0, 1))
            words = {
                "name": NAMES[name],
                "friend": NAMES[friend + (friend >= name)],
                "items": ITEMS[int(uniform() * len(ITEMS))],
            }
            text = story.format(**words, **found)
            calculations, answer = calculate(kind, found)
            yield WordProblem(kind.name, story, text, tuple(found.values()), calculations, answer)


def _numbers(kind: Kind, uniform: Any) -> dict[str, int] | None:
    """Numbers within the kind's ranges; None where one value on the way is not a positive whole number."""
    found = {name: low + int(uniform() * (high - low + 1)) for name, (low, high) in kind.ranges.items()}
    if kind.name == "quotient":
        found["a"] *= found["b"]
    try:
        calculate(kind, found)
    except ArithmeticError:
        return None
    return found


def calculate(kind: Kind, numbers: dict[str, int]) -> tuple[tuple[str, ...], int]:
    """The kind's calculations with these numbers, as text, and the last result.

    Raises ArithmeticError where a result is not a positive whole number.
    """
    known = dict(numbers)
    texts = []
    for step in kind.steps:
        left, sign, right = (known.get(part, part) for part in step.split())
        a, b = int(left), int(right)
        value = {"+": a + b, "-": a - b, "*": a * b, "/": a // b}[str(sign)]
        if value < 1 or (sign == "/" and a % b):
            raise ArithmeticError(f"{a} {sign} {b}")
        texts.append(f"{a} {sign} {b} = {value}")
        known |= {"y": known.get("x", 0), "x": value}
    return tuple(texts), known["x"]
