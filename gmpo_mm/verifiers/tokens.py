r"""The tokens of a formula: numbers, names, LaTeX commands, brackets and signs, in bounded number.

A name is one token, an @ before it: `@x_1'`, `@\alpha_{max}`, `@dx/dt` for `\dot x` and `\frac{dx}{dt}`.
`x1`, a letter with digits right behind it, is `x_1`, but `n2^n` is a product.
"""

import re

MAX_TOKENS = 400
MAX_DIGITS = 200  # characters of one number

_GREEK = (
    "alpha|beta|gamma|delta|epsilon|varepsilon|zeta|eta|theta|vartheta|iota|kappa|lambda|mu|nu|xi|rho|varrho|"
    "sigma|tau|upsilon|phi|varphi|chi|psi|omega|Gamma|Delta|Theta|Lambda|Xi|Sigma|Upsilon|Phi|Psi|Omega|ell|"
    "hbar|pi"
)
_HEAD = rf"(?:[A-Za-z]|\\(?:{_GREEK})(?![A-Za-z]))"
_BRACES = r"\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}"
_BELOW = rf"\s*_\s*(?:{_BRACES}|\\[A-Za-z]+|\d+|[A-Za-z*+-])"
_SUFFIX = rf"(?:{_BELOW}|\s*')*"
_PLAIN = _HEAD + _SUFFIX
_MARKED = rf"\\(?:d{{0,2}}dot|tilde)(?![A-Za-z])\s*(?:\{{\s*{_PLAIN}\s*\}}|{_HEAD})"
_NAME = rf"(?:{_MARKED}|{_HEAD}){_SUFFIX}"
_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d*)?(?:[eE][+-]?[0-3]?\d{1,2}(?![\d.]))?|\.\d+)"
    r"|[-+*/^_(){}\[\]|!',°⌊⌋⌈⌉%=⟬⟭]"
    rf"|\\frac\s*\{{\s*(?P<d>d|\\partial(?![A-Za-z]))(?:\s*\^\s*\{{?\s*(?P<order>[234])\s*\}}?)?"
    rf"\s*(?P<of>{_NAME})?\s*\}}\s*\{{\s*(?P=d)\s*(?P<by>{_NAME})"
    rf"(?(order)\s*\^\s*\{{?\s*(?P=order)\s*\}}?|)\s*\}}"
    rf"|d\s*(?P<top>{_HEAD})\s*/\s*d\s*(?P<bottom>{_HEAD})"
    r"|(?<![A-Za-z\\])(?P<word>(?:max|min|gcd|lcm|floor|ceil|abs)(?= ?[({⟬])"
    r"|(?:arc?(?:sin|cos|tan)h|arc(?:sec|csc|cot)|coth|sech|csch)(?![A-Za-z]))"
    # Digits are no index in `n2^n` and `a3^{n}`, a name times a power, but in `x1^2`.
    rf"|(?P<name>(?![ei])[A-Za-z](?P<index>\d{{1,3}}(?![\d.])(?!\s*\^\s*(?!\{{?\s*\d))){_SUFFIX}|{_NAME})"
    r"|\\[A-Za-z]+)"
)
_NAME_PARTS = re.compile(rf"(?:\\(d*dot|tilde)\s*(?:\{{\s*({_PLAIN})\s*\}}|({_HEAD}))|({_HEAD}))({_SUFFIX})")
_NO_PART_OF_SUBSCRIPTS = re.compile(r"[{}_\s]|\\(?=(?:max|min|gcd|lcm)(?![a-z]))")
_PLAIN_SUM = re.compile(r"(?:[+-]\w+){2,}")
_POWER_FIRST = re.compile(
    rf"({_HEAD}|\\(?:sum|prod|int)(?![A-Za-z]))(\s*\^\s*(?:\d|[A-Za-z]|\\[a-z]+|{_BRACES}))({_BELOW})"
)
_TAKES_GROUPS = frozenset({"^", "_", "}", "]", "\\frac", "\\binom", "\\sqrt"})


class NotExpression(ValueError):
    """The text is not a formula of this grammar, or is beyond its bounds."""


def tokens_of(text: str) -> list[str]:
    """Tokens of a canonical text; NotExpression where a character is none or there are too many."""
    tokens: list[str] = []
    position, text = 0, _POWER_FIRST.sub(r"\1\3\2", " ".join(text.split()))  # `v^2_0` is `v_0^2`
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or len(tokens) >= MAX_TOKENS or len(match["number"] or "") > MAX_DIGITS:
            raise NotExpression("not a formula")
        if match["by"] and not match["of"]:
            raise NotExpression("a derivative to be worked out")
        token, position, kind = match.group().strip(), match.end(), match.lastgroup
        if kind == "name" and match["index"] and _TAKES_GROUPS.intersection(tokens[-1:]):
            token, position = "@" + token[0], match.start("index")
        elif kind == "name":
            token = "@" + _name(token[0] + "_" + token[1:] if match["index"] else token)
        elif kind == "word":
            token = "\\" + token
        elif kind == "bottom":
            token = "@" + derivative_name(match["top"], match["bottom"])
        elif kind == "by":
            by, order, sign = _name(match["by"]), int(match["order"] or 1), "d" if match["d"] == "d" else "∂"
            token = "@" + derivative_name(_name(match["of"]), by, order, sign)
        tokens.append(token)
    return tokens


def _name(text: str) -> str:
    """A name in its one spelling; `a_{1+n}` is `a_{n+1}`."""
    if len(text) == 1:
        return text
    match = _NAME_PARTS.fullmatch(text)
    if match is None:
        raise NotExpression("not a name")
    mark, inside, letter, name, suffix = match.groups()
    if mark:
        name = _name(inside or letter)
        name = "\\tilde" + name if mark == "tilde" else derivative_name(name, "t", len(mark) - 2)
    below = [_NO_PART_OF_SUBSCRIPTS.sub("", one) for one in re.findall(_BELOW, suffix)]
    if len(below) > 1 or "" in below:
        raise NotExpression("two subscripts, or an empty one")
    for one in below:
        signed = one if one[0] in "+-" else "+" + one
        if _PLAIN_SUM.fullmatch(signed):
            one = "".join(sorted(re.findall(r"[+-]\w+", signed))).removeprefix("+")
        name += "_" + one
    return name + "'" * re.sub(_BELOW, "", suffix).count("'")


def derivative_name(name: str, by: str, order: int = 1, sign: str = "d") -> str:
    """Name of a derivative of a quantity that is only named: `dx/dt`, `d2x/dt2`."""
    power = "" if order == 1 else str(order)
    return f"{sign}{power}{name}/{sign}{by}{power}"
