r"""The tokens of a formula: numbers, letters, LaTeX commands, brackets and signs, in bounded number.

Two conventions of spelling live here: `x1`, a letter with digits right behind it, is `x_1` (but `n2^n` is a product), and
braces around one number show nothing in LaTeX, so that `2{3}` is two numbers side by side.
"""

import re

MAX_TOKENS = 400
MAX_DIGITS = 200  # characters of one number

_TOKEN = re.compile(
    r"\s*(\d+(?:\.\d*)?(?:[eE][+-]?\d{1,3}(?![\d.]))?|\.\d+|\\[A-Za-z]+"
    r"|(?<![A-Za-z\\])(?:max|min|gcd|lcm|floor|ceil|abs)(?= ?[({⟬])"
    r"|[A-Za-z]|[-+*/^_(){}\[\]|!',°⌊⌋⌈⌉%=⟬⟭])"
)
# A power of a power of a name, as in `x1^2`; `n2^n` and `a3^{n}` are a name times a power.
_INDEX = re.compile(r"(\d{1,3})(?![\d.])(?!\s*\^\s*(?!\{?\s*\d))")
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
        is_argument = before in _TAKES_GROUPS or before.startswith("\\") or kept[-2:-1] in (["\\frac"], ["\\binom"])
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
