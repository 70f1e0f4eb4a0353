r"""Are two formulas the same function? Decided by their values at points where they could differ.

Formulas that are analytic where they are defined need a few points. Where absolute values, even roots,
floors, factorials, logarithms or powers of negative numbers occur, the points are chosen for them (see
`points`), and each part that decides between cases must have taken more than one of them: `\lfloor
n/10^{400} \rfloor` is 0 at every point that is tried, which decides nothing. Sizes are bounded, so that
every input costs milliseconds.
"""

import itertools
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from typing import Any

from gmpo_mm.verifiers.evaluation import BRANCHING, Environment, OutsideDomain, TooLarge
from gmpo_mm.verifiers.expressions import NotExpression, parse_expression
from gmpo_mm.verifiers.points import INTEGER_LETTERS, forced_integers, magnitudes, sample_points
from gmpo_mm.verifiers.trees import Tree, canonical_tree, contains, subtrees, variables
from gmpo_mm.verifiers.values import COMPLEX, OneSided, constant_of, settled_value, values_equal

MAX_VARIABLES = 12
_ENOUGH = 3  # points at which both formulas have a value
_SHARE = 10  # one in so many points where one of them has a value must be such a point
_MAX_FOLDED = 10**1000  # a longer number stays the formula that it is
_CAREFUL = 3  # first points at which irrational values are always compared at two precisions
_CALCULUS = frozenset(
    {"sum", "product", "integral", "limit", "derivative", "index", "infinity", "residue"}
)  # fmt: skip
_PERIODIC = frozenset({"sin", "cos", "tan", "cot", "sec", "csc"})


@lru_cache(maxsize=4096)
def same_function(a: str, b: str) -> bool | None:
    """`same_trees` of two canonical texts; None also where one is no formula."""
    try:
        return same_trees(parse_expression(a), parse_expression(b))
    except NotExpression:
        return None


def same_trees(first: Tree, second: Tree) -> bool | None:
    """Whether two formulas are the same; None where only computer algebra could tell."""
    if first == second:
        return None if _never_defined(first) else True
    if contains(first, _CALCULUS) or contains(second, _CALCULUS):
        return canonical_tree(first) == canonical_tree(second) or None
    names = variables(first) | variables(second)
    in_complex = contains(first, COMPLEX) or contains(second, COMPLEX)
    if not names:
        return _same_constant(first, second, in_complex)
    if len(names) > MAX_VARIABLES:
        return _same_spelling(first, second)
    return _Points(first, second, in_complex).verdict()


class _Points:
    """Two formulas at one point after the other."""

    def __init__(self, first: Tree, second: Tree, in_complex: bool) -> None:
        self.trees = first, second
        self.in_complex = in_complex
        self.informative = self.one_sided = 0
        self.beyond = False
        self.branches: dict[int, set[Any]] = {}

    def differ_at(self, points: Iterator[Environment]) -> bool:
        """Whether both have values at one of the points, and other ones."""
        for environment in points:
            careful = self.informative < _CAREFUL
            try:
                if not values_equal(*self.trees, environment, self.in_complex, careful, self.branches):
                    return True
            except TooLarge:
                self.beyond = True
            except OneSided:
                self.one_sided += 1
            except OutsideDomain:
                pass
            else:
                self.informative += 1
        return False

    def verdict(self) -> bool | None:
        if self.differ_at(sample_points(*self.trees)):
            return False
        undecided = self.informative < _ENOUGH or not self.all_cases_taken()
        if undecided and self.differ_at(magnitudes(*self.trees)):
            return False
        enough = self.informative >= _ENOUGH
        if enough and self.informative * _SHARE >= self.informative + self.one_sided:
            return True if self.all_cases_taken() and not self.hides_a_period() else None
        if _same_spelling(*self.trees):
            return True
        return False if self.beyond or (self.one_sided and not self.informative) else None

    def all_cases_taken(self) -> bool:
        """Whether each part that decides between cases has taken two of them."""
        nodes = itertools.chain(*map(_branching, self.trees))
        return all(len(self.branches.get(id(node), ())) >= 2 for node in nodes)

    def hides_a_period(self) -> bool:
        r"""Whether one formula asks for integers, as `x!` does, where the other, `\cos 2\pi x`, is alike."""
        forced = [forced_integers(tree) for tree in self.trees]
        for tree, needed in (self.trees, forced[1] - forced[0]), (self.trees[::-1], forced[0] - forced[1]):
            real = {name for name in needed if name[:1] not in INTEGER_LETTERS}
            if any(
                node[0] == "fn" and node[1] in _PERIODIC and variables(node) & real
                for node in subtrees(tree[0])
            ):
                return True
        return False


def _branching(tree: Tree) -> Iterator[Tree]:
    r"""The parts with names that decide between cases; not the bars of `\ln|x|`, a spelling of `\ln x`."""
    stack = [tree]
    while stack:
        node = stack.pop()
        if (node[0] in BRANCHING or (node[0] == "fn" and node[1] in BRANCHING)) and variables(node):
            yield node
        children = [child for child in node[1:] if isinstance(child, tuple)]
        if node[0] == "log" or node[:2] == ("fn", "ln"):
            children = [child[2] if child[:2] == ("fn", "abs") else child for child in children]
        stack += children


# Constants


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
    if not variables(tree):
        value = constant_of(tree)
        if isinstance(value, Fraction) and abs(value.numerator) + value.denominator < _MAX_FOLDED:
            return ("num", value)
    return (tree[0], *(_folded(child) if isinstance(child, tuple) else child for child in tree[1:]))


def _never_defined(tree: Tree) -> bool:
    """Whether a constant has no value: `1/0` is not equal to itself written otherwise."""
    if variables(tree) or contains(tree, _CALCULUS):
        return False
    try:
        settled_value(tree, {}, contains(tree, COMPLEX))
    except TooLarge:
        return False
    except OutsideDomain:
        return constant_of(tree) is None
    return False
