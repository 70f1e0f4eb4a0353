r"""A formula in LaTeX or plain text as a small tree, by recursive descent; nothing is evaluated here.

Trees are nested tuples: `("num", Fraction)`, `("var", name)`, `("const", "pi" | "e" | "i")`, `("neg", a)`, `("factorial",
a)`, `("add" | "mul" | "div" | "pow" | "binom", a, b)`, `("root", a, n)`, `("log", a, base)`, `("degrees", a)`, and
`("fn", name, a)` for a known function, `("call", name, a, ...)` for an unknown one such as `f(x)`. Length, depth and
literals are bounded; what lies outside raises `NotExpression`.
"""

import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

Tree = tuple[Any, ...]

MAX_TOKENS = 400
MAX_DEPTH = 30
MAX_DIGITS = 200
MAX_EXPONENT_OF_TEN = 400

_TOKEN = re.compile(r"\s*(\d+(?:\.\d*)?(?:[eE][+-]?\d{1,3}(?![\d.]))?|\.\d+|\\[A-Za-z]+|[A-Za-z]|[-+*/^_(){}\[\]|!',°⌊⌋⌈⌉%])")
_TRIGONOMETRIC = frozenset(("sin", "cos", "tan", "cot", "sec", "csc"))
_FUNCTIONS = _TRIGONOMETRIC | frozenset(str.split("arcsin arccos arctan sinh cosh tanh ln exp asin acos atan abs floor ceil"))
_RENAMED_FUNCTIONS = {"asin": "arcsin", "acos": "arccos", "atan": "arctan"}
_INVERSES = {"sin": "arcsin", "cos": "arccos", "tan": "arctan"}
_GREEK = frozenset(
    str.split(
        "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho varrho sigma tau "
        "upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Upsilon Phi Psi Omega ell hbar"
    )
)
_UNKNOWN_FUNCTIONS = frozenset("fgFG")  # `f(x + 1)` is a value of f, where `a(x + 1)` is a product
_CLOSING = {"(": ")", "{": "}", "[": "]", "⌊": "⌋", "⌈": "⌉"}
_ENDS_PRODUCT = frozenset(["+", "-", ")", "}", "]", "|", ",", "⌋", "⌉"])


class NotExpression(ValueError):
    """The text is not a formula of this grammar, or is beyond its bounds."""


def subtrees(tree: Tree) -> Iterator[Tree]:
    """The tree and all trees in it."""
    stack = [tree]
    while stack:
        node = stack.pop()
        yield node
        stack += [child for child in node[1:] if isinstance(child, tuple)]


def substituted(tree: Tree, values: Mapping[str, Fraction]) -> Tree:
    """The tree with names replaced by numbers."""
    if tree[0] == "var":
        return ("num", values[tree[1]]) if tree[1] in values else tree
    return (tree[0], *(substituted(child, values) if isinstance(child, tuple) else child for child in tree[1:]))


@lru_cache(maxsize=1024)
def parse_expression(text: str) -> Tree:
    """The tree of a normalised text; NotExpression when it is anything else."""
    return _Parser(_tokens(text)).parse()


def variables(tree: Tree) -> frozenset[str]:
    """Names of the variables and unknown functions in a tree."""
    names: set[str] = set()
    stack = [tree]
    while stack:
        node = stack.pop()
        if node[0] in ("var", "call"):
            names.add(node[1])
        stack += [child for child in node[1:] if isinstance(child, tuple)]
    return frozenset(names)


def contains(tree: Tree, kinds: frozenset[str]) -> bool:
    """Whether a node of one of these kinds, functions or constants is in the tree."""
    stack = [tree]
    while stack:
        node = stack.pop()
        if node[0] in kinds or (node[0] in ("fn", "const") and node[1] in kinds):
            return True
        stack += [child for child in node[1:] if isinstance(child, tuple)]
    return False


def _tokens(text: str) -> list[str]:
    tokens: list[str] = []
    position, text = 0, text.strip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or len(tokens) >= MAX_TOKENS or len(match.group(1)) > MAX_DIGITS:
            raise NotExpression("not a formula")
        tokens.append(match.group(1))
        position = match.end()
    return tokens


def _is_number(token: str | None) -> bool:
    return token is not None and (token[0].isdigit() or token[0] == ".")


def _is_digits(token: str | None) -> bool:
    return token is not None and token.isdigit() and token.isascii()


def _literal(token: str) -> Tree:
    mantissa, _, exponent = token.lower().partition("e")
    if exponent and abs(int(exponent)) > MAX_EXPONENT_OF_TEN:
        raise NotExpression("exponent out of bounds")
    value = Fraction(mantissa.rstrip(".") if mantissa.endswith(".") else mantissa)
    return ("num", value * Fraction(10) ** int(exponent) if exponent else value)


class _Parser:
    """sum := product (+|- product)*; product := factor (*|/|nothing factor)*; factor := atom (^ factor | ! | °)*."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.position = 0
        self.depth = 0
        self.bars = 0

    def parse(self) -> Tree:
        tree = self.sum()
        if self.position != len(self.tokens):
            raise NotExpression("text after the formula")
        return tree

    def peek(self, ahead: int = 0) -> str | None:
        index = self.position + ahead
        return self.tokens[index] if index < len(self.tokens) else None

    def take(self, expected: str | None = None) -> str:
        token = self.peek()
        if token is None or (expected is not None and token != expected):
            raise NotExpression("formula ends early")
        self.position += 1
        return token

    def sum(self) -> Tree:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise NotExpression("nested too deep")
        tree = self.signed(self.product)
        while self.peek() in ("+", "-"):
            operator = self.take()
            term = self.signed(self.product)
            tree = ("add", tree, term if operator == "+" else ("neg", term))
        self.depth -= 1
        return tree

    def signed(self, rest: Any) -> Tree:
        negative = False
        while self.peek() in ("+", "-"):
            negative ^= self.take() == "-"
        tree: Tree = rest()
        return ("neg", tree) if negative else tree

    def product(self, in_argument: bool = False) -> Tree:
        """Factors; in the argument of a function written without brackets, only those that belong to it."""
        tree = self.factor()
        while (token := self.peek()) is not None and token not in _ENDS_PRODUCT:
            if token in ("*", "/"):
                if in_argument and token == "*":
                    break
                self.take()
                right = self.signed(self.factor)
                tree = ("mul" if token == "*" else "div", tree, right)
            elif in_argument and (token == "(" or token[1:] in _FUNCTIONS or token == "\\log"):
                break
            elif _is_number(token) and not self.number_may_follow():
                raise NotExpression("two numbers side by side")
            else:
                tree = ("mul", tree, self.factor())
        if self.peek() == "|" and not self.bars and not in_argument:
            tree = ("mul", tree, self.factor())
        return tree

    def number_may_follow(self) -> bool:
        """`2^6 3^5` is a product; `2 3` and `x 3` are more likely a slip."""
        before = self.tokens[self.position - 2] if self.position >= 2 else None
        return self.tokens[self.position - 1] in (")", "}") or before == "^"

    def factor(self) -> Tree:
        tree = self.atom()
        while (token := self.peek()) in ("^", "!", "°", "%"):
            self.take()
            if token == "^":
                tree = ("pow", tree, self.exponent())
            elif token == "!":
                tree = ("factorial", tree)
            elif token == "%":
                tree = ("div", tree, ("num", Fraction(100)))
            else:
                tree = ("degrees", tree)
        return tree

    def exponent(self) -> Tree:
        if self.peek() == "{":
            tree = self.group()
        else:
            tree = self.signed(self.atom)
        if self.peek() == "^":  # right-associative: a tower
            self.take()
            tree = ("pow", tree, self.exponent())
        return tree

    def group(self) -> Tree:
        opening = self.take()
        bars, self.bars = self.bars, 0
        tree = self.sum()
        self.bars = bars
        self.take(_CLOSING[opening])
        return tree

    def atom(self) -> Tree:
        token = self.peek()
        if token is None:
            raise NotExpression("formula ends early")
        if _is_number(token):
            return self.number()
        if token in ("(", "{", "["):
            return self.group()
        if token in ("⌊", "⌈"):
            return ("fn", "floor" if token == "⌊" else "ceil", self.group())
        if token == "|":
            self.take()
            self.bars += 1
            tree = self.sum()
            self.bars -= 1
            self.take("|")
            return ("fn", "abs", tree)
        if token[0] == "\\":
            return self.command()
        if token.isalpha():
            return self.variable()
        raise NotExpression(f"unexpected {token}")

    def variable(self) -> Tree:
        letter = self.take()
        name = letter + self.suffix()
        if name == "e":
            return ("const", "e")
        if name == "i":
            return ("const", "i")
        if letter in _UNKNOWN_FUNCTIONS and self.peek() == "(":
            return ("call", name, *self.arguments())
        return ("var", name)

    def arguments(self) -> list[Tree]:
        self.take("(")
        arguments = [self.sum()]
        while self.peek() == ",":
            self.take()
            arguments.append(self.sum())
        self.take(")")
        return arguments

    def suffix(self) -> str:
        """Subscript and primes of a name."""
        suffix = ""
        while (token := self.peek()) in ("_", "'"):
            self.take()
            if token == "'":
                suffix += "'"
                continue
            if self.peek() != "{":
                suffix += "_" + self.take()
                continue
            self.take()
            inside = []
            while (piece := self.take()) != "}":
                if piece == "{":
                    raise NotExpression("nested subscript")
                inside.append(piece)
            suffix += "_" + "".join(inside)
        return suffix

    def command(self) -> Tree:
        name = self.take()[1:]
        if name == "frac":
            top = self.fraction_argument()
            return ("div", top, self.fraction_argument())
        if name == "binom":
            top = self.fraction_argument()
            return ("binom", top, self.fraction_argument())
        if name == "sqrt":
            degree: Tree = ("num", Fraction(2))
            if self.peek() == "[":
                degree = self.group()
            return ("root", self.root_argument(), degree)
        if name == "pi":
            return ("const", "pi")
        if name in ("log", "lg"):
            return self.logarithm()
        if name in _FUNCTIONS:
            return self.function(_RENAMED_FUNCTIONS.get(name, name))
        if name in _GREEK:
            return ("var", "\\" + name + self.suffix())
        raise NotExpression(f"unknown command {name}")

    def function(self, name: str) -> Tree:
        exponent = None
        if self.peek() == "^":
            self.take()
            exponent = self.exponent()
        if exponent == ("neg", ("num", Fraction(1))) and name in _INVERSES:
            name, exponent = _INVERSES[name], None
        tree: Tree = ("fn", name, self.function_argument())
        return tree if exponent is None else ("pow", tree, exponent)

    def logarithm(self) -> Tree:
        base: Tree = ("num", Fraction(10))
        if self.peek() == "_":
            self.take()
            base = self.fraction_argument()
        exponent = None
        if self.peek() == "^":
            self.take()
            exponent = self.exponent()
        tree: Tree = ("log", self.function_argument(), base)
        return tree if exponent is None else ("pow", tree, exponent)

    def function_argument(self) -> Tree:
        if self.peek() in ("(", "{", "["):
            return self.group()
        return self.signed(lambda: self.product(in_argument=True))

    def root_argument(self) -> Tree:
        r"""A group, a whole number as in `\sqrt 13` (people mean 13, not 1), or one symbol."""
        if self.peek() in ("(", "{"):
            return self.group()
        token = self.peek()
        if _is_number(token):
            return _literal(self.take())
        return self.atom()

    def fraction_argument(self) -> Tree:
        r"""A group or, as TeX reads `\frac12`, one digit; the digits that follow stay for the next argument."""
        token = self.peek()
        if token == "{":
            return self.group()
        if _is_digits(token):
            assert token is not None
            if len(token) > 1:
                self.tokens[self.position : self.position + 1] = [token[0], token[1:]]
            return _literal(self.take())
        return self.atom()

    def number(self) -> Tree:
        r"""A literal, or `4 \frac{4}{11}` and `4 4/11`: an integer before a proper fraction is added to it."""
        whole = self.take()
        tree = _literal(whole)
        if not _is_digits(whole):
            return tree
        ahead = [self.peek(i) for i in range(7)]
        if ahead[0] == "\\frac" and ahead[1] == ahead[4] == "{" and ahead[3] == ahead[6] == "}":
            top, bottom, length = ahead[2], ahead[5], 7
        elif ahead[0] == "\\frac" and _is_digits(ahead[1]) and len(str(ahead[1])) == 2:  # `1\\frac12`
            top, bottom, length = str(ahead[1])[0], str(ahead[1])[1], 2
        elif _is_digits(ahead[0]) and ahead[1] == "/":
            top, bottom, length = ahead[0], ahead[2], 3
        else:
            return tree
        if _is_digits(top) and _is_digits(bottom) and 0 < int(str(top)) < int(str(bottom)):
            self.position += length
            return ("add", tree, ("num", Fraction(int(str(top)), int(str(bottom)))))
        return tree
