"""Wrong answers made up to cheat a grader, by kind: templates and small generators, drawn with a seed.

The kinds stand in `attack_templates.txt`: a line `## kind (graders)` and then its templates, `prediction
==> gold`, with several golds after `||`; a line `@name` stands for a generator of this module. Names in
angle brackets are filled in, the same name with the same text, and a template without any is an attack as
it stands:
    <p> <q> <r>      three primes from 11 to 97, in order     <v> <w>  two numbers, more than 5 % apart
    <n> <m>          two different whole numbers, 2 to 9      <g> <h>  two different answers of any sort
    <N>              a whole number from 200 to 2000          <x> <y> <z>  three different names
    <F>              the name of a function                   <A> <B> <C> <D>  four choices, in order

Primes keep accidents away: none is the double, the sum or within 1 % of another. Every attack must be
wrong, or no answer, for a mathematician who reads it beside the gold; conventions are no attacks (`60\\%`
is right for 60 and 0.6).
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from gmpo_mm.verifiers.graders import grade_responses

PRIMES = (11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97)
WORDS = ("east", "west", "even", "odd", "Tuesday", "parallelogram", "increasing", "Evelyn", "yes", "blue")
GRADERS = ("math", "minerva", "olympiadbench")
TEMPLATES = Path(__file__).with_name("attack_templates.txt")


@dataclass(frozen=True)
class Attack:
    """A wrong `prediction` (the content of a box), and the text of the problem where the kind needs one."""

    kind: str
    prediction: str
    gold: str
    grader: str
    problem: str | None = None


Made = tuple[str, str] | tuple[str, str, str]
"""A prediction, its gold, and the problem's text where there is one."""


def value(rng: random.Random) -> tuple[str, float]:
    """A number as text, and its size."""
    small, large = sorted(rng.sample(PRIMES, 2))
    root = rng.choice((2, 3, 5, 7))
    return rng.choice(
        [
            (f"{large}", large),
            (f"-{large}", -large),
            (f"{large}.{small}", float(f"{large}.{small}")),
            (rf"\frac{{{large}}}{{{small}}}", large / small),
            (rf"{large}\sqrt{{{root}}}", large * root**0.5),
            (rf"\frac{{{large}\pi}}{{{small}}}", large / small * 3.14159265),
        ]
    )


def two_values(rng: random.Random) -> tuple[str, str]:
    """Two numbers more than 5 % apart."""
    while True:
        (a, size_a), (b, size_b) = value(rng), value(rng)
        if abs(size_a - size_b) > 0.05 * max(abs(size_a), abs(size_b)):
            return a, b


def two_answers(rng: random.Random) -> tuple[str, str]:
    """Two answers of any sort; a letter goes with a letter, as `B 17` is a choice with its text."""
    sort = rng.randrange(5)
    if sort == 0:
        a, b = rng.sample("ABCDE", 2)
        return a, b
    p, q, r, s = rng.sample(PRIMES, 4)
    formulas = rng.sample([f"{p}x+{q}", f"x^2+{r}", rf"\frac{{x}}{{{s}}}", rf"{q}\sin x", f"e^{{{r}t}}"], 2)
    first, second = two_values(rng)
    pools = [(first, second), (formulas[0], formulas[1]), (first, formulas[0]), tuple(rng.sample(WORDS, 2))]
    a, b = pools[sort - 1]
    return (a, b) if rng.random() < 0.5 else (b, a)


def fill(template: str, rng: random.Random) -> str:
    """The template with every name filled in."""
    p, q, r = sorted(rng.sample(PRIMES, 3))
    n, m = rng.sample(range(2, 10), 2)
    x, y, z = rng.sample("xyzabkt", 3)
    v, w = two_values(rng)
    g, h = two_answers(rng)
    a, b, c, d = sorted(rng.sample("ABCDE", 4))
    names = dict(p=p, q=q, r=r, n=n, m=m, x=x, y=y, z=z, v=v, w=w, g=g, h=h, A=a, B=b, C=c, D=d)
    names |= dict(N=rng.randint(200, 2000), F=rng.choice("yIVfghPQ"))
    return re.sub(r"<([A-Za-z])>", lambda match: str(names[match.group(1)]), template)


def vanishing(rng: random.Random) -> Made:
    """A polynomial that equals the gold at six to ten small whole numbers and nowhere else."""
    first, count = rng.randint(-3, 2), rng.randint(6, 10)
    factors = "".join(f"(n{-i:+d})" if i else "n" for i in range(first, first + count))
    gold = rng.choice(["n^2", "2n+1", "n(n-1)", "n!", r"\binom{n}{2}", "2^n"])
    return f"{gold} + {factors}", gold


def off_by_one(rng: random.Random) -> Made:
    """A long whole number, one off."""
    number = rng.randrange(10**15, 10 ** rng.randint(16, 70))
    return str(number + rng.choice((-1, 1))), str(number)


def copied(rng: random.Random) -> Made:
    """An expression of the problem given back instead of its value."""
    a, b, c = sorted(rng.sample(PRIMES, 3))
    n = rng.randint(12, 40)
    k = rng.randint(2, 4)
    choose = 1
    for i in range(k):
        choose = choose * (n - i) // (i + 1)
    x_squared = f"x^2 - {a + b}x + {a * b}"
    cases = [
        (f"{c}^2 + {b} + {a}", f"{c * c + b + a}", "Find $%s$."),
        (rf"{a} \cdot {b} + {c}", f"{a * b + c}", "What is the value of $%s$?"),
        (rf"\dbinom{{{n}}}{{{k}}}", f"{choose}", "Compute $%s$."),
        (f"{c}^3", f"{c**3}", "How many digits has $%s$? Give the number itself."),
        (rf"\sqrt{{{a * a * b}}}", rf"{a}\sqrt{{{b}}}", "Simplify $%s$."),
        (rf"\frac{{{a * b}}}{{{a * c}}}", rf"\frac{{{b}}}{{{c}}}", "Reduce $%s$ to lowest terms."),
        (x_squared, f"(x-{a})(x-{b})", "Factor $%s$."),
        (f"(x-{a})(x-{b})", x_squared, "Expand $%s$."),
        (rf"({c}+{b})({c}-{b})", f"{c * c - b * b}", "Evaluate \\[%s.\\]"),
        (rf"|{a} - {c}|", f"{c - a}", "Compute $%s$."),
        (rf"\frac{{1}}{{{a}}} + \frac{{1}}{{{b}}}", rf"\frac{{{a + b}}}{{{a * b}}}", "Add: $%s$."),
    ]
    prediction, gold, problem = rng.choice(cases)
    return prediction, gold, problem.replace("%s", prediction)


def far_number(rng: random.Random) -> Made:
    """A number between 1.1 % and 4 % off."""
    number, factor = rng.uniform(1, 10), rng.uniform(1.0115, 1.04)
    gold, wrong = f"{number:.4f}", f"{number * factor:.4f}"
    exponent = rng.randint(-12, 23)
    power = rf" \times 10^{{{exponent}}}" if rng.random() < 0.6 else ""
    return (wrong + power, gold + power) if rng.random() < 0.5 else (gold + power, wrong + power)


def just_beyond_tolerance(rng: random.Random) -> Made:
    """A decimal 1e-7 to 1e-5 off."""
    number, gap = rng.uniform(1, 100), 10 ** rng.uniform(-7, -5)
    return f"{number + gap:.10f}", f"{number:.10f}"


def other_parts(rng: random.Random) -> Made:
    """A list or a tuple with a part missing, too much, exchanged, twice or another."""
    items = [str(prime) for prime in rng.sample(PRIMES, rng.randint(2, 4))]
    other = rng.choice([str(prime) for prime in PRIMES if str(prime) not in items])
    changed = rng.choice([items[:-1], [*items, other], [*items[:-1], other], [*items[:-1], "-" + items[-1]]])
    form = rng.choice(["%s", r"\{%s\}", "(%s)"] if len(changed) > 1 else ["%s", r"\{%s\}"])
    if form == "(%s)" and rng.random() < 0.5:
        changed = items[1:] + items[:1]
    return form % ", ".join(changed), form % ", ".join(items)


def matrix(rows: list[list[int]]) -> str:
    """A matrix in LaTeX."""
    body = r" \\ ".join(" & ".join(map(str, row)) for row in rows)
    return rf"\begin{{pmatrix}} {body} \end{{pmatrix}}"


def other_matrix(rng: random.Random) -> Made:
    """A matrix turned, with two rows exchanged, an entry changed, or a row left out."""
    a, b, c, d = rng.sample(PRIMES, 4)
    wrong = [
        [[a, c], [b, d]],
        [[c, d], [a, b]],
        [[a, b], [c, d + 1]],
        [[a, b]],
        [[a, b, c, d]],
        [[-a, b], [c, d]],
    ]
    return matrix(rng.choice(wrong)), matrix([[a, b], [c, d]])


def side_by_side(rng: random.Random) -> Made:
    """Two numbers beside each other for their sum, their product or the number that their digits make."""
    a, b = rng.sample(PRIMES, 2)
    space = rng.choice(
        [" ", r" \quad ", r"\ ", r" \; ", r" \text{ and } ", ", ", "; ", "$ $", r" \\ ", " and "]
    )
    return f"{a}{space}{b}", str(rng.choice([a + b, a * b, int(f"{a}{b}"), a - b, b - a]))


GENERATORS: dict[str, Callable[[random.Random], Made]] = {
    f"@{make.__name__}": make
    for make in (
        vanishing,
        off_by_one,
        copied,
        far_number,
        just_beyond_tolerance,
        other_parts,
        other_matrix,
        side_by_side,
    )
}
COPIES: tuple[Made, ...] = (
    ("99^2+99+1", "9901", "What is $99^2+99+1$?"),
    (r"\dbinom{31}{28}", "4495", r"Compute $\dbinom{31}{28}$."),
)


@dataclass(frozen=True)
class Kind:
    """The templates of a kind, and the graders that they are for."""

    name: str
    graders: tuple[str, ...]
    templates: tuple[str, ...]


@cache
def kinds() -> tuple[Kind, ...]:
    """The kinds of `attack_templates.txt`; each of several golds makes a template of its own."""
    found: list[Kind] = []
    for section in TEMPLATES.read_text(encoding="utf-8").split("\n\n"):
        head, *lines = section.strip().splitlines()
        name, graders = re.fullmatch(r"## (.*) \((.*)\)", head).groups()
        templates = []
        for line in lines:
            prediction, _, golds = line.partition(" ==> ")
            templates += [f"{prediction} ==> {gold}" for gold in golds.split(" || ")] if golds else [line]
        found.append(Kind(name, tuple(graders.split(", ")), tuple(templates)))
    return tuple(found)


def make(template: str, rng: random.Random) -> Made:
    """One attack of the template or the generator."""
    if template in GENERATORS:
        return GENERATORS[template](rng)
    prediction, gold = fill(template, rng).split(" ==> ")
    return prediction, gold


def written_out() -> list[Attack]:
    """The attacks that are the same for every seed, under each grader of their kind."""
    found = [
        Attack("1.4 copied from the problem", *made[:2], grader, made[2])
        for made in COPIES
        for grader in GRADERS
    ]
    for kind in kinds():
        for template in kind.templates:
            if not template.startswith("@") and not re.search(r"<[A-Za-z]>", template):
                prediction, gold = template.split(" ==> ")
                found += [Attack(kind.name, prediction, gold, grader) for grader in kind.graders]
    return found


def attacks(seed: int = 0, count: int = 1000) -> list[Attack]:
    """`count` different attacks, the kinds in turns, each from one of its templates, drawn with the seed."""
    rng = random.Random(seed)
    found: dict[Attack, None] = {}
    for _ in range(20 * count):
        kind = kinds()[len(found) % len(kinds())]
        prediction, gold, *problem = make(rng.choice(kind.templates), rng)
        found.setdefault(Attack(kind.name, prediction, gold, rng.choice(kind.graders), *problem))
        if len(found) == count:
            break
    return list(found)


def paid(made: Sequence[Attack], timeout: float = 3.0) -> list[Attack]:
    """The attacks that our graders call right; a problem is given where the attack has one."""
    found: list[Attack] = []
    for grader, problem in sorted({(attack.grader, attack.problem is not None) for attack in made}):
        rows = [attack for attack in made if (attack.grader, attack.problem is not None) == (grader, problem)]
        more: dict[str, Any] = (
            {"problems": [row.problem for row in rows], "unevaluated": "reject"} if problem else {}
        )
        answers, golds = [row.prediction for row in rows], [row.gold for row in rows]
        grades = grade_responses(grader, answers, golds, kind="answer", timeout=timeout, **more)
        found += [row for row, grade in zip(rows, grades, strict=True) if grade.correct]
    return found
