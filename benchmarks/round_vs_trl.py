"""One round of GMPO on the bundled model against TRL's GMPOTrainer: same problems, rewards and shape, turn by turn."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from rich.console import Console

from benchmarks.problems import BUNDLED_MODEL, write_problems
from benchmarks.side_by_side import compare, show, to_json, work_folder
from benchmarks.workload import Workload

PICTURE_PIXELS = 56 * 56


def build_workload(arguments: argparse.Namespace, freeze_vision: bool) -> Workload:
    """16 prompts x 8 samples x 24 tokens and 4 optimizer steps on the bundled model."""
    return Workload(
        name="round",
        model=str(arguments.model.resolve()),
        prompts=16,
        samples=8,
        new_tokens=24,
        mini_batches=4,
        exact_length=arguments.exact_length,
        freeze_vision=freeze_vision,
        rounds=arguments.rounds,
        warmup=arguments.warmup,
        image_pixels=(PICTURE_PIXELS, PICTURE_PIXELS),
        drop_zero_advantage=arguments.drop_zero_advantage,
        threads=arguments.threads,
    )


def main() -> None:
    """Measure with the vision tower frozen on both sides, then trained on both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="counted rounds of each side")
    parser.add_argument("--warmup", type=int, default=2, help="rounds before them that are thrown away")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--vision", choices=["frozen", "trained", "both"], default="both")
    parser.add_argument("--sides", nargs="+", choices=["local", "trl"], default=["local", "trl"])
    parser.add_argument(
        "--exact-length",
        action="store_true",
        help="every response takes all its tokens, whatever the model wants to say",
    )
    parser.add_argument(
        "--drop-zero-advantage",
        action="store_true",
        help="algorithm.drop_zero_advantage on our side; TRL has no such option",
    )
    parser.add_argument("--model", type=Path, default=BUNDLED_MODEL, help="another folder of the bundled class")
    parser.add_argument("--json", type=Path, help="file for everything that was measured")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    console, results = Console(), []
    for freeze_vision in {"frozen": [True], "trained": [False], "both": [True, False]}[arguments.vision]:
        workload = build_workload(arguments, freeze_vision)
        with work_folder() as name:
            folder = Path(name)
            write_problems(folder, workload.prompts * workload.total_rounds)
            measured = compare(workload, folder, arguments.sides, console)
        show(workload, measured, console)
        results.append(to_json(workload, measured))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
