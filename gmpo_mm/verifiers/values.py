r"""Values as exact as formulas need: rational ones exactly, others with a precision that follows their sizes.

So `e^{100} + 1`, `\sqrt2 + 10^{-100}` and `\tanh 200` differ from what they are near.
"""

from fractions import Fraction
from functools import lru_cache
from typing import Any

from gmpo_mm.verifiers.evaluation import (
    FIRST_BITS,
    Environment,
    Evaluator,
    OutsideDomain,
    TooLarge,
    context,
)
from gmpo_mm.verifiers.trees import Tree, contains, variables

MAX_PRECISION = 1 << 15  # bits; formulas that need more are different
_ORDINARY_SPREAD = 32  # bits; irrational values of this size agree to sixty digits or differ visibly
COMPLEX = frozenset({"i"})


class OneSided(OutsideDomain):
    """One of two formulas has a value at a point, the other has none."""


def settled_value(tree: Tree, environment: Environment, in_complex: bool = False) -> Any:
    """A Fraction where the value is rational and known, else as many bits as tell it from what it is near."""
    first = Evaluator(environment, in_complex, FIRST_BITS)
    value = first.evaluate(tree)
    if first.unsure or not (isinstance(value, Fraction) or first.spread <= _ORDINARY_SPREAD):
        value = Evaluator(environment, in_complex, _precision(first.spread, environment)).evaluate(tree)
    return value


def _precision(spread: int, environment: Environment) -> int:
    r"""Bits at which a difference of the smallest size that occurs, or of its square, is no rounding error.

    Of constants, which are compared once, of its cube: `\sin 10^{-100}` is not `10^{-100}`.
    """
    bits = 2 * FIRST_BITS + (6 if environment else 12) * spread
    if bits > MAX_PRECISION:
        raise TooLarge("too many digits")
    return bits


def _evaluated(trees: tuple[Tree, Tree], environment: Environment, in_complex: bool, bits: int) -> list[Any]:
    """Value and evaluator of both; TooLarge where one is, OneSided where only one has no value."""
    found: list[Any] = []
    errors: list[OutsideDomain] = []
    for tree in trees:
        evaluator = Evaluator(environment, in_complex, bits)
        try:
            found.append((evaluator.evaluate(tree), evaluator))
        except OutsideDomain as error:
            errors.append(error)
    for large in errors:
        if isinstance(large, TooLarge):
            raise large
    if errors:
        raise OneSided("one has no value") if found else errors[0]
    return found


def values_equal(
    first: Tree,
    second: Tree,
    environment: Environment,
    in_complex: bool,
    careful: bool = True,
    branches: dict[int, set[Any]] | None = None,
) -> bool:
    """Whether both have the same value at a point; OutsideDomain where one has none.

    `careful` asks for a second precision even where the values are of ordinary size; `branches` gathers the
    cases that were taken where the values are equal.
    """
    (x, one), (y, other) = _evaluated((first, second), environment, in_complex, FIRST_BITS)
    spread = max(one.spread, other.spread)
    sure = not (one.unsure or other.unsure)
    exact = isinstance(x, Fraction) and isinstance(y, Fraction)
    if sure and exact:
        equal = bool(x == y)
    else:
        equal = not sure or _near(x, y, one, other, spread)
        if equal and (careful or not sure or spread > _ORDINARY_SPREAD):
            bits = _precision(spread, environment)
            (x, one), (y, other) = _evaluated((first, second), environment, in_complex, bits)
            equal = _near(x, y, one, other, max(one.spread, other.spread))
    if equal and branches is not None:
        for node, case in (*one.branches, *other.branches):
            branches.setdefault(node, set()).add(case)
    return equal


def _near(x: Any, y: Any, one: Evaluator, other: Evaluator, spread: int) -> bool:
    """Equal, or no further apart than rounding can bring equal values of this size; see `Evaluator.noise`."""
    if isinstance(x, Fraction) and isinstance(y, Fraction):
        return x == y
    return bool(abs(one.number(x) - other.number(y)) <= one.noise() * context(64).mpf(2) ** spread)


@lru_cache(maxsize=4096)
def constant_of(tree: Tree) -> Any | None:
    """Real value of a tree without variables, a Fraction where it is rational; None for anything else."""
    if variables(tree) or contains(tree, COMPLEX):
        return None
    try:
        return settled_value(tree, {})
    except OutsideDomain:
        return None
