r"""What a model does with arithmetic in words: does it choose the right calculation, and does it calculate rightly?

    python -m benchmarks.word_problem_answers evaluations/smollm2_before sweeps/smollm2/evaluations/*/seed_*

For evaluations of `word_problems`: the share of responses whose signs, up to the box, are those of the solution in their order;
how many of those are right; and the share with text after the box, which no reward reads.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from gmpo_mm.data.sources import read_rows

SIGN = re.compile(r"\d\s*([-+*/x×])\s*(?=\d)")
AFTER_BOX = re.compile(r"\\boxed\{[^}]*\}\s*\S")


def signs(text: str) -> str:
    """The signs between two numbers before the box; `x` and `×` are `*`."""
    return "".join(SIGN.findall(text.split("\\boxed")[0])).translate(str.maketrans("x×", "**"))


def shares(samples: list[dict], solutions: dict[str, str]) -> dict[str, float]:
    """Shares of the responses: right, right signs, right among those with right signs, text after the box."""
    chosen = [sample for sample in samples if signs(sample["response"]) == signs(solutions[sample["id"]])]
    return {
        "right": sum(sample["correct"] for sample in samples) / len(samples),
        "right signs": len(chosen) / len(samples),
        "right, of those": sum(sample["correct"] for sample in chosen) / max(1, len(chosen)),
        "text after the box": sum(AFTER_BOX.search(s["response"]) is not None for s in samples) / len(samples),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.word_problem_answers", description=__doc__)
    parser.add_argument("evaluations", nargs="+", help="folders with an evaluation of word_problems in them")
    parser.add_argument("--records", default="data/word_problems/test.parquet")
    options = parser.parse_args()
    rows = read_rows(options.records)
    solutions = dict(zip(rows.column("id"), rows.column("solution")))
    for folder in options.evaluations:
        lines = Path(folder, "word_problems", "samples.jsonl").read_text(encoding="utf-8").splitlines()
        found = shares([json.loads(line) for line in lines], solutions)
        print(f"{folder}: " + ", ".join(f"{name} {100 * share:.1f} %" for name, share in found.items()))


if __name__ == "__main__":
    sys.exit(main())
