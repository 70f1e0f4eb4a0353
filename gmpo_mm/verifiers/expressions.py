r"""A formula in LaTeX or plain text as a small tree (see `trees`), by recursive descent; it is not evaluated.

Conventions, where two readings are possible:

- A name before a bracket is a function where the bracket holds a single number without an exponent, a single
  other name or a list with commas, as in `y(0)`, `x(t)`, `y'(\pi)`, `M(x, y)`; else it is a factor, as in
  `n(n+1)`, `a(b+c)`, `n(-1)^n`. `C(n, k)` is a binomial coefficient. `f`, `g`, `F`, `G` are functions
  of a formula too where it has the usual arguments, as in `f(x+1)`; `g(\sin\theta - \mu)`, `G(M+m)` are
  products.
- On one line, `t/RC` is `t/(RC)`, while `1/2x` is `x/2`.
- Numbers side by side are an error: `145 3`, `x 3`, `2{3}`; so is an integer before an improper fraction. `4
  \frac{1}{2}` and `4 1/2` are mixed numbers. A number may follow a factor where it has an exponent: `n 2^n`,
  `2^6 3^5`.
- The argument of a function without brackets ends before `+`, `-`, `*`, a bracket, another function, and
  before `/` unless a number follows: `\sin 2x/3` is `\sin(2x/3)`, `\ln 8 / \ln 2` is a quotient.
- `\log` and `\lg` without a base are to base 10. `\sin^{-1}` is the arc sine, `\sin^2 x` a square.
- A sum, product or limit reaches to the next `+` or `-` outside brackets, an integral to its `dx`.

Length, depth and literals are bounded; what lies outside raises `NotExpression`.
"""

import re
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache

from gmpo_mm.verifiers.calculus import Calculus
from gmpo_mm.verifiers.functions import FUNCTIONS, RENAMED, TRIGONOMETRIC, known_function
from gmpo_mm.verifiers.tokens import (
    CLOSING,
    GREEK,
    MARKS,
    OF_SEVERAL,
    NotExpression,
    is_digits,
    is_letter,
    is_number,
    tokens_of,
)
from gmpo_mm.verifiers.trees import ONE, TWO, Tree, canonical_tree, contains, depth, replaced, variables

__all__ = ["NotExpression", "Tree", "canonical_tree", "contains", "parse_expression", "replaced", "variables"]

MAX_EXPONENT_OF_TEN = 400
MAX_PARTS = 150  # of one sum or product: each is one level of the tree, which recursive functions walk

_BINDING = {"sum": "sum", "prod": "product", "int": "integral", "lim": "limit"}
_UNKNOWN_FUNCTIONS = frozenset("fgFG")
_USUAL_ARGUMENTS = frozenset("xyztnksuabeifgFG")  # `g(L - x)` is the product that physics has in mind
# What makes an application of a name before a bracket that holds nothing else, its tokens joined.
_NUMBER_ALONE = re.compile(
    r"-?(?:\d[\d.]*|\.\d+|\d+/\d+|\\frac\{?\d+\}?\{?\d+\}?"
    r"|\d*\\pi(?:/\d+)?|\\frac\{\d*\\pi\}\{?\d+\}?|\\infty)"
)
_NAME_ALONE = re.compile(r"(?:[A-Za-z]|\\[A-Za-z]+)(?:_\w+|_\{\w+\})?")
_ENDS_PRODUCT = frozenset(
    ["+", "-", ")", "}", "]", "|", ",", "⌋", "⌉", "⟭", "=", "\\choose", "\\pmod", "\\to", "\\rightarrow"]
)
_ENDS_ARGUMENT = frozenset("\\" + name for name in (*FUNCTIONS, *OF_SEVERAL, *_BINDING, "log", "lg")) | {
    "(",
    "*",
}


@lru_cache(maxsize=1024)
def parse_expression(text: str) -> Tree:
    """The tree of a canonical text; NotExpression when it is anything else."""
    return _Parser(tokens_of(text)).parse()


def _literal(token: str) -> Tree:
    mantissa, _, exponent = token.lower().partition("e")
    if exponent and abs(int(exponent)) > MAX_EXPONENT_OF_TEN:
        raise NotExpression("exponent out of bounds")
    value = Fraction(mantissa.rstrip(".") if mantissa.endswith(".") else mantissa)
    return ("num", value * Fraction(10) ** int(exponent) if exponent else value)


def _is_named(tree: Tree) -> bool:
    """Whether a tree is a name, a power of one, or a product of such."""
    if tree[0] == "pow":
        return _is_named(tree[1])
    return tree[0] in ("var", "const") or (tree[0] == "mul" and _is_named(tree[1]) and _is_named(tree[2]))


class _Parser(Calculus):
    """sum := product (+|- product)*; product := factor (*|/|factor)*; factor := atom (^ atom | !)*."""

    def __init__(self, tokens: list[str]) -> None:
        super().__init__(tokens)
        self.bars = 0  # how many `|` are open in this bracket

    def parse(self) -> Tree:
        tree = self.sum_or_choice()
        if self.peek() == "\\pmod":
            self.take()
            tree = ("residue", tree, self.group() if self.peek() in ("{", "(") else self.atom())
        if self.position != len(self.tokens):
            raise NotExpression("text after the formula")
        if depth(tree) > MAX_PARTS:
            raise NotExpression("too many terms or factors")
        return tree

    def sum_or_choice(self) -> Tree:
        r"""A sum, or `2n \choose n`."""
        tree = self.sum()
        if self.peek() == "\\choose":
            self.take()
            tree = ("binom", tree, self.sum())
        return tree

    def sum(self) -> Tree:
        self.deeper()
        tree = self.signed(self.product)
        while self.peek() in ("+", "-"):
            operator = self.take()
            term = self.signed(self.product)
            tree = ("add", tree, term if operator == "+" else ("neg", term))
        self.depth -= 1
        return tree

    def signed(self, rest: Callable[[], Tree]) -> Tree:
        negative = False
        while self.peek() in ("+", "-"):
            negative ^= self.take() == "-"
        tree = rest()
        return ("neg", tree) if negative else tree

    def product(self, in_argument: bool = False) -> Tree:
        """Factors; in the argument of a function written without brackets, only those that belong to it."""
        tree = self.factor()
        while (
            (token := self.peek()) is not None and token not in _ENDS_PRODUCT and not self.at_differential()
        ):
            if in_argument and (token in _ENDS_ARGUMENT or (token == "/" and not is_number(self.peek(1)))):
                break
            if token in ("*", "/"):
                self.take()
                right = self.signed(self.factor)
                while token == "/" and self.at_name() and _is_named(right):
                    right = ("mul", right, self.factor())
                tree = ("mul" if token == "*" else "div", tree, right)
            elif token in ("\\bmod", "\\mod"):
                self.take()
                tree = ("mod", tree, self.factor())
            else:
                self.check_no_number_follows()
                tree = ("mul", tree, self.factor())
        if self.peek() == "|" and not self.bars and not in_argument:
            tree = ("mul", tree, self.factor())
        return tree

    def at_name(self) -> bool:
        """Whether a letter is ahead that is not the d of a differential."""
        token = self.peek()
        return token is not None and (is_letter(token) or token[1:] in GREEK) and not self.at_differential()

    def check_no_number_follows(self) -> None:
        """`n 2^n` and `2^6 3^5` are products; `2 3`, `x 3` and `2{3x}` are two things side by side."""
        ahead = 0
        while self.peek(ahead) == "{":
            ahead += 1
        if not is_number(self.peek(ahead)):
            return
        before = self.tokens[self.position - 2] if self.position >= 2 else None
        follows_number = is_number(self.tokens[self.position - 1]) and before not in ("^", "_")
        if follows_number or self.peek(1) != "^":
            raise NotExpression("two numbers side by side")

    def factor(self) -> Tree:
        tree = self.atom()
        while (token := self.peek()) in ("^", "!", "°", "%"):
            self.take()
            if token == "^":
                exponent = self.exponent()
                if self.peek() == "_" and tree[0] == "var" and "_" not in tree[1]:  # `v^2_0`
                    tree = ("var", tree[1] + self.suffix())
                tree = ("pow", tree, exponent)
                continue
            tree = {
                "!": ("factorial", tree),
                "%": ("div", tree, ("num", Fraction(100))),
                "°": ("degrees", tree),
            }[str(token)]
            if self.peek() in ("!", "°", "%"):
                raise NotExpression("two signs behind a value")
        return tree

    def exponent(self) -> Tree:
        self.deeper()
        tree = self.script()
        if self.peek() == "^":  # right-associative: a tower
            self.take()
            tree = ("pow", tree, self.exponent())
        self.depth -= 1
        return tree

    def script(self) -> Tree:
        """What stands above or below: a group, or one atom with its sign; the 0 of `x^n_0` is below the x."""
        if is_letter(self.peek()) and self.peek(1) == "_":
            return ("var", self.take())
        return self.group() if self.peek() == "{" else self.signed(self.atom)

    def group(self) -> Tree:
        opening = self.take(*CLOSING)
        bars, self.bars = self.bars, 0
        integrals, self.differentials = self.differentials, []
        tree = self.sum_or_choice()
        self.bars, self.differentials = bars, integrals
        self.take(CLOSING[opening])
        return tree

    def atom(self) -> Tree:
        self.deeper()
        token = self.peek()
        if token is None:
            raise NotExpression("formula ends early")
        if is_number(token):
            tree = self.number()
        elif token in ("(", "{", "["):
            tree = self.group()
        elif token in ("⌊", "⌈"):
            tree = ("fn", "floor" if token == "⌊" else "ceil", self.group())
        elif token == "|":
            self.take()
            self.bars += 1
            tree = ("fn", "abs", self.sum())
            self.bars -= 1
            self.take("|")
        elif token[0] == "\\":
            tree = self.command()
        elif token.isalpha():
            tree = self.name()
        else:
            raise NotExpression(f"unexpected {token}")
        self.depth -= 1
        return tree

    # Names and functions

    def name(self) -> Tree:
        """A variable, a constant, the value of an unknown function or a derivative."""
        if (by_slash := self.slashed_derivative()) is not None:
            return by_slash
        head = self.head()
        if self.peek() == "_" and self.is_bound_index():
            return ("index", head, *self.index())
        name = head + self.suffix()
        if name in self.bound:
            return ("var", name)
        if name in ("e", "i", "\\pi"):
            return ("const", name.lstrip("\\"))
        inverse = ["^", "{", "-", "1", "}", "("]
        if head in _UNKNOWN_FUNCTIONS and [self.peek(i) for i in range(6)] == inverse:
            self.position += 5
            return ("call", name + "^-1", *self.arguments())
        if self.peek() == "(" and self.is_application(name):
            arguments = self.arguments()
            return (
                ("binom", *arguments) if name == "C" and len(arguments) == 2 else ("call", name, *arguments)
            )
        return ("var", name)

    def is_application(self, name: str) -> bool:
        """Whether the bracket ahead is an argument: see the conventions above."""
        depth, ahead, inside = 0, 0, ""
        usual = name.rstrip("'").partition("_")[0] in _UNKNOWN_FUNCTIONS
        while (token := self.peek(ahead)) is not None:
            depth += (token in ("(", "[", "{")) - (token in (")", "]", "}"))
            if depth == 0:
                break
            if token == "," and depth == 1:
                return True
            inside += token if ahead else ""
            usual &= not (is_letter(token) or token[1:] in GREEK) or token in _USUAL_ARGUMENTS
            ahead += 1
        if usual:
            return True
        if _NUMBER_ALONE.fullmatch(inside):
            return self.peek(ahead + 1) != "^" or inside == "0"
        is_name = _NAME_ALONE.fullmatch(inside) and (inside[0] != "\\" or inside[1:].split("_")[0] in GREEK)
        return bool(is_name) and inside not in (name, "e", "i")

    def arguments(self) -> list[Tree]:
        opening = self.take("(", "{", "⟬")
        arguments = [self.sum()]
        while self.peek() == ",":
            self.take()
            arguments.append(self.sum())
        self.take(CLOSING[opening])
        return arguments

    def index(self) -> list[Tree]:
        """A subscript as formulas: `F_{n-k}` has one, `a_{ij}` and `a_{i,j}` have two."""
        self.take("_")
        if self.peek() != "{":
            return [self.atom()]
        start = self.position
        inside = self.subscript()
        if all(is_letter(piece) or is_digits(piece) for piece in inside):
            return [_literal(piece) if is_digits(piece) else ("var", piece) for piece in inside]
        self.position = start
        return self.arguments()

    def command(self) -> Tree:
        name = self.peek()
        assert name is not None
        name = name[1:]
        if name in GREEK or name in MARKS or name == "pi":
            return self.name()
        self.take()
        if name == "frac":
            return self.fraction()
        if name == "binom":
            top = self.fraction_argument()
            return ("binom", top, self.fraction_argument())
        if name == "sqrt":
            degree = self.group() if self.peek() == "[" else TWO
            return ("root", self.root_argument(), degree)
        if name == "infty":
            return ("infinity",)
        if name in ("log", "lg"):
            return self.logarithm()
        if name in OF_SEVERAL:
            return (name, *self.arguments())
        if name in FUNCTIONS:
            return self.function(RENAMED.get(name, name))
        if name in _BINDING:
            return (
                self.limit()
                if name == "lim"
                else self.integral()
                if name == "int"
                else self.series(_BINDING[name])
            )
        raise NotExpression(f"unknown command {name}")

    def function(self, name: str) -> Tree:
        exponent = None
        if self.peek() == "^":
            self.take()
            exponent = self.exponent()
        if exponent == ("neg", ONE) and (name in TRIGONOMETRIC or name in ("sinh", "cosh", "tanh")):
            name, exponent = "arc" + name, None
        tree = known_function(name, self.function_argument())
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
        return _literal(self.take()) if is_number(self.peek()) else self.atom()

    def fraction(self) -> Tree:
        r"""A quotient, or the derivative that `\frac{dv}{dt}` or `\frac{d}{dx} (...)` is."""
        derivative = self.derivative()
        if derivative is not None:
            return derivative
        ahead = [self.peek(i) for i in range(4)]
        if self.differentials and ahead[:2] == ["{", "d"] and is_letter(ahead[2]) and ahead[3] == "}":
            self.differentials[-1] = ahead[2]  # `\int \frac{dx}{x}`
            self.position += 4
            return ("div", ONE, self.fraction_argument())
        top = self.fraction_argument()
        return ("div", top, self.fraction_argument())

    def fraction_argument(self) -> Tree:
        r"""A group or, as TeX reads `\frac12`, one digit; the rest stays for the next argument."""
        token = self.peek()
        if token == "{":
            return self.group()
        if is_digits(token):
            assert token is not None
            if len(token) > 1:
                self.tokens[self.position : self.position + 1] = [token[0], token[1:]]
            return _literal(self.take())
        return self.atom()

    def number(self) -> Tree:
        r"""A literal, or `4 \frac{4}{11}` and `4 4/11`: an integer and a proper fraction are added."""
        whole = self.take()
        tree = _literal(whole)
        if not is_digits(whole):
            return tree
        ahead = [self.peek(i) for i in range(7)]
        if ahead[0] == "\\frac" and ahead[1] == ahead[4] == "{" and ahead[3] == ahead[6] == "}":
            top, bottom, length = ahead[2], ahead[5], 7
        elif ahead[0] == "\\frac" and is_digits(ahead[1]) and len(str(ahead[1])) == 2:  # `1\\frac12`
            top, bottom, length = str(ahead[1])[0], str(ahead[1])[1], 2
        elif is_digits(ahead[0]) and ahead[1] == "/":
            top, bottom, length = ahead[0], ahead[2], 3
        else:
            return tree
        if not (is_digits(top) and is_digits(bottom)):
            return tree
        if not 0 < int(str(top)) < int(str(bottom)):
            raise NotExpression("neither a mixed number nor clearly a product")
        self.position += length
        return ("add", tree, ("num", Fraction(int(str(top)), int(str(bottom)))))
