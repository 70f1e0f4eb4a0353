r"""Sums, products, integrals, limits and derivatives as trees: the part of the grammar that binds names."""

from collections.abc import Callable

from gmpo_mm.verifiers.tokens import NotExpression, Reader, derivative_name, is_symbol
from gmpo_mm.verifiers.trees import ONE, Tree


class Calculus(Reader):
    r"""Reads what stands behind `\sum`, `\int`, `\lim` and in `\frac{d}{dx}`; the rest is a subclass's."""

    sum: Callable[[], Tree]
    script: Callable[[], Tree]
    term: Callable[[], Tree]

    def body(self, name: str) -> Tree:
        """What a name is bound in: to the next plus or minus."""
        self.bound.append(name)
        tree = self.term()
        self.bound.pop()
        return tree

    def series(self, kind: str) -> Tree:
        r"""`\sum_{k=1}^{n} ...` and `\prod`."""
        name, first, last = "", None, None
        for _ in range(2):
            if self.take("_", "^") == "^":
                last = self.script()
            else:
                self.take("{")
                name = self.name()
                self.take("=")
                first = self.sum()
                self.take("}")
        if first is None or last is None:
            raise NotExpression("a sum without a bound")
        return (kind, self.body(name), name, first, last)

    def integral(self) -> Tree:
        """`\\int_a^b ... dx`, or without bounds."""
        ends: dict[str, Tree] = {}
        while self.peek() in ("_", "^"):
            sign = self.take()
            ends[sign] = self.script()
        if len(ends) == 1:
            raise NotExpression("an integral with one bound")
        self.differentials.append(None)
        body = ONE if self.at_differential() else self.sum()
        name = self.differentials.pop()
        if name is None:
            self.take("d")
            name = self.name()
        return ("integral", body, name, ends.get("_"), ends.get("^"))

    def at_differential(self) -> bool:
        """Whether the `dx` of an integral is ahead."""
        return bool(self.differentials) and self.peek() == "d" and is_symbol(self.peek(1))

    def limit(self) -> Tree:
        r"""`\lim_{x \to a} ...`; the side is the sign in `0^+`, empty where it is both."""
        self.take("_")
        self.take("{")
        name = self.name()
        self.take("\\to", "\\rightarrow")
        point = self.sum()
        side = self.in_braces(lambda: self.take("+", "-")) if self.skips("^") else ""
        self.take("}")
        return ("limit", self.body(name), name, point, side)

    def derivative(self) -> Tree | None:
        r"""Behind `\frac`: `{dv}{dt}`, `{d^2 x}{dt^2}`, or `{d}{dx}` and its argument; None for all else."""
        start = self.position
        try:
            self.take("{")
            sign = self.take("d", "\\partial")
            order = self.order()
            name = None if self.peek() == "}" else self.name()
            self.take("}")
            self.take("{")
            self.take(sign)
            by = self.name()
            if self.order() != order:
                raise NotExpression("orders differ")
            self.take("}")
        except NotExpression:
            self.position = start
            return None
        if name is None:
            body = self.term()
            if body[0] != "var" or body[1] == by:
                return ("derivative", body, by, order)
            name = body[1]
        return ("var", derivative_name(name, by, order, "d" if sign == "d" else "∂"))

    def order(self) -> int:
        """The exponent in `d^2 x`, 1 where there is none."""
        return int(self.in_braces(lambda: self.take("2", "3", "4"))) if self.skips("^") else 1

    def slashed_derivative(self) -> Tree | None:
        """`dx/dt` on one line."""
        match self.tokens[self.position : self.position + 5]:
            case ["d", name, "/", "d", by] if is_symbol(name) and is_symbol(by):
                self.position += 5
                return ("var", derivative_name(name, by))
        return None
