"""The bundled task: areas of rectangles and triangles, lengths of joined segments; the numbers stand only in the picture.

Everything is a pure function of (seed, split, index): no random state, no system font, no anti-aliasing. So the same call
gives the same pixels on each machine.

Splits, for one seed:

- ``train``: all number pairs but the held-out ones, in the pictures that are not held out;
- ``test_pictures``: the number pairs of ``train`` in pictures (positions of shape and digits) that ``train`` never shows;
- ``test_combinations``: number pairs that no other split shows, in either order, for any kind of problem.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from PIL import Image

from gmpo_mm.errors import DataError

KINDS = ("rectangle", "triangle", "segments")
SPLITS = ("train", "test_pictures", "test_combinations")
NUMBERS = range(2, 10)
PICTURE_SIZE = 56
BUNDLED_SEED = 0
"""The seed whose held-out pairs and pictures the bundled model has not seen."""

HELD_OUT_PAIRS = 5
HELD_OUT_PICTURES = 8
"""One picture of this many is kept for ``test_pictures``."""

JITTERS = 9**3
"""Shape, first and second digit each move by -1, 0 or +1 pixel in x and in y."""

QUESTIONS = {
    "rectangle": "Find the area of the rectangle.",
    "triangle": "Find the area of the triangle.",
    "segments": "Find the length of the segment AC.",
}

# 5 x 7 bitmaps, one string of rows per digit: a font of our own, so that no Pillow or system font decides what is seen.
_DIGITS = {
    2: "01110 10001 00001 00010 00100 01000 11111",
    3: "11111 00010 00100 00010 00001 10001 01110",
    4: "00010 00110 01010 10010 11111 00010 00010",
    5: "11111 10000 11110 00001 00001 10001 01110",
    6: "00110 01000 10000 11110 10001 10001 01110",
    7: "11111 00001 00010 00100 01000 01000 01000",
    8: "01110 10001 10001 01110 10001 10001 01110",
    9: "01110 10001 10001 01111 00001 00010 01100",
}
_DIGIT_SCALE = 2
_BLACK = (0, 0, 0)
_WHITE = (255, 255, 255)


@dataclass(frozen=True)
class Combination:
    """What is asked about which two numbers; for a triangle `a * b` is even, so each answer is a whole number."""

    kind: str
    a: int
    b: int

    @property
    def answer(self) -> int:
        """The right answer."""
        if self.kind == "rectangle":
            return self.a * self.b
        return self.a * self.b // 2 if self.kind == "triangle" else self.a + self.b


@dataclass(frozen=True)
class Problem:
    """One problem; `jitter` (0 to JITTERS - 1) says where the shape and its digits stand in the picture."""

    id: str
    combination: Combination
    jitter: int

    @property
    def text(self) -> str:
        """The question, with the placeholder of its one picture; it holds no number."""
        return "<image>" + QUESTIONS[self.combination.kind]

    @property
    def answer(self) -> str:
        """The right answer as text."""
        return str(self.combination.answer)


def make_problem(split: str, index: int, seed: int = BUNDLED_SEED) -> Problem:
    """Problem `index` of a split; it walks through all combinations before it shows a second picture of any.

    Raises DataError for an unknown split, a negative index, or an index beyond the pictures that exist.
    """
    if split not in SPLITS:
        raise DataError(f"split: {split!r} is unknown; take one of {', '.join(SPLITS)}")
    order = combinations(split, seed)
    combination = order[index % len(order)]
    pictures = _jitters(split, combination, seed)
    if not 0 <= index // len(order) < len(pictures):
        raise DataError(
            f"index: {index} is not in split {split!r}; take one from 0 to {split_capacity(split, seed) - 1}"
        )
    return Problem(f"{split}-{seed}-{index}", combination, pictures[index // len(order)])


def make_rows(split: str, size: int, seed: int = BUNDLED_SEED) -> list[dict[str, Any]]:
    """The first `size` problems of a split as records, pictures as PNG bytes. Raises DataError as `make_problem` does."""
    rows = []
    for index in range(size):
        problem = make_problem(split, index, seed)
        png = io.BytesIO()
        draw(problem).save(png, format="PNG")
        rows.append(
            {
                "problem": problem.text,
                "images": [{"bytes": png.getvalue(), "path": None}],
                "answer": problem.answer,
                "id": problem.id,
                "source": "synthetic_geometry",
                "kind": problem.combination.kind,
            }
        )
    return rows


def split_capacity(split: str, seed: int = BUNDLED_SEED) -> int:
    """How many different problems of a split can surely be made."""
    order = combinations(split, seed)
    return len(order) * min(len(_jitters(split, combination, seed)) for combination in order)


@lru_cache(maxsize=16)
def combinations(split: str, seed: int = BUNDLED_SEED) -> tuple[Combination, ...]:
    """The combinations of a split, in its order."""
    held_out, wanted = held_out_pairs(seed), split == "test_combinations"
    chosen = [c for c in _all_combinations() if ((min(c.a, c.b), max(c.a, c.b)) in held_out) == wanted]
    return tuple(sorted(chosen, key=lambda combination: _hash(seed, split, combination)))


@lru_cache(maxsize=16)
def held_out_pairs(seed: int = BUNDLED_SEED) -> frozenset[tuple[int, int]]:
    """The number pairs (smaller, larger) that only ``test_combinations`` shows."""
    pairs = [(a, b) for a in NUMBERS for b in NUMBERS if a < b]
    return frozenset(sorted(pairs, key=lambda pair: _hash(seed, "held-out pair", pair))[:HELD_OUT_PAIRS])


def draw(problem: Problem) -> Image.Image:
    """The picture: RGB, PICTURE_SIZE square, black on white."""
    picture = Image.new("RGB", (PICTURE_SIZE, PICTURE_SIZE), _WHITE)
    shape, first, second = _offsets(problem.jitter)
    combination = problem.combination
    if combination.kind == "segments":
        x, y = 4 + shape[0], 38 + shape[1]
        _fill(picture, x, y, x + 47, y + 1)
        for end in (x, x + 23, x + 46):
            _fill(picture, end, y - 4, end + 1, y + 5)
        corners = ((11, 16), (34, 16))
    else:
        _draw_area_shape(picture, combination.kind, 20 + shape[0], 4 + shape[1])
        corners = ((30, 39), (5, 13))
    for number, corner, offset in zip((combination.a, combination.b), corners, (first, second)):
        _draw_digit(picture, number, corner[0] + offset[0], corner[1] + offset[1])
    return picture


def _draw_area_shape(picture: Image.Image, kind: str, x: int, y: int) -> None:
    side = 30
    _fill(picture, x, y, x + 1, y + side + 1)
    _fill(picture, x, y + side, x + side + 1, y + side + 1)
    if kind == "rectangle":
        _fill(picture, x, y, x + side + 1, y + 1)
        _fill(picture, x + side, y, x + side + 1, y + side + 1)
        return
    for step in range(side + 1):
        _fill(picture, x + step, y + step, x + step + 1, y + step)


def _draw_digit(picture: Image.Image, digit: int, x: int, y: int) -> None:
    for row, bits in enumerate(_DIGITS[digit].split()):
        for column, bit in enumerate(bits):
            if bit == "1":
                left, top = x + column * _DIGIT_SCALE, y + row * _DIGIT_SCALE
                _fill(picture, left, top, left + _DIGIT_SCALE - 1, top + _DIGIT_SCALE - 1)


def _fill(picture: Image.Image, left: int, top: int, right: int, bottom: int) -> None:
    """Blacken a box, both corners included."""
    picture.paste(_BLACK, (left, top, right + 1, bottom + 1))


def _offsets(jitter: int) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    cells = (jitter % 9, jitter // 9 % 9, jitter // 81)
    shape, first, second = ((cell % 3 - 1, cell // 3 - 1) for cell in cells)
    return shape, first, second


@lru_cache(maxsize=1024)
def _jitters(split: str, combination: Combination, seed: int) -> tuple[int, ...]:
    """The positions that a split may show of a combination, in its order."""
    hashes = {jitter: _hash(seed, "picture", combination, jitter) for jitter in range(JITTERS)}
    if split != "test_combinations":
        for_test = split == "test_pictures"
        hashes = {jitter: value for jitter, value in hashes.items() if (value % HELD_OUT_PICTURES == 0) == for_test}
    return tuple(sorted(hashes, key=lambda jitter: hashes[jitter]))


def _all_combinations() -> Iterator[Combination]:
    for kind in KINDS:
        for a in NUMBERS:
            for b in NUMBERS:
                if kind != "triangle" or a * b % 2 == 0:
                    yield Combination(kind, a, b)


def _hash(*parts: object) -> int:
    """A number from the parts' text: unlike `random`, the same on each Python version."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big")
