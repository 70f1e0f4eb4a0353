r"""The tokens of a formula: numbers, letters, LaTeX commands, brackets and signs, in bounded number.

`x1`, a letter with digits right behind it, is `x_1`, but `n2^n` is a product.
"""

import re
from collections.abc import Callable

from gmpo_mm.verifiers.trees import OF_SEVERAL

MAX_TOKENS = 400
MAX_DIGITS = 200  # characters of one number
MAX_DEPTH = 40  # brackets and commands within each other
GREEK = frozenset(
    str.split(
        "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho "
        "varrho sigma tau upsilon phi varphi chi psi omega "
        "Gamma Delta Theta Lambda Xi Sigma Upsilon Phi Psi Omega ell hbar"
    )
)
MARKS = {"dot": 1, "ddot": 2, "dddot": 3, "tilde": 0}  # over a name, with the order of the derivative
CLOSING = {"(": ")", "{": "}", "[": "]", "⌊": "⌋", "⌈": "⌉", "⟬": "⟭"}
SIDES = frozenset({"^+", "^-", "^{+}", "^{-}"})  # of the point of a limit

_TOKEN = re.compile(
    r"\s*(\d+(?:\.\d*)?(?:[eE][+-]?\d{1,3}(?![\d.]))?|\.\d+|\\[A-Za-z]+"
    r"|(?<![A-Za-z\\])(?:max|min|gcd|lcm|floor|ceil|abs)(?= ?[({⟬])"
    r"|(?<![A-Za-z\\])(?:arc?(?:sin|cos|tan)h|arc(?:sec|csc|cot)|coth|sech|csch)(?![A-Za-z])"
    r"|\^(?:[+-]|\{[+-]\})(?=\})|[A-Za-z]|[-+*/^_(){}\[\]|!',°⌊⌋⌈⌉%=⟬⟭])"
    # An index; not in `n2^n` and `a3^{n}`, a name times a power, but in `x1^2`.
    r"((?<=[A-Za-z])\d{1,3}(?![\d.])(?!\s*\^\s*(?!\{?\s*\d)))?"
)
_PLAIN_SUM = re.compile(r"(?:[+-]\w+){2,}")
_TAKES_GROUPS = frozenset({"^", "_", "}", "]", "\\frac", "\\binom", "\\sqrt"})


class NotExpression(ValueError):
    """The text is not a formula of this grammar, or is beyond its bounds."""


def tokens_of(text: str) -> list[str]:
    """Tokens of a canonical text; NotExpression where a character is none or there are too many."""
    tokens: list[str] = []
    position, text = 0, text.strip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or len(tokens) >= MAX_TOKENS or len(match.group(1)) > MAX_DIGITS:
            raise NotExpression("not a formula")
        token, index = match.groups()
        has_index = is_letter(token) and token not in "ei" and not _TAKES_GROUPS.intersection(tokens[-1:])
        tokens.append("\\" + token if len(token) > 1 and token.isalpha() else token)
        if index:
            tokens += ["_", index] if has_index else [index]
        position = match.end()
    return tokens


def is_number(token: str) -> bool:
    """A number without a sign."""
    return token[:1].isdecimal() or token[:1] == "."


def is_letter(token: str) -> bool:
    """One letter of the alphabet."""
    return len(token) == 1 and token.isascii() and token.isalpha()


def is_symbol(token: str) -> bool:
    """A letter of the Latin or the Greek alphabet."""
    return is_letter(token) or token[1:] in GREEK


def starts_name(token: str) -> bool:
    """Whether a name starts with it."""
    return is_symbol(token) or token == "\\pi" or token[1:] in MARKS


def derivative_name(name: str, by: str, order: int = 1, sign: str = "d") -> str:
    """Name of a derivative of a quantity that is only named: `dx/dt`, `d2x/dt2`."""
    power = "" if order == 1 else str(order)
    return f"{sign}{power}{name}/{sign}{by}{power}"


class Reader:
    """A place in the tokens of a formula, and the names that are read there."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.position = 0
        self.depth = 0

    def peek(self, ahead: int = 0) -> str:
        """A token, empty behind the last one."""
        return "".join(self.tokens[self.position + ahead : self.position + ahead + 1])

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

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise NotExpression("nested too deep")

    def in_braces(self, read: Callable[[], str]) -> str:
        """What is read with or without braces around it."""
        braces = self.skips("{")
        found = read()
        if braces:
            self.take("}")
        return found

    def name(self) -> str:
        r"""A letter, a Greek letter, `\dot x` or `\tilde x`, with its subscript and primes."""
        return self.head() + self.suffix()

    def head(self) -> str:
        """A name without its subscript and primes."""
        token = self.take()
        if not starts_name(token):
            raise NotExpression(f"{token} is no name")
        if token[1:] not in MARKS:
            return token
        self.deeper()
        inside = self.in_braces(self.name)
        self.depth -= 1
        return token + inside if token == "\\tilde" else derivative_name(inside, "t", MARKS[token[1:]])

    def suffix(self) -> str:
        """Subscript and primes of a name; `a_{1+n}` is `a_{n+1}`."""
        suffix = ""
        while (token := self.peek()) in ("_", "'"):
            self.take()
            if token == "'":
                suffix += token
                continue
            if "_" in suffix:
                raise NotExpression("two subscripts")
            below = "".join(self.subscript())
            signed = below if below[0] in "+-" else "+" + below
            if _PLAIN_SUM.fullmatch(signed):
                below = "".join(sorted(re.findall(r"[+-]\w+", signed))).removeprefix("+")
            suffix += "_" + below
        return suffix

    def subscript(self) -> list[str]:
        """The tokens of a subscript, without braces."""
        self.deeper()
        if self.skips("{"):
            inside = self.subscript()
            while not self.skips("}"):
                inside += self.subscript()
        else:
            token = self.take()
            if token == "}":
                raise NotExpression("empty subscript")
            inside = [token[1:] if token[1:] in OF_SEVERAL else token]
        self.depth -= 1
        return inside
