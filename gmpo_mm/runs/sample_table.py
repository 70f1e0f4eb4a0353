"""A few responses as a table for trackers: what was asked, with pictures, answered, graded, and what advantage it got."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from gmpo_mm.runs.progress import clean

LONGEST_TEXT = 4000
"""Characters of a cell; the middle of a longer text is left out. samples/ has all of it."""
LARGEST_PICTURE = 512
"""Pixels of a picture's longer side."""
_MARKDOWN = str.maketrans({c: f"&#{ord(c)};" for c in "\\`*_{}[]()#+-.!|<>&~:\"'$^="} | {"\n": "<br>"})


@dataclass(frozen=True)
class SampleTable:
    """`pictures` has the pictures of each row, an empty list where it has none."""

    columns: list[str]
    rows: list[list[Any]]
    pictures: list[list[Image.Image]]

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]], pictures: Sequence[Sequence[Image.Image]]) -> SampleTable:
        """From rows of `samples/`; a column that only some rows have is empty in the others."""
        columns = list(dict.fromkeys(name for row in rows for name in row))
        shrunk: dict[int, Image.Image] = {}  # the responses of a group share their pictures
        for picture in (one for row in pictures for one in row):
            if id(picture) not in shrunk:
                shrunk[id(picture)] = _shrink(picture)
        by_column = [_column([row.get(name) for row in rows]) for name in columns]
        cells = [list(row) for row in zip(*by_column, strict=True)]
        return cls(columns, cells, [[shrunk[id(picture)] for picture in row] for row in pictures])

    @property
    def has_pictures(self) -> bool:
        """Whether any row has a picture."""
        return any(self.pictures)

    def markdown(self) -> str:
        """The table in Markdown. Texts are untrusted: no mark-up, link or picture of theirs is obeyed."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return "\n".join("| " + " | ".join(self._escaped(cell, i) for cell in line) + " |" for i, line in enumerate(lines))

    @staticmethod
    def _escaped(cell: Any, line: int) -> str:
        text = f"{cell:.4g}" if isinstance(cell, float) else "" if cell is None else str(cell)
        return text if line == 1 else text.translate(_MARKDOWN)


def _column(values: Sequence[Any]) -> list[Any]:
    """Cells of one type, which wandb asks for: text where any is text."""
    cells = [_cell(value) for value in values]
    is_text = any(isinstance(cell, str) for cell in cells)
    return [str(cell) if is_text and cell is not None else cell for cell in cells]


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value if value is None or isinstance(value, (bool, int, float)) else clean(str(value))
    text = clean(value, newlines=True)
    half = LONGEST_TEXT // 2
    return text if len(text) <= LONGEST_TEXT else f"{text[:half]} ... {text[-half:]}"


def _shrink(picture: Image.Image) -> Image.Image:
    made = picture.convert("RGB")
    made.thumbnail((LARGEST_PICTURE, LARGEST_PICTURE))
    return made
