"""A Markdown table of findings: `python -m conformance.table [A.json B.json ...]`, files of `check --json`;
without arguments those in `results/`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PUBLISHED = tuple(RESULTS / f"{name}.json" for name in ("gmpo_mm", "trl", "verl", "easyr1", "openrlhf"))


def markdown(files: list[Path]) -> str:
    """One line for each loss: how many of its cases are what, for each file; a dash for a loss that is not
    offered."""
    found = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    losses: dict[str, int] = {}
    for entry in found[0]["findings"]:
        loss = entry["case"].split(":")[0]
        losses[loss] = losses.get(loss, 0) + 1
    lines = ["| loss | cases | " + " | ".join(entry["target"] for entry in found) + " |"]
    lines.append("| --- | --- |" + " --- |" * len(found))
    for loss, count in losses.items():
        cells = [_cell([f for f in entry["findings"] if f["case"].split(":")[0] == loss]) for entry in found]
        lines.append(f"| `{loss}` | {count} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(findings: list[dict[str, Any]]) -> str:
    counts: dict[str, int] = {}
    for finding in findings:
        if finding["result"] != "not offered":
            where = f" ({finding['where']})" if finding["where"] else ""
            words = finding["result"].replace("equal up to a scale", "up to a scale") + where
            counts[words] = counts.get(words, 0) + 1
    return ", ".join(f"{count} {words}" for words, count in sorted(counts.items(), key=_order)) or "-"


def _order(item: tuple[str, int]) -> int:
    return ("equal", "up to a scale", "different", "another loss", "error").index(item[0].split(" (")[0])


if __name__ == "__main__":
    print(markdown([Path(argument) for argument in sys.argv[1:]] or list(PUBLISHED)))
