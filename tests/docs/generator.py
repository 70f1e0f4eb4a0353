"""The generator of the reference pages, environments/docs/generate.py, which is no module of the package."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"


def load_generator() -> ModuleType:
    """environments/docs/generate.py as a module."""
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "environments/docs/generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows_below(text: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its two head lines."""
    below = text.split(f"\n{heading}\n", 1)[1]
    lines = re.split(r"\n#+ ", below)[0].splitlines()
    cells = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in lines
        if line.startswith("|")
    ]
    return cells[2:]
