"""Update phase and peak memory with long prompts against TRL's GMPOTrainer, on a random 17 M Qwen2.5-VL."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from rich.console import Console

from benchmarks.problems import BUNDLED_MODEL, build_long_model, write_problems
from benchmarks.side_by_side import compare, show, to_json, work_folder
from benchmarks.workload import Workload

PICTURE_SIDE = 448
TEXT_TOKENS = 142
"""With the 256 tokens of the picture about 400 a prompt."""


def build_workload(arguments: argparse.Namespace, model: Path, freeze_vision: bool) -> Workload:
    """2 prompts x 8 samples x 128 tokens; an optimizer step takes 8 responses."""
    return Workload(
        name="long prompts",
        model=str(model),
        prompts=2,
        samples=8,
        new_tokens=128,
        mini_batches=arguments.mini_batches,
        exact_length=True,
        freeze_vision=freeze_vision,
        rounds=arguments.rounds,
        warmup=arguments.warmup,
        image_pixels=(PICTURE_SIDE**2, PICTURE_SIDE**2),
        threads=arguments.threads,
    )


def main() -> None:
    """Measure with the vision tower trained on both sides, or frozen on both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds of each side")
    parser.add_argument("--warmup", type=int, default=1, help="rounds before them that are thrown away")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--vision", choices=["frozen", "trained", "both"], default="both")
    parser.add_argument(
        "--mini-batches", type=int, choices=[1, 2], default=2,
        help="optimizer steps a round; with 1 TRL needs no old log-probabilities, but holds 16 rows at once",
    )  # fmt: skip
    parser.add_argument("--sides", nargs="+", choices=["local", "trl"], default=["local", "trl"])
    parser.add_argument("--json", type=Path, help="file for everything that was measured")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    console, results = Console(), []
    for freeze_vision in {"frozen": [True], "trained": [False], "both": [True, False]}[arguments.vision]:
        with work_folder() as name:
            folder = Path(name)
            build_long_model(BUNDLED_MODEL, folder / "model")
            workload = build_workload(arguments, folder / "model", freeze_vision)
            count = workload.prompts * workload.total_rounds
            write_problems(folder, count, PICTURE_SIDE, TEXT_TOKENS, str(folder / "model"))
            measured = compare(workload, folder, arguments.sides, console)
        show(workload, measured, console)
        results.append(to_json(workload, measured))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
