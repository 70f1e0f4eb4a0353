"""Least time of one micro-batch's update on an H100 by class of operator, before the GPU path and now.

    python -m benchmarks.roofline                # beside the numbers recorded before
    python -m benchmarks.roofline --json FILE    # the numbers of the code as it is, to FILE

The shipped configurations' real micro-batches run at the real models' shapes on a card that need not be
there; see `gmpo_mm/planning`. Nothing here was measured on a card.
"""

from __future__ import annotations

import argparse
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.ratios import Ratios
from gmpo_mm.config import load_config
from gmpo_mm.models.cards import find_card
from gmpo_mm.models.flops import mfu
from gmpo_mm.planning.micro_batch import UPDATE, Lengths, Measured, Rehearsal
from gmpo_mm.planning.model_files import read_model_config

ROOT = Path(__file__).parents[1]
BEFORE = ROOT / "benchmarks" / "baselines" / "roofline_e48fe13.json"
CARD = "h100"


@dataclass(frozen=True)
class Case:
    """A shipped configuration with lengths that are usual for its data, whole groups within its own token
    limit.
    """

    name: str
    config: str
    overrides: tuple[str, ...]
    lengths: Lengths


CASES = (
    Case(
        "1.5B, all weights",
        "configs/language/table1_line2_gmpo_qwen2_5_math_1_5b.yaml",
        (),
        Lengths(prompt=150, response=480),
    ),
    Case(
        "VL-3B, all weights",
        "configs/geometry3k/gmpo_qwen2_5_vl_3b.yaml",
        (),
        Lengths(prompt=500, response=700, image=361),
    ),
    Case(
        "VL-7B, LoRA of rank 64",
        "configs/geometry3k/gmpo_qwen2_5_vl_7b_lora.yaml",
        (),
        Lengths(prompt=500, response=700, image=361),
    ),
)


def measure(case: Case) -> Measured:
    """Rehearse a case's micro-batch."""
    config = load_config(str(ROOT / case.config), list(case.overrides)).config
    model_config = read_model_config(config)
    assert model_config is not None, "its config.json is shipped"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of transformers and torch, about fake tensors
        rehearsal = Rehearsal(config, model_config, torch.device("cuda:0"), torch.bfloat16, find_card(CARD))
        return rehearsal.measure(case.lengths, with_slope=False)


def numbers(measured: Measured) -> dict[str, Any]:
    """What is printed and recorded: milliseconds by class, launches, FLOPs, MFU, memory."""
    table = measured.tables[UPDATE]
    return {
        "tokens": measured.update.tokens,
        "ms": {kind: round(row.seconds * 1e3, 2) for kind, row in table.rows.items()},
        "total_ms": round(table.seconds * 1e3, 1),
        "launches": table.launches,
        "model_tflop": round(measured.flops / 1e12, 2),
        "mfu": round(mfu(measured.flops, table.seconds, find_card(CARD).bf16), 4),
        "host_reads": sum(measured.reads.values()),
        "peak_gib": round(measured.peaks[UPDATE].total / 2**30, 2),
    }


def print_table(after: dict[str, dict[str, Any]], before: dict[str, dict[str, Any]]) -> None:
    """One table a case, before beside after."""
    for name, new in after.items():
        old = before.get(name, {})
        print(f"\n{name}: {new['tokens']:,} tokens, {new['model_tflop']} model TFLOP, {find_card(CARD).name}")
        print(f"  {'':22}{'before':>12}{'now':>12}")
        was, now = old.get("ms", {}), new["ms"]
        for kind in sorted({*now, *was}, key=lambda k: -max(was.get(k, 0.0), now.get(k, 0.0))):
            _line(f"{kind}, ms", was.get(kind, 0.0 if old else None), now.get(kind, 0.0), ".1f")
        for key, words, form in (
            ("total_ms", "all, ms", ".1f"),
            ("launches", "launches", ",d"),
            ("mfu", "predicted MFU", ".1%"),
            ("host_reads", "host waits for GPU", ",d"),
            ("peak_gib", "peak memory, GiB", ".1f"),
        ):
            _line(words, old.get(key), new[key], form)


def ratios(after: dict[str, dict[str, Any]], before: dict[str, dict[str, Any]]) -> Ratios:
    """Now over before: time, launches and peak memory of each case."""
    found = Ratios()
    for name, old in before.items():
        for key, words in {"total_ms": "time", "launches": "launches", "peak_gib": "memory"}.items():
            found.add(f"predicted {words}, now / before: {name}", after[name][key], old[key], better="lower")
    return found


def print_operators(name: str, measured: Measured, count: int) -> None:
    """The operators that take longest, by class and name."""
    print(f"\n{name}: operators")
    found = sorted(measured.tables[UPDATE].operators.items(), key=lambda item: -item[1].seconds)
    for (kind, operator), row in found[:count]:
        print(
            f"  {kind:<20}{operator:<36}{row.launches:>7,}{row.bytes / 1e9:>9.1f} GB{row.seconds * 1e3:>8.1f} ms"
        )


def _line(words: str, old: Any, new: Any, form: str) -> None:
    shown = "-" if old is None else format(old, form)
    print(f"  {words:<22}{shown:>12}{format(new, form):>12}")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--operators", type=int, default=0, help="name as many operators that take longest")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    options = parser.parse_args()
    before = json.loads(BEFORE.read_text(encoding="utf-8"))["cases"] if BEFORE.is_file() else {}
    measured = {case.name: measure(case) for case in CASES}
    after = {name: numbers(found) for name, found in measured.items()}
    print_table(after, before)
    for name, found in measured.items() if options.operators else []:
        print_operators(name, found, options.operators)
    if options.json is not None:
        recorded = {
            "card": find_card(CARD).name,
            "measured": False,
            "torch": torch.__version__,
            "cases": after,
        }
        ratios(after, before).write(options.json, recorded)


if __name__ == "__main__":
    main()
