"""Do two equations or inequalities say the same? By a constant factor between them, denominators aside.

A denominator may be cleared where it is linear in each of its names and divides nothing of its numerator:
`y = 1/x` is `xy = 1`, but `x(x-1)/x = 0` is not `x(x-1) = 0`.
"""

from collections.abc import Sequence
from fractions import Fraction
from functools import reduce
from itertools import islice

from gmpo_mm.verifiers.evaluation import FIRST_BITS, Evaluator, OutsideDomain
from gmpo_mm.verifiers.expressions import NotExpression, parse_expression
from gmpo_mm.verifiers.identity import MAX_VARIABLES, same_trees
from gmpo_mm.verifiers.points import sample_points
from gmpo_mm.verifiers.structure import Node
from gmpo_mm.verifiers.trees import ONE, ZERO, Tree, contains, replaced, subtrees, variables
from gmpo_mm.verifiers.values import COMPLEX, constant_of
from gmpo_mm.verifiers.words import has_words

MAX_SIZE = 2000  # parts of an equation without its denominators


def same_relation(a: Sequence[Node], b: Sequence[Node], operator: str) -> bool:
    """Whether two equations or inequalities, each by its two sides, are shown to have the same solutions."""
    if any(has_words(side.text) for side in (*a, *b)):
        return False
    try:
        sides = [[parse_expression(side.text) for side in pair] for pair in (a, b)]
        first, second = (("add", left, ("neg", right)) for left, right in sides)
        in_complex = contains(("pair", first, second), COMPLEX)
        if _proportional(first, second, in_complex, positive=operator not in ("=", "!=")):
            return True
        (one, below), (other, below_other) = _cleared(first), _cleared(second)
    except NotExpression:
        return False
    denominators = [] if operator != "=" or in_complex else [*below, *below_other]
    return (
        bool(denominators)
        and same_trees(one, replaced(one, dict.fromkeys(variables(one), ONE))) is False  # there are solutions
        and _proportional(one, other, in_complex=False, positive=False)
        and all(_is_apart(one, factor) for factor in _factors(_product(denominators)))
    )


def _proportional(first: Tree, second: Tree, in_complex: bool, positive: bool) -> bool:
    """Whether one is a constant times the other; a positive one, as an inequality needs, if asked for."""
    names = variables(first)
    if names != variables(second) or not names or len(names) > MAX_VARIABLES:
        return False
    for environment in sample_points(first, second):
        try:
            x, y = (Evaluator(environment, in_complex, FIRST_BITS).evaluate(tree) for tree in (first, second))
        except OutsideDomain:
            continue
        if any(abs(one) < 1e-30 and (one == 0 or not isinstance(one, Fraction)) for one in (x, y)):
            continue
        if positive and (in_complex or (x > 0) != (y > 0)):
            return False
        # first * y - second * x vanishes everywhere where the ratio x / y is that of the whole formulas.
        here: dict[str, Tree] = {name: ("num", value) for name, value in environment.items()}
        return bool(
            same_trees(("mul", first, replaced(second, here)), ("mul", second, replaced(first, here)))
        )
    return False


def _cleared(tree: Tree) -> tuple[Tree, list[Tree]]:
    """Numerator and denominators of a rational function; NotExpression for another, or a long one."""
    if tree[0] == "var" or not variables(tree):
        return tree, []
    exponent = constant_of(tree[2]) if tree[0] == "pow" else None
    if isinstance(exponent, Fraction) and exponent.denominator == 1:
        top, below = _cleared(tree[1])
        top, *below = (("pow", part, ("num", abs(exponent))) for part in (top, *below))
        return (top, below) if exponent > 0 else (_product(below), [top])
    if tree[0] not in ("neg", "add", "mul", "div"):
        raise NotExpression("not rational")
    (top, below), *others = [_cleared(part) for part in tree[1:]]
    for other, below_other in others:
        if tree[0] == "add":
            top = ("add", _product([top, *below_other]), _product([other, *below]))
        else:
            top = _product([top, *(below_other if tree[0] == "div" else [other])])
        below = [*below, *([other] if tree[0] == "div" else below_other)]
    if sum(1 for _ in islice(subtrees(top), MAX_SIZE)) == MAX_SIZE:
        raise NotExpression("too long")
    return (("neg", top) if tree[0] == "neg" else top), below


def _product(trees: Sequence[Tree]) -> Tree:
    return reduce(lambda a, b: ("mul", a, b), trees, ONE)


def _factors(tree: Tree) -> list[Tree]:
    if tree[0] in ("mul", "neg", "pow"):
        return [factor for part in tree[1:] for factor in _factors(part)]
    return [tree] if variables(tree) else []


def _is_apart(numerator: Tree, factor: Tree) -> bool:
    """Whether a factor is linear in each of its names, and the numerator is not 0 wherever the factor is."""
    for name in variables(factor):
        low, high = (replaced(factor, {name: value}) for value in (ZERO, ONE))
        slope: Tree = ("add", high, ("neg", low))
        if not same_trees(factor, ("add", low, ("mul", slope, ("var", name)))):
            return False
        if same_trees(replaced(numerator, {name: ("neg", ("div", low, slope))}), ZERO) is not False:
            return False
    return True
