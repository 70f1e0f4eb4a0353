"""What every benchmark's `--json FILE` holds beside its numbers: ratios of two things in one run, machine, versions."""

from __future__ import annotations

import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

PACKAGES = ("torch", "transformers", "math-verify", "trl")


def machine() -> dict[str, Any]:
    """What it runs on, and how busy that is."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg(),
    }


def versions() -> dict[str, str]:
    """Python's version, and those of the packages that the ratios depend on, where they are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


class Ratios:
    """Ratios by name, each with the direction in which it gets better: what `benchmarks.check` compares."""

    def __init__(self) -> None:
        self.entries: dict[str, dict[str, Any]] = {}

    def add(self, name: str, above: float, below: float, better: Literal["lower", "higher"]) -> None:
        """`above / below`; left out where `below` is 0: the comparison then says that it is missing."""
        if below:
            self.entries[name] = {"value": above / below, "better": better}

    def write(self, file: Path, numbers: dict[str, Any]) -> None:
        """Write `numbers`, the ratios, the machine and the versions."""
        everything = numbers | {"ratios": self.entries, "machine": machine(), "versions": versions()}
        file.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")
