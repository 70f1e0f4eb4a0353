r"""Are two formulas the same function? Decided by their values at points where they could differ.

Each part that decides between cases must have taken more than one of them: `\lfloor n/10^{400} \rfloor` is 0
at every point that is tried, which decides nothing.
"""

from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from gmpo_mm.verifiers.evaluation import BRANCHING, Environment, OutsideDomain, TooLarge
from gmpo_mm.verifiers.points import INTEGER_LETTERS, forced_integers, magnitudes, sample_points
from gmpo_mm.verifiers.trees import Tree, canonical_tree, children, contains, subtrees, variables
from gmpo_mm.verifiers.values import COMPLEX, OneSided, constant_of, values_equal

MAX_VARIABLES = 12
_ENOUGH = 3  # points at which both formulas have a value
_SHARE = 10  # one in so many points where one of them has a value must be such a point
_MAX_FOLDED = 10**1000  # a longer number stays the formula that it is
_CAREFUL = 3  # first points at which irrational values are always compared at two precisions
_CALCULUS = frozenset(str.split("sum product index infinity"))
_PERIODIC = frozenset(str.split("sin cos tan cot sec csc"))


def same_trees(first: Tree, second: Tree) -> bool | None:
    """Whether two formulas are the same; None where only computer algebra could tell."""
    pair: Tree = ("pair", first, second)
    if contains(pair, _CALCULUS):
        return canonical_tree(first) == canonical_tree(second) or None
    names = variables(pair)
    if not names:
        return _same_constant(first, second, contains(pair, COMPLEX))
    if first == second or len(names) > MAX_VARIABLES:
        return _same_spelling(first, second)
    return _same_at_points(pair)


def _same_at_points(pair: Tree) -> bool | None:
    first, second = pair[1:]
    in_complex = contains(pair, COMPLEX)
    seen: Counter[Any] = Counter()  # points: where both have a value, and by the error where not
    branches: dict[int, set[Any]] = {}

    def differ_at(points: Iterator[Environment]) -> bool:
        for point in points:
            try:
                if not values_equal(first, second, point, in_complex, seen["both"] < _CAREFUL, branches):
                    return True
                seen["both"] += 1
            except OutsideDomain as error:
                seen[type(error)] += 1
        return False

    def all_cases_taken() -> bool:
        return all(len(branches.get(id(node), ())) >= 2 for node in _branching(pair))

    if differ_at(sample_points(first, second)):
        return False
    if (seen["both"] < _ENOUGH or not all_cases_taken()) and differ_at(magnitudes(first, second)):
        return False
    if seen["both"] >= max(_ENOUGH, (seen["both"] + seen[OneSided]) / _SHARE):
        return (all_cases_taken() and not _hides_a_period(pair)) or None
    if _same_spelling(first, second):
        return True
    return False if seen[TooLarge] or (seen[OneSided] and not seen["both"]) else None


def _hides_a_period(pair: Tree) -> bool:
    r"""Whether one formula asks for integers, as `x!` does, where the other, `\cos 2\pi x`, is alike."""
    needed = forced_integers(pair[1]) ^ forced_integers(pair[2])
    real = {name for name in needed if name[:1] not in INTEGER_LETTERS}
    waves = (node for node in subtrees(pair) if node[0] == "fn" and node[1] in _PERIODIC)
    return any(variables(node) & real for node in waves)


def _branching(tree: Tree) -> Iterator[Tree]:
    r"""The parts with names that decide between cases; not the bars of `\ln|x|`, a spelling of `\ln x`."""
    kind = tree[1] if tree[0] == "fn" else tree[0]
    if kind in BRANCHING and variables(tree):
        yield tree
    for child in children(tree):
        yield from _branching(child[2] if kind in ("ln", "log") and child[:2] == ("fn", "abs") else child)


def _same_constant(first: Tree, second: Tree, in_complex: bool) -> bool:
    try:
        return values_equal(first, second, {}, in_complex)
    except TooLarge:
        return _same_spelling(first, second)
    except OutsideDomain:
        return not in_complex and _same_constant(first, second, True)


def _same_spelling(first: Tree, second: Tree) -> bool:
    """Whether two formulas are the same but for order, brackets and the spelling of rational constants."""
    return canonical_tree(_folded(first)) == canonical_tree(_folded(second))


def _folded(tree: Tree) -> Tree:
    """The tree with a number for each part that is a rational constant."""
    value = constant_of(tree)
    if isinstance(value, Fraction) and abs(value.numerator) + value.denominator < _MAX_FOLDED:
        return ("num", value)
    return tuple([_folded(child) if isinstance(child, tuple) else child for child in tree])
