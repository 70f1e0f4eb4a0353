"""Bring the many spellings of a short answer to one: Unicode mathematics, LaTeX wrappers, spaces.

Callers bound the length first (see `equivalence.MAX_LENGTH`).
"""

import re

from gmpo_mm.verifiers.extraction import remove_invisible

_CHARACTERS = str.maketrans(
    {
        "\u2212": "-", "\u2013": "-", "\u2014": "-", "\u2010": "-", "\u2011": "-", "\ufe63": "-",
        "\u00d7": " * ", "\u00b7": " * ", "\u22c5": " * ", "\u2217": " * ",
        "\u00f7": " / ", "\u2215": "/", "\u2044": "/",
        "\u03c0": r" \pi ", "\u221a": r" \sqrt ",
        "\u221e": r" \infty ", "\u2220": r" \angle ", "\u25b3": r" \triangle ",
        "\u2245": r" \cong ", "\u223c": r" \sim ",
        "\u22a5": r" \perp ", "\u2225": r" \parallel ", "\u2248": r" \approx ",
        "\u2264": " <= ", "\u2265": " >= ", "\u2a7d": " <= ", "\u2a7e": " >= ", "\u2260": " != ", "\u2236": ":",
        "\u00ba": "\u00b0", "\u02da": "\u00b0", "\u00b2": "^{2}", "\u00b3": "^{3}",
        "\u00bd": r" \frac{1}{2}", "\u00bc": r" \frac{1}{4}", "\u00be": r" \frac{3}{4}",
        "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u2002": " ", "\u2003": " ", "\u2005": " ", "\u3000": " ",
        "\u2032": "'", "\u2019": "'",
        **{chr(0xFF01 + i): chr(0x21 + i) for i in range(94)},  # full-width ASCII
    }
)  # fmt: skip
_WRAPPER = re.compile(
    r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|mathsf|mbox|operatorname|boxed|fbox|overline|bar|bm"
    r"|boldsymbol|mathbb)\s*\{([^{}]*)\}"
)
_SPACING = re.compile(r"\\[,;:! ]|~|\\(?:quad|qquad|displaystyle|textstyle|left|right|bigl|bigr|big|Big)(?![A-Za-z])")
_RENAMED = (
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\^\s*(?:\{\s*(?:\\circ|°)\s*\}|\\circ(?![A-Za-z])|°)|\\degrees?(?![A-Za-z])"), "°"),
    (re.compile(r"(?<![A-Za-z\\])(?:degrees?|deg)(?![A-Za-z])"), "°"),
    (re.compile(r"\\(?:cdot|times|ast)(?![A-Za-z])"), " * "),
    (re.compile(r"\\div(?![A-Za-z])"), " / "),
    (re.compile(r"\\(?:leq?|leqslant)(?![A-Za-z])|=<|≤"), " <= "),
    (re.compile(r"\\(?:geq?|geqslant)(?![A-Za-z])|=>"), " >= "),
    (re.compile(r"\\lt(?![A-Za-z])"), " < "),
    (re.compile(r"\\gt(?![A-Za-z])"), " > "),
    (re.compile(r"\\neq?(?![A-Za-z])"), " != "),
    (re.compile(r"\\colon(?![A-Za-z])"), ":"),
    (re.compile(r"\\%"), "%"),
    (re.compile(r"\\\$|\$|\\\(|\\\)|\\\[|\\\]"), " "),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"(?<![A-Za-z\\])(sqrt|pi)(?![A-Za-z])"), r"\\\1"),
    (re.compile(r"(?<=\d)(sqrt|pi)(?![A-Za-z])"), r"\\\1"),
)
_SPACES = re.compile(r"\s+")
_SPACE_NOT_BETWEEN_DIGITS = re.compile(r"(?<!\d) | (?!\d)")
_ONE_CHARACTER_GROUP = re.compile(r"\{ ?(\w) ?\}")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_WORD = re.compile(r"[A-Za-z]{3,}|(?<![A-Za-z])(?:and|or|no|is)(?![A-Za-z])", re.IGNORECASE)
_GEOMETRY = re.compile(r"\\(?:angle|cong|parallel|perp|triangle|sim)(?![A-Za-z])")
_FUNCTIONS = frozenset(
    ("sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "log", "exp")
    + ("min", "max", "lim", "mod", "gcd", "lcm", "det")
)


def normalise(text: str) -> str:
    """One spelling of an answer, still LaTeX; spaces collapsed, wrappers such as `\\text{}` and a final period gone."""
    text = remove_invisible(text).translate(_CHARACTERS)
    for _ in range(8):  # wrappers nest; eight deep is beyond what anybody writes
        text, replaced = _WRAPPER.subn(r" \1 ", text)
        if not replaced:
            break
    text = _SPACING.sub(" ", text)
    for pattern, replacement in _RENAMED:
        text = pattern.sub(replacement, text)
    text = _SPACES.sub(" ", text).strip()
    while text.endswith((".", ",", ";")) and not text.endswith("..."):
        text = text[:-1].rstrip()
    return text


def has_words(normalised: str) -> bool:
    """Whether the answer is prose or a statement of geometry, which only text can compare."""
    if _GEOMETRY.search(normalised):
        return True
    words = _WORD.findall(_COMMAND.sub(" ", normalised))
    return any(word.lower() not in _FUNCTIONS for word in words)


def text_key(normalised: str) -> str:
    """Key under which two texts are the same answer: no spaces or degree signs, `{x}` is `x`, `and` is a comma."""
    key = normalised.replace("°", "")
    if has_words(normalised):
        key = re.sub(r"(?<![A-Za-z\\])and(?![A-Za-z])", ",", key, flags=re.IGNORECASE)
        key = _casefold_outside_commands(key)
        key = re.sub(r"\s*,[\s,]*", ",", key)
    key = _ONE_CHARACTER_GROUP.sub(r"\1", _SPACES.sub(" ", key).strip())
    # The space between two digits stays: `4 1/2` is not `41/2`.
    return _SPACE_NOT_BETWEEN_DIGITS.sub("", key)


def _casefold_outside_commands(text: str) -> str:
    pieces, last = [], 0
    for command in _COMMAND.finditer(text):
        pieces += [text[last : command.start()].casefold(), command.group()]
        last = command.end()
    return "".join([*pieces, text[last:].casefold()])
