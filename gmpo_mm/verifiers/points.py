"""Points at which two formulas could differ. They depend on the formulas alone, so that verdicts do.

They cover both signs, every order of two names, both parities, zero, small and large numbers, what is between
integers, and the neighbours of the constants in the formulas.
"""

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
_NEED_INTEGERS = frozenset({"factorial", "binom", "gcd", "lcm", "mod"})
_ROUNDING = frozenset({"floor", "ceil"}) | _NEED_INTEGERS


def sample_points(first: Tree, second: Tree) -> Iterator[Environment]:
    """Points that depend on the names, the constants and the functions of the two formulas alone."""
    names = sorted(variables(first) | variables(second))
    if not names:
        return
    rng = random.Random(zlib.crc32(" ".join(names).encode()))
    if not (_is_critical(first) or _is_critical(second)):
        for sign in (1, -1, None, None, None):  # all positive, all negative, mixed
            signs = [sign or rng.choice((1, -1)) for _ in names]
            yield {
                name: s * Fraction(rng.randint(71, 1051), 331) for name, s in zip(names, signs, strict=True)
            }
        yield {name: Fraction(rng.randint(2, 29)) for name in names}
        return
    values = {name: _critical_values(name, first, second) for name in names}
    if len(names) == 1:
        yield from ({names[0]: value} for value in values[names[0]])
        return
    if len(names) == 2:
        short = [values[name][:8] for name in names]
        yield from (dict(zip(names, pair, strict=True)) for pair in itertools.product(*short))
    for _ in range(24 if len(names) == 2 else 48):
        yield {name: rng.choice(values[name]) for name in names}
    for _ in range(12):  # where all are positive, which roots and logarithms may ask for
        yield {name: abs(rng.choice(values[name])) or Fraction(1) for name in names}
    if contains(first, _NEED_INTEGERS) or contains(second, _NEED_INTEGERS):
        for _ in range(48):
            yield {name: Fraction(rng.randint(0, 12)) for name in names}


def magnitudes(first: Tree, second: Tree) -> Iterator[Environment]:
    """One name very large or very small, the others not."""
    names = sorted(variables(first) | variables(second))
    values = {name: _critical_values(name, first, second) for name in names}
    for turn, name in enumerate(names[:4]):
        for exponent in (2, 5, 9, 14, 20, 28, 40, 60, 90, 140, 200):
            for sign in (1, -1):
                large = Fraction(10**exponent + 1)
                for value in (large, 1 / large):
                    if _may_be(sign * value, values[name]):
                        others = {other: some[(exponent + turn) % 2] for other, some in values.items()}
                        yield {**others, name: sign * value}


def _may_be(value: Fraction, values: list[Fraction]) -> bool:
    """Whether a name with such values may have another: of its sign, and whole if all are."""
    return (value > 0 or min(values) < 0) and (
        value.denominator == 1 or any(v.denominator > 1 for v in values)
    )


def _critical_values(name: str, first: Tree, second: Tree) -> list[Fraction]:
    """Both signs and parities, zero, small, large, between, and the neighbours of the formulas' constants.

    Names of integers have integers only; those of radii and resistances, which begin with r or R, have
    positive numbers only.
    """
    base = [
        Fraction(v) for v in (2, -3, 1, 0, -1, 5, -8, 12, 7, -2, 3, 4, 6, 100, 101, -1000, 9973, 10**7 + 1)
    ]
    between = [
        Fraction(5, 2),
        Fraction(-7, 3),
        Fraction(1, 3),
        Fraction(-2, 7),
        Fraction(1, 1000),
        Fraction(10**6, 7),
    ]
    near = []
    for c in _constants(first, second):
        near += [c, -c, c + 1, c - 1, -c - 2, 2 * c + 1, c * c + 1, c / 2, c + Fraction(1, 3)]
    if _is_integer(name, first, second):
        values = [value for value in base + near if value.denominator == 1]
    else:
        values = base[:5] + between[:3] + base[5:] + between[3:] + near
    return [value for value in dict.fromkeys(values) if value > 0 or name[:1] not in "rR"]


@lru_cache(maxsize=256)
def _constants(first: Tree, second: Tree) -> list[Fraction]:
    """The largest constants in the formulas, an irrational one as the integer below it."""
    found = set()
    for tree in (first, second):
        for node in subtrees(tree):
            value = constant_of(node)
            if value is not None and value != 0:
                number = abs(value) if isinstance(value, Fraction) else Fraction(int(abs(value)))
                if 1 < number <= 10**500 and number.denominator < 10**6:
                    found.add(number)
    ordered = sorted(found)
    return ordered[-6:]


def _is_integer(name: str, first: Tree, second: Tree) -> bool:
    if name in forced_integers(first) | forced_integers(second):
        return True
    return name[:1] in INTEGER_LETTERS and (contains(first, _ROUNDING) or contains(second, _ROUNDING))


@lru_cache(maxsize=2048)
def forced_integers(tree: Tree) -> frozenset[str]:
    r"""Names in `n!`, `\binom{n}{k}` and `(-1)^n`, which have values for integers only."""
    names: set[str] = set()
    for node in subtrees(tree):
        if node[0] in _NEED_INTEGERS:
            names |= variables(node)
        elif node[0] == "pow" and variables(node[2]):
            base = constant_of(node[1])
            if base is not None and base < 0:
                names |= variables(node[2])
    return frozenset(names)


@lru_cache(maxsize=2048)
def _is_critical(tree: Tree) -> bool:
    """Whether a formula has parts that are not analytic, or are defined for some values of its names only."""
    return any(_is_critical_node(node) for node in subtrees(tree))


def _is_critical_node(node: Tree) -> bool:
    if not variables(node):
        return False
    if node[0] == "fn":
        return node[1] in ("floor", "ceil", "abs", "ln", "arcsin", "arccos", "arctan")
    if node[0] in ("factorial", "binom", "max", "min", "mod", "gcd", "lcm", "log", "root"):
        return True
    if node[0] != "pow":
        return False
    exponent = constant_of(node[2])
    if isinstance(exponent, Fraction):
        return exponent.denominator != 1
    base = constant_of(node[1])
    return base is None or not base > 0
