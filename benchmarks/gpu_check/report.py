"""Results: written to one JSON after each of them, and to one Markdown table."""

from __future__ import annotations

import json
import math
import os
import subprocess
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import torch

JSON_NAME, TABLE_NAME = "gpu_check.json", "gpu_check.md"
UNITS = ("", "ms", "s", "tokens/s", "GiB", "TFLOP/s", "GB/s", "%")


class Report:
    """The results so far. Each is {"part", "name", "value", "unit", "limit", "status", "note"}; `status` is
    "ok", "measured", "skipped" or "failed". `limit` is the largest value that passes (`least`: the smallest).
    """

    def __init__(self, out: Path, facts: dict[str, Any], budget_s: float) -> None:
        self.out = out
        self.part = ""
        self.data: dict[str, Any] = {
            "environment": facts, "budget_s": budget_s, "started": time.time(), "parts": {}, "results": [],
        }  # fmt: skip
        out.mkdir(parents=True, exist_ok=True)

    @classmethod
    def reopen(cls, out: Path) -> Report:
        """Go on with what an earlier process wrote."""
        report = cls.__new__(cls)
        report.out, report.part = out, ""
        report.data = json.loads((out / JSON_NAME).read_text(encoding="utf-8"))
        return report

    # ---- adding
    # --------------------------------------------------------------------------------------------------------

    def measured(self, name: str, value: float, unit: str = "", note: str = "") -> None:
        """A number that nothing is asked of."""
        self._add(name, value, unit, "measured", note)

    def check(
        self,
        name: str,
        value: float,
        limit: float | None = None,
        least: float | None = None,
        unit: str = "",
        note: str = "",
    ) -> None:
        """A number that has to be at most `limit` or at least `least`; a NaN never passes."""
        ok = (limit is None or value <= limit) and (least is None or value >= least)
        bound = f"<= {limit:g}" if limit is not None else f">= {least:g}"
        self._add(name, value, unit, "ok" if ok else "failed", note, bound)

    def skipped(self, name: str, why: str) -> None:
        """Something that was not done, and why."""
        self._add(name, None, "", "skipped", why)

    def failed(self, name: str, error: BaseException) -> None:
        """An error, with its traceback."""
        text = f"FAILED: {type(error).__name__}: {error}".splitlines()[0][:300]
        self._add(name, None, "", "failed", text)
        self.data["results"][-1]["traceback"] = "".join(traceback.format_exception(error))[-20000:]
        self.write()

    def _add(
        self, name: str, value: float | None, unit: str, status: str, note: str, limit: str = ""
    ) -> None:
        if value is not None and not math.isfinite(value):  # JSON has no NaN
            value, note = None, f"{value} {note}".strip()
        entry = {
            "part": self.part,
            "name": name,
            "value": value,
            "unit": unit,
            "limit": limit,
            "status": status,
            "note": note,
        }
        self.data["results"].append(entry)
        print(f"{self.elapsed:6.0f} s  {one_line(entry)}", flush=True)
        self.write()

    def end_part(self, name: str, seconds: float) -> None:
        """Note how long a part took."""
        self.data["parts"][name] = round(seconds, 1)
        self.write()

    # ---- reading
    # --------------------------------------------------------------------------------------------------------

    @property
    def elapsed(self) -> float:
        """Seconds since the first process of this check started."""
        return time.time() - self.data["started"]

    @property
    def seconds_left(self) -> float:
        return self.data["budget_s"] - self.elapsed

    @property
    def has_failed(self) -> bool:
        return any(entry["status"] == "failed" for entry in self.data["results"])

    # ---- writing
    # --------------------------------------------------------------------------------------------------------

    def write(self) -> None:
        """Both files, whole or not at all."""
        _replace(self.out / JSON_NAME, json.dumps(self.data, indent=1) + "\n")
        _replace(self.out / TABLE_NAME, self.table())

    def summary(self) -> str:
        """How many results there are of each kind, and the failed ones again."""
        count = Counter(entry["status"] for entry in self.data["results"])
        failed = [one_line(entry) for entry in self.data["results"] if entry["status"] == "failed"]
        kinds = ", ".join(f"{count[status]} {status}" for status in ("ok", "measured", "skipped", "failed"))
        return "\n".join([*failed, kinds])

    def table(self) -> str:
        """A Markdown table, each line with the card's name."""
        facts = self.data["environment"]
        lines = ["# GPU check", "", *(f"- {key}: {value}" for key, value in facts.items()), ""]
        lines += ["| card | part | what | result | limit | note |", "| --- | --- | --- | --- | --- | --- |"]
        for entry in self.data["results"]:
            cells = (
                facts["card"],
                entry["part"],
                entry["name"],
                _shown(entry),
                entry["limit"],
                entry["note"],
            )
            lines.append(
                "| " + " | ".join(str(cell).replace("|", "/").replace("\n", " ") for cell in cells) + " |"
            )
        return "\n".join(lines) + "\n"


def one_line(entry: dict[str, Any]) -> str:
    """A result for the terminal."""
    parts = [entry["part"], entry["name"], _shown(entry), entry["limit"], entry["note"]]
    return "  ".join(part for part in parts if part)


def _shown(entry: dict[str, Any]) -> str:
    if entry["status"] == "skipped":
        return "skipped"
    if entry["value"] is None:
        return "FAILED"
    value = entry["value"]
    number = f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{number} {entry['unit']}".strip() + (" FAILED" if entry["status"] == "failed" else "")


def _replace(path: Path, text: str) -> None:
    aside = path.with_suffix(".part")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)


def environment(device: torch.device, commit: str | None, wheels: list[str]) -> dict[str, Any]:
    """The card, and the versions of all that the numbers depend on."""
    from importlib import metadata

    from gmpo_mm.runs.environment import describe_environment

    found = describe_environment(device)
    versions = {}
    for package in ("triton", "trl", "vllm"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    is_cuda = device.type == "cuda"
    memory = torch.cuda.get_device_properties(device).total_memory if is_cuda else 0
    return {
        "card": found["device_name"] or f"no GPU ({found['cpu']})",
        "memory_gib": round(memory / 2**30, 1),
        "driver": _driver() if is_cuda else "none",
        "cuda": found["cuda"],
        "python": found["python"],
        "torch": torch.__version__,
        "transformers": found["transformers"],
        **versions,
        "gmpo_mm": found["gmpo_mm"],
        "git_commit": commit or found["git_commit"],
        "wheels": wheels,
    }


def _driver() -> str:
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return (
            subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
            .stdout.strip()
            .splitlines()[0]
        )
    except (OSError, subprocess.SubprocessError, IndexError) as error:
        return f"unknown ({type(error).__name__})"
