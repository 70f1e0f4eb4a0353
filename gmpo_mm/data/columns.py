"""Which columns hold problems, answers and images where the configuration does not say so and the data has others."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from gmpo_mm.data.records import IMAGE_MARK
from gmpo_mm.data.sources import Rows
from gmpo_mm.errors import DataError

OTHER_NAMES: dict[str, tuple[tuple[str, ...], ...]] = {
    "prompt_key": (("problem", "question", "query", "instruction"),),
    "answer_key": (
        ("ground_truth", "gold", "final_answer", "gold_answer", "correct_answer", "expected_answer"),
        ("solution",),
    ),
    "image_key": (("image", "picture", "pictures"),),
}
"""Names that a column may have in place of its key's default; those of a later group count where none of the first is."""


def other_columns(rows: Rows, keys: Mapping[str, str], given: Collection[str], name: str) -> dict[str, str]:
    """Key -> column for each of `keys` (name -> column) that is not `given` and whose column is not there.

    A column is taken only where it is the one that can be meant; DataError where several can. Image columns are taken only
    where a problem has an `<image>`. `rows` are the data's first ones, `name` is for messages.
    """
    found: dict[str, str] = {}
    columns = rows.columns
    for key, groups in OTHER_NAMES.items():
        if key in given or keys[key] in columns or (key == "answer_key" and "answers" in columns):
            continue
        if key == "image_key" and not _shows_images(rows, found.get("prompt_key", keys["prompt_key"])):
            continue
        there = next((hits for group in groups if (hits := [c for c in group if c in columns])), [])
        if len(there) > 1:
            raise DataError(
                f"{name}: no column {keys[key]!r}, and {' or '.join(map(repr, there))} may be meant; say which with "
                f"data.{key}={there[0]} or the other"
            )
        if there:
            found[key] = there[0]
    return found


def _shows_images(rows: Rows, column: str) -> bool:
    texts = rows.column(column) if column in rows.columns else []
    return any(isinstance(text, str) and IMAGE_MARK in text for text in texts)
