"""Answer equivalence beside math-verify: agreement and time on the labelled pairs, and throughput on typical responses.

    python -m benchmarks.verifier [--repetitions 3] [--pairs FILE ...] [--json FILE]

Times of the pairs are of one process each, the two graders in short turns; imports and the start of processes are left out.
Ours includes what it hands to math-verify in its own process.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.ratios import Ratios
from gmpo_mm.verifiers import (
    DEFAULT_TIMEOUT,
    equivalence,
    grade_batch,
)
from gmpo_mm.verifiers.pool import VerifierPool

LABELLED = Path(__file__).resolve().parents[1] / "tests" / "verifiers" / "labelled"
FILES = ("held_out", "own", "public_suites")
AGREEMENT_GOAL = 0.995
FALSE_POSITIVE_GOAL = 1 / 3000
TIME_GOAL = 1 / 5
RESPONSES, RESPONSES_GOAL_S = 2048, 1.0
TIMEOUT_S = DEFAULT_TIMEOUT
TURN = 50  # pairs
LEAST_BATCHES = 5

Pair = dict[str, Any]
Compare = Callable[[Pair], bool]


def read_pairs(files: Sequence[Path]) -> list[Pair]:
    """Lines with prediction, gold, equal and category."""
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def forget() -> None:
    """Empty every cache of ours, so that a repetition does the work again."""
    for name, module in list(sys.modules.items()):
        if name.startswith("gmpo_mm.verifiers"):
            for value in vars(module).values():
                if hasattr(value, "cache_clear"):
                    value.cache_clear()


def plain_math_verify() -> Compare:
    """math-verify as its README uses it: parse both, verify, with its own time limit."""
    import math_verify

    logging.disable(logging.CRITICAL)

    def in_mathematics(text: str) -> str:
        return text if "$" in text or "\\boxed" in text else f"${text}$"

    def compare(pair: Pair) -> bool:
        gold, prediction = (math_verify.parse(in_mathematics(pair[side])) for side in ("gold", "prediction"))
        return bool(math_verify.verify(gold, prediction))

    compare({"gold": "x + 1", "prediction": "1 + x"})
    return compare


def one_worker_pool() -> VerifierPool:
    """Ours in one process at a time: the caller waits while one worker computes."""
    pool = VerifierPool(1)
    pool.warm_up()
    pool.check([("x + 1", "1 + x")], TIMEOUT_S)
    return pool


def our_compare(pool: VerifierPool) -> Compare:
    """The cheap stages, then math-verify in the pool's single worker."""

    def compare(pair: Pair) -> bool:
        equal = equivalence.decide(pair["prediction"], pair["gold"]).equal
        if equal is None:
            return pool.check([(pair["prediction"], pair["gold"])], TIMEOUT_S) == ["equal"]
        return equal

    return compare


def timed(compare: Compare, pairs: Sequence[Pair]) -> tuple[list[bool], float]:
    """Verdicts and wall seconds."""
    started = time.perf_counter()
    verdicts = [compare(pair) for pair in pairs]
    return verdicts, time.perf_counter() - started


def agreement(pairs: Sequence[Pair], verdicts: Sequence[bool]) -> dict[str, float]:
    """Share of agreeing verdicts, false positives and false negatives."""
    kinds = Counter((pair["equal"], verdict) for pair, verdict in zip(pairs, verdicts, strict=True))
    right = kinds[True, True] + kinds[False, False]
    return {
        "agreement": right / len(pairs),
        "false_positives": kinds[False, True],
        "false_negatives": kinds[True, False],
    }


def compare_graders(pairs: Sequence[Pair], repetitions: int) -> dict[str, Any]:
    """Both graders on the same pairs, in turns."""
    pool = one_worker_pool()
    graders = {"ours": our_compare(pool), "math-verify": plain_math_verify()}
    seconds: dict[str, list[float]] = {name: [] for name in graders}
    results: dict[str, Any] = {}
    try:
        for _ in range(repetitions):
            forget()
            verdicts: dict[str, list[bool]] = {name: [] for name in graders}
            elapsed = dict.fromkeys(graders, 0.0)
            for start in range(0, len(pairs), TURN):  # short turns, so that other work on the machine slows both alike
                for name, compare in graders.items():
                    found, taken = timed(compare, pairs[start : start + TURN])
                    verdicts[name] += found
                    elapsed[name] += taken
            for name in graders:
                seconds[name].append(elapsed[name])
                results[name] = {**agreement(pairs, verdicts[name]), "verdicts": verdicts[name]}
    finally:
        pool.close()
    for name in graders:
        results[name]["seconds"] = statistics.median(seconds[name])
    forget()
    results["sent_on"] = sum(equivalence.decide(p["prediction"], p["gold"]).equal is None for p in pairs)
    results["time_ratio"] = statistics.median(
        ours / theirs for ours, theirs in zip(seconds["ours"], seconds["math-verify"], strict=True)
    )
    return results


def typical_responses(pairs: Sequence[Pair], count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Responses as a policy writes them: 200 golds, each answered eight or so times, right, wrong or not at all."""
    rng = random.Random(seed)
    golds = rng.sample(sorted({pair["gold"] for pair in pairs if "boxed" not in pair["gold"]}), 200)
    answers = {gold: [p["prediction"] for p in pairs if p["gold"] == gold and "boxed" not in p["prediction"]] for gold in golds}
    responses, targets = [], []
    for i in range(count):
        gold = golds[i % len(golds)]
        thought = "First I write the equation, then I solve it step by step. " * rng.randint(5, 40)
        answer = rng.choice([*answers[gold], gold, str(rng.randint(-50, 50)), rf"\frac{{{rng.randint(1, 9)}}}{{7}}", ""])
        responses.append(thought + (rf"The answer is \boxed{{{answer}}}." if answer else "I do not know."))
        targets.append(gold)
    return responses, targets


def throughput(pairs: Sequence[Pair], repetitions: int) -> float:
    """Median seconds for a batch of typical responses, with warm processes and empty caches."""
    responses, golds = typical_responses(pairs, RESPONSES)
    seconds = []
    grade_batch([r"\sum_{k=1}^{1} (2k-1)"], ["1"])
    for _ in range(repetitions):
        forget()
        started = time.perf_counter()
        grade_batch(responses, golds, kind="response")
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def print_results(console: Console, pairs: Sequence[Pair], results: dict[str, Any], batch_s: float) -> None:
    """Two tables: the graders side by side, and ours by category where something is wrong."""
    table = Table(title=f"{len(pairs)} labelled pairs, one process each")
    for column in ("grader", "agreement", "false positives", "false negatives", "seconds"):
        table.add_column(column, justify="left" if column == "grader" else "right")
    for name in ("ours", "math-verify"):
        row = results[name]
        numbers = f"{row['agreement']:.1%}", str(row["false_positives"]), str(row["false_negatives"]), f"{row['seconds']:.2f}"
        table.add_row(name, *numbers)
    console.print(table)
    ratio, ours = results["time_ratio"], results["ours"]
    console.print(
        f"time: {ratio:.3f} of math-verify's (goal {TIME_GOAL:.2f}); {results['sent_on']} pairs needed computer algebra"
    )
    false_share = ours["false_positives"] / len(pairs)
    console.print(f"agreement {ours['agreement']:.1%} (goal {AGREEMENT_GOAL:.1%}), false positives {false_share:.2%}", end=" ")
    console.print(f"(goal {FALSE_POSITIVE_GOAL:.2%})")
    console.print(f"{RESPONSES} typical responses: {batch_s:.2f} s (goal {RESPONSES_GOAL_S:g} s)")
    by_category = Table(title="by category")
    for column in ("category", "pairs", "ours wrong", "math-verify wrong"):
        by_category.add_column(column, justify="left" if column == "category" else "right")
    categories = Counter(pair["category"] for pair in pairs)
    wrong = {
        name: Counter(
            pair["category"] for pair, verdict in zip(pairs, results[name]["verdicts"], strict=True) if verdict != pair["equal"]
        )
        for name in ("ours", "math-verify")
    }
    for category, count in sorted(categories.items()):
        by_category.add_row(category, str(count), str(wrong["ours"][category]), str(wrong["math-verify"][category]))
    console.print(by_category)
    for pair, verdict in zip(pairs, results["ours"]["verdicts"], strict=True):
        if verdict != pair["equal"]:
            kind = "false positive" if verdict else "false negative"
            console.print(f"{kind}: {pair['prediction']}  |  {pair['gold']}", markup=False, highlight=False)


def main() -> None:
    """Measure and print; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", nargs="+", type=Path, default=[LABELLED / f"{name}.jsonl" for name in FILES], metavar="FILE")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here as well")
    options = parser.parse_args()
    pairs = read_pairs(options.pairs)
    results = compare_graders(pairs, options.repetitions)
    typical = read_pairs([LABELLED / "own.jsonl", LABELLED / "public_suites.jsonl"])
    batch_s = throughput(typical, max(LEAST_BATCHES, options.repetitions))
    print_results(Console(), pairs, results, batch_s)
    if options.json:
        numbers = {name: {k: v for k, v in results[name].items() if k != "verdicts"} for name in ("ours", "math-verify")}
        numbers |= {"time_ratio": results["time_ratio"], "sent_on": results["sent_on"], "batch_seconds": batch_s}
        ours, theirs = results["ours"], results["math-verify"]
        ratios, per_pair = Ratios(), theirs["seconds"] / len(pairs)
        ratios.add("time of the pairs, ours / math-verify", results["time_ratio"], 1.0, better="lower")
        name = "time of a typical response, ours / of a pair, math-verify"
        ratios.add(name, batch_s / RESPONSES, per_pair, better="lower")
        wrong = 1 - ours["agreement"], 1 - theirs["agreement"]
        ratios.add("verdicts against the label, ours / math-verify", *wrong, better="lower")
        ratios.add("false positives, ours / all pairs", ours["false_positives"], len(pairs), better="lower")
        ratios.write(options.json, numbers)


if __name__ == "__main__":
    main()
