"""How many wrong answers made up to cheat it each grader pays: ours, math-verify, mathruler, Dr. GRPO's.

    python -m benchmarks.grader_attack [--seed 0] [--count 2000] [--json FILE]
    python -m benchmarks.grader_attack --mutations 20000 [--data FOLDER]

The first prints one table: attacks paid by kind (`tests/verifiers/attacks.py`), then natural spellings of
right answers accepted (`tests/verifiers/labelled/spellings.jsonl`). Ours grades each attack under the
attack's own rules (math, minerva or olympiadbench). math-verify, mathruler (a column where it is installed)
and Dr. GRPO's grader see the same pairs, each in its own process; what takes longer than the limit is not
paid.

The second changes the golds of evaluation suites (Parquet files with a column `answer`): a number, a sign,
an operator, a name, a bracket, a function, a second value beside it, an order. It prints those that ours
takes for the unchanged gold, with what math-verify says of the two. They are for eyes: some are equal after
all.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.ratios import Ratios
from gmpo_mm.verifiers.graders import grade_responses

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from tests.verifiers.attacks import Attack, attacks, paid, written_out  # noqa: E402

SPELLINGS = ROOT / "tests" / "verifiers" / "labelled" / "spellings.jsonl"
LIMIT_S = 5.0
Compare = Callable[[str, str], bool]


def math_verify_compare() -> Compare:
    """math-verify on the content of a box, as rewards call it."""
    import math_verify

    logging.disable(logging.CRITICAL)

    def compare(prediction: str, gold: str) -> bool:
        parsed = [math_verify.parse(f"\\boxed{{{text}}}") for text in (gold, prediction)]
        return bool(math_verify.verify(*parsed))

    return compare


def mathruler_compare() -> Compare:
    """mathruler's `grade_answer`, as EasyR1's rewards call it."""
    from mathruler.grader import grade_answer

    return lambda prediction, gold: bool(grade_answer(prediction, gold))


def drgrpo_compare() -> Compare:
    """Dr. GRPO's grader, fast, from our reproduction."""
    return lambda prediction, gold: (
        grade_responses("drgrpo_fast", [prediction], [gold], kind="answer")[0].correct
    )


OTHERS: dict[str, Callable[[], Compare]] = {
    "math-verify": math_verify_compare,
    "mathruler": mathruler_compare,
    "Dr. GRPO": drgrpo_compare,
}


def _serve(name: str, connection: Connection) -> None:
    try:
        compare = OTHERS[name]()
    except ImportError as error:
        connection.send(str(error))
        return
    connection.send("ready")
    while True:
        pair = connection.recv()
        try:
            connection.send(compare(*pair))
        except Exception:
            connection.send(False)


class Process:
    """One of OTHERS in a process of its own, which is started again where a comparison takes too long."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._start()

    def _start(self) -> None:
        self._connection, other = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("spawn").Process(
            target=_serve, args=(self.name, other), daemon=True
        )
        self._process.start()
        self.state = self._connection.recv()

    def __call__(self, prediction: str, gold: str) -> bool:
        """Whether it calls the prediction right within the limit."""
        self._connection.send((prediction, gold))
        try:
            if self._connection.poll(LIMIT_S):
                return bool(self._connection.recv())
        except EOFError:
            pass
        self.close()
        self._start()
        return False

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()


def count_paid(made: Sequence[Attack], spellings: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By grader: attacks paid by kind, and spellings accepted; a grader that is not installed is left out."""
    accepted = [
        grade_responses(row["grader"], [row["prediction"]], [row["gold"]], kind=row["form"])[0].correct
        for row in spellings
    ]
    results = {"ours": {"paid": Counter(attack.kind for attack in our_paid(made)), "accepted": sum(accepted)}}
    answers = [row for row in spellings if row["form"] == "answer"]
    for name in OTHERS:
        process = Process(name)
        if process.state == "ready":
            wrong = Counter(attack.kind for attack in made if process(attack.prediction, attack.gold))
            results[name] = {
                "paid": wrong,
                "accepted": sum(process(row["prediction"], row["gold"]) for row in answers),
            }
        process.close()
    return results


def our_paid(made: Sequence[Attack]) -> list[Attack]:
    """What ours pays."""
    return paid(made)


def print_results(
    console: Console, made: Sequence[Attack], spellings: int, answers: int, results: dict[str, Any]
) -> None:
    """One table: a line for each kind, the sum, and the spellings."""
    table = Table(title=f"{len(made)} wrong answers: how many each grader pays")
    table.add_column("kind")
    for column in ("attacks", *results):
        table.add_column(column, justify="right")
    for kind, count in Counter(attack.kind for attack in made).items():
        table.add_row(kind, str(count), *(str(result["paid"][kind]) for result in results.values()))
    table.add_section()
    table.add_row("all", str(len(made)), *(str(result["paid"].total()) for result in results.values()))
    table.add_row("share", "", *(f"{result['paid'].total() / len(made):.1%}" for result in results.values()))
    table.add_section()
    counts = (
        f"{result['accepted']}/{spellings if name == 'ours' else answers}" for name, result in results.items()
    )
    table.add_row("natural spellings accepted", str(spellings), *counts)
    console.print(table)


FUNCTIONS = ("sin", "cos", "tan", "ln", "log", "sqrt", "cot", "sec", "exp", "arcsin", "arctan")
SWAPS = [
    ("+", "-"),
    ("-", "+"),
    ("<", ">"),
    (">", "<"),
    (r"\le", "<"),
    (r"\ge", ">"),
    ("(", "["),
    ("]", ")"),
    ("[", "("),
    (")", "]"),
]
SWAPS += [
    (r"\infty", "100"),
    (r"\cup", r"\cap"),
    ("=", r"\neq "),
    ("^", "_"),
    (r"\pi", ""),
    (r"\cdot", "+"),
    (r"\pm", ""),
    (r"\frac", r"\binom"),
]
BRACKETS = "()[]"
"""Told apart only around two items, and not beside infinity."""
AROUND = [
    "%s %d",
    "%s, %d",
    "%s or %d",
    "%d %s",
    "%s = %d",
    "x = %s = %d",
    r"%s \quad %d",
    "$%s$ $%d$",
    "%d, %s",
]
AROUND += [r"%s \text{ or } %d", r"%s \approx %d", r"%s; %d", "%d = %s", "%s + %d", "%s(%d)"]
WHOLE = [
    "-(%s)",
    "2(%s)",
    "not %s",
    "(%s)^2",
    "%s x",
    r"\frac{1}{%s}",
    r"\sqrt{%s}",
    r"\neq %s",
    "%s wrong",
    "%s + x",
    "f(%s)",
]


def mutate(gold: str, rng: random.Random) -> tuple[str, str]:
    """What was changed, and the gold changed in one place (or unchanged where there is no such place)."""
    kind = rng.choice(
        ("number", "number", "swap", "function", "name", "beside", "beside", "whole", "order", "missing")
    )
    places: list[tuple[int, int, str]] = []
    if kind == "number":
        step = rng.choice((-1, 1))
        places = [
            (m.start(), m.end(), str(int(m.group()) + step)) for m in re.finditer(r"(?<![\d.])\d{1,40}", gold)
        ]
    elif kind == "swap":
        found = [(m, new) for old, new in SWAPS for m in re.finditer(re.escape(old) + r"(?![A-Za-z])", gold)]
        if "\\infty" in gold or gold.count(",") != 1:
            found = [(m, new) for m, new in found if m.group() not in BRACKETS]
        places = [(m.start(), m.end(), new) for m, new in found]
    elif kind == "function":
        found = re.finditer(r"\\(" + "|".join(FUNCTIONS) + r")(?![A-Za-z])", gold)
        places = [
            (m.start(1), m.end(1), rng.choice([f for f in FUNCTIONS if f != m.group(1)])) for m in found
        ]
    elif kind == "name":
        names = re.finditer(r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])", gold)
        places = [(m.start(), m.end(), rng.choice([c for c in "xyzqw" if c != m.group()])) for m in names]
    elif kind == "missing":
        pieces = re.finditer(r"[+-] ?[\w.]+|, ?[^,()\[\]{}]+|\^ ?\{?\w\}?", gold)
        places = [(m.start(), m.end(), "") for m in pieces]
    elif kind == "beside":
        number = rng.choice((3, 7, 10, 23, 145))
        form = rng.choice(AROUND)
        if str(number) in gold or "= 0" in gold or re.search(r"\\text\{\([A-Z]\)\}|10\^|\de", gold):
            return kind, gold  # a letter with a text beside it is a choice; 7 more is little beside 4 x 10^33
        return kind, form % ((number, gold) if form.startswith("%d") else (gold, number))
    elif kind == "whole":
        return kind, rng.choice(WHOLE) % gold if gold not in ("0", "1", "-1", "001") else gold
    elif kind == "order":
        body = re.search(r"(?<=\()[^()\[\]{}]*,[^()\[\]{}]*(?=\))", gold)
        if body:
            places = [
                (
                    body.start(),
                    body.end(),
                    ", ".join(part.strip() for part in reversed(body.group().split(","))),
                )
            ]
    if not places:
        return kind, gold
    start, end, new = rng.choice(places)
    return kind, gold[:start] + new + gold[end:]


def read_golds(folder: Path) -> list[tuple[str, str]]:
    """(grader, gold) of every Parquet file in the folder."""
    import pyarrow.parquet

    rows: dict[tuple[str, str], None] = {}
    for file in sorted(folder.glob("*.parquet")):
        grader = next((name for name in ("minerva", "olympiadbench") if name in file.name), "math")
        golds: Iterable[Any] = (
            pyarrow.parquet.read_table(file, columns=["answer"]).column("answer").to_pylist()
        )
        rows.update({(grader, str(gold).strip()): None for gold in golds if str(gold).strip()})
    return list(rows)


def bare(text: str) -> str:
    """The text without dollars and spaces."""
    return text.replace("$", "").replace(r"\,", "").replace(" ", "")


def mutations(folder: Path, count: int, seed: int) -> list[Attack]:
    """`count` changed golds, each another text than its gold."""
    rng = random.Random(seed)
    golds = read_golds(folder)
    made: dict[Attack, None] = {}
    for _ in range(20 * count):
        grader, gold = rng.choice(golds)
        if r"\$" in gold or (grader == "minerva" and re.match(r"[\d.]{3,}", gold)):
            continue  # a dollar sign is no mathematics; one more in a hundred is right by Minerva's rule
        dollars = gold.startswith("$") and gold.endswith("$") and gold.count("$") == 2
        kind, text = mutate(gold[1:-1] if dollars else gold, rng)
        if bare(text) != bare(gold):
            made.setdefault(Attack(kind, text, gold, grader))
        if len(made) == count:
            break
    return list(made)


def main() -> None:
    """Grade and print; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--count", type=int, default=2000, help="attacks made up beside those that are written out"
    )
    parser.add_argument(
        "--mutations", type=int, default=0, metavar="N", help="instead: N changed golds of evaluation suites"
    )
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", metavar="FOLDER")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here as well")
    options = parser.parse_args()
    console = Console()
    if options.mutations:
        made = mutations(options.data, options.mutations, options.seed)
        found = our_paid(made)
        console.print(f"{len(made)} changed golds, {len(found)} taken for the unchanged one", highlight=False)
        oracle = Process("math-verify")
        for attack in found:
            said = (
                "math-verify: equal" if oracle(attack.prediction, attack.gold) else "math-verify: different"
            )
            row = {
                "kind": attack.kind,
                "prediction": attack.prediction,
                "gold": attack.gold,
                "grader": attack.grader,
            }
            console.print(
                json.dumps({**row, "said": said}, ensure_ascii=False),
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
        oracle.close()
        return
    made = list(dict.fromkeys(written_out() + attacks(options.seed, options.count)))
    spellings = [json.loads(line) for line in SPELLINGS.read_text(encoding="utf-8").splitlines()]
    results = count_paid(made, spellings)
    print_results(console, made, len(spellings), sum(row["form"] == "answer" for row in spellings), results)
    if options.json:
        counts = {name: {**result, "paid": dict(result["paid"])} for name, result in results.items()}
        summary = {
            "attacks": dict(Counter(attack.kind for attack in made)),
            "spellings": len(spellings),
            "graders": counts,
        }
        ratios, ours = Ratios(), results["ours"]
        ratios.add("wrong answers paid, ours / all", ours["paid"].total(), len(made), better="lower")
        ratios.add("right answers accepted, ours / all", ours["accepted"], len(spellings), better="higher")
        theirs = results.get("math-verify", {"accepted": 0})["accepted"]
        ratios.add("right answers accepted, ours / math-verify", ours["accepted"], theirs, better="higher")
        ratios.write(options.json, summary)


if __name__ == "__main__":
    main()
