r"""Values as exact as formulas need: rational ones exactly, others with a precision that follows their sizes.

So `e^{100} + 1`, `\sqrt2 + 10^{-100}` and `\tanh 200` differ from what they are near.
"""

from fractions import Fraction
from functools import lru_cache
from typing import Any

from gmpo_mm.verifiers.evaluation import FIRST_BITS, Environment, Evaluator, OutsideDomain, TooLarge
from gmpo_mm.verifiers.trees import Tree, contains, variables

MAX_PRECISION = 1 << 15  # bits; formulas that need more are different
_ORDINARY_SPREAD = 32  # bits; irrational values of this size agree to sixty digits or differ visibly
COMPLEX = frozenset({"i"})


class OneSided(OutsideDomain):
    """One of two formulas has a value at a point, the other has none."""


def _precision(spread: int, environment: Environment) -> int:
    r"""Bits at which a difference of the smallest size that occurs, or of its square, is no rounding error.
    Of constants, which are compared once, of its cube: `\sin 10^{-100}` is not `10^{-100}`."""
    bits = 2 * FIRST_BITS + (6 if environment else 12) * spread
    if bits > MAX_PRECISION:
        raise TooLarge("too many digits")
    return bits


def values_equal(
    first: Tree, second: Tree, environment: Environment, in_complex: bool, careful: bool = True,
    branches: dict[int, set[Any]] | None = None, bits: int = FIRST_BITS,
) -> bool:
    """Whether both have the same value at a point, or are no further apart than rounding can bring them.

    TooLarge where one is, OneSided where only one has no value, else OutsideDomain where one has none.
    `careful` asks always for a second precision; `branches` gathers the cases taken where both are equal.
    """
    one, other = evaluators = [Evaluator(environment, in_complex, bits) for _ in range(2)]
    values: list[Any] = []
    errors: list[OutsideDomain] = []
    for evaluator, tree in zip(evaluators, (first, second), strict=True):
        try:
            values.append(evaluator.evaluate(tree))
        except OutsideDomain as error:
            errors.append(error)
    if errors:
        missing = OneSided("one has no value") if values else errors[0]
        raise next((error for error in errors if isinstance(error, TooLarge)), missing)
    x, y = values
    exact = isinstance(x, Fraction) and isinstance(y, Fraction)
    spread = max(one.spread, other.spread)
    equal = x == y if exact else abs(one.number(x) - other.number(y)) <= one.noise(spread)
    doubtful = equal and not exact and (careful or spread > _ORDINARY_SPREAD)
    if bits == FIRST_BITS and (doubtful or one.unsure or other.unsure):
        more = _precision(spread, environment)
        return values_equal(first, second, environment, in_complex, careful, branches, more)
    if equal and branches is not None:
        for node, case in (*one.branches, *other.branches):
            branches.setdefault(node, set()).add(case)
    return bool(equal)


@lru_cache(maxsize=4096)
def constant_of(tree: Tree) -> Any | None:
    """Real value of a tree without variables, a Fraction where it is rational; None for anything else."""
    if variables(tree) or contains(tree, COMPLEX):
        return None
    try:
        first = Evaluator({}, False, FIRST_BITS)
        value = first.evaluate(tree)
        if not first.unsure and (isinstance(value, Fraction) or first.spread <= _ORDINARY_SPREAD):
            return value
        return Evaluator({}, False, _precision(first.spread, {})).evaluate(tree)
    except OutsideDomain:
        return None
