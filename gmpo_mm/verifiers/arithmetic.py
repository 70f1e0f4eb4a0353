"""A real number written as a formula without names: read once, compared exactly."""

import re
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction
from functools import cached_property

from gmpo_mm.verifiers.evaluation import OutsideDomain
from gmpo_mm.verifiers.expressions import NotExpression, parse_expression
from gmpo_mm.verifiers.identity import same_trees
from gmpo_mm.verifiers.trees import Tree, contains, variables
from gmpo_mm.verifiers.values import settled_value

_CONTEXT = Context(prec=60, Emax=100_000, Emin=-100_000)
_NO_REAL_NUMBER = frozenset(
    {"i", "call", "index", "sum", "product", "integral", "limit", "derivative", "infinity", "residue"}
)
_LITERAL = re.compile(r"[-+]? ?(?:\d{1,200}(?:\.\d{0,200})?|\.\d{1,200})")


class NotArithmetic(ValueError):
    """The text is no real number, or one beyond the bounds of `evaluation`."""


@dataclass(frozen=True)
class Real:
    """A real number: `exact` where it is rational and known; else the formula that it is the value of."""

    exact: Fraction | None
    tree: Tree

    @cached_property
    def digits(self) -> Decimal:
        """The value to 60 digits."""
        if self.exact is not None:
            return _CONTEXT.divide(Decimal(self.exact.numerator), Decimal(self.exact.denominator))
        value = settled_value(self.tree, {})
        return _CONTEXT.create_decimal(value.context.nstr(value, 62))

    def equals(self, other: "Real") -> bool:
        """Equality of values, exact for rationals (see `identity.values_equal`)."""
        if self.exact is not None and other.exact is not None:
            return self.exact == other.exact
        return same_trees(self.tree, other.tree) is True

    def sign(self) -> int:
        """-1, 0 or 1."""
        value = settled_value(self.tree, {}) if self.exact is None else self.exact
        return int(value > 0) - int(value < 0)

    def less(self, other: "Real") -> bool:
        """Whether it is smaller, by a difference of any size that `evaluation` can compute."""
        if self.exact is not None and other.exact is not None:
            return self.exact < other.exact
        return not self.equals(other) and real(("add", self.tree, ("neg", other.tree))).sign() < 0


def rational(value: Fraction | int) -> Real:
    """A rational number."""
    value = Fraction(value)
    return Real(value, ("num", value))


def divide(a: Real, b: Real) -> Real:
    """Quotient; NotArithmetic when the divisor is 0."""
    if a.exact is not None and b.exact is not None:
        if b.exact == 0:
            raise NotArithmetic("division by zero")
        return rational(a.exact / b.exact)
    return real(("div", a.tree, b.tree))


def evaluate(text: str) -> Real:
    """Value of a canonical text; NotArithmetic when it is anything else."""
    if _LITERAL.fullmatch(text.strip()):
        return rational(Fraction(text.replace(" ", "").rstrip(".")))
    try:
        tree = parse_expression(text)
    except NotExpression as error:
        raise NotArithmetic(str(error)) from error
    if variables(tree) or contains(tree, _NO_REAL_NUMBER):
        raise NotArithmetic("not a real number")
    return real(tree)


def real(tree: Tree) -> Real:
    """Value of a tree without names; NotArithmetic where it has none."""
    try:
        value = settled_value(tree, {})
    except OutsideDomain as error:
        raise NotArithmetic(str(error)) from error
    return rational(value) if isinstance(value, Fraction) else Real(None, tree)
