"""What each rule of `gmpo-mm regrade` pays for right and for wrong answers of Geometry3K's test split, in
several forms.

    python -m benchmarks.geometry3k_rules data/geometry3k/geometry3k_test.parquet

A solver that is always right writes the gold as the data set has it; one that is always wrong writes each of
the other three choices. What a rule pays the first is the most that any model can get under it.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from typing import Any

from gmpo_mm.data.sources import read_rows
from gmpo_mm.verifiers.rules import RULES, Choice, Rule

Form = Callable[[str, str], str]  # (answer, its letter) -> response
WRAPPINGS: dict[str, Form] = {
    "<think>, box": lambda a, _: f"<think>s</think> \\boxed{{{a}}}",
    "box alone": lambda a, _: f"\\boxed{{{a}}}",
    "<think>, <answer>": lambda a, _: f"<think>s</think> <answer>{a}</answer>",
    "<think>, [ ]": lambda a, _: f"<think>s</think> [{a}]",
    "Answer: letter": lambda _, letter: f"Answer: {letter}",
}
SPELLINGS: dict[str, Callable[[str], str]] = {
    "as the gold": lambda a: a,
    "no spaces": lambda a: re.sub(r"\s", "", a),
    "\\dfrac": lambda a: a.replace("\\frac", "\\dfrac"),
    "with cm": lambda a: f"{a} \\text{{ cm}}",
    "with a degree sign": lambda a: f"{a}^\\circ",
    "x = answer": lambda a: f"x = {a}",
    "one zero more": lambda a: f"{a}0" if "." in a else f"{a}.0" if a.isdigit() else a,
}


def paid(
    rule: Rule, answers: Sequence[tuple[str, str]], rows: Sequence[dict[str, Any]], form: Form, part: str
) -> float:
    """The mean overall or accuracy of these (answer, letter) in this form."""
    choices = [Choice(row["letter"], tuple(map(str, row["choices"]))) for row in rows]
    scores = rule.score(
        [form(*answer) for answer in answers], [[row["answer"]] for row in rows], choices, timeout=20.0
    )
    return sum(getattr(score, part) for score in scores) / len(scores)


def main() -> None:
    """Print three tables in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", help="geometry3k_test.parquet, with letter and choices")
    table = read_rows(parser.parse_args().data)
    columns = [table.column(name) for name in ("answer", "letter", "choices")]
    rows = [
        dict(zip(("answer", "letter", "choices"), values, strict=True))
        for values in zip(*columns, strict=True)
    ]
    right = [(str(row["answer"]), str(row["letter"])) for row in rows]
    wrong = [
        (row, (str(choice), letter))
        for row in rows
        for choice, letter in zip(row["choices"], "ABCD", strict=True)
        if letter != row["letter"]
    ]
    print(f"A solver that is always right, {len(rows)} problems: score (accuracy)\n")
    print(
        "| rule | "
        + " | ".join(f"`{name}`" for name in WRAPPINGS)
        + " |\n| --- |"
        + " ---: |" * len(WRAPPINGS)
    )
    for name, rule in RULES.items():
        cells = [
            f"{paid(rule, right, rows, form, 'overall'):.3f} ({paid(rule, right, rows, form, 'accuracy'):.3f})"
            for form in WRAPPINGS.values()
        ]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    best = {"easyr1_r1v": "<think>, <answer>", "nemo_rl": "<think>, <answer>", "lmms_eval": "Answer: letter"}
    print("\nIts accuracy in each rule's own form, the answer spelled otherwise\n")
    print(
        "| rule | "
        + " | ".join(f"`{name}`" for name in SPELLINGS)
        + " |\n| --- |"
        + " ---: |" * len(SPELLINGS)
    )
    for name, rule in RULES.items():
        form = WRAPPINGS[best.get(name, "<think>, box")]
        cells = [
            f"{paid(rule, [(spell(answer), letter) for answer, letter in right], rows, form, 'accuracy'):.3f}"
            for spell in SPELLINGS.values()
        ]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    print(f"\nA solver that is always wrong, {len(wrong)} other choices in each rule's own form: paid\n")
    print("| rule | paid |\n| --- | ---: |")
    for name, rule in RULES.items():
        form = WRAPPINGS[best.get(name, "<think>, box")]
        share = paid(rule, [answer for _, answer in wrong], [row for row, _ in wrong], form, "accuracy")
        print(f"| {name} | {round(share * len(wrong))} ({share:.1%}) |", flush=True)


if __name__ == "__main__":
    main()
