"""Update phase and peak memory with long prompts against TRL's GMPOTrainer, on a random 17 M Qwen2.5-VL."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.problems import BUNDLED_MODEL, build_long_model, write_problems
from benchmarks.side_by_side import add_common_options, run_comparison
from benchmarks.workload import Workload

PICTURE_SIDE = 448
TEXT_TOKENS = 142
"""With the 256 tokens of the picture about 400 a prompt."""


def prepare(arguments: argparse.Namespace, folder: Path, freeze_vision: bool) -> Workload:
    """2 prompts x 8 samples x 128 tokens; an optimizer step takes 8 responses. Writes the model and the problems."""
    build_long_model(BUNDLED_MODEL, folder / "model")
    workload = Workload(
        name="long prompts",
        model=str(folder / "model"),
        prompts=2,
        samples=8,
        new_tokens=128,
        mini_batches=arguments.mini_batches,
        exact_length=True,
        freeze_vision=freeze_vision,
        rounds=arguments.rounds,
        warmup=arguments.warmup,
        image_pixels=(PICTURE_SIDE**2, PICTURE_SIDE**2),
        reward_function="benchmarks/noise_reward.py:compute_score",
        threads=arguments.threads,
    )
    count = workload.prompts * workload.total_rounds
    write_problems(folder, count, PICTURE_SIDE, TEXT_TOKENS, workload.model)
    return workload


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_common_options(parser, rounds=5, warmup=1)
    parser.add_argument(
        "--mini-batches",
        type=int,
        choices=[1, 2],
        default=2,
        help="optimizer steps a round; with 1 TRL needs no old log-probabilities, but holds 16 rows at once",
    )
    return parser


if __name__ == "__main__":
    run_comparison(build_parser().parse_args(), prepare)
