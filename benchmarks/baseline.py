"""A baseline: the ratios of a benchmark with tolerances, and what they were taken with. Read, written, compared."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

LEAST_TOLERANCE = 0.1  # of a timed ratio's median
Result = dict[str, Any]


class CheckError(Exception):
    """What a user can put right: the message says how."""


def read(file: Path, name: str, is_baseline: bool = True) -> Result:
    """A baseline, or what a benchmark has just written.

    Raises: CheckError where the file is missing, is no JSON, or lacks what is compared.
    """
    fix = f"Write it anew with: make benchmark-check BENCHMARKS={name} CHECK_OPTIONS=--write"
    if not file.is_file():
        raise CheckError(f"{name} has no baseline: {file} is missing. {fix}")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        for ratio, entry in found["ratios"].items():
            for key in ("value", "tolerance") if is_baseline else ("value",):
                if type(entry[key]) not in (int, float) or not math.isfinite(entry[key]):
                    raise ValueError(f"{ratio}: {key} is no finite number")
            if entry["better"] not in ("lower", "higher"):
                raise ValueError(f"{ratio}: better is neither lower nor higher")
        if not found["ratios"]:
            raise ValueError("no ratios")
        if not isinstance(found["machine"], dict) or not isinstance(found["versions"], dict):
            raise ValueError("machine and versions are no objects")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckError(f"{file} is damaged ({type(error).__name__}: {error}). {fix}") from error
    return found


def merge(runs: list[Result]) -> Result:
    """One result of several: each ratio's median and range; a ratio that some run lacks is left out."""
    ratios = {}
    for ratio, entry in runs[-1]["ratios"].items():
        values = [one["ratios"][ratio]["value"] for one in runs if ratio in one["ratios"]]
        if len(values) == len(runs):
            ratios[ratio] = {**entry, "value": statistics.median(values), "range": max(values) - min(values)}
    return {**runs[-1], "ratios": ratios}


def write(file: Path, result: Result, **origin: Any) -> None:
    """Ratios with tolerances, and where they come from: `origin`, machine and versions.

    A ratio that was the same in all runs is counted, not timed, and may not move at all. The others may move by twice
    the range of the runs, and by a tenth at least.
    """
    ratios = {}
    for ratio, entry in result["ratios"].items():
        least = LEAST_TOLERANCE * abs(entry["value"])
        tolerance = max(2 * entry["range"], least) if entry["range"] else 0.0
        ratios[ratio] = {
            "value": float(f"{entry['value']:.6g}"),
            "better": entry["better"],
            "tolerance": float(f"{tolerance:.2g}"),
        }
    content = {
        **origin,
        "machine": lasting(result["machine"]),
        "versions": result["versions"],
        "ratios": ratios,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def lasting(machine: Result) -> Result:
    """Without how busy it was."""
    return {key: value for key, value in machine.items() if key != "load_average"}


def compare(now: Result, baseline: Result) -> list[tuple[str, ...]]:
    """For each ratio: name, baseline, now, moved by, tolerance, verdict (`WORSE` and `MISSING` are failures)."""
    rows: list[tuple[str, ...]] = []
    for ratio, was in baseline["ratios"].items():
        found = now["ratios"].get(ratio)
        if found is None:
            rows.append((ratio, f"{was['value']:.4g}", "-", "-", f"{was['tolerance']:.2g}", "MISSING"))
            continue
        moved = found["value"] - was["value"]
        if abs(moved) <= 1e-5 * abs(was["value"]):  # a written value is rounded
            moved = 0.0
        gain = moved if was["better"] == "higher" else -moved
        tolerance = was["tolerance"]
        verdict = "WORSE" if gain < -tolerance else "better" if gain > tolerance else "within"
        share = f" ({moved / abs(was['value']):+.0%})" if was["value"] and moved else ""
        numbers = (
            f"{was['value']:.4g}",
            f"{found['value']:.4g}",
            f"{moved:+.2g}{share}",
            f"{tolerance:.2g}",
        )
        rows.append((ratio, *numbers, verdict))
    for ratio, found in now["ratios"].items():
        if ratio not in baseline["ratios"]:
            rows.append((ratio, "-", f"{found['value']:.4g}", "-", "-", "new"))
    return rows


def differences(now: Result, baseline: Result, command: str) -> list[str]:
    """What makes the two less comparable: another machine, other versions, another command."""
    found = []
    for was, here in (
        (baseline["machine"], lasting(now["machine"])),
        (baseline["versions"], now["versions"]),
    ):
        keys = [key for key in {**was, **here} if was.get(key) != here.get(key)]
        found += [f"{key} {was.get(key)} in the baseline, {here.get(key)} here" for key in keys]
    if baseline.get("command") != command:
        found.append(f"the baseline is of `{baseline.get('command')}`, this run of `{command}`")
    return found
