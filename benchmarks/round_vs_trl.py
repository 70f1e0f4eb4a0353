"""One round of GMPO on the bundled model against TRL's GMPOTrainer: same problems, rewards and shape, turn by turn."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.problems import BUNDLED_MODEL, write_problems
from benchmarks.side_by_side import add_common_options, run_comparison
from benchmarks.workload import MATH_REWARD, Workload

PICTURE_PIXELS = 56 * 56


def prepare(arguments: argparse.Namespace, folder: Path, freeze_vision: bool) -> Workload:
    """16 prompts x 8 samples x 24 tokens and 4 optimizer steps on the bundled model; writes the problems."""
    workload = Workload(
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
        reward_function="benchmarks/noise_reward.py:compute_score" if arguments.exact_length else MATH_REWARD,
        drop_zero_advantage=arguments.drop_zero_advantage,
        threads=arguments.threads,
    )
    write_problems(folder, workload.prompts * workload.total_rounds)
    return workload


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_common_options(parser, rounds=7, warmup=2)
    parser.add_argument("--model", type=Path, default=BUNDLED_MODEL, help="another folder of the bundled class")
    parser.add_argument(
        "--exact-length",
        action="store_true",
        help="every response takes all its tokens, so that hardly two are equal, with a reward by chance",
    )
    parser.add_argument(
        "--drop-zero-advantage",
        action="store_true",
        help="algorithm.drop_zero_advantage on our side, as in the quickstart; TRL has no such option",
    )
    return parser


if __name__ == "__main__":
    run_comparison(build_parser().parse_args(), prepare)
