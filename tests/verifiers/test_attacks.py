"""The graders against answers made up to cheat them, and against right answers as models write them."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gmpo_mm.verifiers.graders import grade_responses
from tests.verifiers.attacks import GRADERS, Attack, attacks, kinds, paid, written_out

LABELLED = Path(__file__).with_name("labelled")
PAID = 0.02
"""Share of new attacks that may be paid."""
ACCEPTED = 0.96
"""Share of natural spellings that must be right."""

# Answers that are pairwise different, numbers more than 1 % apart. Letters are tried with letters, as `B. 12`
# is a choice and its text.
LETTERS = ("A", "B", "C", "D")
GOLDS = r"""
5 17 23 -4 0 1 2 12 100 1024 9973 \frac{1}{2} \frac{3}{7} -\frac{5}{3} 2.6 3.3 0.07 \sqrt{2} 2\sqrt{3}
\frac{\sqrt{5}}{2} 1+\sqrt{2} \pi \frac{\pi}{3} 6\pi e e^2 3+4i i 2^{100} 5040 \infty x x+1 x^2 x^2-1
2x+3 \frac{1}{x} \frac{abc}{4R} n! 2^n e^{-t} |x-y| \lfloor{n/2}\rfloor (-1)^n \binom{n}{2} east even
odd Yes Tuesday (1,2) (2,1) (1,2,3) [1,2] (0,\infty) x>3 x\neq3 \{1,3\} 4,6 \pm7 y=2x+1 x^2+y^2=9
"""
BOXES = r"""
<g> <h> || <h> <g> || <g> = <h> || x = <g> = <h> || <g> \approx <h> || <g>, <h> || <g> or <h>
$<g>$ $<h>$ || $<g>$ or $<h>$ || <g>; <h> || <g> \quad <h> || <g> and <h> || the answer is <g>, or <h>
The value $<g>$ is <h> || <g> (<h>) || (<g>) (<h>) || <g> \in <h> || <g> \text{ or } <h> || <g> - <h>
<g> + <h> || <g> \cdot <h> || <g> / <h> || \frac{<g>}{<h>} || <g><h> || \{<g>, <h>\} || (<g>, <h>)
[<g>, <h>] || <g> \cup <h> || <g> \neq <h> || <g> < <h> || x = <g>, x = <h> || x = <g> \quad x = <h>
x = <g> \text{ or } x = <h> || <g> \implies <h> || <g>, x \neq <h> || <g> \text{ for } x > <h>
<g> where x = <h> || <g> \pm <h> || <g> \text{ if } <h> || <g> : <h> || <g>^{<h>} || \sqrt{<g>} = <h>
<g> \\ <h> || \max(<g>, <h>) || <g> = <g> = <h> || The answer is <g>. The answer is <h>.
<g>, i.e. <h> || <g> not <h> || not <g> but <h> || <g>, not <h> || <g> \text{ (} <h> \text{)}
<g> | <h> || f(<g>) = <h> || <g> = f(<h>) || <g>_{<h>} || between <g> and <h> || <g>, <g>, <h>
(<g>)^{1} = <h> || \text{<g>} <h> || \boxed{<g>} \boxed{<h>}
"""


def lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (LABELLED / name).read_text(encoding="utf-8").splitlines()]


def shown(found: list[Attack]) -> str:
    counts = Counter(attack.kind for attack in found)
    texts = [f"{a.kind} [{a.grader}]: {a.prediction!r} for {a.gold!r}" for a in found]
    return "\n".join([f"{count} of {kind}" for kind, count in counts.items()] + texts)


def test_the_same_seed_makes_the_same_attacks_and_another_seed_others() -> None:
    assert attacks(3, 200) == attacks(3, 200)
    assert len(set(attacks(3, 200)) & set(attacks(4, 200))) < 60
    assert len({kind.name for kind in kinds()}) >= 30
    assert {attack.kind for attack in attacks(0, 200)} == {kind.name for kind in kinds()}


def test_no_attack_equals_its_gold_as_text() -> None:
    assert [a for a in attacks(0, 3000) + written_out() if a.prediction == a.gold] == []


def test_none_of_the_known_strings_is_paid() -> None:
    found = paid(written_out())
    assert found == [], shown(found)


@pytest.mark.parametrize("seed", range(3))
def test_new_attacks_of_every_kind_are_not_paid(seed: int) -> None:
    made = attacks(seed, 1200)
    found = paid(made)
    assert len(found) <= PAID * len(made), shown(found)
    worst = Counter(attack.kind for attack in found).most_common(1)
    assert not worst or worst[0][1] <= 0.15 * len(made) / len(kinds()), shown(found)


def test_mutated_golds_that_once_slipped_through_are_not_paid() -> None:
    kept = [
        Attack(row["kind"], row["prediction"], row["gold"], row["grader"]) for row in lines("attacks.jsonl")
    ]
    assert len(kept) >= 20
    found = paid(kept)
    assert found == [], shown(found)


@pytest.mark.parametrize("grader", GRADERS)
def test_every_gold_that_is_attacked_is_right_for_itself(grader: str) -> None:
    golds = sorted(
        {attack.gold for attack in attacks(0, 1500) if attack.grader == grader} | set(GOLDS.split())
    )
    grades = grade_responses(grader, golds, golds, kind="answer")
    assert [gold for gold, grade in zip(golds, grades, strict=True) if not grade.correct] == []


@pytest.mark.parametrize("grader", GRADERS)
def test_no_box_is_right_for_two_different_golds(grader: str) -> None:
    rng = random.Random(0)
    forms = [form for line in BOXES.strip().splitlines() for form in line.split(" || ")]
    tries = []
    for _ in range(2500):
        g, h = rng.sample(LETTERS if rng.random() < 0.1 else GOLDS.split(), 2)
        tries.append((rng.choice(forms).replace("<g>", g).replace("<h>", h), g, h))
    boxes, firsts, seconds = (list(column) for column in zip(*tries, strict=True))
    first = grade_responses(grader, boxes, firsts, kind="answer")
    second = grade_responses(grader, boxes, seconds, kind="answer")
    both = [row for row, a, b in zip(tries, first, second, strict=True) if a.correct and b.correct]
    assert both == []
    assert sum(a.correct or b.correct for a, b in zip(first, second, strict=True)) >= 50, (
        "the boxes hold no right answers"
    )


def test_the_spellings_are_many_and_distinct() -> None:
    rows = lines("spellings.jsonl")
    assert len(rows) >= 250 and len({row["id"] for row in rows}) == len(rows)
    assert len({(row["prediction"], row["gold"], row["grader"], row["form"]) for row in rows}) == len(rows)
    assert len({row["kind"] for row in rows}) >= 25


def test_right_answers_as_models_write_them_are_right() -> None:
    rows = lines("spellings.jsonl")
    missed = []
    for row in rows:
        (grade,) = grade_responses(row["grader"], [row["prediction"]], [row["gold"]], kind=row["form"])
        if not grade.correct:
            what = f"{row['id']} {row['kind']} [{row['grader']}]"
            missed.append(f"{what}: {row['prediction']!r} for {row['gold']!r} ({grade.why})")
    assert len(missed) <= (1 - ACCEPTED) * len(rows), "\n".join(missed)
