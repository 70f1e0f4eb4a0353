"""Reads the vectors, and finds out when one is not as it was made."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "vectors"
SUMS = "SHA256SUMS"


class VectorError(Exception):
    """A vector file that is missing or was altered; the message names the file and the fix."""


@dataclass(frozen=True)
class Case:
    """One configuration of one loss: its inputs by batch, and what is right for each."""

    name: str
    config: dict[str, Any]
    batches: dict[str, dict[str, Any]]
    expected: dict[str, dict[str, Any]]


def load(folder: Path = FOLDER) -> list[Case]:
    """All cases of a folder, each file compared with its sum.

    Raises:
        VectorError: a file, or the list of sums, that is missing, cut off or changed.
    """
    cases = []
    for line in _read(folder / SUMS).decode().splitlines():
        wanted, _, name = line.partition("  ")
        content = _read(folder / name)
        if hashlib.sha256(content).hexdigest() != wanted:
            raise VectorError(
                f"{folder / name} is not the file that {SUMS} names: it was cut off or changed. "
                "Get it again, or make it anew: python -m conformance.generate"
            )
        vector = json.loads(content)
        for case in vector["cases"]:
            expected = case["expected"]
            if "advantages" in case["config"]:
                expected = {batch: as_gradient(found["advantages"]) for batch, found in expected.items()}
            batches = {name: batch for name, batch in vector["batches"].items() if name in expected}
            cases.append(Case(case["name"], case["config"], batches, expected))
    return cases


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise VectorError(f"{path}: {error.strerror}. Make it: python -m conformance.generate") from error


def as_gradient(advantages: list[list[float]]) -> dict[str, Any]:
    """Advantages in the place of a gradient, so that both are compared in one way."""
    return {"loss": 0.0, "grad": advantages, "clip_share": {}}
