"""Make the responses that the rules of other projects are held against: `python -m
tests.verifiers.rule_pairs DATA EVALUATION`.

DATA is a folder with geometry3k_test.parquet (as `gmpo-mm data geometry3k` writes it, with letters and
choices) and the evaluation suites; EVALUATION the folder of an evaluation of the bundled model on
Geometry3K. Writes rule_pairs.jsonl.gz without verdicts, always the same; `original_rules` adds them.
"""

import json
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.verifiers.original_rules import write_lines

COUNT = 2000
Row = dict[str, Any]

# Forms in which models give an answer {a}; {l} is a letter and {w} the text of another choice.
FORMS = (
    r"<think>The triangles are similar.</think> \boxed{{{a}}}",
    r"<think>By Pythagoras.</think>The answer is \boxed{{{a}}}.",
    r"<think>\boxed{{{w}}} at first</think> so \boxed{{{a}}}",
    r"Sure. <think>Two sides are equal.</think> Hence \boxed{{{a}}}",
    r"\boxed{{{a}}} or perhaps \boxed{{{w}}}",
    r"<think>cut off \boxed{{{a}",
    r"\boxed{{x = {a}}}",
    r"\boxed{{{a} \text{{ cm}}}}",
    r"\boxed{{{a}^\circ}}",
    r"\boxed{{\text{{{a}}}}}",
    r"The answer is ${a}$.",
    r"So the final answer is {a}.",
    "<think>x</think><answer>{a}</answer> Done.",
    "{a}",
    "<think>It is a right angle.</think><answer>{a}</answer>",
    "<think>\nIt is a right angle.\n</think>\n<answer> {a} </answer>",
    r"< think >It is a right angle.< / think > \boxed{{{a}}}",
    r"<think>x</think> <answer>\boxed{{{a}}}</answer>",
    r"<think>x</think> <answer>${a}$</answer>",
    "<answer>{w}</answer> no, <answer>{a}</answer>",
    "<think>x</think><answer>\n{a}\n</answer>",
    "The sides are 3, 4 and [{a}]",
    "[{a}]",
    "[Step 1] add. [Step 2] divide. Answer: {a}",
    "Answer: {l}",
    "{l}",
    "({l})",
    "{l}. {a}",
    r"<think>A similar triangle.</think> \boxed{{{l}}}",
    "The answer is {l}",
    "A triangle has 180 degrees, so it must be {a}",
    "The correct option is ({l}) {a}",
)


def forms_of(gold: str, rng: random.Random) -> str:
    """The gold as a model may write it, right or not."""
    value = gold
    kind = rng.choice(
        (
            "same",
            "same",
            "tight",
            "dfrac",
            "decimal",
            "unit",
            "near",
            "sum",
            "slash",
            "degree",
            "percent",
            "comma",
        )
    )
    if kind == "tight":
        value = re.sub(r"\s+", "", gold)
    elif kind == "dfrac":
        value = re.sub(r"\s+", "", gold).replace("\\frac", "\\dfrac")
    elif kind == "slash":
        value = re.sub(r"\\frac\{(\d+)\}\{(\d+)\}", r"\1/\2", re.sub(r"\s+", "", gold))
    elif kind == "unit":
        value = f"{gold} cm"
    elif kind == "degree":
        value = f"{gold}^{{\\circ}}"
    elif kind == "percent":
        value = f"{gold}\\%"
    elif kind == "sum":
        value = f"{gold} + 0"
    elif kind in ("decimal", "near", "comma") and re.fullmatch(r"-?\d+(\.\d+)?", gold):
        number = float(gold)
        value = {"decimal": f"{number:.2f}", "near": f"{number + 0.01:g}", "comma": f"{number * 1000:,.0f}"}[
            kind
        ]
    return value


def geometry(folder: Path, rng: random.Random, count: int) -> Iterator[Row]:
    """Golds of Geometry3K's test split in every form, a third of them another choice's text."""
    columns = ["answer", "letter", "choices"]
    problems = pq.read_table(folder / "geometry3k_test.parquet", columns=columns).to_pylist()
    rng.shuffle(problems)
    # Fractions and roots are rarer than whole numbers and where rules differ: each comes at least as often.
    rare = [problem for problem in problems if not re.fullmatch(r"[\d.]+", problem["answer"])]
    for index in range(count):
        problem = (rare if index % 2 else problems)[index // 2 % len(rare if index % 2 else problems)]
        choices = [str(choice) for choice in problem["choices"]]
        wrong = rng.randrange(4)
        chosen = "ABCD".index(problem["letter"]) if rng.random() < 0.67 else wrong
        answer = forms_of(choices[chosen], rng)
        response = FORMS[index % len(FORMS)].format(a=answer, w=choices[wrong], l="ABCD"[chosen])
        yield {
            "response": response,
            "gold": problem["answer"],
            "letter": problem["letter"],
            "choices": choices,
        }


def suites(folder: Path, rng: random.Random, count: int) -> Iterator[Row]:
    """Golds of MATH500 and OlympiadBench."""
    golds = [
        gold
        for name in ("math500", "olympiadbench")
        for gold in pq.read_table(folder / f"eval_{name}.parquet", columns=["answer"])["answer"].to_pylist()
        if len(gold) < 80
    ]
    for index, gold in enumerate(rng.sample(golds, count)):
        answer = forms_of(gold.strip("$"), rng) if rng.random() < 0.75 else rng.choice(golds).strip("$")
        yield {"response": FORMS[index % 24].format(a=answer, w="7", l="C"), "gold": gold}


def sampled(folder: Path, rng: random.Random, count: int) -> Iterator[Row]:
    """What the bundled model really said, a response at most four times."""
    golds = [json.loads(line)["golds"][0] for line in (folder / "problems.jsonl").read_text().splitlines()]
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    right = [sample for sample in samples if sample["correct"]]
    seen: dict[str, int] = {}
    for sample in rng.sample(right, min(count // 3, len(right))) + rng.sample(samples, len(samples)):
        seen[sample["response"]] = seen.get(sample["response"], 0) + 1
        if seen[sample["response"]] <= 4 and count > 0:
            count -= 1
            yield {"response": sample["response"], "gold": golds[sample["index"]]}


def corpora(rng: random.Random, count: int) -> Iterator[Row]:
    """The verifiers' own labelled pairs, in a box or as sentences."""
    rows = []
    for name in ("held_out", "own", "public_suites", "spellings", "attacks"):
        lines = (Path(__file__).parent / "labelled" / f"{name}.jsonl").read_text().splitlines()
        rows += [json.loads(line) for line in lines]
    rows = [
        row
        for row in rows
        if isinstance(row.get("gold"), str) and len(row["prediction"]) + len(row["gold"]) < 200
    ]
    for index, row in enumerate(rng.sample(rows, count)):
        said = row["prediction"]
        yield {
            "response": said if "boxed" in said else FORMS[index % 24].format(a=said, w="7", l="C"),
            "gold": row["gold"],
        }


def main(data: str, evaluation: str) -> None:
    """Write the pairs, without a verdict."""
    rng = random.Random(21)
    rows = [
        *({"source": "geometry3k golds", **row} for row in geometry(Path(data), rng, 1000)),
        *({"source": "bundled model", **row} for row in sampled(Path(evaluation), rng, 250)),
        *({"source": "math500, olympiadbench golds", **row} for row in suites(Path(data), rng, 350)),
    ]
    rows += [{"source": "labelled pairs", **row} for row in corpora(rng, COUNT - len(rows))]
    golds = sorted({row["gold"] for row in rows})
    for row in rows:
        if "choices" not in row:  # the other options of such a problem are other rows' golds
            choices = [row["gold"], *rng.sample(golds, 3)]
            rng.shuffle(choices)
            row |= {"letter": "ABCD"[choices.index(row["gold"])], "choices": choices}
    header = {"note": "Made by rule_pairs.py, verdicts by original_rules.py.", "originals": {}}
    write_lines([header, *rows])


if __name__ == "__main__":
    main(*sys.argv[1:])
