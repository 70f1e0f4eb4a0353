r"""Sums, products, integrals, limits and derivatives as trees: the part of the grammar that binds names."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from gmpo_mm.verifiers.tokens import GREEK, NotExpression, Reader, derivative_name, is_letter
from gmpo_mm.verifiers.trees import ONE, Tree


class Calculus(Reader, ABC):
    """Reads what stands behind `\\sum`, `\\int`, `\\lim` and in `\\frac{d}{dx}`; the rest is a subclass's."""

    def __init__(self, tokens: list[str]) -> None:
        super().__init__(tokens)
        self.differentials: list[
            str | None
        ] = []  # of the integrals around: the name, where `\\frac{dx}{x}` has said it

    @abstractmethod
    def sum(self) -> Tree: ...

    @abstractmethod
    def product(self) -> Tree: ...

    @abstractmethod
    def signed(self, rest: Callable[[], Tree]) -> Tree: ...

    @abstractmethod
    def script(self) -> Tree: ...

    def series(self, kind: str) -> Tree:
        r"""`\sum_{k=1}^{n} ...` and `\prod`."""
        name, first, last = "", None, None
        for _ in range(2):
            if self.take("_", "^") == "^":
                last = self.script()
            else:
                self.take("{")
                name = self.head() + self.suffix()
                self.take("=")
                first = self.sum()
                self.take("}")
        if first is None or last is None:
            raise NotExpression("a sum without a bound")
        self.bound.append(name)
        integrals, self.differentials = self.differentials, []
        body = self.signed(self.product)
        self.differentials = integrals
        self.bound.pop()
        return (kind, body, name, first, last)

    def integral(self) -> Tree:
        first = last = None
        while self.peek() in ("_", "^"):
            if self.take() == "^":
                last = self.script()
            else:
                first = self.script()
        if (first is None) != (last is None):
            raise NotExpression("an integral with one bound")
        self.differentials.append(None)
        body = ONE if self.at_differential() else self.sum()
        name = self.differentials.pop()
        if name is None:
            self.take("d")
            name = self.head() + self.suffix()
        return ("integral", body, name, first, last)

    def at_differential(self) -> bool:
        """Whether the `dx` of an integral is ahead."""
        following = self.peek(1)
        names = is_letter(following) or (following is not None and following[1:] in GREEK)
        return bool(self.differentials) and self.peek() == "d" and names

    def limit(self) -> Tree:
        self.take("_")
        self.take("{")
        name = self.head() + self.suffix()
        self.take("\\to", "\\rightarrow")
        side = self.side_of_limit()
        point = self.sum()
        self.take("}")
        self.bound.append(name)
        body = self.signed(self.product)
        self.bound.pop()
        return ("limit", body, name, point, side)

    def side_of_limit(self) -> str:
        """The sign in `0^+`, which is taken out of the tokens; nothing where the limit has both sides."""
        depth, end = 0, self.position
        while end < len(self.tokens) and not (self.tokens[end] == "}" and depth == 0):
            depth += (self.tokens[end] == "{") - (self.tokens[end] == "}")
            end += 1
        for script in (["^", "{", "+", "}"], ["^", "{", "-", "}"], ["^", "+"], ["^", "-"]):
            if self.tokens[end - len(script) : end] == script:
                del self.tokens[end - len(script) : end]
                return script[-1] if len(script) == 2 else script[2]
        return ""

    def derivative(self) -> Tree | None:
        r"""Behind `\frac`: `{dv}{dt}`, `{d^2 x}{dt^2}`, or `{d}{dx}` and its argument; None for all else."""
        start = self.position
        try:
            self.take("{")
            sign = self.take("d", "\\partial")
            order = self.order()
            name = None if self.peek() == "}" else self.head() + self.suffix()
            self.take("}")
            self.take("{")
            self.take(sign)
            by = self.head() + self.suffix()
            if self.order() != order:
                raise NotExpression("orders differ")
            self.take("}")
        except NotExpression:
            self.position = start
            return None
        symbol = "d" if sign == "d" else "∂"
        if name is not None:
            return ("var", derivative_name(name, by, order, symbol))
        body = self.signed(self.product)
        if body[0] == "var" and body[1] != by:
            return ("var", derivative_name(body[1], by, order, symbol))
        return ("derivative", body, by, order)

    def order(self) -> int:
        """The exponent in `d^2 x`, 1 where there is none."""
        if self.peek() != "^":
            return 1
        self.take()
        in_braces = self.peek() == "{"
        if in_braces:
            self.take()
        digits = self.take()
        if in_braces:
            self.take("}")
        if digits not in ("2", "3", "4"):
            raise NotExpression("order of a derivative")
        return int(digits)

    def slashed_derivative(self) -> Tree | None:
        """`dx/dt` on one line."""
        pieces = [self.peek(i) for i in range(5)]
        names = all(
            is_letter(piece) or (piece is not None and piece[1:] in GREEK) for piece in (pieces[1], pieces[4])
        )
        if pieces[0] != "d" or pieces[2:4] != ["/", "d"] or not names:
            return None
        self.position += 5
        return ("var", derivative_name(str(pieces[1]), str(pieces[4])))
