"""Encoded pictures, small files of rows, and the `data` section's keys, for the tests here."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from gmpo_mm.data import RecordKeys, Records

KEYS = RecordKeys(prompt_key="problem")


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    """The file's bytes of a picture."""
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def plain(width: int = 60, height: int = 40, color: str = "red") -> bytes:
    """PNG bytes of one colour."""
    return encoded(Image.new("RGB", (width, height), color))


def records_of(*rows: dict[str, Any]) -> Records:
    """Records from rows in memory; problem and answer are filled in where a row has none."""
    return Records([{"problem": "What is 1 + 1?", "answer": "2", **row} for row in rows], KEYS, "test data")


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> str:
    """A JSON Lines file; returns its path as a spec."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@dataclass
class DataSection:
    """The keys of the `data` section that prompts read."""

    format_prompt: str | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    max_prompt_length: int = 512
    filter_overlong_prompts: bool = True
