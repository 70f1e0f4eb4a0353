"""Points at which two formulas could differ; they depend on the formulas alone, so that verdicts do."""

import itertools
import random
import zlib
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache

from gmpo_mm.verifiers.evaluation import Environment
from gmpo_mm.verifiers.trees import Tree, contains, subtrees, variables
from gmpo_mm.verifiers.values import constant_of

INTEGER_LETTERS = frozenset("nmN")  # names of integers by convention, where a floor or a modulus occurs
_NEED_INTEGERS = frozenset({"factorial", "binom"})
_ROUNDING = _NEED_INTEGERS | {"floor", "ceil"}
# What is not analytic, or is defined for some values of its names only.
_CRITICAL = _ROUNDING.union(str.split("abs ln max min log root arcsin arccos arctan arccot arcsec arccsc"))
_CRITICAL = _CRITICAL.union(str.split("arccosh arcsinh arctanh arccoth arcsech arccsch"))
_VALUES = "2 -3 1 0 -1 5/2 -7/3 1/3 5 -8 12 7 -2 3 4 6 100 101 -1000 9973 10000001 -2/7 1/1000 1000000/7"
_EXPONENTS = (2, 5, 9, 14, 20, 28, 40, 60, 90, 140, 200)


def sample_points(first: Tree, second: Tree) -> Iterator[Environment]:
    """Points that depend on the names, the constants and the functions of the two formulas alone."""
    pair: Tree = ("pair", first, second)
    names = sorted(variables(pair))
    rng = random.Random(zlib.crc32(" ".join(names).encode()))
    if not any(map(_is_critical, subtrees(pair))):
        for signs in ((1,), (-1,), (1, -1), (1, -1), (1, -1)):
            yield {name: rng.choice(signs) * Fraction(rng.randint(71, 1051), 331) for name in names}
        yield {name: Fraction(rng.randint(2, 29)) for name in names}
        return
    values = _critical_values(pair)
    if len(names) <= 2:
        short = [values[name][: None if len(names) == 1 else 8] for name in names]
        yield from (dict(zip(names, point, strict=True)) for point in itertools.product(*short))
    if len(names) == 1:
        return
    for _ in range(24 if len(names) == 2 else 48):
        yield {name: rng.choice(values[name]) for name in names}
    for _ in range(12):  # where all are positive, which roots and logarithms may ask for
        yield {name: abs(rng.choice(values[name])) or Fraction(1) for name in names}
    if contains(pair, _NEED_INTEGERS):
        for _ in range(48):
            yield {name: Fraction(rng.randint(0, 12)) for name in names}


def magnitudes(first: Tree, second: Tree) -> Iterator[Environment]:
    """One name very large or very small, the others not."""
    values = _critical_values(("pair", first, second))
    for turn, name in enumerate(list(values)[:4]):
        signs = (1, -1) if min(values[name]) < 0 else (1,)
        whole = all(value.denominator == 1 for value in values[name])
        for exponent, sign in itertools.product(_EXPONENTS, signs):
            large = Fraction(10**exponent + 1)
            others = {other: some[(exponent + turn) % 2] for other, some in values.items()}
            for value in (large,) if whole else (large, 1 / large):
                yield {**others, name: sign * value}


def _critical_values(pair: Tree) -> dict[str, list[Fraction]]:
    """Of each name: both signs and parities, and the neighbours of the constants that occur.

    Names of integers have integers only; those that begin with r or R have positive numbers only.
    """
    values = [Fraction(value) for value in _VALUES.split()]
    for c in _constants(pair):
        values += [c, -c, c + 1, c - 1, -c - 2, 2 * c + 1, c * c + 1, c / 2, c + Fraction(1, 3)]
    integers = forced_integers(pair)
    if contains(pair, _ROUNDING):
        integers |= {name for name in variables(pair) if name[:1] in INTEGER_LETTERS}
    return {
        name: [
            value
            for value in dict.fromkeys(values)
            if (value > 0 or name[:1] not in "rR") and (value.denominator == 1 or name not in integers)
        ]
        for name in sorted(variables(pair))
    }


def _constants(pair: Tree) -> list[Fraction]:
    """The largest constants in the formulas, an irrational one as the integer below it."""
    values = map(abs, filter(None, map(constant_of, subtrees(pair))))
    found = {value if isinstance(value, Fraction) else Fraction(int(value)) for value in values}
    return sorted(one for one in found if 1 < one <= 10**500 and one.denominator < 10**6)[-6:]


@lru_cache(maxsize=2048)
def forced_integers(tree: Tree) -> frozenset[str]:
    r"""Names in `n!`, `\binom{n}{k}` and `(-1)^n`, which have values for integers only."""
    names: set[str] = set()
    for node in subtrees(tree):
        if node[0] in _NEED_INTEGERS:
            names |= variables(node)
        elif node[0] == "pow" and (constant_of(node[1]) or 0) < 0:
            names |= variables(node[2])
    return frozenset(names)


@lru_cache(maxsize=4096)
def _is_critical(node: Tree) -> bool:
    if not variables(node):
        return False
    if node[0] != "pow":
        return (node[1] if node[0] == "fn" else node[0]) in _CRITICAL
    base, exponent = map(constant_of, node[1:])
    if isinstance(exponent, Fraction):
        return exponent.denominator != 1
    return base is None or not base > 0
