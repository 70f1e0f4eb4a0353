r"""The tokens of a formula: numbers, letters, LaTeX commands, brackets and signs, in bounded number.

Two conventions of spelling live here: `x1`, a letter with digits right behind it, is `x_1` (but `n2^n` is a
product), and braces around one number show nothing in LaTeX, so that `2{3}` is two numbers side by side.
"""

import re

MAX_TOKENS = 400
MAX_DIGITS = 200  # characters of one number
OF_SEVERAL = frozenset({"max", "min", "gcd", "lcm"})
GREEK = frozenset(
    str.split(
        "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho "
        "varrho sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi "
        "Sigma Upsilon Phi Psi Omega "
        "ell hbar"
    )
)
MARKS = {
    "dot": 1,
    "ddot": 2,
    "dddot": 3,
    "tilde": 0,
}  # over a name: the order of the derivative that it stands for
CLOSING = {"(": ")", "{": "}", "[": "]", "⌊": "⌋", "⌈": "⌉", "⟬": "⟭"}
MAX_DEPTH = 60  # brackets and commands within each other count two

_TOKEN = re.compile(
    r"\s*(\d+(?:\.\d*)?(?:[eE][+-]?\d{1,3}(?![\d.]))?|\.\d+|\\[A-Za-z]+"
    r"|(?<![A-Za-z\\])(?:max|min|gcd|lcm|floor|ceil|abs)(?= ?[({⟬])"
    r"|(?<![A-Za-z\\])(?:arc?(?:sin|cos|tan)h|arc(?:sec|csc|cot)|coth|sech|csch)(?![A-Za-z])"
    r"|[A-Za-z]|[-+*/^_(){}\[\]|!',°⌊⌋⌈⌉%=⟬⟭])"
)
# A power of a power of a name, as in `x1^2`; `n2^n` and `a3^{n}` are a name times a power.
_INDEX = re.compile(r"(\d{1,3})(?![\d.])(?!\s*\^\s*(?!\{?\s*\d))")
_PLAIN_SUM = re.compile(r"[+-]?\w+(?:[+-]\w+)+")
_TERM = re.compile(r"[+-]\w+")
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
        token = match.group(1)
        position = match.end()
        before = tokens[-1] if tokens else ""
        tokens.append("\\" + token if len(token) > 1 and token.isalpha() else token)
        if is_letter(token) and token not in ("e", "i") and before not in _TAKES_GROUPS:
            index = _INDEX.match(text, position)
            if index:
                tokens += ["_", index.group(1)]
                position = index.end()
    return _without_empty_braces(tokens)


def _without_empty_braces(tokens: list[str]) -> list[str]:
    """Tokens without the braces around one number that are no command's argument."""
    kept: list[str] = []
    position = 0
    while position < len(tokens):
        before = kept[-1] if kept else ""
        alone = tokens[position : position + 3]
        shows_nothing = len(alone) == 3 and alone[0] == "{" and is_number(alone[1]) and alone[2] == "}"
        is_argument = (
            before in _TAKES_GROUPS or before.startswith("\\") or kept[-2:-1] in (["\\frac"], ["\\binom"])
        )
        if shows_nothing and not is_argument:
            kept.append(alone[1])
            position += 3
        else:
            kept.append(tokens[position])
            position += 1
    return kept


def is_number(token: str | None) -> bool:
    """A number without a sign."""
    return token is not None and (token[0].isdigit() or token[0] == ".")


def is_digits(token: str | None) -> bool:
    """A whole number in ASCII digits."""
    return token is not None and token.isdigit() and token.isascii()


def is_letter(token: str | None) -> bool:
    """One letter of the alphabet."""
    return token is not None and len(token) == 1 and token.isascii() and token.isalpha()


def derivative_name(name: str, by: str, order: int = 1, sign: str = "d") -> str:
    """Name of a derivative of a quantity that is only named: `dx/dt`, `d2x/dt2`."""
    power = "" if order == 1 else str(order)
    return f"{sign}{power}{name}/{sign}{by}{power}"


def _in_order(subscript: list[str]) -> str:
    """A subscript as text, the terms of a plain sum sorted: `a_{1+n}` is `a_{n+1}`."""
    text = "".join(subscript)
    if "+" not in subscript[1:] or not _PLAIN_SUM.fullmatch(text):
        return text
    return "".join(sorted(_TERM.findall(text if text[0] in "+-" else "+" + text))).removeprefix("+")


class Reader:
    """A place in the tokens of a formula, and the names that are read there."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.position = 0
        self.depth = 0
        self.bound: list[str] = []  # names that the sums and products around this place bind

    def peek(self, ahead: int = 0) -> str | None:
        index = self.position + ahead
        return self.tokens[index] if index < len(self.tokens) else None

    def take(self, *expected: str) -> str:
        token = self.peek()
        if token is None or (expected and token not in expected):
            raise NotExpression("formula ends early")
        self.position += 1
        return token

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise NotExpression("nested too deep")

    def head(self) -> str:
        r"""A letter, a Greek letter, `\dot x` or `\tilde x`, without its subscript."""
        token = self.take()
        if is_letter(token):
            return token
        command = token[1:]
        if command in GREEK or command == "pi":
            return token
        if command in MARKS:
            self.deeper()
            in_braces = self.peek() == "{"
            if in_braces:
                self.take("{")
            inside = self.head() + self.suffix()
            if in_braces:
                self.take("}")
            self.depth -= 1
            return token + inside if command == "tilde" else derivative_name(inside, "t", MARKS[command])
        raise NotExpression(f"{token} is no name")

    def suffix(self) -> str:
        """Subscript and primes of a name."""
        suffix = ""
        while (token := self.peek()) in ("_", "'"):
            self.take()
            if token == "'":
                suffix += "'"
            elif "_" in suffix:
                raise NotExpression("two subscripts")
            else:
                suffix += "_" + _in_order(
                    [piece.lstrip("\\") if piece[1:] in OF_SEVERAL else piece for piece in self.subscript()]
                )
        return suffix

    def subscript(self) -> list[str]:
        """The tokens of a subscript, without braces."""
        if self.peek() != "{":
            return [self.take()]
        self.take()
        depth, inside = 1, []
        while depth:
            piece = self.take()
            depth += (piece == "{") - (piece == "}")
            if piece not in ("{", "}"):
                inside.append(piece)
        if not inside:
            raise NotExpression("empty subscript")
        return inside

    def is_bound_index(self) -> bool:
        start = self.position
        self.take("_")
        inside = self.subscript()
        self.position = start
        return any(name in inside for name in self.bound)
