"""The benchmarks that come with the package."""

from __future__ import annotations

from pathlib import Path

BENCHMARKS = Path(__file__).parent / "benchmarks"


def shipped_benchmarks() -> list[str]:
    """Their names."""
    return sorted(path.stem for path in BENCHMARKS.glob("*.yaml"))
