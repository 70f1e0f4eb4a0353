"""A real number written as a formula without names: read once, compared exactly."""

from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction
from functools import cached_property
from typing import Any

from gmpo_mm.verifiers.expressions import NotExpression, parse_expression
from gmpo_mm.verifiers.identity import same_trees
from gmpo_mm.verifiers.trees import Tree
from gmpo_mm.verifiers.values import constant_of

_CONTEXT = Context(prec=60, Emax=100_000, Emin=-100_000)


class NotArithmetic(ValueError):
    """The text is no real number, or one beyond the bounds of `evaluation`."""


@dataclass(frozen=True)
class Real:
    """A real number: its formula, and its value, a Fraction where it is rational and known."""

    tree: Tree
    value: Any

    @property
    def exact(self) -> Fraction | None:
        """The value where it is rational and known."""
        return self.value if isinstance(self.value, Fraction) else None

    @cached_property
    def digits(self) -> Decimal:
        """The value to 60 digits."""
        if isinstance(self.value, Fraction):
            return _CONTEXT.divide(Decimal(self.value.numerator), Decimal(self.value.denominator))
        return _CONTEXT.create_decimal(self.value.context.nstr(self.value, 62))

    def equals(self, other: "Real") -> bool:
        """Equality of values, exact for rationals (see `values.values_equal`)."""
        if self.exact is not None and other.exact is not None:
            return self.exact == other.exact
        return same_trees(self.tree, other.tree) is True

    def sign(self) -> int:
        """-1, 0 or 1."""
        return int(self.value > 0) - int(self.value < 0)

    def less(self, other: "Real") -> bool:
        """Whether it is smaller, by a difference of any size that `evaluation` can compute."""
        return not self.equals(other) and real(("add", self.tree, ("neg", other.tree))).sign() < 0


def rational(value: Fraction | int) -> Real:
    """A rational number."""
    return Real(("num", Fraction(value)), Fraction(value))


def divide(a: Real, b: Real) -> Real:
    """Quotient; NotArithmetic when the divisor is 0."""
    return real(("div", a.tree, b.tree))


def evaluate(text: str) -> Real:
    """Value of a canonical text; NotArithmetic when it is anything else."""
    try:
        return real(parse_expression(text))
    except NotExpression as error:
        raise NotArithmetic(str(error)) from error


def real(tree: Tree) -> Real:
    """Value of a tree without names; NotArithmetic where it has none."""
    value = tree[1] if tree[0] == "num" else constant_of(tree)
    if value is None:
        raise NotArithmetic("not a real number")
    return rational(value) if isinstance(value, Fraction) else Real(tree, value)
