r"""A formula in LaTeX or plain text as a small tree (see `trees`), by recursive descent; it is not evaluated.

docs/reference/graders.md has the conventions. Length, depth and literals are bounded; what lies outside raises
`NotExpression`.
"""

import re
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate

from gmpo_mm.verifiers.tokens import NotExpression, tokens_of
from gmpo_mm.verifiers.trees import OF_SEVERAL, ONE, TWO, Tree, depth

MAX_DEPTH = 40  # brackets and commands within each other
MAX_PARTS = 150  # of one sum or product: each is one level of the tree, which recursive functions walk

_CLOSING = {"(": ")", "{": "}", "[": "]", "⌊": "⌋", "⌈": "⌉", "⟬": "⟭"}
_INVERTIBLE = frozenset(str.split("sin cos tan cot sec csc sinh cosh tanh coth sech csch"))
_FUNCTIONS = (
    _INVERTIBLE | {f"arc{name}" for name in _INVERTIBLE} | set(str.split("ln exp abs floor ceil log lg"))
)
_UNKNOWN_FUNCTIONS = frozenset("fgFG")
_USUAL_ARGUMENTS = frozenset("xyztnksuabeifgFG")  # `g(L - x)` is the product that physics has in mind
# Alone in a bracket, it makes an application of the name before it.
_NUMBER_ALONE = re.compile(r"-?(?:(?:[\d.]+|\d*\\pi)(?:/\d+)?|\\frac(?:\d+|\d*\\pi\d+)|\\infty)")
_PROPER_FRACTION = re.compile(r"(?:\\frac (?:{ (\d+) } { (\d+) }|(\d)(\d))|(\d+) / (\d+))(?= |$)")
_ENDS_PRODUCT = frozenset(["", *"+-^)}],⌋⌉⟭=", "\\choose"])
_ENDS_ARGUMENT = frozenset("\\" + name for name in (*_FUNCTIONS, *OF_SEVERAL, "sum", "prod"))
_ENDS_ARGUMENT |= {"(", "*"}
_OPERATORS = {"*": "mul", "/": "div"}
_ROUNDINGS = {"⌊": "floor", "⌈": "ceil"}
_POSTFIX: dict[str, Callable[[Tree], Tree]] = {
    "!": lambda tree: ("factorial", tree),
    "%": lambda tree: ("div", tree, ("num", Fraction(100))),
    "°": lambda tree: ("degrees", tree),
}


@lru_cache(maxsize=1024)
def parse_expression(text: str) -> Tree:
    """The tree of a canonical text; NotExpression when it is anything else."""
    return _Parser(tokens_of(text)).parse()


def _is_number(token: str) -> bool:
    return token[:1].isdecimal() or token[:1] == "."


def _is_name(token: str, *others: str) -> bool:
    return token[:1] == "@" and token not in others


class _Parser:
    """sum := product (+|- product)*; product := factor (*|/|factor)*; factor := atom (^ atom | !)*."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = [*tokens, "", "", ""]  # `peek` may look behind the last one
        self.position = 0
        self.depth = 0
        self.bars = 0  # how many `|` are open in this bracket
        self.bound: list[str] = []  # names that the sums and products around this place bind

    def peek(self, ahead: int = 0) -> str:
        return self.tokens[self.position + ahead]

    def take(self, *expected: str) -> str:
        """The next token, which must be one of those expected; any, where none is named."""
        token = self.peek()
        if not token or (expected and token not in expected):
            raise NotExpression("formula ends early")
        self.position += 1
        return token

    def skips(self, token: str) -> bool:
        """Whether a token is ahead; it is taken."""
        found = self.peek() == token
        self.position += found
        return found

    def name(self) -> str:
        token = self.take()
        if not _is_name(token):
            raise NotExpression(f"{token} is no name")
        return token[1:]

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise NotExpression("nested too deep")

    def parse(self) -> Tree:
        tree = self.sum()
        if self.peek() or depth(tree) > MAX_PARTS:
            raise NotExpression("text after the formula, or too many terms or factors")
        return tree

    def sum(self) -> Tree:
        tree = self.signed(self.product)
        while self.peek() in ("+", "-"):
            tree = ("add", tree, self.signed(self.product))
        return ("binom", tree, self.sum()) if self.skips("\\choose") else tree

    def signed(self, rest: Callable[[], Tree]) -> Tree:
        negative = False
        while self.peek() in ("+", "-"):
            negative ^= self.take() == "-"
        return ("neg", rest()) if negative else rest()

    def product(self, in_argument: bool = False) -> Tree:
        """Factors; in the argument of a function written without brackets, only those that belong to it."""
        tree = self.factor()
        while (token := self.peek()) not in _ENDS_PRODUCT:
            if token == "|" and (self.bars or in_argument):
                break
            if in_argument and (token in _ENDS_ARGUMENT or (token == "/" and not _is_number(self.peek(1)))):
                break
            if token not in _OPERATORS:
                self.check_no_number_follows()
                tree = ("mul", tree, self.factor())
                continue
            self.take()
            over_names = token == "/" and _is_name(self.peek())
            right = self.signed(self.factor)
            while over_names and self.peek(-1) not in (")", *_POSTFIX) and _is_name(self.peek(), "@\\pi"):
                right = ("mul", right, self.factor())
            tree = (_OPERATORS[token], tree, right)
        return tree

    def check_no_number_follows(self) -> None:
        """`n 2^n` and `2^6 3^5` are products; `2 3`, `x 3` and `2{3x}` are two things side by side."""
        braces = 0
        while self.peek(braces) == "{":
            braces += 1
        if _is_number(self.peek(braces)):
            *before, last = ["", *self.tokens[: self.position]][-2:]
            follows_number = _is_number(last) and before not in (["^"], ["_"])
            behind = self.tokens[self.position + braces + 1 :][: braces + 1]
            if follows_number or behind != [*"}" * braces, "^"]:
                raise NotExpression("two numbers side by side")

    def factor(self) -> Tree:
        tree = self.atom()
        while (token := self.peek()) == "^" or token in _POSTFIX:
            self.take()
            tree = ("pow", tree, self.exponent()) if token == "^" else _POSTFIX[token](tree)
            if token in _POSTFIX and self.peek() in _POSTFIX:
                raise NotExpression("two signs behind a value")
        return tree

    def exponent(self) -> Tree:
        self.deeper()
        tree = self.script()
        if self.skips("^"):  # right-associative: a tower
            tree = ("pow", tree, self.exponent())
        self.depth -= 1
        return tree

    def script(self) -> Tree:
        """What stands above or below: a group, or one atom with its sign."""
        return self.group() if self.peek() == "{" else self.signed(self.atom)

    def group(self) -> Tree:
        """What is in brackets; the bars around them do not end in there."""
        opening = self.take(*_CLOSING)
        around, self.bars = self.bars, 0
        tree = self.sum()
        self.take(_CLOSING[opening])
        self.bars = around
        return tree

    def atom(self) -> Tree:
        self.deeper()
        if self.peek() == "{" and _is_number(self.peek(1)) and self.peek(2) == "}":
            del self.tokens[self.position + 2], self.tokens[self.position]  # LaTeX shows `2{3}` as `23`
        token = self.peek()
        if _is_number(token):
            tree = self.number()
        elif token in ("(", "{", "["):
            tree = self.group()
        elif token in _ROUNDINGS:
            tree = ("fn", _ROUNDINGS[token], self.group())
        elif self.skips("|"):
            self.bars += 1
            tree = ("fn", "abs", self.sum())
            self.bars -= 1
            self.take("|")
        else:
            tree = self.named() if _is_name(token) else self.command()
        self.depth -= 1
        return tree

    def named(self) -> Tree:
        """A variable, a constant or the value of an unknown function."""
        name = self.name()
        if indices := self.indices(name):
            return ("index", name.partition("_")[0], *indices)
        if name in ("e", "i", "\\pi") and name not in self.bound:
            return ("const", name.lstrip("\\"))
        if name[0] in _UNKNOWN_FUNCTIONS and self.tokens[self.position :][:6] == [*"^{-1}("]:
            self.position += 5
            return ("call", name + "^-1", *self.arguments())
        if self.peek() != "(" or name in self.bound or not self.is_application(name):
            return ("var", name)
        arguments = self.arguments()
        return ("binom", *arguments) if name == "C" and len(arguments) == 2 else ("call", name, *arguments)

    def is_application(self, name: str) -> bool:
        """Whether the bracket ahead is an argument: see the conventions above."""
        ahead = self.tokens[self.position :]
        depths = list(accumulate((token in ("(", "[", "{")) - (token in (")", "]", "}")) for token in ahead))
        end = depths.index(0) if 0 in depths else len(ahead)
        inside = [token for token in ahead[1:end] if token not in ("{", "}")]
        names = [token[1:] for token in inside if _is_name(token)]
        alone = "".join(inside).replace("@", "")
        usual = all(one[0] in _USUAL_ARGUMENTS or one == "\\pi" for one in names)
        if (",", 1) in zip(ahead, depths[:end]) or (name[0] in _UNKNOWN_FUNCTIONS and usual):
            return True
        if _NUMBER_ALONE.fullmatch(alone):
            return ahead[end + 1 : end + 2] != ["^"] or alone == "0"
        return [alone] == names and alone not in (name, "e", "i") and not {"'", "/"}.intersection(alone)

    def arguments(self) -> list[Tree]:
        closing = _CLOSING[self.take("(", "{", "⟬")]
        arguments = [self.sum()]
        while self.take(",", closing) == ",":
            arguments.append(self.sum())
        return arguments

    def indices(self, name: str) -> list[Tree]:
        """A subscript with a bound name as formulas: `F_{n-k}` has one, `a_{ij}` and `a_{i,j}` have two."""
        inside = tokens_of(name.partition("_")[2]) if self.bound else []
        if not {f"@{bound}" for bound in self.bound}.intersection(inside):
            return []
        if all(_is_name(token) or token.isdecimal() for token in inside):
            return [("num", Fraction(token)) if token.isdecimal() else ("var", token[1:]) for token in inside]
        self.tokens[self.position : self.position] = ["{", *inside, "}"]
        return self.arguments()

    def command(self) -> Tree:
        name = self.take()[1:]
        match name:
            case "frac" | "binom":
                return ("div" if name == "frac" else name, self.argument(), self.argument())
            case "sqrt":
                degree = self.group() if self.peek() == "[" else TWO
                return ("root", self.argument(all_digits=True), degree)
            case "infty":
                return ("infinity",)
            case "sum" | "prod":
                return self.series("sum" if name == "sum" else "product")
            case _ if name in OF_SEVERAL:
                return (name, *self.arguments())
            case _ if name in _FUNCTIONS:
                return self.function(name)
        raise NotExpression(f"unknown command {name}")

    def function(self, name: str) -> Tree:
        base: Tree | None = ("num", Fraction(10)) if name in ("log", "lg") else None
        if base and self.skips("_"):
            base = self.argument()
        exponent = self.exponent() if self.skips("^") else None
        if exponent == ("neg", ONE) and name in _INVERTIBLE:
            name, exponent = "arc" + name, None
        if self.peek() in ("(", "{", "["):
            argument = self.group()
        else:
            argument = self.signed(lambda: self.product(in_argument=True))
        tree: Tree = ("log", argument, base) if base else ("fn", name, argument)
        return tree if exponent is None else ("pow", tree, exponent)

    def argument(self, all_digits: bool = False) -> Tree:
        r"""A group or, as TeX reads `\frac12`, one digit; all of `\sqrt 13`, where people mean 13."""
        token = self.peek()
        if token == "{":
            return self.group()
        if token.isdecimal() and not all_digits:
            self.tokens[self.position : self.position + 1] = filter(None, (token[0], token[1:]))
        return ("num", Fraction(self.take())) if _is_number(token) else self.atom()

    def number(self) -> Tree:
        r"""A literal, or `4 \frac{4}{11}` and `4 4/11`: an integer and a proper fraction are added."""
        whole = self.take()
        tree: Tree = ("num", Fraction(whole))
        match = _PROPER_FRACTION.match(" ".join(self.tokens[self.position : self.position + 7]))
        if not (whole.isdecimal() and match):
            return tree
        top, bottom = (int(digits) for digits in match.groups() if digits)
        if not 0 < top < bottom:
            raise NotExpression("neither a mixed number nor clearly a product")
        self.position += match.group().count(" ") + 1
        return ("add", tree, ("num", Fraction(top, bottom)))

    def series(self, kind: str) -> Tree:
        r"""`\sum_{k = 1}^n ...`, to the next plus or minus."""
        self.take("_")
        self.take("{")
        name = self.name()
        self.take("=")
        first = self.sum()
        self.take("}")
        self.take("^")
        last = self.script()
        self.bound.append(name)
        body = self.signed(self.product)
        self.bound.pop()
        return (kind, body, name, first, last)
